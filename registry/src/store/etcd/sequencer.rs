//! From many callers to few transactions.
//!
//! One task takes the commits that wait and packs them into groups; a few groups are under way at a time, each in a slot
//! of its own. A commit that is about a key that one before it writes waits until that one is done: so a group holds a
//! key once, and commits of one caller keep their order.

use super::Core;
use super::delivery::{self, Slot};
use super::plan::{Busy, Claims, Job, Planned};
use super::transaction::{MAX_BYTES, MAX_OPERATIONS};
use crate::store::CommitError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

/// How long a commit may wait for its turn. Then etcd is away, or much slower than what is asked of it, and the caller had
/// better know soon that nothing was written.
const PATIENCE: Duration = Duration::from_millis(2500);
/// How often it is looked for what has waited too long.
const EXPIRY: Duration = Duration::from_millis(100);
/// How far into the queue a group may reach past commits that can't be part of it.
const REACH: usize = 2048;

/// The bounded queue in front of the sequencer.
pub(super) struct Inbox {
    jobs: Mutex<VecDeque<Job>>,
    room: Semaphore,
    ready: Notify,
}

impl Inbox {
    pub(super) fn new(capacity: usize) -> Self {
        Self { jobs: Mutex::new(VecDeque::new()), room: Semaphore::new(capacity.max(1)), ready: Notify::new() }
    }

    /// Adds a commit once there is room.
    pub(super) async fn add(&self, job: Job) -> Result<(), CommitError> {
        match tokio::time::timeout(PATIENCE, self.room.acquire()).await {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) => return Err(super::closed()),
            Err(_) => return Err(CommitError::Unavailable("too many writes wait for etcd".to_owned())),
        }
        let mut jobs = self.jobs.lock();
        if self.room.is_closed() {
            return Err(super::closed());
        }
        jobs.push_back(job);
        drop(jobs);
        self.ready.notify_one();
        Ok(())
    }

    /// Refuses everything from now on; what was added before is still carried out.
    pub(super) fn close(&self) {
        let jobs = self.jobs.lock();
        self.room.close();
        drop(jobs);
        self.ready.notify_one();
    }

    fn closing(&self) -> bool {
        self.room.is_closed()
    }
}

/// What a delivery tells the sequencer.
pub(super) enum Report {
    /// The slot can be used again.
    Free(Slot),
    /// These commits are done.
    Done(Vec<Job>),
    /// These have to be tried again, before all others.
    Again(Vec<Job>),
}

struct Sequencer {
    core: Arc<Core>,
    queue: VecDeque<Job>,
    busy: Busy,
    slots: Vec<Slot>,
    /// Jobs that are neither queued nor done.
    under_way: usize,
    reports: mpsc::UnboundedSender<Report>,
}

/// Runs until the inbox is closed and everything that was added is done.
pub(super) async fn run(core: Arc<Core>, slots: usize) {
    // Bounded by what is under way.
    let (reports, mut reported) = mpsc::unbounded_channel();
    let slots = (0..slots.max(1)).map(|n| Slot::new(core.mirror.keys.slots(&core.id), n)).collect();
    let queue = VecDeque::new();
    let mut expiry = tokio::time::interval(EXPIRY);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequencer = Sequencer { core, queue, busy: Busy::default(), slots, under_way: 0, reports };
    loop {
        // What is added before it closes is taken.
        let closing = sequencer.core.inbox.closing();
        sequencer.take();
        sequencer.send_groups();
        if closing && sequencer.queue.is_empty() && sequencer.under_way == 0 {
            return;
        }
        let core = Arc::clone(&sequencer.core);
        let waits = !sequencer.queue.is_empty();
        tokio::select! {
            report = reported.recv() => {
                if let Some(report) = report {
                    sequencer.hear(report);
                }
                while let Ok(report) = reported.try_recv() {
                    sequencer.hear(report);
                }
            }
            () = core.inbox.ready.notified() => {}
            () = core.dead.cancelled() => return sequencer.refuse(),
            _ = expiry.tick(), if waits => sequencer.expire(),
        }
    }
}

