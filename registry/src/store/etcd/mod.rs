//! The etcd back end: many replicas over one etcd cluster.
//!
//! Consensus is etcd's job. Each replica loads everything at one revision, follows one watch from there, and packs the
//! writes of its callers into few transactions; a position's number is etcd's revision.
//!
//! - `keys`, `meta`, `foreign`: what lies where, and what is not ours.
//! - `decode`: what keys and values say.
//! - `endpoints`, `failure`, `version`: the ways to etcd, and what its errors mean for a request.
//! - `open`, `load`, `past`, `watcher`, `mirror`: from everything at one revision to what holds now.
//! - `sequencer`, `plan`, `transaction`, `delivery`: from a caller's commit to its outcome, also through lost answers.
//! - `replica`, `janitor`, `seen`: this replica's place among the others, and what is done from time to time.
//!
//! `Relaxed` means nothing here: everything is in etcd's quorum before the reply. A record that somebody overwrites with what
//! can't be read is treated as removed, and named in the status: what it said before is no longer true.

mod decode;
mod delivery;
mod endpoints;
mod failure;
mod foreign;
mod janitor;
mod keys;
mod load;
mod meta;
mod mirror;
mod open;
mod past;
mod plan;
mod replica;
mod seen;
mod sequencer;
mod transaction;
mod version;
mod watcher;

pub use open::OpenError;

use super::{
    Commit, CommitError, Committed, Contents, FollowError, Follower, MigrateError, Migrated, ReadAt, SCHEMA, Store,
    StoreError, StoreStatus, StoredRecord, prepare,
};
use crate::members::Members;
use endpoints::{Endpoints, REQUEST};
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use fingerpost_catalog::Position;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mirror::Mirror;
use parking_lot::Mutex;
use plan::Job;
use sequencer::Inbox;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A password, which is not to be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// How a store in etcd is reached and kept.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members' client URLs.
    pub endpoints: Vec<String>,
    /// Everything lies under this prefix, like `/fingerpost`.
    pub prefix: String,
    /// The authority that signed etcd's certificate, in PEM.
    pub ca: Option<PathBuf>,
    /// This replica's certificate, in PEM.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The user, where etcd asks for one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Password>,
    /// Where other replicas reach this one's API.
    pub url: Option<String>,
    /// Where to note how far the store was seen; without, a backup that is restored while no replica runs is not noticed.
    pub data_dir: Option<PathBuf>,
    /// The newest schema of stored records that is read.
    pub schema: u32,
    /// Uses an etcd that is known to lose leases.
    pub allow_old_etcd: bool,
    /// How long opening may wait for an etcd that does not answer.
    pub open_timeout: Duration,
    /// How long a replica that is gone counts as alive; whole seconds.
    pub lease: Duration,
    /// After so long without a word, the watch is asked for one.
    pub progress: Duration,
    /// So many of etcd's latest revisions are followed from the start, as far as etcd has not compacted them, so that a replica
    /// that was restarted can serve those who resume from before.
    pub resume_revisions: u64,
    /// Not so many of them, though, that more records than this have changed.
    pub resume_changes: usize,
    /// Most changes kept in memory for followers.
    pub history_changes: usize,
    /// About how many bytes they may take.
    pub history_bytes: usize,
    /// Most commits that wait; callers beyond wait for room.
    pub queue: usize,
    /// Most transactions under way.
    pub in_flight: usize,
}

impl EtcdOptions {
    /// The usual ones.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/fingerpost".to_owned(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password: None,
            url: None,
            data_dir: None,
            schema: SCHEMA,
            allow_old_etcd: false,
            open_timeout: Duration::from_secs(10),
            lease: Duration::from_secs(10),
            progress: Duration::from_secs(2),
            resume_revisions: 1000,
            resume_changes: 2000,
            history_changes: 100_000,
            history_bytes: 64 << 20,
            queue: 4096,
            in_flight: 4,
        }
    }
}

