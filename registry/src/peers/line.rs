//! What waits for other replicas, and the calls that carry it.
//!
//! Who has something to tell puts it into the line of that replica, and waits for its own answer alone. The calls are made
//! by a task of the line, which lives while anything waits: so nobody's leaving breaks off what is told for others,
//! and nobody goes on calling for others after having been answered.

use super::PeerError;
use super::call::call;
use crate::members::{Member, Secret};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A peer that could not be reached is not tried again for this long.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Where calls follow each other this closely, each waits a little for company: nothing that is told here is so urgent that a
/// call of its own would be worth more than what it costs both sides.
const BUSY: Duration = Duration::from_millis(50);
const GATHER: Duration = Duration::from_millis(5);
/// Most items that wait for one peer.
const MAX_WAITING: usize = 20_000;

/// A kind of call.
pub(super) trait Call: 'static {
    /// Its path.
    const PATH: &'static str;
    /// Most items in one call.
    const MOST: usize;
    /// What is told.
    type Item: Send + Sync;
    /// What comes of it.
    type Outcome: Send;
    /// The body of a call.
    type Body: Serialize + From<Vec<Self::Item>> + Send + Sync;
    /// The reply: as many outcomes as items, in their order.
    type Reply: DeserializeOwned + Into<Vec<Self::Outcome>> + Send;
}

/// The ways of one kind of call to all replicas.
pub(super) struct Lines<C: Call> {
    client: reqwest::Client,
    patience: Duration,
    lines: Mutex<HashMap<Arc<str>, Arc<Line<C>>>>,
    /// Those that call; they end with this.
    callers: Mutex<JoinSet<()>>,
}

/// What waits for one peer.
struct Line<C: Call>(Mutex<State<C>>);

struct State<C: Call> {
    waiting: VecDeque<Waiting<C>>,
    /// Somebody calls, and will take what waits.
    calling: bool,
    /// Not to be called before this time.
    pause: Option<(Instant, PeerError)>,
    /// When the last call ended.
    called: Option<Instant>,
    used: Instant,
}

struct Waiting<C: Call> {
    items: Vec<C::Item>,
    reply: oneshot::Sender<Result<Vec<C::Outcome>, PeerError>>,
}

impl<C: Call> Lines<C> {
    /// Lines in which nobody waits for longer than `patience`.
    pub(super) fn new(client: reqwest::Client, patience: Duration) -> Self {
        Self { client, patience, lines: Mutex::default(), callers: Mutex::default() }
    }

    /// Tells a peer; the outcomes are in the order of the items.
    pub(super) async fn tell(
        &self,
        peer: &Member,
        secret: &Secret,
        items: Vec<C::Item>,
    ) -> Result<Vec<C::Outcome>, PeerError> {
        let line = self.line(peer);
        let (reply, answer) = oneshot::channel();
        let alone = {
            let mut state = line.0.lock();
            if let Some(error) = state.paused() {
                return Err(error);
            }
            if state.waiting.iter().map(|waiting| waiting.items.len()).sum::<usize>() + items.len() > MAX_WAITING {
                return Err(PeerError::Overloaded(Arc::clone(&peer.id)));
            }
            state.waiting.push_back(Waiting { items, reply });
            !std::mem::replace(&mut state.calling, true)
        };
        if alone {
            let caller = Caller {
                line: Arc::clone(&line),
                client: self.client.clone(),
                peer: peer.clone(),
                secret: secret.clone(),
                done: false,
            };
            let mut callers = self.callers.lock();
            while callers.try_join_next().is_some() {}
            callers.spawn(caller.run());
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => Err(PeerError::Unreachable(Arc::clone(&peer.id), "the call was broken off".to_owned())),
            Err(_) => Err(PeerError::Overloaded(Arc::clone(&peer.id))),
        }
    }

