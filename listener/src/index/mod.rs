//! What the cluster says, joined and kept small; and from that, which records the registry should have.
//!
//! One task owns it. It takes objects one by one, in any order and from any of the streams, and says which records each
//! change touches; [`Index::desired`] then says what a record should be. Nothing here waits or writes.
//!
//! A service's instances come from all slices that name it, a slice may be there before its Service, and both before
//! their Namespace: what belongs together is kept, and comes to be when the last part does.

mod compact;
mod declared;
mod desired;
mod fit;
mod guard;
mod interner;
mod members;
mod slices;
#[cfg(test)]
mod tests;

use crate::objects::{self, Item, Resources};
use compact::{CompactPod, Pairs, Slice};
use declared::{Declared, ServiceKind};
pub(crate) use desired::digest;
use fingerpost_catalog::validate_dns_label;
pub(crate) use fit::fit;
pub(crate) use guard::{Class, Counts, Listed};
use hashbrown::{HashMap, HashSet};
use interner::Interner;
pub(crate) use interner::Sym;
use members::Members;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A namespace that every cluster has, and whose UID stands for the cluster's.
pub(crate) const CLUSTER_NAMESPACE: &str = "kube-system";
/// The label of that namespace's record which says of which cluster the source's records are.
pub(crate) const CLUSTER: &str = "fingerpost.io/cluster";

type Map<K, V> = HashMap<K, V, ahash::RandomState>;
type Set<K> = HashSet<K, ahash::RandomState>;

/// A record of this source in the registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Record {
    Namespace(Sym),
    /// Namespace and name.
    Service(Sym, Sym),
    /// Namespace, service (NONE for a pod of none) and id.
    Instance(Sym, Sym, Sym),
}

impl Record {
    pub(crate) fn class(self) -> Class {
        match self {
            Self::Namespace(_) => Class::Namespaces,
            Self::Service(..) => Class::Services,
            Self::Instance(_, service, _) if service.is_none() => Class::Pods,
            Self::Instance(..) => Class::Instances,
        }
    }
}

/// What kind of service a slice is of, for the measure of programming latency.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum LatencyKind {
    ClusterIp,
    HeadlessWithSelector,
    HeadlessWithoutSelector,
}

/// What a change touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// The records, additions (as far as one can tell) before removals.
    pub(crate) records: Vec<Record>,
    /// When that happened to which it owes itself, and to what, where it is a slice's change that says so.
    pub(crate) trigger: Option<(i64, LatencyKind)>,
    /// An object that can't be taken, or not whole, by its name, and why.
    pub(crate) refused: Option<(String, String)>,
}

#[derive(Default)]
struct Namespace {
    /// Its labels; none while it does not exist, or is not of those that are selected.
    labels: Option<Pairs>,
    services: Map<Sym, Service>,
    slices: Map<Sym, Slice>,
    pods: Map<Sym, CompactPod>,
}

impl Namespace {
    fn is_empty(&self) -> bool {
        self.labels.is_none() && self.services.is_empty() && self.slices.is_empty() && self.pods.is_empty()
    }
}

#[derive(Default)]
struct Service {
    declared: Option<Declared>,
    /// Whether there is such an object, be it declared or not.
    exists: bool,
    /// What was complained of in it, as a number, so that each complaint is made once; 0 where there was nothing.
    complaint: u64,
    members: Members,
}

impl Service {
    /// Whether its endpoints are instances.
    fn has_instances(&self) -> bool {
        self.declared.as_ref().is_some_and(|declared| !matches!(declared.kind, ServiceKind::ExternalName(_)))
    }
}

