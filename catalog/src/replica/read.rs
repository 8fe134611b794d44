//! Reading single objects, records, and what belongs together.

use super::Replica;
use super::entry::Parts;
use super::materialize::LabelsOf;
use crate::object::{AllCritical, Namespace, Service};
use crate::record::{InstanceKey, Key, Record};
use crate::view::{InstanceView, NamespaceView, ServiceView};
use crate::{Health, Source};
use std::net::IpAddr;

impl Replica {
    /// The merged namespace.
    pub fn namespace(&self, name: &str) -> Option<NamespaceView> {
        self.namespaces[self.find_namespace(name)?].view.as_deref().cloned()
    }

    /// Each source's declaration of the namespace with its revision, highest rank first.
    pub fn namespace_declarations(&self, name: &str) -> Vec<(Source, Namespace, u64)> {
        let slot = self.find_namespace(name).map(|handle| &self.namespaces[handle]);
        let declarations = slot.into_iter().flat_map(|slot| slot.declarations.iter());
        declarations.map(|one| (one.source.clone(), one.value.clone(), one.revision)).collect()
    }

    /// The merged service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<ServiceView> {
        self.merge_service(&self.groups[self.find_group(namespace, Some(name))?])
    }

    /// Each source's declaration of the service with its revision, highest rank first.
    pub fn service_declarations(&self, namespace: &str, name: &str) -> Vec<(Source, Service, u64)> {
        let group = self.find_group(namespace, Some(name)).map(|handle| &self.groups[handle]);
        let declarations = group.into_iter().flat_map(|group| group.declarations.iter());
        declarations.map(|one| (one.source.clone(), one.value.unpack(), one.revision)).collect()
    }

    /// A number that changes whenever the service or the view of any of its instances does (`service`: none for the
    /// instances of no service), and never repeats; none while it does not exist.
    ///
    /// It is this process' own and says nothing to another one: a key for cached lists, not a position.
    pub fn service_version(&self, namespace: &str, service: Option<&str>) -> Option<u64> {
        Some(self.groups[self.find_group(namespace, service)?].version)
    }

    /// One source's instance, with the labels of the records that it shadows.
    pub fn instance(&self, key: &InstanceKey) -> Option<InstanceView> {
        Some(self.instance_view(self.find_instance(key)?, LabelsOf::Endpoint))
    }

    /// All sources' instances of this id, highest rank first.
    pub fn instances_named(&self, namespace: &str, service: Option<&str>, id: &str) -> Vec<InstanceView> {
        let Some(handle) = self.find_group(namespace, service) else {
            return Vec::new();
        };
        let group = &self.groups[handle];
        let sources = self.sources.handles();
        let mut found: Vec<u32> = if group.len() < sources.len() {
            group.order.iter().filter(|&handle| self.entries[handle].details.id() == id).collect()
        } else {
            sources.filter_map(|source| self.find_member(handle, source, id)).collect()
        };
        let weight = |&handle: &u32| {
            let source = self.sources.get(self.entries[handle].source);
            (source.rank, &source.source)
        };
        found.sort_unstable_by(|a, b| weight(a).cmp(&weight(b)));
        found.into_iter().map(|handle| self.instance_view(handle, LabelsOf::Endpoint)).collect()
    }

    /// Whether the service has instances, none of them can be answered, and its `allCritical: all` has DNS answer them all
    /// the same.
    pub fn panics(&self, namespace: &str, service: &str) -> bool {
        let Some(group) = self.find_group(namespace, Some(service)).map(|handle| &self.groups[handle]) else {
            return false;
        };
        if group.all_critical != AllCritical::All {
            return false;
        }
        // As DNS has it: whoever can be answered at an address of its own keeps the service from panicking.
        let answered = |handle: u32| {
            let entry = &self.entries[handle];
            let healthy = match entry.health {
                Health::Passing | Health::Warning => true,
                Health::Unknown => group.answer_unknown,
                Health::Critical => false,
            };
            healthy && entry.addresses().len() > entry.shadow().map_or(0, |shadow| shadow.addresses.len())
        };
        group.order.first().is_some() && !group.order.iter().any(answered)
    }

    /// The instances that hang on a session, in the order of their keys.
    pub fn instance_keys_of_session(&self, session: &str) -> Vec<InstanceKey> {
        let session = self.sessions.find(session);
        self.sorted_keys(session.into_iter().flat_map(|session| self.sessions.instances(session)))
    }

    /// The instances that hold an address, in the order of their keys.
    pub fn instances_at(&self, address: IpAddr) -> Vec<InstanceKey> {
        let address = self.addresses.find(address);
        let holders = |address| self.addresses.postings().iter(self.addresses.holders(address));
        self.sorted_keys(address.into_iter().flat_map(holders))
    }

    fn sorted_keys(&self, handles: impl Iterator<Item = u32>) -> Vec<InstanceKey> {
        let mut keys: Vec<InstanceKey> = handles.map(|handle| self.key_of(handle)).collect();
        keys.sort_unstable();
        keys
    }

    /// A record exactly as it was put, with its revision.
    pub fn record(&self, key: &Key) -> Option<(Record, u64)> {
        match key {
            Key::Namespace { name, source } => {
                let declaration = self.namespaces[self.find_namespace(name)?].declarations.get(source)?;
                Some((Record::Namespace(declaration.value.clone()), declaration.revision))
            }
            Key::Service { namespace, name, source } => {
                let declaration = self.groups[self.find_group(namespace, Some(name))?].declarations.get(source)?;
                Some((Record::Service(declaration.value.unpack()), declaration.revision))
            }
            Key::Instance(key) => {
                let entry = &self.entries[self.find_instance(key)?];
                Some((Record::Instance(self.instance_of(entry)), entry.revision))
            }
            Key::Drain(key) => {
                let part = self.parts(key)?.drain.as_deref()?;
                Some((Record::Drain(part.to_drain()), part.revision))
            }
            Key::Check { instance, check } => {
                let parts = self.parts(instance)?;
                let (_, part) = &parts.checks[parts.check(check).ok()?];
                Some((Record::Check(part.to_check()), part.revision))
            }
            Key::Session { id } => {
                let stored = self.sessions.get(self.sessions.find(id)?).stored.as_deref()?;
                Some((Record::Session((*stored.value).clone()), stored.revision))
            }
            Key::Mark { source } => {
                let stored = self.marks.get(source)?;
                Some((Record::Mark(stored.value.clone()), stored.revision))
            }
        }
    }

    /// The revision of a record.
    pub fn revision_of(&self, key: &Key) -> Option<u64> {
        match key {
            Key::Namespace { name, source } => {
                Some(self.namespaces[self.find_namespace(name)?].declarations.get(source)?.revision)
            }
            Key::Service { namespace, name, source } => {
                Some(self.groups[self.find_group(namespace, Some(name))?].declarations.get(source)?.revision)
            }
            Key::Instance(key) => Some(self.entries[self.find_instance(key)?].revision),
            Key::Drain(key) => Some(self.parts(key)?.drain.as_ref()?.revision),
            Key::Check { instance, check } => {
                let parts = self.parts(instance)?;
                Some(parts.checks[parts.check(check).ok()?].1.revision)
            }
            Key::Session { id } => Some(self.sessions.get(self.sessions.find(id)?).stored.as_ref()?.revision),
            Key::Mark { source } => Some(self.marks.get(source)?.revision),
        }
    }

    /// The keys of the instance's checks and drain, whether or not the instance itself exists.
    pub fn parts_of(&self, key: &InstanceKey) -> Vec<Key> {
        self.parts(key).map(|parts| part_keys(key, parts)).unwrap_or_default()
    }

    fn parts(&self, key: &InstanceKey) -> Option<&Parts> {
        match self.find_instance(key) {
            Some(handle) => self.entries[handle].parts(),
            None => self.orphans.get(key),
        }
    }

    /// Every record with its revision: namespaces and services, instances each with its parts, parts without an
    /// instance, sessions, marks. Made one by one, as they are asked for.
    pub fn records(&self) -> impl Iterator<Item = (Key, Record, u64)> + '_ {
        let namespaces = || self.namespace_order.values().map(|&handle| &self.namespaces[handle]);
        let groups = move || namespaces().flat_map(|slot| slot.groups()).map(|handle| &self.groups[handle]);
        let of_namespaces = namespaces().flat_map(|slot| {
            slot.declarations.iter().map(|declaration| {
                let key = Key::Namespace { name: slot.name.clone(), source: declaration.source.clone() };
                (key, Record::Namespace(declaration.value.clone()), declaration.revision)
            })
        });
        let of_services = groups().flat_map(|group| {
            group.declarations.iter().filter_map(|declaration| {
                let namespace = self.namespaces[group.namespace].name.clone();
                let key = Key::Service { namespace, name: group.name.clone()?, source: declaration.source.clone() };
                Some((key, Record::Service(declaration.value.unpack()), declaration.revision))
            })
        });
        let of_instances = groups().flat_map(|group| group.order.iter()).flat_map(|handle| {
            let entry = &self.entries[handle];
            let key = self.key_of(handle);
            let parts = entry.parts().map(|parts| part_records(&key, parts)).unwrap_or_default();
            std::iter::once((Key::Instance(key), Record::Instance(self.instance_of(entry)), entry.revision))
                .chain(parts)
        });
        let of_orphans = self.orphans.iter().flat_map(|(key, parts)| part_records(key, parts));
        let of_sessions = self.sessions.handles().filter_map(|handle| {
            let slot = self.sessions.get(handle);
            let stored = slot.stored.as_deref()?;
            Some((Key::Session { id: slot.id.clone() }, Record::Session((*stored.value).clone()), stored.revision))
        });
        let of_marks = self.marks.iter().map(|(source, stored)| {
            (Key::Mark { source: source.clone() }, Record::Mark(stored.value.clone()), stored.revision)
        });
        of_namespaces.chain(of_services).chain(of_instances).chain(of_orphans).chain(of_sessions).chain(of_marks)
    }
}

pub(super) fn part_keys(key: &InstanceKey, parts: &Parts) -> Vec<Key> {
    part_records(key, parts).into_iter().map(|(key, _, _)| key).collect()
}

fn part_records(key: &InstanceKey, parts: &Parts) -> Vec<(Key, Record, u64)> {
    let drain = parts.drain.as_ref();
    let drain = drain.map(|part| (Key::Drain(key.clone()), Record::Drain(part.to_drain()), part.revision));
    let checks = parts.checks.iter().map(|(check, part)| {
        let key = Key::Check { instance: key.clone(), check: check.clone() };
        (key, Record::Check(part.to_check()), part.revision)
    });
    checks.chain(drain).collect()
}
