//! Transactions: how the replica finds out what a set of changes did to the merged view.
//!
//! Whatever changes an instance's view first *touches* it, which takes down the view as it was. When all changes are
//! in, [`Replica::finish`] compares what was touched with what it has become. Services are touched likewise; namespaces,
//! of which there are few, keep their merged views anyway, so it is enough to note which ones to merge anew.

use super::Replica;
use super::entry::Marks;
use super::materialize::LabelsOf;
use crate::view::{InstanceView, NamespaceView, ServiceView, SessionChange, ViewChange};
use std::sync::Arc;

/// What a set of changes has reached so far.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Somebody wants to know the effects.
    observed: bool,
    /// Views that differ only in their revision are the same: the revisions' epoch is new, so they all differ.
    ignore_revisions: bool,
    touched: Vec<(u32, Option<Arc<InstanceView>>)>,
    reshadow: Vec<u32>,
    groups: Vec<(u32, Option<Arc<ServiceView>>)>,
    namespaces: Vec<u32>,
    sessions: Vec<SessionChange>,
}

impl Transaction {
    pub(super) fn observed() -> Self {
        Self {
            observed: true,
            ignore_revisions: false,
            touched: Vec::new(),
            reshadow: Vec::new(),
            groups: Vec::new(),
            namespaces: Vec::new(),
            sessions: Vec::new(),
        }
    }

    pub(super) fn unobserved() -> Self {
        Self { observed: false, ..Self::observed() }
    }

    pub(super) fn of_new_epoch() -> Self {
        Self { ignore_revisions: true, ..Self::observed() }
    }

    /// A session's record has changed.
    pub(super) fn session(&mut self, change: SessionChange) {
        if self.observed && change.before != change.after {
            self.sessions.push(change);
        }
    }

    /// The sessions whose records have changed.
    pub(super) fn take_sessions(&mut self) -> Vec<SessionChange> {
        std::mem::take(&mut self.sessions)
    }
}

impl Replica {
    /// The instance's view is about to change.
    pub(super) fn touch(&mut self, transaction: &mut Transaction, instance: u32) {
        if self.entries[instance].marks.set(Marks::TOUCHED) {
            let before = transaction.observed.then(|| Arc::new(self.instance_view(instance, LabelsOf::Endpoint)));
            transaction.touched.push((instance, before));
        }
    }

    /// The instance has just come to be.
    pub(super) fn touch_new(&mut self, transaction: &mut Transaction, instance: u32) {
        self.entries[instance].marks.set(Marks::TOUCHED);
        transaction.touched.push((instance, None));
    }

    /// Another instance at one of its addresses changes, which may change what it shadows or is shadowed by.
    pub(super) fn touch_shadow(&mut self, transaction: &mut Transaction, instance: u32) {
        self.touch(transaction, instance);
        if self.entries[instance].marks.set(Marks::RESHADOW) {
            transaction.reshadow.push(instance);
        }
    }

    /// The merged service, or whether it exists, is about to change.
    pub(super) fn touch_group(&mut self, transaction: &mut Transaction, group: u32) {
        if !std::mem::replace(&mut self.groups[group].dirty, true) {
            let before = || self.merge_service(&self.groups[group]).map(Arc::new);
            let before = if transaction.observed { before() } else { None };
            transaction.groups.push((group, before));
        }
    }

    /// The merged namespace, or whether it exists, may change.
    pub(super) fn touch_namespace(&mut self, transaction: &mut Transaction, namespace: u32) {
        if !std::mem::replace(&mut self.namespaces[namespace].dirty, true) {
            transaction.namespaces.push(namespace);
        }
    }

