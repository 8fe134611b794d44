//! Renewals, passed to the replicas at which the sessions are at home; and the way to other homes.

use super::call::call;
use super::line::Call;
use super::{HttpPeers, PeerError};
use crate::members::{Member, Secret};
use crate::sessions::{Counts, OwnRenewal};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The path of the call.
pub const PATH: &str = "/v1/peer/renew";
/// The path of the question what sessions count; its reply is [`Counts`].
pub const COUNTS_PATH: &str = "/v1/peer/counts";
/// Most renewals in one call.
pub const MAX_IDS: usize = 1000;

/// The body of a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerRenew {
    /// Which sessions, at most [`MAX_IDS`].
    pub ids: Vec<Arc<str>>,
}

impl From<Vec<Arc<str>>> for PeerRenew {
    fn from(ids: Vec<Arc<str>>) -> Self {
        Self { ids }
    }
}

/// The reply to a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerRenewed {
    /// The outcomes, in the order asked.
    pub items: Vec<OwnRenewal>,
}

impl From<PeerRenewed> for Vec<OwnRenewal> {
    fn from(renewed: PeerRenewed) -> Self {
        renewed.items
    }
}

pub(super) struct Renewals;

impl Call for Renewals {
    const PATH: &'static str = PATH;
    const MOST: usize = MAX_IDS;
    type Item = Arc<str>;
    type Outcome = OwnRenewal;
    type Body = PeerRenew;
    type Reply = PeerRenewed;
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

    /// Asks what the sessions count that are at home with another replica.
    fn counts<'a>(&'a self, home: &'a Member, secret: &'a Secret) -> BoxFuture<'a, Result<Counts, PeerError>>;
}

/// No way: for a store that only one process can have open.
#[derive(Debug, Default)]
pub struct NoPeers;

fn no_way(home: &Member) -> PeerError {
    PeerError::Unreachable(Arc::clone(&home.id), "there is no way to other replicas".to_owned())
}

impl Peers for NoPeers {
    fn renew<'a>(
        &'a self,
        home: &'a Member,
        _: &'a Secret,
        _: Vec<Arc<str>>,
    ) -> BoxFuture<'a, Result<Vec<OwnRenewal>, PeerError>> {
        futures_util::future::ready(Err(no_way(home))).boxed()
    }

    fn counts<'a>(&'a self, home: &'a Member, _: &'a Secret) -> BoxFuture<'a, Result<Counts, PeerError>> {
        futures_util::future::ready(Err(no_way(home))).boxed()
    }
}

impl Peers for HttpPeers {
    fn renew<'a>(
        &'a self,
        home: &'a Member,
        secret: &'a Secret,
        ids: Vec<Arc<str>>,
    ) -> BoxFuture<'a, Result<Vec<OwnRenewal>, PeerError>> {
        self.renewals.tell(home, secret, ids).boxed()
    }

    fn counts<'a>(&'a self, home: &'a Member, secret: &'a Secret) -> BoxFuture<'a, Result<Counts, PeerError>> {
        call(&self.client, home, secret, COUNTS_PATH, &()).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::authorization;
    use crate::peers::line::PAUSE;
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use axum::{Json, Router, routing};
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tokio::sync::Semaphore;

    #[derive(Clone)]
    struct Home {
        calls: Arc<AtomicUsize>,
        told: Arc<AtomicUsize>,
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
        home.told.fetch_add(asked.ids.len(), Ordering::SeqCst);
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
        let home = Home { calls: Arc::default(), told: Arc::default(), gate: Arc::new(Semaphore::new(open)) };
        let router = Router::new().route(PATH, routing::post(answer)).with_state(home.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Some(format!("http://{}/", listener.local_addr().unwrap()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (Member { id: "home".into(), url, version: String::new(), schema: 1 }, home)
    }

    fn peers() -> HttpPeers {
        // A machine under load may need longer than replicas are given.
        let patience = Duration::from_secs(60);
        HttpPeers::new(reqwest::Client::builder().timeout(patience).build().unwrap(), patience)
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
        assert_eq!(home.calls.load(Ordering::SeqCst), 2, "what was begun for the first is not broken off");
    }

    #[tokio::test]
    async fn full_calls_follow_one_another_and_nothing_is_told_twice() {
        let (member, home) = home(0).await;
        let (peers, secret) = (peers(), secret());
        let renew = |names: &[&str]| peers.renew(&member, &secret, ids(names));
        let first = renew(&["a"]);
        // 2,500 more, of which 1,000 fit into a call.
        let others = join_all((0..1250).map(|_| renew(&["b", "gone"])));
        let open = async {
            while home.calls.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            home.gate.add_permits(100);
        };
        let (first, others, ()) = tokio::join!(first, others, open);
        assert_eq!(first.unwrap(), [OwnRenewal::Alive]);
        for outcome in others {
            assert_eq!(outcome.unwrap(), [OwnRenewal::Alive, OwnRenewal::Unknown]);
        }
        // The first may go with others.
        let calls = home.calls.load(Ordering::SeqCst);
        assert!((3..=4).contains(&calls), "{calls}");
        assert_eq!(home.told.load(Ordering::SeqCst), 2501);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever_and_what_nobody_waits_for_is_not_told() {
        let (member, home) = home(0).await;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        let (peers, secret) = (HttpPeers::new(client, Duration::from_millis(200)), secret());
        let renew = |name: &'static str| peers.renew(&member, &secret, ids(&[name]));
        let late = renew("a").await;
        assert!(matches!(late, Err(PeerError::Overloaded(_))), "{late:?}");
        // The call is under way still, and this one waits behind it.
        let late = renew("b").await;
        assert!(matches!(late, Err(PeerError::Overloaded(_))), "{late:?}");
        home.gate.add_permits(100);
        while !matches!(renew("c").await, Ok(renewed) if renewed == [OwnRenewal::Alive]) {}
        let told = home.told.load(Ordering::SeqCst);
        assert!((2..=home.calls.load(Ordering::SeqCst)).contains(&told), "`b` never was: {told}");
    }

    #[tokio::test]
    async fn homes_are_asked_what_they_count() {
        let counts = Counts { live: 7, overdue: 1, late: 2, timely: 3, held: 1, ended: 5 };
        let answer = async move |headers: HeaderMap| match headers.get("authorization") {
            Some(value) if *value == authorization(&secret()) => Ok(Json(counts)),
            _ => Err(StatusCode::UNAUTHORIZED),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let router = Router::new().route(COUNTS_PATH, routing::post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let member = Member { id: "home".into(), url, version: String::new(), schema: 1 };
        assert_eq!(peers().counts(&member, &secret()).await.unwrap(), counts);
        let refused = peers().counts(&member, &Secret(Arc::from(&[0xab][..]))).await;
        assert!(matches!(refused, Err(PeerError::Refused(..))), "{refused:?}");
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
