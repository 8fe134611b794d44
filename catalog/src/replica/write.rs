//! How records go into the replica and out of it, and which views each touches; for instances, see
//! [`members`](super::members).

use super::Replica;
use super::apply::Transaction;
use super::declared::PackedService;
use super::entry::{Marks, Part, Parts};
use super::group::{Declaration, Group, NamespaceSlot};
use super::sources::StoredMark;
use super::writers::StoredSession;
use crate::check::Check;
use crate::object::{Namespace, Service, Session};
use crate::record::{InstanceKey, Key, Record};
use crate::view::SessionChange;
use crate::{Health, Source};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which part of an instance's health.
#[derive(Clone, Copy, Debug)]
pub(super) enum PartName<'a> {
    Drain,
    Check(&'a Arc<str>),
}

impl Replica {
    /// Puts a record. A value that does not fit its key is ignored.
    pub(super) fn put(&mut self, transaction: &mut Transaction, key: &Key, record: &Record, revision: u64) {
        match (key, record) {
            (Key::Namespace { name, source }, Record::Namespace(value)) => {
                self.put_namespace(transaction, name, source, value, revision);
            }
            (Key::Service { namespace, name, source }, Record::Service(value)) => {
                self.put_service(transaction, namespace, name, source, value, revision);
            }
            (Key::Instance(key), Record::Instance(value)) => self.put_instance(transaction, key, value, revision),
            (Key::Drain(key), Record::Drain(value)) => {
                self.put_part(transaction, key, PartName::Drain, Part::from_drain(value, revision));
            }
            (Key::Check { instance, check }, Record::Check(value)) => {
                self.put_part(transaction, instance, PartName::Check(check), Part::from_check(value, revision));
            }
            (Key::Session { id }, Record::Session(value)) => self.put_session(transaction, id, value, revision),
            (Key::Mark { source }, Record::Mark(value)) => {
                let stored = StoredMark { value: value.clone(), revision, seen: false };
                self.records += usize::from(self.marks.insert(source.clone(), stored).is_none());
                self.counts.of(source, |stats| stats.seen = Some((value.seen, revision)));
            }
            _ => {}
        }
    }

    /// Removes a record, if it is there.
    pub(super) fn delete(&mut self, transaction: &mut Transaction, key: &Key) {
        match key {
            Key::Namespace { name, source } => {
                let Some(handle) = self.find_namespace(name) else {
                    return;
                };
                if self.namespaces[handle].declarations.remove(source) {
                    self.records -= 1;
                    self.counts.of(source, |stats| stats.namespaces -= 1);
                    self.touch_namespace(transaction, handle);
                }
            }
            Key::Service { namespace, name, source } => {
                let Some(group) = self.find_group(namespace, Some(name)) else {
                    return;
                };
                if self.groups[group].declarations.get(source).is_some() {
                    self.touch_group(transaction, group);
                    self.groups[group].declarations.remove(source);
                    self.records -= 1;
                    self.counts.of(source, |stats| stats.services -= 1);
                    self.declarations_changed(transaction, group);
                }
            }
            Key::Instance(key) => {
                if let Some(handle) = self.find_instance(key) {
                    self.delete_instance(transaction, handle);
                }
            }
            Key::Drain(key) => self.delete_part(transaction, key, PartName::Drain),
            Key::Check { instance, check } => self.delete_part(transaction, instance, PartName::Check(check)),
            Key::Session { id } => self.delete_session(transaction, id),
            Key::Mark { source } => {
                self.records -= usize::from(self.marks.remove(source).is_some());
                self.counts.of(source, |stats| stats.seen = None);
            }
        }
    }

    pub(super) fn find_namespace(&self, name: &str) -> Option<u32> {
        self.namespace_table.find(name, |handle| *self.namespaces[handle].name == *name)
    }

    pub(super) fn find_group(&self, namespace: &str, service: Option<&str>) -> Option<u32> {
        let namespace = self.find_namespace(namespace)?;
        let Some(service) = service else {
            return self.namespaces[namespace].bare;
        };
        self.group_table.find((namespace, service), |handle| {
            let group = &self.groups[handle];
            group.namespace == namespace && group.name.as_deref() == Some(service)
        })
    }

    /// The instance's handle; none where it does not exist.
    pub(super) fn find_instance(&self, key: &InstanceKey) -> Option<u32> {
        let group = self.find_group(&key.namespace, key.service.as_deref())?;
        let source = self.sources.find(&key.source)?;
        let handle = self.find_member(group, source, &key.id)?;
        (!self.entries[handle].marks.has(Marks::DEAD)).then_some(handle)
    }

