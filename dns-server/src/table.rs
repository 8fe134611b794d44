//! The names that exist, and the records at each of them.
//!
//! Names are spread over shards with a lock each; one writer changes them, any number of readers look one name up at a
//! time. A name exists while it has records, while something pins it (a zone's apex, a namespace, a service without
//! records), or while a name below it exists: so empty non-terminals are known, and answered with NODATA instead of
//! NXDOMAIN (RFC 8020, RFC 4592 §2.2.2).

use crate::name::{self, Name};
use crate::set::Set;
use crate::zones::Zones;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use parking_lot::RwLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Enough for the writer to be out of the readers' way on machines of any size, and few enough to stay in the cache.
const SHARDS: usize = 128;

/// An SRV record without its priority, which is always 0 (RFC 2782).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Srv {
    /// None: an equal share, known only when the answer is made.
    pub(crate) weight: Option<u16>,
    pub(crate) port: u16,
    pub(crate) target: Name,
}

/// What an address is called. A service whose own address it is speaks before all endpoints.
#[derive(Debug, Default)]
pub(crate) struct Pointers {
    pub(crate) services: Set<(Name, u32)>,
    pub(crate) endpoints: Set<(Name, u32)>,
}

/// A piece of an answer that an object of the catalog contributes to a name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Data {
    /// Nothing but the name's existence.
    Pin,
    A([u8; 4]),
    Aaaa([u8; 16]),
    Srv(Srv),
    Cname(Name),
    /// From an address to the service that owns it.
    PtrService(Name),
    /// From an address to an endpoint of a service.
    PtrEndpoint(Name),
}

/// A contribution, with the name that it is made to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Contribution {
    pub(crate) name: Name,
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}

/// What makes a name special.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Special {
    #[default]
    No,
    /// The top of a zone: has SOA and NS.
    Apex,
    /// `dns-version.<zone>`.
    Version,
}

/// All that is known of a name.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// Names directly below that exist.
    below: u32,
    pins: u32,
    pub(crate) ttl: u32,
    pub(crate) special: Special,
    pub(crate) a: Set<[u8; 4]>,
    pub(crate) aaaa: Option<Box<Set<[u8; 16]>>>,
    pub(crate) srv: Option<Box<Set<Srv>>>,
    pub(crate) cname: Option<Box<Set<Name>>>,
    pub(crate) ptr: Option<Box<Pointers>>,
}

fn insert<R: Eq + std::hash::Hash + Clone>(set: &mut Option<Box<Set<R>>>, record: &R) -> bool {
    set.get_or_insert_default().insert(record)
}

fn remove<R: Eq + std::hash::Hash + Clone>(set: &mut Option<Box<Set<R>>>, record: &R) -> bool {
    let Some(inner) = set else { return false };
    let gone = inner.remove(record);
    if inner.is_empty() {
        *set = None;
    }
    gone
}

impl Node {
    fn exists(&self) -> bool {
        self.below > 0 || self.pins > 0 || self.has_records()
    }

    /// Whether there is something to answer, beside the name's existence.
    pub(crate) fn has_records(&self) -> bool {
        self.special != Special::No
            || !self.a.is_empty()
            || self.aaaa.is_some()
            || self.srv.is_some()
            || self.cname.is_some()
            || self.ptr.is_some()
    }

    /// Adds; true where a record appeared.
    fn add(&mut self, data: &Data, ttl: u32) -> bool {
        // One name belongs to one service, so the last word on its TTL is the right one. Names of addresses may belong
        // to several: they keep a TTL with each record.
        self.ttl = ttl;
        match data {
            Data::Pin => {
                self.pins += 1;
                false
            }
            Data::A(address) => self.a.insert(address),
            Data::Aaaa(address) => insert(&mut self.aaaa, address),
            Data::Srv(srv) => insert(&mut self.srv, srv),
            Data::Cname(target) => insert(&mut self.cname, target),
            Data::PtrService(target) => self.ptr.get_or_insert_default().services.insert(&(target.clone(), ttl)),
            Data::PtrEndpoint(target) => self.ptr.get_or_insert_default().endpoints.insert(&(target.clone(), ttl)),
        }
    }

