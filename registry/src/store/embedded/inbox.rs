//! The bounded queue in front of the writer thread.
//!
//! Callers wait for room without blocking a thread; the writer takes everything that is there at once, up to a bound,
//! because that is what one trip to the disk should carry.

use crate::store::prepare::Prepared;
use crate::store::{CommitError, Committed, StoreError};
use fingerpost_catalog::{Epoch, Position};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::{Semaphore, oneshot};

/// A commit and who waits for its outcome.
pub(super) struct Job {
    pub(super) commit: Prepared,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
}

/// What the writer is asked for besides commits.
pub(super) enum Request {
    /// Forget the changes up to a position.
    Compact(Position, oneshot::Sender<Result<(), StoreError>>),
    /// Begin another history.
    Renew(oneshot::Sender<Result<Epoch, StoreError>>),
}

/// What the writer finds.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) jobs: Vec<Job>,
    pub(super) requests: Vec<Request>,
    pub(super) closing: bool,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    requests: VecDeque<Request>,
    nudged: bool,
    closing: bool,
}

/// The queue.
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Places for commits; requests have a place each of their own.
    room: Semaphore,
    requests: Semaphore,
    group_commits: usize,
    group_bytes: usize,
}

/// Requests that may wait at a time.
const REQUESTS: usize = 64;

impl Inbox {
    /// A queue of so many commits, handed out in groups of at most so many commits and bytes.
    pub(super) fn new(capacity: usize, group_commits: usize, group_bytes: usize) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            ready: Condvar::new(),
            room: Semaphore::new(capacity.max(1)),
            requests: Semaphore::new(REQUESTS),
            group_commits: group_commits.max(1),
            group_bytes,
        }
    }

    /// Adds a commit once there is room; gives it back after [`Inbox::close`].
    pub(super) async fn add(&self, job: Job) -> Result<(), Job> {
        let Ok(permit) = self.room.acquire().await else {
            return Err(job);
        };
        let mut queue = self.queue.lock();
        if queue.closing {
            return Err(job);
        }
        permit.forget();
        queue.jobs.push_back(job);
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    /// Adds a request once there is room.
    pub(super) async fn ask(&self, request: Request) -> Result<(), Request> {
        let Ok(permit) = self.requests.acquire().await else {
            return Err(request);
        };
        let mut queue = self.queue.lock();
        if queue.closing {
            return Err(request);
        }
        permit.forget();
        queue.requests.push_back(request);
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    /// Wakes the writer though nothing was added.
    pub(super) fn nudge(&self) {
        self.queue.lock().nudged = true;
        self.ready.notify_one();
    }

    /// Refuses everything from now on; what was added before is still handed out.
    pub(super) fn close(&self) {
        self.queue.lock().closing = true;
        self.room.close();
        self.requests.close();
        self.ready.notify_one();
    }

    /// Refuses everything from now on and lets go of what waits: nobody will ever take it. Its callers are told by the
    /// loss of their reply's sender.
    pub(super) fn abandon(&self) {
        self.close();
        let mut queue = self.queue.lock();
        queue.jobs.clear();
        queue.requests.clear();
    }

    /// Whether it was closed.
    pub(super) fn closing(&self) -> bool {
        self.queue.lock().closing
    }

    /// Takes what is there; waits for something until then, or for ever.
    pub(super) fn take(&self, until: Option<Instant>) -> Taken {
        let mut queue = self.queue.lock();
        while queue.jobs.is_empty() && queue.requests.is_empty() && !queue.nudged && !queue.closing {
            match until {
                None => self.ready.wait(&mut queue),
                Some(until) => {
                    if self.ready.wait_until(&mut queue, until).timed_out() {
                        break;
                    }
                }
            }
        }
        queue.nudged = false;
        let mut taken = Taken { requests: queue.requests.drain(..).collect(), ..Taken::default() };
        let mut bytes = 0;
        while taken.jobs.len() < self.group_commits && (taken.jobs.is_empty() || bytes < self.group_bytes) {
            let Some(job) = queue.jobs.pop_front() else { break };
            bytes += job.commit.bytes;
            taken.jobs.push(job);
        }
        taken.closing = queue.closing && queue.jobs.is_empty();
        drop(queue);
        self.room.add_permits(taken.jobs.len());
        self.requests.add_permits(taken.requests.len());
        taken
    }
}
