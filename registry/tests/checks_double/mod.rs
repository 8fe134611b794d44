//! Doubles for tests of checks: a store in memory that several replicas share, each with its own idea of who is alive,
//! and probes that find what the test says. Nothing here takes real time, so that tests can run on tokio's paused clock.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_catalog::{Change, ChangeSet, Check, CheckResult, Epoch, Health, InstanceKey, Key, Position, Record};
use fingerpost_registry::checks::{History, Limits, Outcome, Probe, Relay, Runner, TargetRules};
use fingerpost_registry::live::{Feed, LiveReplica};
use fingerpost_registry::members::{Fence, Member, Members, Secret};
use fingerpost_registry::store::{
    Action, Commit, CommitError, Committed, Contents, Expect, FollowError, Follower, MAX_OPERATIONS, MigrateError,
    Migrated, ReadAt, Store, StoreError, StoreStatus, StoredRecord,
};
use fingerpost_registry::writes::Writer;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const EPOCH: Epoch = Epoch(1);

#[derive(Default)]
struct Contained {
    records: BTreeMap<Key, (Arc<Record>, u64)>,
    log: Vec<Arc<ChangeSet>>,
    /// Fails all commits.
    away: bool,
}

/// What all replicas share.
pub(crate) struct Shared {
    contained: Mutex<Contained>,
    head: watch::Sender<usize>,
}

/// A replica's way to it.
pub(crate) struct MemoryStore {
    shared: Arc<Shared>,
    members: watch::Sender<Arc<Members>>,
    /// While true, this replica hears of no changes.
    deaf: watch::Sender<bool>,
    /// This replica has lost its place and does not know it: what is for a home alone to write, fails.
    pub(crate) evicted: AtomicBool,
}

