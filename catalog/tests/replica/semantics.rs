//! What the replica promises, one example each, in words.

use fingerpost_catalog::{
    Change, ChangeSet, Effects, Epoch, Health, InstanceKey, InstanceQuery, InstanceView, Key, Position, Record,
    Replica, Selector, ViewChange,
};
use std::sync::Arc;

struct Fixture {
    replica: Replica,
    number: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { replica: Replica::new("own"), number: 0 }
    }

    /// Puts records given as key and JSON; `-` deletes.
    fn apply(&mut self, changes: &[(&str, &str)]) -> Effects {
        self.number += 1;
        let change = |(key, value): &(&str, &str)| {
            let key: Key = key.parse().expect("a key");
            let record = (*value != "-").then(|| Arc::new(Record::decode(&key, value.as_bytes()).expect("a value")));
            Change { key, record }
        };
        let position = Position::new(Epoch(1), self.number);
        self.replica.apply(&ChangeSet { position, changes: changes.iter().map(change).collect() })
    }

    fn instance(&self, key: &str) -> InstanceView {
        let Ok(Key::Instance(key)) = format!("instances/{key}").parse() else { panic!("{key}") };
        self.replica.instance(&key).expect("an instance")
    }

    fn listed(&self, selector: &str) -> Vec<InstanceKey> {
        let selector: Selector = selector.parse().expect("a selector");
        self.replica.instances(&InstanceQuery::new(&selector)).items.into_iter().map(|view| view.key).collect()
    }
}

/// One line per effect: `+`, `-` or `~`, and what.
fn summary(effects: &Effects) -> Vec<String> {
    fn sign<T>(before: &Option<T>, after: &Option<T>) -> char {
        match (before, after) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        }
    }
    let line = |change: &ViewChange| match change {
        ViewChange::Namespace { before, after } => {
            format!("{} {}", sign(before, after), after.as_ref().or(before.as_ref()).unwrap().name)
        }
        ViewChange::Service { before, after } => {
            format!("{} service {}", sign(before, after), after.as_ref().or(before.as_ref()).unwrap().name)
        }
        ViewChange::Instance { before, after } => {
            format!("{} {}", sign(before, after), after.as_ref().or(before.as_ref()).unwrap().key)
        }
    };
    effects.changes.iter().map(line).collect()
}

const WEB1: &str = "instances/prod/web/api/web-1";

#[test]
fn content_makes_services_and_namespaces_exist() {
    let mut fixture = Fixture::new();
    let effects = fixture.apply(&[(WEB1, "{}")]);
    assert_eq!(summary(&effects), ["+ prod", "+ service web", "+ prod/web/api/web-1"]);
    let service = fixture.replica.service("prod", "web").unwrap();
    assert!(service.sources.is_empty() && service.revision == 0);
    assert_eq!(summary(&fixture.apply(&[("services/prod/web/api", "{}")])), ["~ service web"]);
    assert_eq!(summary(&fixture.apply(&[(WEB1, "-")])), ["- prod/web/api/web-1"]);
    assert_eq!(summary(&fixture.apply(&[("services/prod/web/api", "-")])), ["- prod", "- service web"]);
    assert!(fixture.apply(&[(WEB1, "-"), ("sessions/none", "-")]).changes.is_empty());
}

