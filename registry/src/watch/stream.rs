//! One client's stream of events, with one subscription or many.
//!
//! A subscription goes through three phases. *State*: the matching objects, page by page, so that neither a large state
//! nor a slow reader holds the replica or memory. *Catch-up*: what the history has since. *Live*: deliveries from the
//! hub. One that falls behind goes back to catch-up from the last position it was sent.

use super::filter::Filter;
use super::history::{Gone, render_object};
use super::hub::{CaughtUp, Hub, Live, render_batch};
use super::queue::{Delivery, Queue};
use crate::live::LiveReplica;
use bytes::{BufMut, Bytes, BytesMut};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{InstanceKey, InstanceQuery, Kind, NamespaceQuery, Page, Position, ServiceQuery};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Objects read from the replica in one hold of its lock.
const PAGE_SIZE: usize = 200;
/// Batches taken from the history in one hold of its lock.
const CATCH_UP: usize = 64;
/// How long a position that is not published yet is waited for.
const AHEAD: Duration = Duration::from_secs(2);
/// Deliveries are joined up to about this size before they are written.
const COALESCE: usize = 32 << 10;

/// What bounds streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Most streams of the process.
    pub streams: u64,
    /// Most subscriptions of a stream.
    pub subscriptions: usize,
    /// Idle time after which a stream tells its position.
    pub bookmark: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { streams: 20_000, subscriptions: 10_000, bookmark: Duration::from_secs(15) }
    }
}

/// What a client asks to be told.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The client's name for it, where a stream has several.
    pub id: String,
    /// Which objects.
    pub filter: Filter,
    /// Where to resume; absent: from the state of the world.
    pub position: Option<Position>,
}

/// A change to a running stream's subscriptions.
pub(crate) enum Control {
    Change { add: Vec<Subscribe>, remove: Vec<String>, done: oneshot::Sender<Result<(), ControlError>> },
}

/// Why a stream's subscriptions were not changed; none of the asked changes was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// There is no such stream, or it ended.
    #[error("there is no such stream; it may have ended")]
    NoStream,
    /// The stream did not take the change in time: its client does not read.
    #[error("the stream's client does not read, so the change was not taken in time")]
    Stuck,
    /// The stream has a subscription of that id.
    #[error("the stream already has a subscription `{0}`")]
    Exists(String),
    /// The stream has no subscription of that id.
    #[error("the stream has no subscription `{0}`")]
    Absent(String),
    /// Too many.
    #[error("a stream may have {0} subscriptions")]
    TooMany(usize),
}

/// A handle by which a running stream is changed.
#[derive(Clone)]
pub struct StreamControl {
    sender: mpsc::Sender<Control>,
}

impl StreamControl {
    /// Adds and removes subscriptions: all of them, or none.
    pub async fn change(&self, add: Vec<Subscribe>, remove: Vec<String>) -> Result<(), ControlError> {
        let (done, outcome) = oneshot::channel();
        let asked = async {
            self.sender.send(Control::Change { add, remove, done }).await.map_err(|_| ControlError::NoStream)?;
            outcome.await.map_err(|_| ControlError::NoStream)?
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap_or(Err(ControlError::Stuck))
    }
}

enum Cursor {
    Namespaces(Option<Arc<str>>),
    Services(Option<(Arc<str>, Arc<str>)>),
    Instances(Option<InstanceKey>),
}

enum Phase {
    /// Reading the state; `since` is the position at the first page.
    State { cursor: Cursor, since: Option<Position>, reset: Option<&'static str> },
    /// Going through the history; `synced` is owed once up to date.
    CatchUp { position: Position },
    /// In the hub.
    Live { id: u64 },
}

struct Subscription {
    id: String,
    number: u32,
    filter: Arc<Filter>,
    tag: Option<Bytes>,
    phase: Phase,
}

/// A stream of events, to be read by [`WatchStream::next_chunk`].
pub struct WatchStream {
    hub: Arc<Hub>,
    live: Arc<LiveReplica>,
    limits: StreamLimits,
    /// By number, which only grows.
    subscriptions: Vec<Subscription>,
    /// The numbers of those that are not live; each gets its step in turn.
    unfinished: VecDeque<u32>,
    next_number: u32,
    queue: Queue,
    bookmark_at: Instant,
    /// Present on streams of many subscriptions.
    control: Option<mpsc::Receiver<Control>>,
    stream_id: Option<String>,
    greeting: Option<Bytes>,
    shutdown: CancellationToken,
}

/// There are as many streams as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are as many watch streams as this server allows")]
pub struct TooManyStreams;

impl WatchStream {
    /// A stream of one subscription, whose events carry no subscription's name.
    pub fn single(
        hub: &Arc<Hub>,
        live: &Arc<LiveReplica>,
        limits: StreamLimits,
        subscribe: Subscribe,
        shutdown: CancellationToken,
    ) -> Result<Self, TooManyStreams> {
        let mut stream = Self::new(hub, live, limits, shutdown)?;
        stream.add(subscribe, false);
        Ok(stream)
    }