impl Sequencer {
    fn take(&mut self) {
        let mut jobs = self.core.inbox.jobs.lock();
        self.queue.extend(jobs.drain(..));
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Free(slot) => self.slots.push(slot),
            Report::Done(jobs) => {
                self.under_way -= jobs.len();
                for job in &jobs {
                    self.busy.remove(&Claims::of(job));
                }
                // Their places in the queue.
                self.core.inbox.room.add_permits(jobs.len());
            }
            Report::Again(jobs) => {
                self.under_way -= jobs.len();
                for job in jobs.into_iter().rev() {
                    self.busy.remove(&Claims::of(&job));
                    self.queue.push_front(job);
                }
            }
        }
    }

    /// The store has ended.
    fn refuse(mut self) {
        self.take();
        for job in self.queue {
            job.answer(Err(super::closed()));
        }
    }

    /// Gives up what has waited too long; it was never sent.
    fn expire(&mut self) {
        let now = Instant::now();
        if self.queue.iter().all(|job| now - job.since <= PATIENCE) {
            return;
        }
        let why = self.core.trouble().unwrap_or_else(|| "etcd is slower than what is asked of it".to_owned());
        let (old, rest): (VecDeque<Job>, VecDeque<Job>) =
            std::mem::take(&mut self.queue).into_iter().partition(|job| now - job.since > PATIENCE);
        self.queue = rest;
        self.core.inbox.room.add_permits(old.len());
        for job in old {
            job.answer(Err(CommitError::Unavailable(why.clone())));
        }
    }

    fn send_groups(&mut self) {
        while !self.queue.is_empty() && !self.slots.is_empty() {
            let (writing, verifying) = self.groups();
            if writing.is_empty() && verifying.is_empty() {
                return;
            }
            // What only verifies needs no slot, but as few transactions are under way as there are slots.
            for (group, writes) in [(writing, true), (verifying, false)] {
                let Some(slot) = (!group.is_empty()).then(|| self.slots.pop()).flatten() else { continue };
                self.under_way += group.len();
                let (core, reports) = (Arc::clone(&self.core), self.reports.clone());
                if writes {
                    self.core.vital("a delivery", delivery::write(core, slot, group, reports));
                } else {
                    self.core.vital("a delivery", delivery::verify(core, slot, group, reports));
                }
            }
        }
    }

    /// Takes from the queue what can be sent together now: commits that write, and commits that only verify.
    fn groups(&mut self) -> (Vec<Planned>, Vec<Planned>) {
        let mut writing = Group::new(1);
        // With one slot left it is either the ones or the others, whichever come first.
        let mut verifying = Group::new(0);
        let mut passed_over = Busy::default();
        let mut rest = VecDeque::new();
        let root = self.core.mirror.keys.records().len();
        let (core, last_slot) = (Arc::clone(&self.core), self.slots.len() == 1);
        core.mirror.look(|index, foreign| {
            while let Some(job) = self.queue.pop_front() {
                let claims = Claims::of(&job);
                if self.busy.meets(&claims) || passed_over.meets(&claims) {
                    passed_over.add(&claims);
                    rest.push_back(job);
                } else {
                    let planned = Planned::new(job, index, foreign);
                    let (group, other) = match planned.writes.is_empty() {
                        true => (&mut verifying, &writing),
                        false => (&mut writing, &verifying),
                    };
                    if (other.jobs.is_empty() || !last_slot) && group.takes(&planned, root) {
                        self.busy.add(&planned.claims());
                        group.jobs.push(planned);
                    } else {
                        passed_over.add(&planned.claims());
                        rest.push_back(planned.job);
                    }
                }
                // What comes after a full group is for the next one.
                if writing.full || verifying.full || rest.len() >= REACH {
                    break;
                }
            }
        });
        rest.append(&mut self.queue);
        self.queue = rest;
        (writing.jobs, verifying.jobs)
    }
}

/// A transaction in the making.
struct Group {
    jobs: Vec<Planned>,
    /// Operations and compares of the outer transaction beside those of the commits.
    outer: usize,
    /// The most that one commit takes of etcd's limit, and what all take together.
    depth: usize,
    checks: usize,
    writes: usize,
    bytes: usize,
    full: bool,
}

impl Group {
    fn new(outer: usize) -> Self {
        Self { jobs: Vec::new(), outer, depth: 0, checks: 0, writes: 0, bytes: 256, full: false }
    }

    /// Whether one more fits, in both of a transaction's forms; and if so, makes room for it.
    fn takes(&mut self, planned: &Planned, root: usize) -> bool {
        let (checks, writes) = (self.checks + planned.compares(), self.writes + planned.writes.len());
        let depth = self.depth.max(planned.compares().max(planned.writes.len()));
        let bytes = self.bytes + planned.bytes(root);
        // What is demanded would fail all others, too.
        let alone = !planned.demands().is_empty();
        let flat = self.outer + checks.max(writes);
        let nested = self.outer + self.jobs.len() + 1 + depth;
        let fits = self.jobs.is_empty() || (!alone && flat.max(nested) <= MAX_OPERATIONS && bytes <= MAX_BYTES);
        if fits {
            (self.depth, self.checks, self.writes, self.bytes) = (depth, checks, writes, bytes);
        }
        self.full = !fits || alone;
        fits
    }
}
