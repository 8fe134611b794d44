//! The index against a model that keeps whole objects and works everything out afresh.

use super::*;
use crate::backlog::{Backlog, Step};
use crate::objects::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Meta, TargetRef};
use fingerpost_catalog::document::ObjectDocument;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

fn meta(namespace: &str, name: &str) -> Meta {
    Meta { name: name.into(), namespace: namespace.into(), ..Meta::default() }
}

fn endpoint(address: &str, pod: Option<(&str, &str)>, ready: Option<bool>) -> Endpoint {
    Endpoint {
        addresses: vec![address.into()],
        conditions: EndpointConditions { ready, ..EndpointConditions::default() },
        target_ref: pod.map(|(name, uid)| TargetRef {
            kind: "Pod".into(),
            name: name.into(),
            uid: uid.into(),
            ..TargetRef::default()
        }),
        ..Endpoint::default()
    }
}

fn slice(namespace: &str, name: &str, service: Option<&str>, endpoints: Vec<Endpoint>) -> Item {
    let mut metadata = meta(namespace, name);
    metadata.labels.extend(service.map(|service| ("kubernetes.io/service-name".to_owned(), service.to_owned())));
    let ports =
        vec![EndpointPort { name: "http".into(), port: Some(80), protocol: "TCP".into(), app_protocol: "h2c".into() }];
    Item::EndpointSlice(Box::new(EndpointSlice { metadata, address_type: "IPv4".into(), endpoints, ports }))
}

fn service(namespace: &str, name: &str, kind: u8) -> Item {
    let mut service = objects::Service { metadata: meta(namespace, name), ..objects::Service::default() };
    match kind {
        0 => service.spec.cluster_ip = "None".into(),
        1 => service.spec.cluster_ip = "10.96.0.1".into(),
        2 => {
            service.spec.service_type = "ExternalName".into();
            service.spec.external_name = "example.com".into();
        }
        3 => {
            service.spec.cluster_ip = "None".into();
            service.metadata.annotations.insert("fingerpost.io/exclude".into(), "true".into());
        }
        _ => {
            service.spec.cluster_ip = "None".into();
            service.metadata.labels.insert("team".into(), "a".into());
            service.metadata.annotations.insert("fingerpost.io/copy-labels".into(), "team, none".into());
        }
    }
    Item::Service(Box::new(service))
}

fn namespace(name: &str) -> Item {
    Item::Namespace(objects::Namespace { metadata: meta("", name) })
}

fn id_of(item: &Item) -> (Resources, String, String) {
    let (resources, meta) = match item {
        Item::Namespace(object) => (Resources::Namespaces, &object.metadata),
        Item::Service(object) => (Resources::Services, &object.metadata),
        Item::EndpointSlice(object) => (Resources::EndpointSlices, &object.metadata),
        Item::Pod(object) => (Resources::Pods, &object.metadata),
    };
    (resources, meta.namespace.clone(), meta.name.clone())
}

/// What should be in the registry: by name of the record, its addresses and whether it is ready.
type Expected = BTreeMap<String, String>;

/// Works out everything from whole objects.
fn naive(objects: &BTreeMap<(Resources, String, String), Item>) -> Expected {
    let mut expected = Expected::new();
    let spaces: BTreeSet<&String> =
        objects.keys().filter(|(kind, ..)| *kind == Resources::Namespaces).map(|(_, _, name)| name).collect();
    expected.extend(spaces.iter().map(|name| (format!("namespace {name}"), String::new())));
    for item in objects.values() {
        let Item::Service(service) = item else { continue };
        let (space, name) = (&service.metadata.namespace, &service.metadata.name);
        if !spaces.contains(space) || service.metadata.annotations.contains_key("fingerpost.io/exclude") {
            continue;
        }
        expected.insert(format!("service {space}/{name}"), String::new());
        if service.spec.service_type == "ExternalName" {
            continue;
        }
        let copied = if service.metadata.annotations.is_empty() { "" } else { " team=a" };
        // Endpoints by whose they are, slices in the order of their names.
        let mut members: BTreeMap<String, Vec<&Endpoint>> = BTreeMap::new();
        for item in objects.values() {
            let Item::EndpointSlice(slice) = item else { continue };
            if slice.metadata.namespace != *space
                || slice.metadata.labels.get("kubernetes.io/service-name") != Some(name)
            {
                continue;
            }
            for endpoint in &slice.endpoints {
                let whose = match &endpoint.target_ref {
                    Some(target) => format!("uid {}", target.uid),
                    None => format!("address {}", endpoint.addresses[0]),
                };
                members.entry(whose).or_default().push(endpoint);
            }
        }
        let pod = |endpoints: &[&Endpoint]| endpoints[0].target_ref.as_ref().map(|target| target.name.clone());
        let address = |endpoints: &[&Endpoint]| {
            let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            addresses.map(|address| address.parse::<IpAddr>().unwrap()).min().unwrap().to_string()
        };
        let named = |endpoints: &[&Endpoint]| {
            let name = pod(endpoints)?;
            let rivals = members.values().filter(|other| pod(other).as_ref() == Some(&name)).count();
            (rivals == 1).then_some(name)
        };
        for (whose, endpoints) in &members {
            let id = named(endpoints).unwrap_or_else(|| {
                let own = address(endpoints);
                let rivals = members.values().filter(|other| named(other).is_none() && address(other) == own).count();
                if rivals == 1 { own } else { format!("{own}:{whose}") }
            });
            let is_ready = |endpoint: &&&Endpoint| endpoint.conditions.ready != Some(false);
            let mut shown: Vec<&&Endpoint> = endpoints.iter().filter(is_ready).collect();
            let ready = !shown.is_empty();
            if shown.is_empty() {
                shown = endpoints.iter().collect();
            }
            let mut addresses: Vec<&String> = Vec::new();
            for address in shown.iter().flat_map(|endpoint| &endpoint.addresses) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            expected.insert(format!("instance {space}/{name}/{id}"), format!("{addresses:?} {ready}{copied}"));
        }
    }
    expected
}