/// What the tasks of one store share.
struct Core {
    id: Arc<str>,
    url: Option<String>,
    schema: u32,
    lease: Duration,
    progress: Duration,
    endpoints: Endpoints,
    mirror: Mirror,
    inbox: Inbox,
    /// The watch: when its last word came, and whether it is up.
    touch: Mutex<(Instant, bool)>,
    /// When the lease was last known to be kept.
    kept: Mutex<Option<Instant>>,
    /// Why writes are not taken, as far as the last ones tell.
    trouble: Mutex<Option<String>>,
    write_nanoseconds: AtomicU64,
    /// Ends everything but deliveries under way.
    stop: CancellationToken,
    /// Ends those, too: something failed that the store can't do without.
    dead: CancellationToken,
    tasks: TaskTracker,
}

impl Core {
    fn new(options: &EtcdOptions, endpoints: Endpoints, mirror: Mirror) -> Self {
        let id = mirror.members().borrow().own.clone();
        Self {
            id,
            url: options.url.clone(),
            schema: options.schema,
            lease: options.lease,
            progress: options.progress,
            endpoints,
            mirror,
            inbox: Inbox::new(options.queue),
            touch: Mutex::new((Instant::now(), false)),
            kept: Mutex::new(None),
            trouble: Mutex::new(None),
            write_nanoseconds: AtomicU64::new(0),
            stop: CancellationToken::new(),
            dead: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Runs what the store can't do without: if it panics, the store ends, and the process with it, instead of going on with
    /// a part missing.
    fn vital(self: &Arc<Self>, what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            let panicked = tokio::select! {
                ended = AssertUnwindSafe(task).catch_unwind() => ended.is_err(),
                () = core.dead.cancelled() => false,
            };
            if panicked {
                core.end(&format!("{what} panicked"));
            }
        })
    }

    fn schema_is_too_new(&self, found: u32) {
        self.end(&format!(
            "its records have schema {found} now, and this version reads {} at most: upgrade it",
            self.schema
        ));
    }

    /// Ends the store for good. Those who follow it see it closed.
    fn end(&self, why: &str) {
        tracing::error!(why, "the store in etcd ends");
        self.inbox.close();
        self.stop.cancel();
        self.dead.cancel();
        self.mirror.history.close();
    }

    /// All that etcd holds is known here, or the watch has brought something more.
    fn in_touch(&self) {
        let before = std::mem::replace(&mut *self.touch.lock(), (Instant::now(), true));
        if !before.1 {
            tracing::info!(seconds = before.0.elapsed().as_secs(), "etcd is followed");
            self.mirror.set_in_touch(self.keeps_its_place());
        }
    }

    fn lost_touch(&self, why: &str) {
        let before = {
            let mut touch = self.touch.lock();
            std::mem::replace(&mut touch.1, false)
        };
        if before {
            tracing::warn!(why, "etcd can't be followed now; what is known is served");
        }
    }

    fn out_of_touch(&self) -> Option<Duration> {
        let touch = *self.touch.lock();
        (!touch.1).then(|| touch.0.elapsed())
    }

    fn set_kept(&self, renewed: Option<Instant>) {
        *self.kept.lock() = renewed;
        self.mirror.set_in_touch(self.keeps_its_place());
    }

    /// Whether the others hold this replica for alive, and it knows of what they do.
    fn keeps_its_place(&self) -> bool {
        let kept = *self.kept.lock();
        let fresh = kept.is_some_and(|kept| kept.elapsed() < replica::patience(self.lease));
        // A watch that moves to another endpoint is back sooner than anybody could be missed.
        let aware = self.out_of_touch().is_none_or(|time| time < self.lease / 3);
        fresh && aware && !self.stop.is_cancelled()
    }

