//! The explanations: the first step that fails is the reason, and each instance has its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::{AllCritical, Health, HealthParts, InstanceView, NamespaceView, PartState, ServiceView};
use fingerpost_dns::explain::{Explanation, Lookup, explain};
use std::sync::Arc;

struct World(Vec<ServiceView>, Vec<InstanceView>);

impl Lookup for World {
    fn namespace(&self, name: &str) -> Option<Arc<NamespaceView>> {
        self.0.iter().any(|view| &*view.namespace == name).then(|| namespace(name).into())
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceView>> {
        self.0.iter().find(|view| (&*view.namespace, &*view.name) == (namespace, name)).map(|view| view.clone().into())
    }

    fn instances(&self, namespace: &str, service: &str) -> Vec<Arc<InstanceView>> {
        let of =
            |view: &&InstanceView| (&*view.key.namespace, view.key.service.as_deref()) == (namespace, Some(service));
        self.1.iter().filter(of).map(|view| view.clone().into()).collect()
    }
}

fn part(health: Health, note: &str) -> PartState {
    PartState { health, note: note.to_owned(), since: None }
}

fn world() -> World {
    let with = |id: &str, address: &str, health, answerable, parts| InstanceView {
        effective: health,
        answerable,
        parts,
        ..instance("prod", "db", id, &[address])
    };
    let drained = HealthParts { drain: Some(part(Health::Critical, "disk swap")), ..HealthParts::default() };
    let checks = |health, note: &str| HealthParts {
        checks: [("http".to_owned(), part(health, note))].into(),
        ..HealthParts::default()
    };
    World(
        vec![
            headless("prod", "db", &[port("sql", 5432)]),
            cluster_ip("prod", "web", &["10.96.0.1"], &[]),
            external("prod", "mail", "192.0.2.7"),
            headless("prod", "empty", &[]),
        ],
        vec![
            with("good", "10.0.0.1", Health::Passing, true, HealthParts::default()),
            with("drained", "10.0.0.2", Health::Critical, false, drained),
            with("sick", "10.0.0.3", Health::Critical, false, checks(Health::Critical, "HTTP 500")),
            with("new", "10.0.0.4", Health::Unknown, false, checks(Health::Unknown, "")),
            InstanceView { shadowed: vec![ip("10.0.0.1")], ..instance("prod", "db", "cni", &["10.0.0.1"]) },
        ],
    )
}

fn of(world: &World, name: &str, qtype: &str) -> Explanation {
    let dns = Dns::new();
    dns.load(&world.0, &world.1);
    explain(&dns.index, name, qtype, world)
}

/// The text of the first step that fails.
fn failing(explanation: &Explanation) -> &str {
    explanation.steps.iter().find(|step| !step.ok).map_or("", |step| &step.text)
}

#[test]
fn each_instance_has_its_reason() {
    let explanation = of(&world(), "DB.prod.svc.cluster.local", "a");
    assert_eq!((explanation.rcode.as_str(), failing(&explanation)), ("NOERROR", ""));
    assert_eq!(explanation.answer, ["db.prod.svc.cluster.local. 5 IN A 10.0.0.1".replace("db.", "DB.")]);
    assert_eq!(explanation.position.as_deref(), Some("0000000000000007-1"));
    let reason = |id: &str| {
        let instance = explanation.instances.iter().find(|instance| instance.id == id).unwrap();
        (instance.answered, instance.reason.as_str())
    };
    assert_eq!(reason("good"), (true, "its health is passing"));
    assert_eq!(reason("drained"), (false, "critical: it is drained (disk swap)"));
    assert_eq!(reason("sick"), (false, "critical: its check `http` fails (HTTP 500)"));
    assert!(reason("new").1.contains("has not run") && reason("new").1.contains("answerUnknown"));
    assert!(reason("cni").1.contains("ranks higher"));
    let text = serde_json::to_string(&explanation).unwrap();
    assert!(text.contains("\"ageSeconds\":") && text.contains("\"instancesTotal\":5"));
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), explanation);
}

#[test]
fn the_first_failing_step_is_the_reason() {
    for (name, qtype, rcode, words) in [
        ("db.dev.svc.cluster.local", "A", "NXDOMAIN", "Namespace `dev` does not exist"),
        ("dbx.prod.svc.cluster.local", "A", "NXDOMAIN", "Service `dbx` does not exist"),
        ("empty.prod.svc.cluster.local", "A", "NXDOMAIN", "has no instance"),
        ("sick.db.prod.svc.cluster.local", "A", "NXDOMAIN", "`sick` names is not answered"),
        ("other.db.prod.svc.cluster.local", "A", "NXDOMAIN", "No instance has the label"),
        ("_web._tcp.db.prod.svc.cluster.local", "SRV", "NXDOMAIN", "none of its named ports: _sql._tcp"),
        ("_web._tcp.web.prod.svc.cluster.local", "SRV", "NXDOMAIN", "no named port"),
        ("mail.prod.svc.cluster.local", "A", "NOERROR", "an alias needs a name"),
        ("db.prod.svc", "A", "REFUSED", "`db.prod.svc.cluster.local` exists"),
        ("a.b.c.d.cluster.local", "A", "NXDOMAIN", "No name of that form"),
        ("1-2-3-4.prod.pod.cluster.local", "A", "NXDOMAIN", "no names for pods"),
        ("9.9.9.10.in-addr.arpa", "PTR", "NXDOMAIN", "10.9.9.9 belongs to no service"),
        ("a..b", "A", "", "is not a domain name"),
        ("db.prod.svc.cluster.local", "BOGUS", "", "is not a record type"),
    ] {
        let explanation = of(&world(), name, qtype);
        assert_eq!(explanation.rcode, rcode, "{name}");
        assert!(failing(&explanation).contains(words), "{name}: {:?}", explanation.steps);
    }
    for name in ["web.prod.svc.cluster.local", "prod.svc.cluster.local", "cluster.local", "1.0.96.10.in-addr.arpa"] {
        assert_eq!(failing(&of(&world(), name, "A")), "", "{name}");
    }
}

#[test]
fn all_critical_and_the_time_before_the_first_sync() {
    let mut world = world();
    world.0[0].all_critical = AllCritical::All;
    world.1.remove(0);
    // The shadowed record has no address of its own to answer.
    let explanation = of(&world, "db.prod.svc.cluster.local", "A");
    assert_eq!(failing(&explanation), "");
    assert!(explanation.instances.iter().any(|i| i.answered && i.reason.contains("allCritical")));
    let unsynced = Dns::unsynced();
    let explanation = explain(&unsynced.index, "db.prod.svc.cluster.local", "A", &world);
    assert_eq!(explanation.rcode, "SERVFAIL");
    assert!(failing(&explanation).contains("not yet received"));
}
