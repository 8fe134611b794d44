//! One client's stream of events, with one subscription or many.
//!
//! A subscription goes through three phases. *State*: the matching objects, page by page, so that neither a large state
//! nor a slow reader holds the replica or memory. *Catch-up*: what the history has since. *Live*: deliveries from the
//! hub. One that falls behind goes back to catch-up from the last position it was sent.

use super::filter::Filter;
use super::history::{Gone, render_object};
use super::hub::{CaughtUp, Delivery, Hub, Live, render_batch};
use crate::live::LiveReplica;
use bytes::{BufMut, Bytes, BytesMut};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{InstanceKey, InstanceQuery, Kind, NamespaceQuery, Page, Position, ServiceQuery};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Objects read from the replica in one hold of its lock.
const PAGE_SIZE: usize = 200;
/// Batches taken from the history in one hold of its lock.
const CATCH_UP: usize = 64;
/// Deliveries that may wait for a slow reader before its subscription has to catch up from the history.
const QUEUE: usize = 64;
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
    Live { id: u64, position: Position, behind: Arc<AtomicBool> },
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
    subscriptions: Vec<Subscription>,
    next_number: u32,
    queue: mpsc::Receiver<Delivery>,
    queue_sender: mpsc::Sender<Delivery>,
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
        let (queue_sender, queue) = mpsc::channel(QUEUE);
        Ok(Self {
            hub: Arc::clone(hub),
            live: Arc::clone(live),
            limits,
            subscriptions: Vec::new(),
            next_number: 0,
            queue,
            queue_sender,
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
        self.next_number = self.next_number.wrapping_add(1);
    }

    fn leave(&self, subscription: &Subscription) {
        if let Phase::Live { id, .. } = subscription.phase {
            self.hub.leave(id, &subscription.filter);
        }
    }

    fn control(&mut self, control: Control) {
        let Control::Change { add, remove, done } = control;
        let outcome = self.check_change(&add, &remove);
        if outcome.is_ok() {
            for id in remove {
                if let Some(at) = self.subscriptions.iter().position(|subscription| subscription.id == id) {
                    let gone = self.subscriptions.swap_remove(at);
                    self.leave(&gone);
                }
            }
            for subscribe in add {
                self.add(subscribe, true);
            }
        }
        // The asker may have given up.
        let _ = done.send(outcome);
    }

    fn check_change(&self, add: &[Subscribe], remove: &[String]) -> Result<(), ControlError> {
        let has = |id: &str| self.subscriptions.iter().any(|subscription| subscription.id == id);
        if let Some(absent) = remove.iter().find(|id| !has(id)) {
            return Err(ControlError::Absent(absent.clone()));
        }
        for (n, subscribe) in add.iter().enumerate() {
            let twice = add.iter().take(n).any(|earlier| earlier.id == subscribe.id);
            if twice || (has(&subscribe.id) && !remove.contains(&subscribe.id)) {
                return Err(ControlError::Exists(subscribe.id.clone()));
            }
        }
        if self.subscriptions.len() + add.len() - remove.len().min(self.subscriptions.len()) > self.limits.subscriptions
        {
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
            if let Some(at) = self.unfinished() {
                if let Some(chunk) = self.step(at) {
                    return Some(chunk);
                }
                continue;
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
                // The stream holds a sender itself, so the queue does not close.
                delivery = self.queue.recv() => {
                    if let Some(chunk) = delivery.and_then(|delivery| self.collect(delivery)) {
                        return Some(chunk);
                    }
                }
                () = tokio::time::sleep(self.limits.bookmark) => {
                    if let Some(chunk) = self.bookmark() {
                        return Some(chunk);
                    }
                }
            }
        }
    }

    /// A subscription that is not live, or fell behind and has drained what it was handed before.
    fn unfinished(&mut self) -> Option<usize> {
        let drained = self.queue.is_empty();
        for (at, subscription) in self.subscriptions.iter_mut().enumerate() {
            match &subscription.phase {
                Phase::Live { position, behind, .. } => {
                    if drained && behind.load(Ordering::Acquire) {
                        subscription.phase = Phase::CatchUp { position: *position };
                        return Some(at);
                    }
                }
                Phase::State { .. } | Phase::CatchUp { .. } => return Some(at),
            }
        }
        None
    }

    /// Joins a delivery with those that wait behind it.
    fn collect(&mut self, first: Delivery) -> Option<Bytes> {
        let mut chunk = self.accept(first);
        let mut joined = BytesMut::new();
        while let Ok(delivery) = self.queue.try_recv() {
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

    fn accept(&mut self, delivery: Delivery) -> Option<Bytes> {
        let subscription =
            self.subscriptions.iter_mut().find(|subscription| subscription.number == delivery.subscription)?;
        // An empty delivery only wakes the stream.
        if delivery.chunk.is_empty() {
            return None;
        }
        if let Phase::Live { position, .. } = &mut subscription.phase {
            *position = delivery.position;
            return Some(delivery.chunk);
        }
        None
    }

    fn bookmark(&mut self) -> Option<Bytes> {
        let published = self.hub.published()?;
        // The hub hands out a position's deliveries before it counts it as published, so an empty queue now means that
        // the client has been sent everything up to it.
        if !self.queue.is_empty() {
            return None;
        }
        for subscription in &mut self.subscriptions {
            match &mut subscription.phase {
                Phase::Live { position, behind, .. } if !behind.load(Ordering::Acquire) => *position = published,
                _ => return None,
            }
        }
        Some(Bytes::from(format!("event: bookmark\ndata: {{\"revision\":\"{published}\"}}\nid: {published}\n\n")))
    }

    /// Moves a subscription that is not live one step on.
    fn step(&mut self, at: usize) -> Option<Bytes> {
        let (hub, live, queue) = (&self.hub, &self.live, &self.queue_sender);
        let subscription = self.subscriptions.get_mut(at)?;
        match &mut subscription.phase {
            Phase::State { .. } => read_page(live, subscription),
            Phase::CatchUp { position } => {
                let behind = Arc::new(AtomicBool::new(false));
                let caught_up = hub.catch_up(*position, CATCH_UP, || Live {
                    subscription: subscription.number,
                    filter: Arc::clone(&subscription.filter),
                    tag: subscription.tag.clone(),
                    queue: queue.clone(),
                    behind: Arc::clone(&behind),
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
                        subscription.phase = Phase::Live { id, position: published, behind };
                        let tag = subscription.tag.as_deref().unwrap_or_default();
                        let mut out = BytesMut::new();
                        out.put_slice(b"event: synced\ndata: {");
                        out.put_slice(tag);
                        out.put_slice(format!("\"revision\":\"{published}\"}}\nid: {published}\n\n").as_bytes());
                        Some(out.freeze())
                    }
                    Err(Gone) => {
                        subscription.phase = Phase::State {
                            cursor: Cursor::Namespaces(None),
                            since: None,
                            reset: Some(
                                "the changes since that position are no longer kept, or it belongs to another history",
                            ),
                        };
                        None
                    }
                }
            }
            Phase::Live { .. } => None,
        }
    }
}

/// Reads the next page of a subscription's state; moves it to catch-up after the last.
fn read_page(live: &LiveReplica, subscription: &mut Subscription) -> Option<Bytes> {
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
    let replica = live.read();
    // The position at the first page: what changed on later ones meanwhile comes again from the history.
    let position = *since.get_or_insert(replica.position()?);
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
        self.hub.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
