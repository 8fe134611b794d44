//! Random histories of the catalog, after each of which the index answers exactly as a naive model says that is computed
//! from the objects as they ended, and after whose undoing nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::{AllCritical, InstanceView, NamespaceView, ServiceType, ServiceView, ViewChange};
use fingerpost_dns::{Config, MAX_CHAIN};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// With dashes, the last two look the same.
const ADDRESSES: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.96.0.1", "203.0.113.5", "fd00::1", "fd00:2::", "::ffff:10.0.0.1", "::ffff:10:0:0:1"];
/// Some are what endpoints are called that have those addresses and no hostname.
const HOSTNAMES: [&str; 5] = ["host", "Other", "10-0-0-1", "fd00--1", "--ffff-10-0-0-1"];
const ZONES: [&str; 3] = ["cluster.local.", "10.in-addr.arpa.", "d.f.ip6.arpa."];

#[derive(Clone, Debug)]
enum Step {
    Namespace(usize, bool),
    Service(usize, usize, Option<Box<ServiceView>>),
    Instance(usize, usize, usize, Option<Box<InstanceView>>),
}

type Id = (usize, usize);

#[derive(Default, Clone)]
struct World {
    namespaces: BTreeSet<usize>,
    services: BTreeMap<Id, ServiceView>,
    instances: BTreeMap<(usize, usize, usize), InstanceView>,
}

fn ns(n: usize) -> String {
    format!("ns{n}")
}

fn svc(n: usize) -> String {
    format!("svc{n}")
}

impl World {
    fn step(&mut self, step: &Step) -> Option<ViewChange> {
        match step {
            Step::Namespace(n, true) => {
                self.namespaces.insert(*n).then(|| namespace_change(None, Some(&namespace(&ns(*n)))))
            }
            Step::Namespace(n, false) => self.namespaces.remove(n).then(|| {
                let view: NamespaceView = namespace(&ns(*n));
                namespace_change(Some(&view), None)
            }),
            Step::Service(n, s, after) => {
                let before = match after {
                    Some(view) => self.services.insert((*n, *s), (**view).clone()),
                    None => self.services.remove(&(*n, *s)),
                };
                (before.is_some() || after.is_some()).then(|| service_change(before.as_ref(), after.as_deref()))
            }
            Step::Instance(n, s, i, after) => {
                let before = match after {
                    Some(view) => self.instances.insert((*n, *s, *i), (**view).clone()),
                    None => self.instances.remove(&(*n, *s, *i)),
                };
                (before.is_some() || after.is_some()).then(|| instance_change(before.as_ref(), after.as_deref()))
            }
        }
    }
}

type Records = BTreeMap<RecordType, BTreeSet<String>>;

#[derive(Default)]
struct Model {
    names: BTreeMap<String, Records>,
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(v6) => {
            let nibbles: Vec<String> =
                v6.octets().iter().flat_map(|o| [o >> 4, o & 15]).map(|n| format!("{n:x}")).rev().collect();
            format!("{}.ip6.arpa.", nibbles.join("."))
        }
    }
}

fn zone(name: &str) -> Option<&'static str> {
    ZONES.into_iter().find(|zone| name == *zone || name.ends_with(&format!(".{zone}")))
}

impl Model {
    fn exists(&mut self, name: &str) -> &mut Records {
        let mut above = name;
        while zone(name).is_some() {
            self.names.entry(above.to_owned()).or_default();
            if ZONES.contains(&above) {
                break;
            }
            above = above.split_once('.').unwrap().1;
        }
        self.names.entry(name.to_owned()).or_default()
    }

    fn add(&mut self, name: &str, qtype: RecordType, data: impl ToString) {
        self.exists(name).entry(qtype).or_default().insert(data.to_string());
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        let qtype = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        self.add(name, qtype, address);
    }

