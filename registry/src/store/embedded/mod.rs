//! The embedded back end: one process, one folder, one file.
//!
//! Commits go to a log in a [redb](https://docs.rs/redb) database, many at a time: one writer thread takes everything
//! that waits, judges each commit on its own, writes the group with one sync, publishes it to followers and replies.
//! Now and then what the log says is condensed into a new *base* on the side, and the log before it is dropped, so that
//! neither the file nor the time to open it grow with the number of writes. In memory lie an index (no keys, no values)
//! and the latest changes.
//!
//! - `inbox`, `judge`: from a caller to a judged group.
//! - `writer`, `persist`, `recover`: the thread, its transactions, and what it does when the disk fails.
//! - `checkpoint`, `segments`: new bases. `contents`, `values`: reading.
//! - `disk`, `folder`, `tables`, `codec`: how it lies on disk.
//!
//! The database commits in one phase with one sync and checks itself from end to end when it is opened after an unclean
//! end. Its alternative, two syncs for every commit, would spare that check; but the store reads everything when it opens
//! in any case.

mod checkpoint;
mod codec;
mod contents;
mod disk;
mod folder;
mod inbox;
mod index;
mod judge;
mod load;
mod open;
mod persist;
mod recover;
mod segments;
mod tables;
mod values;
mod writer;

pub use disk::Medium;
pub use open::OpenError;

use super::history::History;
use super::prepare;
use super::{
    Commit, CommitError, Committed, Contents, FollowError, Follower, MigrateError, Migrated, ReadAt, SCHEMA, Store,
    StoreError, StoreStatus,
};
use crate::members::Members;
use disk::{Disk, Trouble};
use fingerpost_catalog::{Epoch, Position};
use folder::Folder;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use inbox::{Inbox, Job, Request};
use index::KeyHasher;
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadTransaction, ReadableDatabase};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// The largest commit, encoded. It bounds what one commit may hold up, and the size of a row.
const MAX_COMMIT_BYTES: usize = 4 << 20;

/// How an embedded store is kept.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The data folder; made if it does not exist.
    pub dir: PathBuf,
    /// Most changes kept in memory for followers.
    pub history_changes: usize,
    /// About how many bytes they may take.
    pub history_bytes: usize,
    /// So many of the latest changes stay on disk, for followers that come back after a restart.
    pub retain_changes: u64,
    /// But not more than about so many bytes of them.
    pub retain_bytes: u64,
    /// A new base is written when the log is larger than this and than the base.
    pub checkpoint_bytes: u64,
    /// Most bytes of relaxed commits that may wait for a disk that can't be written.
    pub relaxed_bytes: usize,
    /// The database's page cache.
    pub cache_bytes: usize,
    /// Most commits that wait for the writer; callers beyond wait for room.
    pub queue: usize,
    /// Most commits written with one sync.
    pub group_commits: usize,
    /// About how many bytes of them.
    pub group_bytes: usize,
}

impl EmbeddedOptions {
    /// The usual ones, in a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            history_changes: 100_000,
            history_bytes: 64 << 20,
            retain_changes: 10_000,
            retain_bytes: 32 << 20,
            checkpoint_bytes: 32 << 20,
            relaxed_bytes: 16 << 20,
            cache_bytes: 4 << 20,
            queue: 4096,
            group_commits: 1024,
            group_bytes: 4 << 20,
        }
    }
}

/// What the writer shares with everybody else.
struct Shared {
    disk: Disk,
    folder: Option<Folder>,
    /// None while it is being opened again after an error, and once the store is closed.
    db: RwLock<Option<Database>>,
    history: Arc<History>,
    inbox: Inbox,
    records: AtomicU64,
    write_nanoseconds: AtomicU64,
    write_error: Mutex<Option<String>>,
    /// The threads that read for [`Store::read_all`].
    readers: Mutex<Vec<JoinHandle<()>>>,
    /// Ends those.
    stop: CancellationToken,
    /// The writer has ended.
    ended: CancellationToken,
}

