//! A check that is at home here, between its runs.

use crate::checks::CheckKey;
use crate::checks::verdict::{Outcome, Streak};
use crate::store::CommitError;
use fingerpost_catalog::{Check, Health};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// What a job's timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Purpose {
    /// It is to be run; a TTL check, to be looked whether it is overdue.
    Run,
    /// Its verdict is to be written once more.
    Write,
}

/// A timer. It counts while its job still waits for that very moment.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Timer {
    pub(super) at: Instant,
    pub(super) number: u64,
    pub(super) purpose: Purpose,
    pub(super) key: CheckKey,
}

#[derive(Debug)]
pub(super) enum State {
    Waiting,
    /// Due, but there is no place yet.
    Queued,
    Running(AbortHandle),
}

/// A check that is at home here.
#[derive(Debug)]
pub(super) struct Job {
    /// Tells it apart from others of the same key, before and after.
    pub(super) number: u64,
    pub(super) check: Arc<Check>,
    pub(super) target: Result<SocketAddr, String>,
    pub(super) state: State,
    /// When it is due, or was.
    pub(super) due: Instant,
    pub(super) streak: Streak,
    /// A verdict is being written.
    pub(super) writing: bool,
    /// When to try writing again, and how often it failed.
    pub(super) again: Option<Instant>,
    pub(super) failed: u32,
    /// The revision of a TTL check's verdict that its deadline has taken notice of.
    pub(super) seen: u64,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let State::Running(probe) = &self.state {
            probe.abort();
        }
    }
}

/// A probe that has come to its end.
pub(super) struct Ran {
    pub(super) key: CheckKey,
    pub(super) number: u64,
    pub(super) outcome: Outcome,
}

/// A write that has come to its end.
pub(super) struct Wrote {
    /// Of which job; none where a part was cleared away.
    pub(super) job: Option<(CheckKey, u64, Health)>,
    pub(super) result: Result<(), CommitError>,
}
