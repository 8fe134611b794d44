//! The writer: the one thread that changes anything.
//!
//! It takes what waits in the inbox as one group, judges it, writes it with one sync, publishes it and only then replies.
//! In between it does what must not hold commits up: writing the next base, sweeping, persisting relaxed commits.

use super::checkpoint::Checkpoint;
use super::disk::Trouble;
use super::inbox::{Job, Request, Taken};
use super::index::{Index, KeyHasher};
use super::judge::{Group, Judge};
use super::persist::Extra;
use super::recover::Failing;
use super::segments::{Due, Segments};
use super::tables::Base;
use super::values::{LogRow, Values};
use super::{EmbeddedOptions, Shared};
use crate::store::{CommitError, Durability, StoreError};
use fingerpost_catalog::{Epoch, Position};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a relaxed commit may wait for the disk.
const RELAXED_DELAY: Duration = Duration::from_millis(50);
/// How long after the last of them an unclean end is no reason for a new epoch any more.
const RELAXED_REST: Duration = Duration::from_secs(5);
/// How often the position is noted beside the database.
const SEEN_EVERY: Duration = Duration::from_secs(1);

/// The writer's state. Nobody else touches it.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) options: EmbeddedOptions,
    pub(super) hasher: KeyHasher,
    pub(super) due: Due,
    pub(super) epoch: Epoch,
    /// The latest number that was published.
    pub(super) head: u64,
    /// The latest number that is on disk.
    pub(super) persisted: u64,
    pub(super) index: Index,
    pub(super) base: Base,
    pub(super) segments: Segments,
    /// Published, not yet on disk.
    pub(super) unsynced: VecDeque<LogRow>,
    pub(super) unsynced_bytes: usize,
    pub(super) unsynced_since: Option<Instant>,
    /// Whether the disk says that a relaxed tail may be lost.
    pub(super) relaxed_marked: bool,
    /// When the latest relaxed commit came.
    pub(super) relaxed_at: Option<Instant>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether superfluous rows may be left.
    pub(super) sweeping: bool,
    /// Set while writing fails.
    pub(super) failing: Option<Failing>,
    /// A group of which it is not known whether it reached the disk.
    pub(super) limbo: Option<Group>,
    pub(super) seen: Option<(Position, Instant)>,
    /// Whether room for a repair is kept.
    pub(super) reserved: bool,
}

