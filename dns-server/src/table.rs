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
use std::borrow::Borrow;
use std::hash::Hash;
use std::net::IpAddr;
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

/// Where a contribution is made to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Name(Name),
    /// The name under which the address is looked up backwards.
    Address(IpAddr),
}

impl From<&Name> for Place {
    fn from(name: &Name) -> Self {
        name::reverse_address(name.wire()).map_or_else(|| Place::Name(name.clone()), Place::Address)
    }
}

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        Place::Address(address)
    }
}

/// A contribution, with the name that it is made to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Contribution {
    pub(crate) place: Place,
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

/// All that is known of a name. Most names have one record, or only names below them: those take little.
#[derive(Debug)]
pub(crate) enum Node {
    /// No record.
    Bare {
        /// Names directly below that exist.
        below: u32,
    },
    /// One address with one contributor.
    A { ttl: u32, address: [u8; 4] },
    /// The same, of version 6.
    Aaaa { ttl: u32, address: [u8; 16] },
    /// One of each version.
    Both(Box<Both>),
    /// One pointer to an endpoint, with one contributor.
    Endpoint { ttl: u32, target: Name },
    /// Anything.
    Rich(Box<Records>),
}

/// The addresses of one endpoint.
#[derive(Debug)]
pub(crate) struct Both {
    ttl: u32,
    a: [u8; 4],
    aaaa: [u8; 16],
}

/// Records of any number and kind.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Names directly below that exist.
    below: u32,
    pins: u32,
    ttl: u32,
    special: Special,
    a: Set<[u8; 4]>,
    aaaa: Option<Box<Set<[u8; 16]>>>,
    srv: Option<Box<Set<Srv>>>,
    cname: Option<Box<Set<Name>>>,
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

impl Default for Node {
    fn default() -> Self {
        Node::Bare { below: 0 }
    }
}

impl Node {
    fn exists(&self) -> bool {
        match self {
            Node::Bare { below } => *below > 0,
            Node::Rich(records) => records.below > 0 || records.pins > 0 || records.has_any(),
            _ => true,
        }
    }

    /// Whether there is something to answer, beside the name's existence.
    pub(crate) fn has_records(&self) -> bool {
        match self {
            Node::Bare { .. } => false,
            Node::Rich(records) => records.has_any(),
            _ => true,
        }
    }

    pub(crate) fn ttl(&self) -> u32 {
        match self {
            Node::Bare { .. } => 0,
            Node::A { ttl, .. } | Node::Aaaa { ttl, .. } | Node::Endpoint { ttl, .. } => *ttl,
            Node::Both(both) => both.ttl,
            Node::Rich(records) => records.ttl,
        }
    }

    pub(crate) fn a(&self) -> &[[u8; 4]] {
        match self {
            Node::A { address, .. } => std::slice::from_ref(address),
            Node::Both(both) => std::slice::from_ref(&both.a),
            Node::Rich(records) => records.a.items(),
            _ => &[],
        }
    }

    pub(crate) fn aaaa(&self) -> &[[u8; 16]] {
        match self {
            Node::Aaaa { address, .. } => std::slice::from_ref(address),
            Node::Both(both) => std::slice::from_ref(&both.aaaa),
            Node::Rich(records) => records.aaaa.as_ref().map(|set| set.items()).unwrap_or_default(),
            _ => &[],
        }
    }

    pub(crate) fn srv(&self) -> &[Srv] {
        match self {
            Node::Rich(records) => records.srv.as_ref().map(|set| set.items()).unwrap_or_default(),
            _ => &[],
        }
    }

    pub(crate) fn cname(&self) -> Option<&Name> {
        match self {
            Node::Rich(records) => records.cname.as_ref().and_then(|set| set.items().last()),
            _ => None,
        }
    }

    pub(crate) fn special(&self) -> Special {
        match self {
            Node::Rich(records) => records.special,
            _ => Special::No,
        }
    }

    /// Its records in the form that holds any.
    fn into_records(self) -> Box<Records> {
        let (ttl, data) = match self {
            Node::Rich(records) => return records,
            Node::Bare { below } => return Box::new(Records { below, ..Records::default() }),
            Node::A { ttl, address } => (ttl, [Some(Data::A(address)), None]),
            Node::Aaaa { ttl, address } => (ttl, [Some(Data::Aaaa(address)), None]),
            Node::Both(both) => (both.ttl, [Some(Data::A(both.a)), Some(Data::Aaaa(both.aaaa))]),
            Node::Endpoint { ttl, target } => (ttl, [Some(Data::PtrEndpoint(target)), None]),
        };
        let mut records = Box::<Records>::default();
        for data in data.iter().flatten() {
            records.add(data, ttl);
        }
        records
    }

    /// Changes its records, and keeps them in the smallest form that holds them.
    fn change<T>(&mut self, change: impl FnOnce(&mut Records) -> T) -> T {
        let mut records = std::mem::take(self).into_records();
        let changed = change(&mut records);
        *self = records.simple().unwrap_or(Node::Rich(records));
        changed
    }

    /// Changes how many names directly below exist.
    fn change_below(&mut self, change: impl FnOnce(u32) -> u32) {
        match self {
            Node::Bare { below } => *below = change(*below),
            _ => self.change(|records| records.below = change(records.below)),
        }
    }

