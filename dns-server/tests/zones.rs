//! Several zones with one content: each answers in its own words.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_dns::{Config, ConfigError, Index};
use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused, ServFail};
use hickory_proto::rr::RecordType::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};

const LONG: &str = "a-zone-whose-name-is-much-longer-than-that-of-the-primary-one.example";

fn dns() -> Dns {
    let aliases = ["o", "example.org", LONG].map(|zone| zone.parse().unwrap()).to_vec();
    let dns = Dns::with(Config { aliases, name_servers: vec![ip("10.96.0.10")], ..Config::default() });
    dns.index.set_synced(at(3));
    let mut db = instance("prod", "db", "db-0", &["10.0.0.1", "fd00::1"]);
    db.instance.hostname = Some("zero".to_owned());
    dns.load(
        &[
            cluster_ip("prod", "web", &["10.96.0.1"], &[port("http", 80)]),
            headless("prod", "db", &[port("sql", 5432)]),
            external("prod", "in", "web.prod.svc.cluster.local"),
            external("prod", "across", "web.prod.svc.o"),
            external("prod", "out", "db.example.com"),
            external("prod", "to-apex", "example.org"),
            external("prod", "gone", "nothing.prod.svc.o"),
            external("prod", "loop", "loop.prod.svc.o"),
        ],
        &[db],
    );
    dns
}

#[test]
fn content_is_the_same_in_each_zone_and_speaks_of_it() {
    let mut dns = dns();
    let records = dns.index.stats().records;
    for zone in ["cluster.local", "o", "example.org", LONG] {
        let name = |name: &str| format!("{name}.prod.svc.{zone}");
        let dotted = |text: &str| format!("{text}.prod.svc.{zone}.");
        assert_eq!(dns.data(&name("web"), A), (NoError, set(&["10.96.0.1"])), "{zone}");
        assert_eq!(dns.data(&name("zero.db"), AAAA), (NoError, set(&["fd00::1"])));
        let srv = dns.ask(&name("_http._tcp.web"), SRV);
        assert_eq!(srv.data(), set(&[&format!("0 100 80 {}", dotted("web"))]));
        assert_eq!(srv.message.additionals[0].name.to_string(), dotted("web"));
        let srv = dns.ask(&name("_sql._tcp.db"), SRV);
        assert_eq!(srv.data(), set(&[&format!("0 100 5432 {}", dotted("zero.db"))]));
        assert_eq!(srv.message.additionals.len(), 2);
        assert_eq!(dns.data(&name("in"), A), (NoError, set(&[&dotted("web"), "10.96.0.1"])));
        assert_eq!(dns.data(&name("out"), A), (NoError, set(&["db.example.com."])));
        assert_eq!(dns.data(&format!("10-1-2-3.prod.pod.{zone}"), A), (NoError, set(&["10.1.2.3"])));
        for missing in [name("none"), format!("x.{zone}"), name("_http._udp.web"), name("a.b.c.web")] {
            let negative = dns.ask(&missing, A);
            assert!(negative.is_negative(NXDomain), "{missing}");
            assert_eq!(negative.message.authorities[0].name.to_string(), format!("{zone}."));
        }
        for empty in [zone.to_owned(), format!("svc.{zone}"), format!("prod.svc.{zone}"), format!("prod.pod.{zone}")] {
            assert!(dns.ask(&empty, A).is_negative(NoError), "{empty}");
        }
        let soa = format!("ns.dns.{zone}. hostmaster.{zone}. 3 7200 1800 86400 5");
        assert_eq!(dns.data(zone, SOA), (NoError, set(&[&soa])));
        let ns = dns.ask(zone, NS);
        assert_eq!(ns.data(), set(&[&format!("ns.dns.{zone}.")]));
        assert_eq!(ns.message.additionals[0].name.to_string(), format!("ns.dns.{zone}."));
        assert_eq!(dns.data(&format!("ns.dns.{zone}"), A).1, set(&["10.96.0.10"]));
        assert_eq!(dns.data(&format!("dns-version.{zone}"), TXT), (NoError, set(&["1.1.0"])));
    }
    assert_eq!(dns.data("1.0.96.10.in-addr.arpa", PTR).1, set(&["web.prod.svc.cluster.local."]));
    assert_eq!(dns.data("web.prod.svc.example.com", A).0, Refused);
    assert_eq!(dns.index.stats().records, records, "answers are no state");
}

#[test]
fn spelling_is_the_client_s() {
    let mut dns = dns();
    let reply = dns.ask("WEB.Prod.svc.Example.ORG", A);
    assert_eq!(reply.message.answers[0].name.to_string(), "WEB.Prod.svc.Example.ORG.");
    let negative = dns.ask("none.Prod.svc.Example.ORG", A);
    assert_eq!(negative.message.authorities[0].name.to_string(), "Example.ORG.");
    assert!(negative.message.authorities[0].data.to_string().starts_with("ns.dns.Example.ORG."));
}

#[test]
fn aliases_across_zones() {
    let mut dns = dns();
    for zone in ["cluster.local", "example.org", LONG] {
        // What is said of one zone's name is not changed into another's.
        let across = dns.ask(&format!("across.prod.svc.{zone}"), A);
        assert_eq!((across.rcode(), across.data()), (NoError, set(&["web.prod.svc.o.", "10.96.0.1"])));
        let lacking = dns.ask(&format!("across.prod.svc.{zone}"), AAAA);
        assert_eq!(lacking.message.authorities[0].name.to_string(), "o.");
        let gone = dns.ask(&format!("gone.prod.svc.{zone}"), A);
        assert_eq!((gone.rcode(), gone.message.authorities[0].name.to_string()), (NXDomain, "o.".to_owned()));
        assert_eq!(dns.ask(&format!("loop.prod.svc.{zone}"), A).rcode(), ServFail);
    }
    // Records at the end of an alias stand at its target.
    for (qtype, count) in [(SOA, 2), (NS, 2), (CNAME, 1)] {
        let reply = dns.ask("to-apex.prod.svc.cluster.local", qtype);
        assert_eq!(reply.message.answers.len(), count, "{qtype}");
        let last = if count == 2 { "example.org." } else { "to-apex.prod.svc.cluster.local." };
        assert_eq!(reply.message.answers[count - 1].name.to_string(), last);
    }
}

#[test]
fn names_that_fit_one_zone_only() {
    let mut dns = dns();
    let (a, b, c) = ("a".repeat(63), "b".repeat(63), "c".repeat(63));
    let mut long = instance(&b, &a, &c, &["10.9.9.9"]);
    long.instance.hostname = Some(c.clone());
    dns.load(&[headless(&b, &a, &[port("x", 1)])], &[long]);
    // The target would be too long in this zone, and is right in the primary one, too.
    let srv = dns.ask(&format!("{a}.{b}.svc.{LONG}"), SRV);
    assert_eq!(srv.data(), set(&[&format!("0 100 1 {c}.{a}.{b}.svc.cluster.local.")]));
    assert_eq!(srv.message.additionals.len(), 1);
    // Longer than any name of the primary zone.
    let most = format!("{0}.{0}.{0}.{1}.o", "x".repeat(63), "y".repeat(57));
    assert!(dns.ask(&most, A).is_negative(NXDomain));
}

#[test]
fn zones_within_zones_are_refused() {
    let config = Config { aliases: vec!["svc.cluster.local".parse().unwrap()], ..Config::default() };
    assert!(matches!(Index::new(config), Err(ConfigError::Within { .. })));
}
