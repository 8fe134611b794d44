//! The change log in memory, and the followers that read it.
//!
//! It is bounded by count and by bytes and forgets its oldest changes; a follower that fell behind what is left is told
//! so and starts over. Publishing wakes the followers but never waits for one.

use crate::store::{FollowError, Follower};
use fingerpost_catalog::{ChangeSet, Epoch, Position};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// A change set and the bytes that it counts for.
struct Kept {
    set: Arc<ChangeSet>,
    bytes: usize,
}

struct Log {
    epoch: Epoch,
    /// The number of the latest change.
    head: u64,
    /// The changes up to `head`, without a gap.
    sets: VecDeque<Kept>,
    bytes: usize,
    closed: bool,
}

impl Log {
    /// The number after which everything is here.
    fn oldest(&self) -> u64 {
        self.head - self.sets.len() as u64
    }

    fn after(&self, epoch: Epoch, number: u64) -> Result<Option<Arc<ChangeSet>>, FollowError> {
        if epoch != self.epoch || number > self.head {
            return Err(FollowError::Foreign);
        }
        if number == self.head {
            return if self.closed { Err(FollowError::Closed) } else { Ok(None) };
        }
        let place = number.checked_sub(self.oldest()).ok_or(FollowError::Compacted)?;
        let kept = usize::try_from(place).ok().and_then(|place| self.sets.get(place));
        Ok(Some(Arc::clone(&kept.ok_or(FollowError::Compacted)?.set)))
    }

    fn forget(&mut self) {
        if let Some(kept) = self.sets.pop_front() {
            self.bytes -= kept.bytes;
        }
    }
}

/// The change log of one store.
pub(super) struct History {
    log: RwLock<Log>,
    /// Tells that something happened; its value only makes every change different.
    changed: watch::Sender<u64>,
    max_changes: usize,
    max_bytes: usize,
}

impl History {
    /// A log that begins at a position.
    pub(super) fn new(position: Position, max_changes: usize, max_bytes: usize) -> Self {
        Self {
            log: RwLock::new(Log {
                epoch: position.epoch,
                head: position.number,
                sets: VecDeque::new(),
                bytes: 0,
                closed: false,
            }),
            changed: watch::Sender::new(0),
            max_changes: max_changes.max(1),
            max_bytes,
        }
    }

    /// The latest position.
    pub(super) fn head(&self) -> Position {
        let log = self.log.read();
        Position::new(log.epoch, log.head)
    }

    /// The oldest number that can be followed from.
    pub(super) fn oldest(&self) -> u64 {
        self.log.read().oldest()
    }

    /// Adds change sets, each one number after the one before it.
    pub(super) fn publish(&self, sets: impl IntoIterator<Item = (Arc<ChangeSet>, usize)>) {
        {
            let mut log = self.log.write();
            for (set, bytes) in sets {
                debug_assert_eq!(set.position.number, log.head + 1);
                log.head = set.position.number;
                log.bytes += bytes;
                log.sets.push_back(Kept { set, bytes });
                // The latest one is always kept, however large.
                while log.sets.len() > self.max_changes || (log.bytes > self.max_bytes && log.sets.len() > 1) {
                    log.forget();
                }
            }
        }
        self.wake();
    }

    /// Forgets everything up to a number.
    pub(super) fn forget(&self, up_to: u64) {
        let mut log = self.log.write();
        while log.oldest() < up_to && !log.sets.is_empty() {
            log.forget();
        }
    }

    /// Begins another history: nobody can resume from before.
    pub(super) fn renew(&self, epoch: Epoch) {
        {
            let mut log = self.log.write();
            log.epoch = epoch;
            log.sets.clear();
            log.bytes = 0;
        }
        self.wake();
    }

    /// Ends all followers, after what they can still read.
    pub(super) fn close(&self) {
        self.log.write().closed = true;
        self.wake();
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Follows from a position.
    pub(super) fn follow(self: &Arc<Self>, after: Position) -> Result<Box<dyn Follower>, FollowError> {
        // Subscribed before the look, so that nothing in between is missed.
        let changed = self.changed.subscribe();
        let log = self.log.read();
        if log.closed {
            return Err(FollowError::Closed);
        }
        log.after(after.epoch, after.number)?;
        Ok(Box::new(Reader { history: Arc::clone(self), changed, epoch: after.epoch, number: after.number }))
    }
}

struct Reader {
    history: Arc<History>,
    changed: watch::Receiver<u64>,
    epoch: Epoch,
    /// What was read last.
    number: u64,
}

impl Reader {
    async fn wait(&mut self) -> Result<Arc<ChangeSet>, FollowError> {
        loop {
            self.changed.mark_unchanged();
            if let Some(set) = self.try_next()? {
                return Ok(set);
            }
            // The sender lives in the history that this reader holds, so it can't be gone.
            self.changed.changed().await.map_err(|_| FollowError::Closed)?;
        }
    }
}

impl Follower for Reader {
    fn next(&mut self) -> BoxFuture<'_, Result<Arc<ChangeSet>, FollowError>> {
        self.wait().boxed()
    }

    fn try_next(&mut self) -> Result<Option<Arc<ChangeSet>>, FollowError> {
        let set = self.history.log.read().after(self.epoch, self.number)?;
        if set.is_some() {
            self.number += 1;
        }
        Ok(set)
    }
}
