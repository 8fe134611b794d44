//! The index: all answers, compiled when the catalog changes.
//!
//! One writer follows the catalog's effects, after several threads have filled it; any number of threads answer from it
//! meanwhile. The index keeps, for each service and its instances, what their records are made from, so that it can take
//! away exactly what it once added. A change of one instance touches only that instance's records, however many siblings it
//! has; only what changes all of them at once (a service's type, ports or TTL, or `allCritical: all` setting in and
//! ending) costs the whole service.
//!
//! A position becomes visible record by record: all of its additions first, then all of its removals, so that a name does not
//! vanish between the two sides of a change, nor where one object gives it up and another takes it over. [`Index::position`] moves when all of it is in place.

use crate::compile::{Compiler, Contributions, Shape};
use crate::config::{Config, ConfigError, Pods};
use crate::dense::Dense;
use crate::known::{Id, Known};
use crate::name::{self, Name};
use crate::node::Special;
use crate::pods::{self, KnownPods};
use crate::record::{Contribution, Data, Place};
use crate::table::Table;
use crate::zones::Zones;
use fingerpost_catalog::{
    AllCritical, Effects, InstanceKey, InstanceView, NamespaceView, Position, ServiceView, ViewChange,
};
use hashbrown::hash_table::Entry as Slot;
use hashbrown::{HashSet, HashTable};
use parking_lot::{Mutex, MutexGuard};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// All answers.
#[derive(Debug)]
pub struct Index {
    pub(crate) config: Config,
    pub(crate) zones: Zones,
    pub(crate) table: Table,
    pub(crate) name_server: Name,
    compiler: Compiler,
    pods: KnownPods,
    namespaces: Mutex<HashSet<Arc<str>, ahash::RandomState>>,
    /// What is known of the services, by the hash of their names: so that the initial fill can use several threads.
    stripes: Box<[Mutex<Stripe>]>,
    hasher: ahash::RandomState,
    synced: AtomicBool,
    serial: AtomicU32,
    position: watch::Sender<Option<Position>>,
    heard: Mutex<Instant>,
}

/// Far more than there are threads that fill.
const STRIPES: usize = 64;

/// What is known of some of the services.
#[derive(Debug, Default)]
struct Stripe {
    /// Boxed, because up to half of the table's slots are empty.
    services: HashTable<Box<ServiceState>>,
    instances: usize,
}

#[derive(Debug)]
struct ServiceState {
    /// Its namespace and its own name, shared with the replica.
    namespace: Arc<str>,
    name: Arc<str>,
    /// The name in DNS that its records share; none where it does not fit (a zone of unusual length).
    wire: Option<Name>,
    /// None before the service is known, and after it is gone: its instances contribute nothing then.
    shape: Option<Shape>,
    instances: Dense<Known>,
    /// Instances that are answerable and have an address to answer.
    answerable: u32,
}

impl ServiceState {
    fn is(&self, namespace: &str, name: &str) -> bool {
        (&*self.namespace, &*self.name) == (namespace, name)
    }

    /// Whether `allCritical: all` brings the critical instances back.
    fn panics(&self) -> bool {
        self.answerable == 0 && self.shape.as_ref().is_some_and(|shape| shape.all_critical == AllCritical::All)
    }

    fn is_empty(&self) -> bool {
        self.shape.is_none() && self.instances.is_empty()
    }
}

/// How much there is in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexStats {
    /// Names that exist, empty non-terminals included.
    pub names: u64,
    /// Records that can be answered, without SOA, NS and TXT.
    pub records: u64,
    /// Namespaces.
    pub namespaces: usize,
    /// Services.
    pub services: usize,
    /// Instances of services, answered or not.
    pub instances: usize,
    /// Addresses that are known to be a pod's; counted only where that matters ([`Pods::Verified`]).
    pub pods: usize,
}

