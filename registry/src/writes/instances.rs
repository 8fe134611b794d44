//! Writes of one instance: read, changed and written again if nobody was faster.

use super::batch::Planned;
use super::identity::{check_instance_identity, described};
use super::{ATTEMPTS, Guard, WriteError, Writer, Written};
use crate::access::Acting;
use crate::store::{Action, Commit, CommitError, Condition, Expect, MAX_OPERATIONS, Operation};
use crate::validate::{self, Invalid};
use fingerpost_catalog::document::InstanceDocument;
use fingerpost_catalog::{Health, Instance, InstanceKey, Key, Record, Report};
use std::sync::Arc;

impl Writer {
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
            let mut document = serde_json::to_value(InstanceDocument::of(&key, present))
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

    /// Removes an instance and the parts of its health.
    pub async fn delete_instance(&self, key: InstanceKey, guard: Guard) -> Result<Written, WriteError> {
        self.heard(&key.source);
        let Planned { mut operations, parts, .. } = self.plan_delete_instance(&key);
        let key = Key::Instance(key);
        let mut conditions = self.guard(&key, guard)?;
        conditions.push(Condition { key, expect: Expect::Present });
        operations.extend(parts.into_iter().take(MAX_OPERATIONS - 1));
        let committed = self.commit_guarded(operations, conditions, guard).await?;
        Ok(Written { position: committed.position, created: false, changed: committed.changed })
    }
}

/// What stands as reported after a write: what the writer says now, else what it said last. Saying the same again keeps
/// the note that explains it.
pub(super) fn keep_report(health: Option<Health>, present: Option<&Instance>) -> Option<Report> {
    let last = present.and_then(|present| present.report.clone());
    match (health, last) {
        (None, last) => last,
        (Some(health), Some(last)) if last.health == health => Some(last),
        // Passing is what an instance is that never said anything.
        (Some(Health::Passing), None) => None,
        (Some(health), _) => Some(Report { health, ..Report::default() }),
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
