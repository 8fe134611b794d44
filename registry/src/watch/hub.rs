//! Where effects become deliveries to live subscriptions.

use super::filter::Filter;
use super::history::{Batch, Gone, History};
use super::queue::{Behind, Delivery, Queue};
use super::stream::{ControlError, StreamControl, Subscribe};
use crate::live::Observer;
use bytes::{BufMut, Bytes, BytesMut};
use fingerpost_catalog::{Effects, Position, Replica};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How much memory the history may take, in bytes, about: while there are streams, or were lately.
const HISTORY_WEIGHT: usize = 24 << 20;
/// How much it may take while there is nobody who could resume: a registry that only feeds its own DNS has no streams at all.
const IDLE_WEIGHT: usize = 1 << 20;
/// How long after the last stream its reader may want to resume.
const RESUMABLE: Duration = Duration::from_secs(15 * 60);

/// A subscription that is up to date and gets deliveries.
pub(crate) struct Live {
    pub(crate) subscription: u32,
    pub(crate) filter: Arc<Filter>,
    /// What stands before the object in an event's data, on streams of many subscriptions.
    pub(crate) tag: Option<Bytes>,
    pub(crate) queue: Queue,
}

#[derive(Default)]
struct Subscriptions {
    /// Those about one service, by (namespace, service).
    topics: HashMap<(String, String), HashMap<u64, Live>>,
    broad: HashMap<u64, Live>,
    next: u64,
}

struct Inner {
    history: History,
    published: Option<Position>,
    subscriptions: Subscriptions,
    /// Equal filters share one allocation, so that what they match is rendered once.
    filters: HashMap<String, Weak<Filter>>,
    /// At this many, those that nobody has any more are dropped.
    sweep_filters_at: usize,
    /// How much the history may take while there are no streams.
    idle_weight: usize,
    /// When a stream is known to have been open last.
    streamed: Option<Instant>,
}

/// The least number of filters that is worth a sweep.
const SWEEP: usize = 1024;

/// The hub of all watch streams of this process.
pub struct Hub {
    inner: Mutex<Inner>,
    pub(crate) streams: Mutex<HashMap<String, StreamControl>>,
    pub(crate) open_streams: AtomicU64,
    deliveries: AtomicU64,
    laggards: AtomicU64,
}

/// What the hub is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubStats {
    /// Open streams.
    pub streams: u64,
    /// Live subscriptions on them.
    pub subscriptions: u64,
    /// Positions that a stream can resume from.
    pub history: u64,
    /// Deliveries handed to streams since the start.
    pub deliveries: u64,
    /// Times that a subscription fell behind and had to catch up.
    pub laggards: u64,
}