    /// The instance of a group, whether it exists or was removed by the transaction under way.
    pub(super) fn find_member(&self, group: u32, source: u32, id: &str) -> Option<u32> {
        self.members.find((group, source, id.as_bytes()), |handle| {
            let entry = &self.entries[handle];
            entry.group == group && entry.source == source && entry.details.id_bytes() == id.as_bytes()
        })
    }

    fn obtain_namespace(&mut self, transaction: &mut Transaction, name: &Arc<str>) -> u32 {
        if let Some(handle) = self.find_namespace(name) {
            return handle;
        }
        let handle = self.namespaces.insert(NamespaceSlot { name: name.clone(), ..NamespaceSlot::default() });
        self.namespace_order.insert(name.clone(), handle);
        let namespaces = &self.namespaces;
        self.namespace_table.insert(handle, |handle| &*namespaces[handle].name);
        self.touch_namespace(transaction, handle);
        handle
    }

    pub(super) fn remove_namespace(&mut self, handle: u32) {
        let gone = self.namespaces.remove(handle);
        self.namespace_order.remove(&gone.name);
        self.namespace_table.remove(&*gone.name, handle);
    }

    pub(super) fn obtain_group(
        &mut self,
        transaction: &mut Transaction,
        namespace: &Arc<str>,
        name: Option<&Arc<str>>,
    ) -> u32 {
        if let Some(handle) = self.find_group(namespace, name.map(|name| &**name)) {
            return handle;
        }
        let namespace = self.obtain_namespace(transaction, namespace);
        let handle = self.groups.insert(Group::new(namespace, name.cloned()));
        let slot = &mut self.namespaces[namespace];
        match name {
            None => slot.bare = Some(handle),
            Some(name) => {
                slot.services.insert(name.clone(), handle);
                let groups = &self.groups;
                let key_of =
                    |handle: u32| (groups[handle].namespace, groups[handle].name.as_deref().unwrap_or_default());
                self.group_table.insert(handle, key_of);
            }
        }
        self.touch_group(transaction, handle);
        handle
    }

    pub(super) fn remove_group(&mut self, handle: u32) {
        let gone = self.groups.remove(handle);
        let slot = &mut self.namespaces[gone.namespace];
        match gone.name {
            None => slot.bare = None,
            Some(name) => {
                slot.services.remove(&name);
                self.group_table.remove((gone.namespace, &*name), handle);
            }
        }
    }

    fn put_namespace(
        &mut self,
        transaction: &mut Transaction,
        name: &Arc<str>,
        source: &Source,
        value: &Namespace,
        revision: u64,
    ) {
        let handle = self.obtain_namespace(transaction, name);
        let rank = source.rank(&self.own_cluster);
        let source = &self.counts.shared(source);
        let declaration = Declaration { rank, source: source.clone(), value: value.clone(), revision, seen: false };
        if self.namespaces[handle].declarations.put(declaration) {
            self.records += 1;
            self.counts.of(source, |stats| stats.namespaces += 1);
        }
        self.touch_namespace(transaction, handle);
    }

    fn put_service(
        &mut self,
        transaction: &mut Transaction,
        namespace: &Arc<str>,
        name: &Arc<str>,
        source: &Source,
        value: &Service,
        revision: u64,
    ) {
        let group = self.obtain_group(transaction, namespace, Some(name));
        self.touch_group(transaction, group);
        let rank = source.rank(&self.own_cluster);
        let value = PackedService::pack(value);
        let declaration = Declaration { rank, source: self.counts.shared(source), value, revision, seen: false };
        if self.groups[group].declarations.put(declaration) {
            self.records += 1;
            self.counts.of(source, |stats| stats.services += 1);
        }
        self.declarations_changed(transaction, group);
    }

    /// The declarations of a service, which has been touched, have changed: touches those of its instances whose health
    /// that concerns.
    fn declarations_changed(&mut self, transaction: &mut Transaction, handle: u32) {
        let group = &self.groups[handle];
        let best = group.declarations.first().map(|declaration| &declaration.value);
        let publish_not_ready = best.is_some_and(PackedService::publish_not_ready);
        let answer_unknown = best.is_some_and(PackedService::answer_unknown);
        let all_critical = best.map(PackedService::all_critical).unwrap_or_default();
        let readiness = publish_not_ready != group.publish_not_ready;
        let unknown = answer_unknown != group.answer_unknown;
        let checks = best.map_or(&[][..], PackedService::checks);
        let declared = group.checks.as_deref().unwrap_or_default();
        let names = |checks: &[Check]| checks.iter().map(|check| check.name.clone()).collect::<BTreeSet<_>>();
        let checked = names(checks) != names(declared);
        let checks: Option<Arc<[Check]>> = if checks == declared { group.checks.clone() } else { some_checks(checks) };
        if readiness || unknown || checked {
            let concerned = |&member: &u32| {
                let entry = &self.entries[member];
                checked
                    || (readiness && entry.conditions.unpack().ready == Some(false))
                    || (unknown && self.effective_health(entry) == Health::Unknown)
            };
            for member in group.order.iter().filter(concerned).collect::<Vec<u32>>() {
                self.touch(transaction, member);
            }
        }
        let group = &mut self.groups[handle];
        (group.publish_not_ready, group.answer_unknown) = (publish_not_ready, answer_unknown);
        (group.all_critical, group.checks) = (all_critical, checks);
    }

