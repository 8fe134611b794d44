//! Every way of reading the replica against the model.

use crate::generate::SOURCES;
use crate::model::{Records, Views, checked, rank, services_of, sessions, sessions_of_owner, source_stats};
use fingerpost_catalog::{
    AllCritical, Health, InstanceKey, InstanceQuery, InstanceView, Key, NamespaceQuery, Record, Replica, Selector,
    ServiceQuery, SessionState, SessionStats,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Checks that every way of reading the replica gives what the records say.
pub(crate) fn assert_holds(replica: &Replica, records: &Records, expected: &Views) {
    let everything = Selector::everything();
    let query = InstanceQuery::new(&everything);

    let mut namespaces = replica.namespaces(&NamespaceQuery::new(&everything)).items;
    assert!(namespaces.iter().eq(expected.namespaces.values()), "{namespaces:#?}\n{:#?}", expected.namespaces);
    assert!(namespaces.drain(..).all(|view| replica.namespace(&view.name) == Some(view)));

    let services = replica.services(&ServiceQuery::new(&everything)).items;
    assert!(services.iter().eq(expected.services.values()), "{services:#?}\n{:#?}", expected.services);
    for view in services {
        assert_eq!(
            replica.service_declarations(&view.namespace, &view.name),
            services_of(records, &view.namespace, &view.name)
        );
        let members = || {
            let of_it = |other: &&InstanceView| {
                other.key.namespace == view.namespace && other.key.service.as_deref() == Some(&*view.name)
            };
            expected.instances.values().filter(of_it)
        };
        let answered = members().any(|other| other.answerable && other.own_addresses().next().is_some());
        let panics = view.all_critical == AllCritical::All && members().next().is_some() && !answered;
        assert_eq!(replica.panics(&view.namespace, &view.name), panics);
        assert_eq!(replica.service(&view.namespace, &view.name), Some(view));
    }

    let merged = replica.instances(&query).items;
    let shown: Vec<_> = expected.instances.values().filter(|view| !view.is_absorbed()).collect();
    assert!(merged.iter().eq(shown.iter().copied()), "{merged:#?}\n{shown:#?}");
    for (key, view) in &expected.instances {
        assert_eq!(replica.instance(key).as_ref(), Some(view));
        let mut named: Vec<_> = expected
            .instances
            .values()
            .filter(|other| {
                other.key.namespace == key.namespace && other.key.service == key.service && other.key.id == key.id
            })
            .cloned()
            .collect();
        named.sort_by_key(|view| (rank(&view.key.source), view.key.source.clone()));
        assert_eq!(replica.instances_named(&key.namespace, key.service.as_deref(), &key.id), named);
        let page = replica.instances(&InstanceQuery { source: Some(&key.source), ..query }).items;
        let raw = page.iter().find(|view| view.key == *key).expect("listed with its source");
        let Some((Record::Instance(own), _)) = records.get(&Key::Instance(key.clone())) else { panic!("no record") };
        assert_eq!(raw, &InstanceView { instance: own.clone(), ..view.clone() });
        assert_eq!(replica.checked_instance(key), Some(checked(records, key, own)));
    }

    let (mut found, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let (some, next) = replica.checked_instances(at, 2);
        found.extend(some);
        from = next;
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    let concerned = expected.instances.keys().filter_map(|key| {
        let Some((Record::Instance(own), _)) = records.get(&Key::Instance(key.clone())) else { panic!("no record") };
        Some(checked(records, key, own)).filter(|checked| !checked.checks.is_empty() || !checked.stray.is_empty())
    });
    assert_eq!(found, concerned.collect::<Vec<_>>());
    let mut orphaned = replica.orphaned_parts(usize::MAX);
    orphaned.sort();
    let is_orphaned = |key: &&Key| {
        !matches!(key, Key::Instance(_)) && key.instance().is_some_and(|key| !expected.instances.contains_key(key))
    };
    assert_eq!(orphaned, records.keys().filter(is_orphaned).cloned().collect::<Vec<_>>());

    let mut stored: Records = BTreeMap::new();
    for (key, record, revision) in replica.records() {
        assert!(stored.insert(key, (record, revision)).is_none());
    }
    assert_eq!(&stored, records);
    for (key, (record, revision)) in records {
        assert_eq!(replica.record(key), Some((record.clone(), *revision)));
        assert_eq!(replica.revision_of(key), Some(*revision));
        if let Some(instance) = key.instance() {
            let is_part = |other: &&Key| other.instance() == Some(instance) && !matches!(other, Key::Instance(_));
            let mut parts = replica.parts_of(instance);
            parts.sort();
            assert_eq!(parts, records.keys().filter(is_part).cloned().collect::<Vec<_>>());
        }
        if let Key::Session { id } = key {
            let hangs = |(_, view): &(&InstanceKey, &InstanceView)| view.instance.session.as_deref() == Some(&**id);
            let keys: Vec<_> = expected.instances.iter().filter(hangs).map(|(key, _)| key.clone()).collect();
            assert_eq!(replica.instance_keys_of_session(id), keys);
        }
    }
    let addresses: BTreeSet<IpAddr> =
        expected.instances.values().flat_map(|view| view.instance.addresses.clone()).collect();
    for address in addresses {
        let at = expected.instances.values().filter(|view| view.instance.addresses.contains(&address));
        assert_eq!(replica.instances_at(address), at.map(|view| view.key.clone()).collect::<Vec<_>>());
    }

    let stats = replica.stats();
    let pairs: BTreeSet<(String, String)> = expected
        .instances
        .values()
        .flat_map(|view| view.instance.labels.iter())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    assert_eq!((stats.namespaces, stats.services), (expected.namespaces.len(), expected.services.len()));
    assert_eq!((stats.instances, stats.records), (expected.instances.len(), records.len()));
    assert_eq!(stats.label_pairs, pairs.len());
    for (health, count) in Health::ALL.into_iter().zip(stats.health) {
        assert_eq!(expected.instances.values().filter(|view| view.effective == health).count() as u64, count);
    }
    assert_eq!(replica.source_stats(), source_stats(records));
    for source in SOURCES {
        let source = source.parse().unwrap();
        assert_eq!(replica.knows_source(&source), source_stats(records).contains_key(&source));
    }
    let sessions = |state| sessions(records, state);
    let counted = SessionStats {
        alive: sessions(SessionState::Alive),
        suspect: sessions(SessionState::Suspect),
        expired: sessions(SessionState::Expired),
    };
    assert_eq!(replica.session_stats(), counted);
    for owner in ["ci", "other"] {
        assert_eq!(replica.sessions_of_owner(owner), sessions_of_owner(records, owner));
    }
}
