//! What is to be checked: the view of whoever runs the checks.

use super::Replica;
use super::entry::Marks;
use super::materialize::own_checks;
use crate::check::Check;
use crate::object::Port;
use crate::record::{InstanceKey, Key};
use std::net::IpAddr;
use std::sync::Arc;

/// An instance with the checks that are to be run on it.
#[derive(Clone, PartialEq, Debug)]
pub struct CheckedInstance {
    /// Which instance.
    pub key: InstanceKey,
    /// Where it is, in the declared order.
    pub addresses: Vec<IpAddr>,
    /// Its ports; where it has none of its own, its service's.
    pub ports: Vec<Port>,
    /// Its service's checks but for those of which it has its own of the same name, and its own.
    pub checks: Vec<Check>,
    /// The names under which it has results of checks that nobody declares (any more).
    pub stray: Vec<Arc<str>>,
}

impl Replica {
    /// One source's instance with its checks; none where it does not exist.
    pub fn checked_instance(&self, key: &InstanceKey) -> Option<CheckedInstance> {
        self.find_instance(key).map(|handle| self.checked(handle))
    }

    /// The instances that have checks, or results of checks, among the next `most` instances in an order of the
    /// replica's own, and where to go on. Whoever goes through all of them, letting go of the replica in between, sees
    /// each that stays.
    pub fn checked_instances(&self, from: u32, most: u32) -> (Vec<CheckedInstance>, Option<u32>) {
        let all = self.entries.handles();
        let end = from.saturating_add(most).min(all.end);
        let concerned = |&handle: &u32| {
            let entry = &self.entries[handle];
            // A place without a value is in no group, and has no mark.
            entry.marks.has(Marks::COUNTED)
                && (self.groups[entry.group].checks.is_some()
                    || !own_checks(entry).is_empty()
                    || entry.parts().is_some_and(|parts| !parts.checks.is_empty()))
        };
        let found = (from..end).filter(concerned).map(|handle| self.checked(handle)).collect();
        (found, (end < all.end).then_some(end))
    }

    /// Checks' results and drains whose instance does not exist, at most so many.
    pub fn orphaned_parts(&self, most: usize) -> Vec<Key> {
        self.orphans.keys().flat_map(|key| self.parts_of(key)).take(most).collect()
    }

    /// The keys of the instances of a service that exist.
    pub fn instance_keys_of_service(&self, namespace: &str, service: &str) -> Vec<InstanceKey> {
        let group = self.find_group(namespace, Some(service)).map(|handle| &self.groups[handle]);
        group.into_iter().flat_map(|group| group.order.iter()).map(|handle| self.key_of(handle)).collect()
    }

    fn checked(&self, handle: u32) -> CheckedInstance {
        let entry = &self.entries[handle];
        let group = &self.groups[entry.group];
        let checks: Vec<Check> = self.checks_of(entry).cloned().collect();
        let results = entry.parts().map_or(&[][..], |parts| &parts.checks);
        let stray =
            results.iter().map(|(name, _)| name).filter(|name| checks.iter().all(|check| *check.name != ***name));
        let declared = || group.declarations.first();
        let service_ports = || declared().map(|declaration| declaration.value.unpack().ports).unwrap_or_default();
        CheckedInstance {
            key: self.key_of(handle),
            addresses: entry.addresses().iter().map(|&handle| self.addresses.address(handle)).collect(),
            ports: self.ports.get(entry.ports).map_or_else(service_ports, <[_]>::to_vec),
            stray: stray.cloned().collect(),
            checks,
        }
    }
}