    fn wrote(&self, time: Duration) {
        self.write_nanoseconds.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Writes are taken.
    fn works(&self) {
        let mut trouble = self.trouble.lock();
        if trouble.take().is_some() {
            tracing::info!("etcd takes writes again");
        }
    }

    fn fails(&self, error: &CommitError) {
        let mut trouble = self.trouble.lock();
        if trouble.is_none() {
            tracing::warn!(%error, "etcd does not take writes");
        }
        *trouble = Some(match error {
            CommitError::Full => "etcd's database is full".to_owned(),
            CommitError::Unavailable(why) | CommitError::Unknown(why) => why.clone(),
            other => other.to_string(),
        });
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

fn closed() -> CommitError {
    CommitError::Unavailable(StoreError::Closed.to_string())
}

/// Everything at a position, in batches.
type Staged = (Position, Vec<Vec<StoredRecord>>);

/// A store in etcd.
pub struct EtcdStore {
    core: Arc<Core>,
    /// What was loaded at the start, for the first reader.
    staged: Mutex<Option<Staged>>,
    /// Held while it is closed, so that a second call waits for the first.
    sequencer: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("head", &self.core.mirror.head()).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to etcd, loads everything, and begins to follow.
    pub async fn open(options: EtcdOptions) -> Result<Arc<Self>, OpenError> {
        Box::pin(open::open(options)).await
    }

    fn new(core: Arc<Core>, staged: Staged, sequencer: JoinHandle<()>) -> Arc<Self> {
        Arc::new(Self { core, staged: Mutex::new(Some(staged)), sequencer: tokio::sync::Mutex::new(Some(sequencer)) })
    }

    async fn read(&self, at: ReadAt) -> Result<Contents, StoreError> {
        if self.core.stop.is_cancelled() {
            return Err(StoreError::Closed);
        }
        if at == ReadAt::Oldest
            && let Some((position, pages)) = self.staged.lock().take()
            && self.core.mirror.history.follow(position).is_ok()
        {
            // All of it fits, so nothing has to wait.
            let (sender, records) = mpsc::channel(pages.len().max(1));
            for page in pages {
                let _ = sender.try_send(Ok(page));
            }
            return Ok(Contents { position, records });
        }
        let mirror = &self.core.mirror;
        let unavailable = |failure: failure::Failure| StoreError::Unavailable(failure.text);
        let until = Instant::now() + 2 * REQUEST;
        let (epoch, applied) = (mirror.epoch(), mirror.applied());
        let meta = meta::read(&self.core.endpoints, &mirror.keys, until).await.map_err(unavailable)?;
        if meta.epoch.map(|(epoch, _)| epoch) != Some(epoch) || meta.revision < applied {
            return Err(StoreError::Unavailable("its history is just being replaced by another".to_owned()));
        }
        mirror.history.know(meta.revision);
        let position = Position::new(epoch, meta.revision);
        let (sender, records) = mpsc::channel(2);
        let core = Arc::clone(&self.core);
        self.core.tasks.spawn(async move {
            let mirror = &core.mirror;
            let (range, until) = (mirror.keys.records(), Instant::now() + Duration::from_secs(60));
            let mut pages =
                load::Pages::new(&core.endpoints, &mirror.keys, &mirror.hasher, &range, position.number, until);
            let reading = async {
                while let Some(page) = pages.next().await? {
                    if sender.send(Ok(page.records)).await.is_err() {
                        break;
                    }
                }
                Ok::<_, failure::Failure>(())
            };
            tokio::select! {
                read = reading => if let Err(failure) = read {
                    let _ = sender.send(Err(StoreError::Unavailable(failure.text))).await;
                },
                () = core.stop.cancelled() => {
                    let _ = sender.try_send(Err(StoreError::Closed));
                }
            }
        });
        Ok(Contents { position, records })
    }

    async fn raise_schema(&self) -> Result<Migrated, MigrateError> {
        let core = &self.core;
        let unavailable = |failure: failure::Failure| MigrateError::Unavailable(failure.text);
        let until = Instant::now() + 2 * REQUEST;
        loop {
            let meta = meta::read(&core.endpoints, &core.mirror.keys, until).await.map_err(unavailable)?;
            let from = meta.schema.unwrap_or_else(|| core.mirror.schema());
            // Who has registered up to now is seen.
            if !core.mirror.wait_for(meta.revision, 2 * REQUEST).await {
                return Err(MigrateError::Unavailable("etcd can't be followed now".to_owned()));
            }
            if from >= core.schema {
                return Ok(Migrated { from, to: from });
            }
            // Who joins from now on sees to it that the schema is one that it can read.
            let members = Arc::clone(&core.mirror.members().borrow());
            if let Some(old) = members.live.iter().find(|member| member.schema < core.schema) {
                return Err(MigrateError::Unsupported {
                    member: old.id.to_string(),
                    version: old.version.clone(),
                    supports: old.schema,
                });
            }
            let key = core.mirror.keys.schema();
            let txn = Txn::new()
                .when([
                    Compare::mod_revision(key.as_str(), CompareOp::Equal, meta.schema_at),
                    transaction::nobody_joined(&core.mirror.keys, members.fence.joins),
                ])
                .and_then([TxnOp::put(key, core.schema.to_string(), None)]);
            let raised = core.endpoints.once(REQUEST, |mut client| async move { client.txn(txn).await });
            let raised = raised.await.map_err(unavailable)?;
            if raised.succeeded() {
                let revision = decode::revision(raised.header());
                core.mirror.wait_for(revision, REQUEST).await;
                return Ok(Migrated { from, to: core.schema });
            }
        }
    }

    async fn shut(&self) {
        let core = &self.core;
        core.inbox.close();
        let mut sequencer = self.sequencer.lock().await;
        let Some(running) = sequencer.take() else { return };
        // Of a panic it has told itself.
        let _ = running.await;
        core.stop.cancel();
        core.tasks.close();
        core.tasks.wait().await;
        if core.out_of_touch().is_none() {
            janitor::clear(core).await;
        }
        core.mirror.history.close();
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.core.inbox.close();
        self.core.stop.cancel();
        self.core.mirror.history.close();
    }
}

impl Store for EtcdStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        async move {
            let commit = prepare::prepare(commit, &self.core.mirror.hasher, transaction::MAX_BYTES)?;
            if self.core.stop.is_cancelled() {
                return Err(closed());
            }
            if commit.operations.is_empty() && commit.conditions.is_empty() && commit.fence.is_none() {
                return Ok(Committed { position: self.core.mirror.head(), changed: false });
            }
            let (reply, outcome) = oneshot::channel();
            self.core.inbox.add(Job::new(commit, reply, &self.core.mirror.hasher)).await?;
            match outcome.await {
                Ok(outcome) => outcome,
                Err(_) => Err(CommitError::Unknown("the store was let go of".to_owned())),
            }
        }
        .boxed()
    }

    fn read_all(&self, at: ReadAt) -> BoxFuture<'_, Result<Contents, StoreError>> {
        self.read(at).boxed()
    }

    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, FollowError> {
        self.core.mirror.history.follow(after)
    }

    /// Only this replica forgets: compacting etcd would take the history from all others, and from whoever else uses it.
    fn compact(&self, up_to: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let head = self.core.mirror.head();
            if up_to.epoch != head.epoch {
                return Err(StoreError::Unavailable("the position belongs to another history of the store".to_owned()));
            }
            self.core.mirror.history.forget(up_to.number);
            Ok(())
        }
        .boxed()
    }

    fn status(&self) -> StoreStatus {
        let core = &self.core;
        let (records, foreign, foreign_keys) = core.mirror.counts();
        let nanoseconds = core.write_nanoseconds.load(Ordering::Relaxed);
        let out_of_touch = core.out_of_touch();
        let silent = || out_of_touch.map(|time| format!("no word from etcd for {} s", time.as_secs()));
        StoreStatus {
            backend: "etcd",
            position: core.mirror.head(),
            oldest: core.mirror.history.oldest(),
            records,
            disk_bytes: None,
            write_error: core.trouble().or_else(silent),
            last_sync: (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds)),
            out_of_touch,
            schema: core.mirror.schema(),
            foreign,
            foreign_keys,
        }
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.core.mirror.members()
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Migrated, MigrateError>> {
        self.raise_schema().boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.shut().boxed()
    }
}
