//! The live replica: the catalog as this process sees it now, fed from the store and read by everyone.
//!
//! [`Feed`] is the only writer. It loads the store's contents, follows its changes, applies each to the replica, hands
//! the effects to the [`Observer`]s (DNS index, watch streams) and only then declares the position *applied*. Whoever
//! waits for a position therefore finds it in lists, in streams and in DNS answers alike. What it does with changes is
//! [`Display`]'s, which another process that follows the registry uses with changes that come another way.

mod display;

pub use display::{Display, Loaded};

use crate::store::{FollowError, Follower, ReadAt, Store, StoreError};
use fingerpost_catalog::{ChangeSet, Effects, Epoch, Position, Replica};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Follows the effects of every change, in order, on the feed's own task. It must be quick and must not block.
pub trait Observer: Send + Sync {
    /// The replica holds a whole first state. It may be older than what was served before a restart.
    fn load(&self, replica: &Replica);

    /// The first state has been brought up to date: from now on, what is shown is true.
    fn ready(&self, position: Position);

    /// A position was applied. `reset` says that the history broke before it: positions of earlier effects are void.
    fn apply(&self, effects: &Effects, reset: bool);
}

/// The replica that this process serves from.
pub struct LiveReplica {
    replica: RwLock<Replica>,
    applied: RwLock<Position>,
    loaded: tokio::sync::watch::Sender<bool>,
    waiters: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
}

/// Why waiting for a position ended without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The position was not reached in time.
    #[error("the position was not reached in time")]
    Timeout,
    /// The position is of another epoch than the replica.
    #[error("the position belongs to another history")]
    Foreign,
}

/// A waiter's place, given up when the wait ends in whatever way.
struct Place<'a> {
    live: &'a LiveReplica,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.live.waiters.lock();
        if let Some(at_number) = waiters.get_mut(&self.number) {
            at_number.retain(|waiter| !waiter.is_closed());
            if at_number.is_empty() {
                waiters.remove(&self.number);
            }
        }
    }
}

impl LiveReplica {
    /// An empty replica of a process that serves the cluster `own_cluster`.
    pub fn new(own_cluster: &str) -> Arc<Self> {
        Arc::new(Self {
            replica: RwLock::new(Replica::new(own_cluster)),
            applied: RwLock::new(Position::new(Epoch(0), 0)),
            loaded: tokio::sync::watch::Sender::new(false),
            waiters: Mutex::new(BTreeMap::new()),
        })
    }

    /// Reads the replica. Keep the guard short: the feed waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read()
    }

    /// The history that the replica is in.
    pub fn epoch(&self) -> Epoch {
        self.position().epoch
    }

    /// The position that lists, streams and DNS answers all show; the replica itself may be a moment ahead.
    pub fn position(&self) -> Position {
        *self.applied.read()
    }

    /// Whether the store's contents have been loaded.
    pub fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// Waits until the store's contents have been loaded.
    pub async fn wait_loaded(&self) {
        // The sender lives in self, so waiting can't fail.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    fn reached(&self, position: Position) -> Result<bool, WaitError> {
        let applied = self.position();
        if applied.epoch != position.epoch {
            return Err(WaitError::Foreign);
        }
        Ok(applied.number >= position.number)
    }

    /// Waits until `position` is applied.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), WaitError> {
        let deadline = tokio::time::Instant::now() + timeout;
        while !self.reached(position)? {
            // Dropped after the receiver below, when this waiter is seen to be gone.
            let _place = Place { live: self, number: position.number };
            let woken = {
                let mut waiters = self.waiters.lock();
                // Looked at again under the lock: the feed moves the mark before it takes the lock to wake waiters.
                if self.reached(position)? {
                    drop(waiters);
                    return Ok(());
                }
                let (sender, receiver) = oneshot::channel();
                waiters.entry(position.number).or_default().push(sender);
                receiver
            };
            // Being woken is not having arrived: after a break in the history everybody is woken to look again.
            if tokio::time::timeout_at(deadline, woken).await.is_err() {
                return Err(WaitError::Timeout);
            }
        }
        Ok(())
    }

    fn mark_applied(&self, position: Position, reset: bool) {
        *self.applied.write() = position;
        let ready = {
            let mut waiters = self.waiters.lock();
            if reset {
                std::mem::take(&mut *waiters)
            } else if waiters.first_key_value().is_some_and(|(number, _)| *number <= position.number) {
                let later = waiters.split_off(&(position.number + 1));
                std::mem::replace(&mut *waiters, later)
            } else {
                return;
            }
        };
        for waiter in ready.into_values().flatten() {
            // Who waited may have given up.
            let _ = waiter.send(());
        }
    }
}

/// Why the feed ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The store can't be read any more.
    #[error("the feed can't read the store")]
    Store(#[from] StoreError),
}

/// Brings the store's changes into a [`LiveReplica`].
pub struct Feed {
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    display: Display,
}

impl Feed {
    /// A feed from `store` to `live`; observers are called in their order.
    pub fn new(store: Arc<dyn Store>, live: Arc<LiveReplica>, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self { store, live: Arc::clone(&live), display: Display::new(live, observers) }
    }

