//! How instances go into the replica and out of it: the compact form, the indexes, and whom an instance's change
//! concerns beside itself.

use super::Replica;
use super::apply::Transaction;
use super::details::Details;
use super::entry::{Addresses, Entry, Marks, PackedConditions, Pairs, Rare, Shadow};
use super::interner::{Interner, NONE};
use crate::object::Instance;
use crate::record::InstanceKey;
use smallvec::SmallVec;
use std::cmp::Ordering;

impl Replica {
    pub(super) fn put_instance(
        &mut self,
        transaction: &mut Transaction,
        key: &InstanceKey,
        value: &Instance,
        revision: u64,
    ) {
        let group = self.obtain_group(transaction, &key.namespace, key.service.as_ref());
        let source = self.sources.intern(&key.source, &self.own_cluster);
        let found = self.find_member(group, source, &key.id);
        let details = Details::pack(&key.id, value);
        let was_sessionless = found.is_some_and(|handle| self.entries[handle].session == NONE);
        let (handle, new) = match found {
            Some(handle) if !self.entries[handle].marks.has(Marks::DEAD) => {
                self.touch(transaction, handle);
                (handle, false)
            }
            Some(handle) => {
                self.entries[handle].marks.clear(Marks::DEAD);
                (handle, true)
            }
            None => {
                let handle = self.entries.insert(Entry::new(&details, group, source));
                let entries = &self.entries;
                self.members.insert(handle, |handle| member_key(&entries[handle]));
                self.sources.add(source, handle);
                self.touch_new(transaction, handle);
                (handle, true)
            }
        };
        if new {
            self.records += 1;
            self.insert_in_order(group, handle);
            self.count_member(handle, 1);
            if let Some(orphaned) = self.orphans.remove(key) {
                self.entries[handle].change_parts(|parts| *parts = orphaned);
            }
        }
        self.put_labels_and_addresses(transaction, handle, value, new);
        self.put_fields(handle, &details, value);
        let sessionless = value.session.is_none();
        if new {
            self.counts.add_instance(&key.source, sessionless);
        } else if sessionless != was_sessionless {
            self.counts.remove_instance(&key.source, was_sessionless);
            self.counts.add_instance(&key.source, sessionless);
        }
        self.entries[handle].revision = revision;
    }

    fn put_labels_and_addresses(&mut self, transaction: &mut Transaction, handle: u32, value: &Instance, new: bool) {
        let entry = &self.entries[handle];
        let same_addresses = entry.addresses().len() == value.addresses.len()
            && (entry.addresses().iter().zip(&value.addresses))
                .all(|(&own, other)| self.addresses.address(own) == *other);
        let same_labels = entry.labels().len() == value.labels.0.len()
            && (entry.labels().iter().zip(value.labels.iter()))
                .all(|(&own, (key, value))| self.labels.value(own) == value && self.labels.key_text(own) == key);
        if same_labels && same_addresses && !new {
            return;
        }
        // Whom it meets at its former addresses, and whom at the new ones.
        self.touch_neighbours(transaction, handle);
        let labels = match same_labels {
            true => Pairs::from_slice(self.entries[handle].labels()),
            false => value.labels.iter().map(|(key, value)| self.labels.intern(key, value)).collect(),
        };
        let addresses = match same_addresses {
            true => Addresses::from_slice(self.entries[handle].addresses()),
            false => value.addresses.iter().map(|&address| self.addresses.intern(address)).collect(),
        };
        self.set_lists(handle, &addresses, &labels);
        if !same_addresses {
            self.touch_neighbours(transaction, handle);
        }
    }

    /// The instance's labels or addresses change, or it comes to be or goes: touches it and those that it shadows or is
    /// shadowed by.
    fn touch_neighbours(&mut self, transaction: &mut Transaction, handle: u32) {
        let entry = &self.entries[handle];
        let group = entry.group;
        if !self.groups[group].is_mixed() {
            return;
        }
        let rank = self.rank_of(handle);
        let mut neighbours = SmallVec::<[u32; 8]>::new();
        for &address in entry.addresses() {
            let holders = self.holders_in_group(address, group);
            neighbours.extend(holders.into_iter().filter(|&other| self.rank_of(other) != rank));
        }
        for neighbour in neighbours {
            self.touch_shadow(transaction, neighbour);
        }
        self.touch_shadow(transaction, handle);
    }

    /// Sets the instance's addresses and its own labels. Labels taken over from others are dropped; whoever has any is a
    /// neighbour of one of another rank, so they are worked out again at the end.
    fn set_lists(&mut self, handle: u32, addresses: &[u32], labels: &[u32]) {
        let entry = &mut self.entries[handle];
        let former = Addresses::from_slice(entry.addresses());
        let mut old = Pairs::from_slice(entry.labels());
        if let Some(mut shadow) = entry.replace_shadow(None) {
            old.extend(std::mem::take(&mut shadow.adopted));
            entry.replace_shadow(Some(shadow));
        }
        entry.set_lists(addresses, labels);
        self.labels.replace(handle, &old, labels);
        self.addresses.replace(handle, &former, addresses);
    }

