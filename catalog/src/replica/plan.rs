//! How a list of instances is found: by the indexes where they narrow it down, by going through the scope otherwise.

use super::Replica;
use super::entry::{Entry, Pairs};
use super::materialize::LabelsOf;
use super::posting::{Holders, Postings};
use super::query::{HealthSet, InstanceQuery};
use crate::record::InstanceKey;
use crate::selector::{Operator, Requirement};
use roaring::RoaringBitmap;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Bound;

/// A requirement in terms of the label index' handles.
#[derive(Debug)]
enum Condition {
    /// One of these pairs; sorted.
    AnyOf(Vec<u32>),
    /// None of these pairs; sorted.
    NoneOf(Vec<u32>),
    Has(u32),
    HasNot(u32),
    /// A label of this key with an integer on this side of the bound.
    Compared(u32, Ordering, i64),
}

/// Instances among which are all that a query can select.
enum Candidates<'a> {
    All,
    Few(Vec<u32>),
    Many(Cow<'a, RoaringBitmap>),
}

/// Up to so many candidates are looked at one by one, without first intersecting their sets.
const FEW: usize = 1024;

/// Sets of instances of which the candidates are the union.
struct Union<'a> {
    postings: &'a Postings,
    holders: SmallVec<[Holders; 4]>,
}

impl<'a> Union<'a> {
    fn len(&self) -> usize {
        self.holders.iter().map(|&holders| self.postings.len(holders)).sum()
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.holders.iter().flat_map(|&holders| self.postings.iter(holders))
    }

    fn bitmap(&self) -> Cow<'a, RoaringBitmap> {
        if let &[holders] = self.holders.as_slice()
            && let Some(bitmap) = self.postings.bitmap(holders)
        {
            return Cow::Borrowed(bitmap);
        }
        let mut union = RoaringBitmap::new();
        for &holders in &self.holders {
            match self.postings.bitmap(holders) {
                Some(bitmap) => union |= bitmap,
                None => union.extend(self.postings.iter(holders)),
            }
        }
        Cow::Owned(union)
    }
}

