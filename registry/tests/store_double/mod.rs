//! A store in memory that several replicas share, each through a handle of its own. It has no threads and no timers, so
//! that the clock of a test stands still while it works; and it can be cut off, held up, and have its followers paused.
#![allow(dead_code, unreachable_pub, reason = "no test needs all of it")]

use fingerpost_catalog::{Change, ChangeSet, Epoch, Key, Position, Record};
use fingerpost_registry::members::{Fence, Member, Members, Secret};
use fingerpost_registry::store::{
    Action, Commit, CommitError, Committed, Contents, Expect, FollowError, Follower, MAX_CONDITIONS, MAX_OPERATIONS,
    MigrateError, Migrated, ReadAt, SCHEMA, Store, StoreError, StoreStatus, StoredRecord,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};

const EPOCH: Epoch = Epoch(7);

/// What all handles share.
pub struct Shared {
    state: Mutex<State>,
    /// Commits that have not landed yet.
    late: Mutex<Vec<Commit>>,
    /// It can't be written to, by whichever way.
    pub away: AtomicBool,
    head: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Key, (Arc<Record>, u64)>,
    log: Vec<Arc<ChangeSet>>,
}

impl Shared {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            late: Mutex::default(),
            away: AtomicBool::new(false),
            head: watch::Sender::new(0),
        })
    }

    /// How many commits changed something.
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// A record as it is stored.
    pub fn record(&self, key: &Key) -> Option<Arc<Record>> {
        self.state.lock().records.get(key).map(|(record, _)| Arc::clone(record))
    }

    /// A session as it is stored.
    pub fn session(&self, id: &str) -> Option<fingerpost_catalog::Session> {
        match &*self.record(&Key::Session { id: id.into() })? {
            Record::Session(session) => Some(session.clone()),
            _ => None,
        }
    }

    /// Lands the commits that are late, as far as they still can be applied, and says how many could.
    pub fn land(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock());
        late.iter().filter(|commit| self.apply(commit).is_ok()).count()
    }

    /// Applies a commit, whoever makes it.
    pub fn apply(&self, commit: &Commit) -> Result<Committed, CommitError> {
        if commit.operations.len() > MAX_OPERATIONS || commit.conditions.len() > MAX_CONDITIONS {
            return Err(CommitError::Malformed("too large for a commit".to_owned()));
        }
        let mut state = self.state.lock();
        for condition in &commit.conditions {
            let actual = state.records.get(&condition.key).map(|(_, revision)| *revision);
            let holds = match condition.expect {
                Expect::Absent => actual.is_none(),
                Expect::Present => actual.is_some(),
                Expect::At(revision) => actual == Some(revision),
            };
            if !holds {
                return Err(CommitError::Condition { key: condition.key.clone(), actual });
            }
        }
        let number = state.log.len() as u64 + 1;
        let mut changes = Vec::new();
        for operation in &commit.operations {
            let previous = state.records.get(&operation.key).map(|(record, _)| Arc::clone(record));
            let record = match &operation.action {
                Action::Put(record) if previous.as_ref() == Some(record) => continue,
                Action::Put(record) => {
                    state.records.insert(operation.key.clone(), (Arc::clone(record), number));
                    Some(Arc::clone(record))
                }
                Action::Delete if previous.is_none() => continue,
                Action::Delete => {
                    state.records.remove(&operation.key);
                    None
                }
            };
            changes.push(Change { key: operation.key.clone(), record });
        }
        if changes.is_empty() {
            return Ok(Committed { position: Position::new(EPOCH, number - 1), changed: false });
        }
        let position = Position::new(EPOCH, number);
        state.log.push(Arc::new(ChangeSet { position, changes }));
        self.head.send_replace(number);
        Ok(Committed { position, changed: true })
    }
}

/// One replica's way to the store.
pub struct Handle {
    shared: Arc<Shared>,
    members: watch::Sender<Arc<Members>>,
    /// Commits fail.
    pub cut: AtomicBool,
    /// Commits are applied, but their outcome is not told.
    pub silent: AtomicBool,
    /// Commits are late: their outcome is not told, and they are applied when they [land](Shared::land).
    pub late: AtomicBool,
    /// This replica has lost its place and does not know it: what is for a home alone to write, fails.
    pub evicted: AtomicBool,
    /// Commits wait while this is true.
    pub held: watch::Sender<bool>,
    /// Commits that wait.
    pub waiting: AtomicU64,
    /// Commits without operations so far.
    pub asked: AtomicU64,
    /// Followers get nothing while this is true.
    pub paused: watch::Sender<bool>,
}