#[test]
fn kubernetes_decides_and_cni_adds_labels() {
    let mut fixture = Fixture::new();
    let cni = "instances/prod/web/cni:node-1/sandbox";
    let pod = "instances/prod/web/kubernetes:own/web-1";
    fixture.apply(&[(cni, r#"{"addresses":["10.0.0.1"],"labels":{"net":"blue","app":"guess"}}"#)]);
    assert_eq!(fixture.listed("net=blue").len(), 1);
    let effects = fixture.apply(&[(pod, r#"{"addresses":["10.0.0.1"],"labels":{"app":"web"}}"#)]);
    assert!(
        summary(&effects)
            .ends_with(&["+ prod/web/kubernetes:own/web-1".into(), "~ prod/web/cni:node-1/sandbox".into()])
            || summary(&effects)
                .ends_with(&["~ prod/web/cni:node-1/sandbox".into(), "+ prod/web/kubernetes:own/web-1".into()])
    );
    assert!(fixture.instance("prod/web/cni:node-1/sandbox").is_absorbed());
    let winner = fixture.instance("prod/web/kubernetes:own/web-1");
    assert_eq!(winner.instance.labels, [("app", "web"), ("net", "blue")].into_iter().collect());
    assert_eq!(fixture.listed("net=blue"), [winner.key]);
    assert!(fixture.listed("app=guess").is_empty());
    fixture.apply(&[(pod, "-")]);
    assert_eq!(fixture.listed("app=guess").len(), 1);
    assert!(!fixture.instance("prod/web/cni:node-1/sandbox").is_absorbed());
}

#[test]
fn only_the_address_that_is_known_better_is_shadowed() {
    let mut fixture = Fixture::new();
    fixture.apply(&[
        ("instances/prod/web/api/vm", r#"{"addresses":["10.0.0.1","10.0.0.2"]}"#),
        ("instances/prod/web/kubernetes:own/pod", r#"{"addresses":["10.0.0.2"]}"#),
        ("instances/prod/other/kubernetes:own/pod", r#"{"addresses":["10.0.0.1"]}"#),
    ]);
    let vm = fixture.instance("prod/web/api/vm");
    assert_eq!(vm.shadowed, vec!["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert!(!vm.is_absorbed());
    assert_eq!(fixture.replica.instances_at("10.0.0.2".parse().unwrap()).len(), 2);
}

#[test]
fn instances_of_no_service_do_not_shadow_each_other() {
    let mut fixture = Fixture::new();
    fixture.apply(&[
        ("instances/prod/-/cni:n/a", r#"{"addresses":["10.0.0.1"]}"#),
        ("instances/prod/-/kubernetes:own/a", r#"{"addresses":["10.0.0.1"]}"#),
    ]);
    assert!(fixture.instance("prod/-/cni:n/a").shadowed.is_empty());
}

#[test]
fn parts_outlive_and_precede_their_instance() {
    let mut fixture = Fixture::new();
    assert!(fixture.apply(&[("drains/prod/web/api/web-1", r#"{"note":"moving"}"#)]).changes.is_empty());
    fixture.apply(&[(WEB1, "{}")]);
    let view = fixture.instance("prod/web/api/web-1");
    assert!(view.effective == Health::Critical && !view.panic_answerable && view.parts.drain.unwrap().note == "moving");
    fixture.apply(&[(WEB1, "-")]);
    fixture.apply(&[(WEB1, r#"{"weight":3}"#)]);
    assert_eq!(fixture.instance("prod/web/api/web-1").effective, Health::Critical);
    let effects = fixture.apply(&[("drains/prod/web/api/web-1", "-")]);
    assert_eq!(summary(&effects), ["~ prod/web/api/web-1"]);
    assert!(fixture.instance("prod/web/api/web-1").answerable);
}

#[test]
fn one_session_record_moves_all_its_instances() {
    let mut fixture = Fixture::new();
    let session = |state: &str| format!(r#"{{"source":"api","ttlSeconds":10,"graceSeconds":10,"state":"{state}"}}"#);
    let other = "instances/prod/web/api/web-2";
    // The order within a set is of no matter.
    fixture.apply(&[(WEB1, r#"{"session":"s"}"#), (other, r#"{"session":"s"}"#), ("sessions/s", &session("alive"))]);
    assert_eq!(fixture.instance("prod/web/api/web-1").parts.session, None);
    assert_eq!(fixture.replica.instance_keys_of_session("s").len(), 2);
    let effects = fixture.apply(&[("sessions/s", &session("expired"))]);
    assert_eq!(summary(&effects), ["~ prod/web/api/web-1", "~ prod/web/api/web-2"]);
    assert_eq!(fixture.instance("prod/web/api/web-1").parts.session.unwrap().note, "session expired");
    assert_eq!(fixture.replica.stats().health, [0, 0, 0, 2]);
    // An ended session does not revive what has not been removed yet.
    fixture.apply(&[("sessions/s", "-")]);
    assert_eq!(fixture.instance("prod/web/api/web-1").parts.session.unwrap().note, "session s is not known");
    fixture.apply(&[("sessions/s", &session("suspect"))]);
    assert_eq!(fixture.instance("prod/web/api/web-1").effective, Health::Warning);
}

#[test]
fn checks_count_while_they_are_declared() {
    let mut fixture = Fixture::new();
    let service = |checks: &str| format!(r#"{{"checks":[{checks}]}}"#);
    let (up, live) = (r#"{"name":"up","type":"tcp"}"#, r#"{"name":"live","type":"ttl"}"#);
    fixture.apply(&[(WEB1, "{}"), ("checks/prod/web/api/web-1/up", r#"{"health":"critical","note":"refused"}"#)]);
    assert_eq!(fixture.instance("prod/web/api/web-1").effective, Health::Passing, "nobody declares it");
    let effects = fixture.apply(&[("services/prod/web/api", &service(&format!("{up},{live}")))]);
    assert_eq!(summary(&effects), ["~ service web", "~ prod/web/api/web-1"]);
    let view = fixture.instance("prod/web/api/web-1");
    assert_eq!((view.effective, &*view.parts.checks["up"].note), (Health::Critical, "refused"));
    assert_eq!(
        (view.parts.checks["live"].health, &*view.parts.checks["live"].note),
        (Health::Unknown, "has not run yet")
    );
    // Another interval is no news for instances.
    let slower = up.replace("}", r#","intervalSeconds":60}"#);
    let effects = fixture.apply(&[("services/prod/web/api", &service(&format!("{slower},{live}")))]);
    assert_eq!(summary(&effects), ["~ service web"]);
    // A higher-ranked declaration without checks speaks for the service.
    fixture.apply(&[("services/prod/web/kubernetes:own", "{}")]);
    assert!(fixture.instance("prod/web/api/web-1").parts.checks.is_empty());
    fixture.apply(&[
        ("services/prod/web/kubernetes:own", "-"),
        ("checks/prod/web/api/web-1/up", r#"{"health":"passing"}"#),
    ]);
    assert_eq!(fixture.instance("prod/web/api/web-1").effective, Health::Unknown);
    fixture.apply(&[("checks/prod/web/api/web-1/live", r#"{"health":"warning","since":1000}"#)]);
    let view = fixture.instance("prod/web/api/web-1");
    assert_eq!(view.effective, Health::Warning);
    assert_eq!(
        view.parts.checks["live"].since.map(|since| since.to_string()).as_deref(),
        Some("1970-01-01T00:00:01.000Z")
    );
}

#[test]
fn the_service_decides_about_readiness_and_unknown_health() {
    let mut fixture = Fixture::new();
    let other = "instances/prod/web/api/web-2";
    fixture.apply(&[
        (WEB1, r#"{"conditions":{"ready":false}}"#),
        (other, r#"{"checks":[{"name":"http","type":"http"}]}"#),
        ("checks/prod/web/api/web-2/http", r#"{"health":"unknown"}"#),
        ("instances/prod/web/api/web-3", "{}"),
    ]);
    assert!(!fixture.instance("prod/web/api/web-1").answerable && !fixture.instance("prod/web/api/web-2").answerable);
    let effects = fixture.apply(&[("services/prod/web/api", r#"{"publishNotReady":true,"answerUnknown":true}"#)]);
    assert_eq!(summary(&effects)[1..], ["~ prod/web/api/web-1", "~ prod/web/api/web-2"]);
    assert!(fixture.instance("prod/web/api/web-1").answerable && fixture.instance("prod/web/api/web-2").answerable);
}

#[test]
fn the_highest_rank_speaks_for_the_service_and_labels_are_united() {
    let mut fixture = Fixture::new();
    fixture.apply(&[
        ("services/prod/web/api", r#"{"ttl":1,"labels":{"a":"api","b":"api"}}"#),
        ("services/prod/web/kubernetes:own", r#"{"ttl":2,"labels":{"a":"own"}}"#),
        ("services/prod/web/kubernetes:far", r#"{"ttl":3,"labels":{"b":"far","c":"far"}}"#),
    ]);
    let view = fixture.replica.service("prod", "web").unwrap();
    assert_eq!(view.ttl, Some(2));
    assert_eq!(view.labels, [("a", "own"), ("b", "api"), ("c", "far")].into_iter().collect());
    let sources: Vec<&str> = view.sources.iter().map(|source| source.as_str()).collect();
    assert_eq!(sources, ["kubernetes/own", "api", "kubernetes/far"]);
}

#[test]
fn effects_tell_how_sessions_changed() {
    let mut fixture = Fixture::new();
    const ALIVE: &str = r#"{"source":"api","ttlSeconds":15,"graceSeconds":60,"state":"alive"}"#;
    const NOTED: &str = r#"{"source":"api","ttlSeconds":15,"graceSeconds":60,"state":"alive","renewals":1}"#;
    let told = |effects: Effects| -> Vec<(String, Option<u64>, Option<u64>)> {
        let renewals = |session: Option<std::sync::Arc<fingerpost_catalog::Session>>| session.map(|s| s.renewals);
        effects.sessions.into_iter().map(|c| (c.id.to_string(), renewals(c.before), renewals(c.after))).collect()
    };
    assert_eq!(told(fixture.apply(&[("sessions/s1", ALIVE)])), [("s1".to_owned(), None, Some(0))]);
    assert!(told(fixture.apply(&[(WEB1, r#"{"session":"s1"}"#)])).is_empty());
    let noted = fixture.apply(&[("sessions/s1", NOTED)]);
    assert!(noted.changes.is_empty(), "a noted renewal is nothing to readers");
    assert_eq!(told(noted), [("s1".to_owned(), Some(0), Some(1))]);
    assert!(told(fixture.apply(&[("sessions/s1", NOTED)])).is_empty());
}