    /// Completes what was changed, and says what became of what was touched.
    pub(super) fn finish(&mut self, mut transaction: Transaction) -> Vec<ViewChange> {
        for instance in std::mem::take(&mut transaction.reshadow) {
            self.entries[instance].marks.clear(Marks::RESHADOW);
            if !self.entries[instance].marks.has(Marks::DEAD) {
                let shadow = self.work_out_shadow(instance);
                self.set_shadow(instance, shadow);
            }
        }
        let mut instances = Vec::with_capacity(if transaction.observed { transaction.touched.len() } else { 0 });
        for (instance, before) in std::mem::take(&mut transaction.touched) {
            self.settle(&transaction, instance, before, &mut instances);
        }
        let mut services = Vec::new();
        for (group, before) in std::mem::take(&mut transaction.groups) {
            self.settle_group(&mut transaction, group, before, &mut services);
        }
        let mut changes = Vec::new();
        for namespace in std::mem::take(&mut transaction.namespaces) {
            self.settle_namespace(&transaction, namespace, &mut changes);
        }
        if changes.is_empty() && services.is_empty() {
            return instances;
        }
        changes.append(&mut services);
        changes.append(&mut instances);
        changes
    }

    fn settle(
        &mut self,
        transaction: &Transaction,
        instance: u32,
        before: Option<Arc<InstanceView>>,
        changes: &mut Vec<ViewChange>,
    ) {
        let effective = self.effective_health(&self.entries[instance]);
        let entry = &mut self.entries[instance];
        entry.marks.clear(Marks::TOUCHED);
        let group = entry.group;
        let dead = entry.marks.has(Marks::DEAD);
        if entry.marks.has(Marks::COUNTED) && (dead || entry.health != effective) {
            entry.marks.clear(Marks::COUNTED);
            self.by_health[entry.health as usize].remove(instance);
        }
        if !dead && entry.marks.set(Marks::COUNTED) {
            entry.health = effective;
            self.by_health[effective as usize].insert(instance);
        }
        if transaction.observed {
            let after = (!dead).then(|| self.instance_view(instance, LabelsOf::Endpoint));
            let same = match (&before, &after) {
                (None, None) => true,
                // Comparing revisions first spares most comparisons of everything else.
                (Some(before), Some(after)) if before.revision == after.revision => **before == *after,
                (Some(before), Some(after)) if transaction.ignore_revisions => {
                    InstanceView { revision: after.revision, ..(**before).clone() } == *after
                }
                _ => false,
            };
            if !same {
                changes.push(ViewChange::Instance { before, after: after.map(Arc::new) });
                self.groups[group].version = self.tick;
            }
        } else {
            self.groups[group].version = self.tick;
        }
        if dead {
            self.purge(instance);
        }
    }

    fn settle_group(
        &mut self,
        transaction: &mut Transaction,
        handle: u32,
        before: Option<Arc<ServiceView>>,
        changes: &mut Vec<ViewChange>,
    ) {
        let after = if transaction.observed { self.merge_service(&self.groups[handle]) } else { None };
        let same = match (&before, &after) {
            (Some(before), Some(after)) if transaction.ignore_revisions => {
                ServiceView { revision: after.revision, ..(**before).clone() } == *after
            }
            (before, after) => before.as_deref() == after.as_ref(),
        };
        let group = &mut self.groups[handle];
        group.dirty = false;
        let counted = group.name.is_some() && group.exists();
        let was_counted = std::mem::replace(&mut group.counted, counted);
        self.services = self.services + usize::from(counted) - usize::from(was_counted);
        if !same || !transaction.observed {
            group.version = self.tick;
        }
        if !same {
            changes.push(ViewChange::Service { before, after: after.map(Arc::new) });
        }
        let namespace = group.namespace;
        if !group.exists() {
            self.remove_group(handle);
        }
        // What makes an undeclared namespace exist may have come or gone.
        self.touch_namespace(transaction, namespace);
    }

    fn settle_namespace(&mut self, transaction: &Transaction, handle: u32, changes: &mut Vec<ViewChange>) {
        self.namespaces[handle].dirty = false;
        let after = self.merge_namespace(&self.namespaces[handle]).map(Arc::new);
        let before = std::mem::replace(&mut self.namespaces[handle].view, after.clone());
        let gone = after.is_none();
        let same = match (&before, &after) {
            (Some(before), Some(after)) if transaction.ignore_revisions => {
                NamespaceView { revision: after.revision, ..(**before).clone() } == **after
            }
            (before, after) => before == after,
        };
        if !same && transaction.observed {
            changes.push(ViewChange::Namespace { before, after });
        }
        if gone {
            self.remove_namespace(handle);
        }
    }
}
