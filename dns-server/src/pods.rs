//! Names of pods by their address: `10-1-2-3.prod.pod.<zone>`, and `fd00--1.prod.pod.<zone>`.
//!
//! They are no records of the table. The name says the address already, so the answer is made when the query comes, and
//! all forms of an address mean the same; what is kept, and only where it is asked for ([`Pods::Verified`]), is which
//! addresses of which namespaces are a pod's. A name that the table has goes first: there is room for other names of pods
//! beside these.
//!
//! [`Pods::Verified`]: crate::Pods::Verified

use fingerpost_catalog::{InstanceView, SourceKind};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use parking_lot::RwLock;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The address that a lower-case label stands for: with exactly three dashes, none beside another, those are dots; else
/// they are colons. That is CoreDNS' rule.
pub(crate) fn address(label: &[u8]) -> Option<IpAddr> {
    // Dots and colons can stand in a label, too: they are not what is meant.
    if !label.iter().all(|&c| c == b'-' || c.is_ascii_hexdigit()) {
        return None;
    }
    let dashes = label.iter().filter(|&&c| c == b'-').count();
    let double = label.windows(2).any(|pair| pair == b"--");
    let with = |dot: u8| label.iter().map(|&c| char::from(if c == b'-' { dot } else { c })).collect::<String>();
    if dashes == 3 && !double {
        with(b'.').parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    } else {
        with(b':').parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    }
}

/// The addresses that are a pod's, of an instance; none where it is not one.
///
/// What belongs to no service and comes from Kubernetes or a CNI plugin is a pod. Anything else is one where it says so:
/// an endpoint of a service may as well be a machine elsewhere. A pod on its way out has left its name already, as with
/// CoreDNS; whether it is ready does not matter, and neither does whose record speaks for the address.
pub(crate) fn addresses(view: &InstanceView) -> &[IpAddr] {
    let from_node = view.key.service.is_none() && view.key.source.kind() != SourceKind::Api;
    let is_pod = from_node || view.instance.pod.is_some();
    let leaves = view.instance.conditions.terminating == Some(true);
    if is_pod && !leaves { &view.instance.addresses } else { &[] }
}

/// Which addresses are a pod's in which namespace, each with the number of instances that say so.
#[derive(Debug, Default)]
pub(crate) struct KnownPods {
    hasher: ahash::RandomState,
    held: RwLock<HashTable<Held>>,
}

#[derive(Debug)]
struct Held {
    /// Shared with the replica.
    namespace: Arc<str>,
    address: IpAddr,
    count: u32,
}

impl KnownPods {
    fn hash(&self, namespace: &[u8], address: IpAddr) -> u64 {
        self.hasher.hash_one((namespace, address))
    }

    pub(crate) fn holds(&self, namespace: &[u8], address: IpAddr) -> bool {
        let hash = self.hash(namespace, address);
        let is = |held: &Held| held.namespace.as_bytes() == namespace && held.address == address;
        self.held.read().find(hash, is).is_some()
    }

    pub(crate) fn add(&self, namespace: &Arc<str>, addresses: &[IpAddr]) {
        for &address in addresses {
            let hash = self.hash(namespace.as_bytes(), address);
            let is = |held: &Held| held.namespace == *namespace && held.address == address;
            let rehash = |held: &Held| self.hash(held.namespace.as_bytes(), held.address);
            match self.held.write().entry(hash, is, rehash) {
                Slot::Occupied(mut slot) => slot.get_mut().count += 1,
                Slot::Vacant(slot) => drop(slot.insert(Held { namespace: namespace.clone(), address, count: 1 })),
            }
        }
    }

    pub(crate) fn take(&self, namespace: &Arc<str>, addresses: &[IpAddr]) {
        for &address in addresses {
            let hash = self.hash(namespace.as_bytes(), address);
            let is = |held: &Held| held.namespace == *namespace && held.address == address;
            if let Ok(mut slot) = self.held.write().find_entry(hash, is) {
                slot.get_mut().count -= 1;
                if slot.get().count == 0 {
                    slot.remove();
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.read().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_addresses() {
        for (label, expected) in [
            ("10-1-2-3", "10.1.2.3"),
            ("255-255-255-255", "255.255.255.255"),
            ("fd00--1", "fd00::1"),
            ("fd00--0", "fd00::"),
            ("fd00--", "fd00::"),
            ("--1", "::1"),
            ("fd00-0-0-0-0-0-0-1", "fd00::1"),
            ("1-2-3--", "1:2:3::"),
        ] {
            assert_eq!(address(label.as_bytes()), Some(expected.parse().unwrap()), "{label}");
        }
        for label in
            ["", "-", "10-1-2", "10-1-2-256", "01-2-3-4", "a-b-c-d", "10.1.2.3", "fd00::1", "web-0", "1-2-3-4-5"]
        {
            assert_eq!(address(label.as_bytes()), None, "{label}");
        }
    }
}