/// Everything that is known of the cluster.
pub(crate) struct Index {
    strings: Interner,
    namespaces: Map<Sym, Namespace>,
    /// What the lists under way have shown so far, by kind.
    seen: [Option<Set<(Sym, Sym)>>; 4],
    /// Slices that the list under way shows with fewer endpoints than are known; they count when it is complete.
    shrunk: Vec<objects::EndpointSlice>,
    counts: [u64; 4],
    /// Slices of names instead of addresses.
    passed_over: u64,
    /// The UID of `kube-system`, which tells one cluster from another.
    cluster: Option<String>,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            strings: Interner::new(),
            namespaces: Map::default(),
            seen: [const { None }; 4],
            shrunk: Vec::new(),
            counts: [0; 4],
            passed_over: 0,
            cluster: None,
        }
    }

    pub(crate) fn intern(&mut self, text: &str) -> Sym {
        self.strings.intern(text)
    }

    /// How many objects of a kind are known.
    pub(crate) fn objects(&self, resources: Resources) -> u64 {
        self.counts[resources as usize]
    }

    /// Which cluster it is; none where that can't be told.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// How many slices were passed over because they hold names.
    pub(crate) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Forgets strings that nobody uses; the caller's own are those of `kept`.
    pub(crate) fn sweep(&mut self, kept: impl Iterator<Item = Record>) {
        if !self.strings.wants_sweep() {
            return;
        }
        let mut marks = self.strings.marks();
        for record in kept {
            let syms = match record {
                Record::Namespace(name) => [name, Sym::NONE, Sym::NONE],
                Record::Service(namespace, name) => [namespace, name, Sym::NONE],
                Record::Instance(namespace, service, id) => [namespace, service, id],
            };
            syms.into_iter().for_each(|sym| marks.mark(sym));
        }
        for (name, namespace) in &self.namespaces {
            marks.mark(*name);
            namespace.labels.iter().for_each(|labels| compact::mark_labels(&mut marks, labels));
            for (name, service) in &namespace.services {
                marks.mark(*name);
                service.declared.iter().for_each(|declared| declared.mark(&mut marks));
                service.members.mark(&mut marks);
            }
            for (name, slice) in &namespace.slices {
                marks.mark(*name);
                slice.mark(&mut marks);
            }
            for (name, pod) in &namespace.pods {
                marks.mark(*name);
                pod.mark(&mut marks);
            }
        }
        for (namespace, name) in self.seen.iter().flatten().flatten() {
            marks.mark(*namespace);
            marks.mark(*name);
        }
        self.strings.sweep(&marks);
    }

    /// A list of a kind begins; one that was under way is forgotten.
    pub(crate) fn begin(&mut self, resources: Resources) {
        self.seen[resources as usize] = Some(Set::default());
        if resources == Resources::EndpointSlices {
            self.shrunk.clear();
        }
    }

    /// An object that can't be read is there all the same; what was known of it stands.
    pub(crate) fn saw(&mut self, resources: Resources, namespace: &str, name: &str) {
        let key = (self.strings.intern(namespace), self.strings.intern(name));
        if let Some(seen) = &mut self.seen[resources as usize] {
            seen.insert(key);
        }
    }

    /// An object is like this now.
    pub(crate) fn put(&mut self, item: &Item) -> Touched {
        match item {
            Item::Namespace(namespace) => {
                self.saw(Resources::Namespaces, "", &namespace.metadata.name);
                self.put_namespace(namespace)
            }
            Item::Service(service) => {
                self.saw(Resources::Services, &service.metadata.namespace, &service.metadata.name);
                self.put_service(service)
            }
            Item::EndpointSlice(slice) => {
                self.saw(Resources::EndpointSlices, &slice.metadata.namespace, &slice.metadata.name);
                if self.shrinks_in_a_list(slice) {
                    self.shrunk.push((**slice).clone());
                    return Touched::default();
                }
                self.put_slice(slice)
            }
            Item::Pod(pod) => {
                self.saw(Resources::Pods, &pod.metadata.namespace, &pod.metadata.name);
                self.put_pod(pod)
            }
        }
    }

    /// An object is gone.
    pub(crate) fn delete(&mut self, resources: Resources, namespace: &str, name: &str) -> Touched {
        match (self.strings.get(namespace), self.strings.get(name)) {
            (Some(namespace), Some(name)) => self.remove(resources, namespace, name),
            // A namespace is in none.
            (None, Some(name)) => self.remove(resources, Sym::NONE, name),
            _ => Touched::default(),
        }
    }

    fn remove(&mut self, resources: Resources, namespace: Sym, name: Sym) -> Touched {
        let mut touched = Touched::default();
        match resources {
            Resources::Namespaces => {
                let Some(entry) = self.namespaces.get_mut(&name) else { return touched };
                if entry.labels.take().is_some() {
                    self.counts[resources as usize] -= 1;
                    all_of(name, entry, &mut touched.records);
                    // Its content goes before it.
                    touched.records.reverse();
                }
                self.tidy(name);
            }
            Resources::Services => {
                let Some(entry) = self.namespaces.get_mut(&namespace) else { return touched };
                let Some(service) = entry.services.get_mut(&name) else { return touched };
                if std::mem::take(&mut service.exists) {
                    self.counts[resources as usize] -= 1;
                    service.complaint = 0;
                    service.declared = None;
                    touched.records.extend(service.members.ids().map(|id| Record::Instance(namespace, name, id)));
                    touched.records.push(Record::Service(namespace, name));
                }
                if service.members.is_empty() {
                    entry.services.remove(&name);
                }
                self.tidy(namespace);
            }
            Resources::EndpointSlices => {
                let Some(entry) = self.namespaces.get_mut(&namespace) else { return touched };
                let Some(before) = entry.slices.remove(&name) else { return touched };
                self.counts[resources as usize] -= 1;
                self.diff_slice(namespace, name, Some(before), None, &mut touched);
                self.tidy(namespace);
            }
            Resources::Pods => {
                let Some(entry) = self.namespaces.get_mut(&namespace) else { return touched };
                if entry.pods.remove(&name).is_some() {
                    self.counts[resources as usize] -= 1;
                    touched.records.push(Record::Instance(namespace, Sym::NONE, name));
                }
                self.tidy(namespace);
            }
        }
        touched
    }

    fn tidy(&mut self, namespace: Sym) {
        if self.namespaces.get(&namespace).is_some_and(Namespace::is_empty) {
            self.namespaces.remove(&namespace);
        }
    }

    fn put_namespace(&mut self, namespace: &objects::Namespace) -> Touched {
        let mut touched = Touched::default();
        let name = self.strings.intern(&namespace.metadata.name);
        let mut labels = namespace.metadata.labels.clone();
        let uid = &namespace.metadata.uid;
        if namespace.metadata.name == CLUSTER_NAMESPACE && validate_dns_label(uid).is_ok() {
            self.cluster = Some(uid.clone());
            labels.insert(CLUSTER.to_owned(), uid.clone());
        }
        let labels = compact::namespace_labels(&mut self.strings, &labels);
        let entry = self.namespaces.entry(name).or_default();
        match entry.labels.replace(labels) {
            None => {
                self.counts[Resources::Namespaces as usize] += 1;
                all_of(name, entry, &mut touched.records);
            }
            Some(_) => touched.records.push(Record::Namespace(name)),
        }
        touched
    }

    fn put_service(&mut self, service: &objects::Service) -> Touched {
        let mut touched = Touched::default();
        let namespace = self.strings.intern(&service.metadata.namespace);
        let name = self.strings.intern(&service.metadata.name);
        let mut complaints = Vec::new();
        let declared = Declared::new(&mut self.strings, service, &mut complaints);
        let complaint = match complaints.is_empty() {
            true => 0,
            false => hash_of(&complaints),
        };
        let entry = self.namespaces.entry(namespace).or_default().services.entry(name).or_default();
        self.counts[Resources::Services as usize] += u64::from(!std::mem::replace(&mut entry.exists, true));
        if std::mem::replace(&mut entry.complaint, complaint) != complaint && complaint != 0 {
            let what = format!("service {}/{}", service.metadata.namespace, service.metadata.name);
            touched.refused = Some((what, complaints.join("; ")));
        }
        if entry.declared == declared {
            return touched;
        }
        let instances_before = entry.has_instances();
        let copied = |declared: &Option<Declared>| declared.as_ref().map(|declared| declared.copied.clone());
        let same_copies = copied(&entry.declared) == copied(&declared);
        entry.declared = declared;
        touched.records.push(Record::Service(namespace, name));
        if instances_before != entry.has_instances() || !same_copies {
            touched.records.extend(entry.members.ids().map(|id| Record::Instance(namespace, name, id)));
        }
        if entry.declared.is_none() {
            touched.records.reverse();
        }
        touched
    }

    pub(super) fn put_slice(&mut self, slice: &objects::EndpointSlice) -> Touched {
        let mut touched = Touched::default();
        let namespace = self.strings.intern(&slice.metadata.namespace);
        let name = self.strings.intern(&slice.metadata.name);
        let new = Slice::new(&mut self.strings, slice);
        self.passed_over += u64::from(new.is_none());
        let entry = self.namespaces.entry(namespace).or_default();
        let before = entry.slices.remove(&name);
        let count = &mut self.counts[Resources::EndpointSlices as usize];
        *count += u64::from(new.is_some());
        *count -= u64::from(before.is_some());
        let trigger = new.as_ref().map(|slice| slice.trigger).unwrap_or_default();
        let news = trigger != 0 && before.as_ref().is_none_or(|before| before.trigger != trigger);
        let service = new.as_ref().map(|slice| slice.service);
        self.diff_slice(namespace, name, before, new, &mut touched);
        if news && let Some(service) = service {
            touched.trigger = self.latency_kind(namespace, service).map(|kind| (trigger, kind));
        }
        self.tidy(namespace);
        touched
    }

    fn latency_kind(&self, namespace: Sym, service: Sym) -> Option<LatencyKind> {
        let declared = self.namespaces.get(&namespace)?.services.get(&service)?.declared.as_ref()?;
        match (&declared.kind, declared.selector) {
            (ServiceKind::ClusterIp(_), _) => Some(LatencyKind::ClusterIp),
            (ServiceKind::Headless, true) => Some(LatencyKind::HeadlessWithSelector),
            (ServiceKind::Headless, false) => Some(LatencyKind::HeadlessWithoutSelector),
            (ServiceKind::ExternalName(_), _) => None,
        }
    }

    fn put_pod(&mut self, pod: &objects::Pod) -> Touched {
        let mut touched = Touched::default();
        let Some(new) = CompactPod::new(&mut self.strings, pod) else {
            return self.delete(Resources::Pods, &pod.metadata.namespace, &pod.metadata.name);
        };
        let namespace = self.strings.intern(&pod.metadata.namespace);
        let name = self.strings.intern(&pod.metadata.name);
        let before = self.namespaces.entry(namespace).or_default().pods.insert(name, new.clone());
        self.counts[Resources::Pods as usize] += u64::from(before.is_none());
        if before != Some(new) {
            touched.records.push(Record::Instance(namespace, Sym::NONE, name));
        }
        touched
    }

    /// A service's instances, as they should be.
    pub(crate) fn instances_of(&self, namespace: Sym, service: Sym) -> Vec<Record> {
        let found = self.namespaces.get(&namespace).and_then(|namespace| namespace.services.get(&service));
        let ids = found.into_iter().flat_map(|service| service.members.ids());
        ids.map(|id| Record::Instance(namespace, service, id)).collect()
    }

    /// All records that there should be.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (&name, namespace) in &self.namespaces {
            if namespace.labels.is_some() {
                all_of(name, namespace, &mut records);
            }
        }
        records
    }
}

fn hash_of(texts: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}

/// All records of a namespace, each after what it needs.
fn all_of(name: Sym, namespace: &Namespace, records: &mut Vec<Record>) {
    records.push(Record::Namespace(name));
    for (&service_name, service) in &namespace.services {
        if service.declared.is_some() {
            records.push(Record::Service(name, service_name));
        }
        if service.has_instances() {
            records.extend(service.members.ids().map(|id| Record::Instance(name, service_name, id)));
        }
    }
    records.extend(namespace.pods.keys().map(|&pod| Record::Instance(name, Sym::NONE, pod)));
}
