//! Writing to the registry: documents in, commits out, and the reply when everyone here can see it.
//!
//! Each write is validated, turned into operations on the acting source's own records, committed, and answered once the
//! live replica (and with it DNS) shows its position. Guards (`If-Match`) and read-modify-write steps become conditions
//! of the commit, so that they are judged by the store in its own order and never by a stale reading.

mod parts;

use crate::access::{Acting, Caller, Forbidden, Role};
use crate::checks::{TargetRules, declaration};
use crate::live::{LiveReplica, WaitError};
use crate::members::Fence;
use crate::sources::{Sources, removal};
use crate::store::{Action, Commit, CommitError, Committed, Condition, Expect, Operation, Store};
use crate::validate::{self, Invalid};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ObjectDocument, ServiceDocument};
use fingerpost_catalog::{
    Instance, InstanceKey, Key, Position, Record, Report, SessionState, Source, validate_dns_label,
    validate_instance_id,
};
use std::collections::HashMap;
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
    /// It was committed, but this process does not show it yet.
    #[error("the write was committed at {0}, but this server does not show it yet")]
    NotVisible(Position, WaitError),
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

/// Checks an identity given in the path and perhaps again in the body.
fn same(field: &'static str, path: &str, body: Option<&String>) -> Result<(), Invalid> {
    match body {
        Some(body) if body != path => Err(Invalid::new(field, format!("`{body}` differs from `{path}` in the path"))),
        _ => Ok(()),
    }
}

fn same_source(acting: &Source, body: Option<&Source>) -> Result<(), Invalid> {
    match body {
        Some(body) if body != acting => Err(Invalid::new(
            "/source",
            format!("`{body}` differs from the acting source `{acting}`; act as it with `?source={body}`"),
        )),
        _ => Ok(()),
    }
}

/// The key of a namespace's declaration, from a checked name in which the caller may write.
pub fn namespace_key(acting: &Acting, name: &str) -> Result<Key, WriteError> {
    validate_dns_label(name).map_err(|error| Invalid::new("/name", error))?;
    acting.check_namespace(name)?;
    Ok(Key::Namespace { name: Arc::from(name), source: acting.source().clone() })
}

/// The key of a service's declaration, from checked names in a namespace in which the caller may write.
pub fn service_key(acting: &Acting, namespace: &str, name: &str) -> Result<Key, WriteError> {
    validate_dns_label(namespace).map_err(|error| Invalid::new("/namespace", error))?;
    validate_dns_label(name).map_err(|error| Invalid::new("/name", error))?;
    acting.check_namespace(namespace)?;
    Ok(Key::Service { namespace: Arc::from(namespace), name: Arc::from(name), source: acting.source().clone() })
}

/// The key of an instance, from checked names in a namespace in which the caller may write.
pub fn instance_key(
    acting: &Acting,
    namespace: &str,
    service: Option<&str>,
    id: &str,
) -> Result<InstanceKey, WriteError> {
    validate_dns_label(namespace).map_err(|error| Invalid::new("/namespace", error))?;
    if let Some(service) = service {
        validate_dns_label(service).map_err(|error| Invalid::new("/service", error))?;
    }
    validate_instance_id(id).map_err(|error| Invalid::new("/id", error))?;
    acting.check_namespace(namespace)?;
    Ok(InstanceKey {
        namespace: Arc::from(namespace),
        service: service.map(Arc::from),
        source: acting.source().clone(),
        id: Arc::from(id),
    })
}

fn described(key: &Key) -> String {
    match key {
        Key::Namespace { name, source } => format!("namespace `{name}` of source `{source}`"),
        Key::Service { namespace, name, source } => format!("service `{namespace}/{name}` of source `{source}`"),
        Key::Instance(key) | Key::Drain(key) | Key::Check { instance: key, .. } => match &key.service {
            Some(service) => {
                format!("instance `{}` of `{}/{service}` and source `{}`", key.id, key.namespace, key.source)
            }
            None => format!("instance `{}` of namespace `{}` and source `{}`", key.id, key.namespace, key.source),
        },
        Key::Session { id } => format!("session `{id}`"),
        Key::Mark { source } => format!("the mark of source `{source}`"),
    }
}

/// Operations of one user's operation, before they are committed.
struct Planned {
    operations: Vec<Operation>,
    conditions: Vec<Condition>,
    created: bool,
    /// Parts of an instance that goes, which may stay behind where there is no room for them: they mean nothing without
    /// it, and are cleared away later, or when the instance comes to be again.
    parts: Vec<Operation>,
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

