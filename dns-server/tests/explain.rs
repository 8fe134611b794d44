//! The explanations: the first step that fails is the reason, and each instance has its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::{
    AllCritical, Conditions, Health, HealthParts, InstanceView, NamespaceView, PartState, Pod, ServiceView,
};
use fingerpost_dns::explain::{Explanation, Lookup, explain};
use fingerpost_dns::{Config, EndpointNames, Pods};
use std::net::IpAddr;
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

    fn at(&self, address: IpAddr) -> Vec<Arc<InstanceView>> {
        self.1
            .iter()
            .filter(|view| view.instance.addresses.contains(&address))
            .map(|view| view.clone().into())
            .collect()
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
    with(&Config::default(), world, name, qtype, None)
}

fn with(config: &Config, world: &World, name: &str, qtype: &str, from: Option<&str>) -> Explanation {
    let dns = Dns::with(config.clone());
    dns.index.set_synced(at(1));
    dns.load(&world.0, &world.1);
    explain((&dns.index, None), name, qtype, from.map(ip), world)
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
        ("a.b.c.db.prod.svc.cluster.local", "A", "NXDOMAIN", "There is 1 label too many"),
        ("db.prod.cluster.local", "A", "NXDOMAIN", "the label `svc` is missing"),
        ("db.svc.cluster.local", "A", "NXDOMAIN", "has its namespace in it"),
        ("sql.tcp.db.prod.svc.cluster.local", "SRV", "NXDOMAIN", "begin with underscores (RFC 2782): `_sql._tcp`"),
        ("10-0-0-1.db.prod.svc.cluster.local", "A", "NXDOMAIN", "`good` of api is called good"),
        ("x.10-0-0-1.prod.pod.cluster.local", "A", "NXDOMAIN", "its address with dashes"),
        ("web-0.prod.pod.cluster.local", "A", "NXDOMAIN", "is no address with dashes"),
        ("10-0-0-1.dev.pod.cluster.local", "A", "NXDOMAIN", "Namespace `dev` does not exist"),
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
    let explanation = explain((&unsynced.index, None), "db.prod.svc.cluster.local", "A", None, &world);
    assert_eq!(explanation.rcode, "SERVFAIL");
    assert!(failing(&explanation).contains("not yet received"));
}

fn pod(view: InstanceView, name: &str) -> InstanceView {
    let mut view = view;
    view.key.source = "kubernetes/a".parse().unwrap();
    view.instance.pod = Some(Pod { name: name.to_owned(), uid: String::new() });
    view
}

/// A service of Kubernetes with an endpoint of each kind, and a registered one.
fn cluster() -> World {
    let not_ready = |view: InstanceView, serving, terminating| {
        let mut view = view;
        view.instance.conditions = Conditions { ready: Some(false), serving: Some(serving), terminating };
        let parts = HealthParts { conditions: Some(part(Health::Critical, "not ready")), ..HealthParts::default() };
        InstanceView { effective: Health::Critical, answerable: false, parts, ..view }
    };
    let endpoint =
        |n: u8| pod(instance("prod", "web", &format!("web-{n}"), &[&format!("10.1.0.{n}")]), &format!("web-{n}"));
    let mut client = pod(instance("shop", "", "client-0", &["10.1.0.9"]), "client-0");
    client.key.service = None;
    World(
        vec![
            headless("prod", "web", &[port("http", 80)]),
            headless("shop", "cart", &[]),
            external("shop", "inner", "web.prod.svc.cluster.local"),
            external("shop", "outer", "example.com"),
        ],
        vec![
            endpoint(1),
            not_ready(endpoint(2), false, None),
            not_ready(endpoint(3), true, Some(true)),
            instance("prod", "web", "vm-1", &["192.168.0.1"]),
            instance("shop", "cart", "cart-0", &["10.2.0.1"]),
            client,
        ],
    )
}

#[test]
fn conditions_and_sources_are_told() {
    let world = cluster();
    let explanation = of(&world, "web.prod.svc.cluster.local", "A");
    let text: Vec<&str> = explanation.steps.iter().map(|step| step.text.as_str()).collect();
    assert!(
        text.iter().any(|text| text.contains("2 of its 4") && text.contains("1 of 1 of api, 1 of 3 of kubernetes/a"))
    );
    let reason = |id: &str| {
        let instance = explanation.instances.iter().find(|instance| instance.id == id).unwrap();
        (instance.answered, instance.reason.as_str(), instance.labels.join(","), instance.pod.as_deref())
    };
    assert_eq!(reason("web-1"), (true, "its health is passing", "10-1-0-1".to_owned(), Some("web-1")));
    assert_eq!(reason("web-2").1, "critical: it is not ready");
    assert_eq!(reason("web-3").1, "critical: it is not ready, terminating, and serving still");
    assert_eq!(reason("vm-1"), (true, "its health is passing", "vm-1".to_owned(), None));
    // Called by another name than was thought.
    let by_pod = of(&world, "web-1.web.prod.svc.cluster.local", "A");
    assert!(failing(&by_pod).contains("is called 10-1-0-1: hostname, else address"), "{:?}", by_pod.steps);
    let config = Config { endpoint_names: EndpointNames::Pod, ..Config::default() };
    assert_eq!(failing(&with(&config, &world, "web-1.web.prod.svc.cluster.local", "A", None)), "");
    let by_address = with(&config, &world, "10-1-0-1.web.prod.svc.cluster.local", "A", None);
    assert!(failing(&by_address).contains("is called web-1: hostname, else pod, else address"));
    let mut published = cluster();
    published.0[0].publish_not_ready = true;
    published.1[1].answerable = true;
    published.1[1].effective = Health::Passing;
    let explanation = of(&published, "web.prod.svc.cluster.local", "A");
    assert!(explanation.instances.iter().any(|i| i.answered && i.reason.contains("publishNotReady")));
}

