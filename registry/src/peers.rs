//! Calls between the replicas of one registry.
//!
//! There is one kind: renewals are passed to the replica at which the sessions are at home. Replicas prove themselves
//! by a secret that is kept in the store ([`Members::secret`](crate::members::Members::secret)).

use crate::members::{Member, Secret};
use crate::sessions::OwnRenewal;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The path of the one call.
pub const RENEW_PATH: &str = "/v1/peer/renew";
/// Most renewals in one call.
pub const MAX_IDS: usize = 1000;

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A call must be answered within this time.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that could not be reached is not tried again for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// Most renewals that wait for one peer.
const MAX_WAITING: usize = 20_000;
/// Most bytes of a reply.
const MAX_REPLY: usize = 1 << 20;

/// The body of a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerRenew {
    /// Which sessions, at most [`MAX_IDS`].
    pub ids: Vec<Arc<str>>,
}

/// The reply to a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerRenewed {
    /// The outcomes, in the order asked.
    pub items: Vec<OwnRenewal>,
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// It can't be reached, or was not a moment ago.
    #[error("replica {0} can't be reached: {1}")]
    Unreachable(Arc<str>, String),
    /// It refused, or answered what is no answer.
    #[error("replica {0} refused: {1}")]
    Refused(Arc<str>, String),
    /// Too many renewals wait for it.
    #[error("too many renewals wait for replica {0}")]
    Overloaded(Arc<str>),
}

/// The way to other replicas.
pub trait Peers: Send + Sync {
    /// Renews sessions at their home; the outcomes are in the order asked.
    fn renew<'a>(
        &'a self,
        home: &'a Member,
        secret: &'a Secret,
        ids: Vec<Arc<str>>,
    ) -> BoxFuture<'a, Result<Vec<OwnRenewal>, PeerError>>;
}

/// No way: for a store that only one process can have open.
#[derive(Debug, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn renew<'a>(
        &'a self,
        home: &'a Member,
        _: &'a Secret,
        _: Vec<Arc<str>>,
    ) -> BoxFuture<'a, Result<Vec<OwnRenewal>, PeerError>> {
        let error = PeerError::Unreachable(Arc::clone(&home.id), "there is no way to other replicas".to_owned());
        futures_util::future::ready(Err(error)).boxed()
    }
}

/// The value of the `Authorization` header by which replicas prove themselves.
pub fn authorization(secret: &Secret) -> String {
    let mut value = String::with_capacity(5 + secret.0.len() * 2);
    value.push_str("Peer ");
    for byte in secret.0.iter() {
        // Writing to a string can't fail.
        let _ = write!(value, "{byte:02x}");
    }
    value
}

/// The other replicas can't be called with this.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the CA of other replicas' certificates, `{}`, can't be used: {detail}", path.display())]
pub struct PeersError {
    path: PathBuf,
    detail: String,
}

/// Peers over HTTP. To each there is one call at a time, which carries all that has come to wait meanwhile: so the number
/// of calls follows their speed, not that of the renewals.
pub struct HttpPeers {
    client: reqwest::Client,
    peers: Mutex<HashMap<Arc<str>, Arc<Peer>>>,
}

impl std::fmt::Debug for HttpPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpPeers").finish_non_exhaustive()
    }
}

/// What waits for one peer.
struct Peer {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by who calls.
    turn: tokio::sync::Mutex<()>,
    /// Not to be called before this time.
    pause: Mutex<Option<(Instant, PeerError)>>,
    used: Mutex<Instant>,
}

struct Waiting {
    ids: Vec<Arc<str>>,
    reply: oneshot::Sender<Result<Vec<OwnRenewal>, PeerError>>,
}

