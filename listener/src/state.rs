//! How the listener does, for `status`, probes and metrics.

use crate::document::{KindDocument, StateDocument};
use crate::objects::Resources;
use crate::trouble::{Reason, Trouble};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::watch;
use tracing::error;

/// What is known of one kind of object.
#[derive(Clone, Debug, Default)]
struct Following {
    synced: bool,
    objects: u64,
    last_word: Option<Instant>,
    relists: u64,
    malformed: u64,
    errors: BTreeMap<Reason, u64>,
    trouble: Option<Trouble>,
    held: u64,
}

/// How far the listener is as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Another listener writes; this one is ready to take over.
    Standby,
    /// It does not know the whole cluster yet, or has not written it.
    #[default]
    Starting,
    /// The registry has what the cluster has.
    Synced,
}

/// What is known of the Lease.
#[derive(Clone, Debug, Default)]
struct Leased {
    /// Who held it when it was last seen, this listener included.
    holder: Option<String>,
    trouble: Option<(String, Instant)>,
}

#[derive(Debug, Default)]
struct Inner {
    kinds: [Option<Following>; 4],
    phase: Phase,
    ever_synced: bool,
    leader: bool,
    /// None where there is no Lease.
    lease: Option<Leased>,
    pending: u64,
    held: u64,
    writes: u64,
    write_failures: u64,
    refused: u64,
    refused_names: Vec<String>,
    write_trouble: Option<(String, Instant)>,
    passed_over: u64,
    /// What is said where the registry's records are of another cluster.
    foreign: Option<String>,
    /// What the registry had from an earlier run.
    found: Option<u64>,
}

/// The state of a listener, written by its tasks and read by whoever asks.
#[derive(Debug)]
pub struct State {
    inner: Mutex<Inner>,
    synced: watch::Sender<bool>,
}

/// How many refused objects are named.
const NAMED: usize = 10;
/// Without word for so long, what is known counts as old; a watch that is well says something at least that often.
pub(crate) const STALE_SECONDS: f64 = 45.0;

impl State {
    pub(crate) fn new(followed: &[Resources]) -> Self {
        let mut inner = Inner::default();
        for resources in followed {
            inner.kinds[*resources as usize] = Some(Following::default());
        }
        Self { inner: Mutex::new(inner), synced: watch::Sender::new(false) }
    }

