//! The task that owns the index: takes in what the streams say, and brings the registry to what follows from it.
//!
//! It knows of every record of its source in the registry the digest of what was written, and nothing else. So a change
//! costs a comparison, and a write only where the digest differs. At the start, and now and then, it reads what the
//! registry has, so a list after an outage writes the differences alone, and whatever else got in there is repaired.
//!
//! Nothing is removed before every stream has shown a complete list, and where a list would remove more than half and more
//! than 100 of the records of a kind, not before another one says the same that no cache has answered.

use crate::backlog::{Backlog, Step};
use crate::follow::{Said, Word};
use crate::index::{Counts, Index, LatencyKind, Listed, Record, Sym, Touched, digest};
use crate::metrics::Latency;
use crate::objects::Resources;
use crate::registry_side::{self, Found, Identity};
use crate::state::{Phase, State};
use fingerpost_catalog::Source;
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_client::{Error, Operation, Registry};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use hashbrown::{HashMap, HashSet};
use rand::RngExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// Most operations of one write: what a registry takes at one position.
const BATCH: usize = 100;
/// Writes under way at once, where their order is no matter.
const IN_FLIGHT: usize = 8;
/// A write that takes longer has failed.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// The wait after a failed write or read doubles from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A digest that nothing has: what a record is, is not known.
const UNKNOWN: u64 = 0;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// What an engine works with.
pub(crate) struct Engine {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) source: Source,
    pub(crate) followed: Vec<Resources>,
    pub(crate) said: mpsc::Receiver<Said>,
    /// By kind: asks for a list that no cache has answered.
    pub(crate) confirm: Vec<(Resources, mpsc::Sender<()>)>,
    /// Whether this listener is the one that writes.
    pub(crate) leader: watch::Receiver<bool>,
    pub(crate) state: Arc<State>,
    pub(crate) latency: Latency,
    /// How often the registry is compared with the cluster.
    pub(crate) resync: Duration,
    /// How long a write may take.
    pub(crate) write_timeout: Duration,
}

/// The records of a write under way, each with the digest that it has afterwards, none where it is removed.
type Sent = Vec<(Record, Option<u64>)>;

type Outcome = (Sent, Result<(), Error>);

/// The registry as it is being read.
struct Reading {
    pages: BoxStream<'static, Result<Vec<Found>, Error>>,
    actual: Map<Record, u64>,
}

/// How far it is with the registry.
enum Standing {
    /// Another listener writes.
    Standby,
    /// The registry is being read for the first time.
    Reading(Reading),
    /// The registry's contents are known; perhaps they are being read again.
    Writing(Option<Reading>),
}

struct Running {
    index: Index,
    backlog: Backlog,
    written: Map<Record, u64>,
    /// What the registry does not take, with the digest that it refused.
    refused: Map<Record, u64>,
    standing: Standing,
    flying: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// Records in a write under way.
    busy: HashSet<Record, ahash::RandomState>,
    /// The step of the writes under way; none where they are of several.
    step: Option<Step>,
    /// Kinds that have shown no complete list yet.
    unlisted: Vec<Resources>,
    /// Kinds whose list waits to be confirmed, each with how many records would go.
    held: Vec<(Resources, u64)>,
    /// Whether removals may be written.
    removing: bool,
    /// Whether additions may be written.
    adding: bool,
    /// The removals that the first comparison came to, and the kinds whose lists have yet to confirm them.
    confirming: Option<(u64, Vec<Resources>)>,
    /// So many records are written one by one, to find the one that is refused.
    careful: usize,
    /// What was written while the registry was being read.
    unsettled: Vec<Record>,
    triggers: Map<Record, (i64, LatencyKind)>,
    retry_at: Option<Instant>,
    pause: Duration,
    resync_at: Instant,
}

