//! The store: where records are kept, and the one order in which they change.
//!
//! A [`Store`] commits small atomic groups of operations, hands out everything it holds, and lets followers read what
//! changed after a position. It knows records and keys but not what they mean: validation happens before it, merging
//! and derivation in the catalog behind it. Back ends differ in where the bytes go, never in what a caller sees; one
//! suite of tests runs over all of them.

pub mod embedded;
pub mod etcd;
mod hashed;
mod history;
mod prepare;

use crate::members::{Fence, Members};
use fingerpost_catalog::{ChangeSet, Key, Position, Record};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Most operations in one commit; etcd's limit of 128 leaves room for bookkeeping.
pub const MAX_OPERATIONS: usize = 100;
/// Most conditions of one commit: each of its operations may have one on its own record, and one on another.
pub const MAX_CONDITIONS: usize = 2 * MAX_OPERATIONS;

/// The schema of stored records that this version writes, and the newest that it reads. Additive changes don't raise it:
/// records keep the fields that a version doesn't know.
pub const SCHEMA: u32 = 1;

/// When the reply to a commit may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// After the commit is on disk, or in etcd's quorum.
    #[default]
    Durable,
    /// At once; persisted in order behind. A crash may lose a tail, so only a source that can replay may use it.
    Relaxed,
}

/// What happens to one record.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// It gets this value. A value equal to the present one changes nothing.
    Put(Arc<Record>),
    /// It is removed. Removing what is not there changes nothing.
    Delete,
}

/// One operation of a commit.
#[derive(Clone, PartialEq, Debug)]
pub struct Operation {
    /// On which record; at most one operation a key and commit.
    pub key: Key,
    /// What to do.
    pub action: Action,
}

/// What must hold of a record for a commit to be applied, judged at the commit's own place in the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// There is no such record.
    Absent,
    /// There is such a record.
    Present,
    /// It was last changed by the commit with this number.
    At(u64),
}

/// A condition of a commit; it may concern records that the commit does not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Of which record.
    pub key: Key,
    /// What must hold.
    pub expect: Expect,
}

/// Operations applied all together, at one position, or not at all.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Commit {
    /// At most [`MAX_OPERATIONS`], each on another key.
    pub operations: Vec<Operation>,
    /// At most [`MAX_CONDITIONS`]; all must hold.
    pub conditions: Vec<Condition>,
    /// When the reply may come.
    pub durability: Durability,
    /// It was decided by a replica that took itself for the home of what this is about, by this view of the replicas: so
    /// it is applied only while that replica has kept its place and nobody has joined since. None for what anybody may
    /// write. A replica that stood still for long would else decide by what it remembers, while another one has been in
    /// charge for some time.
    pub fence: Option<Fence>,
}

/// A commit that was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The position that it made; where it changed nothing, the latest one.
    pub position: Position,
    /// Whether it changed anything.
    pub changed: bool,
}

/// Why a commit was not applied, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A condition did not hold; nothing was changed.
    #[error("`{key}` {}", match actual { Some(number) => format!("was last changed at {number}"), None => "does not exist".to_owned() })]
    Condition {
        /// The record that the condition concerns.
        key: Key,
        /// The number of its last change; none where it does not exist.
        actual: Option<u64>,
    },
    /// This replica's place among the others is not what it was when the commit was decided; nothing was changed.
    #[error("this replica's place among the others is not what it was; nothing was changed")]
    Fenced,
    /// The commit breaks a rule of the store (too many operations, a key twice); nothing was changed.
    #[error("{0}")]
    Malformed(String),
    /// The commit has more bytes than the store takes at once; nothing was changed.
    #[error("what is written at once has at most {most} bytes in this store: write fewer or smaller objects at once")]
    TooLarge {
        /// The store's bound.
        most: usize,
    },
    /// No room; nothing was changed. Writes succeed again when there is room.
    #[error("the disk is full: make room in the data folder, or in etcd; writes succeed again without a restart")]
    Full,
    /// The store can't take writes now; nothing was changed.
    #[error("the store can't take writes now: {0}")]
    Unavailable(String),
    /// It can't be known whether the commit was applied.
    #[error("it can't be known whether the write was applied: {0}")]
    Unknown(String),
}

