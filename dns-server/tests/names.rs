//! Which names exist, and what they answer: the Kubernetes DNS specification 1.1.0, and what lies beyond it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::{AllCritical, InstanceView, ServiceView};
use fingerpost_dns::{Config, MAX_CHAIN};
use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused, ServFail};
use hickory_proto::rr::RecordType::{self, A, AAAA, ANY, CNAME, HINFO, MX, NS, PTR, SOA, SRV, TXT};

#[test]
fn before_the_first_sync_nothing_is_denied() {
    let mut dns = Dns::unsynced();
    dns.load(&[cluster_ip("prod", "web", &["10.96.0.1"], &[])], &[]);
    for name in ["web.prod.svc.cluster.local", "x.prod.svc.cluster.local", "cluster.local", "1.0.0.10.in-addr.arpa"] {
        assert_eq!(dns.data(name, A), (ServFail, set(&[])), "{name}");
    }
    assert_eq!(dns.data("1.113.0.203.in-addr.arpa", PTR).0, ServFail);
    assert_eq!(dns.data("example.com", A).0, Refused);
    dns.index.set_synced(at(1));
    assert_eq!(dns.data("web.prod.svc.cluster.local", A), (NoError, set(&["10.96.0.1"])));
    assert_eq!(dns.data("x.prod.svc.cluster.local", A).0, NXDomain);
}

#[test]
fn cluster_ip_services() {
    let mut dns = Dns::new();
    let ports = [port("http", 80), port("", 81)];
    dns.load(
        &[cluster_ip("prod", "web", &["10.96.0.1", "fd00::1"], &ports)],
        &[critical(instance("prod", "web", "web-0", &["10.0.0.1"])), instance("prod", "web", "a.b", &["10.0.0.2"])],
    );
    let name = "web.prod.svc.cluster.local";
    assert_eq!(dns.data(name, A), (NoError, set(&["10.96.0.1"])));
    assert_eq!(dns.data(name, AAAA), (NoError, set(&["fd00::1"])));
    let srv = dns.ask("_http._tcp.web.prod.svc.cluster.local", SRV);
    assert_eq!(srv.data(), set(&["0 100 80 web.prod.svc.cluster.local."]));
    let glue: Vec<_> = srv.message.additionals.iter().map(|r| (r.name.to_string(), r.data.to_string())).collect();
    let owner = || "web.prod.svc.cluster.local.".to_owned();
    assert_eq!(glue, [(owner(), "10.96.0.1".to_owned()), (owner(), "fd00::1".to_owned())]);
    // All ports, the unnamed, too; the target's addresses once.
    let all = dns.ask(name, SRV);
    assert_eq!(all.data(), set(&["0 50 80 web.prod.svc.cluster.local.", "0 50 81 web.prod.svc.cluster.local."]));
    assert_eq!(all.message.additionals.len(), 2);
    assert!(dns.ask("_tcp.web.prod.svc.cluster.local", SRV).is_negative(NoError));
    assert!(dns.ask("_http._udp.web.prod.svc.cluster.local", SRV).is_negative(NXDomain));
    // Endpoints have names, too, where they are answered.
    assert_eq!(dns.data("10-0-0-2.web.prod.svc.cluster.local", A), (NoError, set(&["10.0.0.2"])));
    assert!(dns.ask("web-0.web.prod.svc.cluster.local", A).is_negative(NXDomain));
    assert_eq!(dns.data("1.0.96.10.in-addr.arpa", PTR), (NoError, set(&["web.prod.svc.cluster.local."])));
    assert_eq!(dns.data("2.0.0.10.in-addr.arpa", PTR).1, set(&["10-0-0-2.web.prod.svc.cluster.local."]));
    assert!(dns.ask("1.0.0.10.in-addr.arpa", PTR).is_negative(NXDomain));
}

