//! The Kubernetes DNS specification 1.1.0 rule by rule (§2.2 to §2.5), then what CoreDNS adds to it, then what becomes of
//! several sources under one name. Here the catalog's replica makes the views, as in a running server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::{Dns, at, ip, set};
use fingerpost_catalog::{
    Change, ChangeSet, Conditions, Instance, InstanceKey, Key, Namespace, Pod, Port, Protocol, Record, Replica,
    Service, ServiceType,
};
use fingerpost_dns::{Config, EndpointNames};
use hickory_proto::op::ResponseCode::{NXDomain, NoError};
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, CNAME, HINFO, MX, NS, PTR, SOA, SRV, TXT};
use std::sync::Arc;

/// A replica of the catalog with an index behind it.
struct Cluster {
    replica: Replica,
    dns: Dns,
    number: u64,
}

const OWN: &str = "kubernetes/own";

impl Cluster {
    fn with(config: Config) -> Self {
        let mut replica = Replica::new("own");
        replica.loaded(at(1));
        let dns = Dns::with(config);
        dns.index.set_synced(at(1));
        Self { replica, dns, number: 1 }
    }

    fn new() -> Self {
        Self::with(Config { name_servers: vec![ip("10.96.0.10")], ..Config::default() })
    }

    fn change(&mut self, key: Key, record: Option<Record>) {
        self.number += 1;
        let changes = vec![Change { key, record: record.map(Arc::new) }];
        let effects = self.replica.apply(&ChangeSet { position: at(self.number), changes });
        self.dns.index.apply(&effects);
    }

    fn service(&mut self, source: &str, name: &str, service: Service) {
        let key = Key::Service { namespace: "testns".into(), name: name.into(), source: source.parse().unwrap() };
        self.change(key, Some(Record::Service(service)));
    }

    fn instance(&mut self, source: &str, service: &str, id: &str, instance: Option<Instance>) {
        let key = InstanceKey {
            namespace: "testns".into(),
            service: Some(service.into()),
            source: source.parse().unwrap(),
            id: id.into(),
        };
        self.change(Key::Instance(key), instance.map(Record::Instance));
    }

    /// The data at a name below `testns.svc`.
    fn at(&mut self, name: &str, qtype: RecordType) -> Vec<String> {
        let (rcode, data) = self.dns.data(&format!("{name}.testns.svc.cluster.local"), qtype);
        assert_eq!(rcode, NoError, "{name} {qtype}");
        data.into_iter().collect()
    }

    fn missing(&mut self, name: &str) {
        for qtype in [A, AAAA, SRV, TXT] {
            let reply = self.dns.ask(&format!("{name}.testns.svc.cluster.local"), qtype);
            assert!(reply.is_negative(NXDomain), "{name} {qtype}");
        }
    }

    fn empty(&mut self, name: &str, qtypes: &[RecordType]) {
        for &qtype in qtypes {
            let reply = self.dns.ask(&format!("{name}.testns.svc.cluster.local"), qtype);
            assert!(reply.is_negative(NoError), "{name} {qtype}");
        }
    }

    fn pointer(&mut self, address: &str) -> Vec<String> {
        let (rcode, data) = self.dns.data(&reverse(address), PTR);
        assert_eq!(rcode, if data.is_empty() { NXDomain } else { NoError }, "{address}");
        data.into_iter().collect()
    }
}

