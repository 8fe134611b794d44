//! Asks upstreams what nobody here knows, once for all who want to know it, and answers them.
//!
//! A question that is handed over waits for the answer to one key; then it is answered by the same code that found that
//! the answer was missing, which may then want another (a name that leads on, the next name of a search path).

use crate::answer::{Answerer, Transport};
use crate::extended::{TOO_LONG, TOO_MANY};
use crate::forward::Forward;
use crate::forward::ask::Failure;
use crate::forward::entry::Entry;
use crate::forward::gate::Slot;
use crate::forward::key::Key;
use crate::forward::lane::Lane;
use crate::forward::metrics::{Refusal, Tally};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::querylog::QueryLog;
use crate::udp::Return;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Place;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// After so long, an answer past its TTL is sent, and asking goes on (RFC 8767 §5: the client response timer).
const PATIENCE: Duration = Duration::from_millis(1800);
/// How long answers past their TTL are sent without asking, once asking has failed (RFC 8767 §5: the failure recheck
/// timer).
const RECHECK: Duration = Duration::from_secs(30);
/// Questions of upstreams that the answer to one client's may take.
const ROUNDS: usize = 16;
/// Answerers kept for later.
const SPARE: usize = 16;

/// A client's question that waits.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) packet: Box<[u8]>,
    pub(crate) transport: Transport,
    pub(crate) client: SocketAddr,
    pub(crate) back: Back,
    /// When it was asked.
    pub(crate) begun: Instant,
    /// What was found out so far.
    pub(crate) found: Vec<(Key, Arc<Entry>)>,
    /// Its place among those that wait.
    #[expect(dead_code, reason = "held until the question is answered")]
    pub(crate) slot: Slot,
}

/// How an answer gets to its client.
#[derive(Debug)]
pub(crate) enum Back {
    /// From the socket that the query came to.
    Udp(Return),
    /// To the task that serves the connection.
    Stream(mpsc::Sender<Vec<u8>>),
}

/// What the engine is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Find this out, and answer with it.
    Ask(Box<Asker>, Key),
    /// Find this out again, before it is too old.
    Refresh(Key),
}

impl Job {
    /// How often it was asked for something.
    fn rounds(&self) -> usize {
        match self {
            Job::Ask(asker, _) => asker.found.len(),
            Job::Refresh(_) => 0,
        }
    }
}

/// Runs until shutdown.
#[derive(Debug)]
pub(crate) struct Engine {
    forward: Arc<Forward>,
    index: Arc<Index>,
    metrics: Metrics,
    log: Option<Arc<QueryLog>>,
    tally: Arc<Tally>,
    answerers: Mutex<Vec<Answerer>>,
    /// Who waits for what is being asked.
    waiting: Mutex<HashMap<Key, Vec<Asker>, ahash::RandomState>>,
}