    pub(super) fn set_shadow(&mut self, handle: u32, shadow: Option<Box<Shadow>>) {
        let entry = &mut self.entries[handle];
        if entry.shadow().is_none() && shadow.is_none() {
            return;
        }
        let with = |shadow: Option<&Shadow>| -> Pairs {
            entry.labels().iter().chain(shadow.iter().flat_map(|shadow| &shadow.adopted)).copied().collect()
        };
        self.labels.replace(handle, &with(entry.shadow()), &with(shadow.as_deref()));
        entry.replace_shadow(shadow);
    }

    fn put_fields(&mut self, handle: u32, details: &[u8], value: &Instance) {
        let entry = &mut self.entries[handle];
        let text = |texts: &mut Interner<str>, slot: &mut u32, value: Option<&str>| {
            if texts.get(*slot) != value {
                let old = std::mem::replace(slot, value.map_or(NONE, |value| texts.acquire(value)));
                texts.release(old);
            }
        };
        text(&mut self.texts, &mut entry.zone, value.zone.as_deref());
        text(&mut self.texts, &mut entry.node, value.node.as_deref());
        if self.ports.get(entry.ports).unwrap_or_default() != value.ports {
            let ports = if value.ports.is_empty() { NONE } else { self.ports.acquire(&value.ports) };
            self.ports.release(std::mem::replace(&mut entry.ports, ports));
        }
        entry.conditions = PackedConditions::pack(value.conditions);
        entry.details.set(details);
        entry.set_rare(Rare::pack(value));
        let old = entry.session;
        let had = (old != NONE).then(|| &*self.sessions.get(old).id);
        if had != value.session.as_deref() {
            entry.session = value.session.as_deref().map_or(NONE, |id| {
                let session = self.sessions.intern(id);
                self.sessions.add(session, handle);
                session
            });
            if old != NONE {
                self.sessions.remove(old, handle);
            }
        }
    }

    pub(super) fn delete_instance(&mut self, transaction: &mut Transaction, handle: u32) {
        self.touch(transaction, handle);
        self.touch_neighbours(transaction, handle);
        self.records -= 1;
        let entry = &self.entries[handle];
        self.counts.remove_instance(&self.sources.get(entry.source).source, entry.session == NONE);
        let key = self.key_of(handle);
        if self.entries[handle].parts().is_some() {
            let parts = self.entries[handle].change_parts(std::mem::take);
            self.orphans.insert(key.clone(), parts);
        }
        self.set_lists(handle, &[], &[]);
        let nothing = Instance::default();
        self.put_fields(handle, &Details::pack(&key.id, &nothing), &nothing);
        let group = self.entries[handle].group;
        if self.groups[group].hangs_on(handle) {
            self.touch_group(transaction, group);
        }
        self.remove_from_order(group, handle);
        self.count_member(handle, -1);
        let entry = &mut self.entries[handle];
        entry.marks.set(Marks::DEAD);
        entry.replace_shadow(None);
    }

    /// Takes the removed instance out for good, if it has not come back.
    pub(super) fn purge(&mut self, handle: u32) {
        let entry = self.entries.remove(handle);
        self.members.remove(member_key(&entry), handle);
        self.sources.remove(entry.source, handle);
    }

    fn count_member(&mut self, handle: u32, difference: i32) {
        let rank = self.rank_of(handle);
        let group = &mut self.groups[self.entries[handle].group];
        group.count_rank(rank, difference);
        let instances = &mut self.namespaces[group.namespace].instances;
        *instances = instances.saturating_add_signed(difference);
    }

    fn insert_in_order(&mut self, group: u32, handle: u32) {
        let mut order = std::mem::take(&mut self.groups[group].order);
        order.insert(handle, |other| self.compare(other, handle));
        self.groups[group].order = order;
    }

    fn remove_from_order(&mut self, group: u32, handle: u32) {
        let mut order = std::mem::take(&mut self.groups[group].order);
        order.remove(handle, |other| self.compare(other, handle));
        self.groups[group].order = order;
    }

    /// The order of two members of one group.
    pub(super) fn compare(&self, a: u32, b: u32) -> Ordering {
        let (a, b) = (&self.entries[a], &self.entries[b]);
        let sources = if a.source == b.source {
            Ordering::Equal
        } else {
            self.sources.get(a.source).source.cmp(&self.sources.get(b.source).source)
        };
        sources.then_with(|| a.details.id_bytes().cmp(b.details.id_bytes()))
    }
}

fn member_key(entry: &Entry) -> (u32, u32, &[u8]) {
    (entry.group, entry.source, entry.details.id_bytes())
}