    /// A stream of many subscriptions, which can be changed while it runs.
    pub fn multiplexed(
        hub: &Arc<Hub>,
        live: &Arc<LiveReplica>,
        limits: StreamLimits,
        subscriptions: Vec<Subscribe>,
        shutdown: CancellationToken,
    ) -> Result<Self, TooManyStreams> {
        let mut stream = Self::new(hub, live, limits, shutdown)?;
        let (sender, receiver) = mpsc::channel(8);
        // Who knows the id may change the stream, so it must not be guessable.
        let id = format!("{:032x}", rand::random::<u128>());
        stream.greeting = Some(Bytes::from(format!("event: stream\ndata: {{\"stream\":\"{id}\"}}\n\n")));
        hub.streams.lock().insert(id.clone(), StreamControl { sender });
        stream.stream_id = Some(id);
        stream.control = Some(receiver);
        for subscribe in subscriptions {
            stream.add(subscribe, true);
        }
        Ok(stream)
    }

    fn new(
        hub: &Arc<Hub>,
        live: &Arc<LiveReplica>,
        limits: StreamLimits,
        shutdown: CancellationToken,
    ) -> Result<Self, TooManyStreams> {
        if hub.open_streams.fetch_add(1, Ordering::Relaxed) >= limits.streams {
            hub.open_streams.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyStreams);
        }
        Ok(Self {
            hub: Arc::clone(hub),
            live: Arc::clone(live),
            limits,
            subscriptions: Vec::new(),
            unfinished: VecDeque::new(),
            next_number: 0,
            queue: Queue::new(),
            bookmark_at: Instant::now() + limits.bookmark,
            control: None,
            stream_id: None,
            greeting: None,
            shutdown,
        })
    }

    fn add(&mut self, subscribe: Subscribe, tagged: bool) {
        let tag = tagged.then(|| {
            let id = serde_json::Value::String(subscribe.id.clone());
            Bytes::from(format!("\"subscription\":{id},"))
        });
        let phase = match subscribe.position {
            Some(position) => Phase::CatchUp { position },
            None => Phase::State { cursor: Cursor::Namespaces(None), since: None, reset: None },
        };
        self.subscriptions.push(Subscription {
            id: subscribe.id,
            number: self.next_number,
            filter: self.hub.intern(subscribe.filter),
            tag,
            phase,
        });
        self.unfinished.push_back(self.next_number);
        self.next_number += 1;
    }

    fn leave(&self, subscription: &Subscription) {
        if let Phase::Live { id, .. } = subscription.phase {
            self.hub.leave(id, &subscription.filter);
        }
    }

    fn control(&mut self, control: Control) {
        let Control::Change { add, remove, done } = control;
        if done.is_closed() {
            // The asker was told that it took too long; it must not be done behind its back.
            return;
        }
        let outcome = self.check_change(&add, &remove);
        if outcome.is_ok() {
            let remove: HashSet<String> = remove.into_iter().collect();
            let (gone, kept) = std::mem::take(&mut self.subscriptions)
                .into_iter()
                .partition(|subscription| remove.contains(&subscription.id));
            self.subscriptions = kept;
            let gone: Vec<Subscription> = gone;
            gone.iter().for_each(|subscription| self.leave(subscription));
            for subscribe in add {
                self.add(subscribe, true);
            }
        }
        // The asker may have given up.
        let _ = done.send(outcome);
    }

    fn check_change(&self, add: &[Subscribe], remove: &[String]) -> Result<(), ControlError> {
        let present: HashSet<&str> = self.subscriptions.iter().map(|subscription| &*subscription.id).collect();
        let mut removed = HashSet::new();
        for id in remove {
            // Once it is removed, it is not there.
            if !present.contains(&**id) || !removed.insert(&**id) {
                return Err(ControlError::Absent(id.clone()));
            }
        }
        let mut added = HashSet::new();
        for Subscribe { id, .. } in add {
            if !added.insert(&**id) || (present.contains(&**id) && !removed.contains(&**id)) {
                return Err(ControlError::Exists(id.clone()));
            }
        }
        if present.len() + added.len() - removed.len() > self.limits.subscriptions {
            return Err(ControlError::TooMany(self.limits.subscriptions));
        }
        Ok(())
    }