impl Replica {
    /// The instances of a query in the order of their keys, from after `query.after` on.
    pub(super) fn selected_instances<'a>(
        &'a self,
        query: InstanceQuery<'a>,
        labels: LabelsOf,
    ) -> Box<dyn Iterator<Item = u32> + 'a> {
        let Some(conditions) = self.conditions(query.selector.requirements()) else {
            return Box::new(std::iter::empty());
        };
        let source = match query.source.map(|source| self.sources.find(source)) {
            Some(None) => return Box::new(std::iter::empty()),
            Some(Some(source)) => Some(source),
            None => None,
        };
        let candidates = self.candidates(&conditions, source, query.health);
        let health = query.health;
        let wanted = move |handle: &u32| {
            let entry = &self.entries[*handle];
            health.contains(entry.health)
                && source.is_none_or(|source| entry.source == source)
                && (labels == LabelsOf::Source || !is_absorbed(entry))
                && self.meets(&conditions, entry, labels)
        };
        let scope = self.scope_len(query);
        match candidates {
            Candidates::Few(few) if few.len() / 4 <= scope => {
                self.pick(query, few.into_iter().filter(wanted).collect())
            }
            Candidates::Many(many) if self.is_picking_cheaper(many.len(), scope, query.limit) => {
                self.pick(query, many.iter().filter(wanted).collect())
            }
            Candidates::Many(many) => {
                Box::new(self.scan(query, source).filter(move |&handle| many.contains(handle)).filter(wanted))
            }
            Candidates::Few(_) | Candidates::All => Box::new(self.scan(query, source).filter(wanted)),
        }
    }

    /// The selector in terms of handles; none where some requirement can be met by nothing that the index knows.
    fn conditions(&self, requirements: &[Requirement]) -> Option<Vec<Condition>> {
        let mut conditions = Vec::with_capacity(requirements.len());
        for requirement in requirements {
            let key = self.labels.find_key(requirement.key());
            let mut pairs: Vec<u32> = key
                .into_iter()
                .flat_map(|key| requirement.values().iter().filter_map(move |value| self.labels.find_pair(key, value)))
                .collect();
            pairs.sort_unstable();
            conditions.push(match requirement.operator() {
                Operator::Equals | Operator::In if pairs.is_empty() => return None,
                Operator::Equals | Operator::In => Condition::AnyOf(pairs),
                Operator::NotEquals | Operator::NotIn => Condition::NoneOf(pairs),
                Operator::Exists => Condition::Has(key?),
                Operator::DoesNotExist => match key {
                    Some(key) => Condition::HasNot(key),
                    None => continue,
                },
                Operator::GreaterThan => Condition::Compared(key?, Ordering::Greater, requirement.bound()?),
                Operator::LessThan => Condition::Compared(key?, Ordering::Less, requirement.bound()?),
            });
        }
        Some(conditions)
    }

    fn meets(&self, conditions: &[Condition], entry: &Entry, labels: LabelsOf) -> bool {
        let own = |test: &dyn Fn(u32) -> bool| entry.labels().iter().any(|&pair| test(pair));
        let adopted = match (entry.shadow(), labels) {
            (Some(shadow), LabelsOf::Endpoint) => &shadow.adopted,
            _ => &Pairs::new(),
        };
        let any = |test: &dyn Fn(u32) -> bool| own(test) || adopted.iter().any(|&pair| test(pair));
        conditions.iter().all(|condition| match condition {
            Condition::AnyOf(pairs) => any(&|pair| pairs.binary_search(&pair).is_ok()),
            Condition::NoneOf(pairs) => !any(&|pair| pairs.binary_search(&pair).is_ok()),
            Condition::Has(key) => any(&|pair| self.labels.key(pair) == *key),
            Condition::HasNot(key) => !any(&|pair| self.labels.key(pair) == *key),
            Condition::Compared(key, side, bound) => any(&|pair| {
                let number = || self.labels.value(pair).parse::<i64>();
                self.labels.key(pair) == *key && number().is_ok_and(|number| number.cmp(bound) == *side)
            }),
        })
    }

    /// The narrowest set that the indexes give. Of large sets, the intersection.
    fn candidates(&self, conditions: &[Condition], source: Option<u32>, health: HealthSet) -> Candidates<'_> {
        let labels = self.labels.postings();
        let by_label = conditions.iter().filter_map(|condition| match condition {
            Condition::AnyOf(pairs) => {
                let holders = pairs.iter().map(|&pair| self.labels.pair_holders(pair)).collect();
                Some(Union { postings: labels, holders })
            }
            Condition::Has(key) | Condition::Compared(key, ..) => {
                let holders = SmallVec::from_iter([self.labels.key_holders(*key)]);
                Some(Union { postings: labels, holders })
            }
            Condition::NoneOf(_) | Condition::HasNot(_) => None,
        });
        let by_source = source.map(|source| {
            let holders = SmallVec::from_iter([self.sources.get(source).holders]);
            Union { postings: self.sources.postings(), holders }
        });
        let mut sets: Vec<(usize, Union<'_>)> = by_label.chain(by_source).map(|set| (set.len(), set)).collect();
        sets.sort_by_key(|(len, _)| *len);
        if let Some((len, smallest)) = sets.first()
            && *len <= FEW
        {
            return Candidates::Few(smallest.iter().collect());
        }
        let mut bitmaps = sets.iter().map(|(_, set)| set.bitmap());
        let mut narrowed = bitmaps.next();
        for bitmap in bitmaps {
            narrowed = narrowed.map(|narrowed| Cow::Owned(&*narrowed & &*bitmap));
        }
        if health != HealthSet::ALL {
            let mut union = RoaringBitmap::new();
            for state in health.iter() {
                union |= &self.by_health[state as usize];
            }
            if let Some(narrowed) = narrowed {
                union &= &*narrowed;
            }
            narrowed = Some(Cow::Owned(union));
        }
        match narrowed {
            None => Candidates::All,
            Some(bitmap) if bitmap.len() <= FEW as u64 => Candidates::Few(bitmap.iter().collect()),
            Some(bitmap) => Candidates::Many(bitmap),
        }
    }

    /// Whether it is cheaper to look at all candidates and sort them than to go through the scope in order until the
    /// page is full.
    fn is_picking_cheaper(&self, candidates: u64, scope: usize, limit: usize) -> bool {
        let (candidates, scope, limit) = (candidates as f64, scope as f64, limit as f64);
        // Members come in runs (all of a service, of a namespace), so a page takes more of the scope than its share.
        let scanned = (4.0 * limit * scope / candidates).min(scope);
        // A step of a scan tests a bitmap; a candidate is looked up, its key compared with some others.
        const STEPS_PER_CANDIDATE: f64 = 8.0;
        candidates * STEPS_PER_CANDIDATE < scanned
    }

    /// Of those candidates that are in the query's scope and after its start, as many as a page can take, in order.
    fn pick<'a>(&'a self, query: InstanceQuery<'a>, mut candidates: Vec<u32>) -> Box<dyn Iterator<Item = u32> + 'a> {
        candidates.retain(|&handle| {
            let group = &self.groups[self.entries[handle].group];
            query.namespace.is_none_or(|namespace| *self.namespaces[group.namespace].name == *namespace)
                && query.service.is_none_or(|service| group.name.as_deref() == service)
                && query.after.is_none_or(|after| self.compare_with_key(handle, after) == Ordering::Greater)
        });
        let kept = query.limit.max(1).saturating_add(1);
        if kept < candidates.len() {
            candidates.select_nth_unstable_by(kept, |&a, &b| self.compare_keys(a, b));
            candidates.truncate(kept);
        }
        candidates.sort_unstable_by(|&a, &b| self.compare_keys(a, b));
        Box::new(candidates.into_iter())
    }

    fn compare_keys(&self, a: u32, b: u32) -> Ordering {
        let (group, other) = (self.entries[a].group, self.entries[b].group);
        if group == other {
            return self.compare(a, b);
        }
        let name = |group: u32| {
            let group = &self.groups[group];
            (&self.namespaces[group.namespace].name, &group.name)
        };
        name(group).cmp(&name(other))
    }

    fn compare_with_key(&self, handle: u32, key: &InstanceKey) -> Ordering {
        let entry = &self.entries[handle];
        let group = &self.groups[entry.group];
        let own = (&self.namespaces[group.namespace].name, &group.name);
        own.cmp(&(&key.namespace, &key.service)).then_with(|| self.compare_in_group(entry, key))
    }

    fn compare_in_group(&self, entry: &Entry, key: &InstanceKey) -> Ordering {
        let source = &self.sources.get(entry.source).source;
        source.cmp(&key.source).then_with(|| entry.details.id_bytes().cmp(key.id.as_bytes()))
    }

    /// How many instances the query's scope has.
    fn scope_len(&self, query: InstanceQuery<'_>) -> usize {
        match (query.namespace, query.service) {
            (None, None) => self.entries.len(),
            (Some(namespace), None) => {
                self.find_namespace(namespace).map_or(0, |handle| self.namespaces[handle].instances as usize)
            }
            (Some(namespace), Some(service)) => {
                self.find_group(namespace, service).map_or(0, |group| self.groups[group].len())
            }
            (None, Some(_)) => self.groups_in_scope(query).map(|group| self.groups[group].len()).sum(),
        }
    }

    /// The groups of the query's scope in order, from that of `query.after` on.
    fn groups_in_scope<'a>(&'a self, query: InstanceQuery<'a>) -> impl Iterator<Item = u32> + 'a {
        let (after, service) = (query.after, query.service);
        self.namespaces_from(query.namespace, after.map(|after| &*after.namespace)).flat_map(move |namespace| {
            let slot = &self.namespaces[namespace];
            // Within the namespace of `after`: its service; everywhere else: no bound.
            let from = after.filter(|after| after.namespace == slot.name).and_then(|after| after.service.as_deref());
            let bare = slot.bare.filter(|_| matches!(service, None | Some(None)) && from.is_none());
            let bounds = match service {
                Some(Some(name)) => Some((Bound::Included(name), Bound::Included(name))),
                Some(None) => None,
                None => Some((from.map_or(Bound::Unbounded, Bound::Included), Bound::Unbounded)),
            };
            let services = bounds.into_iter().flat_map(|bounds| slot.services.range::<str, _>(bounds));
            bare.into_iter().chain(services.map(|(_, &group)| group))
        })
    }

    /// All instances of the query's scope (of its source, where it names one) in order, from after its start on.
    fn scan<'a>(&'a self, query: InstanceQuery<'a>, source: Option<u32>) -> impl Iterator<Item = u32> + 'a {
        let after = query.after;
        self.groups_in_scope(query).flat_map(move |group| {
            let group = &self.groups[group];
            let name = &self.namespaces[group.namespace].name;
            // A scope that names its namespace or service may lie wholly before the start.
            let skipped = after.is_some_and(|after| (name, &group.name) < (&after.namespace, &after.service));
            let from = after.filter(|after| after.namespace == *name && after.service == group.name);
            let from_source = source.map(|source| &self.sources.get(source).source);
            let members = group.order.iter_from(move |member| {
                let entry = &self.entries[member];
                let by_key = from.map_or(Ordering::Greater, |from| {
                    // Only what is greater than the start belongs to the rest.
                    match self.compare_in_group(entry, from) {
                        Ordering::Greater => Ordering::Greater,
                        Ordering::Equal | Ordering::Less => Ordering::Less,
                    }
                });
                let by_source =
                    from_source.map_or(Ordering::Greater, |from| self.sources.get(entry.source).source.cmp(from));
                if by_key == Ordering::Less || by_source == Ordering::Less { Ordering::Less } else { Ordering::Greater }
            });
            let members =
                members.take_while(move |&member| source.is_none_or(|source| self.entries[member].source == source));
            members.filter(move |_| !skipped)
        })
    }
}

/// See [`InstanceView::is_absorbed`](crate::InstanceView::is_absorbed).
fn is_absorbed(entry: &Entry) -> bool {
    entry
        .shadow()
        .is_some_and(|shadow| !shadow.addresses.is_empty() && shadow.addresses.len() == entry.addresses().len())
}