impl Engine {
    /// Runs until the streams end.
    pub(crate) async fn run(mut self) {
        let mut running = Running {
            index: Index::new(),
            backlog: Backlog::default(),
            written: Map::default(),
            refused: Map::default(),
            standing: Standing::Standby,
            flying: FuturesUnordered::new(),
            busy: HashSet::default(),
            step: None,
            unlisted: self.followed.clone(),
            held: Vec::new(),
            removing: false,
            adding: false,
            confirming: None,
            careful: 0,
            unsettled: Vec::new(),
            triggers: Map::default(),
            retry_at: None,
            pause: RETRY.0,
            resync_at: self.next_resync(),
        };
        loop {
            let leads = *self.leader.borrow_and_update();
            self.lead(&mut running, leads);
            self.write(&mut running);
            self.report(&running);
            let retry_at = running.retry_at;
            let resync = matches!(running.standing, Standing::Writing(None)).then_some(running.resync_at);
            tokio::select! {
                biased;
                changed = self.leader.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(outcome) = running.flying.next() => self.landed(&mut running, outcome),
                page = next_page(&mut running.standing) => self.read(&mut running, page),
                said = self.said.recv() => match said {
                    None => return,
                    Some(said) => self.hear(&mut running, said),
                },
                () = sleep_until(retry_at) => running.retry_at = None,
                () = sleep_until(resync) => {
                    running.resync_at = self.next_resync();
                    running.unsettled = running.busy.iter().copied().collect();
                    running.standing = Standing::Writing(Some(self.start_reading(Duration::ZERO)));
                }
            }
        }
    }

    fn next_resync(&self) -> Instant {
        Instant::now() + self.resync.mul_f64(rand::rng().random_range(0.8..1.2))
    }

    /// Takes up the pen, or lays it down.
    fn lead(&self, running: &mut Running, leads: bool) {
        self.state.set_leader(leads);
        match (&running.standing, leads) {
            (Standing::Standby, true) => {
                info!(source = %self.source, "this listener writes");
                self.state.set_phase(Phase::Starting);
                running.standing = Standing::Reading(self.start_reading(Duration::ZERO));
            }
            (Standing::Reading(_) | Standing::Writing(_), false) => {
                warn!("another listener writes from now on");
                self.state.set_phase(Phase::Standby);
                running.standing = Standing::Standby;
                running.forget();
            }
            (Standing::Standby, false) => self.state.set_phase(Phase::Standby),
            _ => {}
        }
    }

    fn start_reading(&self, wait: Duration) -> Reading {
        let pages = registry_side::read(Arc::clone(&self.registry), self.source.clone());
        let pages = tokio::time::sleep(wait).map(move |()| pages).flatten_stream();
        Reading { pages: pages.boxed(), actual: Map::default() }
    }

    /// A page of the registry has been read, or, with none, all of it.
    fn read(&self, running: &mut Running, page: Option<Result<Vec<Found>, Error>>) {
        let first = matches!(running.standing, Standing::Reading(_));
        let (Standing::Reading(reading) | Standing::Writing(Some(reading))) = &mut running.standing else { return };
        match page {
            Some(Ok(page)) => {
                for Found { identity, digest } in page {
                    let index = &mut running.index;
                    let record = match identity {
                        Identity::Namespace(name) => Record::Namespace(index.intern(&name)),
                        Identity::Service(namespace, name) => {
                            Record::Service(index.intern(&namespace), index.intern(&name))
                        }
                        Identity::Instance(namespace, service, id) => Record::Instance(
                            index.intern(&namespace),
                            service.map_or(Sym::NONE, |service| index.intern(&service)),
                            index.intern(&id),
                        ),
                    };
                    reading.actual.insert(record, digest.unwrap_or(UNKNOWN));
                }
                return;
            }
            Some(Err(error)) => {
                if self.state.write_failed(&error.to_string()) {
                    warn!(%error, "the registry can't be read; trying again");
                }
                let again = self.start_reading(running.next_pause());
                running.standing = if first { Standing::Reading(again) } else { Standing::Writing(Some(again)) };
                return;
            }
            None => {}
        }
        let mut actual = std::mem::take(&mut reading.actual);
        running.pause = RETRY.0;
        running.standing = Standing::Writing(None);
        // What was written meanwhile may have been read before or after; its own write settles it.
        for record in std::mem::take(&mut running.unsettled) {
            match running.written.get(&record) {
                Some(digest) => actual.insert(record, *digest),
                None => actual.remove(&record),
            };
        }
        if first {
            self.state.set_found(actual.len() as u64);
            running.adding = actual.is_empty();
        } else {
            let lost = running.written.iter().filter(|(record, digest)| actual.get(*record) != Some(*digest)).count();
            let odd = actual.keys().filter(|record| !running.written.contains_key(*record)).count();
            if lost + odd > 0 {
                warn!(lost, odd, "the registry differs from what was written there; that is repaired");
            }
        }
        running.written = actual;
        if !first {
            // A cluster in which nothing changes is written of all the same now and then: a source that says nothing for
            // long counts as orphaned.
            let any = running.written.keys().find(|record| matches!(record, Record::Namespace(_)));
            if let Some(record) = any.copied() {
                running.written.insert(record, UNKNOWN);
            }
        }
        running.push_all();
        if first {
            self.maybe_begin(running);
        }
    }

