//! Lists: what can be asked for, page by page.
//!
//! Pages are in the order of the objects' keys and continue after a key, whether or not it still exists: nothing that
//! stays is listed twice or left out, whatever changes between two pages.

use super::Replica;
use super::materialize::LabelsOf;
use super::merge::merge_service_labels;
use crate::record::InstanceKey;
use crate::view::{InstanceView, NamespaceView, ServiceView};
use crate::{Health, Selector, Source};
use std::ops::Bound;
use std::str::FromStr;
use std::sync::Arc;

/// A set of health states, for filtering. The default has all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HealthSet(u8);

impl HealthSet {
    /// All states.
    pub const ALL: Self = Self(0b1111);
    /// No state.
    pub const EMPTY: Self = Self(0);

    /// Whether the state is in the set.
    pub const fn contains(self, health: Health) -> bool {
        self.0 & (1 << health as u8) != 0
    }

    /// The set with this state in it.
    #[must_use]
    pub const fn with(self, health: Health) -> Self {
        Self(self.0 | 1 << health as u8)
    }

    /// The states in the set, best first.
    pub fn iter(self) -> impl Iterator<Item = Health> {
        Health::ALL.into_iter().filter(move |&health| self.contains(health))
    }
}

impl Default for HealthSet {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Health> for HealthSet {
    fn from_iter<T: IntoIterator<Item = Health>>(states: T) -> Self {
        states.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// The text is not a set of health states.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a health: write one or several of `passing`, `warning`, `unknown` and `critical`, with commas between"
)]
pub struct ParseHealthSetError(String);

impl FromStr for HealthSet {
    type Err = ParseHealthSetError;

    /// Reads states with commas between them, as `passing,warning`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let state = |part: &str| part.trim().parse().map_err(|_| ParseHealthSetError(part.chars().take(32).collect()));
        text.split(',').map(state).collect()
    }
}

impl std::fmt::Display for HealthSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states: Vec<&str> = self.iter().map(Health::as_str).collect();
        f.pad(&states.join(","))
    }
}

/// Which instances to list.
///
/// Without a source, the list is the merged one: absorbed records are left out, and labels are the endpoint's. With a
/// source, it is that source's own records, with its own labels only.
#[derive(Clone, Copy, Debug)]
pub struct InstanceQuery<'a> {
    /// Only in this namespace.
    pub namespace: Option<&'a str>,
    /// Only of this service; `Some(None)`: only those of no service.
    pub service: Option<Option<&'a str>>,
    /// Only what this source declared.
    pub source: Option<&'a Source>,
    /// Only those with such labels.
    pub selector: &'a Selector,
    /// Only those of such effective health.
    pub health: HealthSet,
    /// Only those after this key.
    pub after: Option<&'a InstanceKey>,
    /// At most so many (at least one).
    pub limit: usize,
}

impl<'a> InstanceQuery<'a> {
    /// All instances that the selector selects, on one page.
    pub const fn new(selector: &'a Selector) -> Self {
        Self {
            namespace: None,
            service: None,
            source: None,
            selector,
            health: HealthSet::ALL,
            after: None,
            limit: usize::MAX,
        }
    }
}

/// Which services to list.
#[derive(Clone, Copy, Debug)]
pub struct ServiceQuery<'a> {
    /// Only in this namespace.
    pub namespace: Option<&'a str>,
    /// Only those that this source declares, too; they are still shown merged.
    pub source: Option<&'a Source>,
    /// Only those with such (merged) labels.
    pub selector: &'a Selector,
    /// Only those after this namespace and name.
    pub after: Option<&'a (Arc<str>, Arc<str>)>,
    /// At most so many (at least one).
    pub limit: usize,
}

impl<'a> ServiceQuery<'a> {
    /// All services that the selector selects, on one page.
    pub const fn new(selector: &'a Selector) -> Self {
        Self { namespace: None, source: None, selector, after: None, limit: usize::MAX }
    }
}

/// Which namespaces to list.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceQuery<'a> {
    /// Only those that this source declares, too; they are still shown merged.
    pub source: Option<&'a Source>,
    /// Only those with such (merged) labels.
    pub selector: &'a Selector,
    /// Only those after this name.
    pub after: Option<&'a Arc<str>>,
    /// At most so many (at least one).
    pub limit: usize,
}