/// What the written documents come to, in the model's words.
fn shown(registry: &BTreeMap<String, ObjectDocument>) -> Expected {
    let said = |document: &ObjectDocument| match document {
        ObjectDocument::Instance(instance) => {
            let addresses: Vec<String> = instance.addresses.iter().map(ToString::to_string).collect();
            let labels: String = instance.labels.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            assert_eq!(instance.ports.len(), 1);
            format!("{addresses:?} {}{labels}", instance.conditions.ready != Some(false))
        }
        _ => String::new(),
    };
    let name = |name: &str, document: &ObjectDocument| {
        // A suffix is a hash; the model says whose.
        let ObjectDocument::Instance(instance) = document else { return name.to_owned() };
        match name.rsplit_once(':') {
            None => name.to_owned(),
            Some((head, _)) => {
                let whose = match &instance.pod {
                    Some(pod) => format!("uid {}", pod.uid),
                    None => format!("address {}", instance.addresses[0]),
                };
                format!("{head}:{whose}")
            }
        }
    };
    registry.iter().map(|(key, document)| (name(key, document), said(document))).collect()
}

/// An index, what waits to be written, and the registry that was written to.
struct World {
    index: Index,
    backlog: Backlog,
    registry: BTreeMap<String, ObjectDocument>,
    writes: usize,
}

impl World {
    fn new() -> Self {
        Self { index: Index::new(), backlog: Backlog::default(), registry: BTreeMap::new(), writes: 0 }
    }

    fn touched(&mut self, touched: Touched) {
        for record in touched.records {
            self.backlog.push(record, Step::of(record, self.index.shows(record)));
        }
    }

