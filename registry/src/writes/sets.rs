//! Replacing all instances that a source has in a service.

use super::batch::add_conditions;
use super::identity::{check_instance_identity, instance_key, required, same_source};
use super::{ATTEMPTS, Replaced, WriteError, Writer};
use crate::access::Acting;
use crate::store::{Action, Commit, CommitError, MAX_OPERATIONS};
use crate::validate::Invalid;
use fingerpost_catalog::document::InstanceDocument;
use fingerpost_catalog::{Health, HealthSet, Instance, InstanceKey, InstanceQuery, Key, Position, Selector, Source};
use std::collections::BTreeMap;

/// An instance that a set is to have.
struct Wanted {
    /// Its place in the request.
    index: usize,
    instance: Instance,
    health: Option<Health>,
}

/// How far a replacement has come.
struct Progress {
    replaced: Replaced,
    /// The position of the last commit.
    position: Position,
    /// Whatever the plan, an item or a removal is one change.
    applied: usize,
    total: usize,
}

impl Progress {
    fn interrupted(&self, error: WriteError) -> WriteError {
        let (applied, total) = (self.applied, self.total);
        match error {
            other if applied == 0 => other,
            WriteError::Commit(source) => WriteError::Interrupted { applied, total, source },
            other => WriteError::Interrupted { applied, total, source: CommitError::Unavailable(other.to_string()) },
        }
    }
}

impl Writer {
    /// Replaces all instances that a source has in a service: additions and updates first, then removals, in commits of
    /// bounded size. Broken off in the middle, it can be repeated. Whether this process shows it in the end, is for
    /// [`Writer::shown`] to tell.
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
        let wanted = self.wanted(acting, namespace, service, documents)?;
        let gone = self.others(acting.source(), namespace, service, &wanted);
        let mut progress = Progress {
            replaced: Replaced::default(),
            position: self.live.position(),
            applied: 0,
            total: wanted.len() + gone.len(),
        };
        let wanted: Vec<(InstanceKey, Wanted)> = wanted.into_iter().collect();
        self.put_set(acting, &wanted, &mut progress).await?;
        self.remove_set(&gone, &mut progress).await?;
        Ok((progress.replaced, progress.position))
    }

    /// The set that is asked for, with all of it checked.
    fn wanted(
        &self,
        acting: &Acting,
        namespace: &str,
        service: &str,
        documents: Vec<InstanceDocument>,
    ) -> Result<BTreeMap<InstanceKey, Wanted>, WriteError> {
        let mut wanted = BTreeMap::new();
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
        Ok(wanted)
    }

    /// The source's instances in the service that the set does not have.
    fn others(
        &self,
        source: &Source,
        namespace: &str,
        service: &str,
        wanted: &BTreeMap<InstanceKey, Wanted>,
    ) -> Vec<InstanceKey> {
        let (mut others, mut after) = (Vec::new(), None);
        let selector = Selector::default();
        loop {
            let query = InstanceQuery {
                namespace: Some(namespace),
                service: Some(Some(service)),
                source: Some(source),
                selector: &selector,
                health: HealthSet::default(),
                after: after.as_ref(),
                limit: 500,
            };
            let page = self.live.read().instances(&query);
            others.extend(page.items.into_iter().map(|view| view.key).filter(|key| !wanted.contains_key(key)));
            match page.next {
                Some(next) => after = Some(next),
                None => return others,
            }
        }
    }

    async fn put_set(
        &self,
        acting: &Acting,
        wanted: &[(InstanceKey, Wanted)],
        progress: &mut Progress,
    ) -> Result<(), WriteError> {
        let mut chunks: Vec<&[(InstanceKey, Wanted)]> = wanted.chunks(MAX_OPERATIONS).rev().collect();
        while let Some(chunk) = chunks.pop() {
            let before = progress.replaced;
            match self.replace_chunk(acting, chunk, &mut progress.replaced).await {
                // Very large ones.
                Err(WriteError::Commit(CommitError::TooLarge { .. })) if chunk.len() > 1 => {
                    progress.replaced = before;
                    let (first, second) = chunk.split_at(chunk.len() / 2);
                    chunks.extend([second, first]);
                    continue;
                }
                Ok(position) => progress.position = position.unwrap_or(progress.position),
                Err(error) => return Err(progress.interrupted(error)),
            }
            let done = progress.replaced;
            progress.applied += done.added + done.updated - before.added - before.updated;
        }
        Ok(())
    }

    async fn remove_set(&self, gone: &[InstanceKey], progress: &mut Progress) -> Result<(), WriteError> {
        progress.replaced.removed = gone.len();
        for (operations, count) in self.removals(gone) {
            match self.store_commit(Commit { operations, ..Commit::default() }).await {
                Ok(committed) => progress.position = committed.position,
                Err(error) => return Err(progress.interrupted(error.into())),
            }
            progress.applied += count;
        }
        Ok(())
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