impl<'a> NamespaceQuery<'a> {
    /// All namespaces that the selector selects, on one page.
    pub const fn new(selector: &'a Selector) -> Self {
        Self { source: None, selector, after: None, limit: usize::MAX }
    }
}

/// One page of a list.
#[derive(Clone, PartialEq, Debug)]
pub struct Page<T, K> {
    /// The objects, in the order of their keys.
    pub items: Vec<T>,
    /// Where there is more: what to pass as `after`.
    pub next: Option<K>,
}

/// Takes one page from what follows, which must be in order.
pub(super) fn page<S, T, K>(
    mut from: impl Iterator<Item = S>,
    limit: usize,
    item: impl Fn(S) -> T,
    key: impl Fn(&S) -> K,
) -> Page<T, K> {
    let taken: Vec<S> = from.by_ref().take(limit.max(1)).collect();
    let more = from.next().is_some();
    let next = taken.last().filter(|_| more).map(key);
    Page { items: taken.into_iter().map(item).collect(), next }
}

/// Everything from after a key on.
pub(super) fn after(key: Option<&str>) -> (Bound<&str>, Bound<&str>) {
    (key.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

impl Replica {
    /// Lists instances, in the order of their keys.
    pub fn instances(&self, query: &InstanceQuery<'_>) -> Page<InstanceView, InstanceKey> {
        let labels = if query.source.is_some() { LabelsOf::Source } else { LabelsOf::Endpoint };
        page(
            self.selected_instances(*query, labels),
            query.limit,
            |handle| self.instance_view(handle, labels),
            |&handle| self.key_of(handle),
        )
    }

    /// Lists services, in the order of their namespaces and names.
    pub fn services(&self, query: &ServiceQuery<'_>) -> Page<ServiceView, (Arc<str>, Arc<str>)> {
        let wanted = |&handle: &u32| {
            let group = &self.groups[handle];
            group.exists()
                && query.source.is_none_or(|source| group.declarations.get(source).is_some())
                && (query.selector.is_everything()
                    || query.selector.matches(&merge_service_labels(&group.declarations)))
        };
        let from = query.after.map(|(namespace, _)| &**namespace);
        // One namespace that is named may lie wholly before the start.
        let in_reach = |&namespace: &u32| from.is_none_or(|from| *self.namespaces[namespace].name >= *from);
        let namespaces = self.namespaces_from(query.namespace, from).filter(in_reach);
        let services = namespaces.flat_map(|namespace| {
            let slot = &self.namespaces[namespace];
            let name = query.after.filter(|(after, _)| *after == slot.name).map(|(_, name)| &**name);
            slot.services.range::<str, _>(after(name)).map(|(_, &group)| group)
        });
        let views = services.filter(wanted).filter_map(|handle| self.merge_service(&self.groups[handle]));
        page(views, query.limit, |view| view, |view| (view.namespace.clone(), view.name.clone()))
    }

    /// Lists namespaces, in the order of their names.
    pub fn namespaces(&self, query: &NamespaceQuery<'_>) -> Page<NamespaceView, Arc<str>> {
        let wanted = |view: &&Arc<NamespaceView>| {
            query.source.is_none_or(|source| view.sources.contains(source)) && query.selector.matches(&view.labels)
        };
        let slots = self.namespace_order.range::<str, _>(after(query.after.map(|name| &**name)));
        let views = slots.filter_map(|(_, &namespace)| self.namespaces[namespace].view.as_ref());
        page(views.filter(wanted), query.limit, |view| NamespaceView::clone(view), |view| view.name.clone())
    }

    /// The namespaces of a scope, in order: the one that is named, or all from `from` on.
    pub(super) fn namespaces_from(&self, only: Option<&str>, from: Option<&str>) -> impl Iterator<Item = u32> + '_ {
        let bounds = match (only, from) {
            (Some(only), _) => (Bound::Included(only), Bound::Included(only)),
            (None, from) => (from.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded),
        };
        self.namespace_order.range::<str, _>(bounds).map(|(_, &namespace)| namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_sets_print_and_parse() {
        assert_eq!("warning,passing".parse::<HealthSet>().map(|set| set.to_string()).as_deref(), Ok("passing,warning"));
        assert_eq!("passing, warning,unknown,critical".parse(), Ok(HealthSet::default()));
        for bad in ["", "passing,", "Passing", "good"] {
            assert!(bad.parse::<HealthSet>().is_err(), "{bad}");
        }
    }
}
