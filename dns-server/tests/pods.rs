//! Names of pods by address, and what endpoints are called.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::{Conditions, InstanceView, Pod, ViewChange};
use fingerpost_dns::{Config, EndpointNames, Pods};
use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused};
use hickory_proto::rr::RecordType::{A, AAAA, ANY, PTR, SRV, TXT};

fn with(pods: Pods) -> Dns {
    let dns = Dns::with(Config { pods, ..Config::default() });
    dns.index.set_synced(at(1));
    dns
}

fn of(view: InstanceView, source: &str) -> InstanceView {
    let mut view = view;
    view.key.source = source.parse().unwrap();
    view
}

/// What belongs to no service.
fn bare(view: InstanceView) -> InstanceView {
    let mut view = view;
    view.key.service = None;
    view
}

fn pod(view: InstanceView, name: &str) -> InstanceView {
    let mut view = view;
    view.instance.pod = Some(Pod { name: name.to_owned(), uid: String::new() });
    view
}

fn at_address(label: &str, namespace: &str) -> String {
    format!("{label}.{namespace}.pod.cluster.local")
}

#[test]
fn insecure_answers_whatever_is_well_formed() {
    let mut dns = with(Pods::Insecure);
    dns.index.load_namespace(&namespace("prod"));
    for (label, address) in [("10-1-2-3", "10.1.2.3"), ("255-0-0-1", "255.0.0.1")] {
        assert_eq!(dns.data(&at_address(label, "prod"), A), (NoError, set(&[address])));
        assert!(dns.ask(&at_address(label, "prod"), AAAA).is_negative(NoError));
    }
    for label in ["fd00--1", "FD00--1", "fd00-0-0-0-0-0-0-1"] {
        assert_eq!(dns.data(&at_address(label, "prod"), AAAA), (NoError, set(&["fd00::1"])), "{label}");
        assert!(dns.ask(&at_address(label, "prod"), A).is_negative(NoError), "{label}");
    }
    let reply = dns.ask(&at_address("10-1-2-3", "Prod"), A);
    assert!(reply.message.metadata.authoritative);
    assert_eq!(reply.message.answers[0].ttl, 5);
    assert_eq!(reply.message.answers[0].name.to_string(), "10-1-2-3.Prod.pod.cluster.local.");
    assert_eq!(dns.ask(&at_address("10-1-2-3", "prod"), ANY).message.answers.len(), 1);
    for qtype in [SRV, TXT, PTR] {
        assert!(dns.ask(&at_address("10-1-2-3", "prod"), qtype).is_negative(NoError));
    }
    for name in ["10-1-2", "10-1-2-256", "web-0", "10-1-2-3-4", "g--1", "x.10-1-2-3"] {
        assert!(dns.ask(&at_address(name, "prod"), A).is_negative(NXDomain), "{name}");
    }
    assert!(dns.ask(&at_address("10-1-2-3", "dev"), A).is_negative(NXDomain));
    assert!(dns.ask("10-1-2-3.pod.cluster.local", A).is_negative(NXDomain));
    assert!(dns.ask("prod.pod.cluster.local", A).is_negative(NoError));
    // Nothing was compiled for any of it, and an address of no service has no name.
    assert_eq!(dns.index.stats().records, 1, "the name server's own address");
    assert!(dns.ask("3.2.1.10.in-addr.arpa", PTR).is_negative(NXDomain));
    // The namespace's end is theirs.
    dns.apply(vec![namespace_change(Some(&namespace("prod")), None)]);
    assert!(dns.ask(&at_address("10-1-2-3", "prod"), A).is_negative(NXDomain));
}

#[test]
fn verified_answers_pods_that_are_known() {
    let mut dns = with(Pods::Verified);
    let ready = |ready| Conditions { ready: Some(ready), ..Conditions::default() };
    let mut starting = bare(of(pod(instance("prod", "", "web-0", &["10.1.0.1", "fd00::1"]), "web-0"), "kubernetes/a"));
    starting.instance.conditions = ready(false);
    let views = [
        starting.clone(),
        bare(of(instance("prod", "", "sandbox", &["10.1.0.2"]), "cni/node-1")),
        of(pod(instance("prod", "web", "web-3", &["10.1.0.3"]), "web-3"), "kubernetes/a"),
        bare(pod(instance("prod", "", "named", &["10.1.0.4"]), "named")),
    ];
    dns.load(&[headless("prod", "web", &[])], &views);
    // Endpoints that are no pods, and what somebody registered: an address alone makes no pod.
    dns.load(
        &[headless("dev", "db", &[])],
        &[
            of(instance("prod", "web", "10.1.0.5", &["10.1.0.5"]), "kubernetes/a"),
            instance("prod", "web", "vm", &["10.1.0.6"]),
            bare(instance("prod", "", "vm", &["10.1.0.7"])),
        ],
    );
    for last in 1..=4 {
        let name = at_address(&format!("10-1-0-{last}"), "prod");
        assert_eq!(dns.data(&name, A), (NoError, set(&[&format!("10.1.0.{last}")])));
        assert!(
            dns.ask(&at_address(&format!("10-1-0-{last}"), "dev"), A).is_negative(NXDomain),
            "in its namespace only"
        );
    }
    for last in 5..=8 {
        assert!(dns.ask(&at_address(&format!("10-1-0-{last}"), "prod"), A).is_negative(NXDomain), "{last}");
    }
    // All addresses of a pod, however they are written, and whether it is ready or not.
    assert_eq!(dns.data(&at_address("fd00-0-0-0-0-0-0-1", "prod"), AAAA), (NoError, set(&["fd00::1"])));
    assert!(dns.ask("dev.pod.cluster.local", A).is_negative(NoError));

    // It is a pod's for as long as anybody says so, and leaves when the pod does.
    let name = at_address("10-1-0-1", "prod");
    let endpoint = of(pod(instance("prod", "web", "web-0", &["10.1.0.1"]), "web-0"), "kubernetes/a");
    dns.apply(vec![instance_change(None, Some(&endpoint))]);
    dns.apply(vec![instance_change(Some(&starting), None)]);
    assert_eq!(dns.data(&name, A).0, NoError);
    assert_eq!(dns.data(&at_address("fd00--1", "prod"), AAAA).0, NXDomain);
    let mut leaving = endpoint.clone();
    leaving.instance.conditions.terminating = Some(true);
    dns.apply(vec![instance_change(Some(&endpoint), Some(&leaving))]);
    assert!(dns.ask(&name, A).is_negative(NXDomain));
    dns.apply(vec![instance_change(Some(&leaving), None)]);
    let rest: Vec<ViewChange> = views[1..].iter().map(|view| instance_change(Some(view), None)).collect();
    dns.apply(rest);
    assert_eq!(dns.index.stats().pods, 0);
}

