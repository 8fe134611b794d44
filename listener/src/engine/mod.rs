//! The task that owns the index: takes in what the streams say, and brings the registry to what follows from it.
//!
//! It knows of every record of its source in the registry the digest of what was written, and nothing else. So a change
//! costs a comparison, and a write only where the digest differs. At the start, and now and then, it reads what the
//! registry has, so a list after an outage writes the differences alone, and whatever else got in there is repaired.
//!
//! Nothing is removed before every stream has shown a complete list, and where a list would remove more than half and more
//! than 100 of the records of a kind, not before another one says the same that no cache has answered.

mod reading;
mod running;
mod writing;

use crate::backlog::Backlog;
use crate::follow::{Said, Word};
use crate::index::{Index, Listed, Touched};
use crate::metrics::Latency;
use crate::objects::Resources;
use crate::state::{Phase, State};
use fingerpost_catalog::Source;
use fingerpost_client::Registry;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hashbrown::{HashMap, HashSet};
use rand::RngExt;
use running::{Part, RETRY, Running, Standing, next_page};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// A write that takes longer has failed.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// When the registry is read again after the Lease was taken. Whoever held it no longer waits for the last write that it
/// sent, but that may still be on its way through the registry and into the store, for as long as those try.
const AFTER_TAKEOVER: Duration = Duration::from_secs(20);

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
    /// Whether others may have written before.
    pub(crate) leased: bool,
    pub(crate) state: Arc<State>,
    pub(crate) latency: Latency,
    /// How often the registry is compared with the cluster.
    pub(crate) resync: Duration,
    /// How long a write may take.
    pub(crate) write_timeout: Duration,
}

impl Engine {
    /// Runs until the streams end.
    pub(crate) async fn run(mut self) {
        let mut running = Running {
            index: Index::new(),
            backlog: Backlog::default(),
            written: Map::default(),
            refused: Map::default(),
            trimmed: Map::default(),
            standing: Standing::Standby,
            flying: FuturesUnordered::new(),
            busy: HashSet::default(),
            step: None,
            unlisted: self.followed.clone(),
            held: Vec::new(),
            parts: Default::default(),
            careful: 0,
            unsettled: Vec::new(),
            triggers: Map::default(),
            retry_at: None,
            pause: RETRY.0,
            resync_at: self.next_resync(),
            owner: None,
        };
        loop {
            let leads = *self.leader.borrow_and_update();
            self.lead(&mut running, leads);
            let more = self.write(&mut running);
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
                Some(outcome) = running.flying.next() => match outcome {
                    Ok(outcome) => self.landed(&mut running, outcome),
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The runtime ends, and all its tasks with it.
                        Err(_) => return,
                    },
                },
                page = next_page(&mut running.standing) => self.read(&mut running, page),
                said = self.said.recv() => match said {
                    None => return,
                    Some(said) => self.hear(&mut running, said),
                },
                () = sleep_until(retry_at) => running.retry_at = None,
                () = tokio::task::yield_now(), if more => {}
                () = sleep_until(resync) => {
                    running.resync_at = self.next_resync();
                    running.unsettled = running.busy.iter().copied().collect();
                    running.standing = Standing::Writing(Some(self.start_reading(Duration::ZERO, false)));
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
                running.standing = Standing::Reading(self.start_reading(Duration::ZERO, true));
                if self.leased {
                    running.resync_at = Instant::now() + AFTER_TAKEOVER;
                }
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
            self.complain(&what, &why);
        }
        if !matches!(running.standing, Standing::Writing(_)) {
            // When the registry has been read, everything is compared.
            return;
        }
        if let (Some(trigger), Some(last), true) =
            (touched.trigger, touched.records.last(), running.parts[Part::Services as usize].removing)
        {
            // One that still waits to be written is the older, and the one that counts.
            running.triggers.entry(*last).or_insert(trigger);
        }
        for record in touched.records {
            running.push(record);
        }
    }

    /// A list is complete.
    fn listed(&self, running: &mut Running, resources: Resources, trusted: bool) {
        running.held.retain(|(held, _)| *held != resources);
        for (_, awaited) in running.parts.iter_mut().filter_map(|part| part.confirming.as_mut()).filter(|_| trusted) {
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

    fn report(&self, running: &Running) {
        let held: u64 = running.held.iter().map(|(_, records)| records).sum();
        let confirming = running.parts.iter().filter_map(|part| part.confirming.as_ref());
        let held = held + confirming.map(|(records, _)| *records).sum::<u64>();
        let pending = running.backlog.len() + running.busy.len();
        self.state.set_backlog(pending as u64, held, running.index.passed_over());
    }
}

/// Waits until then; without a time, for ever.
pub(crate) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