impl Index {
    /// An index without content, not synced: it answers SERVFAIL to everything in its zones.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check_aliases()?;
        let too_long = || ConfigError::TooLong(config.zone.clone());
        let zone = config.zone.0.clone();
        let compiler = Compiler::new(&config).ok_or_else(too_long)?;
        let name_server = zone.below(&[b"ns", b"dns"]).ok_or_else(too_long)?;
        let version = zone.child(b"dns-version").ok_or_else(too_long)?;
        let index = Self {
            zones: Zones::new(&config),
            table: Table::new(),
            name_server,
            compiler,
            pods: KnownPods::default(),
            namespaces: Mutex::default(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: ahash::RandomState::new(),
            synced: AtomicBool::new(false),
            serial: AtomicU32::new(0),
            position: watch::Sender::new(None),
            heard: Mutex::new(Instant::now()),
            config,
        };
        let (table, zones) = (&index.table, &index.zones);
        for apex in std::iter::once(&zone).chain(zones.reverse()) {
            table.pin(zones, apex, index.config.ttl, Special::Apex);
        }
        table.pin(zones, &version, crate::encode::VERSION_TTL, Special::Version);
        for name in [index.compiler.services(), index.compiler.pods()] {
            table.pin(zones, name, index.config.ttl, Special::No);
        }
        for address in index.config.name_server_addresses() {
            let place = Place::from(&index.name_server);
            table.insert(zones, &Contribution { place, ttl: index.config.ttl, data: Data::from(address) });
        }
        Ok(index)
    }

    /// What it was made for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Follows one position. Effects must come in order, from one place at a time.
    pub fn apply(&self, effects: &Effects) {
        let mut gone = Vec::new();
        for change in &effects.changes {
            match change {
                ViewChange::Namespace { before, after } => {
                    let name = after.as_ref().or(before.as_ref()).map(|view| view.name.clone());
                    if let Some(name) = name {
                        self.namespace(name, after.is_some(), &mut gone);
                    }
                }
                ViewChange::Service { before, after } => {
                    let Some(view) = after.as_ref().or(before.as_ref()) else {
                        continue;
                    };
                    self.service(&view.namespace, &view.name, after.as_deref().map(Shape::of), &mut gone);
                }
                ViewChange::Instance { before, after } => {
                    self.pod(before.as_deref(), after.as_deref());
                    if let Some(view) = after.as_ref().or(before.as_ref()) {
                        self.instance(&view.key, after.as_deref(), &mut gone);
                    }
                }
            }
        }
        self.take(&gone);
        self.reached(effects.position);
    }

    /// Takes a namespace in: the initial fill. Same as a change that makes it.
    pub fn load_namespace(&self, view: &NamespaceView) {
        self.filled(|gone| self.namespace(view.name.clone(), true, gone));
    }

    /// Takes a service in: the initial fill. Its instances may come before or after it.
    pub fn load_service(&self, view: &ServiceView) {
        self.filled(|gone| self.service(&view.namespace, &view.name, Some(Shape::of(view)), gone));
    }

    /// Takes an instance in: the initial fill. Several threads may do this at a time.
    pub fn load_instance(&self, view: Arc<InstanceView>) {
        self.pod(None, Some(&view));
        self.filled(|gone| self.instance(&view.key, Some(&view), gone));
    }

    /// A change that is a position of its own.
    fn filled(&self, change: impl FnOnce(&mut Vec<Contribution>)) {
        let mut gone = Vec::new();
        change(&mut gone);
        self.take(&gone);
    }

    /// The address that a lower-case name stands for as a pod's; none where it is not answered. Only for names that the
    /// table does not have.
    pub(crate) fn pod_address(&self, wire: &[u8]) -> Option<IpAddr> {
        if self.config.pods == Pods::Disabled {
            return None;
        }
        let namespace = name::parent(wire)?;
        if name::parent(namespace)? != self.compiler.pods().wire() {
            return None;
        }
        let address = pods::address(name::first_label(wire))?;
        let known = match self.config.pods {
            Pods::Verified => self.pods.holds(name::first_label(namespace), address),
            _ => self.table.read(namespace, |_| ()).is_some(),
        };
        known.then_some(address)
    }

    /// Whether somebody declares a service, whatever its name answers: without an instance it may have no record. The
    /// labels are in lower case.
    pub(crate) fn declares(&self, namespace: &[u8], name: &[u8]) -> bool {
        let (Ok(namespace), Ok(name)) = (std::str::from_utf8(namespace), std::str::from_utf8(name)) else {
            return false;
        };
        let hash = self.hash(namespace, name);
        let stripe = self.stripe(hash);
        stripe.services.find(hash, |state| state.is(namespace, name)).is_some_and(|state| state.shape.is_some())
    }

