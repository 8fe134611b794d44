//! The runner: one task that knows the checks at home here, has each run when it is due, and writes what changed.
//!
//! What there is to check, it is told (`declared`); each check is a [`Job`] with timers of its own, is run (`running`),
//! and its verdict written where it changed (`writing`); what is left of checks that are gone is cleared away (`strays`).

mod declared;
mod job;
mod running;
mod strays;
mod writing;

use self::job::{Job, Ran, Timer, Wrote};
use super::CheckKey;
use super::inbox::Inbox;
use super::metrics::CheckMetrics;
use super::places::{Place, Places};
use super::probes::Probe;
use super::reports::{Deadlines, Relay};
use super::schedule::Schedule;
use super::target::TargetRules;
use super::verdict::Outcome;
use crate::live::{LiveReplica, Observer};
use crate::members::Members;
use crate::store::Store;
use crate::writes::{WriteError, Writer};
use fingerpost_catalog::{Effects, Health, InstanceKey, Key, Position, Replica};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Instances that are looked at in one hold of the replica's lock.
const SCAN: u32 = 4096;

/// What bounds the runner.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most probes under way at once; checks that are due beyond that wait for their turn, each at most once.
    pub probes: usize,
    /// Most of them at one address.
    pub per_address: usize,
    /// Most checks a second that are run for the first time here although their place in the interval is further away.
    pub first_runs: u32,
    /// Most writes under way at once.
    pub writes: usize,
    /// Parts that are to be cleared away and wait for it; more are found again later.
    pub strays: usize,
    /// How often parts are looked for that nobody told of.
    pub sweep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            probes: 1024,
            per_address: 64,
            first_runs: 500,
            writes: 64,
            strays: 10_000,
            sweep: Duration::from_secs(60),
        }
    }
}

/// What the runner's task shares with the feed and the API.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) live: Arc<LiveReplica>,
    pub(super) relay: Arc<dyn Relay>,
    pub(super) deadlines: Deadlines,
    pub(super) metrics: CheckMetrics,
    rules: TargetRules,
    probe: Arc<dyn Probe>,
    limits: Limits,
    inbox: Inbox,
}

/// Runs the checks that are at home in this process. Cheap to clone.
#[derive(Clone)]
pub struct Runner(Arc<Shared>);

impl Runner {
    /// A runner of the checks that `live` knows of, which writes to `store`.
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<LiveReplica>,
        probe: Arc<dyn Probe>,
        relay: Arc<dyn Relay>,
        rules: TargetRules,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            live,
            relay,
            deadlines: Deadlines::default(),
            metrics: CheckMetrics::default(),
            rules,
            probe,
            limits,
            inbox: Inbox::default(),
        }))
    }

    /// Adds its metrics to a registry.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.0.metrics.register(registry);
    }

    /// What it may aim at.
    pub fn rules(&self) -> &TargetRules {
        &self.0.rules
    }

    /// Checks at home here, and how many of them are being run now.
    pub fn counts(&self) -> (u64, u64) {
        let count = |gauge: &prometheus_client::metrics::gauge::Gauge| u64::try_from(gauge.get()).unwrap_or_default();
        (count(&self.0.metrics.home), count(&self.0.metrics.running))
    }

    /// Another replica says that a TTL check was reported as it stands. Returns whether that was noted; it is not where
    /// the check is not at home here, or stands otherwise, and then the other replica notes it in the store.
    pub fn heartbeat(&self, instance: &InstanceKey, check: &str, health: Health) -> bool {
        self.0.heartbeat(&CheckKey { instance: instance.clone(), check: check.into() }, health)
    }

    /// Takes a report to a TTL check. Returns when it is shown here, or known to the replica that keeps the deadline.
    pub async fn report(
        &self,
        writer: &Writer,
        instance: InstanceKey,
        check: &str,
        outcome: Outcome,
    ) -> Result<(), WriteError> {
        self.0.report(writer, instance, check.into(), outcome).await
    }

    /// Runs checks until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let loaded = tokio::select! {
            () = self.0.live.wait_loaded() => true,
            () = shutdown.cancelled() => false,
        };
        if loaded {
            Task::new(self.0).run(shutdown).await;
        }
    }
}