    fn hear(&self, running: &mut Running, Said { resources, words }: Said) {
        for word in words {
            let touched = match word {
                Word::Begin => {
                    running.index.begin(resources);
                    continue;
                }
                Word::Put(item) => running.index.put(&item),
                Word::Delete { namespace, name } => running.index.delete(resources, &namespace, &name),
                Word::Unreadable { namespace, name } => {
                    running.index.saw(resources, &namespace, &name);
                    continue;
                }
                Word::End { trusted } => {
                    self.listed(running, resources, trusted);
                    continue;
                }
            };
            self.touched(running, touched);
        }
        self.state.objects(resources, running.index.objects(resources));
        running.sweep();
    }

    fn touched(&self, running: &mut Running, touched: Touched) {
        if let Some((what, why)) = touched.refused {
            warn!(object = what, "left out: {why}");
            self.state.refused(format!("{what}: {why}"));
        }
        if !matches!(running.standing, Standing::Writing(_)) {
            // When the registry has been read, everything is compared.
            return;
        }
        if let (Some(trigger), Some(last), true) =
            (touched.trigger, touched.records.last(), running.unlisted.is_empty())
        {
            running.triggers.insert(*last, trigger);
        }
        for record in touched.records {
            running.push(record);
        }
    }

    /// A list is complete.
    fn listed(&self, running: &mut Running, resources: Resources, trusted: bool) {
        running.held.retain(|(held, _)| *held != resources);
        if trusted && let Some((_, awaited)) = &mut running.confirming {
            awaited.retain(|awaited| *awaited != resources);
        }
        match running.index.end(resources, trusted) {
            Listed::Removed(touched) => {
                self.state.listed(resources, 0);
                self.touched(running, touched);
            }
            Listed::Held(records) => {
                self.state.listed(resources, records);
                running.held.push((resources, records));
                warn!(
                    resource = resources.plural(),
                    records,
                    "a list would remove so much that it has to be confirmed by another one; until then nothing is removed"
                );
                self.ask(resources);
            }
        }
        running.unlisted.retain(|unlisted| *unlisted != resources);
        self.maybe_begin(running);
    }

    fn ask(&self, resources: Resources) {
        let asked = self.confirm.iter().find(|(kind, _)| *kind == resources);
        // Where the channel is full, it has been asked already.
        let _ = asked.map(|(_, confirm)| confirm.try_send(()));
    }