impl Hub {
    /// A hub without streams. With `shared`, those of other replicas may come here to resume.
    pub fn new(shared: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                history: History::default(),
                published: None,
                subscriptions: Subscriptions::default(),
                filters: HashMap::new(),
                sweep_filters_at: SWEEP,
                idle_weight: if shared { HISTORY_WEIGHT } else { IDLE_WEIGHT },
                streamed: None,
            }),
            streams: Mutex::new(HashMap::new()),
            open_streams: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            laggards: AtomicU64::new(0),
        })
    }

    /// The latest position that all live subscriptions have been handed.
    pub(crate) fn published(&self) -> Option<Position> {
        self.inner.lock().published
    }

    /// The last position, up to `position`, of which a stream of everything was told something: who shows it shows all up
    /// to `position`. None where the history does not reach back so far.
    pub(crate) fn told_by(&self, position: Position) -> Option<Position> {
        self.inner.lock().history.told_by(position)
    }

    /// Adds and removes subscriptions of a running stream: all of them, or none.
    pub async fn change_stream(
        &self,
        stream: &str,
        add: Vec<Subscribe>,
        remove: Vec<String>,
    ) -> Result<(), ControlError> {
        let control = self.streams.lock().get(stream).cloned().ok_or(ControlError::NoStream)?;
        control.change(add, remove).await
    }

    /// A shared copy of a filter.
    pub(crate) fn intern(&self, filter: Filter) -> Arc<Filter> {
        let key = format!("{filter:?}");
        let mut inner = self.inner.lock();
        if let Some(shared) = inner.filters.get(&key).and_then(Weak::upgrade) {
            return shared;
        }
        if inner.filters.len() >= inner.sweep_filters_at {
            inner.filters.retain(|_, filter| filter.strong_count() > 0);
            inner.sweep_filters_at = SWEEP.max(2 * inner.filters.len());
        }
        let shared = Arc::new(filter);
        inner.filters.insert(key, Arc::downgrade(&shared));
        shared
    }

    /// The batches after `position`; or, where there are none, makes the subscription live in the same breath, so that
    /// nothing falls between.
    pub(crate) fn catch_up(
        &self,
        position: Position,
        most: usize,
        live: impl FnOnce() -> Live,
    ) -> Result<CaughtUp, Gone> {
        let mut inner = self.inner.lock();
        let published = inner.published.ok_or(Gone)?;
        if published.epoch == position.epoch && published.number < position.number {
            return Ok(CaughtUp::Ahead);
        }
        let batches = inner.history.after(position, most)?;
        if !batches.is_empty() {
            return Ok(CaughtUp::Behind(batches));
        }
        let id = inner.subscriptions.next;
        inner.subscriptions.next += 1;
        let live = live();
        let group = match live.filter.topic() {
            Some((namespace, service)) => {
                inner.subscriptions.topics.entry((namespace.to_owned(), service.to_owned())).or_default()
            }
            None => &mut inner.subscriptions.broad,
        };
        group.insert(id, live);
        Ok(CaughtUp::Live { id, published })
    }

    /// A stream is over. Its reader may come back for what it misses.
    pub(crate) fn stream_ended(&self) {
        self.inner.lock().streamed = Some(Instant::now());
        self.open_streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends deliveries to a subscription.
    pub(crate) fn leave(&self, id: u64, filter: &Filter) {
        let mut inner = self.inner.lock();
        match filter.topic() {
            Some((namespace, service)) => {
                let topic = (namespace.to_owned(), service.to_owned());
                if let Some(group) = inner.subscriptions.topics.get_mut(&topic) {
                    group.remove(&id);
                    if group.is_empty() {
                        inner.subscriptions.topics.remove(&topic);
                    }
                }
            }
            None => {
                inner.subscriptions.broad.remove(&id);
            }
        }
    }

    /// What the hub is busy with.
    pub fn stats(&self) -> HubStats {
        let inner = self.inner.lock();
        let topical: usize = inner.subscriptions.topics.values().map(HashMap::len).sum();
        HubStats {
            streams: self.open_streams.load(Ordering::Relaxed),
            subscriptions: (topical + inner.subscriptions.broad.len()) as u64,
            history: inner.history.len() as u64,
            deliveries: self.deliveries.load(Ordering::Relaxed),
            laggards: self.laggards.load(Ordering::Relaxed),
        }
    }

    /// How much the history may take now.
    fn history_weight(&self, idle: usize, streamed: &mut Option<Instant>) -> usize {
        if self.open_streams.load(Ordering::Relaxed) > 0 {
            *streamed = Some(Instant::now());
        }
        match streamed {
            Some(at) if at.elapsed() < RESUMABLE => HISTORY_WEIGHT,
            _ => idle,
        }
    }

    fn publish(&self, batch: &Batch, before: Position, subscriptions: &mut Subscriptions) {
        // Filters that share an allocation share the rendering.
        let mut rendered: HashMap<*const Filter, Option<Bytes>> = HashMap::new();
        let (mut handed, mut lagged) = (0u64, 0u64);
        let mut deliver = |group: &mut HashMap<u64, Live>| {
            group.retain(|_, live| {
                let chunk = match &live.tag {
                    None => rendered
                        .entry(Arc::as_ptr(&live.filter))
                        .or_insert_with(|| render_batch(batch, &live.filter, None))
                        .clone(),
                    Some(tag) => render_batch(batch, &live.filter, Some(tag)),
                };
                let Some(chunk) = chunk else { return true };
                let delivery = Delivery { subscription: live.subscription, position: batch.position, chunk };
                // Whoever is live has been handed everything before this batch.
                let pushed = live.queue.push(delivery, before);
                handed += u64::from(pushed);
                lagged += u64::from(!pushed);
                pushed
            });
        };
        deliver(&mut subscriptions.broad);
        if subscriptions.topics.len() <= batch.events.len() {
            subscriptions.topics.values_mut().for_each(&mut deliver);
        } else {
            let mut touched: Vec<(String, String)> = batch.events.iter().filter_map(topic_of).collect();
            touched.sort_unstable();
            touched.dedup();
            for topic in touched {
                if let Some(group) = subscriptions.topics.get_mut(&topic) {
                    deliver(group);
                }
            }
        }
        subscriptions.topics.retain(|_, group| !group.is_empty());
        self.deliveries.fetch_add(handed, Ordering::Relaxed);
        self.laggards.fetch_add(lagged, Ordering::Relaxed);
    }
}