fn reverse(address: &str) -> String {
    match ip(address) {
        std::net::IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        std::net::IpAddr::V6(v6) => {
            let digits = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            digits.map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

fn port(name: &str, port: u16, protocol: Protocol) -> Port {
    Port { name: name.to_owned(), port, protocol, app_protocol: None }
}

fn ports() -> Vec<Port> {
    vec![port("http", 80, Protocol::Tcp), port("dns", 53, Protocol::Udp), port("", 9000, Protocol::Tcp)]
}

fn cluster_ip(ips: &[&str]) -> Service {
    Service {
        service_type: ServiceType::ClusterIP,
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ports: ports(),
        ..Service::default()
    }
}

fn headless() -> Service {
    Service { ports: ports(), ..Service::default() }
}

fn external(name: &str) -> Service {
    Service {
        service_type: ServiceType::ExternalName,
        external_name: Some(name.to_owned()),
        ports: ports(),
        ..Service::default()
    }
}

/// An endpoint as the Kubernetes source writes it, with the pod's name as id.
fn endpoint(addresses: &[&str], pod: &str) -> Option<Instance> {
    Some(Instance {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        pod: Some(Pod { name: pod.to_owned(), uid: String::new() }),
        ..Instance::default()
    })
}

fn with_hostname(instance: Option<Instance>, hostname: &str) -> Option<Instance> {
    instance.map(|instance| Instance { hostname: Some(hostname.to_owned()), ..instance })
}

fn ready(instance: Option<Instance>, ready: Option<bool>) -> Option<Instance> {
    let conditions = Conditions { ready, serving: Some(true), terminating: Some(ready == Some(false)) };
    instance.map(|instance| Instance { conditions, ..instance })
}

#[test]
fn schema_version_2_2() {
    let mut cluster = Cluster::new();
    let reply = cluster.dns.ask("dns-version.cluster.local", TXT);
    assert_eq!((reply.rcode(), reply.data()), (NoError, set(&["1.1.0"])));
    assert_eq!(reply.message.answers[0].ttl, 28_800);
    assert!(cluster.dns.ask("dns-version.cluster.local", A).is_negative(NoError));
}

#[test]
fn services_with_a_cluster_ip_2_3() {
    let mut cluster = Cluster::new();
    cluster.service(OWN, "web", cluster_ip(&["10.96.0.1", "fd96::1"]));
    // §2.3.1, both families.
    assert_eq!(cluster.at("web", A), ["10.96.0.1"]);
    assert_eq!(cluster.at("web", AAAA), ["fd96::1"]);
    // §2.3.2: named ports only, by name and protocol.
    let target = "web.testns.svc.cluster.local.";
    assert_eq!(cluster.at("_http._tcp.web", SRV), [format!("0 100 80 {target}")]);
    assert_eq!(cluster.at("_dns._udp.web", SRV), [format!("0 100 53 {target}")]);
    for name in ["_dns._tcp.web", "_http._udp.web", "_9000._tcp.web", "http.tcp.web", "_http.tcp.web"] {
        cluster.missing(name);
    }
    // §2.3.3, both families, and one pointer even though an endpoint has the address, too.
    cluster.instance(OWN, "web", "odd", endpoint(&["10.96.0.1"], "odd"));
    assert_eq!(cluster.pointer("10.96.0.1"), [target]);
    assert_eq!(cluster.pointer("fd96::1"), [target]);
    // One family only: the other is no record, but no NXDOMAIN.
    cluster.service(OWN, "four", cluster_ip(&["10.96.0.2"]));
    cluster.empty("four", &[AAAA, TXT, MX, PTR, HINFO, NS, SOA]);
    // Nothing else below it, and nothing deeper.
    for name in ["x.web", "a.b.web", "a._http._tcp.web", "a.b.c.web"] {
        cluster.missing(name);
    }
    cluster.empty("_tcp.web", &[A, SRV]);
}

#[test]
fn headless_services_2_4() {
    let mut cluster = Cluster::new();
    cluster.service(OWN, "db", headless());
    // §2.4.1: no ready endpoint, no name.
    cluster.missing("db");
    cluster.instance(OWN, "db", "db-0", with_hostname(endpoint(&["10.1.0.1", "fd01::1"], "db-0"), "zero"));
    cluster.instance(OWN, "db", "db-1", endpoint(&["10.1.0.2"], "db-1"));
    cluster.instance(OWN, "db", "db-2", endpoint(&["fd01::3"], "db-2"));
    // Several with one hostname.
    cluster.instance(OWN, "db", "db-3", with_hostname(endpoint(&["10.1.0.4"], "db-3"), "zero"));
    cluster.instance(OWN, "db", "db-4", ready(endpoint(&["10.1.0.5"], "db-4"), Some(false)));
    cluster.instance(OWN, "db", "db-5", ready(endpoint(&["10.1.0.6"], "db-5"), None));
    assert_eq!(cluster.at("db", A), ["10.1.0.1", "10.1.0.2", "10.1.0.4", "10.1.0.6"]);
    assert_eq!(cluster.at("db", AAAA), ["fd01::1", "fd01::3"]);
    assert_eq!(cluster.at("zero.db", A), ["10.1.0.1", "10.1.0.4"]);
    assert_eq!(cluster.at("zero.db", AAAA), ["fd01::1"]);
    assert_eq!(cluster.at("10-1-0-2.db", A), ["10.1.0.2"]);
    assert_eq!(cluster.at("fd01--3.db", AAAA), ["fd01::3"]);
    cluster.empty("10-1-0-2.db", &[AAAA, SRV, TXT]);
    for name in ["db-0.db", "db-1.db", "10-1-0-1.db", "10-1-0-5.db", "x.zero.db"] {
        cluster.missing(name);
    }
    // §2.4.2: each target once for each named port, with the addresses beside it.
    let target = |label: &str| format!("{label}.db.testns.svc.cluster.local.");
    let labels = ["zero", "10-1-0-2", "fd01--3", "10-1-0-6"];
    for (name, number) in [("_http._tcp.db", 80), ("_dns._udp.db", 53)] {
        let mut expected: Vec<_> = labels.iter().map(|label| format!("0 25 {number} {}", target(label))).collect();
        expected.sort();
        assert_eq!(cluster.at(name, SRV), expected);
    }
    let glue = cluster.dns.ask("_http._tcp.db.testns.svc.cluster.local", SRV).message.additionals;
    assert_eq!(glue.len(), 6);
    // §2.4.3.
    for (address, label) in
        [("10.1.0.1", "zero"), ("fd01::1", "zero"), ("10.1.0.2", "10-1-0-2"), ("fd01::3", "fd01--3")]
    {
        assert_eq!(cluster.pointer(address), [target(label)]);
    }
    assert!(cluster.pointer("10.1.0.5").is_empty());
    // `publishNotReadyAddresses`.
    cluster.service(OWN, "db", Service { publish_not_ready: true, ..headless() });
    assert_eq!(cluster.at("10-1-0-5.db", A), ["10.1.0.5"]);
    // One family only.
    cluster.service(OWN, "six", headless());
    cluster.instance(OWN, "six", "a", endpoint(&["fd01::9"], "a"));
    cluster.empty("six", &[A]);
    // Without ports there are addresses, and no SRV.
    cluster.service(OWN, "portless", Service::default());
    cluster.instance(OWN, "portless", "a", endpoint(&["10.1.1.1"], "a"));
    assert_eq!(cluster.at("portless", A), ["10.1.1.1"]);
    cluster.empty("portless", &[SRV]);
    cluster.instance(OWN, "portless", "a", None);
    cluster.missing("portless");
}

#[test]
fn external_names_2_5() {
    let mut cluster = Cluster::new();
    cluster.service(OWN, "web", cluster_ip(&["10.96.0.1", "fd96::1"]));
    cluster.service(OWN, "in", external("web.testns.svc.cluster.local"));
    cluster.service(OWN, "out", external("www.example.com"));
    cluster.service(OWN, "address", external("192.0.2.1"));
    cluster.service(OWN, "six", external("2001:db8::1"));
    let target = "web.testns.svc.cluster.local.".to_owned();
    assert_eq!(cluster.at("in", A), ["10.96.0.1".to_owned(), target.clone()]);
    assert_eq!(cluster.at("in", AAAA), ["fd96::1".to_owned(), target.clone()]);
    assert_eq!(cluster.at("in", CNAME), [target]);
    for qtype in [A, AAAA, CNAME, TXT, ANY] {
        assert_eq!(cluster.at("out", qtype), ["www.example.com."]);
    }
    for name in ["address", "six"] {
        cluster.empty(name, &[A, AAAA, CNAME, SRV]);
    }
    for name in ["_http._tcp.out", "x.out", "_http._tcp.in"] {
        cluster.missing(name);
    }
    // A service of another kind takes the name over, and gives it back.
    cluster.service(OWN, "out", cluster_ip(&["10.96.0.3"]));
    assert_eq!(cluster.at("out", A), ["10.96.0.3"]);
    cluster.service(OWN, "out", external("www.example.com"));
    assert_eq!(cluster.at("out", A), ["www.example.com."]);
    assert!(cluster.pointer("10.96.0.3").is_empty());
}

#[test]
fn endpoints_of_services_with_a_cluster_ip() {
    let mut cluster = Cluster::new();
    cluster.service(OWN, "web", cluster_ip(&["10.96.0.1"]));
    cluster.instance(OWN, "web", "web-1", endpoint(&["172.16.0.1", "fd01::1"], "web-1"));
    cluster.instance(OWN, "web", "web-2", with_hostname(endpoint(&["172.16.0.2"], "web-2"), "two"));
    assert_eq!(cluster.at("172-16-0-1.web", A), ["172.16.0.1"]);
    assert_eq!(cluster.at("fd01--1.web", AAAA), ["fd01::1"]);
    assert_eq!(cluster.at("two.web", A), ["172.16.0.2"]);
    assert_eq!(cluster.pointer("172.16.0.1"), ["172-16-0-1.web.testns.svc.cluster.local."]);
    assert_eq!(cluster.pointer("172.16.0.2"), ["two.web.testns.svc.cluster.local."]);
    // They change nothing at the service's own name, and it does not need them.
    assert_eq!(cluster.at("web", A), ["10.96.0.1"]);
    assert_eq!(cluster.at("_http._tcp.web", SRV).len(), 1);
    for id in ["web-1", "web-2"] {
        cluster.instance(OWN, "web", id, None);
    }
    assert_eq!(cluster.at("web", A), ["10.96.0.1"]);
    cluster.missing("172-16-0-1.web");
}

#[test]
fn srv_at_the_bare_name_and_weights() {
    let mut cluster = Cluster::new();
    cluster.service(OWN, "web", cluster_ip(&["10.96.0.1"]));
    let target = "web.testns.svc.cluster.local.";
    let expected: Vec<_> = ["53", "80", "9000"].iter().map(|port| format!("0 33 {port} {target}")).collect();
    assert_eq!(cluster.at("web", SRV), expected);
    cluster.service(OWN, "db", headless());
    for n in 0..40u8 {
        cluster.instance(OWN, "db", &format!("db-{n}"), endpoint(&[&format!("10.1.0.{n}")], &format!("db-{n}")));
    }
    assert_eq!(cluster.at("db", SRV).len(), 120);
    assert!(cluster.at("db", SRV).iter().all(|data| data.starts_with("0 1 ")), "at least 1");
    assert!(cluster.at("_http._tcp.db", SRV).iter().all(|data| data.starts_with("0 2 ")));
}

#[test]
fn names_of_the_zone_and_negative_answers() {
    let mut cluster = Cluster::new();
    cluster.change(
        Key::Namespace { name: "hollow".into(), source: OWN.parse().unwrap() },
        Some(Record::Namespace(Namespace::default())),
    );
    cluster.service(OWN, "web", cluster_ip(&["10.96.0.1"]));
    for name in ["cluster.local", "svc.cluster.local", "pod.cluster.local", "testns.svc.cluster.local"] {
        for qtype in [A, AAAA, SRV, TXT, MX, HINFO] {
            assert!(cluster.dns.ask(name, qtype).is_negative(NoError), "{name} {qtype}");
        }
    }
    for name in ["hollow.svc.cluster.local", "hollow.pod.cluster.local", "testns.pod.cluster.local"] {
        assert!(cluster.dns.ask(name, A).is_negative(NoError), "{name}");
    }
    for name in ["foo.cluster.local", "no.svc.cluster.local", "no.pod.cluster.local", "web.no.svc.cluster.local"] {
        assert!(cluster.dns.ask(name, A).is_negative(NXDomain), "{name}");
    }
    let negative = cluster.dns.ask("x.testns.svc.Cluster.LOCAL", A);
    let soa = &negative.message.authorities[0];
    assert_eq!((soa.name.to_string().as_str(), soa.ttl), ("Cluster.LOCAL.", 5));
    let serial = cluster.number;
    let expected = format!("ns.dns.Cluster.LOCAL. hostmaster.Cluster.LOCAL. {serial} 7200 1800 86400 5");
    assert_eq!(soa.data.to_string(), expected);
    // The serial moves with what is known.
    cluster.service(OWN, "web", cluster_ip(&["10.96.0.2"]));
    let soa = cluster.dns.data("cluster.local", SOA).1;
    assert_eq!(
        soa,
        set(&[&format!("ns.dns.cluster.local. hostmaster.cluster.local. {} 7200 1800 86400 5", serial + 1)])
    );
    let ns = cluster.dns.ask("cluster.local", NS);
    assert_eq!(ns.data(), set(&["ns.dns.cluster.local."]));
    let glue = &ns.message.additionals[0];
    assert_eq!((glue.name.to_string(), glue.data.to_string()), ("ns.dns.cluster.local.".into(), "10.96.0.10".into()));
    // Names are the same in any case, and answers keep that of the question.
    let reply = cluster.dns.ask("WEB.TestNS.svc.cluster.LOCAL", A);
    assert_eq!(reply.message.answers[0].name.to_string(), "WEB.TestNS.svc.cluster.LOCAL.");
    // No wildcards.
    for name in ["*.testns.svc.cluster.local", "web.*.svc.cluster.local", "any.any.svc.cluster.local"] {
        assert!(cluster.dns.ask(name, A).is_negative(NXDomain), "{name}");
    }
    // Pointers of what belongs to no service.
    assert!(cluster.pointer("10.1.2.3").is_empty());
    assert!(cluster.pointer("10.96.0.1").is_empty(), "it is another address now");
}

/// Records of the cluster, of a registered process and of another cluster under one service name.
#[test]
fn sources_merge_under_one_name() {
    let mut cluster = Cluster::with(Config { endpoint_names: EndpointNames::Pod, ..Config::default() });
    cluster.service(OWN, "web", headless());
    cluster.instance(OWN, "web", "web-0", endpoint(&["10.1.0.1"], "web-0"));
    let plain = |address: &str| Some(Instance { addresses: vec![ip(address)], ..Instance::default() });
    cluster.instance("api", "web", "vm-1", plain("192.168.0.1"));
    cluster.instance("kubernetes/other", "web", "far-0", endpoint(&["10.2.0.1"], "far-0"));
    assert_eq!(cluster.at("web", A), ["10.1.0.1", "10.2.0.1", "192.168.0.1"]);
    for (label, address) in [("web-0", "10.1.0.1"), ("vm-1", "192.168.0.1"), ("far-0", "10.2.0.1")] {
        assert_eq!(cluster.at(&format!("{label}.web"), A), [address]);
        assert_eq!(cluster.pointer(address), [format!("{label}.web.testns.svc.cluster.local.")]);
    }
    // The cluster's word on the service counts; registering it as something else changes nothing.
    cluster.service("api", "web", cluster_ip(&["10.96.9.9"]));
    assert_eq!(cluster.at("web", A).len(), 3);
    assert!(cluster.pointer("10.96.9.9").is_empty());
    // So does its word on an address: a registered record of one that is not ready does not bring it back.
    cluster.instance("api", "web", "copy", plain("10.1.0.1"));
    cluster.instance(OWN, "web", "web-0", ready(endpoint(&["10.1.0.1"], "web-0"), Some(false)));
    assert_eq!(cluster.at("web", A), ["10.2.0.1", "192.168.0.1"]);
    cluster.missing("copy.web");
    // When the cluster lets go of both, what is registered stands for itself.
    cluster.instance(OWN, "web", "web-0", None);
    assert_eq!(cluster.at("copy.web", A), ["10.1.0.1"]);
    let key = Key::Service { namespace: "testns".into(), name: "web".into(), source: OWN.parse().unwrap() };
    cluster.change(key, None);
    assert_eq!(cluster.at("web", A), ["10.96.9.9"]);
}