impl Shared {
    /// A snapshot of the database.
    fn read(&self) -> Result<ReadTransaction, Trouble> {
        let db = self.db.read();
        let db = db.as_ref().ok_or_else(|| match self.write_error.lock().clone() {
            Some(problem) => Trouble::Io(problem),
            None => Trouble::Io("the database is not open".to_owned()),
        })?;
        Ok(db.begin_read()?)
    }

    fn keep_reader(&self, thread: JoinHandle<()>) {
        let mut readers = self.readers.lock();
        let (ended, running) = readers.drain(..).partition(|reader| reader.is_finished());
        *readers = running;
        readers.push(thread);
        drop(readers);
        join(ended);
    }

    /// Lets go of everything once the writer has ended.
    fn let_go(&self) {
        self.stop.cancel();
        let readers = std::mem::take(&mut *self.readers.lock());
        join(readers);
        self.history.close();
        if let Some(folder) = &self.folder {
            folder.release();
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the store panicked");
        }
    }
}

/// A store in a folder of this machine.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    hasher: KeyHasher,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Only this process, for as long as it runs.
    members: watch::Sender<Arc<Members>>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("head", &self.shared.history.head()).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store in a folder, and makes it if there is none.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>, OpenError> {
        let folder = Folder::hold(&options.dir)?;
        let medium = folder.medium();
        open::open(options, medium, Some(folder))
    }

    /// Opens a store whose bytes lie elsewhere. Nothing is locked and nothing is noted beside the database.
    pub fn open_on(options: EmbeddedOptions, medium: Box<dyn Medium>) -> Result<Arc<Self>, OpenError> {
        open::open(options, medium, None)
    }

    /// Begins another history (where numbers would go backwards): every position handed out so far becomes foreign.
    pub async fn renew_epoch(&self) -> Result<Epoch, StoreError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.inbox.ask(Request::Renew(sender)).await.map_err(|_| StoreError::Closed)?;
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    fn shut(&self) {
        self.shared.inbox.close();
        if let Some(writer) = self.writer.lock().take() {
            join(vec![writer]);
        }
        self.shared.let_go();
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shut();
    }
}

fn closed() -> CommitError {
    CommitError::Unavailable(StoreError::Closed.to_string())
}

impl Store for EmbeddedStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        async move {
            let commit = prepare::prepare(commit, &self.hasher, MAX_COMMIT_BYTES)?;
            let (reply, outcome) = oneshot::channel();
            self.shared.inbox.add(Job { commit, reply }).await.map_err(|_| closed())?;
            match outcome.await {
                Ok(outcome) => outcome,
                Err(_) => Err(CommitError::Unknown("the store's writer ended".to_owned())),
            }
        }
        .boxed()
    }

    fn read_all(&self, at: ReadAt) -> BoxFuture<'_, Result<Contents, StoreError>> {
        async move { contents::read_all(&self.shared, at, Handle::current()) }.boxed()
    }

    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, FollowError> {
        self.shared.history.follow(after)
    }

    fn compact(&self, up_to: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let (sender, receiver) = oneshot::channel();
            self.shared.inbox.ask(Request::Compact(up_to, sender)).await.map_err(|_| StoreError::Closed)?;
            receiver.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }

    fn status(&self) -> StoreStatus {
        let shared = &self.shared;
        let nanoseconds = shared.write_nanoseconds.load(Ordering::Relaxed);
        StoreStatus {
            backend: "embedded",
            position: shared.history.head(),
            oldest: shared.history.oldest(),
            records: shared.records.load(Ordering::Relaxed),
            disk_bytes: Some(shared.disk.gauge.length()),
            write_error: shared.write_error.lock().clone(),
            last_sync: (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds)),
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
        // There is one schema so far, and nobody else who would have to read another.
        async move { Ok(Migrated { from: SCHEMA, to: SCHEMA }) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.inbox.close();
            self.shared.ended.cancelled().await;
            let writer = self.writer.lock().take();
            let shared = Arc::clone(&self.shared);
            // All of them are about to end; but not on a thread of the runtime.
            let ended = tokio::task::spawn_blocking(move || {
                join(writer.into_iter().collect());
                shared.let_go();
            });
            if ended.await.is_err() {
                tracing::error!("a thread of the store panicked while it closed");
            }
        }
        .boxed()
    }
}
