//! Lists that would remove so much that it is more likely that they are wrong.

use super::interner::Sym;
use super::{Index, Namespace, Service, Touched};
use crate::objects::{self, Resources};

/// The kinds of record, as the guard against mass removal counts them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Class {
    Namespaces,
    Services,
    Instances,
    Pods,
}

/// How many records of each class.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts([u64; 4]);

impl Counts {
    pub(crate) fn add(&mut self, class: Class, count: usize) {
        self.0[class as usize] += count as u64;
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Whether so much of `all` would go that it is more likely that a list came back wrong: more than half and more
    /// than 100 of the records of a class.
    pub(crate) fn is_suspicious(&self, all: &Counts) -> bool {
        self.0.iter().zip(all.0).any(|(lost, all)| *lost > 100 && *lost * 2 > all)
    }
}

/// What a complete list means for what is not in it.
#[derive(Debug)]
pub(crate) enum Listed {
    /// It is gone.
    Removed(Touched),
    /// It may be gone, but that would be so much that it has to be confirmed; so many records.
    Held(u64),
}

impl Index {
    /// The list of a kind is complete. What it did not show is gone; but where that is so much that it is more likely a
    /// mistake, nothing is removed until another list, to be `trusted`, says the same.
    pub(crate) fn end(&mut self, resources: Resources, trusted: bool) -> Listed {
        let Some(seen) = self.seen[resources as usize].take() else { return Listed::Removed(Touched::default()) };
        let mut unseen: Vec<(Sym, Sym)> = Vec::new();
        let no_namespace = self.strings.intern("");
        for (&space, namespace) in &self.namespaces {
            match resources {
                Resources::Namespaces if namespace.labels.is_some() => unseen.push((no_namespace, space)),
                Resources::Namespaces => {}
                Resources::Services => {
                    let objects = namespace.services.iter().filter(|(_, service)| service.exists);
                    unseen.extend(objects.map(|(&name, _)| (space, name)));
                }
                Resources::EndpointSlices => unseen.extend(namespace.slices.keys().map(|&name| (space, name))),
                Resources::Pods => unseen.extend(namespace.pods.keys().map(|&name| (space, name))),
            }
        }
        unseen.retain(|key| !seen.contains(key));
        let shrunk = match resources {
            Resources::EndpointSlices => std::mem::take(&mut self.shrunk),
            _ => Vec::new(),
        };
        if !trusted {
            let mut lost = self.lost(resources, &unseen);
            let fewer = shrunk.iter().map(|slice| self.endpoints_of(slice).saturating_sub(slice.endpoints.len()));
            lost.add(Class::Instances, fewer.sum());
            if lost.is_suspicious(&self.count()) {
                return Listed::Held(lost.total());
            }
        }
        let mut touched = Touched::default();
        for slice in &shrunk {
            touched.records.extend(self.put_slice(slice).records);
        }
        for (space, name) in unseen {
            touched.records.extend(self.remove(resources, space, name).records);
        }
        Listed::Removed(touched)
    }

    /// Whether a list is under way that shows a slice with fewer endpoints than are known: a list that comes back wrong may
    /// come back with all slices, and nothing in them.
    pub(super) fn shrinks_in_a_list(&self, slice: &objects::EndpointSlice) -> bool {
        self.seen[Resources::EndpointSlices as usize].is_some() && slice.endpoints.len() < self.endpoints_of(slice)
    }

    /// How many endpoints a slice is known to have.
    fn endpoints_of(&self, slice: &objects::EndpointSlice) -> usize {
        let (namespace, name) = (self.strings.get(&slice.metadata.namespace), self.strings.get(&slice.metadata.name));
        let known =
            namespace.zip(name).and_then(|(namespace, name)| self.namespaces.get(&namespace)?.slices.get(&name));
        known.map_or(0, |slice| slice.endpoints.len())
    }

    /// How many records would go with these objects.
    fn lost(&self, resources: Resources, unseen: &[(Sym, Sym)]) -> Counts {
        let mut lost = Counts::default();
        for (space, name) in unseen {
            match resources {
                Resources::Namespaces => {
                    if let Some(namespace) = self.namespaces.get(name) {
                        count_namespace(namespace, &mut lost);
                    }
                }
                Resources::Services => {
                    if let Some(namespace) = self.namespaces.get(space)
                        && let Some(service) = namespace.services.get(name)
                        && namespace.labels.is_some()
                    {
                        count_service(service, &mut lost);
                    }
                }
                Resources::EndpointSlices => {
                    let slice = self.namespaces.get(space).and_then(|namespace| namespace.slices.get(name));
                    lost.add(Class::Instances, slice.map_or(0, |slice| slice.endpoints.len()));
                }
                Resources::Pods => lost.add(Class::Pods, 1),
            }
        }
        lost
    }

    /// How many records there should be.
    pub(crate) fn count(&self) -> Counts {
        let mut counts = Counts::default();
        for namespace in self.namespaces.values() {
            count_namespace(namespace, &mut counts);
        }
        counts
    }
}

fn count_namespace(namespace: &Namespace, counts: &mut Counts) {
    if namespace.labels.is_none() {
        return;
    }
    counts.add(Class::Namespaces, 1);
    counts.add(Class::Pods, namespace.pods.len());
    namespace.services.values().for_each(|service| count_service(service, counts));
}

fn count_service(service: &Service, counts: &mut Counts) {
    counts.add(Class::Services, usize::from(service.declared.is_some()));
    counts.add(Class::Instances, if service.has_instances() { service.members.len() } else { 0 });
}