    /// The next piece of the stream, whole events; none when the server shuts down.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            if self.shutdown.is_cancelled() {
                return None;
            }
            while let Some(control) = self.control.as_mut().and_then(|control| control.try_recv().ok()) {
                self.control(control);
            }
            // What is live goes before what has a long way to go.
            if let Some(delivery) = self.queue.pop() {
                if let Some(chunk) = self.collect(delivery) {
                    return Some(chunk);
                }
                continue;
            }
            for behind in self.queue.take_behind() {
                if let Some(subscription) = self.numbered(behind.subscription) {
                    subscription.phase = Phase::CatchUp { position: behind.complete };
                    self.unfinished.push_back(behind.subscription);
                }
            }
            if let Some(number) = self.unfinished.pop_front() {
                if let Some(chunk) = self.step(number).await {
                    return Some(chunk);
                }
                // A long way through what does not match must not hold the thread.
                tokio::task::yield_now().await;
                continue;
            }
            if Instant::now() >= self.bookmark_at {
                self.bookmark_at = Instant::now() + self.limits.bookmark;
                if let Some(chunk) = self.bookmark() {
                    return Some(chunk);
                }
            }
            let shutdown = self.shutdown.clone();
            let control = async {
                match &mut self.control {
                    Some(control) => control.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return None,
                control = control => {
                    if let Some(control) = control {
                        self.control(control);
                    }
                }
                () = self.queue.arrived() => {}
                () = tokio::time::sleep_until(self.bookmark_at.into()) => {}
            }
        }
    }

    fn numbered(&mut self, number: u32) -> Option<&mut Subscription> {
        let at = self.subscriptions.binary_search_by_key(&number, |subscription| subscription.number).ok()?;
        self.subscriptions.get_mut(at)
    }

    /// Joins a delivery with those that wait behind it.
    fn collect(&mut self, first: Delivery) -> Option<Bytes> {
        let mut chunk = self.accept(first);
        let mut joined = BytesMut::new();
        while let Some(delivery) = self.queue.pop() {
            if let Some(more) = self.accept(delivery) {
                match chunk.take() {
                    Some(only) if joined.is_empty() => {
                        joined.put_slice(&only);
                        joined.put_slice(&more);
                    }
                    _ if joined.is_empty() => chunk = Some(more),
                    _ => joined.put_slice(&more),
                }
                if joined.len() >= COALESCE {
                    break;
                }
            }
        }
        if joined.is_empty() { chunk } else { Some(joined.freeze()) }
    }

    /// A delivery's events, unless its subscription has ended meanwhile.
    fn accept(&mut self, delivery: Delivery) -> Option<Bytes> {
        self.numbered(delivery.subscription).map(|_| delivery.chunk)
    }

    /// Tells the client up to where it knows everything, so that it can resume from there.
    fn bookmark(&mut self) -> Option<Bytes> {
        let published = self.hub.published()?;
        // The hub hands out a position's deliveries before it counts it as published, so an empty queue now means that
        // the client has been sent everything up to it.
        if !self.queue.is_settled() || !self.unfinished.is_empty() {
            return None;
        }
        Some(Bytes::from(format!("event: bookmark\ndata: {{\"revision\":\"{published}\"}}\nid: {published}\n\n")))
    }

    /// Moves a subscription that is not live one step on.
    async fn step(&mut self, number: u32) -> Option<Bytes> {
        let (hub, live, queue) = (Arc::clone(&self.hub), Arc::clone(&self.live), self.queue.clone());
        let subscription = self.numbered(number)?;
        let chunk = match &mut subscription.phase {
            Phase::State { .. } => read_page(&hub, &live, subscription),
            Phase::CatchUp { position } => {
                let caught_up = hub.catch_up(*position, CATCH_UP, || Live {
                    subscription: number,
                    filter: Arc::clone(&subscription.filter),
                    tag: subscription.tag.clone(),
                    queue,
                });
                match caught_up {
                    Ok(CaughtUp::Behind(batches)) => {
                        let mut out = BytesMut::new();
                        for batch in batches {
                            *position = batch.position;
                            if let Some(chunk) = render_batch(&batch, &subscription.filter, subscription.tag.as_ref()) {
                                out.put_slice(&chunk);
                            }
                        }
                        (!out.is_empty()).then(|| out.freeze())
                    }
                    Ok(CaughtUp::Live { id, published }) => {
                        subscription.phase = Phase::Live { id };
                        return Some(subscription.synced(published));
                    }
                    Ok(CaughtUp::Ahead) => {
                        // Seen in a reply of another replica, or a moment ago here.
                        let position = *position;
                        if live.wait_for(position, AHEAD).await.is_err()
                            && let Some(subscription) = self.numbered(number)
                        {
                            subscription.start_over();
                        }
                        None
                    }
                    Err(Gone) => {
                        subscription.start_over();
                        None
                    }
                }
            }
            Phase::Live { .. } => return None,
        };
        self.unfinished.push_back(number);
        chunk
    }
}