impl HttpPeers {
    /// Peers over HTTP; over HTTPS, their certificates must be signed by the CA in the PEM file `ca`, without one by any
    /// that the system trusts.
    pub fn open(ca: Option<&Path>) -> Result<Self, PeersError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("fingerpost/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = ca {
            let wrong = |detail: String| PeersError { path: path.to_owned(), detail };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(wrong("it holds no certificate as PEM".to_owned()));
            }
            builder = builder.tls_certs_only(authorities);
        }
        let client = builder.build().map_err(|error| PeersError {
            path: ca.map(Path::to_owned).unwrap_or_default(),
            detail: error.to_string(),
        })?;
        Ok(Self::new(client))
    }

    /// Peers that are called by this client.
    pub fn new(client: reqwest::Client) -> Self {
        Self { client, peers: Mutex::default() }
    }

    fn peer(&self, home: &Member) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        let now = Instant::now();
        if !peers.contains_key(&home.id) {
            // Ids are new with each start of a replica; those of the past are forgotten.
            peers.retain(|_, peer| now.saturating_duration_since(*peer.used.lock()) < Duration::from_secs(60));
        }
        let peer = peers.entry(Arc::clone(&home.id)).or_insert_with(|| {
            Arc::new(Peer {
                waiting: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
                pause: Mutex::default(),
                used: Mutex::new(now),
            })
        });
        *peer.used.lock() = now;
        Arc::clone(peer)
    }

    /// Calls with what waits, until nothing does.
    async fn call_in_turn(&self, peer: &Peer, home: &Member, secret: &Secret) {
        let _turn = peer.turn.lock().await;
        loop {
            let batch = take_batch(&mut peer.waiting.lock());
            if batch.is_empty() {
                return;
            }
            let ids: Vec<Arc<str>> = batch.iter().flat_map(|waiting| waiting.ids.iter().cloned()).collect();
            let count = ids.len();
            let answer = match peer.paused() {
                Some(error) => Err(error),
                None => self.call(home, secret, ids).await.and_then(|items| match items.len() == count {
                    true => Ok(items),
                    false => Err(PeerError::Refused(Arc::clone(&home.id), "the reply does not fit".to_owned())),
                }),
            };
            if let Err(error) = &answer {
                let mut pause = peer.pause.lock();
                if pause.as_ref().is_none_or(|(until, _)| *until <= Instant::now()) {
                    *pause = Some((Instant::now() + PAUSE, error.clone()));
                }
            }
            let mut items = answer.map(Vec::into_iter);
            for waiting in batch {
                let share = match &mut items {
                    Ok(items) => Ok(items.by_ref().take(waiting.ids.len()).collect()),
                    Err(error) => Err(error.clone()),
                };
                // Who waited may have gone.
                let _ = waiting.reply.send(share);
            }
        }
    }

    async fn call(&self, home: &Member, secret: &Secret, ids: Vec<Arc<str>>) -> Result<Vec<OwnRenewal>, PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable(Arc::clone(&home.id), reason);
        let refused = |reason: String| PeerError::Refused(Arc::clone(&home.id), reason);
        let url = home.url.as_deref().ok_or_else(|| unreachable("it says no address".to_owned()))?;
        let url = format!("{}{RENEW_PATH}", url.trim_end_matches('/'));
        let mut authorization = reqwest::header::HeaderValue::from_str(&authorization(secret))
            .map_err(|error| refused(error.to_string()))?;
        authorization.set_sensitive(true);
        let request = self.client.post(url).header(reqwest::header::AUTHORIZATION, authorization);
        let mut response = request.json(&PeerRenew { ids }).send().await.map_err(|error| unreachable(cause(&error)))?;
        if !response.status().is_success() {
            return Err(refused(format!("status {}", response.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(cause(&error)))? {
            if body.len() + chunk.len() > MAX_REPLY {
                return Err(refused("the reply is too large".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        let reply: PeerRenewed = serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))?;
        Ok(reply.items)
    }
}

impl Peer {
    fn paused(&self) -> Option<PeerError> {
        let pause = self.pause.lock();
        pause.as_ref().filter(|(until, _)| Instant::now() < *until).map(|(_, error)| error.clone())
    }
}

/// What one call can carry, in the order in which it came.
fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut count = 0;
    let fitting = waiting.iter().take_while(|waiting| {
        count += waiting.ids.len();
        count <= MAX_IDS
    });
    // One that is larger alone goes alone.
    let fitting = fitting.count().max(1).min(waiting.len());
    waiting.drain(..fitting).collect()
}

fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

impl Peers for HttpPeers {
    fn renew<'a>(
        &'a self,
        home: &'a Member,
        secret: &'a Secret,
        ids: Vec<Arc<str>>,
    ) -> BoxFuture<'a, Result<Vec<OwnRenewal>, PeerError>> {
        async move {
            let peer = self.peer(home);
            if let Some(error) = peer.paused() {
                return Err(error);
            }
            // Who calls for others may be dropped in the middle: then the others call.
            loop {
                let (reply, mut answer) = oneshot::channel();
                {
                    let mut waiting = peer.waiting.lock();
                    if waiting.iter().map(|waiting| waiting.ids.len()).sum::<usize>() + ids.len() > MAX_WAITING {
                        return Err(PeerError::Overloaded(Arc::clone(&home.id)));
                    }
                    waiting.push(Waiting { ids: ids.clone(), reply });
                }
                tokio::select! {
                    biased;
                    answered = &mut answer => if let Ok(answered) = answered {
                        return answered;
                    },
                    () = self.call_in_turn(&peer, home, secret) => if let Ok(answered) = answer.await {
                        return answered;
                    },
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use axum::{Json, Router, routing};
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    #[derive(Clone)]
    struct Home {
        calls: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
    }

    async fn answer(
        State(home): State<Home>,
        headers: HeaderMap,
        Json(asked): Json<PeerRenew>,
    ) -> Result<Json<PeerRenewed>, StatusCode> {
        if headers.get("authorization").is_none_or(|value| *value != authorization(&secret())) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        home.calls.fetch_add(1, Ordering::SeqCst);
        let _place = home.gate.acquire().await;
        let outcome = |id: &Arc<str>| match &**id {
            "gone" => OwnRenewal::Unknown,
            _ => OwnRenewal::Alive,
        };
        Ok(Json(PeerRenewed { items: asked.ids.iter().map(outcome).collect() }))
    }

    fn secret() -> Secret {
        Secret(Arc::from(&[0xab, 0x01][..]))
    }

    async fn home(open: usize) -> (Member, Home) {
        let home = Home { calls: Arc::default(), gate: Arc::new(Semaphore::new(open)) };
        let router = Router::new().route(RENEW_PATH, routing::post(answer)).with_state(home.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Some(format!("http://{}/", listener.local_addr().unwrap()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (Member { id: "home".into(), url, version: String::new(), schema: 1 }, home)
    }

    fn peers() -> HttpPeers {
        // A machine under load may need longer than replicas are given.
        HttpPeers::new(reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap())
    }

    fn ids(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[tokio::test]
    async fn what_waits_goes_together_and_everyone_gets_their_own() {
        let (member, home) = home(0).await;
        let (peers, secret) = (peers(), secret());
        let renew = |names: &[&str]| peers.renew(&member, &secret, ids(names));
        let first = renew(&["a"]);
        let others = join_all((0..50).map(|n| if n % 2 == 0 { renew(&["b", "gone"]) } else { renew(&["gone"]) }));
        let open = async {
            while home.calls.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            home.gate.add_permits(100);
        };
        let (first, others, ()) = tokio::join!(first, others, open);
        assert_eq!(first.unwrap(), [OwnRenewal::Alive]);
        for (n, outcome) in others.into_iter().enumerate() {
            let expected = [OwnRenewal::Alive, OwnRenewal::Unknown];
            assert_eq!(outcome.unwrap(), if n % 2 == 0 { &expected[..] } else { &expected[1..] });
        }
        assert!(home.calls.load(Ordering::SeqCst) <= 3, "50 renewals in a call or two");
    }

    #[tokio::test]
    async fn who_calls_for_others_may_leave() {
        let (member, home) = home(0).await;
        let (peers, secret) = (Arc::new(peers()), secret());
        let renew = |name: &'static str| {
            let (peers, secret, member) = (Arc::clone(&peers), secret.clone(), member.clone());
            tokio::spawn(async move { peers.renew(&member, &secret, ids(&[name])).await })
        };
        let first = renew("a");
        while home.calls.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let second = renew("b");
        tokio::task::yield_now().await;
        first.abort();
        home.gate.add_permits(100);
        assert_eq!(second.await.unwrap().unwrap(), [OwnRenewal::Alive]);
    }

    #[tokio::test]
    async fn the_secret_counts_and_failures_pause() {
        let (member, home) = home(100).await;
        let peers = peers();
        let wrong = Secret(Arc::from(&[0xab][..]));
        let refused = peers.renew(&member, &wrong, ids(&["a"])).await;
        assert!(matches!(refused, Err(PeerError::Refused(..))), "{refused:?}");
        let paused = peers.renew(&member, &secret(), ids(&["a"])).await;
        assert!(paused.is_err(), "for a moment it is not tried again");
        tokio::time::sleep(PAUSE).await;
        assert!(peers.renew(&member, &secret(), ids(&["a"])).await.is_ok());
        assert_eq!(home.calls.load(Ordering::SeqCst), 1);
        let nowhere = Member { id: "nowhere".into(), url: Some("http://127.0.0.1:1".to_owned()), ..member };
        let unreachable = peers.renew(&nowhere, &secret(), ids(&["a"])).await;
        assert!(matches!(unreachable, Err(PeerError::Unreachable(..))), "{unreachable:?}");
    }
}