/// What [`Hub::catch_up`] found.
pub(crate) enum CaughtUp {
    /// There is more to go through.
    Behind(Vec<Arc<Batch>>),
    /// The position is not published here yet, if it ever will be.
    Ahead,
    /// The subscription is live from `published` on.
    Live {
        /// For [`Hub::leave`].
        id: u64,
        /// Up to where it is complete.
        published: Position,
    },
}

fn topic_of(event: &super::history::Event) -> Option<(String, String)> {
    use fingerpost_catalog::ViewChange;
    match &event.change {
        ViewChange::Namespace { .. } => None,
        ViewChange::Service { before, after } => {
            let view = after.as_ref().or(before.as_ref())?;
            Some((view.namespace.to_string(), view.name.to_string()))
        }
        ViewChange::Instance { before, after } => {
            let view = after.as_ref().or(before.as_ref())?;
            Some((view.key.namespace.to_string(), view.key.service.as_deref()?.to_owned()))
        }
    }
}

/// The events that a batch is to a filter, the position's id on the last; none where nothing matches.
pub(crate) fn render_batch(batch: &Batch, filter: &Filter, tag: Option<&Bytes>) -> Option<Bytes> {
    use super::filter::Turn;
    let mut out = BytesMut::new();
    for (event, turn) in batch.matching(filter) {
        if !out.is_empty() {
            out.put_slice(b"\n");
        }
        out.put_slice(match turn {
            Turn::Put => b"event: put\ndata: {",
            Turn::Delete => b"event: delete\ndata: {",
        });
        if let Some(tag) = tag {
            out.put_slice(tag);
        }
        out.put_slice(event.rendered(turn, batch.position.epoch));
        out.put_slice(b"}\n");
    }
    if out.is_empty() {
        return None;
    }
    out.put_slice(format!("id: {}\n\n", batch.position).as_bytes());
    Some(out.freeze())
}

impl Observer for Hub {
    fn load(&self, replica: &Replica) {
        let mut inner = self.inner.lock();
        if let Some(position) = replica.position() {
            inner.history.restart(position);
            inner.published = Some(position);
        }
    }

    fn ready(&self, _: Position) {}

    fn apply(&self, effects: &Effects, reset: bool) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if let Some(published) = inner.published
            && reset
            && published.epoch != effects.position.epoch
        {
            // Another history: what streams hold can't be carried over. Each catches up, finds its position gone, and
            // starts again.
            inner.history.restart(effects.position);
            inner.published = Some(effects.position);
            let all = inner
                .subscriptions
                .topics
                .drain()
                .flat_map(|(_, group)| group)
                .chain(inner.subscriptions.broad.drain());
            for (_, live) in all {
                live.queue.fall_behind(Behind { subscription: live.subscription, complete: published });
            }
            return;
        }
        if !effects.changes.is_empty() {
            let batch = Batch::new(effects);
            let before = inner.published.unwrap_or(effects.position);
            self.publish(&batch, before, &mut inner.subscriptions);
            inner.history.push(batch, self.history_weight(inner.idle_weight, &mut inner.streamed));
        }
        inner.published = Some(effects.position);
    }
}