    /// Adds; true where a record appeared.
    fn add(&mut self, data: &Data, ttl: u32) -> bool {
        let simple = match (&*self, data) {
            (Node::Bare { below: 0 }, Data::A(address)) => Node::A { ttl, address: *address },
            (Node::Bare { below: 0 }, Data::Aaaa(address)) => Node::Aaaa { ttl, address: *address },
            (Node::Bare { below: 0 }, Data::PtrEndpoint(target)) => Node::Endpoint { ttl, target: target.clone() },
            (&Node::A { address: a, .. }, &Data::Aaaa(aaaa)) | (&Node::Aaaa { address: aaaa, .. }, &Data::A(a)) => {
                Node::Both(Box::new(Both { ttl, a, aaaa }))
            }
            _ => return self.change(|records| records.add(data, ttl)),
        };
        *self = simple;
        true
    }

    /// Takes away; true where a record disappeared.
    fn take(&mut self, data: &Data, ttl: u32) -> bool {
        let simple = match (&*self, data) {
            (Node::A { address, .. }, Data::A(gone)) if address == gone => Node::default(),
            (Node::Aaaa { address, .. }, Data::Aaaa(gone)) if address == gone => Node::default(),
            (Node::Both(both), Data::A(gone)) if both.a == *gone => Node::Aaaa { ttl: both.ttl, address: both.aaaa },
            (Node::Both(both), Data::Aaaa(gone)) if both.aaaa == *gone => Node::A { ttl: both.ttl, address: both.a },
            (Node::Endpoint { ttl: held, target }, Data::PtrEndpoint(gone)) if target == gone && *held == ttl => {
                Node::default()
            }
            _ => return self.change(|records| records.take(data, ttl)),
        };
        *self = simple;
        true
    }
}

impl Records {
    fn has_any(&self) -> bool {
        self.special != Special::No
            || !self.a.is_empty()
            || self.aaaa.is_some()
            || self.srv.is_some()
            || self.cname.is_some()
            || self.ptr.is_some()
    }

    /// The same in a smaller form, where there is one.
    fn simple(&self) -> Option<Node> {
        if self.pins > 0 || self.special != Special::No || self.srv.is_some() || self.cname.is_some() {
            return None;
        }
        let ttl = self.ttl;
        match (self.a.items(), &self.aaaa, &self.ptr) {
            ([], None, None) => Some(Node::Bare { below: self.below }),
            _ if self.below > 0 => None,
            (_, None, None) => self.a.single().map(|&address| Node::A { ttl, address }),
            ([], Some(set), None) => set.single().map(|&address| Node::Aaaa { ttl, address }),
            (_, Some(set), None) => {
                let (&a, &aaaa) = (self.a.single()?, set.single()?);
                Some(Node::Both(Box::new(Both { ttl, a, aaaa })))
            }
            ([], None, Some(pointers)) if pointers.services.is_empty() => {
                pointers.endpoints.single().map(|(target, ttl)| Node::Endpoint { ttl: *ttl, target: target.clone() })
            }
            _ => None,
        }
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

    /// Looks a lower-case name up, and gives what `read` makes of it. Nothing else may be looked up meanwhile: a reader
    /// that comes twice into one shard can wait for itself when the writer stands between.
    pub(crate) fn read<T>(&self, wire: &[u8], read: impl FnOnce(&Node) -> T) -> Option<T> {
        match name::reverse_address(wire) {
            None => self.named.read(wire, read),
            Some(IpAddr::V4(v4)) => self.v4.read(&v4.octets(), read),
            Some(IpAddr::V6(v6)) => self.v6.read(&v6.octets(), read),
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
        self.change(&place, |node| node.change(|records| records.special = special));
    }

    pub(crate) fn insert(&self, zones: &Zones, contribution: &Contribution) {
        let Contribution { place, ttl, data } = contribution;
        let mut appeared = false;
        let made = self.change(place, |node| appeared = node.add(data, *ttl));
        self.records.fetch_add(u64::from(appeared), Relaxed);
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
        let mut disappeared = false;
        let gone = self.release(place, |node| disappeared = node.take(data, *ttl));
        self.records.fetch_sub(u64::from(disappeared), Relaxed);
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
    use proptest::prelude::*;

    #[test]
    fn entries_stay_small() {
        assert!(size_of::<Entry<Name>>() <= 40);
        assert!(size_of::<Entry<[u8; 4]>>() <= 32);
        assert!(size_of::<Entry<[u8; 16]>>() <= 40);
    }

    fn data() -> impl Strategy<Value = Data> {
        let name = |text: &str| Name::from_text(text).unwrap();
        proptest::sample::select(vec![
            Data::Pin,
            Data::A([10, 0, 0, 1]),
            Data::A([10, 0, 0, 2]),
            Data::Aaaa([1; 16]),
            Data::Aaaa([2; 16]),
            Data::Srv(Srv { weight: None, port: 80, target: name("a.b") }),
            Data::Cname(name("a.b")),
            Data::PtrService(name("b")),
            Data::PtrEndpoint(name("a.b")),
            Data::PtrEndpoint(name("c.b")),
        ])
    }

    proptest! {
        /// Whatever there was meanwhile, what is left decides about the form: nothing large stays behind.
        #[test]
        fn the_smallest_form_comes_back(
            first in data(),
            others in proptest::collection::vec(data(), 0..8),
            below: bool,
        ) {
            let mut node = Node::default();
            prop_assert_eq!(node.add(&first, 5), first != Data::Pin);
            let small = std::mem::discriminant(&node);
            for other in &others {
                node.add(other, 5);
            }
            node.change_below(|n| n + u32::from(below));
            node.change_below(|n| n - u32::from(below));
            for other in &others {
                node.take(other, 5);
            }
            prop_assert_eq!(std::mem::discriminant(&node), small);
            prop_assert_eq!(node.has_records(), first != Data::Pin);
            prop_assert!(node.exists());
            node.take(&first, 5);
            prop_assert!(!node.exists());
            prop_assert_eq!(std::mem::discriminant(&node), std::mem::discriminant(&Node::default()));
        }
    }
}
