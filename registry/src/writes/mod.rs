//! Writing to the registry: documents in, commits out, and the reply when everyone here can see it.
//!
//! Each write is validated, turned into operations on the acting source's own records, committed, and answered once the
//! live replica (and with it DNS) shows its position. Guards (`If-Match`) and read-modify-write steps become conditions
//! of the commit, so that they are judged by the store in its own order and never by a stale reading.

mod batch;
mod declarations;
mod guard;
mod identity;
mod instances;
mod parts;
mod removal;
mod sets;

pub(crate) use identity::is_session_id;
pub use identity::{instance_key, namespace_key, service_key};

use crate::access::Forbidden;
use crate::checks::{TargetRules, declaration};
use crate::live::{LiveReplica, WaitError};
use crate::sources::Sources;
use crate::store::{Action, Commit, CommitError, Committed, Condition, Durability, Expect, Operation, Store};
use crate::validate::{self, Invalid};
use fingerpost_catalog::document::InstanceDocument;
use fingerpost_catalog::{Instance, InstanceKey, Key, Position, Record, Source};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// How long a reply may wait for this process to show what it committed.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The store's answer must come within this time; a disk that hangs must not hold callers for ever.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A read-modify-write step that loses to other processes, or to batches, this often gives up.
const ATTEMPTS: usize = 32;
/// Who is behind the others must catch up within this time.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// Locks over all instances' keys.
const LOCKS: usize = 4096;
/// Locks over all sets.
const SET_LOCKS: usize = 256;

/// What a writer demands of the object's present state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Guard {
    /// Nothing.
    #[default]
    None,
    /// It does not exist (`If-None-Match: *`).
    Absent,
    /// It exists (`If-Match: *`).
    Present,
    /// Its last change is this (`If-Match: "<position>"`).
    At(Position),
}

/// Why a write failed. Unless it says otherwise, nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// A field can't be taken.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The caller may not write there.
    #[error("{reason}")]
    Forbidden {
        /// Where in the body it asks for that.
        pointer: Option<String>,
        /// What is missing.
        reason: Forbidden,
    },
    /// What it is about does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The guard did not hold.
    #[error("{0}")]
    Guard(String),
    /// Others changed the same object again and again.
    #[error("{0} is being changed by others all the time; try again")]
    Contended(String),
    /// The store refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A set was replaced in part; the rest was not applied.
    #[error(
        "{applied} of the set's {total} changes were applied before this; repeating the call completes it: {source}"
    )]
    Interrupted {
        /// Changes that were applied.
        applied: usize,
        /// Changes in all.
        total: usize,
        /// Why the rest was not.
        #[source]
        source: CommitError,
    },
    /// All of it was committed, but this process does not show it yet.
    #[error("the write was committed at {position}, but this server does not show it yet: {error}")]
    NotVisible {
        /// The position that it made.
        position: Position,
        /// Why it is not shown.
        error: WaitError,
        /// The record that was put, where it was one.
        written: Option<Box<(Key, Arc<Record>)>>,
    },
}

impl From<Forbidden> for WriteError {
    fn from(reason: Forbidden) -> Self {
        Self::Forbidden { pointer: None, reason }
    }
}

impl WriteError {
    /// The same, found in a part of the body.
    fn below(self, place: &str) -> Self {
        match self {
            Self::Invalid(invalid) => Self::Invalid(invalid.below(place)),
            Self::Forbidden { pointer, reason } => {
                Self::Forbidden { pointer: Some(format!("{place}{}", pointer.unwrap_or_default())), reason }
            }
            other => other,
        }
    }
}

/// What a write did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The position it made, or the latest one where it changed nothing.
    pub position: Position,
    /// Whether the object is new.
    pub created: bool,
    /// Whether anything changed.
    pub changed: bool,
}

/// Put or delete, in a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Create or replace.
    Put,
    /// Remove.
    Delete,
}

/// What replacing a set did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replaced {
    /// Instances that were not there.
    pub added: usize,
    /// Instances that were there and differ.
    pub updated: usize,
    /// Instances that are gone.
    pub removed: usize,
    /// Instances that stayed as they were.
    pub unchanged: usize,
}

/// Whether all of it is what a Kubernetes cluster says of itself: that is kept safe there, and its listener writes again
/// what was lost here. A store that knows no such difference keeps it as safe as the rest.
fn replayed(commit: &Commit) -> bool {
    let of_cluster = |operation: &Operation| match &operation.key {
        Key::Namespace { source, .. } | Key::Service { source, .. } | Key::Instance(InstanceKey { source, .. }) => {
            source.as_str().starts_with("kubernetes/")
        }
        Key::Check { .. } | Key::Drain(_) | Key::Session { .. } | Key::Mark { .. } => false,
    };
    !commit.operations.is_empty() && commit.operations.iter().all(of_cluster)
}

/// Writes on behalf of sources.
#[derive(Clone)]
pub struct Writer {
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    /// Whoever reads an instance to write it again holds its lock meanwhile: so writers of one instance queue up here
    /// instead of failing each other's conditions. Those remain, for batches and for other processes.
    locks: Arc<[Mutex<()>]>,
    /// The same for whoever replaces a set: two at once would leave a mixture of both.
    set_locks: Arc<[Mutex<()>]>,
    hasher: RandomState,
    /// Who spoke, for whoever wants to know that a source still does.
    heard: Option<Arc<Sources>>,
    /// What checks may be aimed at.
    rules: Arc<TargetRules>,
}