    fn of(world: &World) -> Self {
        let mut model = Self::default();
        for name in ZONES.into_iter().chain(["svc.cluster.local.", "pod.cluster.local."]) {
            model.exists(name);
        }
        for n in &world.namespaces {
            model.exists(&format!("{}.svc.cluster.local.", ns(*n)));
            model.exists(&format!("{}.pod.cluster.local.", ns(*n)));
        }
        let mut owned: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        let mut endpoints: Vec<(IpAddr, String)> = Vec::new();
        for ((n, s), view) in &world.services {
            let name = format!("{}.{}.svc.cluster.local.", svc(*s), ns(*n));
            let instances: Vec<_> =
                world.instances.iter().filter(|((a, b, _), _)| (a, b) == (n, s)).map(|(_, view)| view).collect();
            let good = |i: &&InstanceView| i.answerable && i.own_addresses().count() > 0;
            let panics = view.all_critical == AllCritical::All && !instances.iter().any(good);
            // Data of SRV without priority and weight, and the weight where one is given.
            let mut srvs: BTreeSet<(String, Option<u16>, u16, String)> = BTreeSet::new();
            let srv_names = |port: &fingerpost_catalog::Port| {
                let own = format!("_{}._tcp.{name}", port.name);
                if port.name.is_empty() { vec![name.clone()] } else { vec![own, name.clone()] }
            };
            match view.service_type {
                ServiceType::ExternalName => {
                    model.exists(&name);
                    if let Some(target) = view.external_name.as_ref().filter(|t| t.parse::<IpAddr>().is_err()) {
                        model.add(&name, RecordType::CNAME, target);
                    }
                    continue;
                }
                ServiceType::ClusterIP => {
                    model.exists(&name);
                    for ip in &view.cluster_ips {
                        model.address(&name, *ip);
                        owned.entry(*ip).or_default().insert(name.clone());
                        for port in &view.ports {
                            srvs.extend(srv_names(port).into_iter().map(|at| (at, None, port.port, name.clone())));
                        }
                    }
                }
                ServiceType::Headless => {}
            }
            for instance in instances.into_iter().filter(|i| i.answerable || (panics && i.panic_answerable)) {
                let ports = if instance.instance.ports.is_empty() { &view.ports } else { &instance.instance.ports };
                for ip in instance.own_addresses() {
                    let mut dashed = ip.to_string().replace(['.', ':'], "-");
                    if dashed.ends_with('-') {
                        dashed.push('0');
                    }
                    let id = Some(&*instance.key.id).filter(|id| !id.contains(['.', ':']));
                    let label = instance.instance.hostname.as_deref().or(id).unwrap_or(&dashed);
                    let endpoint = format!("{}.{name}", label.to_lowercase());
                    model.address(&endpoint, ip);
                    endpoints.push((ip, endpoint.clone()));
                    if view.service_type == ServiceType::Headless {
                        model.address(&name, ip);
                        for port in ports {
                            let weight = instance.instance.weight;
                            let names = srv_names(port).into_iter();
                            srvs.extend(names.map(|at| (at, weight, port.port, endpoint.clone())));
                        }
                    }
                }
            }
            for (at, weight, port, target) in &srvs {
                let count = srvs.iter().filter(|other| other.0 == *at).count();
                let weight = weight.unwrap_or((100 / count).max(1) as u16);
                model.add(at, RecordType::SRV, format!("0 {weight} {port} {target}"));
            }
        }
        for (ip, names) in &owned {
            model.add(&reverse(*ip), RecordType::PTR, names.first().unwrap());
        }
        for (ip, name) in endpoints.iter().filter(|(ip, _)| !owned.contains_key(ip)) {
            model.add(&reverse(*ip), RecordType::PTR, name);
        }
        model
    }

    fn answer(&self, name: &str, qtype: RecordType) -> (ResponseCode, BTreeSet<String>) {
        let mut out = BTreeSet::new();
        let mut at = name.to_owned();
        for _ in 0..=MAX_CHAIN {
            let Some(records) = self.names.get(&at) else {
                return match zone(&at) {
                    Some(_) => (ResponseCode::NXDomain, out),
                    None if at == name => (ResponseCode::Refused, out),
                    None => (ResponseCode::NoError, out),
                };
            };
            let alias = records.get(&RecordType::CNAME).and_then(BTreeSet::first);
            match alias {
                Some(target) => {
                    out.insert(target.clone());
                    if qtype == RecordType::CNAME {
                        return (ResponseCode::NoError, out);
                    }
                    at = target.clone();
                }
                None => {
                    out.extend(records.get(&qtype).into_iter().flatten().cloned());
                    return (ResponseCode::NoError, out);
                }
            }
        }
        (ResponseCode::ServFail, out)
    }
}

fn ports() -> impl Strategy<Value = Vec<fingerpost_catalog::Port>> {
    proptest::sample::subsequence(vec![port("http", 80), port("", 81), port("sql", 5432)], 0..=3)
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    proptest::sample::subsequence(ADDRESSES.to_vec(), 0..=3).prop_map(|list| list.into_iter().map(ip).collect())
}

fn service_view(n: usize, s: usize) -> impl Strategy<Value = ServiceView> {
    let kind = prop_oneof![
        3 => Just(ServiceType::Headless),
        2 => Just(ServiceType::ClusterIP),
        1 => Just(ServiceType::ExternalName)
    ];
    let target = prop_oneof![
        (0..2usize, 0..3usize).prop_map(|(n, s)| format!("{}.{}.svc.cluster.local.", svc(s), ns(n))),
        Just("example.com.".to_owned()),
        Just("192.0.2.1".to_owned())
    ];
    (kind, addresses(), ports(), target, any::<bool>()).prop_map(
        move |(service_type, cluster_ips, ports, target, all)| ServiceView {
            cluster_ips,
            ports,
            external_name: Some(target),
            all_critical: if all { AllCritical::All } else { AllCritical::None },
            ..service(&ns(n), &svc(s), service_type)
        },
    )
}