#[test]
fn pods_zones_and_aliases_are_told() {
    let world = cluster();
    let name = "10-1-0-1.prod.pod.cluster.local";
    let ways = [Pods::Insecure, Pods::Verified, Pods::Disabled];
    let told = |pods, name: &str| with(&Config { pods, ..Config::default() }, &world, name, "A", None);
    for (pods, rcode) in ways.into_iter().zip(["NOERROR", "NOERROR", "NXDOMAIN"]) {
        let explanation = told(pods, name);
        assert_eq!(explanation.rcode, rcode);
        assert_eq!(failing(&explanation).is_empty(), rcode == "NOERROR", "{:?}", explanation.steps);
    }
    assert!(failing(&told(Pods::Disabled, "prod.pod.cluster.local")).contains("--pods disabled"));
    let elsewhere = told(Pods::Verified, "10-1-0-1.shop.pod.cluster.local");
    assert!(failing(&elsewhere).contains("a pod's in namespace `prod` (web-1, says kubernetes/a)"));
    assert!(failing(&told(Pods::Verified, "10-9-9-9.shop.pod.cluster.local")).contains("No pod is known"));
    assert!(failing(&told(Pods::Verified, "192-168-0-1.prod.pod.cluster.local")).contains("which is no pod"));

    let config = Config { aliases: vec!["example.org".parse().unwrap()], ..Config::default() };
    let alias = with(&config, &world, "Web.prod.svc.example.org", "A", None);
    assert_eq!(alias.rcode, "NOERROR");
    let text: Vec<&str> = alias.steps.iter().map(|step| step.text.as_str()).collect();
    assert!(text.iter().any(|text| text.contains("`example.org`, another name of `cluster.local`")), "{text:?}");
    assert!(text.iter().any(|text| text.starts_with("Upper and lower case")), "{text:?}");
    for (name, words) in [("inner", "which adds its records"), ("outer", "asks for it on its own")] {
        let explanation = of(&world, &format!("{name}.shop.svc.cluster.local"), "A");
        assert!(explanation.steps.iter().any(|step| step.text.contains(words)), "{:?}", explanation.steps);
    }
}

#[test]
fn a_pod_s_search_list_is_walked() {
    let world = cluster();
    let asked = |name: &str, from: &str| with(&Config::default(), &world, name, "A", Some(from));
    let names = |explanation: &Explanation| -> Vec<(String, String)> {
        let search = explanation.search.as_ref().unwrap();
        search.candidates.iter().map(|candidate| (candidate.name.clone(), candidate.rcode.clone())).collect()
    };
    let name = |name: &str, rcode: &str| (name.to_owned(), rcode.to_owned());

    let own = asked("cart", "10.1.0.9");
    let origin = own.from.as_ref().unwrap();
    assert_eq!((origin.namespace.as_deref(), origin.name.as_deref()), (Some("shop"), Some("client-0")));
    assert_eq!(names(&own), [name("cart.shop.svc.cluster.local.", "NOERROR")]);
    assert_eq!((own.name.as_str(), own.answer_total), ("cart.shop.svc.cluster.local.", 1));
    assert_eq!(own.search.as_ref().unwrap().hint, None);

    let other = asked("web.prod", "10.1.0.9");
    assert_eq!(
        names(&other),
        [name("web.prod.shop.svc.cluster.local.", "NXDOMAIN"), name("web.prod.svc.cluster.local.", "NOERROR")]
    );
    let search = other.search.as_ref().unwrap();
    assert_eq!((search.winner, search.queries), (Some(1), 2));
    assert!(search.hint.as_ref().unwrap().contains("`web.prod.svc.cluster.local.`"));

    // Outside names go through the whole list.
    let outside = asked("example.com", "10.1.0.9");
    let search = outside.search.as_ref().unwrap();
    assert_eq!((search.candidates.len(), search.winner), (4, None));
    assert!(search.candidates[3].outside && search.hint.as_ref().unwrap().contains("`example.com.`"));
    // With five dots, the name goes first.
    let deep = asked("_http._tcp.web.prod.svc.cluster.local", "10.1.0.9");
    assert_eq!(deep.search.as_ref().unwrap().candidates[0].name, "_http._tcp.web.prod.svc.cluster.local.");
    // Where nothing wins, what was most likely meant is explained.
    for (name, explained) in [
        ("nothing", "nothing.shop.svc.cluster.local."),
        ("web.dev", "web.dev.svc.cluster.local."),
        ("web.dev.svc", "web.dev.svc.cluster.local."),
        ("web.dev.svc.cluster.local", "web.dev.svc.cluster.local."),
    ] {
        assert_eq!(asked(name, "10.1.0.9").name, explained, "{name}");
    }
    // A whole name is no matter of lists, and of who is not known only the common part of the list is.
    assert_eq!(asked("example.com.", "10.1.0.9").search, None);
    let stranger = asked("web.prod", "10.77.0.1");
    assert!(failing(&stranger).contains("10.77.0.1"));
    assert_eq!(stranger.search.as_ref().unwrap().domains, ["svc.cluster.local", "cluster.local"]);
    let text = serde_json::to_string(&own).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), own);
}