    /// Says that what is missing at the present position does not exist, where that was not known when the position was
    /// reached.
    pub fn open(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// Says that everything up to the position is in place: after the initial fill, and with every bookmark, which
    /// tells nothing new but that the knowledge is fresh.
    pub fn set_synced(&self, position: Position) {
        self.reached(position);
        self.synced.store(true, Ordering::Release);
    }

    /// Whether it ever was in sync. It stays so when its feed is cut: stale answers beat none.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The position that all answers include.
    pub fn position(&self) -> Option<Position> {
        *self.position.borrow()
    }

    /// Tells of every position as it is reached: how a registration waits until it is visible here.
    pub fn positions(&self) -> watch::Receiver<Option<Position>> {
        self.position.subscribe()
    }

    /// How long ago its feed last said anything.
    pub fn age(&self) -> Duration {
        self.heard.lock().elapsed()
    }

    /// The SOA serial. It grows with the position's number, and by one with a new epoch, modulo 2^32 (RFC 1982): what
    /// two servers of the same feed say is the same as long as they saw the same epochs.
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// How much there is.
    pub fn stats(&self) -> IndexStats {
        let mut stats = IndexStats {
            names: self.table.names(),
            records: self.table.records(),
            namespaces: self.namespaces.lock().len(),
            pods: self.pods.len(),
            ..IndexStats::default()
        };
        for stripe in &self.stripes {
            let stripe = stripe.lock();
            stats.services += stripe.services.iter().filter(|state| state.shape.is_some()).count();
            stats.instances += stripe.instances;
        }
        stats
    }

    /// How often the writer has touched a name so far: the cost of changes, for tests.
    #[doc(hidden)]
    pub fn touches(&self) -> u64 {
        self.table.touches()
    }

    fn reached(&self, position: Position) {
        *self.heard.lock() = Instant::now();
        let before = self.position();
        let serial = self.serial();
        self.serial.store(next_serial(serial, before, position), Ordering::Relaxed);
        self.position.send_if_modified(|current| current.replace(position) != Some(position));
    }

    fn add(&self, contributions: &[Contribution]) {
        for contribution in contributions {
            self.table.insert(&self.zones, contribution);
        }
    }

    fn take(&self, contributions: &[Contribution]) {
        for contribution in contributions {
            self.table.remove(&self.zones, contribution);
        }
    }

    /// Keeps in mind which addresses are a pod's, where that matters.
    fn pod(&self, before: Option<&InstanceView>, after: Option<&InstanceView>) {
        if self.config.pods != Pods::Verified {
            return;
        }
        let of = |view| pods::addresses(view);
        if before.map(of) == after.map(of) {
            return;
        }
        // In this order, so that what stays does not vanish in between.
        if let Some(view) = after {
            self.pods.add(&view.key.namespace, of(view));
        }
        if let Some(view) = before {
            self.pods.take(&view.key.namespace, of(view));
        }
    }

    fn hash(&self, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((namespace, name))
    }

    /// The stripe of a service with this hash.
    fn stripe(&self, hash: u64) -> MutexGuard<'_, Stripe> {
        // The table itself uses the lowest and the highest bits.
        self.stripes[(hash >> 32) as usize % STRIPES].lock()
    }

    /// Changes what is known of a service, and forgets it where nothing is left.
    fn change(&self, namespace: &Arc<str>, name: &Arc<str>, change: impl FnOnce(&mut ServiceState, &mut usize)) {
        let hash = self.hash(namespace, name);
        let mut stripe = self.stripe(hash);
        let Stripe { services, instances } = &mut *stripe;
        let found =
            services.entry(hash, |state| state.is(namespace, name), |state| self.hash(&state.namespace, &state.name));
        let mut slot = match found {
            Slot::Occupied(slot) => slot,
            Slot::Vacant(slot) => slot.insert(Box::new(ServiceState {
                namespace: namespace.clone(),
                name: name.clone(),
                wire: self.compiler.service_name(namespace, name),
                shape: None,
                instances: Dense::default(),
                answerable: 0,
            })),
        };
        change(slot.get_mut(), instances);
        if slot.get().is_empty() {
            slot.remove();
        }
    }

    /// What goes by this and the following is added to `gone`, and taken away when all that comes is there.
    fn namespace(&self, name: Arc<str>, exists: bool, gone: &mut Vec<Contribution>) {
        let mut namespaces = self.namespaces.lock();
        if exists && !namespaces.contains(&name) {
            self.add(&self.compiler.namespace(&name));
            namespaces.insert(name);
        } else if !exists && namespaces.remove(&name) {
            gone.extend(self.compiler.namespace(&name));
        }
    }

    /// All that an instance contributes while its service is in this state.
    fn compile(&self, state: &ServiceState, known: &Known) -> Contributions {
        match (&state.wire, &state.shape) {
            (Some(name), Some(shape)) if known.is_answered(state.panics()) => {
                self.compiler.instance(name, shape, known)
            }
            _ => Contributions::new(),
        }
    }

