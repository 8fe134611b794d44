//! Writing the parts of an instance's health that have records of their own: drains, and results of TTL checks.
//!
//! They are written on the condition that the instance is there. When it goes, they go in the same commit where there
//! is room, and are cleared away behind it where there is none; and before one of the same key comes to be, whatever is
//! left of its predecessor is removed. So an instance inherits nothing from one that was.

use super::identity::described;
use super::{ATTEMPTS, Guard, WriteError, Writer, Written};
use crate::store::{Action, Commit, CommitError, Condition, Expect, MAX_OPERATIONS, Operation};
use crate::validate::{self, Invalid};
use fingerpost_catalog::{CheckResult, CheckType, Drain, InstanceKey, Key, Record, Timestamp};
use std::sync::Arc;

impl Writer {
    /// Takes an instance out of answers until [`Writer::undrain`], whatever else is said of its health.
    pub async fn drain(&self, key: InstanceKey, note: &str, guard: Guard) -> Result<Written, WriteError> {
        validate::note(note)?;
        self.write_drain(key, guard, |present| match present {
            // Since when it is drained, stays.
            Some(present) if present.note == note => None,
            Some(present) => Some(Action::Put(Arc::new(Record::Drain(Drain { note: note.to_owned(), ..present })))),
            None => {
                let drain = Drain { note: note.to_owned(), since: Timestamp::now().0, ..Drain::default() };
                Some(Action::Put(Arc::new(Record::Drain(drain))))
            }
        })
        .await
    }

    /// Ends a drain; where there is none, nothing is changed.
    pub async fn undrain(&self, key: InstanceKey, guard: Guard) -> Result<Written, WriteError> {
        self.write_drain(key, guard, |present| present.map(|_| Action::Delete)).await
    }

    async fn write_drain(
        &self,
        key: InstanceKey,
        guard: Guard,
        change: impl Fn(Option<Drain>) -> Option<Action>,
    ) -> Result<Written, WriteError> {
        self.heard(&key.source);
        let (instance, drain) = (Key::Instance(key.clone()), Key::Drain(key));
        for _ in 0..ATTEMPTS {
            let mut conditions = self.guard(&instance, guard)?;
            let (exists, present) = {
                let replica = self.live.read();
                (replica.revision_of(&instance).is_some(), replica.record(&drain))
            };
            if !exists {
                return Err(WriteError::NotFound(described(&instance)));
            }
            let (present, expect) = match present {
                Some((Record::Drain(present), revision)) => (Some(present), Expect::At(revision)),
                _ => (None, Expect::Absent),
            };
            let created = present.is_none();
            let Some(action) = change(present) else {
                return Ok(Written { position: self.live.position(), created: false, changed: false });
            };
            conditions.retain(|condition| condition.key != drain);
            conditions.push(Condition { key: drain.clone(), expect });
            if conditions.iter().all(|condition| condition.key != instance) {
                conditions.push(Condition { key: instance.clone(), expect: Expect::Present });
            }
            let operations = vec![Operation { key: drain.clone(), action }];
            match self.commit(Commit { operations, conditions, ..Commit::default() }).await {
                Ok(committed) => {
                    return Ok(Written { position: committed.position, created, changed: committed.changed });
                }
                // The guard, and whether the instance is there, are looked at again in the next round.
                Err(WriteError::Commit(CommitError::Condition { actual, .. })) => self.wait_for_change(actual).await,
                Err(error) => return Err(error),
            }
        }
        Err(WriteError::Contended(described(&instance)))
    }

    /// Refuses reports to what is no TTL check of the instance. Who reports is there: what the registry's own checks find
    /// does not come this way.
    pub(crate) fn require_ttl_check(&self, key: &InstanceKey, check: &str) -> Result<(), WriteError> {
        self.heard(&key.source);
        let checked = self.live.read().checked_instance(key);
        let instance = Key::Instance(key.clone());
        let checked = checked.ok_or_else(|| WriteError::NotFound(described(&instance)))?;
        match checked.checks.iter().find(|declared| declared.name == check) {
            None => Err(WriteError::NotFound(format!("check `{check}` of {}", described(&instance)))),
            Some(declared) if declared.check_type != CheckType::Ttl => Err(WriteError::Invalid(Invalid::new(
                "",
                format!(
                    "check `{check}` is of type `{}`, which the registry runs by itself; only the results of `ttl` \
                     checks are reported",
                    declared.check_type
                ),
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Writes a check's result, if the one that stands is the expected one (none: if there is none) and the instance is
    /// there. [`WriteError::Contended`] where it is not, once this process shows what got in the way.
    pub(crate) async fn put_check_result(
        &self,
        instance: &InstanceKey,
        check: &Arc<str>,
        result: CheckResult,
        expected: Option<u64>,
    ) -> Result<Written, WriteError> {
        let key = Key::Check { instance: instance.clone(), check: check.clone() };
        let expect = expected.map_or(Expect::Absent, Expect::At);
        let commit = Commit {
            operations: vec![Operation { key: key.clone(), action: Action::Put(Arc::new(Record::Check(result))) }],
            conditions: vec![
                Condition { key, expect },
                Condition { key: Key::Instance(instance.clone()), expect: Expect::Present },
            ],
            ..Commit::default()
        };
        match self.commit(commit).await {
            Ok(committed) => {
                Ok(Written { position: committed.position, created: expected.is_none(), changed: committed.changed })
            }
            Err(WriteError::Commit(CommitError::Condition { key, actual })) => {
                self.wait_for_change(actual).await;
                Err(WriteError::Contended(described(&key)))
            }
            Err(error) => Err(error),
        }
    }

    /// [`Writer::clear_leftovers`] of all instances that a commit creates.
    pub(super) async fn clear_leftovers_of(&self, commit: &Commit) -> Result<(), WriteError> {
        let created = commit.conditions.iter().filter(|condition| condition.expect == Expect::Absent);
        let keys: Vec<Key> = created.map(|condition| condition.key.clone()).collect();
        self.clear_leftovers(&keys).await
    }

    /// Removes what is left of instances that are not there, before new ones of these keys come to be.
    ///
    /// Parts are written only while their instance is there, so none can be added after this; and where an instance is
    /// there after all, its own creation fails on its condition.
    pub(super) async fn clear_leftovers(&self, keys: &[Key]) -> Result<(), WriteError> {
        let leftovers: Vec<(Key, Key)> = {
            let replica = self.live.read();
            let of = |key: &Key| match key {
                Key::Instance(instance) => replica.parts_of(instance),
                _ => Vec::new(),
            };
            keys.iter().flat_map(|key| of(key).into_iter().map(|part| (key.clone(), part))).collect()
        };
        for some in leftovers.chunks(MAX_OPERATIONS) {
            let mut commit = Commit::default();
            for (instance, part) in some {
                commit.operations.push(Operation { key: part.clone(), action: Action::Delete });
                if commit.conditions.iter().all(|condition| condition.key != *instance) {
                    commit.conditions.push(Condition { key: instance.clone(), expect: Expect::Absent });
                }
            }
            // What comes after it is applied after it, so nobody has to wait until it is shown.
            match self.store_commit(commit).await {
                Ok(_) | Err(CommitError::Condition { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
