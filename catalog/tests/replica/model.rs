//! The model: records in one map, every view worked out from all of them, by the words of the documentation.

use fingerpost_catalog::{
    ChangeSet, Check, CheckedInstance, Effects, Health, HealthParts, Instance, InstanceKey, InstanceView, Key, Labels,
    Namespace, NamespaceView, PartState, Rank, Record, Service, ServiceView, SessionState, Source, SourceStats,
    Timestamp, ViewChange,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) const OWN_CLUSTER: &str = "own";

pub(crate) type Records = BTreeMap<Key, (Record, u64)>;

/// All views of a state, absorbed instances among them.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Views {
    pub(crate) namespaces: BTreeMap<String, NamespaceView>,
    pub(crate) services: BTreeMap<(String, String), ServiceView>,
    pub(crate) instances: BTreeMap<InstanceKey, InstanceView>,
}

pub(crate) fn put_all(records: &mut Records, set: &ChangeSet) {
    for change in &set.changes {
        match &change.record {
            Some(record) if record.fits(&change.key) => {
                records.insert(change.key.clone(), (record.as_ref().clone(), set.position.number));
            }
            Some(_) => {}
            None => {
                records.remove(&change.key);
            }
        }
    }
}

/// What each source holds.
pub(crate) fn source_stats(records: &Records) -> BTreeMap<Source, SourceStats> {
    let mut stats: BTreeMap<Source, SourceStats> = BTreeMap::new();
    for (key, (record, revision)) in records {
        match (key, record) {
            (Key::Namespace { source, .. }, _) => stats.entry(source.clone()).or_default().namespaces += 1,
            (Key::Service { source, .. }, _) => stats.entry(source.clone()).or_default().services += 1,
            (Key::Instance(key), Record::Instance(instance)) => {
                let own = stats.entry(key.source.clone()).or_default();
                own.instances += 1;
                own.sessionless += usize::from(instance.session.is_none());
            }
            (_, Record::Session(session)) if session.state != SessionState::Expired => {
                stats.entry(session.source.clone()).or_default().sessions += 1;
            }
            (Key::Mark { source }, Record::Mark(mark)) => {
                stats.entry(source.clone()).or_default().seen = Some((mark.seen, *revision));
            }
            _ => {}
        }
    }
    stats
}

/// How many sessions are in a state.
pub(crate) fn sessions(records: &Records, state: SessionState) -> usize {
    let sessions = records.values().filter(|(record, _)| matches!(record, Record::Session(one) if one.state == state));
    sessions.count()
}

/// How many sessions an owner has.
pub(crate) fn sessions_of_owner(records: &Records, owner: &str) -> usize {
    let is = |record: &Record| matches!(record, Record::Session(one) if one.owner.as_deref() == Some(owner));
    records.values().filter(|(record, _)| is(record)).count()
}

pub(crate) fn rank(source: &Source) -> Rank {
    source.rank(OWN_CLUSTER)
}

pub(crate) fn services_of(records: &Records, namespace: &str, name: &str) -> Vec<(Source, Service, u64)> {
    let mut found: Vec<_> = records
        .iter()
        .filter_map(|(key, (record, revision))| match (key, record) {
            (Key::Service { namespace: of, name: called, source }, Record::Service(service))
                if **of == *namespace && **called == *name =>
            {
                Some((source.clone(), service.clone(), *revision))
            }
            _ => None,
        })
        .collect();
    found.sort_by_key(|(source, ..)| (rank(source), source.clone()));
    found
}

fn namespaces_of(records: &Records, name: &str) -> Vec<(Source, Namespace, u64)> {
    let mut found: Vec<_> = records
        .iter()
        .filter_map(|(key, (record, revision))| match (key, record) {
            (Key::Namespace { name: called, source }, Record::Namespace(namespace)) if **called == *name => {
                Some((source.clone(), namespace.clone(), *revision))
            }
            _ => None,
        })
        .collect();
    found.sort_by_key(|(source, ..)| (rank(source), source.clone()));
    found
}

