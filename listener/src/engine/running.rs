//! What the engine knows from one step to the next.

use super::{Map, reading::Reading};
use crate::backlog::{Backlog, Step};
use crate::index::{Class, Index, LatencyKind, Record};
use crate::objects::Resources;
use crate::registry_side::Found;
use fingerpost_client::Error;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hashbrown::HashSet;
use rand::RngExt;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

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

/// What begins to be written together: a part waits for the lists of its own kinds only, so that one that can't be listed
/// does not hold up the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Namespaces, services, and their instances.
    Services,
    /// Pods, for their own names.
    Pods,
}

impl Part {
    pub(super) const ALL: [Self; 2] = [Self::Services, Self::Pods];

    pub(super) fn of(record: Record) -> Self {
        match record.class() {
            Class::Namespaces | Class::Services | Class::Instances => Self::Services,
            Class::Pods => Self::Pods,
        }
    }

    /// Which lists say what should be there.
    pub(super) fn needs(self, resources: Resources) -> bool {
        match resources {
            Resources::Namespaces => true,
            Resources::Services | Resources::EndpointSlices => self == Self::Services,
            Resources::Pods => self == Self::Pods,
        }
    }
}

/// How far it is with a part.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Whether additions may be written.
    pub(super) adding: bool,
    /// Whether removals may be written.
    pub(super) removing: bool,
    /// The removals that the first comparison came to, and the kinds whose lists have yet to confirm them.
    pub(super) confirming: Option<(u64, Vec<Resources>)>,
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
    pub(super) flying: FuturesUnordered<AbortOnDropHandle<Outcome>>,
    /// Records in a write under way.
    pub(super) busy: HashSet<Record, ahash::RandomState>,
    /// The step of the writes under way; none where they are of several.
    pub(super) step: Option<Step>,
    /// Kinds that have shown no complete list yet.
    pub(super) unlisted: Vec<Resources>,
    /// Kinds whose list waits to be confirmed, each with how many records would go.
    pub(super) held: Vec<(Resources, u64)>,
    /// How far it is with each part, by [`Part`].
    pub(super) parts: [Begun; 2],
    /// So many records are written one by one, to find the one that is refused.
    pub(super) careful: usize,
    /// What was written while the registry was being read.
    pub(super) unsettled: Vec<Record>,
    pub(super) triggers: Map<Record, (i64, LatencyKind)>,
    pub(super) retry_at: Option<Instant>,
    pub(super) pause: Duration,
    pub(super) resync_at: Instant,
    /// Of which cluster the registry's records of this source are, as far as they say.
    pub(super) owner: Option<String>,
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
        self.parts = Default::default();
        (self.careful, self.step, self.retry_at) = (0, None, None);
    }

    /// Has a record looked at. What can't be written yet is compared when its part begins.
    pub(super) fn push(&mut self, record: Record) {
        if !self.begun(record).adding {
            return;
        }
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

    /// Has everything looked at again that the registry has refused; perhaps it takes it now.
    pub(super) fn retry_refused(&mut self) {
        for record in std::mem::take(&mut self.refused).into_keys() {
            self.push(record);
            self.push_instances(record);
        }
    }

    /// Has the instances of a service looked at, because it has come to be refused, or is so no longer.
    pub(super) fn push_instances(&mut self, record: Record) {
        let Record::Service(namespace, service) = record else { return };
        for instance in self.index.instances_of(namespace, service) {
            self.push(instance);
        }
    }

    /// How far it is with what a record is a part of.
    pub(super) fn begun(&self, record: Record) -> &Begun {
        &self.parts[Part::of(record) as usize]
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
        Standing::Reading(reading) => reading.pages.next().await,
        Standing::Writing(Some(reading)) => {
            // Changes go before a comparison.
            tokio::task::yield_now().await;
            reading.pages.next().await
        }
        Standing::Standby | Standing::Writing(None) => std::future::pending().await,
    }
}
