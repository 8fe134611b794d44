//! The change log in memory, and the followers that read it; all back ends have one.
//!
//! It is bounded by count and by bytes and forgets its oldest changes; a follower that fell behind what is left is told
//! so and starts over. Publishing wakes the followers but never waits for one. The bounds are for followers that have yet to
//! read: of what all of them have, only a little is kept, since changes take several times the memory of what they change.

use crate::store::{FollowError, Follower};
use fingerpost_catalog::{ChangeSet, Epoch, Position};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// How many bytes of changes that all followers have are kept, for one that comes back.
const READ_BYTES: usize = 1 << 20;

/// A change set and the bytes that it counts for.
struct Kept {
    set: Arc<ChangeSet>,
    bytes: usize,
}

struct Log {
    epoch: Epoch,
    /// The number of the latest change.
    head: u64,
    /// The highest number that is known to exist; followers may wait for what comes after it.
    known: u64,
    /// The number after which everything is here.
    oldest: u64,
    /// The changes after `oldest`, in the order of their numbers, which may have gaps.
    sets: VecDeque<Kept>,
    bytes: usize,
    /// What each follower has read last.
    readers: Vec<Weak<AtomicU64>>,
    closed: bool,
}

impl Log {
    fn after(&self, epoch: Epoch, number: u64) -> Result<Option<Arc<ChangeSet>>, FollowError> {
        if epoch != self.epoch || number > self.known {
            return Err(FollowError::Foreign);
        }
        if number >= self.head {
            return if self.closed { Err(FollowError::Closed) } else { Ok(None) };
        }
        let ahead = number.checked_sub(self.oldest).ok_or(FollowError::Compacted)?;
        // Without gaps it would be exactly there; with gaps, it is not behind.
        let farthest = usize::try_from(ahead).unwrap_or(usize::MAX).min(self.sets.len().saturating_sub(1));
        let place = match self.sets.get(farthest) {
            Some(kept) if kept.set.position.number == number + 1 => farthest,
            _ => self.sets.partition_point(|kept| kept.set.position.number <= number),
        };
        Ok(self.sets.get(place).map(|kept| Arc::clone(&kept.set)))
    }

    /// The number up to which all followers have read.
    fn read(&mut self) -> u64 {
        let mut read = u64::MAX;
        self.readers.retain(|reader| {
            let number = reader.upgrade().map(|number| number.load(Ordering::Relaxed));
            read = read.min(number.unwrap_or(u64::MAX));
            number.is_some()
        });
        read
    }

    /// Forgets what is beyond the bounds. The latest set is always kept, however large.
    fn trim(&mut self, max_changes: usize, max_bytes: usize) {
        while self.sets.len() > 1 && (self.sets.len() > max_changes || self.bytes > max_bytes) {
            self.forget();
        }
        if self.bytes <= READ_BYTES {
            return;
        }
        let read = self.read();
        while self.sets.len() > 1
            && self.bytes > READ_BYTES
            && self.sets.front().is_some_and(|kept| kept.set.position.number <= read)
        {
            self.forget();
        }
    }

    fn forget(&mut self) {
        if let Some(kept) = self.sets.pop_front() {
            self.bytes -= kept.bytes;
            self.oldest = kept.set.position.number;
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
                known: position.number,
                oldest: position.number,
                sets: VecDeque::new(),
                bytes: 0,
                readers: Vec::new(),
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
        self.log.read().oldest
    }

    /// Adds change sets, each with a higher number than the one before it.
    pub(super) fn publish(&self, sets: impl IntoIterator<Item = (Arc<ChangeSet>, usize)>) {
        {
            let mut log = self.log.write();
            for (set, bytes) in sets {
                debug_assert!(set.position.number > log.head);
                log.head = set.position.number;
                log.known = log.known.max(log.head);
                log.bytes += bytes;
                log.sets.push_back(Kept { set, bytes });
            }
            log.trim(self.max_changes, self.max_bytes);
        }
        self.wake();
    }

    /// Lets followers begin at a number that was seen elsewhere, though its changes have not come here yet.
    pub(super) fn know(&self, number: u64) {
        let mut log = self.log.write();
        log.known = log.known.max(number);
    }

    /// Forgets everything up to a number.
    pub(super) fn forget(&self, up_to: u64) {
        let mut log = self.log.write();
        while log.sets.front().is_some_and(|kept| kept.set.position.number <= up_to) {
            log.forget();
        }
        log.oldest = log.oldest.max(up_to.min(log.head));
    }

    /// Begins another history: nobody can resume from before.
    pub(super) fn renew(&self, epoch: Epoch) {
        let number = self.log.read().head;
        self.restart(Position::new(epoch, number));
    }

    /// Begins again at a position: nobody can resume from before, also in the same epoch.
    pub(super) fn restart(&self, position: Position) {
        {
            let mut log = self.log.write();
            log.epoch = position.epoch;
            log.head = position.number;
            log.known = position.number;
            log.oldest = position.number;
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
        let mut log = self.log.write();
        if log.closed {
            return Err(FollowError::Closed);
        }
        log.after(after.epoch, after.number)?;
        let number = Arc::new(AtomicU64::new(after.number));
        log.readers.push(Arc::downgrade(&number));
        Ok(Box::new(Reader { history: Arc::clone(self), changed, epoch: after.epoch, number }))
    }
}

struct Reader {
    history: Arc<History>,
    changed: watch::Receiver<u64>,
    epoch: Epoch,
    /// What was read last; the log looks at it, too.
    number: Arc<AtomicU64>,
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
        let set = self.history.log.read().after(self.epoch, self.number.load(Ordering::Relaxed))?;
        if let Some(set) = &set {
            self.number.store(set.position.number, Ordering::Relaxed);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(history: &History, numbers: std::ops::RangeInclusive<u64>, bytes: usize) {
        for number in numbers {
            let set = ChangeSet { position: Position::new(Epoch(1), number), changes: Vec::new() };
            history.publish([(Arc::new(set), bytes)]);
        }
    }

    #[test]
    fn what_all_have_read_is_kept_for_a_while_only() {
        let history = Arc::new(History::new(Position::new(Epoch(1), 0), 1000, 10 * READ_BYTES));
        let mut slow = history.follow(Position::new(Epoch(1), 0)).unwrap_or_else(|error| panic!("{error}"));
        publish(&history, 1..=8, READ_BYTES);
        assert_eq!(history.oldest(), 0, "somebody has yet to read it");
        for number in 1..=8 {
            let set = slow.try_next().ok().flatten();
            assert_eq!(set.map(|set| set.position.number), Some(number));
        }
        publish(&history, 9..=9, READ_BYTES);
        assert_eq!(history.oldest(), 8);
        publish(&history, 10..=30, READ_BYTES);
        assert_eq!(history.oldest(), 20, "the bound holds for who does not read, too");
        assert!(matches!(slow.try_next(), Err(FollowError::Compacted)));
        drop(slow);
        publish(&history, 31..=31, 1);
        assert_eq!(history.oldest(), 30, "with nobody to read them, little is kept");
    }
}