    /// Loads the store's contents, then follows it until `shutdown` or until the store closes.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), FeedError> {
        let Some(mut follower) = self.start(&shutdown).await? else { return Ok(()) };
        loop {
            let next = tokio::select! {
                next = follower.next() => next,
                () = shutdown.cancelled() => return Ok(()),
            };
            match next {
                Ok(set) => {
                    if let Err(error) = self.apply_ready(set, follower.as_mut()) {
                        match self.recover(error, &shutdown).await? {
                            Some(next) => follower = next,
                            None => return Ok(()),
                        }
                    }
                }
                Err(error) => match self.recover(error, &shutdown).await? {
                    Some(next) => follower = next,
                    None => return Ok(()),
                },
            }
        }
    }

    /// Applies a change set and those that are there already. Whatever comes next, even an error: what the replica shows,
    /// the observers have been told.
    fn apply_ready(&self, first: Arc<ChangeSet>, follower: &mut dyn Follower) -> Result<(), FollowError> {
        let mut set = first;
        loop {
            let mut end = None;
            self.display.apply(&set, || match follower.try_next() {
                Ok(Some(more)) => Some(more),
                Ok(None) => {
                    end = Some(Ok(()));
                    None
                }
                Err(error) => {
                    end = Some(Err(error));
                    None
                }
            });
            if let Some(end) = end {
                return end;
            }
            match follower.try_next()? {
                Some(next) => set = next,
                None => return Ok(()),
            }
        }
    }

    async fn start(&self, shutdown: &CancellationToken) -> Result<Option<Box<dyn Follower>>, FeedError> {
        let begun = Instant::now();
        let mut contents = self.store.read_all(ReadAt::Oldest).await?;
        loop {
            let batch = tokio::select! {
                batch = contents.records.recv() => batch,
                () = shutdown.cancelled() => return Ok(None),
            };
            let Some(batch) = batch else { break };
            let batch = batch?;
            self.display.load(batch.iter().map(|stored| (&stored.key, &stored.record, stored.revision)));
        }
        self.display.loaded(contents.position);
        // Catch up with what the store did meanwhile before anyone is told that this process is ready.
        let mut follower = match self.store.follow(contents.position) {
            Ok(follower) => follower,
            Err(error) => match self.recover(error, shutdown).await? {
                Some(follower) => follower,
                None => return Ok(None),
            },
        };
        loop {
            let caught_up = match follower.try_next() {
                Ok(None) => break,
                Ok(Some(set)) => self.apply_ready(set, follower.as_mut()),
                Err(error) => Err(error),
            };
            // Where the changes are gone by now, what they led to is read: an old state is not called the present one.
            if let Err(error) = caught_up {
                match self.recover(error, shutdown).await? {
                    Some(next) => follower = next,
                    None => return Ok(None),
                }
            }
        }
        self.display.ready();
        info!(
            records = self.live.read().stats().records,
            position = %self.live.position(),
            milliseconds = begun.elapsed().as_millis() as u64,
            "catalog loaded"
        );
        Ok(Some(follower))
    }

    /// The change stream broke: reads everything again and applies only the differences.
    async fn recover(
        &self,
        error: FollowError,
        shutdown: &CancellationToken,
    ) -> Result<Option<Box<dyn Follower>>, FeedError> {
        let mut error = error;
        loop {
            if matches!(error, FollowError::Closed) {
                return Ok(None);
            }
            warn!(%error, "the change stream broke; reading the store again");
            let Some((position, records)) = self.read_again(shutdown).await? else { return Ok(None) };
            self.display.reload(position, records);
            match self.store.follow(position) {
                Ok(follower) => return Ok(Some(follower)),
                Err(next) => error = next,
            }
        }
    }

    /// Reads the store's latest contents, however long it takes until they can be read: what is served meanwhile is old,
    /// but better than nothing. None when the store closes or the process ends.
    async fn read_again(&self, shutdown: &CancellationToken) -> Result<Option<(Position, Vec<Loaded>)>, FeedError> {
        let mut pause = Duration::from_millis(50);
        loop {
            let read = tokio::select! {
                read = self.read_latest() => read,
                () = shutdown.cancelled() => return Ok(None),
            };
            match read {
                // What the store has not on disk yet is read again a little later, so that nothing moves backwards.
                Ok((position, _))
                    if self.live.position().epoch == position.epoch && !position.includes(&self.live.position()) => {}
                Ok(read) => return Ok(Some(read)),
                Err(StoreError::Closed) => return Ok(None),
                Err(error) => warn!(%error, "the store can't be read; trying again"),
            }
            let jitter = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::select! {
                () = tokio::time::sleep(jitter) => {}
                () = shutdown.cancelled() => return Ok(None),
            }
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn read_latest(&self) -> Result<(Position, Vec<Loaded>), StoreError> {
        let mut contents = self.store.read_all(ReadAt::Latest).await?;
        let mut records = Vec::new();
        while let Some(batch) = contents.records.recv().await {
            records.extend(batch?.into_iter().map(|stored| (stored.key, stored.record, stored.revision)));
        }
        Ok((contents.position, records))
    }
}