impl Writer {
    /// A writer to `store`, whose changes `live` shows.
    pub fn new(store: Arc<dyn Store>, live: Arc<LiveReplica>) -> Self {
        let locks = |count| (0..count).map(|_| Mutex::new(())).collect();
        Self {
            store,
            live,
            locks: locks(LOCKS),
            set_locks: locks(SET_LOCKS),
            hasher: RandomState::new(),
            heard: None,
            rules: Arc::default(),
        }
    }

    /// The same writer, which notes the sources that write.
    #[must_use]
    pub fn noting(self, sources: Arc<Sources>) -> Self {
        Self { heard: Some(sources), ..self }
    }

    pub(crate) fn heard(&self, source: &Source) {
        if let Some(sources) = &self.heard {
            sources.heard(source);
        }
    }

    /// The same with rules for what checks may be aimed at; without, the strictest apply.
    pub fn with_rules(mut self, rules: TargetRules) -> Self {
        self.rules = Arc::new(rules);
        self
    }

    /// An instance's declaration, checked by itself and by the rules of this process.
    fn instance(&self, document: InstanceDocument) -> Result<Instance, Invalid> {
        let instance = validate::instance(document)?;
        declaration::validate_target(&instance.checks, &instance.addresses, &self.rules)?;
        Ok(instance)
    }

    /// Commits, and waits until this process shows it. It is for writes of one commit: of those that take several, only the
    /// last one is waited for ([`Writer::shown`]), so that [`WriteError::NotVisible`] always is of a write that was done whole.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, WriteError> {
        let written = match commit.operations.as_slice() {
            [Operation { key, action: Action::Put(record) }] => Some((key.clone(), Arc::clone(record))),
            _ => None,
        };
        let committed = self.store_commit(commit).await?;
        self.shown(committed.position).await.map_err(|error| match error {
            WriteError::NotVisible { position, error, .. } => {
                WriteError::NotVisible { position, error, written: written.map(Box::new) }
            }
            other => other,
        })?;
        Ok(committed)
    }

    /// Waits until this process shows what was committed; [`WriteError::NotVisible`] where that takes too long.
    pub async fn shown(&self, position: Position) -> Result<(), WriteError> {
        let shown = self.live.wait_for(position, VISIBLE_TIMEOUT).await;
        shown.map_err(|error| WriteError::NotVisible { position, error, written: None })
    }

    /// Waits for the turn of whoever writes what `what` names; none where it does not come in time.
    async fn turn<'a>(&self, locks: &'a [Mutex<()>], what: &impl Hash) -> Option<MutexGuard<'a, ()>> {
        let lock = locks.get(self.hasher.hash_one(what) as usize % locks.len().max(1))?;
        tokio::time::timeout(COMMIT_TIMEOUT, lock.lock()).await.ok()
    }

    pub(crate) async fn store_commit(&self, mut commit: Commit) -> Result<Committed, CommitError> {
        if replayed(&commit) {
            commit.durability = Durability::Relaxed;
        }
        tokio::time::timeout(COMMIT_TIMEOUT, self.store.commit(commit)).await.unwrap_or_else(|_| {
            Err(CommitError::Unknown(format!("the store did not answer within {} seconds", COMMIT_TIMEOUT.as_secs())))
        })
    }

    /// Waits until this process shows the change that got in the way.
    pub(crate) async fn wait_for_change(&self, actual: Option<u64>) {
        let epoch = self.live.epoch();
        let position = match actual {
            Some(number) => Position::new(epoch, number),
            // It was deleted: the store's head is at or after that.
            None => self.store.status().position,
        };
        // Whether it comes or not, the next attempt reads afresh.
        let _ = self.live.wait_for(position, Duration::from_secs(1)).await;
    }

    /// A session that is not known here may have been made just now through another replica. Then this waits until this
    /// process shows all that was written before.
    async fn see_sessions(&self, mut sessions: impl Iterator<Item = &str>) -> Result<(), CommitError> {
        let unseen = {
            let replica = self.live.read();
            sessions.any(|id| is_session_id(id) && replica.session_record(id).is_none())
        };
        if !unseen {
            return Ok(());
        }
        // What only this process writes, it shows before it says so.
        if self.store.members().borrow().are_alone() {
            return Ok(());
        }
        self.catch_up(CATCH_UP_TIMEOUT).await
    }

    /// Waits until this process shows all that was written anywhere before this call. The store is asked, by a commit
    /// without operations, on a condition that always holds.
    pub(crate) async fn catch_up(&self, within: Duration) -> Result<(), CommitError> {
        let nobody = Key::Session { id: format!("{:032x}", rand::random::<u128>()).into() };
        let question = Commit {
            operations: Vec::new(),
            conditions: vec![Condition { key: nobody, expect: Expect::Absent }],
            ..Commit::default()
        };
        let late = || CommitError::Unavailable("this server is behind, and does not catch up in time".to_owned());
        let asked = async {
            let committed = self.store_commit(question).await?;
            self.live.wait_for(committed.position, within).await.map_err(|_| late())
        };
        tokio::time::timeout(within, asked).await.unwrap_or_else(|_| Err(late()))
    }
}