/// A record as the store holds it.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredRecord {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub record: Record,
    /// The number of the commit that changed it last.
    pub revision: u64,
}

/// At which position everything is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadAt {
    /// The oldest from which changes can be followed now: who starts here gets the latest changes one by one, and with
    /// them a history of its own. Under steady writing they may be forgotten before the read has come to its end.
    Oldest,
    /// The latest that is durable.
    Latest,
}

/// Everything the store holds at one position, in batches.
#[derive(Debug)]
pub struct Contents {
    /// The position at which this is the whole truth.
    pub position: Position,
    /// The records, in no order, each once. Ends after the last one; an error means that the rest can't be read.
    pub records: mpsc::Receiver<Result<Vec<StoredRecord>, StoreError>>,
}

/// Why a read of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store can't be read now.
    #[error("the store can't be read: {0}")]
    Unavailable(String),
    /// The store is shut.
    #[error("the store is closed")]
    Closed,
}

/// Why following ended; the follower starts over with [`Store::read_all`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum FollowError {
    /// The position is of another history, or ahead of this one.
    #[error("the position belongs to another history of the store")]
    Foreign,
    /// The changes after the position are no longer kept.
    #[error("the changes after that position are no longer kept")]
    Compacted,
    /// The store is shut.
    #[error("the store is closed")]
    Closed,
}

/// Reads change sets in order, without gaps or repetition. A set without changes only says how far the store is.
pub trait Follower: Send {
    /// The next change set; waits for one. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Arc<ChangeSet>, FollowError>>;
    /// The next change set if it is there already.
    fn try_next(&mut self) -> Result<Option<Arc<ChangeSet>>, FollowError>;
}

/// How a store does, for `status`, readiness and metrics.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// `embedded` or `etcd`.
    pub backend: &'static str,
    /// The latest position.
    pub position: Position,
    /// The oldest position that a follower can resume from.
    pub oldest: u64,
    /// How many records it holds.
    pub records: u64,
    /// Bytes on disk, where it knows.
    pub disk_bytes: Option<u64>,
    /// Why it can't take writes now, if so.
    pub write_error: Option<String>,
    /// The time that the last durable write took.
    pub last_sync: Option<Duration>,
    /// For how long there has been no word from the store, so that what is known may be old; none while it is in touch.
    pub out_of_touch: Option<Duration>,
    /// The schema of its records.
    pub schema: u32,
    /// Keys under its prefix that are no records of ours, or whose values can't be read: passed over, never touched.
    pub foreign: u64,
    /// Some of them.
    pub foreign_keys: Vec<String>,
}

/// Why the stored records were not brought to the newest schema.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MigrateError {
    /// A replica that is alive could not read them any more.
    #[error("replica {member} runs version {version}, which reads schema {supports} at most; upgrade it first")]
    Unsupported {
        /// Which replica.
        member: String,
        /// What it runs.
        version: String,
        /// What it can read.
        supports: u32,
    },
    /// The store can't take writes now.
    #[error("the store can't take writes now: {0}")]
    Unavailable(String),
}

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The schema before.
    pub from: u32,
    /// The schema now.
    pub to: u32,
}

/// A place where records are kept. Cheap to share behind an [`Arc`]; every call may run beside every other.
pub trait Store: Send + Sync + 'static {
    /// Applies a commit. A call that was begun is carried out even if its future is dropped.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>>;

    /// Everything at one position, from which [`Store::follow`] can go on.
    fn read_all(&self, at: ReadAt) -> BoxFuture<'_, Result<Contents, StoreError>>;

    /// Follows the changes after a position.
    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, FollowError>;

    /// Forgets the changes up to a position, so that nobody can resume from before it. Records stay.
    fn compact(&self, up_to: Position) -> BoxFuture<'_, Result<(), StoreError>>;

    /// How the store does.
    fn status(&self) -> StoreStatus;

    /// The replicas that run over this store, as they come and go.
    fn members(&self) -> watch::Receiver<Arc<Members>>;

    /// Raises the schema of the stored records to the newest that this version knows, once every live replica can read it.
    fn migrate(&self) -> BoxFuture<'_, Result<Migrated, MigrateError>>;

    /// Persists what is pending, refuses further commits and lets go of the disk.
    fn close(&self) -> BoxFuture<'_, ()>;
}
