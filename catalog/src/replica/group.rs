//! Groups: a service, or a namespace's instances of no service, with its declarations, and members.

use super::declared::PackedService;
use super::interner::NONE;
use super::order::Order;
use crate::check::Check;
use crate::object::{AllCritical, Namespace};
use crate::view::NamespaceView;
use crate::{Rank, Source};
use smallvec::SmallVec;
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

/// All declarations of one object, highest rank first; nearly always one.
#[derive(Debug)]
pub(super) struct Declarations<T>(SmallVec<[Declaration<T>; 1]>);

impl<T> Default for Declarations<T> {
    fn default() -> Self {
        Self(SmallVec::new())
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
    pub(super) declarations: Declarations<PackedService>,
    /// The members that exist, in the order of their keys.
    pub(super) order: Order,
    /// Members of each rank.
    ranks: [u32; 4],
    /// The change that touched it last; see [`Replica::service_version`](super::Replica::service_version).
    pub(super) version: u64,
    /// Of the highest-ranked declaration, as the next three.
    pub(super) publish_not_ready: bool,
    pub(super) answer_unknown: bool,
    pub(super) all_critical: AllCritical,
    /// None where there are none.
    pub(super) checks: Option<Arc<[Check]>>,
    /// In the list of groups that the transaction under way has to look at.
    pub(super) dirty: bool,
    /// Counted as an existing service.
    pub(super) counted: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            namespace: NONE,
            name: None,
            declarations: Declarations::default(),
            order: Order::default(),
            ranks: [0; 4],
            version: 0,
            publish_not_ready: false,
            answer_unknown: false,
            all_critical: AllCritical::None,
            checks: None,
            dirty: false,
            counted: false,
        }
    }
}

impl Group {
    pub(super) fn new(namespace: u32, name: Option<Arc<str>>) -> Self {
        Self { namespace, name, ..Self::default() }
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

    /// Whether nothing but this member makes it exist.
    pub(super) fn hangs_on(&self, member: u32) -> bool {
        self.declarations.is_empty() && self.len() == 1 && self.order.first() == Some(member)
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