#[test]
fn disabled_has_no_names_by_address() {
    let mut dns = with(Pods::Disabled);
    dns.load(&[headless("prod", "db", &[])], &[pod(instance("prod", "db", "a", &["10.1.2.3"]), "a")]);
    assert!(dns.ask(&at_address("10-1-2-3", "prod"), A).is_negative(NXDomain));
    assert!(dns.ask("prod.pod.cluster.local", A).is_negative(NXDomain));
    assert!(dns.ask("pod.cluster.local", A).is_negative(NoError));
    assert_eq!(dns.data("a.db.prod.svc.cluster.local", A), (NoError, set(&["10.1.2.3"])));
}

#[test]
fn aliases_lead_to_pods() {
    let mut dns = with(Pods::Insecure);
    dns.load(&[external("prod", "old", "10-1-2-3.prod.pod.cluster.local")], &[]);
    let both = set(&["10-1-2-3.prod.pod.cluster.local.", "10.1.2.3"]);
    assert_eq!(dns.data("old.prod.svc.cluster.local", A), (NoError, both));
    assert_eq!(dns.data("10-1-2-3.prod.pod.example.org", A).0, Refused);
}

/// One endpoint of each kind, and its label under each setting.
#[test]
fn endpoints_are_called_by_hostname_else_by_address_or_pod() {
    let hostname = |view: InstanceView| {
        let mut view = view;
        view.instance.hostname = Some("host".to_owned());
        view
    };
    let long = "p".repeat(64);
    let cases = [
        // Registered ones: the id, where it is a label. Whose pod they are does not matter.
        (instance("prod", "db", "db-1", &["10.0.0.1"]), "db-1", "db-1"),
        (pod(instance("prod", "db", "db-1", &["10.0.0.1"]), "other"), "db-1", "db-1"),
        (instance("prod", "db", "10.0.0.1:80", &["10.0.0.1"]), "10-0-0-1", "10-0-0-1"),
        (of(instance("prod", "db", "db-1", &["10.0.0.1"]), "api/team"), "db-1", "db-1"),
        (hostname(instance("prod", "db", "db-1", &["10.0.0.1"])), "host", "host"),
        // Kubernetes' and CNI plugins': never the id.
        (of(pod(instance("prod", "db", "web-0", &["10.0.0.1"]), "web-0"), "kubernetes/a"), "10-0-0-1", "web-0"),
        (of(pod(instance("prod", "db", "uid", &["fd00::"]), "web-0"), "kubernetes/a"), "fd00--0", "web-0"),
        (of(hostname(pod(instance("prod", "db", "x", &["10.0.0.1"]), "web-0")), "kubernetes/a"), "host", "host"),
        (of(instance("prod", "db", "web-0", &["10.0.0.1"]), "kubernetes/a"), "10-0-0-1", "10-0-0-1"),
        (of(pod(instance("prod", "db", "x", &["10.0.0.1"]), "a.b"), "kubernetes/a"), "10-0-0-1", "10-0-0-1"),
        (of(pod(instance("prod", "db", "x", &["10.0.0.1"]), &long), "kubernetes/a"), "10-0-0-1", "10-0-0-1"),
        (of(pod(instance("prod", "db", "x", &["10.0.0.1"]), "web-0"), "cni/n"), "10-0-0-1", "web-0"),
    ];
    for (view, by_address, by_pod) in cases {
        for (names, label) in [(EndpointNames::Address, by_address), (EndpointNames::Pod, by_pod)] {
            let mut dns = Dns::with(Config { endpoint_names: names, ..Config::default() });
            dns.index.set_synced(at(1));
            dns.load(&[headless("prod", "db", &[port("sql", 1)])], std::slice::from_ref(&view));
            let srv = dns.data("_sql._tcp.db.prod.svc.cluster.local", SRV).1;
            assert_eq!(srv, set(&[&format!("0 100 1 {label}.db.prod.svc.cluster.local.")]), "{names:?} {view:?}");
            for other in [view.key.id.split(':').next().unwrap(), "web-0", "host", "10-0-0-1"] {
                let rcode = if other == label { NoError } else { NXDomain };
                assert_eq!(
                    dns.ask(&format!("{other}.db.prod.svc.cluster.local"), TXT).rcode(),
                    rcode,
                    "{other} {view:?}"
                );
            }
            dns.apply(vec![instance_change(Some(&view), None)]);
            assert_eq!(dns.index.stats().records, 1);
        }
    }
}
