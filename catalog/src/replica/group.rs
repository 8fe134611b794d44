//! Groups: a service, or a namespace's instances of no service, with its declarations, members and merged view.

use super::entry::Entry;
use super::interner::NONE;
use super::order::Order;
use super::slab::Slab;
use crate::check::Check;
use crate::object::{Namespace, Service};
use crate::view::{NamespaceView, ServiceView};
use crate::{Rank, Source};
use ahash::RandomState;
use hashbrown::HashTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One source's declaration of a service or a namespace.
#[derive(Debug)]
pub(super) struct Declaration<T> {
    pub(super) rank: Rank,
    pub(super) source: Source,
    pub(super) value: T,
    pub(super) revision: u64,
    /// The reload that is under way has brought it.
    pub(super) seen: bool,
}

/// All declarations of one object, highest rank first.
#[derive(Debug)]
pub(super) struct Declarations<T>(Vec<Declaration<T>>);

impl<T> Default for Declarations<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Declarations<T> {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Declaration<T>> {
        self.0.iter()
    }

    pub(super) fn first(&self) -> Option<&Declaration<T>> {
        self.0.first()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, source: &Source) -> Option<&Declaration<T>> {
        self.0.iter().find(|declaration| declaration.source == *source)
    }

    pub(super) fn get_mut(&mut self, source: &Source) -> Option<&mut Declaration<T>> {
        self.0.iter_mut().find(|declaration| declaration.source == *source)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Declaration<T>> {
        self.0.iter_mut()
    }

    /// Whether the source had none before.
    pub(super) fn put(&mut self, declaration: Declaration<T>) -> bool {
        let place =
            self.0.binary_search_by(|other| (other.rank, &other.source).cmp(&(declaration.rank, &declaration.source)));
        match place {
            Ok(place) => self.0[place] = declaration,
            Err(place) => self.0.insert(place, declaration),
        }
        place.is_err()
    }

    /// Whether there was one.
    pub(super) fn remove(&mut self, source: &Source) -> bool {
        let before = self.0.len();
        self.0.retain(|declaration| declaration.source != *source);
        self.0.len() != before
    }
}

/// A service, or the instances of a namespace that belong to none.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) namespace: u32,
    /// None for the instances of no service.
    pub(super) name: Option<Arc<str>>,
    pub(super) declarations: Declarations<Service>,
    /// As it was at the end of the last transaction; none while the service does not exist, and for no service.
    pub(super) view: Option<Arc<ServiceView>>,
    /// Members by source and id; with those that the transaction under way has removed.
    members: HashTable<u32>,
    pub(super) order: Order,
    /// Members of each rank.
    ranks: [u32; 4],
    /// The change that touched it last; see [`Replica::service_version`](super::Replica::service_version).
    pub(super) version: u64,
    pub(super) publish_not_ready: bool,
    pub(super) answer_unknown: bool,
    /// Of the highest-ranked declaration, where it has any.
    pub(super) checks: Option<Arc<[Check]>>,
    /// In the list of groups that the transaction under way has to look at.
    pub(super) dirty: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            namespace: NONE,
            name: None,
            declarations: Declarations::default(),
            view: None,
            members: HashTable::new(),
            order: Order::default(),
            ranks: [0; 4],
            version: 0,
            publish_not_ready: false,
            answer_unknown: false,
            checks: None,
            dirty: false,
        }
    }
}

impl Group {
    pub(super) fn new(namespace: u32, name: Option<Arc<str>>) -> Self {
        Self { namespace, name, ..Self::default() }
    }

    pub(super) fn find(&self, hasher: &RandomState, entries: &Slab<Entry>, source: u32, id: &str) -> Option<u32> {
        let is = |&handle: &u32| entries[handle].source == source && *entries[handle].id == *id;
        self.members.find(hasher.hash_one((source, id)), is).copied()
    }

    pub(super) fn add_member(&mut self, hasher: &RandomState, entries: &Slab<Entry>, handle: u32) {
        let hash = |handle: u32| hasher.hash_one((entries[handle].source, &*entries[handle].id));
        self.members.insert_unique(hash(handle), handle, |&handle| hash(handle));
    }

    pub(super) fn remove_member(&mut self, hasher: &RandomState, entry: &Entry, handle: u32) {
        let hash = hasher.hash_one((entry.source, &*entry.id));
        if let Ok(found) = self.members.find_entry(hash, |&other| other == handle) {
            found.remove();
        }
    }

    pub(super) fn count_rank(&mut self, rank: Rank, difference: i32) {
        let count = &mut self.ranks[rank as usize];
        *count = count.saturating_add_signed(difference);
    }

    /// Members that exist.
    pub(super) fn len(&self) -> usize {
        self.ranks.iter().map(|&count| count as usize).sum()
    }

    /// Whether members of several ranks may know the same address. Instances of no service never speak for each other.
    pub(super) fn is_mixed(&self) -> bool {
        self.name.is_some() && self.ranks.iter().filter(|&&count| count > 0).count() > 1
    }

    /// Whether anything makes it exist.
    pub(super) fn exists(&self) -> bool {
        !self.declarations.is_empty() || self.order.first().is_some()
    }
}

/// A namespace with its declarations and content.
#[derive(Debug, Default)]
pub(super) struct NamespaceSlot {
    pub(super) name: Arc<str>,
    pub(super) declarations: Declarations<Namespace>,
    /// As it was at the end of the last transaction.
    pub(super) view: Option<Arc<NamespaceView>>,
    /// Its instances of no service.
    pub(super) bare: Option<u32>,
    /// Its services, in the order of their names.
    pub(super) services: BTreeMap<Arc<str>, u32>,
    /// How many instances it has.
    pub(super) instances: u32,
    /// In the list of namespaces that the transaction under way has to look at.
    pub(super) dirty: bool,
}

impl NamespaceSlot {
    /// Its groups in the order of pages: instances of no service first.
    pub(super) fn groups(&self) -> impl Iterator<Item = u32> + '_ {
        self.bare.into_iter().chain(self.services.values().copied())
    }
}