    /// Commits, and waits until this process shows it.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, WriteError> {
        let committed = self.store_commit(commit).await?;
        self.live
            .wait_for(committed.position, VISIBLE_TIMEOUT)
            .await
            .map_err(|error| WriteError::NotVisible(committed.position, error))?;
        Ok(committed)
    }

    /// Waits for the turn of whoever writes what `what` names; none where it does not come in time.
    async fn turn<'a>(&self, locks: &'a [Mutex<()>], what: &impl Hash) -> Option<MutexGuard<'a, ()>> {
        let lock = locks.get(self.hasher.hash_one(what) as usize % locks.len().max(1))?;
        tokio::time::timeout(COMMIT_TIMEOUT, lock.lock()).await.ok()
    }

    pub(crate) async fn store_commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        tokio::time::timeout(COMMIT_TIMEOUT, self.store.commit(commit)).await.unwrap_or_else(|_| {
            Err(CommitError::Unknown(format!("the store did not answer within {} seconds", COMMIT_TIMEOUT.as_secs())))
        })
    }

    /// Creates or replaces a namespace's declaration.
    pub async fn put_namespace(
        &self,
        acting: &Acting,
        name: &str,
        document: NamespaceDocument,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        self.heard(acting.source());
        same("/name", name, document.name.as_ref())?;
        same_source(acting.source(), document.source.as_ref())?;
        let key = namespace_key(acting, name)?;
        let record = Record::Namespace(validate::namespace(&document)?);
        self.put_declaration(key, record, guard).await
    }

    /// Creates or replaces a service's declaration.
    pub async fn put_service(
        &self,
        acting: &Acting,
        namespace: &str,
        name: &str,
        document: ServiceDocument,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        self.heard(acting.source());
        same("/namespace", namespace, document.namespace.as_ref())?;
        same("/name", name, document.name.as_ref())?;
        same_source(acting.source(), document.source.as_ref())?;
        let key = service_key(acting, namespace, name)?;
        let record = Record::Service(validate::service(document)?);
        self.put_declaration(key, record, guard).await
    }

    async fn put_declaration(&self, key: Key, record: Record, guard: Guard) -> Result<Written, WriteError> {
        let created = self.live.read().revision_of(&key).is_none();
        let conditions = self.guard(&key, guard)?;
        let operations = vec![Operation { key, action: Action::Put(Arc::new(record)) }];
        let committed = self.commit_guarded(operations, conditions, guard).await?;
        Ok(Written { position: committed.position, created, changed: committed.changed })
    }

    /// Removes a namespace's or service's declaration.
    pub async fn delete_declaration(&self, key: Key, guard: Guard) -> Result<Written, WriteError> {
        if let Key::Namespace { source, .. } | Key::Service { source, .. } = &key {
            self.heard(source);
        }
        let mut conditions = self.guard(&key, guard)?;
        conditions.push(Condition { key: key.clone(), expect: Expect::Present });
        let operations = vec![Operation { key, action: Action::Delete }];
        let committed = self.commit_guarded(operations, conditions, guard).await?;
        Ok(Written { position: committed.position, created: false, changed: committed.changed })
    }

    /// Creates or replaces an instance; without a health in the document, what was reported last stays.
    pub async fn put_instance(
        &self,
        acting: &Acting,
        key: InstanceKey,
        document: InstanceDocument,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        check_instance_identity(&key, &document)?;
        let health = document.health;
        let instance = self.instance(document)?;
        self.see_sessions(instance.session.as_deref().into_iter()).await?;
        self.update_instance(acting, key, guard, true, |present| {
            let mut instance = instance.clone();
            instance.report = keep_report(health, present);
            Ok(Some(instance))
        })
        .await
    }

    /// Changes an instance that exists by a JSON merge patch (RFC 7396) on its document.
    pub async fn patch_instance(
        &self,
        acting: &Acting,
        key: InstanceKey,
        patch: &serde_json::Value,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        self.see_sessions(patch.get("session").and_then(serde_json::Value::as_str).into_iter()).await?;
        self.update_instance(acting, key.clone(), guard, false, |present| {
            let Some(present) = present else { return Ok(None) };
            let mut document = serde_json::to_value(instance_document(&key, present))
                .map_err(|error| Invalid::new("", format!("the instance can't be patched: {error}")))?;
            merge_patch(&mut document, patch);
            let document: InstanceDocument = crate::api::json_value(document)?;
            check_instance_identity(&key, &document)?;
            let health = document.health;
            let mut instance = self.instance(document)?;
            if patch.get("checks").is_none() {
                // With their fields of a newer version.
                instance.checks.clone_from(&present.checks);
            }
            instance.report = keep_report(health, Some(present));
            instance.unknown = present.unknown.clone();
            Ok(Some(instance))
        })
        .await
    }

    /// Sets what an instance's source reports of its health.
    pub async fn report_health(
        &self,
        acting: &Acting,
        key: InstanceKey,
        report: Report,
        guard: Guard,
    ) -> Result<Written, WriteError> {
        validate::note(&report.note)?;
        self.update_instance(acting, key, guard, false, |present| {
            Ok(present.map(|present| Instance { report: Some(report.clone()), ..present.clone() }))
        })
        .await
    }

    /// Reads an instance's record, lets `change` make the new one, and writes it if nobody was faster; again if so.
    /// `change` returns none where the instance would have to exist and does not. Who `registers` can't do so on a session
    /// that has ended; other changes leave it as it is.
    async fn update_instance(
        &self,
        acting: &Acting,
        key: InstanceKey,
        guard: Guard,
        registers: bool,
        change: impl Fn(Option<&Instance>) -> Result<Option<Instance>, WriteError>,
    ) -> Result<Written, WriteError> {
        self.heard(&key.source);
        let _turn = self
            .turn(&self.locks, &key)
            .await
            .ok_or_else(|| WriteError::Contended(described(&Key::Instance(key.clone()))))?;
        let key = Key::Instance(key);
        for _ in 0..ATTEMPTS {
            let mut conditions = self.guard(&key, guard)?;
            let present = self.live.read().record(&key);
            match guard {
                Guard::Present if present.is_none() => {
                    return Err(WriteError::Guard(format!("{} does not exist", described(&key))));
                }
                Guard::Absent if present.is_some() => {
                    return Err(WriteError::Guard(format!("{} exists already", described(&key))));
                }
                _ => {}
            }
            let instance = change(present.as_ref().and_then(|(record, _)| match record {
                Record::Instance(instance) => Some(instance),
                _ => None,
            }))?
            .ok_or_else(|| WriteError::NotFound(described(&key)))?;
            if present.is_none() {
                self.clear_leftovers(std::slice::from_ref(&key)).await?;
            }
            let same_session = |(record, _): &(Record, u64)| match record {
                Record::Instance(present) => present.session == instance.session,
                _ => false,
            };
            if registers || !present.as_ref().is_some_and(same_session) {
                conditions.extend(self.session_condition(acting.caller(), &key, &instance)?);
            }
            let revision = present.as_ref().map(|(_, revision)| *revision);
            conditions.push(Condition { key: key.clone(), expect: revision.map_or(Expect::Absent, Expect::At) });
            let commit = Commit {
                operations: vec![Operation {
                    key: key.clone(),
                    action: Action::Put(Arc::new(Record::Instance(instance))),
                }],
                conditions,
                ..Commit::default()
            };
            match self.commit(commit).await {
                Ok(committed) => {
                    return Ok(Written {
                        position: committed.position,
                        created: revision.is_none(),
                        changed: committed.changed,
                    });
                }
                Err(WriteError::Commit(CommitError::Condition { actual, .. })) => {
                    // Somebody was faster. Their change must be read before the next try, which the guard may now refuse.
                    self.wait_for_change(actual).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(WriteError::Contended(described(&key)))
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

    /// Removes an instance and the parts of its health.
    pub async fn delete_instance(&self, key: InstanceKey, guard: Guard) -> Result<Written, WriteError> {
        self.heard(&key.source);
        let Planned { mut operations, parts, .. } = self.plan_delete_instance(&key);
        let key = Key::Instance(key);
        let mut conditions = self.guard(&key, guard)?;
        conditions.push(Condition { key, expect: Expect::Present });
        operations.extend(parts.into_iter().take(crate::store::MAX_OPERATIONS - 1));
        let committed = self.commit_guarded(operations, conditions, guard).await?;
        Ok(Written { position: committed.position, created: false, changed: committed.changed })
    }

    /// What removes an instance with the parts of its health.
    pub(crate) fn removal(&self, key: &InstanceKey) -> Vec<Operation> {
        let Planned { mut operations, parts, .. } = self.plan_delete_instance(key);
        operations.extend(parts);
        operations
    }

    fn plan_delete_instance(&self, key: &InstanceKey) -> Planned {
        let parts = self.live.read().parts_of(key).into_iter();
        Planned {
            parts: parts.map(|key| Operation { key, action: Action::Delete }).collect(),
            ..plan_delete(Key::Instance(key.clone()))
        }
    }

    /// Turns a guard into conditions, or refuses at once where it can't hold any more.
    fn guard(&self, key: &Key, guard: Guard) -> Result<Vec<Condition>, WriteError> {
        let condition = |key: Key, expect| vec![Condition { key, expect }];
        match guard {
            Guard::None => Ok(Vec::new()),
            Guard::Absent => Ok(condition(key.clone(), Expect::Absent)),
            Guard::Present => Ok(condition(key.clone(), Expect::Present)),
            Guard::At(position) => {
                let replica = self.live.read();
                let own = replica.revision_of(key);
                // What readers see as one object: an instance with the parts of its health, a service or namespace with
                // the declarations of other sources. Its ETag is the latest change of any of them.
                let others: Vec<Key> = match key {
                    Key::Instance(instance) => replica.parts_of(instance),
                    Key::Service { namespace, name, source } => replica
                        .service_declarations(namespace, name)
                        .into_iter()
                        .filter(|(other, ..)| other != source)
                        .map(|(source, ..)| Key::Service { namespace: namespace.clone(), name: name.clone(), source })
                        .collect(),
                    Key::Namespace { name, source } => replica
                        .namespace_declarations(name)
                        .into_iter()
                        .filter(|(other, ..)| other != source)
                        .map(|(source, ..)| Key::Namespace { name: name.clone(), source })
                        .collect(),
                    Key::Check { .. } | Key::Drain(_) | Key::Session { .. } | Key::Mark { .. } => Vec::new(),
                };
                let others: Vec<(Key, u64)> = others
                    .into_iter()
                    .filter_map(|key| replica.revision_of(&key).map(|number| (key, number)))
                    .collect();
                drop(replica);
                let latest = others.iter().map(|(_, number)| *number).chain(own).max();
                let asked = (position.epoch == self.live.epoch()).then_some(position.number);
                let mut conditions = condition(key.clone(), own.map_or(Expect::Absent, Expect::At));
                // A declaration of one's own may also be guarded by itself.
                let by_itself = !matches!(key, Key::Instance(_)) && own.is_some() && own == asked;
                if !by_itself {
                    if asked.is_none() || latest != asked {
                        return Err(WriteError::Guard(match latest {
                            None => format!("{} does not exist, so it is not at {position}", described(key)),
                            Some(number) => format!(
                                "{} was changed since: it is at {}, not at {position}",
                                described(key),
                                Position::new(self.live.epoch(), number)
                            ),
                        }));
                    }
                    conditions
                        .extend(others.into_iter().map(|(key, number)| Condition { key, expect: Expect::At(number) }));
                }
                Ok(conditions)
            }
        }
    }

    async fn commit_guarded(
        &self,
        operations: Vec<Operation>,
        conditions: Vec<Condition>,
        guard: Guard,
    ) -> Result<Committed, WriteError> {
        match self.commit(Commit { operations, conditions, ..Commit::default() }).await {
            Err(WriteError::Commit(CommitError::Condition { key, actual })) => Err(match (guard, actual) {
                (Guard::Absent, Some(_)) => WriteError::Guard(format!("{} exists already", described(&key))),
                (Guard::None, None) => WriteError::NotFound(described(&key)),
                (_, None) => WriteError::Guard(format!("{} does not exist", described(&key))),
                (_, Some(number)) => WriteError::Guard(format!(
                    "{} was changed since: it is at {}",
                    described(&key),
                    Position::new(self.live.epoch(), number)
                )),
            }),
            other => other,
        }
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
        let members = Arc::clone(&self.store.members().borrow());
        // What only this process writes, it shows before it says so.
        if members.live.len() <= 1 && members.in_touch {
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

    /// Refuses an instance whose session is none that it may hang on. Else it is written only if the session is still as
    /// it was seen here, so that nothing comes to hang on one that has ended meanwhile.
    fn session_condition(&self, caller: &Caller, key: &Key, instance: &Instance) -> Result<Option<Condition>, Invalid> {
        let Some(id) = &instance.session else { return Ok(None) };
        let refused = |why: String| {
            Err(Invalid::new("/session", format!("{} names session `{id}`, which {why}", described(key))))
        };
        let replica = self.live.read();
        let Some((session, revision)) = replica.session_record(id) else {
            return refused("is not known; make a new one".to_owned());
        };
        if session.state == SessionState::Expired {
            return refused("has expired; renew it first, or make a new one".to_owned());
        }
        if key.instance().is_some_and(|key| key.source != session.source) {
            return refused(format!("belongs to source `{}`", session.source));
        }
        if caller.role != Role::Admin && session.owner.as_ref().is_some_and(|owner| **owner != *caller.name) {
            return refused("belongs to somebody else".to_owned());
        }
        Ok(Some(Condition { key: Key::Session { id: Arc::from(id.as_str()) }, expect: Expect::At(revision) }))
    }

    /// Plans one operation of a batch; `pointer` is where its object stands.
    fn plan(&self, acting: &Acting, verb: Verb, object: &ObjectDocument, pointer: &str) -> Result<Planned, WriteError> {
        let planned = match (verb, object) {
            (Verb::Put, ObjectDocument::Namespace(document)) => (|| {
                same_source(acting.source(), document.source.as_ref())?;
                let key = namespace_key(acting, required("/name", document.name.as_ref())?)?;
                Ok(self.plan_put(key, Record::Namespace(validate::namespace(document)?)))
            })(),
            (Verb::Put, ObjectDocument::Service(document)) => (|| {
                same_source(acting.source(), document.source.as_ref())?;
                let namespace = required("/namespace", document.namespace.as_ref())?;
                let name = required("/name", document.name.as_ref())?;
                let key = service_key(acting, namespace, name)?;
                Ok(self.plan_put(key, Record::Service(validate::service(document.clone())?)))
            })(),
            (Verb::Put, ObjectDocument::Instance(document)) => (|| {
                let key = document_key(acting, document)?;
                let health = document.health;
                let instance = self.instance((**document).clone())?;
                self.plan_put_instance(acting, key, instance, health)
            })(),
            (Verb::Delete, ObjectDocument::Namespace(document)) => (|| {
                same_source(acting.source(), document.source.as_ref())?;
                let key = namespace_key(acting, required("/name", document.name.as_ref())?)?;
                Ok(plan_delete(key))
            })(),
            (Verb::Delete, ObjectDocument::Service(document)) => (|| {
                same_source(acting.source(), document.source.as_ref())?;
                let namespace = required("/namespace", document.namespace.as_ref())?;
                let name = required("/name", document.name.as_ref())?;
                Ok(plan_delete(service_key(acting, namespace, name)?))
            })(),
            (Verb::Delete, ObjectDocument::Instance(document)) => {
                document_key(acting, document).map(|key| self.plan_delete_instance(&key))
            }
        };
        planned.map_err(|error: WriteError| error.below(pointer))
    }

    fn plan_put(&self, key: Key, record: Record) -> Planned {
        let created = self.live.read().revision_of(&key).is_none();
        let operations = vec![Operation { key, action: Action::Put(Arc::new(record)) }];
        Planned { operations, conditions: Vec::new(), created, parts: Vec::new() }
    }

    fn plan_put_instance(
        &self,
        acting: &Acting,
        key: InstanceKey,
        mut instance: Instance,
        health: Option<fingerpost_catalog::Health>,
    ) -> Result<Planned, WriteError> {
        let key = Key::Instance(key);
        let present = self.live.read().record(&key);
        let mut conditions = Vec::new();
        if let Some((Record::Instance(present), revision)) = &present {
            instance.report = keep_report(health, Some(present));
            // What is kept must be what was last reported, also by a call that is under way.
            let expect = if health.is_none() { Expect::At(*revision) } else { Expect::Present };
            conditions.push(Condition { key: key.clone(), expect });
        } else {
            instance.report = keep_report(health, None);
            // One that comes to be has nothing of one that was; see `clear_leftovers`.
            conditions.push(Condition { key: key.clone(), expect: Expect::Absent });
        }
        conditions.extend(self.session_condition(acting.caller(), &key, &instance)?);
        let operations = vec![Operation { key, action: Action::Put(Arc::new(Record::Instance(instance))) }];
        Ok(Planned { operations, conditions, created: present.is_none(), parts: Vec::new() })
    }

    /// Applies operations all together, at one position, or not at all.
    pub async fn batch(&self, acting: &Acting, items: &[(Verb, ObjectDocument)]) -> Result<Vec<Written>, WriteError> {
        self.heard(acting.source());
        let sessions = items.iter().filter_map(|(verb, object)| match object {
            ObjectDocument::Instance(document) if *verb == Verb::Put => document.session.as_deref(),
            _ => None,
        });
        self.see_sessions(sessions).await?;
        for _ in 0..ATTEMPTS {
            let mut commit = Commit::default();
            let (mut created, mut parts) = (Vec::with_capacity(items.len()), Vec::new());
            let mut seen: HashMap<Key, usize> = HashMap::with_capacity(items.len());
            for (n, (verb, object)) in items.iter().enumerate() {
                let planned = self.plan(acting, *verb, object, &format!("/operations/{n}/object"))?;
                for operation in &planned.operations {
                    if let Some(first) = seen.insert(operation.key.clone(), n) {
                        let detail = format!("{} is written twice (operation {first}, too)", described(&operation.key));
                        return Err(Invalid::new(format!("/operations/{n}"), detail).into());
                    }
                }
                created.push(planned.created);
                commit.operations.extend(planned.operations);
                add_conditions(&mut commit, planned.conditions);
                parts.extend(planned.parts);
            }
            if commit.operations.len() + parts.len() <= crate::store::MAX_OPERATIONS {
                commit.operations.extend(parts);
            }
            self.clear_leftovers_of(&commit).await?;
            match self.commit(commit).await {
                Ok(committed) => {
                    return Ok(created
                        .into_iter()
                        .map(|created| Written { position: committed.position, created, changed: committed.changed })
                        .collect());
                }
                Err(WriteError::Commit(CommitError::Condition { actual, .. })) => self.wait_for_change(actual).await,
                Err(error) => return Err(error),
            }
        }
        Err(WriteError::Contended("what the batch writes".to_owned()))
    }

    /// Replaces all instances that a source has in a service: additions and updates first, then removals, in commits of
    /// bounded size. Broken off in the middle, it can be repeated.
    pub async fn replace_instances(
        &self,
        acting: &Acting,
        namespace: &str,
        service: &str,
        documents: Vec<InstanceDocument>,
    ) -> Result<(Replaced, Position), WriteError> {
        // A set may be empty, and then no key is made below.
        acting.check_namespace(namespace)?;
        let source = acting.source();
        self.heard(source);
        let _turn = self
            .turn(&self.set_locks, &(source, namespace, service))
            .await
            .ok_or_else(|| WriteError::Contended(format!("the set of source `{source}` in `{namespace}/{service}`")))?;
        self.see_sessions(documents.iter().filter_map(|document| document.session.as_deref())).await?;
        let mut wanted = std::collections::BTreeMap::new();
        for (n, document) in documents.into_iter().enumerate() {
            let pointer = format!("/items/{n}");
            let check = || -> Result<InstanceKey, WriteError> {
                same_source(acting.source(), document.source.as_ref())?;
                let key = instance_key(acting, namespace, Some(service), required("/id", document.id.as_ref())?)?;
                check_instance_identity(&key, &document)?;
                Ok(key)
            };
            let key = check().map_err(|error| error.below(&pointer))?;
            let health = document.health;
            let instance = self.instance(document).map_err(|invalid| invalid.below(&pointer))?;
            self.session_condition(acting.caller(), &Key::Instance(key.clone()), &instance)
                .map_err(|invalid| invalid.below(&pointer))?;
            if wanted.insert(key, Wanted { index: n, instance, health }).is_some() {
                return Err(Invalid::new(format!("{pointer}/id"), "two items have this id").into());
            }
        }
        let mut replaced = Replaced::default();
        let mut gone: Vec<InstanceKey> = Vec::new();
        let mut after: Option<InstanceKey> = None;
        let selector = fingerpost_catalog::Selector::default();
        loop {
            let replica = self.live.read();
            let query = fingerpost_catalog::InstanceQuery {
                namespace: Some(namespace),
                service: Some(Some(service)),
                source: Some(source),
                selector: &selector,
                health: fingerpost_catalog::HealthSet::default(),
                after: after.as_ref(),
                limit: 500,
            };
            let page = replica.instances(&query);
            drop(replica);
            gone.extend(page.items.into_iter().map(|view| view.key).filter(|key| !wanted.contains_key(key)));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // Whatever the plan, an item or a removal is one change.
        let total = wanted.len() + gone.len();
        let wanted: Vec<(InstanceKey, Wanted)> = wanted.into_iter().collect();
        let mut position = self.live.position();
        let mut applied = 0;
        let interrupted = |applied: usize| {
            move |error: WriteError| match error {
                other if applied == 0 => other,
                WriteError::Commit(source) => WriteError::Interrupted { applied, total, source },
                other => {
                    WriteError::Interrupted { applied, total, source: CommitError::Unavailable(other.to_string()) }
                }
            }
        };
        let mut chunks: Vec<&[(InstanceKey, Wanted)]> = wanted.chunks(crate::store::MAX_OPERATIONS).rev().collect();
        while let Some(chunk) = chunks.pop() {
            let before = replaced;
            let done = match self.replace_chunk(acting, chunk, &mut replaced).await {
                Err(WriteError::Commit(CommitError::TooLarge { .. })) if chunk.len() > 1 => {
                    replaced = before;
                    let (first, second) = chunk.split_at(chunk.len() / 2);
                    chunks.extend([second, first]);
                    continue;
                }
                done => done.map_err(interrupted(applied))?,
            };
            position = done.unwrap_or(position);
            applied += replaced.added + replaced.updated - before.added - before.updated;
        }
        replaced.removed = gone.len();
        let mut removals: Vec<Operation> = Vec::new();
        let mut waiting = 0;
        for key in &gone {
            let Planned { mut operations, parts, .. } = self.plan_delete_instance(key);
            operations.extend(parts.into_iter().take(crate::store::MAX_OPERATIONS - 1));
            if removals.len() + operations.len() > crate::store::MAX_OPERATIONS {
                let removed = waiting;
                waiting = 0;
                let commit = Commit { operations: std::mem::take(&mut removals), ..Commit::default() };
                position = self.store_commit(commit).await.map_err(|e| interrupted(applied)(e.into()))?.position;
                applied += removed;
            }
            removals.extend(operations);
            waiting += 1;
        }
        if !removals.is_empty() {
            let commit = Commit { operations: removals, ..Commit::default() };
            position = self.store_commit(commit).await.map_err(|e| interrupted(applied)(e.into()))?.position;
        }
        // Positions are applied in order, so the last one is enough to wait for.
        self.live.wait_for(position, VISIBLE_TIMEOUT).await.map_err(|error| WriteError::NotVisible(position, error))?;
        Ok((replaced, position))
    }

    /// Removes instances with the parts of their health, in commits of bounded size; the position of the last one, none
    /// where there is nothing to remove. With a fence, only while that view of the replicas holds.
    pub async fn remove_instances(
        &self,
        keys: &[InstanceKey],
        fence: Option<Fence>,
    ) -> Result<Option<Position>, WriteError> {
        let mut last = None;
        let mut commit = Commit { fence, ..Commit::default() };
        let mut keys = keys.iter().peekable();
        while let Some(key) = keys.next() {
            // Each goes as a whole, as far as one commit takes it; what is left behind is of no effect, and cleared away.
            let mut operations = self.removal(key);
            operations.truncate(crate::store::MAX_OPERATIONS);
            if commit.operations.len() + operations.len() > crate::store::MAX_OPERATIONS {
                let full = std::mem::replace(&mut commit, Commit { fence, ..Commit::default() });
                last = Some(self.store_commit(full).await?.position);
            }
            commit.operations.extend(operations);
            if keys.peek().is_none() {
                last = Some(self.store_commit(std::mem::take(&mut commit)).await?.position);
            }
        }
        if let Some(position) = last {
            let shown = self.live.wait_for(position, VISIBLE_TIMEOUT).await;
            shown.map_err(|error| WriteError::NotVisible(position, error))?;
        }
        Ok(last)
    }

    /// Removes records together, at most as many as a commit takes. With a fence, only while that view of the replicas
    /// holds.
    pub async fn remove_records(&self, keys: Vec<Key>, fence: Option<Fence>) -> Result<Position, WriteError> {
        Ok(self.commit(removal(keys, fence)).await?.position)
    }

    /// Puts some of a set's instances, all together; again if somebody changed one of them in between.
    async fn replace_chunk(
        &self,
        acting: &Acting,
        chunk: &[(InstanceKey, Wanted)],
        replaced: &mut Replaced,
    ) -> Result<Option<Position>, WriteError> {
        for _ in 0..ATTEMPTS {
            let mut commit = Commit::default();
            let mut counts = *replaced;
            for (key, Wanted { index, instance, health }) in chunk {
                let planned = self
                    .plan_put_instance(acting, key.clone(), instance.clone(), *health)
                    .map_err(|error| error.below(&format!("/items/{index}")))?;
                let present = self.live.read().record(&Key::Instance(key.clone())).map(|(record, _)| record);
                let same = planned.operations.first().is_some_and(
                    |operation| matches!((&operation.action, &present), (Action::Put(new), Some(old)) if **new == *old),
                );
                match (planned.created, same) {
                    (true, _) => counts.added += 1,
                    (false, true) => {
                        counts.unchanged += 1;
                        continue;
                    }
                    (false, false) => counts.updated += 1,
                }
                commit.operations.extend(planned.operations);
                add_conditions(&mut commit, planned.conditions);
            }
            if commit.operations.is_empty() {
                *replaced = counts;
                return Ok(None);
            }
            self.clear_leftovers_of(&commit).await?;
            match self.store_commit(commit).await {
                Ok(committed) => {
                    *replaced = counts;
                    return Ok(Some(committed.position));
                }
                Err(CommitError::Condition { actual, .. }) => self.wait_for_change(actual).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Contended("the set's instances".to_owned()))
    }
}

/// An instance that a set is to have.
struct Wanted {
    /// Its place in the request.
    index: usize,
    instance: Instance,
    health: Option<fingerpost_catalog::Health>,
}

/// Adds conditions to a commit. Instances of one session share the condition on it.
fn add_conditions(commit: &mut Commit, conditions: Vec<Condition>) {
    for condition in conditions {
        if !matches!(condition.key, Key::Session { .. }) || !commit.conditions.contains(&condition) {
            commit.conditions.push(condition);
        }
    }
}

fn plan_delete(key: Key) -> Planned {
    let operations = vec![Operation { key, action: Action::Delete }];
    Planned { operations, conditions: Vec::new(), created: false, parts: Vec::new() }
}

/// Whether a session could have this id: 32 hexadecimal digits, lower-case.
pub(crate) fn is_session_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn required<'a>(field: &'static str, value: Option<&'a String>) -> Result<&'a str, Invalid> {
    value.map(String::as_str).ok_or_else(|| Invalid::new(field, "is needed here"))
}

fn document_key(acting: &Acting, document: &InstanceDocument) -> Result<InstanceKey, WriteError> {
    same_source(acting.source(), document.source.as_ref())?;
    let namespace = required("/namespace", document.namespace.as_ref())?;
    let id = required("/id", document.id.as_ref())?;
    instance_key(acting, namespace, document.service.as_deref(), id)
}

fn check_instance_identity(key: &InstanceKey, document: &InstanceDocument) -> Result<(), Invalid> {
    same("/namespace", &key.namespace, document.namespace.as_ref())?;
    match (&key.service, &document.service) {
        (Some(path), body) => same("/service", path, body.as_ref())?,
        (None, Some(body)) => {
            return Err(Invalid::new("/service", format!("the path is of an instance of no service, not of `{body}`")));
        }
        (None, None) => {}
    }
    same("/id", &key.id, document.id.as_ref())?;
    same_source(&key.source, document.source.as_ref())
}

/// What stands as reported after a write: what the writer says now, else what it said last. Saying the same again keeps
/// the note that explains it.
fn keep_report(health: Option<fingerpost_catalog::Health>, present: Option<&Instance>) -> Option<Report> {
    let last = present.and_then(|present| present.report.clone());
    match (health, last) {
        (None, last) => last,
        (Some(health), Some(last)) if last.health == health => Some(last),
        // Passing is what an instance is that never said anything.
        (Some(fingerpost_catalog::Health::Passing), None) => None,
        (Some(health), _) => Some(Report { health, ..Report::default() }),
    }
}

/// An instance's record as the document that would make it.
pub fn instance_document(key: &InstanceKey, instance: &Instance) -> InstanceDocument {
    InstanceDocument {
        namespace: Some(key.namespace.to_string()),
        service: key.service.as_deref().map(str::to_owned),
        id: Some(key.id.to_string()),
        source: Some(key.source.clone()),
        addresses: instance.addresses.clone(),
        ports: instance.ports.clone(),
        labels: instance.labels.clone(),
        weight: instance.weight,
        zone: instance.zone.clone(),
        node: instance.node.clone(),
        hostname: instance.hostname.clone(),
        health: None,
        conditions: instance.conditions,
        pod: instance.pod.clone(),
        attachment: instance.attachment.clone(),
        session: instance.session.clone(),
        checks: fingerpost_catalog::document::known(&instance.checks),
        effective_health: None,
        health_parts: None,
        shadowed: Vec::new(),
        revision: None,
    }
}

/// RFC 7396 §2.
fn merge_patch(target: &mut serde_json::Value, patch: &serde_json::Value) {
    use serde_json::Value;
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches_as_the_rfc_shows() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": [2, 3]}), json!({"a": [2, 3]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut patched = target;
            merge_patch(&mut patched, &patch);
            assert_eq!(patched, result);
        }
    }
}
