//! The task that follows a registry for all subscriptions of a client: one stream, whatever their number.

use super::cache::{Cache, Remembered};
use super::core::Core;
use super::entry::{Entry, subscription_id};
use super::wire::{Connection, Told, Wanted, Wire};
use crate::backoff::Backoff;
use crate::request::WatchEvent;
use crate::{Error, Result};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, OptionFuture};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Waits between attempts to reach a registry: the first comes within half a second, at a moment of its own for each
/// client, so that those who lost the same registry do not all come back at once.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Waits where the registry refuses: it takes somebody's act to change that.
const FIRST_REFUSED: Duration = Duration::from_secs(5);
const LONGEST_REFUSED: Duration = Duration::from_secs(60);
/// Subscriptions that begin within this time of each other are asked for together.
const GATHER: Duration = Duration::from_millis(1);

/// How a client stands with its registry.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Nothing is subscribed to, so nobody is asked.
    Idle,
    /// A stream is being opened.
    Connecting,
    /// A stream is open.
    Connected {
        /// The replica that answers.
        endpoint: String,
    },
    /// The registry can't be reached, or refuses; what is known stays, and it is tried again.
    Lost {
        /// Since when.
        since: std::time::Instant,
        /// What happened last.
        error: Error,
    },
}

/// What a client's handles share with its task.
pub(crate) struct Shared {
    requests: Mutex<Requests>,
    wake: Notify,
    closed: AtomicBool,
    pub(crate) connection: watch::Sender<ConnectionState>,
}

#[derive(Default)]
struct Requests {
    /// Bounded by the number of subscriptions that live.
    begun: Vec<(Weak<Core>, Option<Remembered>)>,
    ended: Vec<u32>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            requests: Mutex::default(),
            wake: Notify::new(),
            closed: AtomicBool::new(false),
            connection: watch::Sender::new(ConnectionState::Idle),
        }
    }

    pub(crate) fn begin(&self, core: &Arc<Core>, remembered: Option<Remembered>) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).begun.push((Arc::downgrade(core), remembered));
        self.wake.notify_one();
    }

    pub(crate) fn end(&self, number: u32) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).ended.push(number);
        self.wake.notify_one();
    }

    /// All handles are gone.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// The task.
pub(crate) struct Follower {
    wire: Arc<dyn Wire>,
    shared: Arc<Shared>,
    cache: Option<Cache>,
    entries: BTreeMap<u32, Entry>,
    /// Those whose snapshot is no longer the newest.
    dirty: BTreeSet<u32>,
    backoff: Backoff,
    refused: Backoff,
    lost: Option<std::time::Instant>,
}

/// Changes of a stream's subscriptions: one call at a time.
#[derive(Default)]
struct Asked {
    stream: Option<String>,
    add: BTreeSet<u32>,
    remove: Vec<String>,
}

impl Follower {
    pub(crate) fn new(wire: Arc<dyn Wire>, shared: Arc<Shared>, cache: Option<Cache>) -> Self {
        Self {
            wire,
            shared,
            cache,
            entries: BTreeMap::new(),
            dirty: BTreeSet::new(),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            refused: Backoff::new(FIRST_REFUSED, LONGEST_REFUSED),
            lost: None,
        }
    }

    /// Follows until all handles are gone.
    pub(crate) async fn run(mut self) {
        while !self.closed() {
            self.take_requests(&mut Asked::default());
            if self.entries.is_empty() {
                self.say(ConnectionState::Idle);
                self.shared.wake.notified().await;
                continue;
            }
            // Many are often begun one after the other.
            tokio::time::sleep(GATHER).await;
            self.take_requests(&mut Asked::default());
            let Err(error) = self.follow().await else { continue };
            let wait = self.lost(error);
            self.wait(wait).await;
        }
        if let Some(cache) = self.cache.take() {
            cache.finish().await;
        }
    }