    /// Takes away; true where a record disappeared.
    fn take(&mut self, data: &Data, ttl: u32) -> bool {
        let gone = match data {
            Data::Pin => {
                self.pins = self.pins.saturating_sub(1);
                false
            }
            Data::A(address) => self.a.remove(address),
            Data::Aaaa(address) => remove(&mut self.aaaa, address),
            Data::Srv(srv) => remove(&mut self.srv, srv),
            Data::Cname(target) => remove(&mut self.cname, target),
            Data::PtrService(target) => {
                self.ptr.as_mut().is_some_and(|ptr| ptr.services.remove(&(target.clone(), ttl)))
            }
            Data::PtrEndpoint(target) => {
                self.ptr.as_mut().is_some_and(|ptr| ptr.endpoints.remove(&(target.clone(), ttl)))
            }
        };
        if self.ptr.as_ref().is_some_and(|ptr| ptr.services.is_empty() && ptr.endpoints.is_empty()) {
            self.ptr = None;
        }
        gone
    }
}

#[derive(Debug)]
struct Entry {
    name: Name,
    node: Node,
}

/// The table of all names.
#[derive(Debug)]
pub(crate) struct Table {
    hasher: ahash::RandomState,
    shards: Box<[RwLock<HashTable<Entry>>]>,
    names: AtomicU64,
    records: AtomicU64,
    /// Touches of a name by the writer: how tests see that a change's cost does not depend on a set's size.
    touches: AtomicU64,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            hasher: ahash::RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
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

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Entry>> {
        // The table itself uses the lowest and the highest bits.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Looks a lower-case name up, and gives what `read` makes of it. Nothing else may be looked up meanwhile: a reader
    /// that comes twice into one shard can wait for itself when the writer stands between.
    pub(crate) fn read<T>(&self, wire: &[u8], read: impl FnOnce(&Node) -> T) -> Option<T> {
        let hash = self.hasher.hash_one(wire);
        let shard = self.shard(hash).read();
        shard.find(hash, |entry| entry.name.wire() == wire).map(|entry| read(&entry.node))
    }

    /// Changes a name, which is made where it does not exist; true where it was made.
    fn change(&self, name: &Name, change: impl FnOnce(&mut Node)) -> bool {
        self.touches.fetch_add(1, Relaxed);
        let hash = self.hasher.hash_one(name.wire());
        let mut shard = self.shard(hash).write();
        let rehash = |entry: &Entry| self.hasher.hash_one(entry.name.wire());
        match shard.entry(hash, |entry| entry.name == *name, rehash) {
            Slot::Occupied(mut slot) => {
                change(&mut slot.get_mut().node);
                false
            }
            Slot::Vacant(slot) => {
                let mut node = Node::default();
                change(&mut node);
                slot.insert(Entry { name: name.clone(), node });
                self.names.fetch_add(1, Relaxed);
                true
            }
        }
    }

    /// Changes a name and forgets it where nothing makes it exist any longer; true then.
    fn release(&self, wire: &[u8], change: impl FnOnce(&mut Node)) -> bool {
        self.touches.fetch_add(1, Relaxed);
        let hash = self.hasher.hash_one(wire);
        let mut shard = self.shard(hash).write();
        let Ok(mut slot) = shard.find_entry(hash, |entry| entry.name.wire() == wire) else {
            return false;
        };
        change(&mut slot.get_mut().node);
        if slot.get().node.exists() {
            return false;
        }
        slot.remove();
        self.names.fetch_sub(1, Relaxed);
        true
    }

    /// Pins a name that is there for good.
    pub(crate) fn pin(&self, zones: &Zones, name: &Name, ttl: u32, special: Special) {
        self.insert(zones, &Contribution { name: name.clone(), ttl, data: Data::Pin });
        self.change(name, |node| node.special = special);
    }

    pub(crate) fn insert(&self, zones: &Zones, contribution: &Contribution) {
        let Contribution { name, ttl, data } = contribution;
        let mut appeared = false;
        let mut made = self.change(name, |node| appeared = node.add(data, *ttl));
        self.records.fetch_add(u64::from(appeared), Relaxed);
        let mut wire = name.wire();
        while made && let Some(above) = parent_in_zone(zones, wire) {
            made = self.change(&Name::from_wire(above), |node| node.below += 1);
            wire = above;
        }
    }

    pub(crate) fn remove(&self, zones: &Zones, contribution: &Contribution) {
        let Contribution { name, ttl, data } = contribution;
        let mut disappeared = false;
        let mut gone = self.release(name.wire(), |node| disappeared = node.take(data, *ttl));
        self.records.fetch_sub(u64::from(disappeared), Relaxed);
        let mut wire = name.wire();
        while gone && let Some(above) = parent_in_zone(zones, wire) {
            gone = self.release(above, |node| node.below = node.below.saturating_sub(1));
            wire = above;
        }
    }
}

/// The name above, unless it lies outside of our zones: those are not ours to say that they exist.
fn parent_in_zone<'a>(zones: &Zones, wire: &'a [u8]) -> Option<&'a [u8]> {
    let above = name::parent(wire)?;
    zones.find(above).map(|_| above)
}