    fn write(&mut self, most: usize) {
        while !self.backlog.is_empty() {
            for (record, _) in self.backlog.take(most) {
                let name = self.index.named(record);
                match self.index.desired(record) {
                    Some(document) => {
                        let before = self.registry.get(&name).map(digest);
                        if before != Some(digest(&document)) {
                            self.writes += 1;
                            self.registry.insert(name, document);
                        }
                    }
                    None => self.writes += usize::from(self.registry.remove(&name).is_some()),
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Move {
    Put(Item),
    Delete(usize),
    Relist(Resources, Vec<usize>),
    Write(usize),
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let one = (1u8..6, 0u8..4, 0u8..5, prop::option::of(any::<bool>())).prop_map(|(address, name, uid, ready)| {
        let address = format!("10.0.0.{address}");
        match uid {
            // An address as a pod's name must not be taken for an endpoint's id.
            0 => endpoint(&address, None, ready),
            1 => endpoint(&address, Some(("pod-0", "uid-1")), ready),
            uid => endpoint(&address, Some((&format!("pod-{name}"), &format!("uid-{name}-{uid}"))), ready),
        }
    });
    prop::collection::vec(one, 0..5)
}

fn steps() -> impl Strategy<Value = Vec<Move>> {
    let place = (0u8..2).prop_map(|n| format!("ns{n}"));
    let put = prop_oneof![
        1 => place.clone().prop_map(|name| namespace(&name)),
        2 => (place.clone(), 0u8..2, 0u8..5).prop_map(|(space, name, kind)| service(&space, &format!("s{name}"), kind)),
        6 => (place, 0u8..3, prop::option::weighted(0.9, 0u8..2), endpoints()).prop_map(|(space, name, of, endpoints)| {
            slice(&space, &format!("slice{name}"), of.map(|of| format!("s{of}")).as_deref(), endpoints)
        }),
    ];
    let kind = prop::sample::select(vec![Resources::Namespaces, Resources::Services, Resources::EndpointSlices]);
    let step = prop_oneof![
        10 => put.prop_map(Move::Put),
        3 => any::<prop::sample::Index>().prop_map(|index| Move::Delete(index.index(1 << 16))),
        1 => (kind, prop::collection::vec(0usize..64, 0..8)).prop_map(|(kind, order)| Move::Relist(kind, order)),
        3 => (1usize..8).prop_map(Move::Write),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_written_is_what_the_objects_say(steps in steps()) {
        let mut world = World::new();
        let mut objects: BTreeMap<(Resources, String, String), Item> = BTreeMap::new();
        for step in steps {
            match step {
                Move::Put(item) => {
                    let touched = world.index.put(&item);
                    world.touched(touched);
                    objects.insert(id_of(&item), item);
                }
                Move::Delete(n) => {
                    let Some(key) = objects.keys().nth(n % objects.len().max(1)).cloned() else { continue };
                    objects.remove(&key);
                    let touched = world.index.delete(key.0, &key.1, &key.2);
                    world.touched(touched);
                }
                Move::Relist(kind, order) => {
                    // Some are gone without a word, and the rest comes in another order.
                    let mut keys: Vec<_> = objects.keys().filter(|key| key.0 == kind).cloned().collect();
                    for n in order {
                        if !keys.is_empty() {
                            let key = keys.remove(n % keys.len());
                            if n % 3 == 0 { objects.remove(&key); } else { keys.push(key); }
                        }
                    }
                    world.index.begin(kind);
                    for key in keys.iter().filter(|key| objects.contains_key(*key)) {
                        let touched = world.index.put(&objects[key].clone());
                        world.touched(touched);
                    }
                    match world.index.end(kind, false) {
                        Listed::Removed(touched) => world.touched(touched),
                        Listed::Held(_) => unreachable!("there are too few"),
                    }
                }
                Move::Write(most) => {
                    world.write(most);
                    prop_assert_eq!(shown(&world.registry), naive(&objects));
                }
            }
        }
        world.write(100);
        prop_assert_eq!(shown(&world.registry), naive(&objects));
        // Everything that should be there is listed, and nothing else.
        let listed: BTreeSet<String> = world.index.records().into_iter().map(|record| world.index.named(record)).collect();
        prop_assert_eq!(listed, world.registry.keys().cloned().collect::<BTreeSet<_>>());
    }
}

#[test]
fn one_endpoint_is_one_write() {
    let mut world = World::new();
    let many = |changed: Option<usize>| -> Vec<Endpoint> {
        let one = |n: usize| {
            let (name, uid) = (format!("pod-{n}"), format!("uid-{n}"));
            endpoint(&format!("10.0.{}.{}", n / 250, n % 250 + 1), Some((&name, &uid)), Some(changed != Some(n)))
        };
        (0..1000).map(one).collect()
    };
    for item in [namespace("a"), service("a", "s", 0), slice("a", "x", Some("s"), many(None))] {
        let touched = world.index.put(&item);
        world.touched(touched);
    }
    world.write(100);
    assert_eq!(world.writes, 1002);
    let touched = world.index.put(&slice("a", "x", Some("s"), many(Some(500))));
    assert!(touched.records.len() <= 2, "{}", touched.records.len());
    world.touched(touched);
    world.write(100);
    assert_eq!(world.writes, 1003);
    // One that leaves the middle moves the others, and costs one write all the same.
    let mut fewer = many(Some(500));
    fewer.remove(3);
    let touched = world.index.put(&slice("a", "x", Some("s"), fewer));
    world.touched(touched);
    world.write(100);
    assert_eq!((world.writes, world.registry.len()), (1004, 1001));
}

#[test]
fn pods_bring_their_hostname_and_ports_their_protocol() {
    let mut world = World::new();
    let pod = objects::Pod {
        metadata: meta("a", "web-0"),
        spec: objects::PodSpec { hostname: "first".into(), subdomain: "web".into() },
        status: objects::PodStatus { pod_ip: "10.0.0.1".into(), ..objects::PodStatus::default() },
    };
    let slice = slice("a", "x", Some("s"), vec![endpoint("10.0.0.1", Some(("web-0", "u")), None)]);
    for item in [namespace("a"), service("a", "s", 0), slice, Item::Pod(Box::new(pod))] {
        let touched = world.index.put(&item);
        world.touched(touched);
    }
    world.write(100);
    let ObjectDocument::Instance(pod) = &world.registry["pod a/web-0"] else { panic!() };
    assert_eq!(pod.hostname.as_deref(), Some("first"));
    assert_eq!(pod.labels.get("fingerpost.io/subdomain"), Some("web"));
    let ObjectDocument::Instance(endpoint) = &world.registry["instance a/s/web-0"] else { panic!() };
    assert_eq!(endpoint.ports[0].app_protocol.as_deref(), Some("h2c"));
}

#[test]
fn a_pod_of_two_families_is_one_instance() {
    let mut world = World::new();
    let v6 = endpoint("fd00::1", Some(("web-0", "u")), None);
    let v4 = endpoint("10.0.0.1", Some(("web-0", "u")), None);
    for item in [
        slice("a", "v6", Some("s"), vec![v6]),
        slice("a", "v4", Some("s"), vec![v4]),
        service("a", "s", 0),
        namespace("a"),
    ] {
        let touched = world.index.put(&item);
        world.touched(touched);
    }
    world.write(100);
    let ObjectDocument::Instance(instance) = &world.registry["instance a/s/web-0"] else { panic!() };
    assert_eq!(instance.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(world.registry.len(), 3);
}

#[test]
fn a_list_that_would_remove_most_is_held_until_it_is_confirmed() {
    let mut world = World::new();
    world.index.put(&namespace("a"));
    for n in 0..300 {
        world.index.put(&service("a", &format!("s{n}"), 0));
    }
    world.index.begin(Resources::Services);
    assert!(matches!(world.index.end(Resources::Services, false), Listed::Held(300)));
    assert_eq!(world.index.objects(Resources::Services), 300);
    // Half and less goes at once.
    world.index.begin(Resources::Services);
    for n in 0..150 {
        world.index.put(&service("a", &format!("s{n}"), 0));
    }
    assert!(matches!(world.index.end(Resources::Services, false), Listed::Removed(_)));
    assert_eq!(world.index.objects(Resources::Services), 150);
    world.index.begin(Resources::Services);
    let Listed::Removed(touched) = world.index.end(Resources::Services, true) else { panic!() };
    assert_eq!((touched.records.len(), world.index.objects(Resources::Services)), (150, 0));
}

#[test]
fn a_list_of_empty_slices_is_held_as_well() {
    let mut world = World::new();
    let many = || {
        let one = |n: usize| endpoint(&format!("10.0.0.{}", n + 1), Some((&format!("p{n}"), &format!("u{n}"))), None);
        (0..150).map(one).collect::<Vec<_>>()
    };
    for item in [namespace("a"), service("a", "s", 0), slice("a", "x", Some("s"), many())] {
        world.index.put(&item);
    }
    let all = |world: &World| world.index.records().len();
    world.index.begin(Resources::EndpointSlices);
    assert!(world.index.put(&slice("a", "x", Some("s"), Vec::new())).records.is_empty());
    assert!(matches!(world.index.end(Resources::EndpointSlices, false), Listed::Held(150)));
    assert_eq!(all(&world), 152);
    world.index.begin(Resources::EndpointSlices);
    world.index.put(&slice("a", "x", Some("s"), many()[..100].to_vec()));
    let Listed::Removed(touched) = world.index.end(Resources::EndpointSlices, false) else { panic!() };
    assert_eq!((touched.records.len(), all(&world)), (50, 102));
    world.index.begin(Resources::EndpointSlices);
    world.index.put(&slice("a", "x", Some("s"), Vec::new()));
    let Listed::Removed(touched) = world.index.end(Resources::EndpointSlices, true) else { panic!() };
    assert_eq!((touched.records.len(), all(&world)), (100, 2));
    // What a watch says is no list.
    world.index.put(&slice("a", "x", Some("s"), many()));
    world.index.put(&slice("a", "x", Some("s"), Vec::new()));
    assert_eq!(all(&world), 2);
}

#[test]
fn strings_of_pods_that_are_gone_are_forgotten() {
    let mut world = World::new();
    for item in [namespace("a"), service("a", "s", 0)] {
        let touched = world.index.put(&item);
        world.touched(touched);
    }
    for round in 0..50 {
        let one = |n: usize| {
            let (name, uid) = (format!("pod-{round}-{n}"), format!("uid-{round}-{n}"));
            endpoint(&format!("10.0.0.{}", n + 1), Some((&name, &uid)), None)
        };
        let touched = world.index.put(&slice("a", "x", Some("s"), (0..200).map(one).collect()));
        world.touched(touched);
        world.write(100);
        world.index.sweep(world.backlog.records());
    }
    assert_eq!(world.registry.len(), 202);
    assert!(world.index.strings.len() < 9000, "{}", world.index.strings.len());
}