#[test]
fn headless_services() {
    let mut dns = Dns::new();
    let mut named = instance("prod", "db", "x.1", &["10.0.0.1", "fd00::"]);
    named.instance.hostname = Some("DB-0".to_owned());
    named.instance.weight = Some(7);
    let mut own_ports = instance("prod", "db", "db-1", &["10.0.0.2"]);
    own_ports.instance.ports = vec![port("admin", 9000)];
    dns.load(
        &[headless("prod", "db", &[port("sql", 5432)])],
        &[named, own_ports, instance("prod", "db", "x.2", &["10.0.0.3", "fd00:1::"])],
    );
    let name = "db.prod.svc.cluster.local";
    assert_eq!(dns.data(name, A).1, set(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    assert_eq!(dns.data(name, AAAA).1, set(&["fd00::", "fd00:1::"]));
    assert_eq!(dns.data("db-0.db.prod.svc.cluster.local", AAAA).1, set(&["fd00::"]));
    assert_eq!(dns.data("fd00-1--0.db.prod.svc.cluster.local", AAAA).1, set(&["fd00:1::"]));
    assert!(dns.ask("fd00-1--0.db.prod.svc.cluster.local", A).is_negative(NoError));
    let srv = dns.ask("_sql._tcp.db.prod.svc.cluster.local", SRV);
    assert_eq!(
        srv.data(),
        set(&[
            "0 7 5432 db-0.db.prod.svc.cluster.local.",
            "0 33 5432 10-0-0-3.db.prod.svc.cluster.local.",
            "0 33 5432 fd00-1--0.db.prod.svc.cluster.local.",
        ])
    );
    assert_eq!(srv.message.additionals.len(), 4);
    assert_eq!(
        dns.data("_admin._tcp.db.prod.svc.cluster.local", SRV).1,
        set(&["0 100 9000 db-1.db.prod.svc.cluster.local."])
    );
    assert_eq!(dns.ask(name, SRV).message.answers.len(), 4);
    assert_eq!(dns.data("1.0.0.10.in-addr.arpa", PTR).1, set(&["db-0.db.prod.svc.cluster.local."]));
    // Everything goes with the last instance (specification §2.4.1), and the service stays unknown to DNS.
    dns.load(&[headless("prod", "gone", &[port("sql", 1)])], &[]);
    assert!(dns.ask("gone.prod.svc.cluster.local", A).is_negative(NXDomain));
    assert!(dns.ask("_sql._tcp.gone.prod.svc.cluster.local", SRV).is_negative(NXDomain));
}

#[test]
fn weights_follow_the_number_of_targets() {
    let mut dns = Dns::new();
    dns.load(&[headless("prod", "db", &[port("sql", 5432)])], &[]);
    let weights = |dns: &mut Dns| -> Vec<String> {
        let data = dns.data("_sql._tcp.db.prod.svc.cluster.local", SRV).1;
        data.iter().map(|data| data.split(' ').nth(1).unwrap().to_owned()).collect()
    };
    for count in 1..=150 {
        let id = format!("db-{count}");
        dns.load(&[], &[instance("prod", "db", &id, &[&format!("10.0.1.{count}")])]);
        let expected = (100 / count).max(1).to_string();
        assert!(weights(&mut dns).iter().all(|weight| *weight == expected), "{count}");
    }
}

#[test]
fn shared_addresses_and_labels_are_counted() {
    let mut dns = Dns::new();
    let one = instance("prod", "db", "one", &["10.0.0.1"]);
    let mut two = instance("prod", "db", "two", &["10.0.0.1", "10.0.0.2"]);
    two.instance.hostname = Some("one".to_owned());
    dns.load(&[headless("prod", "db", &[])], &[one.clone(), two.clone()]);
    let name = "db.prod.svc.cluster.local";
    assert_eq!(dns.ask(name, A).message.answers.len(), 2);
    assert_eq!(dns.data("one.db.prod.svc.cluster.local", A).1, set(&["10.0.0.1", "10.0.0.2"]));
    dns.apply(vec![instance_change(Some(&two), None)]);
    assert_eq!(dns.data(name, A).1, set(&["10.0.0.1"]));
    dns.apply(vec![instance_change(Some(&one), None)]);
    assert!(dns.ask(name, A).is_negative(NXDomain));
}

#[test]
fn shadowed_addresses_are_the_other_record_s() {
    let mut dns = Dns::new();
    let view =
        InstanceView { shadowed: vec![ip("10.0.0.1")], ..instance("prod", "db", "one", &["10.0.0.1", "10.0.0.2"]) };
    dns.load(&[headless("prod", "db", &[])], &[view]);
    assert_eq!(dns.data("db.prod.svc.cluster.local", A).1, set(&["10.0.0.2"]));
    assert_eq!(dns.data("one.db.prod.svc.cluster.local", A).1, set(&["10.0.0.2"]));
}

#[test]
fn all_critical_brings_them_back_and_the_first_good_one_ends_it() {
    let mut dns = Dns::new();
    let good: Vec<_> = (0..3).map(|n| instance("prod", "db", &format!("db-{n}"), &[&format!("10.0.0.{n}")])).collect();
    let mut bad: Vec<_> = good.iter().cloned().map(critical).collect();
    bad[2].panic_answerable = false;
    let view = ServiceView { all_critical: AllCritical::All, ..headless("prod", "db", &[]) };
    dns.load(std::slice::from_ref(&view), &good);
    let name = "db.prod.svc.cluster.local";
    dns.apply(vec![instance_change(Some(&good[0]), Some(&bad[0])), instance_change(Some(&good[1]), Some(&bad[1]))]);
    assert_eq!(dns.data(name, A).1, set(&["10.0.0.2"]));
    dns.apply(vec![instance_change(Some(&good[2]), Some(&bad[2]))]);
    assert_eq!(dns.data(name, A).1, set(&["10.0.0.0", "10.0.0.1"]));
    let plain = headless("prod", "db", &[]);
    dns.apply(vec![service_change(Some(&view), Some(&plain))]);
    assert!(dns.ask(name, A).is_negative(NXDomain));
    dns.apply(vec![service_change(Some(&plain), Some(&view))]);
    dns.apply(vec![instance_change(Some(&bad[1]), Some(&good[1]))]);
    assert_eq!(dns.data(name, A).1, set(&["10.0.0.1"]));
    assert!(dns.ask("db-0.db.prod.svc.cluster.local", A).is_negative(NXDomain));
}

#[test]
fn aliases() {
    let mut dns = Dns::new();
    dns.load(
        &[
            cluster_ip("prod", "web", &["10.96.0.1"], &[]),
            external("prod", "inner", "Web.prod.svc.cluster.LOCAL."),
            external("prod", "outer", "example.com"),
            external("prod", "dead", "nothing.prod.svc.cluster.local"),
            external("prod", "address", "192.0.2.1"),
            external("prod", "a", "b.prod.svc.cluster.local"),
            external("prod", "b", "a.prod.svc.cluster.local"),
        ],
        &[instance("prod", "outer", "i-1", &["10.0.0.1"])],
    );
    let web = "web.prod.svc.cluster.local.";
    assert_eq!(dns.data("inner.prod.svc.cluster.local", A), (NoError, set(&[web, "10.96.0.1"])));
    assert_eq!(dns.data("inner.prod.svc.cluster.local", CNAME), (NoError, set(&[web])));
    assert_eq!(dns.data("inner.prod.svc.cluster.local", ANY), (NoError, set(&[web])));
    // The alias stays when its target lacks the type, with the SOA that says so (RFC 2308 §2.2).
    let lacking = dns.ask("inner.prod.svc.cluster.local", AAAA);
    assert_eq!((lacking.rcode(), lacking.data()), (NoError, set(&[web])));
    assert_eq!(lacking.message.authorities.len(), 1);
    let dead = dns.ask("dead.prod.svc.cluster.local", A);
    assert_eq!((dead.rcode(), dead.message.answers.len(), dead.message.authorities.len()), (NXDomain, 1, 1));
    let outer = dns.ask("outer.prod.svc.cluster.local", A);
    assert_eq!((outer.rcode(), outer.data()), (NoError, set(&["example.com."])));
    assert!(outer.message.authorities.is_empty());
    assert!(dns.ask("address.prod.svc.cluster.local", A).is_negative(NoError));
    assert_eq!(dns.data("a.prod.svc.cluster.local", A).0, ServFail);
    assert!(dns.ask("i-1.outer.prod.svc.cluster.local", A).is_negative(NXDomain));

    let chain: Vec<_> = (0..MAX_CHAIN + 1)
        .map(|n| external("long", &format!("c{n}"), &format!("c{}.long.svc.cluster.local", n + 1)))
        .collect();
    dns.load(&chain, &[]);
    dns.load(&[cluster_ip("long", &format!("c{}", MAX_CHAIN + 1), &["10.96.9.9"], &[])], &[]);
    assert_eq!(dns.data("c0.long.svc.cluster.local", A).0, ServFail);
    assert_eq!(dns.ask("c1.long.svc.cluster.local", A).message.answers.len(), MAX_CHAIN + 1);
}

#[test]
fn empty_non_terminals_exist() {
    let mut dns = Dns::new();
    dns.load(&[headless("prod", "db", &[port("sql", 1)])], &[instance("prod", "db", "i", &["10.1.2.3"])]);
    for name in [
        "svc.cluster.local",
        "pod.cluster.local",
        "dns.cluster.local",
        "prod.svc.cluster.local",
        "prod.pod.cluster.local",
        "_tcp.db.prod.svc.cluster.local",
        "2.1.10.in-addr.arpa",
        "1.10.in-addr.arpa",
    ] {
        for qtype in [A, AAAA, SRV, PTR, TXT, MX, ANY, HINFO] {
            assert!(dns.ask(name, qtype).is_negative(NoError), "{name} {qtype}");
        }
    }
    for name in [
        "foo.cluster.local",
        "dev.svc.cluster.local",
        "x.dev.svc.cluster.local",
        "10-1-2-3.dev.pod.cluster.local",
        "a.b.c.d.e.svc.cluster.local",
        "2.10.in-addr.arpa",
        "4.2.1.10.in-addr.arpa",
        "x.3.2.1.10.in-addr.arpa",
    ] {
        assert!(dns.ask(name, A).is_negative(NXDomain), "{name}");
    }
    dns.index.load_namespace(&namespace("dev"));
    assert!(dns.ask("dev.svc.cluster.local", A).is_negative(NoError));
}

#[test]
fn the_apex_and_fixed_names() {
    let mut dns = Dns::with(Config { name_servers: vec![ip("10.96.0.10"), ip("0.0.0.0")], ..Config::default() });
    dns.index.set_synced(at(42));
    let soa = dns.ask("cluster.local", SOA);
    assert_eq!(soa.data(), set(&["ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5"]));
    let ns = dns.ask("cluster.local", NS);
    assert_eq!(ns.data(), set(&["ns.dns.cluster.local."]));
    assert_eq!(ns.message.additionals[0].data.to_string(), "10.96.0.10");
    assert_eq!(dns.data("ns.dns.cluster.local", A).1, set(&["10.96.0.10"]));
    assert!(dns.ask("cluster.local", A).is_negative(NoError));
    let version = dns.ask("dns-version.cluster.local", TXT);
    assert_eq!((version.data(), version.message.answers[0].ttl), (set(&["1.1.0"]), 28_800));
    for (zone, qtype) in [("10.in-addr.arpa", SOA), ("d.f.ip6.arpa", NS), ("31.172.in-addr.arpa", SOA)] {
        assert_eq!(dns.ask(zone, qtype).message.answers.len(), 1, "{zone}");
    }
    let negative = dns.ask("9.9.9.10.in-addr.arpa", PTR);
    assert!(negative.is_negative(NXDomain));
    assert_eq!(negative.message.authorities[0].name.to_string(), "10.in-addr.arpa.");
}

#[test]
fn addresses_backwards() {
    let mut dns = Dns::new();
    dns.load(
        &[
            cluster_ip("prod", "web", &["10.96.0.1"], &[]),
            cluster_ip("prod", "copy", &["10.96.0.1"], &[]),
            headless("prod", "db", &[]),
            headless("prod", "all", &[]),
        ],
        &[
            instance("prod", "db", "i", &["10.96.0.1", "203.0.113.5", "fd00::7"]),
            instance("prod", "all", "i", &["203.0.113.5"]),
        ],
    );
    // A service's own address speaks before endpoints, and is one service's: the first in the order of wire form.
    assert_eq!(dns.data("1.0.96.10.in-addr.arpa", PTR).1, set(&["web.prod.svc.cluster.local."]));
    // Known, but in no zone of ours: answered as a zone of its own; its surroundings are not ours.
    let two = set(&["i.db.prod.svc.cluster.local.", "i.all.prod.svc.cluster.local."]);
    assert_eq!(dns.data("5.113.0.203.in-addr.arpa", PTR), (NoError, two));
    assert!(dns.ask("5.113.0.203.in-addr.arpa", TXT).is_negative(NoError));
    assert_eq!(dns.data("113.0.203.in-addr.arpa", PTR).0, Refused);
    assert_eq!(dns.data("6.113.0.203.in-addr.arpa", PTR).0, Refused);
    let six = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(dns.data(six, PTR).1, set(&["i.db.prod.svc.cluster.local."]));
    assert!(dns.ask(&six[10..], PTR).is_negative(NoError));
}

#[test]
fn ttls() {
    let mut dns = Dns::new();
    let slow = ServiceView { ttl: Some(300), ..cluster_ip("prod", "slow", &["10.96.0.1"], &[]) };
    dns.load(&[slow.clone(), cluster_ip("prod", "web", &["10.96.0.2"], &[])], &[]);
    let ttl = |dns: &mut Dns, name: &str, qtype: RecordType| dns.ask(name, qtype).message.answers[0].ttl;
    assert_eq!(ttl(&mut dns, "slow.prod.svc.cluster.local", A), 300);
    assert_eq!(ttl(&mut dns, "1.0.96.10.in-addr.arpa", PTR), 300);
    assert_eq!(ttl(&mut dns, "web.prod.svc.cluster.local", A), 5);
    dns.apply(vec![service_change(Some(&slow), Some(&ServiceView { ttl: Some(0), ..slow.clone() }))]);
    assert_eq!(ttl(&mut dns, "slow.prod.svc.cluster.local", A), 0);
    assert_eq!(ttl(&mut dns, "1.0.96.10.in-addr.arpa", PTR), 0);
    let mut dns = Dns::with(Config { negative_ttl: 3, ttl: 60, ..Config::default() });
    dns.index.set_synced(at(1));
    assert_eq!(dns.ask("x.cluster.local", A).message.authorities[0].ttl, 3);
}