fn merge<'a>(labels: impl Iterator<Item = &'a Labels>) -> Labels {
    let mut merged = BTreeMap::new();
    for labels in labels {
        for (key, value) in labels.iter() {
            merged.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Labels(merged)
}

fn instances(records: &Records) -> impl Iterator<Item = (&InstanceKey, &Instance, u64)> {
    records.iter().filter_map(|(key, (record, revision))| match (key, record) {
        (Key::Instance(key), Record::Instance(instance)) => Some((key, instance, *revision)),
        _ => None,
    })
}

fn instance_view(records: &Records, key: &InstanceKey, own: &Instance, revision: u64) -> InstanceView {
    let declared = key.service.as_deref().map(|name| services_of(records, &key.namespace, name)).unwrap_or_default();
    let service = declared.first().map(|(_, service, _)| service.clone()).unwrap_or_default();
    let part = |health: Health, note: &str| PartState { health, note: note.to_owned(), since: None };
    let at = |part: PartState, since| PartState { since: Timestamp::noted(since), ..part };
    let mut parts = HealthParts {
        reported: own.report.as_ref().map(|report| part(report.health, &report.note)),
        ..HealthParts::default()
    };
    let mut latest = revision;
    for check in effective_checks(&service, own) {
        parts.checks.insert(check.name, part(Health::Unknown, "has not run yet"));
    }
    if own.conditions.ready == Some(false) && !service.publish_not_ready {
        parts.conditions = Some(part(Health::Critical, "not ready"));
    }
    for (other, (record, revision)) in records {
        if other.instance() != Some(key) {
            continue;
        }
        latest = latest.max(*revision);
        match (other, record) {
            (Key::Drain(_), Record::Drain(drain)) => {
                parts.drain = Some(at(part(Health::Critical, &drain.note), drain.since));
            }
            (Key::Check { check, .. }, Record::Check(result)) => {
                if let Some(declared) = parts.checks.get_mut(&**check) {
                    *declared = at(part(result.health, &result.note), result.since);
                }
            }
            _ => {}
        }
    }
    if let Some(id) = &own.session {
        let record = records.get(&Key::Session { id: id.as_str().into() });
        parts.session = match record {
            Some((Record::Session(session), _)) => match session.state {
                SessionState::Alive => None,
                SessionState::Suspect => Some(part(Health::Warning, "session overdue, but held")),
                SessionState::Expired => Some(part(Health::Critical, "session expired")),
            },
            _ => Some(part(Health::Critical, &format!("session {id} is not known"))),
        };
    }
    let siblings: Vec<(&InstanceKey, &Instance)> = instances(records)
        .filter(|(other, ..)| key.service.is_some() && other.namespace == key.namespace && other.service == key.service)
        .map(|(other, instance, _)| (other, instance))
        .collect();
    let mut shadowed = Vec::new();
    let mut lower: BTreeMap<(Rank, &Source, &str), &Labels> = BTreeMap::new();
    for address in &own.addresses {
        let holders = || siblings.iter().filter(|(_, other)| other.addresses.contains(address));
        if holders().any(|(other, _)| rank(&other.source) < rank(&key.source)) {
            shadowed.push(*address);
        } else {
            for (other, instance) in holders().filter(|(other, _)| rank(&other.source) > rank(&key.source)) {
                lower.insert((rank(&other.source), &other.source, &*other.id), &instance.labels);
            }
        }
    }
    let mut instance = own.clone();
    instance.labels = merge(std::iter::once(&own.labels).chain(lower.into_values()));
    let effective = parts.effective();
    InstanceView {
        key: key.clone(),
        instance,
        reported: parts.reported.as_ref().map(|part| part.health).unwrap_or_default(),
        effective,
        answerable: effective <= Health::Warning || (effective == Health::Unknown && service.answer_unknown),
        panic_answerable: parts.drain.is_none(),
        parts,
        shadowed,
        revision: latest,
    }
}

/// The service's checks without those that the instance has of its own, and the instance's.
fn effective_checks(service: &Service, own: &Instance) -> Vec<Check> {
    let overridden = |check: &&Check| own.checks.iter().any(|other| other.name == check.name);
    service.checks.iter().filter(|check| !overridden(check)).chain(&own.checks).cloned().collect()
}

/// What is to be checked of an instance.
pub(crate) fn checked(records: &Records, key: &InstanceKey, own: &Instance) -> CheckedInstance {
    let declared = key.service.as_deref().map(|name| services_of(records, &key.namespace, name)).unwrap_or_default();
    let service = declared.first().map(|(_, service, _)| service.clone()).unwrap_or_default();
    let checks = effective_checks(&service, own);
    let results = records.keys().filter_map(|other| match other {
        Key::Check { instance, check } if instance == key => Some(check.clone()),
        _ => None,
    });
    CheckedInstance {
        key: key.clone(),
        addresses: own.addresses.clone(),
        ports: if own.ports.is_empty() { service.ports } else { own.ports.clone() },
        stray: results.filter(|name| checks.iter().all(|check| *check.name != **name)).collect(),
        checks,
    }
}

pub(crate) fn views(records: &Records) -> Views {
    let mut views = Views::default();
    for (key, instance, revision) in instances(records) {
        views.instances.insert(key.clone(), instance_view(records, key, instance, revision));
    }
    let mut services = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    for key in records.keys() {
        match key {
            Key::Namespace { name, .. } => {
                namespaces.insert(name.to_string());
            }
            Key::Service { namespace, name, .. } => {
                services.insert((namespace.to_string(), name.to_string()));
            }
            Key::Instance(InstanceKey { namespace, service: Some(name), .. }) => {
                services.insert((namespace.to_string(), name.to_string()));
            }
            Key::Instance(InstanceKey { namespace, .. }) => {
                namespaces.insert(namespace.to_string());
            }
            _ => {}
        }
    }
    for (namespace, name) in services {
        namespaces.insert(namespace.clone());
        let declared = services_of(records, &namespace, &name);
        let best = declared.first().map(|(_, service, _)| service.clone()).unwrap_or_default();
        let revision = declared.iter().map(|(.., revision)| *revision).max();
        let view = ServiceView {
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
            service_type: best.service_type,
            cluster_ips: best.cluster_ips,
            external_name: best.external_name,
            labels: merge(declared.iter().map(|(_, service, _)| &service.labels)),
            ports: best.ports,
            ttl: best.ttl,
            publish_not_ready: best.publish_not_ready,
            answer_unknown: best.answer_unknown,
            all_critical: best.all_critical,
            checks: best.checks,
            sources: declared.iter().map(|(source, ..)| source.clone()).collect(),
            revision: revision.unwrap_or_default(),
        };
        views.services.insert((namespace, name), view);
    }
    for name in namespaces {
        let declared = namespaces_of(records, &name);
        let view = NamespaceView {
            name: name.as_str().into(),
            labels: merge(declared.iter().map(|(_, namespace, _)| &namespace.labels)),
            sources: declared.iter().map(|(source, ..)| source.clone()).collect(),
            revision: declared.iter().map(|(.., revision)| *revision).max().unwrap_or_default(),
        };
        views.namespaces.insert(name, view);
    }
    views
}

impl Views {
    /// What an observer that knew this knows after the effects. Panics where they don't continue from here.
    pub(crate) fn follow(&mut self, effects: &Effects) {
        let mut places = Vec::new();
        for change in &effects.changes {
            let place = match change {
                ViewChange::Namespace { before, after } => {
                    let name = before.as_ref().or(after.as_ref()).expect("neither before nor after").name.to_string();
                    let before = before.as_deref().cloned();
                    assert_ne!(before, after.as_deref().cloned());
                    assert_eq!(replace(&mut self.namespaces, name.clone(), after), before);
                    (0, format!("{name:?}"))
                }
                ViewChange::Service { before, after } => {
                    let view = before.as_ref().or(after.as_ref()).expect("neither before nor after");
                    let name = (view.namespace.to_string(), view.name.to_string());
                    let before = before.as_deref().cloned();
                    assert_ne!(before, after.as_deref().cloned());
                    assert_eq!(replace(&mut self.services, name.clone(), after), before);
                    (1, format!("{name:?}"))
                }
                ViewChange::Instance { before, after } => {
                    let key = before.as_ref().or(after.as_ref()).expect("neither before nor after").key.clone();
                    let before = before.as_deref().cloned();
                    assert_ne!(before, after.as_deref().cloned());
                    assert_eq!(replace(&mut self.instances, key.clone(), after), before);
                    (2, format!("{key:?}"))
                }
            };
            places.push(place);
        }
        assert!(places.is_sorted_by_key(|(kind, _)| *kind), "namespaces, services, instances: {places:?}");
        let count = places.len();
        places.sort();
        places.dedup();
        assert_eq!(places.len(), count, "an object twice");
    }

    /// The same with all revisions zero: what stays comparable across epochs.
    pub(crate) fn without_revisions(mut self) -> Self {
        self.namespaces.values_mut().for_each(|view| view.revision = 0);
        self.services.values_mut().for_each(|view| view.revision = 0);
        self.instances.values_mut().for_each(|view| view.revision = 0);
        self
    }
}

fn replace<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, value: &Option<Arc<V>>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, V::clone(value)),
        None => map.remove(&key),
    }
}

