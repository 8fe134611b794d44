//! What waits for other replicas, and the calls that carry it.

use super::{PeerError, authorization};
use crate::members::{Member, Secret};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A peer that could not be reached is not tried again for this long.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Most items that wait for one peer.
const MAX_WAITING: usize = 20_000;
/// Most bytes of a reply.
const MAX_REPLY: usize = 1 << 20;

/// A kind of call.
pub(super) trait Call: 'static {
    /// Its path.
    const PATH: &'static str;
    /// Most items in one call.
    const MOST: usize;
    /// What is told.
    type Item: Clone + Send + Sync;
    /// What comes of it.
    type Outcome: Send;
    /// The body of a call.
    type Body: Serialize + From<Vec<Self::Item>> + Send + Sync;
    /// The reply: as many outcomes as items, in their order.
    type Reply: DeserializeOwned + Into<Vec<Self::Outcome>>;
}

/// The ways of one kind of call to all replicas.
pub(super) struct Lines<C: Call> {
    client: reqwest::Client,
    lines: Mutex<HashMap<Arc<str>, Arc<Line<C>>>>,
}

/// What waits for one peer.
struct Line<C: Call> {
    waiting: Mutex<Vec<Waiting<C>>>,
    /// Held by who calls.
    turn: tokio::sync::Mutex<()>,
    /// Not to be called before this time.
    pause: Mutex<Option<(Instant, PeerError)>>,
    used: Mutex<Instant>,
}

struct Waiting<C: Call> {
    items: Vec<C::Item>,
    reply: oneshot::Sender<Result<Vec<C::Outcome>, PeerError>>,
}

impl<C: Call> Lines<C> {
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self { client, lines: Mutex::default() }
    }

    /// Tells a peer; the outcomes are in the order of the items.
    pub(super) async fn tell(
        &self,
        peer: &Member,
        secret: &Secret,
        items: Vec<C::Item>,
    ) -> Result<Vec<C::Outcome>, PeerError> {
        let line = self.line(peer);
        if let Some(error) = line.paused() {
            return Err(error);
        }
        // Who calls for others may be dropped in the middle: then the others call.
        loop {
            let (reply, mut answer) = oneshot::channel();
            {
                let mut waiting = line.waiting.lock();
                if waiting.iter().map(|waiting| waiting.items.len()).sum::<usize>() + items.len() > MAX_WAITING {
                    return Err(PeerError::Overloaded(Arc::clone(&peer.id)));
                }
                waiting.push(Waiting { items: items.clone(), reply });
            }
            tokio::select! {
                biased;
                answered = &mut answer => if let Ok(answered) = answered {
                    return answered;
                },
                () = self.call_in_turn(&line, peer, secret) => if let Ok(answered) = answer.await {
                    return answered;
                },
            }
        }
    }

    fn line(&self, peer: &Member) -> Arc<Line<C>> {
        let mut lines = self.lines.lock();
        let now = Instant::now();
        if !lines.contains_key(&peer.id) {
            // Ids are new with each start of a replica; those of the past are forgotten.
            lines.retain(|_, line| now.saturating_duration_since(*line.used.lock()) < Duration::from_secs(60));
        }
        let line = lines.entry(Arc::clone(&peer.id)).or_insert_with(|| {
            Arc::new(Line {
                waiting: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
                pause: Mutex::default(),
                used: Mutex::new(now),
            })
        });
        *line.used.lock() = now;
        Arc::clone(line)
    }

    /// Calls with what waits, until nothing does.
    async fn call_in_turn(&self, line: &Line<C>, peer: &Member, secret: &Secret) {
        let _turn = line.turn.lock().await;
        loop {
            let batch = take_batch(&mut line.waiting.lock());
            if batch.is_empty() {
                return;
            }
            let items: Vec<C::Item> = batch.iter().flat_map(|waiting| waiting.items.iter().cloned()).collect();
            let count = items.len();
            let answer = match line.paused() {
                Some(error) => Err(error),
                None => self.call(peer, secret, items).await.and_then(|outcomes| match outcomes.len() == count {
                    true => Ok(outcomes),
                    false => Err(PeerError::Refused(Arc::clone(&peer.id), "the reply does not fit".to_owned())),
                }),
            };
            if let Err(error) = &answer {
                let mut pause = line.pause.lock();
                if pause.as_ref().is_none_or(|(until, _)| *until <= Instant::now()) {
                    *pause = Some((Instant::now() + PAUSE, error.clone()));
                }
            }
            let mut outcomes = answer.map(Vec::into_iter);
            for waiting in batch {
                let share = match &mut outcomes {
                    Ok(outcomes) => Ok(outcomes.by_ref().take(waiting.items.len()).collect()),
                    Err(error) => Err(error.clone()),
                };
                // Who waited may have gone.
                let _ = waiting.reply.send(share);
            }
        }
    }

    async fn call(&self, peer: &Member, secret: &Secret, items: Vec<C::Item>) -> Result<Vec<C::Outcome>, PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable(Arc::clone(&peer.id), reason);
        let refused = |reason: String| PeerError::Refused(Arc::clone(&peer.id), reason);
        let url = peer.url.as_deref().ok_or_else(|| unreachable("it says no address".to_owned()))?;
        let url = format!("{}{}", url.trim_end_matches('/'), C::PATH);
        let mut authorization = reqwest::header::HeaderValue::from_str(&authorization(secret))
            .map_err(|error| refused(error.to_string()))?;
        authorization.set_sensitive(true);
        let request = self.client.post(url).header(reqwest::header::AUTHORIZATION, authorization);
        let sent = request.json(&C::Body::from(items)).send().await;
        let mut response = sent.map_err(|error| unreachable(cause(&error)))?;
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
        let reply: C::Reply = serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))?;
        Ok(reply.into())
    }
}

impl<C: Call> Line<C> {
    fn paused(&self) -> Option<PeerError> {
        let pause = self.pause.lock();
        pause.as_ref().filter(|(until, _)| Instant::now() < *until).map(|(_, error)| error.clone())
    }
}

/// What one call can carry, in the order in which it came.
fn take_batch<C: Call>(waiting: &mut Vec<Waiting<C>>) -> Vec<Waiting<C>> {
    let mut count = 0;
    let fitting = waiting.iter().take_while(|waiting| {
        count += waiting.items.len();
        count <= C::MOST
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
