//! The names that exist, and the records at each of them.
//!
//! Names are spread over shards with a lock each; one writer changes them, any number of readers look one name up at a
//! time. A name exists while it has records, while something pins it (a zone's apex, a namespace, a service without
//! records), or while a name below it exists: so empty non-terminals are known, and answered with NODATA instead of
//! NXDOMAIN (RFC 8020, RFC 4592 §2.2.2).
//!
//! Most endpoints have no entry under their name. It is made from their address and their service's name, and the entry
//! under which the address is looked up backwards knows that service: whether `10-0-0-1.web.prod.svc.<zone>` exists is
//! read there. Likewise the names of the ports of a service with an address of its own, such as
//! `_http._tcp.web.prod.svc.<zone>`, are read at the service.

use crate::name::{self, Name};
use crate::node::{Node, Special};
use crate::record::{Contribution, Data, Place};
use crate::view::View;
use crate::zones::Zones;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use parking_lot::RwLock;
use std::borrow::Borrow;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Enough for the writer to be out of the readers' way on machines of any size, and few enough to stay in the cache.
const SHARDS: usize = 128;

#[derive(Debug)]
struct Entry<K> {
    key: K,
    node: Node,
}

/// Names by some form of them, in shards.
#[derive(Debug)]
struct Shards<K> {
    hasher: ahash::RandomState,
    shards: Box<[RwLock<HashTable<Entry<K>>>]>,
}

impl<K: Eq + Hash> Shards<K> {
    fn new() -> Self {
        Self { hasher: ahash::RandomState::new(), shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Entry<K>>> {
        // The table itself uses the lowest and the highest bits.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn read<Q: Eq + Hash + ?Sized, T>(&self, key: &Q, read: impl FnOnce(&Node) -> T) -> Option<T>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash).read();
        shard.find(hash, |entry| entry.key.borrow() == key).map(|entry| read(&entry.node))
    }

    /// Changes a name, which is made where it does not exist; true where it was made.
    fn change<Q: Eq + Hash + ?Sized>(&self, key: &Q, own: impl FnOnce() -> K, change: impl FnOnce(&mut Node)) -> bool
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash).write();
        match shard.entry(hash, |entry| entry.key.borrow() == key, |entry| self.hasher.hash_one(&entry.key)) {
            Slot::Occupied(mut slot) => {
                change(&mut slot.get_mut().node);
                false
            }
            Slot::Vacant(slot) => {
                let mut node = Node::default();
                change(&mut node);
                slot.insert(Entry { key: own(), node });
                true
            }
        }
    }

    /// Changes a name and forgets it where nothing makes it exist any longer; true then.
    fn release<Q: Eq + Hash + ?Sized>(&self, key: &Q, change: impl FnOnce(&mut Node)) -> bool
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash).write();
        let Ok(mut slot) = shard.find_entry(hash, |entry| entry.key.borrow() == key) else {
            return false;
        };
        change(&mut slot.get_mut().node);
        if slot.get().node.exists() {
            return false;
        }
        slot.remove();
        true
    }
}