    /// Becomes true, once and for all, when the registry has all that the cluster had at the start.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn of(&self, resources: Resources, change: impl FnOnce(&mut Following)) {
        if let Some(following) = &mut self.inner.lock().kinds[resources as usize] {
            change(following);
        }
    }

    pub(crate) fn heard(&self, resources: Resources) {
        self.of(resources, |following| {
            following.last_word = Some(Instant::now());
            following.trouble = None;
        });
    }

    /// Notes a fault; whether it is another one than the last, and so worth a line in the log.
    pub(crate) fn failed(&self, resources: Resources, trouble: &Trouble) -> bool {
        let mut news = false;
        self.of(resources, |following| {
            *following.errors.entry(trouble.reason).or_default() += 1;
            news = following.trouble.as_ref().is_none_or(|before| before.reason != trouble.reason);
            following.trouble = Some(trouble.clone());
        });
        news
    }

    pub(crate) fn malformed(&self, resources: Resources) {
        self.of(resources, |following| following.malformed += 1);
    }

    pub(crate) fn listing(&self, resources: Resources) {
        self.of(resources, |following| following.relists += u64::from(following.synced));
    }

    pub(crate) fn listed(&self, resources: Resources, held: u64) {
        self.of(resources, |following| {
            following.synced = true;
            following.held = held;
        });
    }

    pub(crate) fn objects(&self, resources: Resources, objects: u64) {
        self.of(resources, |following| following.objects = objects);
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let mut inner = self.inner.lock();
        inner.phase = phase;
        inner.ever_synced |= phase == Phase::Synced;
        drop(inner);
        if phase == Phase::Synced {
            self.synced.send_replace(true);
        }
    }

    pub(crate) fn set_leader(&self, leader: bool) {
        self.inner.lock().leader = leader;
    }

    /// There is a Lease.
    pub(crate) fn expect_lease(&self) {
        self.inner.lock().lease.get_or_insert_default();
    }

    /// The Lease was seen, and is held by `holder`.
    pub(crate) fn lease_seen(&self, holder: &str) {
        let mut inner = self.inner.lock();
        let lease = inner.lease.get_or_insert_default();
        lease.trouble = None;
        if lease.holder.as_deref() != Some(holder) {
            lease.holder = Some(holder.to_owned());
        }
    }

    /// The Lease can't be used, though somebody may hold it; whether that is another fault than the last.
    pub(crate) fn lease_failed(&self, why: &str, holder: Option<String>) -> bool {
        let mut inner = self.inner.lock();
        let lease = inner.lease.get_or_insert_default();
        lease.holder = holder.or_else(|| lease.holder.take());
        let before = lease.trouble.take();
        let since = before.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        lease.trouble = Some((why.to_owned(), since));
        before.is_none_or(|(before, _)| before != why)
    }

    pub(crate) fn set_foreign(&self, foreign: Option<String>) {
        let mut inner = self.inner.lock();
        if let Some(what) = foreign.as_ref().filter(|_| inner.foreign != foreign) {
            error!("{what}");
        }
        inner.foreign = foreign;
    }

    pub(crate) fn set_found(&self, records: u64) {
        self.inner.lock().found.get_or_insert(records);
    }

    pub(crate) fn set_backlog(&self, pending: u64, held: u64, passed_over: u64) {
        let mut inner = self.inner.lock();
        (inner.pending, inner.held, inner.passed_over) = (pending, held, passed_over);
    }

    pub(crate) fn wrote(&self, records: u64) {
        let mut inner = self.inner.lock();
        inner.writes += records;
        inner.write_trouble = None;
    }

    /// Notes a failed write; whether it is another fault than the last.
    pub(crate) fn write_failed(&self, why: &str) -> bool {
        let mut inner = self.inner.lock();
        inner.write_failures += 1;
        let before = inner.write_trouble.take();
        let since = before.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        inner.write_trouble = Some((why.to_owned(), since));
        before.is_none_or(|(before, _)| before != why)
    }

    pub(crate) fn refused(&self, what: String) {
        let mut inner = self.inner.lock();
        inner.refused += 1;
        inner.refused_names.retain(|name| *name != what);
        if inner.refused_names.len() >= NAMED {
            inner.refused_names.remove(0);
        }
        inner.refused_names.push(what);
    }

    /// Everything, for whoever asks.
    pub fn document(&self) -> StateDocument {
        let inner = self.inner.lock();
        let kinds: Vec<KindDocument> = Resources::ALL
            .into_iter()
            .filter_map(|resources| {
                let following = inner.kinds[resources as usize].as_ref()?;
                Some(KindDocument {
                    resource: resources.plural(),
                    synced: following.synced,
                    objects: following.objects,
                    age_seconds: following.last_word.map(|at| at.elapsed().as_secs_f64()),
                    relists: following.relists,
                    malformed: following.malformed,
                    errors: following.errors.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
                    trouble: following.trouble.as_ref().map(|trouble| trouble.message.clone()),
                    held: following.held,
                })
            })
            .collect();
        let oldest = kinds
            .iter()
            .filter_map(|kind| kind.age_seconds)
            .fold(None, |oldest: Option<f64>, age| Some(oldest.map_or(age, |oldest| oldest.max(age))));
        let lease = inner.lease.as_ref();
        StateDocument {
            phase: inner.phase,
            leader: inner.leader,
            kinds,
            pending: inner.pending,
            held: inner.held,
            writes: inner.writes,
            write_failures: inner.write_failures,
            refused: inner.refused,
            refused_names: inner.refused_names.clone(),
            write_trouble: inner.write_trouble.as_ref().map(|(why, _)| why.clone()),
            writes_failing_seconds: inner.write_trouble.as_ref().map(|(_, since)| since.elapsed().as_secs_f64()),
            lease_holder: lease.and_then(|lease| lease.holder.clone()),
            lease_trouble: lease.and_then(|lease| lease.trouble.as_ref()).map(|(why, _)| why.clone()),
            passed_over: inner.passed_over,
            foreign: inner.foreign.clone(),
            found: inner.found,
            stale_seconds: oldest.filter(|age| *age > STALE_SECONDS),
        }
    }

    /// Whether nobody may write: this listener waits for a Lease that it has never seen held.
    pub fn waits_for_nobody(&self) -> bool {
        let inner = self.inner.lock();
        let unheld = inner.lease.as_ref().is_some_and(|lease| lease.holder.is_none());
        inner.phase == Phase::Standby && unheld
    }

    /// Why the registry may not have what the cluster has, in a sentence; none where it has.
    pub fn trouble(&self) -> Option<String> {
        self.document().trouble(self.waits_for_nobody())
    }
}