    /// Begins to write in earnest once all lists are complete and the registry has been read, unless that would remove so
    /// much that the lists must be confirmed first.
    fn maybe_begin(&self, running: &mut Running) {
        if running.removing || !running.unlisted.is_empty() || !matches!(running.standing, Standing::Writing(_)) {
            return;
        }
        running.adding = true;
        if !running.held.is_empty() {
            return;
        }
        let (mut lost, mut all) = (Counts::default(), Counts::default());
        for record in running.written.keys() {
            all.add(record.class(), 1);
            if !running.index.shows(*record) {
                lost.add(record.class(), 1);
            }
        }
        let confirmed = running.confirming.as_ref().is_some_and(|(_, awaited)| awaited.is_empty());
        if lost.is_suspicious(&all) && !confirmed {
            if running.confirming.is_some() {
                return;
            }
            warn!(
                records = lost.total(),
                "the registry has so much more than the cluster that the lists have to be confirmed by others; until then \
                 nothing is removed"
            );
            running.confirming = Some((lost.total(), self.followed.clone()));
            self.followed.iter().for_each(|resources| self.ask(*resources));
            return;
        }
        running.confirming = None;
        running.removing = true;
        running.push_all();
    }

    /// Sends what may be sent now.
    fn write(&self, running: &mut Running) {
        if !matches!(running.standing, Standing::Writing(_)) || !running.adding || running.retry_at.is_some() {
            return;
        }
        loop {
            let most = if running.careful > 0 { 1 } else { BATCH };
            if running.backlog.is_empty() {
                if running.flying.is_empty() && running.removing {
                    self.state.set_phase(Phase::Synced);
                }
                return;
            }
            let step = running.backlog.step(most);
            if !running.flying.is_empty() {
                let unordered = matches!(step, Some(Step::Declare | Step::Add)) && running.step == step;
                if !unordered || running.flying.len() >= IN_FLIGHT || running.careful > 0 {
                    return;
                }
            }
            let (sent, operations, blocked) = running.batch(most);
            if !operations.is_empty() {
                running.careful = running.careful.saturating_sub(operations.len());
                running.step = step;
                running.busy.extend(sent.iter().map(|(record, _)| *record));
                if matches!(running.standing, Standing::Writing(Some(_))) {
                    running.unsettled.extend(sent.iter().map(|(record, _)| *record));
                }
                let (registry, source) = (Arc::clone(&self.registry), self.source.clone());
                let within = self.write_timeout;
                running.flying.push(
                    async move {
                        let written = tokio::time::timeout(within, registry.batch(&source, operations)).await;
                        let written = written.unwrap_or_else(|_| {
                            let detail = format!("the registry did not answer within {} s", within.as_secs());
                            Err(Error::UnknownOutcome { detail })
                        });
                        (sent, written.map(|_| ()))
                    }
                    .boxed(),
                );
            }
            if blocked {
                return;
            }
        }
    }

    /// A write has come back.
    fn landed(&self, running: &mut Running, (sent, outcome): Outcome) {
        for (record, _) in &sent {
            running.busy.remove(record);
        }
        let error = match outcome {
            Ok(()) => {
                running.pause = RETRY.0;
                self.state.wrote(sent.len() as u64);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
                for (record, digest) in sent {
                    match digest {
                        Some(digest) => running.written.insert(record, digest),
                        None => running.written.remove(&record),
                    };
                    if let Some((trigger, kind)) = running.triggers.remove(&record) {
                        let milliseconds = u64::try_from(now - trigger).unwrap_or_default();
                        self.latency.observe(kind, Duration::from_millis(milliseconds));
                    }
                }
                return;
            }
            Err(error) => error,
        };
        if let Error::Invalid { pointer, .. } = &error {
            let place = pointer.as_deref().and_then(|pointer| pointer.split('/').nth(2)?.parse::<usize>().ok());
            let refused = match (sent.len(), place) {
                (1, _) => sent.first(),
                (_, Some(place)) => sent.get(place),
                _ => None,
            };
            match refused {
                Some((record, Some(digest))) => {
                    let what = running.index.named(*record);
                    warn!(object = what, "left out: {error}");
                    self.state.refused(format!("{what}: {error}"));
                    running.refused.insert(*record, *digest);
                }
                Some((record, None)) => {
                    error!(object = running.index.named(*record), "can't be removed: {error}");
                    running.written.remove(record);
                }
                // Nobody says which; one by one, it shows.
                None => running.careful = sent.len(),
            }
            for (record, _) in sent {
                running.push(record);
            }
            return;
        }
        if self.state.write_failed(&error.to_string()) {
            warn!(%error, records = sent.len(), "a write failed; trying again");
        }
        for (record, digest) in sent {
            if digest.is_some() {
                running.written.insert(record, UNKNOWN);
            }
            running.push(record);
        }
        running.retry_at = Some(Instant::now() + running.next_pause());
    }