impl Engine {
    pub(crate) fn new(
        forward: Arc<Forward>,
        index: Arc<Index>,
        metrics: Metrics,
        log: Option<Arc<QueryLog>>,
    ) -> Arc<Self> {
        let tally = forward.tally();
        Arc::new(Self { forward, index, metrics, log, tally, answerers: Mutex::default(), waiting: Mutex::default() })
    }

    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken, drain: Duration) -> io::Result<()> {
        let Some(mut jobs) = self.forward.take_jobs() else {
            return Err(io::Error::other("forwarding runs already, for another server"));
        };
        let shared = &self.forward.shared;
        // On every way out, or tasks would outlive a server whose future was dropped.
        let _stop = shared.stop.clone().drop_guard();
        let keeper =
            shared.tasks.spawn(shared.stop.clone().run_until_cancelled_owned(Arc::clone(&self.forward).keep()));
        let mut keeper = std::pin::pin!(keeper);
        let mut asking: JoinSet<()> = JoinSet::new();
        let panicked = || io::Error::other("a task that asks upstreams ended with a panic");
        let ended = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                job = jobs.recv() => match job {
                    Some(job) => self.take(job, &mut asking),
                    None => break Err(panicked()),
                },
                Some(ended) = asking.join_next() => if ended.is_err() {
                    break Err(panicked());
                },
                _ = &mut keeper => break Err(panicked()),
            }
        };
        // Whoever asks from now on is told at once that there is no answer; what was handed over already is asked for.
        jobs.close();
        while let Some(job) = jobs.recv().await {
            self.take(job, &mut asking);
        }
        // Who waits may still get an answer.
        let _ = timeout(drain, async { while asking.join_next().await.is_some() {} }).await;
        asking.shutdown().await;
        shared.stop.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        ended
    }

    fn take(self: &Arc<Self>, job: Job, asking: &mut JoinSet<()>) {
        let (key, asker) = match job {
            Job::Ask(asker, key) => (key, Some(*asker)),
            Job::Refresh(key) => (key, None),
        };
        let mut waiting = self.waiting.lock();
        match waiting.entry(key.clone()) {
            Place::Occupied(mut others) => {
                if let Some(asker) = asker {
                    self.tally.joined.fetch_add(1, Relaxed);
                    others.get_mut().push(asker);
                }
            }
            Place::Vacant(place) => {
                place.insert(asker.into_iter().collect());
                drop(waiting);
                asking.spawn(Arc::clone(self).find_out(key));
            }
        }
    }

    /// Asks upstreams for one key, and answers all who wait for it.
    async fn find_out(self: Arc<Self>, key: Key) {
        let forward = &self.forward;
        let limit = forward.config.serve_stale;
        let now = || forward.shared.clock.now();
        let held = forward.cache.peek(std::borrow::Borrow::<[u8]>::borrow(&key));
        // It may have come while the question was on its way.
        let fresh = held.clone().filter(|entry| entry.age(now()).is_some() && !entry.is_refreshing());
        // What is at hand may be sent where there is nothing newer; time passes while that is found out.
        let usable = |held: &Entry| {
            held.not_renewed(now(), now() + RECHECK.as_millis() as u64, limit);
            held.is_usable_stale(now(), limit)
        };
        let stale = held.filter(|entry| entry.is_usable_stale(now(), limit));
        let entry = match (fresh, stale) {
            (Some(entry), _) => entry,
            (None, None) => self.ask(&key).await.unwrap_or_else(|failure| self.failed(&key, failure)),
            (None, Some(stale)) => {
                let mut asked = std::pin::pin!(self.ask(&key));
                let answer = tokio::select! {
                    answer = &mut asked => answer,
                    () = sleep(PATIENCE) => {
                        if usable(&stale) {
                            let askers = self.waiting.lock().get_mut(&key).map(std::mem::take).unwrap_or_default();
                            self.settle(askers, &key, &stale);
                        }
                        asked.await
                    }
                };
                match answer {
                    Ok(entry) => entry,
                    Err(_) if usable(&stale) => stale,
                    Err(failure) => self.failed(&key, failure),
                }
            }
        };
        let askers = self.waiting.lock().remove(&key).unwrap_or_default();
        self.settle(askers, &key, &entry);
    }

    async fn ask(&self, key: &Key) -> Result<Arc<Entry>, Failure> {
        let entry = Arc::new(self.forward.ask(key).await?);
        if entry.is_kept() {
            self.forward.cache.put(key.clone(), Arc::clone(&entry));
        }
        Ok(entry)
    }

    /// That there is no answer is kept for a while, too (RFC 2308 §7, RFC 9520).
    fn failed(&self, key: &Key, failure: Failure) -> Arc<Entry> {
        let (now, lasts) = (self.forward.shared.clock.now(), failure.lasts());
        let entry = Arc::new(Entry::failure(key, now, lasts, failure.reasons()));
        if entry.is_kept() {
            self.forward.cache.put(key.clone(), Arc::clone(&entry));
        }
        entry
    }

    fn settle(&self, askers: Vec<Asker>, key: &Key, entry: &Arc<Entry>) {
        if askers.is_empty() {
            return;
        }
        let mut answerer = self.answerers.lock().pop().unwrap_or_else(|| {
            let lane = Lane::new(Arc::clone(&self.forward), Arc::clone(&self.tally));
            let answerer = Answerer::new(Arc::clone(&self.index), self.metrics.counters_of_engine());
            answerer.with_lane(Some(lane)).logging(self.log.clone())
        });
        let mut out = Vec::new();
        for mut asker in askers {
            asker.found.push((key.clone(), Arc::clone(entry)));
            if let Some(next) = answerer.again(&mut asker, &mut out) {
                let job = Job::Ask(Box::new(asker), next);
                // There is room: each job has one of the places of those that wait.
                let (refused, why) = match job.rounds() < ROUNDS {
                    true => (self.forward.submit(job).err(), TOO_MANY),
                    false => (Some(job), TOO_LONG),
                };
                let Some(Job::Ask(back, _)) = refused else { continue };
                asker = *back;
                self.tally.refused(Refusal::Total);
                answerer.give_up(&asker.packet, asker.transport, why, &mut out);
            }
            self.deliver(&asker.back, &out);
        }
        let mut spare = self.answerers.lock();
        if spare.len() < SPARE {
            spare.push(answerer);
        }
    }

    fn deliver(&self, back: &Back, answer: &[u8]) {
        match back {
            Back::Udp(back) => {
                if back.send(answer).is_err() {
                    self.metrics.socket_error();
                }
            }
            // A connection may be gone; it takes no more questions than it has room for answers.
            Back::Stream(back) => drop(back.try_send(answer.to_vec())),
        }
    }
}
