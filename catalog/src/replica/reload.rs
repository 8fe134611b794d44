//! Taking in a whole new state: what a reader does whose place in the history is gone.

use super::Replica;
use super::apply::Transaction;
use super::entry::{Marks, Parts};
use super::read::part_keys;
use super::write::PartName;
use crate::Position;
use crate::record::{InstanceKey, Key, Record};
use crate::view::Effects;

impl Replica {
    /// Replaces all contents by those of `position`, and says how that changed the merged view.
    ///
    /// Where the epoch is new, every revision is; that alone is no effect. What observers keep of unchanged objects
    /// then has revisions of the old epoch, and so may the `before` of effects to come.
    pub fn reload(&mut self, position: Position, records: impl IntoIterator<Item = (Key, Record, u64)>) -> Effects {
        self.tick += 1;
        let new_epoch = self.position.is_none_or(|before| before.epoch != position.epoch);
        let mut transaction = if new_epoch { Transaction::of_new_epoch() } else { Transaction::observed() };
        for (key, record, revision) in records {
            match self.record(&key) {
                Some((own, before)) if own == record && before == revision => {}
                Some((own, _)) if own == record && new_epoch => self.set_revision(&mut transaction, &key, revision),
                _ => self.put(&mut transaction, &key, &record, revision),
            }
            if record.fits(&key) {
                self.mark_seen(&key);
            }
        }
        for key in self.take_unseen() {
            self.delete(&mut transaction, &key);
        }
        self.position = Some(position);
        let sessions = transaction.take_sessions();
        let changes = self.finish(transaction);
        if new_epoch {
            // Lists print revisions with their epoch.
            let groups = self.namespace_order.values().flat_map(|&handle| self.namespaces[handle].groups());
            for group in groups {
                self.groups[group].version = self.tick;
            }
        }
        Effects { position, changes, sessions }
    }

    /// Moves a record, whose value is the same, to a revision of the new epoch.
    fn set_revision(&mut self, transaction: &mut Transaction, key: &Key, revision: u64) {
        match key {
            Key::Namespace { name, source } => {
                let Some(handle) = self.find_namespace(name) else {
                    return;
                };
                if let Some(declaration) = self.namespaces[handle].declarations.get_mut(source) {
                    declaration.revision = revision;
                }
                self.touch_namespace(transaction, handle);
            }
            Key::Service { namespace, name, source } => {
                let Some(group) = self.find_group(namespace, Some(name)) else {
                    return;
                };
                self.touch_group(transaction, group);
                if let Some(declaration) = self.groups[group].declarations.get_mut(source) {
                    declaration.revision = revision;
                }
            }
            Key::Instance(key) => {
                let Some(handle) = self.find_instance(key) else { return };
                self.entries[handle].revision = revision;
            }
            Key::Session { id } => {
                let Some(handle) = self.sessions.find(id) else { return };
                if let Some(stored) = &mut self.sessions.get_mut(handle).stored {
                    stored.revision = revision;
                }
            }
            Key::Mark { source } => {
                if let Some(stored) = self.marks.get_mut(source) {
                    stored.revision = revision;
                    let seen = stored.value.seen;
                    self.counts.of(source, |stats| stats.seen = Some((seen, revision)));
                }
            }
            Key::Drain(key) => self.with_part(key, PartName::Drain, |part| part.revision = revision),
            Key::Check { instance, check } => {
                self.with_part(instance, PartName::Check(check), |part| part.revision = revision);
            }
        }
    }

    fn with_part(&mut self, key: &InstanceKey, name: PartName<'_>, change: impl FnOnce(&mut super::entry::Part)) {
        let parts = match self.find_instance(key) {
            Some(handle) => self.entries[handle].parts_mut(),
            None => self.orphans.get_mut(key),
        };
        if let Some(part) = parts.and_then(|parts| parts.get_mut(name)) {
            change(part);
        }
    }