impl Subscription {
    /// Back to the state of the world: what the client holds can't be continued.
    fn start_over(&mut self) {
        let reason = "the changes since that position are no longer kept, or it belongs to another history";
        self.phase = Phase::State { cursor: Cursor::Namespaces(None), since: None, reset: Some(reason) };
    }

    fn synced(&self, position: Position) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(b"event: synced\ndata: {");
        out.put_slice(self.tag.as_deref().unwrap_or_default());
        out.put_slice(format!("\"revision\":\"{position}\"}}\nid: {position}\n\n").as_bytes());
        out.freeze()
    }
}

/// Reads the next page of a subscription's state; moves it to catch-up after the last.
fn read_page(hub: &Hub, live: &LiveReplica, subscription: &mut Subscription) -> Option<Bytes> {
    let Phase::State { cursor, since, reset } = &mut subscription.phase else { return None };
    let filter = &subscription.filter;
    let mut out = BytesMut::new();
    if let Some(reason) = reset.take() {
        out.put_slice(b"event: reset\ndata: {");
        out.put_slice(subscription.tag.as_deref().unwrap_or_default());
        out.put_slice(format!("\"reason\":\"{reason}\"}}\n\n").as_bytes());
    }
    let mut put = |object: Bytes| {
        out.put_slice(b"event: put\ndata: {");
        out.put_slice(subscription.tag.as_deref().unwrap_or_default());
        out.put_slice(&object);
        out.put_slice(b"}\n\n");
    };
    // Published before the first page is read, so the replica is there or ahead: whatever changed meanwhile, or on later
    // pages, comes again from the history.
    let position = *since.get_or_insert(hub.published()?);
    let replica = live.read();
    let epoch = position.epoch;
    let namespace = filter.namespace.as_deref();
    let source = filter.source.as_ref();
    let selector = &filter.selector;
    let mut room = PAGE_SIZE;
    let finished = loop {
        match cursor {
            Cursor::Namespaces(after) => {
                let page = match namespace {
                    _ if !filter.wants(Kind::Namespace) => Page { items: Vec::new(), next: None },
                    Some(name) => Page { items: replica.namespace(name).into_iter().collect(), next: None },
                    None => {
                        replica.namespaces(&NamespaceQuery { selector, source, after: after.as_ref(), limit: room })
                    }
                };
                room = room.saturating_sub(page.items.len()).max(1);
                for view in page.items.iter().filter(|view| filter.namespace(view)) {
                    put(render_object(Kind::Namespace, &NamespaceDocument::from_view(view, epoch)));
                }
                match page.next {
                    Some(next) => {
                        *after = Some(next);
                        break false;
                    }
                    None => *cursor = Cursor::Services(None),
                }
            }
            Cursor::Services(after) => {
                let page = match (namespace, filter.service.as_deref()) {
                    _ if !filter.wants(Kind::Service) => Page { items: Vec::new(), next: None },
                    (Some(namespace), Some(name)) => {
                        Page { items: replica.service(namespace, name).into_iter().collect(), next: None }
                    }
                    _ => replica.services(&ServiceQuery {
                        namespace,
                        source,
                        selector,
                        after: after.as_ref(),
                        limit: room,
                    }),
                };
                room = room.saturating_sub(page.items.len()).max(1);
                for view in page.items.iter().filter(|view| filter.service(view)) {
                    put(render_object(Kind::Service, &ServiceDocument::from_view(view, epoch)));
                }
                match page.next {
                    Some(next) => {
                        *after = Some(next);
                        break false;
                    }
                    None => *cursor = Cursor::Instances(None),
                }
            }
            Cursor::Instances(after) => {
                if !filter.wants(Kind::Instance) {
                    break true;
                }
                let query = InstanceQuery {
                    namespace,
                    service: filter.service.as_deref().map(Some),
                    source,
                    selector,
                    health: filter.health,
                    after: after.as_ref(),
                    limit: room,
                };
                let page = replica.instances(&query);
                for view in &page.items {
                    put(render_object(Kind::Instance, &InstanceDocument::from_view(view, epoch)));
                }
                match page.next {
                    Some(next) => {
                        *after = Some(next);
                        break false;
                    }
                    None => break true,
                }
            }
        }
    };
    drop(replica);
    if finished {
        subscription.phase = Phase::CatchUp { position };
    }
    (!out.is_empty()).then(|| out.freeze())
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        for subscription in &self.subscriptions {
            self.leave(subscription);
        }
        if let Some(id) = &self.stream_id {
            self.hub.streams.lock().remove(id);
        }
        self.hub.stream_ended();
    }
}
