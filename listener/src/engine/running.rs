//! What the engine knows from one step to the next.

use super::{Map, reading::Reading};
use crate::backlog::{Backlog, Step};
use crate::index::{Index, LatencyKind, Record};
use crate::objects::Resources;
use crate::registry_side::Found;
use fingerpost_client::Error;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hashbrown::HashSet;
use rand::RngExt;
use std::time::Duration;
use tokio::time::Instant;

/// The wait after a failed write or read doubles from the first to the last.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A digest that nothing has: what a record is, is not known.
pub(super) const UNKNOWN: u64 = 0;

/// The records of a write under way, each with the digest that it has afterwards, none where it is removed.
pub(super) type Sent = Vec<(Record, Option<u64>)>;

pub(super) type Outcome = (Sent, Result<(), Error>);

/// How far it is with the registry.
pub(super) enum Standing {
    /// Another listener writes.
    Standby,
    /// The registry is being read for the first time.
    Reading(Reading),
    /// The registry's contents are known; perhaps they are being read again.
    Writing(Option<Reading>),
}

pub(super) struct Running {
    pub(super) index: Index,
    pub(super) backlog: Backlog,
    pub(super) written: Map<Record, u64>,
    /// What the registry does not take, with the digest that it refused.
    pub(super) refused: Map<Record, u64>,
    /// Records that are written without what they can't hold, each with the hash of what was said of that.
    pub(super) trimmed: Map<Record, u64>,
    pub(super) standing: Standing,
    pub(super) flying: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// Records in a write under way.
    pub(super) busy: HashSet<Record, ahash::RandomState>,
    /// The step of the writes under way; none where they are of several.
    pub(super) step: Option<Step>,
    /// Kinds that have shown no complete list yet.
    pub(super) unlisted: Vec<Resources>,
    /// Kinds whose list waits to be confirmed, each with how many records would go.
    pub(super) held: Vec<(Resources, u64)>,
    /// Whether removals may be written.
    pub(super) removing: bool,
    /// Whether additions may be written.
    pub(super) adding: bool,
    /// The removals that the first comparison came to, and the kinds whose lists have yet to confirm them.
    pub(super) confirming: Option<(u64, Vec<Resources>)>,
    /// So many records are written one by one, to find the one that is refused.
    pub(super) careful: usize,
    /// What was written while the registry was being read.
    pub(super) unsettled: Vec<Record>,
    pub(super) triggers: Map<Record, (i64, LatencyKind)>,
    pub(super) retry_at: Option<Instant>,
    pub(super) pause: Duration,
    pub(super) resync_at: Instant,
}

impl Running {
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY.1);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Forgets all that is about the registry.
    pub(super) fn forget(&mut self) {
        self.backlog.clear();
        self.written.clear();
        self.refused.clear();
        self.trimmed.clear();
        self.triggers.clear();
        self.unsettled.clear();
        self.busy.clear();
        self.flying.clear();
        (self.removing, self.adding, self.confirming, self.retry_at) = (false, false, None, None);
        (self.careful, self.step) = (0, None);
    }

    pub(super) fn push(&mut self, record: Record) {
        self.backlog.push(record, Step::of(record, self.index.shows(record)));
    }

    /// Has every record looked at: what is, and what should be.
    pub(super) fn push_all(&mut self) {
        for record in self.index.records() {
            self.push(record);
        }
        let gone: Vec<Record> = self.written.keys().copied().filter(|record| !self.index.shows(*record)).collect();
        for record in gone {
            self.push(record);
        }
    }

    pub(super) fn sweep(&mut self) {
        let reading = match &self.standing {
            Standing::Reading(reading) | Standing::Writing(Some(reading)) => Some(&reading.actual),
            _ => None,
        };
        let kept = self.written.keys().chain(self.busy.iter()).chain(self.refused.keys()).chain(self.triggers.keys());
        let kept = kept.chain(self.trimmed.keys());
        let kept = kept.chain(reading.into_iter().flat_map(|actual| actual.keys())).chain(&self.unsettled);
        self.index.sweep(kept.copied().chain(self.backlog.records()));
    }
}

pub(super) async fn next_page(standing: &mut Standing) -> Option<Result<Vec<Found>, Error>> {
    match standing {
        Standing::Reading(reading) | Standing::Writing(Some(reading)) => reading.pages.next().await,
        Standing::Standby | Standing::Writing(None) => std::future::pending().await,
    }
}