    fn put_session(&mut self, transaction: &mut Transaction, id: &str, value: &Session, revision: u64) {
        let handle = self.sessions.intern(id);
        if self.sessions.get(handle).state() != Some(value.state) {
            self.touch_session(transaction, handle);
        }
        let value = Arc::new(value.clone());
        let slot = self.sessions.get_mut(handle);
        let stored = Box::new(StoredSession { value: Arc::clone(&value), revision, seen: false });
        let before = slot.stored.replace(stored).map(|before| before.value);
        self.records += usize::from(before.is_none());
        self.counts.add_session(&value);
        if let Some(before) = &before {
            self.counts.remove_session(before);
        }
        transaction.session(SessionChange { id: Arc::clone(&slot.id), before, after: Some(value) });
    }

    fn delete_session(&mut self, transaction: &mut Transaction, id: &str) {
        let Some(handle) = self.sessions.find(id) else { return };
        if self.sessions.get(handle).stored.is_some() {
            self.touch_session(transaction, handle);
            let slot = self.sessions.get_mut(handle);
            let before = slot.stored.take().map(|before| before.value);
            if let Some(before) = &before {
                self.counts.remove_session(before);
            }
            transaction.session(SessionChange { id: Arc::clone(&slot.id), before, after: None });
            self.sessions.drop_unused(handle);
            self.records -= 1;
        }
    }

    fn touch_session(&mut self, transaction: &mut Transaction, handle: u32) {
        for instance in self.sessions.instances(handle).collect::<Vec<u32>>() {
            self.touch(transaction, instance);
        }
    }

    fn put_part(&mut self, transaction: &mut Transaction, key: &InstanceKey, name: PartName<'_>, part: Part) {
        let found = self.find_instance(key);
        if let Some(handle) = found {
            self.touch(transaction, handle);
        }
        let new = match found {
            Some(handle) => self.entries[handle].change_parts(|parts| parts.put(name, part)),
            None => self.orphans.entry_ref(key).or_default().put(name, part),
        };
        self.records += usize::from(new);
    }

    fn delete_part(&mut self, transaction: &mut Transaction, key: &InstanceKey, name: PartName<'_>) {
        let found = self.find_instance(key);
        let parts = match found {
            Some(handle) => self.entries[handle].parts(),
            None => self.orphans.get(key),
        };
        if parts.and_then(|parts| parts.get(name)).is_none() {
            return;
        }
        self.records -= 1;
        if let Some(handle) = found {
            self.touch(transaction, handle);
            self.entries[handle].change_parts(|parts| parts.remove(name));
        } else if self.orphans.get_mut(key).is_some_and(|parts| parts.remove(name)) {
            self.orphans.remove(key);
        }
    }
}

fn some_checks(checks: &[Check]) -> Option<Arc<[Check]>> {
    (!checks.is_empty()).then(|| checks.into())
}

impl Parts {
    pub(super) fn get(&self, name: PartName<'_>) -> Option<&Part> {
        match name {
            PartName::Drain => self.drain.as_deref(),
            PartName::Check(check) => self.check(check).ok().map(|place| &self.checks[place].1),
        }
    }

    pub(super) fn get_mut(&mut self, name: PartName<'_>) -> Option<&mut Part> {
        match name {
            PartName::Drain => self.drain.as_deref_mut(),
            PartName::Check(check) => self.check(check).ok().map(|place| &mut self.checks[place].1),
        }
    }

    /// Whether it is new.
    fn put(&mut self, name: PartName<'_>, part: Part) -> bool {
        match name {
            PartName::Drain => self.drain.replace(Box::new(part)).is_none(),
            PartName::Check(check) => match self.check(check) {
                Ok(place) => {
                    self.checks[place].1 = part;
                    false
                }
                Err(place) => {
                    self.checks.insert(place, (check.clone(), part));
                    true
                }
            },
        }
    }

    /// Whether nothing is left.
    fn remove(&mut self, name: PartName<'_>) -> bool {
        match name {
            PartName::Drain => self.drain = None,
            PartName::Check(check) => {
                if let Ok(place) = self.check(check) {
                    self.checks.remove(place);
                }
            }
        }
        self.is_empty()
    }
}
