//! What must still be so when a write is applied: guards, and sessions that instances hang on.

use super::identity::described;
use super::{Guard, WriteError, Writer};
use crate::access::{Caller, Role};
use crate::store::{Commit, CommitError, Committed, Condition, Expect, Operation};
use crate::validate::Invalid;
use fingerpost_catalog::{Instance, Key, Position, SessionState};
use std::sync::Arc;

impl Writer {
    /// Turns a guard into conditions, or refuses at once where it can't hold any more.
    pub(super) fn guard(&self, key: &Key, guard: Guard) -> Result<Vec<Condition>, WriteError> {
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

    pub(super) async fn commit_guarded(
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

    /// Refuses an instance whose session is none that it may hang on. Else it is written only if the session is still as
    /// it was seen here, so that nothing comes to hang on one that has ended meanwhile.
    pub(super) fn session_condition(
        &self,
        caller: &Caller,
        key: &Key,
        instance: &Instance,
    ) -> Result<Option<Condition>, Invalid> {
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
}
