//! The replica: everything that Fingerpost knows, in memory, built only from what a store emits.
//!
//! Records go in by [`Replica::load`] (a first state), [`Replica::apply`] (changes) and [`Replica::reload`] (a whole
//! new state); merged views with derived health come out, one by one, in pages, and as the effects of what went in.
//! The state is a function of the records alone: a replica that followed every change equals one that loaded the
//! result.
//!
//! How it is kept:
//!
//! - [`entry`] (with [`details`]): an instance in compact form; views and records are made from it on demand by
//!   [`materialize`]. [`declared`]: a service in compact form. Both use [`packing`].
//! - [`slab`], [`table`], [`interner`], [`posting`], [`order`]: the building blocks, all of them handles in slabs.
//! - [`labels`], [`addresses`], [`writers`]: which instances have a label, an address, a source, a session.
//! - [`group`]: services and namespaces; [`merge`]: how several sources' words become one.
//! - [`mod@write`] and [`members`]: how records go in and out; [`apply`]: the effects of that; [`reload`]: a whole new
//!   state as differences.
//! - [`checks`]: what is to be checked.
//! - [`query`]: lists and pages, found by [`plan`]; [`read`]: single objects and records; [`mod@sources`]: what each
//!   source holds; [`sessions`]: sessions; [`counts`]: how much there is.

mod addresses;
mod apply;
mod checks;
mod counts;
mod declared;
mod details;
mod entry;
mod group;
mod interner;
mod labels;
mod materialize;
mod members;
mod merge;
mod order;
mod packing;
mod plan;
mod posting;
mod query;
mod read;
mod reload;
mod sessions;
mod slab;
mod sources;
mod table;
mod write;
mod writers;

pub use checks::CheckedInstance;
pub use counts::SessionStats;
pub use query::{HealthSet, InstanceQuery, NamespaceQuery, Page, ParseHealthSetError, ServiceQuery};
pub use sessions::{SessionQuery, SessionView};
pub use sources::SourceStats;

use crate::object::Port;
use crate::record::{ChangeSet, InstanceKey, Key, Record};
use crate::view::Effects;
use crate::{Health, Position, Source};
use addresses::AddressIndex;
use ahash::RandomState;
use apply::Transaction;
use counts::Counts;
use entry::{Entry, Parts};
use group::{Group, NamespaceSlot};
use hashbrown::HashMap;
use interner::Interner;
use labels::LabelIndex;
use roaring::RoaringBitmap;
use slab::Slab;
use sources::StoredMark;
use std::collections::BTreeMap;
use std::sync::Arc;
use table::Table;
use writers::{Sessions, Sources};

/// The in-memory replica of a store.
///
/// # Unknown sessions
///
/// An instance that hangs on a session of which there is no record is `critical` ("session … is not known"). Both may
/// come in any order within one change set, as health is derived once the whole set is in. Were such an instance taken
/// for healthy, ending a session would bring its instances back for as long as their own removal takes.
#[derive(Debug)]
pub struct Replica {
    /// The Kubernetes cluster that this process serves: its source outranks all others.
    own_cluster: Box<str>,
    position: Option<Position>,
    /// Counts the changes taken in, in this process. Unlike positions, it never repeats across epochs.
    tick: u64,
    entries: Slab<Entry>,
    /// Instances by group, source and id; with those that the transaction under way has removed.
    members: Table,
    labels: LabelIndex,
    addresses: AddressIndex,
    sources: Sources,
    sessions: Sessions,
    /// When sources were last heard.
    marks: HashMap<Source, StoredMark, RandomState>,
    /// Zones and nodes.
    texts: Interner<str>,
    ports: Interner<[Port]>,
    namespaces: Slab<NamespaceSlot>,
    namespace_order: BTreeMap<Arc<str>, u32>,
    namespace_table: Table,
    groups: Slab<Group>,
    /// Services by namespace and name.
    group_table: Table,
    /// Parts whose instance does not exist (yet, or any more).
    orphans: HashMap<InstanceKey, Parts, RandomState>,
    /// Records that stand, of all kinds.
    records: usize,
    services: usize,
    counts: Counts,
    /// Instances by effective health.
    by_health: [RoaringBitmap; Health::ALL.len()],
}

/// How much a replica holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicaStats {
    /// Namespaces, declared or not.
    pub namespaces: usize,
    /// Merged services, declared or not.
    pub services: usize,
    /// Instances, each source's counted.
    pub instances: usize,
    /// Records of all kinds.
    pub records: usize,
    /// Different label pairs that instances have.
    pub label_pairs: usize,
    /// Instances by effective health, in the order of [`Health::ALL`]; absorbed ones are counted.
    pub health: [u64; Health::ALL.len()],
}

impl Replica {
    /// An empty replica, for a process that serves the cluster `own_cluster`.
    pub fn new(own_cluster: &str) -> Self {
        Self {
            own_cluster: own_cluster.into(),
            position: None,
            tick: 0,
            entries: Slab::default(),
            members: Table::default(),
            labels: LabelIndex::default(),
            addresses: AddressIndex::default(),
            sources: Sources::default(),
            sessions: Sessions::default(),
            marks: HashMap::with_hasher(RandomState::new()),
            texts: Interner::default(),
            ports: Interner::default(),
            namespaces: Slab::default(),
            namespace_order: BTreeMap::new(),
            namespace_table: Table::default(),
            groups: Slab::default(),
            group_table: Table::default(),
            orphans: HashMap::with_hasher(RandomState::new()),
            records: 0,
            services: 0,
            counts: Counts::default(),
            by_health: Default::default(),
        }
    }

    /// What it has caught up with; none before the first state is [`loaded`](Self::loaded).
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Takes in one record of the first state, in any order. There are no effects: nobody has seen anything before.
    pub fn load(&mut self, key: &Key, record: &Record, revision: u64) {
        self.tick += 1;
        let mut transaction = Transaction::unobserved();
        self.put(&mut transaction, key, record, revision);
        self.finish(transaction);
    }

    /// The first state is in, and is that of `position`.
    pub fn loaded(&mut self, position: Position) {
        self.tick += 1;
        self.position = Some(position);
    }

    /// Takes in what one commit changed, whole, and says how that changed the merged view.
    ///
    /// Anything is tolerated: removals of what is not there have no effect, and values that don't fit their key are
    /// ignored.
    pub fn apply(&mut self, set: &ChangeSet) -> Effects {
        self.tick += 1;
        let mut transaction = Transaction::observed();
        for change in &set.changes {
            match &change.record {
                Some(record) => self.put(&mut transaction, &change.key, record, set.position.number),
                None => self.delete(&mut transaction, &change.key),
            }
        }
        self.position = Some(set.position);
        let sessions = transaction.take_sessions();
        Effects { position: set.position, changes: self.finish(transaction), sessions }
    }

    /// How much it holds.
    pub fn stats(&self) -> ReplicaStats {
        ReplicaStats {
            namespaces: self.namespaces.len(),
            services: self.services,
            instances: self.entries.len(),
            records: self.records,
            label_pairs: self.labels.len(),
            health: self.by_health.each_ref().map(RoaringBitmap::len),
        }
    }
}