impl Handle {
    pub fn new(shared: &Arc<Shared>, members: Members) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            members: watch::Sender::new(Arc::new(members)),
            cut: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            late: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            held: watch::Sender::new(false),
            waiting: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            paused: watch::Sender::new(false),
        })
    }

    /// This replica's id.
    pub fn own(&self) -> Arc<str> {
        Arc::clone(&self.members.borrow().own)
    }

    pub fn set_members(&self, members: Members) {
        self.members.send_replace(Arc::new(members));
    }
}

/// The view that the replica `own` has of those that live; of none, if it is out of touch.
pub fn members(own: &str, live: &[&str]) -> Members {
    let member = |id: &&str| Member {
        id: (*id).into(),
        url: Some(format!("http://{id}")),
        version: String::new(),
        schema: SCHEMA,
    };
    Members {
        own: own.into(),
        live: live.iter().map(member).collect(),
        in_touch: !live.is_empty(),
        secret: Secret(Arc::from(&b"secret"[..])),
        fence: Fence::default(),
    }
}

impl Store for Handle {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        async move {
            self.asked.fetch_add(u64::from(commit.operations.is_empty()), Ordering::SeqCst);
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _ = self.held.subscribe().wait_for(|held| !held).await;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if self.cut.load(Ordering::SeqCst) || self.shared.away.load(Ordering::SeqCst) {
                return Err(CommitError::Unavailable("cut off".to_owned()));
            }
            if commit.fence.is_some() && self.evicted.load(Ordering::SeqCst) {
                return Err(CommitError::Fenced);
            }
            if self.late.load(Ordering::SeqCst) {
                self.shared.late.lock().push(commit);
                return Err(CommitError::Unknown("no reply".to_owned()));
            }
            let applied = self.shared.apply(&commit);
            match self.silent.load(Ordering::SeqCst) {
                true => Err(CommitError::Unknown("no reply".to_owned())),
                false => applied,
            }
        }
        .boxed()
    }

    fn read_all(&self, _: ReadAt) -> BoxFuture<'_, Result<Contents, StoreError>> {
        async move {
            let state = self.shared.state.lock();
            let records = state.records.iter().map(|(key, (record, revision))| StoredRecord {
                key: key.clone(),
                record: (**record).clone(),
                revision: *revision,
            });
            let (sender, receiver) = mpsc::channel(1);
            let _ = sender.try_send(Ok(records.collect()));
            Ok(Contents { position: Position::new(EPOCH, state.log.len() as u64), records: receiver })
        }
        .boxed()
    }

    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, FollowError> {
        Ok(Box::new(Following {
            shared: Arc::clone(&self.shared),
            head: self.shared.head.subscribe(),
            paused: self.paused.subscribe(),
            next: after.number as usize,
        }))
    }

    fn compact(&self, _: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }

    fn status(&self) -> StoreStatus {
        let state = self.shared.state.lock();
        StoreStatus {
            backend: "memory",
            position: Position::new(EPOCH, state.log.len() as u64),
            oldest: 0,
            records: state.records.len() as u64,
            disk_bytes: None,
            write_error: None,
            last_sync: None,
            out_of_touch: None,
            schema: SCHEMA,
            foreign: 0,
            foreign_keys: Vec::new(),
        }
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Migrated, MigrateError>> {
        async { Ok(Migrated { from: SCHEMA, to: SCHEMA }) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct Following {
    shared: Arc<Shared>,
    head: watch::Receiver<u64>,
    paused: watch::Receiver<bool>,
    next: usize,
}

impl Follower for Following {
    fn next(&mut self) -> BoxFuture<'_, Result<Arc<ChangeSet>, FollowError>> {
        async move {
            loop {
                let _ = self.paused.wait_for(|paused| !paused).await;
                self.head.borrow_and_update();
                if let Some(set) = self.try_next()? {
                    return Ok(set);
                }
                if self.head.changed().await.is_err() {
                    return Err(FollowError::Closed);
                }
            }
        }
        .boxed()
    }

    fn try_next(&mut self) -> Result<Option<Arc<ChangeSet>>, FollowError> {
        if *self.paused.borrow() {
            return Ok(None);
        }
        let set = self.shared.state.lock().log.get(self.next).cloned();
        self.next += usize::from(set.is_some());
        Ok(set)
    }
}