impl Store for MemoryStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            if commit.fence.is_some() && self.evicted.load(Ordering::SeqCst) {
                return Err(CommitError::Fenced);
            }
            self.shared.commit(commit)
        })
    }

    fn read_all(&self, _: ReadAt) -> BoxFuture<'_, Result<Contents, StoreError>> {
        Box::pin(async move {
            let contained = self.shared.contained.lock();
            let records = contained.records.iter().map(|(key, (record, revision))| StoredRecord {
                key: key.clone(),
                record: (**record).clone(),
                revision: *revision,
            });
            let (sender, receiver) = mpsc::channel(1);
            sender.try_send(Ok(records.collect())).expect("room for one");
            Ok(Contents { position: Position::new(EPOCH, contained.log.len() as u64), records: receiver })
        })
    }

    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, FollowError> {
        let (head, deaf) = (self.shared.head.subscribe(), self.deaf.subscribe());
        Ok(Box::new(Following { shared: Arc::clone(&self.shared), at: after.number as usize, head, deaf }))
    }

    fn compact(&self, _: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn status(&self) -> StoreStatus {
        let contained = self.shared.contained.lock();
        StoreStatus {
            backend: "memory",
            position: Position::new(EPOCH, contained.log.len() as u64),
            oldest: 0,
            records: contained.records.len() as u64,
            disk_bytes: None,
            write_error: None,
            last_sync: None,
            out_of_touch: None,
            schema: 1,
            foreign: 0,
            foreign_keys: Vec::new(),
        }
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Migrated, MigrateError>> {
        Box::pin(async { Ok(Migrated { from: 1, to: 1 }) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl Shared {
    fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        if commit.operations.len().max(commit.conditions.len()) > MAX_OPERATIONS {
            return Err(CommitError::Malformed("too large for a commit".to_owned()));
        }
        let mut contained = self.contained.lock();
        if contained.away {
            return Err(CommitError::Unavailable("away".to_owned()));
        }
        for condition in &commit.conditions {
            let actual = contained.records.get(&condition.key).map(|(_, revision)| *revision);
            let holds = match condition.expect {
                Expect::Absent => actual.is_none(),
                Expect::Present => actual.is_some(),
                Expect::At(number) => actual == Some(number),
            };
            if !holds {
                return Err(CommitError::Condition { key: condition.key.clone(), actual });
            }
        }
        let number = contained.log.len() as u64 + 1;
        let mut changes = Vec::new();
        for operation in commit.operations {
            let previous = contained.records.get(&operation.key).map(|(record, _)| Arc::clone(record));
            let record = match operation.action {
                Action::Put(record) => Some(record),
                Action::Delete => None,
            };
            if record.as_deref() != previous.as_deref() {
                changes.push(Change { key: operation.key, record });
            }
        }
        if changes.is_empty() {
            return Ok(Committed { position: Position::new(EPOCH, number - 1), changed: false });
        }
        for change in &changes {
            match &change.record {
                Some(record) => contained.records.insert(change.key.clone(), (Arc::clone(record), number)),
                None => contained.records.remove(&change.key),
            };
        }
        let position = Position::new(EPOCH, number);
        contained.log.push(Arc::new(ChangeSet { position, changes }));
        self.head.send_replace(contained.log.len());
        Ok(Committed { position, changed: true })
    }
}

struct Following {
    shared: Arc<Shared>,
    at: usize,
    head: watch::Receiver<usize>,
    deaf: watch::Receiver<bool>,
}

impl Follower for Following {
    fn next(&mut self) -> BoxFuture<'_, Result<Arc<ChangeSet>, FollowError>> {
        Box::pin(async move {
            self.deaf.wait_for(|deaf| !deaf).await.map_err(|_| FollowError::Closed)?;
            let at = self.at;
            self.head.wait_for(|head| *head > at).await.map_err(|_| FollowError::Closed)?;
            self.deaf.wait_for(|deaf| !deaf).await.map_err(|_| FollowError::Closed)?;
            self.at += 1;
            Ok(Arc::clone(&self.shared.contained.lock().log[at]))
        })
    }

    fn try_next(&mut self) -> Result<Option<Arc<ChangeSet>>, FollowError> {
        if *self.deaf.borrow() {
            return Ok(None);
        }
        let next = self.shared.contained.lock().log.get(self.at).map(Arc::clone);
        self.at += usize::from(next.is_some());
        Ok(next)
    }
}

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
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) runner: Runner,
    pub(crate) writer: Writer,
    pub(crate) probe: Arc<FakeProbe>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Shared { contained: Mutex::default(), head: watch::Sender::new(0) }) }
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
        self.shared.commit(Commit { operations, ..Commit::default() }).expect("committed");
    }

    /// Whether commits fail.
    pub(crate) fn set_away(&self, away: bool) {
        self.shared.contained.lock().away = away;
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> usize {
        self.shared.contained.lock().log.len()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.shared.contained.lock().records.contains_key(&key.parse().expect("a key"))
    }

    pub(crate) fn result(&self, key: &str) -> Option<CheckResult> {
        let key: Key = key.parse().expect("a key");
        match &*self.shared.contained.lock().records.get(&key)?.0 {
            Record::Check(result) => Some(result.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// A replica that has loaded, among those that it believes to be alive; empty: out of touch.
    pub(crate) async fn node(&self, own: &str, alive: &[&str], limits: Limits, relay: Arc<dyn Relay>) -> Node {
        let store = Arc::new(MemoryStore {
            shared: Arc::clone(&self.shared),
            members: watch::Sender::new(members(own, alive)),
            deaf: watch::Sender::new(false),
            evicted: AtomicBool::new(false),
        });
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

fn members(own: &str, alive: &[&str]) -> Arc<Members> {
    let member = |id: &&str| Member { id: (*id).into(), url: None, version: String::new(), schema: 1 };
    let live = alive.iter().map(member).collect();
    Arc::new(Members {
        own: own.into(),
        live,
        in_touch: !alive.is_empty(),
        secret: Secret::default(),
        fence: Fence::default(),
    })
}

impl Node {
    /// Has it believe that these are alive; none: it is out of touch.
    pub(crate) fn believe(&self, alive: &[&str]) {
        let own = self.store.members.borrow().own.clone();
        self.store.members.send_replace(members(&own, alive));
    }

    /// Whether it hears of no changes.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.store.deaf.send_replace(deaf);
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