    fn mark_seen(&mut self, key: &Key) {
        match key {
            Key::Namespace { name, source } => {
                let slot = self.find_namespace(name).map(|handle| &mut self.namespaces[handle]);
                if let Some(declaration) = slot.and_then(|slot| slot.declarations.get_mut(source)) {
                    declaration.seen = true;
                }
            }
            Key::Service { namespace, name, source } => {
                let group = self.find_group(namespace, Some(name)).map(|handle| &mut self.groups[handle]);
                if let Some(declaration) = group.and_then(|group| group.declarations.get_mut(source)) {
                    declaration.seen = true;
                }
            }
            Key::Instance(key) => {
                if let Some(handle) = self.find_instance(key) {
                    self.entries[handle].marks.set(Marks::SEEN);
                }
            }
            Key::Session { id } => {
                let slot = self.sessions.find(id).map(|handle| self.sessions.get_mut(handle));
                if let Some(stored) = slot.and_then(|slot| slot.stored.as_mut()) {
                    stored.seen = true;
                }
            }
            Key::Mark { source } => {
                if let Some(stored) = self.marks.get_mut(source) {
                    stored.seen = true;
                }
            }
            Key::Drain(key) => self.with_part(key, PartName::Drain, |part| part.seen = true),
            Key::Check { instance, check } => {
                self.with_part(instance, PartName::Check(check), |part| part.seen = true);
            }
        }
    }

    /// The keys of all records that are not marked as seen. No mark is left.
    fn take_unseen(&mut self) -> Vec<Key> {
        let mut unseen = Vec::new();
        let namespaces: Vec<u32> = self.namespace_order.values().copied().collect();
        for namespace in namespaces {
            let slot = &mut self.namespaces[namespace];
            for declaration in slot.declarations.iter_mut() {
                if !std::mem::take(&mut declaration.seen) {
                    unseen.push(Key::Namespace { name: slot.name.clone(), source: declaration.source.clone() });
                }
            }
            let groups: Vec<u32> = slot.groups().collect();
            let namespace = slot.name.clone();
            for handle in groups {
                let group = &mut self.groups[handle];
                for declaration in group.declarations.iter_mut() {
                    if let (false, Some(name)) = (std::mem::take(&mut declaration.seen), &group.name) {
                        let (namespace, name) = (namespace.clone(), name.clone());
                        unseen.push(Key::Service { namespace, name, source: declaration.source.clone() });
                    }
                }
                for instance in self.groups[handle].order.iter().collect::<Vec<u32>>() {
                    if !self.entries[instance].marks.clear(Marks::SEEN) {
                        unseen.push(Key::Instance(self.key_of(instance)));
                    }
                    if self.entries[instance].parts().is_some() {
                        let key = self.key_of(instance);
                        if let Some(parts) = self.entries[instance].parts_mut() {
                            take_unseen_parts(&key, parts, &mut unseen);
                        }
                    }
                }
            }
        }
        for (key, parts) in &mut self.orphans {
            take_unseen_parts(key, parts, &mut unseen);
        }
        for handle in self.sessions.handles() {
            let slot = self.sessions.get_mut(handle);
            if let Some(stored) = &mut slot.stored
                && !std::mem::take(&mut stored.seen)
            {
                unseen.push(Key::Session { id: slot.id.clone() });
            }
        }
        for (source, stored) in &mut self.marks {
            if !std::mem::take(&mut stored.seen) {
                unseen.push(Key::Mark { source: source.clone() });
            }
        }
        unseen
    }
}

fn take_unseen_parts(key: &InstanceKey, parts: &mut Parts, unseen: &mut Vec<Key>) {
    let all = part_keys(key, parts);
    let seen = parts.iter_mut().map(|part| std::mem::take(&mut part.seen));
    unseen.extend(all.into_iter().zip(seen).filter(|(_, seen)| !seen).map(|(key, _)| key));
}