/// The table of all names. Those of addresses are found by the address, which is a fraction of its name in size.
#[derive(Debug)]
pub(crate) struct Table {
    named: Shards<Name>,
    v4: Shards<[u8; 4]>,
    v6: Shards<[u8; 16]>,
    /// Names with an entry that look like an address' dashed form: as long as there is none, an endpoint that is called
    /// so has no other records.
    lookalikes: AtomicU64,
    /// How often something was taken away that may be found in another place now.
    moves: AtomicU64,
    names: AtomicU64,
    records: AtomicU64,
    /// Touches of a name by the writer: how tests see that a change's cost does not depend on a set's size.
    touches: AtomicU64,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            named: Shards::new(),
            v4: Shards::new(),
            v6: Shards::new(),
            lookalikes: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            names: AtomicU64::new(0),
            records: AtomicU64::new(0),
            touches: AtomicU64::new(0),
        }
    }

    pub(crate) fn names(&self) -> u64 {
        self.names.load(Relaxed)
    }

    pub(crate) fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    pub(crate) fn touches(&self) -> u64 {
        self.touches.load(Relaxed)
    }

    /// Looks a lower-case name up, and gives what `read` makes of it, which is called once. Nothing else may be looked up
    /// meanwhile: a reader that comes twice into one shard can wait for itself when the writer stands between.
    pub(crate) fn read<T>(&self, wire: &[u8], mut read: impl FnMut(View<'_>) -> T) -> Option<T> {
        if let Some(address) = name::reverse_address(wire) {
            return self.at_address(address, |node| read(View::Kept { node, reversed: Some(address) }));
        }
        let label = name::first_label(wire);
        if label.first() == Some(&b'_') {
            return self.settled(|| self.read_entry(wire, &mut read).or_else(|| self.read_port(wire, &mut read)));
        }
        match name::dashed_address(label) {
            None => self.read_entry(wire, &mut read),
            Some(address) => self.settled(|| self.read_dashed(wire, address, &mut read)),
        }
    }

    /// Looks in two places. What was in neither is looked up again where the writer may have taken it from the one to the
    /// other in between.
    fn settled<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let before = self.moves.load(Acquire);
        look().or_else(|| (self.moves.load(Acquire) != before).then(look).flatten())
    }

    fn read_entry<T>(&self, wire: &[u8], read: &mut impl FnMut(View<'_>) -> T) -> Option<T> {
        self.named.read(wire, |node| read(View::Kept { node, reversed: None }))
    }

    /// Looks up a name that may be an endpoint's, made from this address.
    fn read_dashed<T>(&self, wire: &[u8], address: IpAddr, read: &mut impl FnMut(View<'_>) -> T) -> Option<T> {
        let dashed = self.dashed(wire, address);
        if let Some(ttl) = dashed
            && self.lookalikes.load(Acquire) == 0
        {
            return Some(read(View::said(address, ttl)));
        }
        let entry = self.named.read(wire, |node| {
            // Another endpoint of this service bears the name as a hostname.
            let both = dashed.map(|ttl| node.with(ttl, address));
            read(View::Kept { node: both.as_ref().unwrap_or(node), reversed: None })
        });
        entry.or_else(|| dashed.map(|ttl| read(View::said(address, ttl))))
    }

    /// Looks up a name that may be a port's of a service, or the one above that.
    fn read_port<T>(&self, wire: &[u8], read: &mut impl FnMut(View<'_>) -> T) -> Option<T> {
        let (label, above) = (name::first_label(wire), name::parent(wire)?);
        let protocol = name::first_label(above);
        if protocol.first() != Some(&b'_') {
            let found = |node: &Node| node.ports().iter().any(|port| port.speaks(label)).then(|| read(View::Bare));
            return self.named.read(above, found).flatten();
        }
        let service = name::parent(above)?;
        let found = |node: &Node| {
            let srv = node.srv_of(service, label, protocol)?;
            Some(read(View::Srv { ttl: node.ttl(), srv }))
        };
        self.named.read(service, found).flatten()
    }

    /// The TTL of the endpoint that has this address and is called by it, if there is one of this name.
    fn dashed(&self, wire: &[u8], address: IpAddr) -> Option<u32> {
        let service = name::parent(wire)?;
        self.at_address(address, |node| node.dashed_below(service)).flatten()
    }

    fn at_address<T>(&self, address: IpAddr, read: impl FnOnce(&Node) -> T) -> Option<T> {
        match address {
            IpAddr::V4(v4) => self.v4.read(&v4.octets(), read),
            IpAddr::V6(v6) => self.v6.read(&v6.octets(), read),
        }
    }

    fn change(&self, place: &Place, change: impl FnOnce(&mut Node)) -> bool {
        let made = match place {
            Place::Name(name) => self.named.change(name, || name.clone(), change),
            Place::Address(IpAddr::V4(v4)) => self.v4.change(&v4.octets(), || v4.octets(), change),
            Place::Address(IpAddr::V6(v6)) => self.v6.change(&v6.octets(), || v6.octets(), change),
        };
        self.touches.fetch_add(1, Relaxed);
        self.names.fetch_add(u64::from(made), Relaxed);
        made
    }

    fn release(&self, place: &Place, change: impl FnOnce(&mut Node)) -> bool {
        let gone = match place {
            Place::Name(name) => self.named.release(name, change),
            Place::Address(IpAddr::V4(v4)) => self.v4.release(&v4.octets(), change),
            Place::Address(IpAddr::V6(v6)) => self.v6.release(&v6.octets(), change),
        };
        self.touches.fetch_add(1, Relaxed);
        self.names.fetch_sub(u64::from(gone), Relaxed);
        gone
    }

    /// Pins a name that is there for good.
    pub(crate) fn pin(&self, zones: &Zones, name: &Name, ttl: u32, special: Special) {
        let place = Place::from(name);
        self.insert(zones, &Contribution { place: place.clone(), ttl, data: Data::Pin });
        self.change(&place, |node| node.mark(special));
    }

    pub(crate) fn insert(&self, zones: &Zones, contribution: &Contribution) {
        let Contribution { place, ttl, data } = contribution;
        // Before the entry is there: who finds that there is none relies on it.
        self.lookalikes.fetch_add(u64::from(looks_dashed(place)), Release);
        let (mut records, mut names) = (0, 0);
        let made = self.change(place, |node| {
            if node.add(data, *ttl) {
                (records, names) = (data.records(), node.names_of(data));
            }
        });
        self.records.fetch_add(records, Relaxed);
        self.names.fetch_add(names, Relaxed);
        if !made {
            return;
        }
        above(zones, place, |wire| {
            self.touches.fetch_add(1, Relaxed);
            let made = self.named.change(wire, || Name::from_wire(wire), |node| node.change_below(|n| n + 1));
            self.names.fetch_add(u64::from(made), Relaxed);
            made
        });
    }

    pub(crate) fn remove(&self, zones: &Zones, contribution: &Contribution) {
        let Contribution { place, ttl, data } = contribution;
        let alike = looks_dashed(place);
        if alike || matches!(data, Data::Port(_)) {
            // Before it is gone: who misses it relies on it.
            self.moves.fetch_add(1, Release);
        }
        let (mut records, mut names) = (0, 0);
        let gone = self.release(place, |node| {
            let alone = node.names_of(data);
            if node.take(data, *ttl) {
                (records, names) = (data.records(), alone);
            }
        });
        self.lookalikes.fetch_sub(u64::from(alike), Release);
        self.records.fetch_sub(records, Relaxed);
        self.names.fetch_sub(names, Relaxed);
        if !gone {
            return;
        }
        above(zones, place, |wire| {
            self.touches.fetch_add(1, Relaxed);
            let gone = self.named.release(wire, |node| node.change_below(|n| n.saturating_sub(1)));
            self.names.fetch_sub(u64::from(gone), Relaxed);
            gone
        });
    }
}

/// Whether a name could be taken for an endpoint's that is made from its address.
fn looks_dashed(place: &Place) -> bool {
    match place {
        Place::Name(name) => name::dashed_address(name::first_label(name.wire())).is_some(),
        Place::Address(_) => false,
    }
}

/// Visits the names above, the nearest first, for as long as `visit` says so. None of them is that of an address.
fn above(zones: &Zones, place: &Place, mut visit: impl FnMut(&[u8]) -> bool) {
    let reverse;
    let mut wire = match place {
        Place::Name(name) => name.wire(),
        Place::Address(address) => {
            reverse = name::reverse(*address);
            &reverse
        }
    };
    while let Some(above) = parent_in_zone(zones, wire)
        && visit(above)
    {
        wire = above;
    }
}

/// The name above, unless it lies outside of our zones: those are not ours to say that they exist.
fn parent_in_zone<'a>(zones: &Zones, wire: &'a [u8]) -> Option<&'a [u8]> {
    let above = name::parent(wire)?;
    zones.find(above).map(|_| above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_small() {
        assert_eq!(size_of::<Entry<Name>>(), 24);
        assert_eq!(size_of::<Entry<[u8; 4]>>(), 24);
        assert_eq!(size_of::<Entry<[u8; 16]>>(), 32);
    }
}