impl Writer {
    /// Runs until the inbox is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let Taken { jobs, requests, closing } = self.shared.inbox.take(self.wake_at());
            for request in requests {
                self.request(request);
            }
            if !jobs.is_empty() {
                self.group(jobs);
            }
            self.housekeeping();
            if closing {
                break;
            }
        }
        self.finish();
    }

    /// When something is due without anybody asking; none: never.
    fn wake_at(&self) -> Option<Instant> {
        if let Some(failing) = &self.failing {
            return Some(failing.retry_at);
        }
        if self.sweeping || self.checkpoint.as_ref().is_some_and(Checkpoint::wants_writing) {
            return Some(Instant::now());
        }
        let relaxed = match self.unsynced_since {
            Some(since) => Some(since + RELAXED_DELAY),
            None => self.relaxed_at.map(|at| at + RELAXED_REST),
        };
        let seen = match self.seen {
            Some((position, at)) if position.number < self.persisted => Some(at + SEEN_EVERY),
            _ => None,
        };
        [relaxed, seen].into_iter().flatten().min()
    }

    fn group(&mut self, mut jobs: Vec<Job>) {
        if self.failing.as_ref().is_some_and(|failing| Instant::now() >= failing.retry_at) {
            self.prepare_retry();
        }
        self.refuse(&mut jobs);
        if jobs.is_empty() {
            return;
        }
        let mut group = Group::default();
        if let Err(trouble) = self.judge(jobs, &mut group) {
            group.undo(&mut self.index);
            let error = trouble.commit_error();
            self.recover(trouble);
            group.answer(Some(&error));
            return;
        }
        if group.durable && !(group.rows.is_empty() && self.unsynced.is_empty()) {
            self.persist(group);
        } else if group.rows.is_empty() {
            group.answer(None);
        } else {
            self.relax(group);
        }
    }

    /// Turns away what can't be taken now.
    fn refuse(&mut self, jobs: &mut Vec<Job>) {
        let Some(failing) = &self.failing else { return };
        let error = failing.trouble.commit_error();
        let nothing = self.limbo_or_shut();
        // While writing fails, one group now and then tries whether it still does.
        let durable = Instant::now() < failing.retry_at;
        let relaxed = durable && (!self.relaxed_marked || self.unsynced_bytes >= self.options.relaxed_bytes);
        let mut kept = Vec::with_capacity(jobs.len());
        for job in jobs.drain(..) {
            let refused = nothing
                || match job.commit.durability {
                    Durability::Durable => durable,
                    Durability::Relaxed => relaxed,
                };
            if refused {
                // The caller may have left.
                let _ = job.reply.send(Err(error.clone()));
            } else {
                kept.push(job);
            }
        }
        *jobs = kept;
    }

    fn judge(&mut self, jobs: Vec<Job>, group: &mut Group) -> Result<(), Trouble> {
        let read = self.shared.read().and_then(|transaction| Values::new(&transaction));
        let values = match read {
            Ok(values) => values,
            Err(trouble) => {
                for job in jobs {
                    let _ = job.reply.send(Err(CommitError::Unavailable(trouble.to_string())));
                }
                return Err(trouble);
            }
        };
        let mut judge = Judge {
            epoch: self.epoch,
            head: self.head,
            index: &mut self.index,
            base: self.base,
            unsynced: &self.unsynced,
            values: &values,
        };
        judge.judge(jobs, group)
    }

    /// Writes a group, publishes it and replies.
    fn persist(&mut self, mut group: Group) {
        let last = group.last().unwrap_or(self.head);
        match self.transact(&group.rows, &Extra::default()) {
            Ok(()) => self.applied(group),
            Err(trouble) => {
                let (error, unknown) = (trouble.commit_error(), CommitError::Unknown(trouble.to_string()));
                match self.recover(trouble) {
                    Some(on_disk) if on_disk >= last => {
                        self.account(&group);
                        self.applied(group);
                    }
                    Some(_) => {
                        group.undo(&mut self.index);
                        group.answer(Some(&error));
                    }
                    None => {
                        group.answer(Some(&unknown));
                        self.limbo = Some(group);
                    }
                }
            }
        }
    }

    /// Notes how much log a group became that only a look at the disk showed to be there.
    pub(super) fn account(&mut self, group: &Group) {
        for row in &group.rows {
            self.segments.add(row.last(), row.bytes().len() as u64);
        }
    }

    /// A group is on disk: everybody may know.
    pub(super) fn applied(&mut self, mut group: Group) {
        self.publish(&mut group);
        group.answer(None);
    }

    fn publish(&mut self, group: &mut Group) {
        if let Some(last) = group.last() {
            self.head = last;
        }
        self.shared.records.store(self.index.len() as u64, Ordering::Relaxed);
        self.shared.history.publish(group.sets.drain(..));
    }

    /// Publishes a group that nobody waits for on disk.
    fn relax(&mut self, mut group: Group) {
        if !self.relaxed_marked {
            let extra = Extra { relaxed: Some(true), ..Extra::default() };
            if let Err(trouble) = self.transact(&VecDeque::new(), &extra) {
                let error = trouble.commit_error();
                group.undo(&mut self.index);
                self.recover(trouble);
                group.answer(Some(&error));
                return;
            }
            self.relaxed_marked = true;
        }
        for row in std::mem::take(&mut group.rows) {
            self.head = row.last();
            self.unsynced_bytes += row.bytes().len();
            self.unsynced.push_back(row);
        }
        let now = Instant::now();
        self.relaxed_at = Some(now);
        self.unsynced_since.get_or_insert(now);
        self.publish(&mut group);
        group.answer(None);
    }

    fn request(&mut self, request: Request) {
        // The one who asked may have left.
        match request {
            Request::Compact(up_to, reply) => {
                let _ = reply.send(self.compact(up_to));
            }
            Request::Renew(reply) => {
                let _ = reply.send(self.renew());
            }
        }
    }

    fn compact(&mut self, up_to: Position) -> Result<(), StoreError> {
        if up_to.epoch != self.epoch {
            return Err(StoreError::Unavailable("the position belongs to another history of the store".to_owned()));
        }
        let floor = up_to.number.min(self.persisted);
        self.control(&Extra { floor: Some(floor), ..Extra::default() })?;
        self.shared.history.forget(floor);
        Ok(())
    }

    fn renew(&mut self) -> Result<Epoch, StoreError> {
        let epoch = Epoch(rand::random());
        self.control(&Extra { epoch: Some(epoch), floor: Some(self.head), ..Extra::default() })?;
        self.epoch = epoch;
        self.shared.history.renew(epoch);
        self.note_seen(true);
        Ok(epoch)
    }

    fn control(&mut self, extra: &Extra) -> Result<(), StoreError> {
        if let Some(failing) = &self.failing {
            return Err(StoreError::Unavailable(failing.trouble.to_string()));
        }
        self.transact(&VecDeque::new(), extra).map_err(|trouble| {
            let error = StoreError::Unavailable(trouble.to_string());
            self.recover(trouble);
            error
        })
    }

    /// What is due besides commits.
    fn housekeeping(&mut self) {
        let now = Instant::now();
        if let Some(failing) = &self.failing {
            if now >= failing.retry_at {
                self.retry();
            }
            return;
        }
        self.start_checkpoint();
        if let Some(checkpoint) = &mut self.checkpoint
            && let Err(trouble) = checkpoint.poll(1)
        {
            tracing::warn!(%trouble, "a new base could not be built; it will be tried again");
            self.abandon_checkpoint();
        }
        let relaxed = self.unsynced_since.is_some_and(|since| now >= since + RELAXED_DELAY)
            || self.unsynced_bytes >= self.options.relaxed_bytes;
        let base = self.checkpoint.as_ref().is_some_and(Checkpoint::wants_writing);
        if relaxed || base || self.sweeping {
            self.step();
        } else if self.relaxed_at.is_some_and(|at| now >= at + RELAXED_REST) && self.unsynced.is_empty() {
            self.relaxed_at = None;
            if let Err(trouble) = self.transact(&VecDeque::new(), &Extra { relaxed: Some(false), ..Extra::default() }) {
                self.recover(trouble);
            }
        }
        if self.seen.is_some_and(|(seen, at)| seen.number < self.persisted && now >= at + SEEN_EVERY) {
            self.note_seen(false);
        }
    }

    /// A transaction without a group.
    pub(super) fn step(&mut self) {
        if let Err(trouble) = self.transact(&VecDeque::new(), &Extra::default()) {
            self.recover(trouble);
        }
    }

    fn start_checkpoint(&mut self) {
        if self.checkpoint.is_some() || self.sweeping {
            return;
        }
        let Some(position) = self.segments.due(&self.due, self.base.bytes) else {
            return;
        };
        match Checkpoint::start(&self.shared, self.hasher.clone(), self.base, position.min(self.persisted)) {
            Ok(checkpoint) => self.checkpoint = Some(checkpoint),
            Err(trouble) => tracing::warn!(%trouble, "a new base could not be begun; it will be tried again"),
        }
    }

    /// Gives up the base that is being built; its chunks are swept away.
    pub(super) fn abandon_checkpoint(&mut self) {
        if self.checkpoint.take().is_some() {
            self.sweeping = true;
        }
    }

    /// Notes the position beside the database.
    pub(super) fn note_seen(&mut self, sync: bool) {
        if let Some(folder) = &self.shared.folder {
            let position = Position::new(self.epoch, self.persisted);
            folder.note_seen(position, sync);
            self.seen = Some((position, Instant::now()));
        }
    }

    /// Persists what is pending, once, and lets go of the disk.
    fn finish(&mut self) {
        self.abandon_checkpoint();
        if self.limbo_or_shut() {
            self.reopen();
        }
        self.sweeping = false;
        let extra = Extra { relaxed: self.relaxed_marked.then_some(false), ..Extra::default() };
        let pending = !self.unsynced.is_empty() || self.relaxed_marked;
        if self.limbo_or_shut() {
            tracing::warn!(commits = self.head - self.persisted, "closed while the disk could not be written");
        } else if pending && let Err(trouble) = self.transact(&VecDeque::new(), &extra) {
            tracing::warn!(commits = self.head - self.persisted, %trouble, "relaxed commits could not be persisted");
        }
        self.note_seen(true);
        *self.shared.db.write() = None;
    }
}
