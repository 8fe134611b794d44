//! Doubles for tests of checks: replicas over the store in memory, each with its own idea of who is alive,
//! and probes that find what the test says. Nothing here takes real time, so that tests can run on tokio's paused clock.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

#[path = "../store_double/mod.rs"]
mod store_double;

use fingerpost_catalog::{Check, CheckResult, Health, InstanceKey, Key, Record};
use fingerpost_registry::checks::{History, Limits, Outcome, Probe, Relay, Runner, TargetRules};
use fingerpost_registry::live::{Feed, LiveReplica};
use fingerpost_registry::store::{Action, Commit, Store};
use fingerpost_registry::writes::Writer;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store_double::{Handle, Shared, members};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Finds what the test says, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct FakeProbe {
    found: Mutex<HashMap<SocketAddr, (Health, &'static str)>>,
    /// How long a look takes.
    pub(crate) takes: Mutex<Duration>,
    /// Where nobody ever answers.
    pub(crate) silent: Mutex<HashSet<IpAddr>>,
    /// When, and where.
    pub(crate) asked: Mutex<Vec<(Instant, SocketAddr)>>,
    /// Under way, and the most that ever were.
    pub(crate) running: Mutex<(usize, usize)>,
    /// Looks that were broken off.
    pub(crate) dropped: Mutex<usize>,
}

impl FakeProbe {
    pub(crate) fn set(&self, target: &str, health: Health, note: &'static str) {
        self.found.lock().insert(target.parse().expect("an address"), (health, note));
    }

    pub(crate) fn count(&self, target: &str) -> usize {
        let target: SocketAddr = target.parse().expect("an address");
        self.asked.lock().iter().filter(|(_, asked)| *asked == target).count()
    }
}

/// Notes that a look began, and that it was dropped if it did not end.
struct Look(Arc<FakeProbe>, bool);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.running.lock().0 -= 1;
        *self.0.dropped.lock() += usize::from(!self.1);
    }
}

/// The probe that all checks of a replica share.
pub(crate) struct Probing(pub(crate) Arc<FakeProbe>);

impl Probe for Probing {
    fn run(&self, _: Arc<Check>, target: SocketAddr) -> BoxFuture<'static, Outcome> {
        let probe = Arc::clone(&self.0);
        Box::pin(async move {
            probe.asked.lock().push((Instant::now(), target));
            {
                let mut running = probe.running.lock();
                running.0 += 1;
                running.1 = running.1.max(running.0);
            }
            let mut look = Look(Arc::clone(&probe), false);
            let takes = *probe.takes.lock();
            tokio::time::sleep(takes).await;
            let silent = probe.silent.lock().contains(&target.ip());
            if silent {
                std::future::pending::<()>().await;
            }
            look.1 = true;
            let (health, note) = probe.found.lock().get(&target).copied().unwrap_or((Health::Passing, "fine"));
            Outcome::new(health, note)
        })
    }
}

/// A registry of any number of replicas.
pub(crate) struct World {
    shared: Arc<Shared>,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) store: Arc<Handle>,
    pub(crate) runner: Runner,
    pub(crate) writer: Writer,
    pub(crate) probe: Arc<FakeProbe>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { shared: Shared::new() }
    }

    /// Puts records given as key and JSON, or removes them (`-`), in one commit.
    pub(crate) fn put(&self, records: &[(&str, &str)]) {
        let operation = |(key, value): &(&str, &str)| {
            let key: Key = key.parse().expect("a key");
            let action = match *value {
                "-" => Action::Delete,
                value => Action::Put(Arc::new(Record::decode(&key, value.as_bytes()).expect("a value"))),
            };
            fingerpost_registry::store::Operation { key, action }
        };
        let operations = records.iter().map(operation).collect();
        self.shared.apply(&Commit { operations, ..Commit::default() }).expect("committed");
    }

    /// Whether commits fail.
    pub(crate) fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> usize {
        self.shared.head() as usize
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.shared.record(&key.parse().expect("a key")).is_some()
    }

    pub(crate) fn result(&self, key: &str) -> Option<CheckResult> {
        let key: Key = key.parse().expect("a key");
        match &*self.shared.record(&key)? {
            Record::Check(result) => Some(result.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// A replica that has loaded, among those that it believes to be alive; empty: out of touch.
    pub(crate) async fn node(&self, own: &str, alive: &[&str], limits: Limits, relay: Arc<dyn Relay>) -> Node {
        let store = Handle::new(&self.shared, members(own, alive));
        let live = LiveReplica::new("own");
        let probe = Arc::new(FakeProbe::default());
        let runner = Runner::new(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::clone(&live),
            Arc::new(Probing(Arc::clone(&probe))),
            relay,
            TargetRules::default(),
            limits,
        );
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let observers: Vec<Arc<dyn fingerpost_registry::live::Observer>> =
            vec![Arc::new(History::default()), Arc::new(runner.clone())];
        let feed = Feed::new(Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&live), observers).run(stop.clone());
        tasks.spawn(async move { feed.await.expect("the feed") });
        tasks.spawn(runner.clone().run(stop.clone()));
        live.wait_loaded().await;
        let writer = Writer::new(Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&live));
        Node { store, runner, writer, probe, stop, tasks }
    }
}

impl Node {
    /// Has it believe that these are alive; none: it is out of touch.
    pub(crate) fn believe(&self, alive: &[&str]) {
        self.store.set_members(members(&self.store.own(), alive));
    }

    /// Whether it hears of no changes.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.store.paused.send_replace(deaf);
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no panic");
        }
    }
}

pub(crate) fn instance(key: &str) -> InstanceKey {
    match format!("instances/{key}").parse() {
        Ok(Key::Instance(key)) => key,
        other => panic!("{key}: {other:?}"),
    }
}

/// Lets time pass, a little at a time, so that everybody gets to act at each moment.
pub(crate) async fn pass(seconds: u64) {
    for _ in 0..seconds * 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