    fn closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }

    fn say(&self, state: ConnectionState) {
        self.shared.connection.send_replace(state);
    }

    /// Takes in what handles asked for; what an open stream must be told of it goes to `asked`.
    fn take_requests(&mut self, asked: &mut Asked) {
        let requests = std::mem::take(&mut *self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner));
        for (core, remembered) in requests.begun {
            let Some(number) = core.upgrade().map(|core| core.number) else { continue };
            let Some(entry) = Entry::new(core, remembered) else { continue };
            self.entries.insert(number, entry);
            asked.add.insert(number);
        }
        for number in requests.ended {
            let Some(entry) = self.entries.remove(&number) else { continue };
            self.dirty.remove(&number);
            // What the stream has not been asked for yet needs no end.
            if !asked.add.remove(&number) {
                asked.remove.extend(entry.ids(number));
            }
        }
    }

    /// Opens a stream and reads it to its end. Ends well only when nothing is left to follow.
    async fn follow(&mut self) -> Result<()> {
        if self.lost.is_none() {
            self.say(ConnectionState::Connecting);
        }
        let wanted: Vec<Wanted> = self.entries.iter_mut().flat_map(|(number, entry)| entry.begin(*number)).collect();
        let opening = self.wire.open(wanted);
        let mut connection = tokio::select! {
            opened = opening => opened?,
            () = until_closed(&self.shared) => return Ok(()),
        };
        let mut asked = Asked::default();
        let mut change: OptionFuture<BoxFuture<'static, Result<()>>> = None.into();
        let mut changing = false;
        loop {
            let due = self.due();
            tokio::select! {
                told = connection.told.next() => match told {
                    Some(Ok(told)) => self.take(told, &mut asked, &connection),
                    Some(Err(error)) => return Err(error),
                    None => return Err(Error::Broken {
                        url: connection.endpoint.clone(),
                        reason: "the stream ended".to_owned(),
                    }),
                },
                () = self.shared.wake.notified() => self.take_requests(&mut asked),
                Some(changed) = &mut change, if changing => {
                    changing = false;
                    // What was not changed would be missing for ever, so all of it is asked for anew.
                    changed?;
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.release(),
            }
            self.publish();
            if self.closed() || self.entries.is_empty() {
                return Ok(());
            }
            if !changing && let Some(call) = self.change(&mut asked, &connection) {
                change = Some(call).into();
                changing = true;
            }
        }
    }

    /// The call that tells the stream what it must be told, once it has a name.
    fn change(&mut self, asked: &mut Asked, connection: &Connection) -> Option<BoxFuture<'static, Result<()>>> {
        let stream = asked.stream.clone()?;
        if asked.add.is_empty() && asked.remove.is_empty() {
            return None;
        }
        let mut add = Vec::new();
        for number in std::mem::take(&mut asked.add) {
            if let Some(entry) = self.entries.get_mut(&number) {
                add.extend(entry.begin(number));
            }
        }
        Some(connection.changes.change(stream, add, std::mem::take(&mut asked.remove)))
    }

    /// Takes in what has arrived.
    fn take(&mut self, told: Vec<Told>, asked: &mut Asked, connection: &Connection) {
        for told in told {
            match told {
                Told::Stream(name) => {
                    asked.stream = Some(name);
                    self.say(ConnectionState::Connected { endpoint: connection.endpoint.clone() });
                }
                Told::Event { subscription: Some(id), event } => {
                    // It may have ended meanwhile.
                    if let Some((number, part)) = subscription_id(&id)
                        && let Some(entry) = self.entries.get_mut(&number)
                        && entry.apply(part, event)
                    {
                        self.dirty.insert(number);
                    }
                }
                Told::Event { subscription: None, event: WatchEvent::Bookmark(position) } => {
                    for (number, entry) in &mut self.entries {
                        // What the stream does not know yet is not meant.
                        if !asked.add.contains(number) && entry.bookmark(position) {
                            self.dirty.insert(*number);
                        }
                    }
                }
                Told::Event { subscription: None, .. } => {}
            }
            // Only what arrives shows that the registry is well again; a connection alone does not.
            self.backoff.reset();
            self.refused.reset();
            self.lost = None;
        }
    }

    /// Shows what has changed.
    fn publish(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            if let Some(entry) = self.entries.get_mut(&number)
                && let Some(snapshot) = entry.publish()
                && let Some(cache) = &mut self.cache
            {
                cache.keep(snapshot);
            }
        }
    }

    /// When the next kept snapshot is given up.
    fn due(&self) -> Option<Instant> {
        self.entries.values().filter_map(Entry::kept_until).min()
    }

    fn release(&mut self) {
        let now = Instant::now();
        let due = self.entries.iter().filter(|(_, entry)| entry.kept_until().is_some_and(|until| until <= now));
        self.dirty.extend(due.map(|(number, _)| *number));
    }

    /// The stream is gone: says so, and for how long to wait.
    fn lost(&mut self, error: Error) -> Duration {
        let refused = !error.is_transient();
        let wait = match &error {
            Error::Unavailable { retry_after: Some(wait), .. } => self.backoff.next().max(spread(*wait)),
            _ if refused => self.refused.next(),
            _ => self.backoff.next(),
        };
        // All replicas judge alike who may read.
        if !matches!(error, Error::Unauthorized { .. } | Error::Forbidden { .. }) {
            self.wire.next_endpoint();
        }
        match self.lost {
            None => {
                tracing::warn!(%error, subscriptions = self.entries.len(), "lost the registry; what is known stays")
            }
            Some(_) => tracing::debug!(%error, "the registry can't be followed; trying again in {wait:?}"),
        }
        let since = *self.lost.get_or_insert_with(std::time::Instant::now);
        if refused {
            self.entries.values().for_each(|entry| entry.refuse(&error));
        }
        self.say(ConnectionState::Lost { since, error });
        wait
    }

    /// Waits; what was kept for a time is given up in time all the same.
    async fn wait(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            let due = self.due().map_or(until, |due| due.min(until));
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = until_closed(&self.shared) => return,
            }
            if Instant::now() >= until {
                return;
            }
            self.release();
            self.publish();
        }
    }
}

impl Drop for Follower {
    /// Where the runtime has ended, or this has panicked, whoever waits must not wait for ever.
    fn drop(&mut self) {
        if !self.closed() {
            self.entries.values().for_each(|entry| entry.refuse(&ended()));
            self.say(ConnectionState::Lost { since: std::time::Instant::now(), error: ended() });
        }
    }
}

/// Why nothing comes any more.
fn ended() -> Error {
    Error::Unavailable {
        detail: "the task that follows the registry has ended with its runtime".to_owned(),
        retry_after: None,
    }
}

/// Half of a time to all of it again: who was told the same time must not come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(rand::RngExt::random_range(&mut rand::rng(), 1.0..=1.5))
}

async fn until_closed(shared: &Shared) {
    while !shared.closed.load(Ordering::Relaxed) {
        shared.wake.notified().await;
    }
}