impl Views {
    /// Follows one effect where revisions don't count.
    pub(crate) fn follow_without_revisions(&mut self, change: &ViewChange) {
        match change {
            ViewChange::Namespace { before, after } => {
                let name = before.as_ref().or(after.as_ref()).expect("neither").name.to_string();
                let zero = |view: &Arc<NamespaceView>| NamespaceView { revision: 0, ..NamespaceView::clone(view) };
                let after = after.as_ref().map(zero).map(Arc::new);
                assert_eq!(replace(&mut self.namespaces, name, &after), before.as_ref().map(zero));
            }
            ViewChange::Service { before, after } => {
                let view = before.as_ref().or(after.as_ref()).expect("neither");
                let name = (view.namespace.to_string(), view.name.to_string());
                let zero = |view: &Arc<ServiceView>| ServiceView { revision: 0, ..ServiceView::clone(view) };
                let after = after.as_ref().map(zero).map(Arc::new);
                assert_eq!(replace(&mut self.services, name, &after), before.as_ref().map(zero));
            }
            ViewChange::Instance { before, after } => {
                let key = before.as_ref().or(after.as_ref()).expect("neither").key.clone();
                let zero = |view: &Arc<InstanceView>| InstanceView { revision: 0, ..InstanceView::clone(view) };
                let after = after.as_ref().map(zero).map(Arc::new);
                assert_eq!(replace(&mut self.instances, key, &after), before.as_ref().map(zero));
            }
        }
    }
}