    fn report(&self, running: &Running) {
        let held: u64 = running.held.iter().map(|(_, records)| records).sum();
        let held = held + running.confirming.as_ref().map_or(0, |(records, _)| *records);
        let pending = running.backlog.len() + running.busy.len();
        self.state.set_backlog(pending as u64, held, running.index.passed_over());
    }
}

impl Running {
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY.1);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Forgets all that is about the registry.
    fn forget(&mut self) {
        self.backlog.clear();
        self.written.clear();
        self.refused.clear();
        self.triggers.clear();
        self.unsettled.clear();
        self.busy.clear();
        self.flying.clear();
        (self.removing, self.adding, self.confirming, self.retry_at) = (false, false, None, None);
        (self.careful, self.step) = (0, None);
    }

    /// What a record should be, as far as the registry takes it.
    fn desired(&self, record: Record) -> Option<(ObjectDocument, u64)> {
        let document = self.index.desired(record)?;
        let digest = digest(&document);
        (self.refused.get(&record) != Some(&digest)).then_some((document, digest))
    }

    fn push(&mut self, record: Record) {
        self.backlog.push(record, Step::of(record, self.index.shows(record)));
    }

    /// Has every record looked at: what is, and what should be.
    fn push_all(&mut self) {
        for record in self.index.records() {
            self.push(record);
        }
        let gone: Vec<Record> = self.written.keys().copied().filter(|record| !self.index.shows(*record)).collect();
        for record in gone {
            self.push(record);
        }
    }

    /// The next write: its records, its operations, and whether something must land before there can be another.
    fn batch(&mut self, most: usize) -> (Sent, Vec<Operation>, bool) {
        let (mut sent, mut operations, mut blocked) = (Sent::new(), Vec::new(), false);
        for (record, step) in self.backlog.take(most) {
            if self.busy.contains(&record) {
                self.push(record);
                blocked = true;
                continue;
            }
            let desired = self.desired(record);
            let due = Step::of(record, desired.is_some());
            let written = self.written.get(&record).copied();
            match desired {
                Some((_, digest)) if written == Some(digest) => {}
                None if written.is_none() || !self.removing => {}
                _ if due != step => {
                    self.backlog.push(record, due);
                    continue;
                }
                Some((document, digest)) => {
                    operations.push(Operation::Put(document));
                    sent.push((record, Some(digest)));
                    continue;
                }
                None => {
                    operations.push(Operation::Delete(self.index.identity(record)));
                    sent.push((record, None));
                    continue;
                }
            }
            // Nothing has to be written.
            self.triggers.remove(&record);
        }
        (sent, operations, blocked)
    }

    fn sweep(&mut self) {
        let reading = match &self.standing {
            Standing::Reading(reading) | Standing::Writing(Some(reading)) => Some(&reading.actual),
            _ => None,
        };
        let kept = self.written.keys().chain(self.busy.iter()).chain(self.refused.keys()).chain(self.triggers.keys());
        let kept = kept.chain(reading.into_iter().flat_map(|actual| actual.keys())).chain(&self.unsettled);
        self.index.sweep(kept.copied().chain(self.backlog.records()));
    }
}

async fn next_page(standing: &mut Standing) -> Option<Result<Vec<Found>, Error>> {
    match standing {
        Standing::Reading(reading) | Standing::Writing(Some(reading)) => reading.pages.next().await,
        Standing::Standby | Standing::Writing(None) => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