    /// All that a service and its instances contribute.
    fn compile_all(&self, state: &ServiceState) -> Contributions {
        let own = match (&state.wire, &state.shape) {
            (Some(name), Some(shape)) => self.compiler.service(name, shape),
            _ => Contributions::new(),
        };
        own.into_iter().chain(state.instances.items().iter().flat_map(|known| self.compile(state, known))).collect()
    }

    fn service(&self, namespace: &Arc<str>, name: &Arc<str>, shape: Option<Shape>, gone: &mut Vec<Contribution>) {
        self.change(namespace, name, |state, _| {
            if state.shape != shape {
                gone.extend(self.compile_all(state));
                state.shape = shape;
                self.add(&self.compile_all(state));
            }
        });
    }

    fn instance(&self, key: &InstanceKey, after: Option<&InstanceView>, gone: &mut Vec<Contribution>) {
        // What belongs to no service has no records.
        let Some(service) = &key.service else { return };
        self.change(&key.namespace, service, |state, instances| {
            *instances += usize::from(after.is_some());
            *instances -= usize::from(self.instance_of(state, Id::of(key), after, gone));
        });
    }

    /// Whether it was there before.
    fn instance_of(
        &self,
        state: &mut ServiceState,
        id: Id<'_>,
        after: Option<&InstanceView>,
        gone: &mut Vec<Contribution>,
    ) -> bool {
        let panicked = state.panics();
        let place = state.instances.find(&id, |known| known.id() == id);
        let before = place.map(|at| &state.instances.items()[at]);
        let old = before.map(|known| self.compile(state, known)).unwrap_or_default();

        let names = self.config.endpoint_names;
        let after = after.map(|view| Known::of(view, names, state.instances.items().last()));
        let counted = before.is_some_and(Known::counts);
        state.answerable += u32::from(after.as_ref().is_some_and(Known::counts));
        state.answerable -= u32::from(counted);
        let new = after.as_ref().map(|known| self.compile(state, known)).unwrap_or_default();
        match (place, after) {
            (Some(at), Some(known)) => drop(state.instances.replace(at, known)),
            (None, Some(known)) => state.instances.push(known),
            (Some(at), None) => drop(state.instances.swap_remove(at)),
            (None, None) => {}
        }

        if old != new {
            self.add(&new);
        }
        let panics = state.panics();
        if panics != panicked {
            self.turn(state, id, panics, gone);
        }
        if old != new {
            gone.extend(old);
        }
        place.is_some()
    }

    /// Brings the critical siblings of an instance back, or takes them away again. None of them is answerable
    /// without it: while a service panics none is, and what ended or began it is that one instance.
    fn turn(&self, state: &ServiceState, but: Id<'_>, panics: bool, gone: &mut Vec<Contribution>) {
        let (Some(name), Some(shape)) = (&state.wire, &state.shape) else { return };
        for known in state.instances.items() {
            if known.id() == but || !known.is_brought_back() {
                continue;
            }
            let contributions = self.compiler.instance(name, shape, known);
            if panics { self.add(&contributions) } else { gone.extend(contributions) }
        }
    }
}

/// The serial after a step. Steps are at most 2^31 - 1, or RFC 1982 would see the serial go backwards.
fn next_serial(serial: u32, before: Option<Position>, after: Position) -> u32 {
    match before {
        None => after.number as u32,
        Some(before) if before.epoch == after.epoch => {
            let step = after.number.saturating_sub(before.number).min(u64::from(u32::MAX >> 1));
            serial.wrapping_add(step as u32)
        }
        Some(_) => serial.wrapping_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::Epoch;

    #[test]
    fn serials_never_go_back() {
        let at = |epoch, number| Position::new(Epoch(epoch), number);
        assert_eq!(next_serial(0, None, at(1, 7)), 7);
        assert_eq!(next_serial(7, Some(at(1, 7)), at(1, 9)), 9);
        assert_eq!(next_serial(9, Some(at(1, 9)), at(1, 9)), 9);
        assert_eq!(next_serial(9, Some(at(1, 9)), at(2, 3)), 10);
        assert_eq!(next_serial(u32::MAX, Some(at(2, 3)), at(2, 4)), 0);
        assert_eq!(next_serial(5, Some(at(2, 0)), at(2, u64::MAX)), 5 + (u32::MAX >> 1));
    }
}