    fn line(&self, peer: &Member) -> Arc<Line<C>> {
        let mut lines = self.lines.lock();
        let now = Instant::now();
        if !lines.contains_key(&peer.id) {
            // Ids are new with each start of a replica; those of the past are forgotten.
            lines.retain(|_, line| now.saturating_duration_since(line.0.lock().used) < Duration::from_secs(60));
        }
        let line = lines.entry(Arc::clone(&peer.id)).or_insert_with(|| {
            let waiting = VecDeque::new();
            Arc::new(Line(Mutex::new(State { waiting, calling: false, pause: None, called: None, used: now })))
        });
        line.0.lock().used = now;
        Arc::clone(line)
    }
}

impl<C: Call> State<C> {
    fn paused(&self) -> Option<PeerError> {
        self.pause.as_ref().filter(|(until, _)| Instant::now() < *until).map(|(_, error)| error.clone())
    }

    /// What one call can carry, in the order in which it came, without what nobody waits for any more.
    fn take_batch(&mut self) -> Vec<Waiting<C>> {
        self.waiting.retain(|waiting| !waiting.reply.is_closed());
        let mut count = 0;
        let fitting = self.waiting.iter().take_while(|waiting| {
            count += waiting.items.len();
            count <= C::MOST
        });
        // One that is larger alone goes alone.
        let fitting = fitting.count().max(1).min(self.waiting.len());
        self.waiting.drain(..fitting).collect()
    }
}

/// Calls for all who wait in a line.
struct Caller<C: Call> {
    line: Arc<Line<C>>,
    client: reqwest::Client,
    peer: Member,
    secret: Secret,
    /// Nothing waited any more; by now, another one may call.
    done: bool,
}

impl<C: Call> Caller<C> {
    /// Calls with what waits, until nothing does.
    async fn run(mut self) {
        while let Some(batch) = self.next_batch().await {
            let (items, waiting): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|Waiting { items, reply }| (items, reply)).unzip();
            let counts: Vec<usize> = items.iter().map(Vec::len).collect();
            let body = C::Body::from(items.into_iter().flatten().collect());
            let replied = call::<C::Reply>(&self.client, &self.peer, &self.secret, C::PATH, &body).await;
            self.line.0.lock().called = Some(Instant::now());
            let answer = replied.map(Into::<Vec<_>>::into).and_then(|outcomes: Vec<C::Outcome>| {
                match outcomes.len() == counts.iter().sum::<usize>() {
                    true => Ok(outcomes),
                    false => Err(PeerError::Refused(Arc::clone(&self.peer.id), "the reply does not fit".to_owned())),
                }
            });
            let mut outcomes = match answer {
                Ok(outcomes) => outcomes.into_iter(),
                Err(error) => {
                    self.pause(&error);
                    waiting.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
                    continue;
                }
            };
            for (reply, count) in waiting.into_iter().zip(counts) {
                // Who waited may have gone.
                let _ = reply.send(Ok(outcomes.by_ref().take(count).collect()));
            }
        }
    }

    /// None where nothing waits: whoever comes from then on calls again.
    async fn next_batch(&mut self) -> Option<Vec<Waiting<C>>> {
        let busy = {
            let state = self.line.0.lock();
            !state.waiting.is_empty() && state.called.is_some_and(|called| called.elapsed() < BUSY)
        };
        if busy {
            tokio::time::sleep(GATHER).await;
        }
        let mut state = self.line.0.lock();
        let batch = state.take_batch();
        self.done = batch.is_empty();
        state.calling = !self.done;
        state.calling.then_some(batch)
    }

    /// Nothing is told for a while; what waits need not wait for that.
    fn pause(&self, error: &PeerError) {
        let waiting = {
            let mut state = self.line.0.lock();
            state.pause = Some((Instant::now() + PAUSE, error.clone()));
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }
}

impl<C: Call> Drop for Caller<C> {
    /// Broken off in the middle, it leaves nobody to wait for nothing.
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.line.0.lock();
            state.calling = false;
            state.waiting.clear();
        }
    }
}