impl Observer for Runner {
    fn load(&self, _: &Replica) {
        self.0.inbox.note_everything();
    }

    fn ready(&self, _: Position) {}

    fn apply(&self, effects: &Effects, reset: bool) {
        if reset {
            self.0.inbox.note_everything();
        }
        self.0.inbox.note(&effects.changes);
    }
}

struct Task {
    shared: Arc<Shared>,
    members: watch::Receiver<Arc<Members>>,
    /// The replicas as the jobs know them.
    view: Arc<Members>,
    schedule: Schedule,
    jobs: HashMap<InstanceKey, HashMap<Arc<str>, Job>>,
    count: usize,
    numbers: u64,
    timers: BinaryHeap<Reverse<Timer>>,
    places: Places,
    probes: JoinSet<Ran>,
    /// The places that probes have, by their tasks.
    taken: HashMap<Id, Place>,
    writes: JoinSet<Wrote>,
    strays: BTreeSet<Key>,
    sweep: Instant,
}

impl Task {
    fn new(shared: Arc<Shared>) -> Self {
        let members = shared.store.members();
        let view = Arc::clone(&members.borrow());
        Self {
            schedule: Schedule::new(shared.limits.first_runs),
            places: Places::new(shared.limits.probes, shared.limits.per_address),
            sweep: Instant::now() + shared.limits.sweep,
            shared,
            view,
            members,
            jobs: HashMap::new(),
            count: 0,
            numbers: 0,
            timers: BinaryHeap::new(),
            probes: JoinSet::new(),
            taken: HashMap::new(),
            writes: JoinSet::new(),
            strays: BTreeSet::new(),
        }
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let mut members_known = true;
        self.members.mark_changed();
        loop {
            let changed = self.shared.inbox.take();
            self.look_at(changed).await;
            self.fire();
            self.start();
            self.clear_away();
            self.publish();
            let next = self.timers.peek().map(|Reverse(timer)| timer.at);
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = shared.inbox.noted() => {}
                changed = self.members.changed(), if members_known => {
                    members_known = changed.is_ok();
                    let view = Arc::clone(&self.members.borrow_and_update());
                    let former = std::mem::replace(&mut self.view, view);
                    // Who lost its place and has another knows nothing of the reports that came in between.
                    if !self.view.in_touch || former.fence.place != self.view.fence.place {
                        self.drop_everything();
                    }
                    if self.view.in_touch {
                        self.look_at_everything().await;
                    }
                }
                Some(ran) = self.probes.join_next_with_id(), if !self.probes.is_empty() => self.ran(ran),
                Some(wrote) = self.writes.join_next(), if !self.writes.is_empty() => self.wrote(wrote),
                () = tokio::time::sleep_until(next.unwrap_or(self.sweep)), if next.is_some() => {}
                () = tokio::time::sleep_until(self.sweep) => self.look_for_strays().await,
            }
        }
        self.probes.shutdown().await;
        self.writes.shutdown().await;
    }

    fn publish(&mut self) {
        let jobs = &self.jobs;
        let is_there = |key: &CheckKey, number: u64| {
            let job = jobs.get(&key.instance).and_then(|jobs| jobs.get(&key.check));
            job.is_some_and(|job| job.number == number)
        };
        // Timers of jobs that are gone wait for their time, which may be a day away, and others for a place.
        let most = 4 * self.count + 1024;
        if self.timers.len() > most {
            self.timers.retain(|Reverse(timer)| is_there(&timer.key, timer.number));
        }
        if self.places.waiting() > most {
            self.places.retain(|waiting| is_there(&waiting.key, waiting.number));
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.shared.metrics.home.set(number(self.count));
        self.shared.metrics.running.set(number(self.probes.len()));
    }

    fn job(&mut self, key: &CheckKey, number: u64) -> Option<&mut Job> {
        self.jobs.get_mut(&key.instance)?.get_mut(&key.check).filter(|job| job.number == number)
    }
}
