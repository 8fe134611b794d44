//! Many operations in one commit: planned one by one, applied all together.

use super::identity::{described, document_key, namespace_key, required, same_source, service_key};
use super::instances::keep_report;
use super::{ATTEMPTS, Verb, WriteError, Writer, Written};
use crate::access::Acting;
use crate::store::{Action, Commit, CommitError, Condition, Expect, MAX_OPERATIONS, Operation};
use crate::validate::{self, Invalid};
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_catalog::{Health, Instance, InstanceKey, Key, Record};
use std::collections::HashMap;
use std::sync::Arc;

/// Operations of one user's operation, before they are committed.
pub(super) struct Planned {
    pub(super) operations: Vec<Operation>,
    pub(super) conditions: Vec<Condition>,
    pub(super) created: bool,
    /// Parts of an instance that goes, which may stay behind where there is no room for them: they mean nothing without
    /// it, and are cleared away later, or when the instance comes to be again.
    pub(super) parts: Vec<Operation>,
}

impl Writer {
    /// Applies operations all together, at one position, or not at all. Whether this process shows it, is for
    /// [`Writer::shown`] to tell.
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
            if commit.operations.len() + parts.len() <= MAX_OPERATIONS {
                commit.operations.extend(parts);
            }
            self.clear_leftovers_of(&commit).await?;
            match self.store_commit(commit).await {
                Ok(committed) => {
                    return Ok(created
                        .into_iter()
                        .map(|created| Written { position: committed.position, created, changed: committed.changed })
                        .collect());
                }
                Err(CommitError::Condition { actual, .. }) => self.wait_for_change(actual).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Contended("what the batch writes".to_owned()))
    }

    /// Plans one operation of a batch; `pointer` is where its object stands.
    pub(super) fn plan(
        &self,
        acting: &Acting,
        verb: Verb,
        object: &ObjectDocument,
        pointer: &str,
    ) -> Result<Planned, WriteError> {
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

    pub(super) fn plan_put(&self, key: Key, record: Record) -> Planned {
        let created = self.live.read().revision_of(&key).is_none();
        let operations = vec![Operation { key, action: Action::Put(Arc::new(record)) }];
        Planned { operations, conditions: Vec::new(), created, parts: Vec::new() }
    }

    pub(super) fn plan_put_instance(
        &self,
        acting: &Acting,
        key: InstanceKey,
        mut instance: Instance,
        health: Option<Health>,
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

    pub(super) fn plan_delete_instance(&self, key: &InstanceKey) -> Planned {
        let parts = self.live.read().parts_of(key).into_iter();
        Planned {
            parts: parts.map(|key| Operation { key, action: Action::Delete }).collect(),
            ..plan_delete(Key::Instance(key.clone()))
        }
    }
}

/// Adds conditions to a commit. Instances of one session share the condition on it.
pub(super) fn add_conditions(commit: &mut Commit, conditions: Vec<Condition>) {
    for condition in conditions {
        if !matches!(condition.key, Key::Session { .. }) || !commit.conditions.contains(&condition) {
            commit.conditions.push(condition);
        }
    }
}

pub(super) fn plan_delete(key: Key) -> Planned {
    let operations = vec![Operation { key, action: Action::Delete }];
    Planned { operations, conditions: Vec::new(), created: false, parts: Vec::new() }
}