fn instance_view(n: usize, s: usize, i: usize) -> impl Strategy<Value = InstanceView> {
    let hostname = proptest::option::of(proptest::sample::select(HOSTNAMES.to_vec()));
    let weight = proptest::option::of(Just(3u16));
    let own_ports = prop_oneof![2 => Just(Vec::new()), 1 => ports()];
    (addresses(), addresses(), own_ports, hostname, weight, any::<bool>(), any::<bool>()).prop_map(
        move |(addresses, shadowed, ports, hostname, weight, answerable, panic_answerable)| {
            let id = ["one", "two", "a.b", "c:d"][i];
            let mut view = instance(&ns(n), &svc(s), id, &[]);
            view.shadowed = shadowed.into_iter().take(1).filter(|a| addresses.contains(a)).collect();
            view.instance.addresses = addresses;
            view.instance.ports = ports;
            view.instance.hostname = hostname.map(str::to_owned);
            view.instance.weight = weight;
            InstanceView { answerable, panic_answerable, ..view }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..2usize, any::<bool>()).prop_map(|(n, on)| Step::Namespace(n, on)),
        3 => (0..2usize, 0..3usize).prop_flat_map(|(n, s)| {
            proptest::option::weighted(0.8, service_view(n, s)).prop_map(move |view| Step::Service(n, s, view.map(Box::new)))
        }),
        6 => (0..2usize, 0..3usize, 0..4usize).prop_flat_map(|(n, s, i)| {
            proptest::option::weighted(0.8, instance_view(n, s, i)).prop_map(move |v| Step::Instance(n, s, i, v.map(Box::new)))
        }),
    ]
}

fn two_zones() -> Dns {
    let dns = Dns::with(Config { aliases: vec!["example.org".parse().unwrap()], ..Config::default() });
    dns.index.set_synced(at(1));
    dns
}

fn agree(dns: &mut Dns, model: &Model, names: &BTreeSet<String>) -> Result<(), TestCaseError> {
    use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
    for name in names {
        for qtype in [A, AAAA, SRV, CNAME, PTR, TXT] {
            let (rcode, data) = dns.data(name, qtype);
            let (expected, mut set) = model.answer(name, qtype);
            if expected == ResponseCode::ServFail {
                // An error, and no part of the loop.
                set.clear();
            }
            prop_assert_eq!((rcode, &data), (expected, &set), "{} {}", name, qtype);
            // The other zone answers the same in its own words.
            if let Some(own) = name.strip_suffix("cluster.local.") {
                let respelt = |text: &String| match text.strip_suffix(".cluster.local.") {
                    Some(own) => format!("{own}.example.org."),
                    None => text.clone(),
                };
                let answer = dns.data(&format!("{own}example.org."), qtype);
                prop_assert_eq!(answer, (expected, set.iter().map(respelt).collect()), "{} {} elsewhere", name, qtype);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_objects(
        steps in proptest::collection::vec(step(), 1..40),
        per_change in 1usize..6,
    ) {
        let mut dns = two_zones();
        let base = dns.index.stats();
        let mut world = World::default();
        let mut names: BTreeSet<String> = ZONES.iter().chain(&["x.cluster.local.", "svc0.ns0.svc.cluster.local.",
            "5.113.0.203.in-addr.arpa.", "113.0.203.in-addr.arpa."]).map(|&name| name.to_owned()).collect();
        for some in steps.chunks(per_change) {
            let changes: Vec<_> = some.iter().filter_map(|step| world.step(step)).collect();
            dns.apply(changes);
            // Names of the past are asked again: they must be gone.
            names.extend(Model::of(&world).names.into_keys());
        }
        agree(&mut dns, &Model::of(&world), &names)?;

        // Loaded at once, in another order, it is the same.
        let mut loaded = two_zones();
        world.namespaces.iter().for_each(|n| loaded.index.load_namespace(&namespace(&ns(*n))));
        world.instances.values().for_each(|view| loaded.index.load_instance(view.clone().into()));
        world.services.values().for_each(|view| loaded.index.load_service(view));
        prop_assert_eq!(loaded.index.stats(), dns.index.stats());
        agree(&mut loaded, &Model::of(&world), &names)?;

        let mut undo: Vec<Step> = world.namespaces.iter().map(|n| Step::Namespace(*n, false)).collect();
        undo.extend(world.services.keys().map(|(n, s)| Step::Service(*n, *s, None)));
        undo.extend(world.instances.keys().map(|(n, s, i)| Step::Instance(*n, *s, *i, None)));
        let changes: Vec<_> = undo.iter().filter_map(|step| world.step(step)).collect();
        dns.apply(changes);
        prop_assert_eq!(dns.index.stats(), base);
        agree(&mut dns, &Model::of(&world), &names)?;
    }
}
