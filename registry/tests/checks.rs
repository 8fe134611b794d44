//! The runner of checks, on a clock of its own: what is run when and where, and what is written of it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

mod checks_double;

use checks_double::{Node, World, instance, pass};
use fingerpost_catalog::document::{InstanceDocument, ObjectDocument};
use fingerpost_catalog::{Health, InstanceKey, Source};
use fingerpost_registry::access::Caller;
use fingerpost_registry::checks::{Limits, NoRelay, Outcome, Relay, RelayError};
use fingerpost_registry::members::Member;
use fingerpost_registry::writes::{Guard, Verb, WriteError};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

const SERVICE: &str = "services/prod/web/api";
const WEB1: &str = "instances/prod/web/api/web-1";
const UP1: &str = "checks/prod/web/api/web-1/up";
const AT1: &str = "10.0.0.1:80";
/// Every ten seconds; two failures, or one success, change it.
const UP: &str = r#"{"checks":[{"name":"up","type":"tcp","port":80}]}"#;

fn at(n: usize) -> String {
    format!(r#"{{"addresses":["10.0.{}.{}"]}}"#, n / 256, n % 256)
}

async fn alone(world: &World) -> Node {
    world.node("a", &["a"], Limits::default(), Arc::new(NoRelay)).await
}

fn health(world: &World) -> Option<Health> {
    world.result(UP1).map(|result| result.health)
}

#[tokio::test(start_paused = true)]
async fn only_changed_verdicts_are_written_and_only_after_enough_in_a_row() {
    let world = World::new();
    let node = alone(&world).await;
    let begun = Instant::now();
    world.put(&[(SERVICE, UP), (WEB1, &at(1))]);
    pass(2).await;
    assert!(node.probe.asked.lock()[0].0 - begun <= Duration::from_secs(1), "a new check is run soon");
    let first = world.result(UP1).expect("the first result is the verdict");
    assert_eq!((first.health, &*first.note), (Health::Passing, "fine"));
    assert!(first.since > 0);
    let commits = world.commits();
    node.probe.set(AT1, Health::Passing, "another note");
    pass(60).await;
    assert_eq!(world.commits(), commits, "a note alone is no change");
    // Failing now and then.
    for _ in 0..6 {
        let count = node.probe.count(AT1);
        node.probe.set(AT1, Health::Critical, "refused");
        while node.probe.count(AT1) == count {
            pass(1).await;
        }
        node.probe.set(AT1, Health::Passing, "fine");
        while node.probe.count(AT1) == count + 1 {
            pass(1).await;
        }
    }
    assert_eq!(world.commits(), commits, "one failure at a time is none");
    node.probe.set(AT1, Health::Critical, "refused");
    pass(35).await;
    assert_eq!((world.commits(), health(&world)), (commits + 1, Some(Health::Critical)));
    node.probe.set(AT1, Health::Passing, "fine");
    pass(15).await;
    assert_eq!((world.commits(), health(&world)), (commits + 2, Some(Health::Passing)));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn runs_are_spread_over_the_interval_and_few_at_once() {
    let world = World::new();
    world.put(&[(SERVICE, UP)]);
    for n in 0..500 {
        let id = format!("prod/web/api/web-{n}");
        world.put(&[(&format!("instances/{id}"), &at(n)), (&format!("checks/{id}/up"), r#"{"health":"passing"}"#)]);
    }
    // After a restart, when all are known already. At first, each is run soon.
    let node = alone(&world).await;
    let commits = world.commits();
    pass(6).await;
    assert_eq!(node.runner.counts().0, 500);
    assert!((0..500).all(|n| node.probe.count(&format!("10.0.{}.{}:80", n / 256, n % 256)) > 0));
    pass(14).await;
    node.probe.asked.lock().clear();
    let begun = Instant::now();
    pass(60).await;
    let mut a_second: BTreeMap<u64, usize> = BTreeMap::new();
    let asked = std::mem::take(&mut *node.probe.asked.lock());
    for (when, _) in &asked {
        *a_second.entry((*when - begun).as_secs()).or_default() += 1;
    }
    assert!((2900..3100).contains(&asked.len()), "{}", asked.len());
    assert!(a_second.values().all(|count| (20..90).contains(count)), "50 a second on average: {a_second:?}");
    assert_eq!(world.commits(), commits);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_waits_and_is_bounded() {
    let world = World::new();
    let limits = Limits { probes: 8, ..Limits::default() };
    let node = world.node("a", &["a"], limits, Arc::new(NoRelay)).await;
    *node.probe.takes.lock() = Duration::from_secs(1);
    world.put(&[(SERVICE, UP)]);
    for n in 0..100 {
        world.put(&[(&format!("instances/prod/web/api/web-{n}"), &at(n))]);
    }
    pass(110).await;
    assert_eq!(node.probe.running.lock().1, 4, "as many as are left free");
    let asked = node.probe.asked.lock().len();
    assert!((300..=460).contains(&asked), "as many as there is time for, and nothing is caught up with: {asked}");
    for n in 0..100 {
        let turns = node.probe.count(&format!("10.0.0.{n}:80"));
        assert!((2..=6).contains(&turns), "each in its turn: {n} {turns}");
    }
    let mut text = String::new();
    let mut registry = prometheus_client::registry::Registry::default();
    node.runner.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(!text.contains("fingerpost_checks_late_total 0\n"), "{text}");
    node.stop().await;
}

/// A check that is run once a day.
const DAILY: &str = r#"{"checks":[{"name":"up","type":"tcp","port":80,"intervalSeconds":86400}]}"#;

#[tokio::test(start_paused = true)]
async fn a_long_interval_does_not_begin_with_waiting() {
    let world = World::new();
    world.put(&[(SERVICE, DAILY), (WEB1, &at(1)), (UP1, r#"{"health":"passing"}"#)]);
    // However often the registry is started.
    for _ in 0..3 {
        let node = alone(&world).await;
        pass(7).await;
        assert_eq!(node.probe.count(AT1), 1);
        pass(3600).await;
        assert_eq!(node.probe.count(AT1), 1, "and then in its place, half a day away at least");
        node.stop().await;
    }
    let node = alone(&world).await;
    pass(7).await;
    // Another declaration, and another place.
    let run_soon = async |key: &str, value: &str, target: &str| {
        let count = node.probe.count(target);
        world.put(&[(key, value)]);
        pass(2).await;
        assert_eq!(node.probe.count(target), count + 1, "{value}");
    };
    run_soon(SERVICE, &DAILY.replace("86400", "80000"), AT1).await;
    run_soon(WEB1, &at(2), "10.0.0.2:80").await;
    run_soon("instances/prod/web/api/web-2", &at(3), "10.0.0.3:80").await;
    // What changes nothing of that, runs nothing.
    world.put(&[(WEB1, r#"{"addresses":["10.0.0.2"],"weight":3}"#)]);
    pass(60).await;
    assert_eq!(node.probe.count("10.0.0.2:80"), 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_over_is_run_at_a_rate() {
    let world = World::new();
    world.put(&[(SERVICE, DAILY)]);
    for n in 0..2000 {
        let id = format!("prod/web/api/web-{n}");
        world.put(&[(&format!("instances/{id}"), &at(n)), (&format!("checks/{id}/up"), r#"{"health":"passing"}"#)]);
    }
    let limits = Limits { first_runs: 100, ..Limits::default() };
    let node = world.node("a", &["a"], limits, Arc::new(NoRelay)).await;
    let begun = Instant::now();
    // Who is new meanwhile doesn't stand in line with them.
    pass(5).await;
    world.put(&[("instances/prod/web/api/new", r#"{"addresses":["10.1.0.1"]}"#)]);
    pass(2).await;
    assert_eq!(node.probe.count("10.1.0.1:80"), 1);
    pass(20).await;
    let mut a_second: BTreeMap<u64, usize> = BTreeMap::new();
    for (when, _) in &*node.probe.asked.lock() {
        *a_second.entry((*when - begun).as_secs()).or_default() += 1;
    }
    assert!(a_second.values().sum::<usize>() >= 2001, "all of them in half a minute: {a_second:?}");
    assert!(a_second.values().all(|count| *count < 150), "{a_second:?}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_does_not_take_all_places() {
    let world = World::new();
    let limits = Limits { probes: 16, per_address: 4, ..Limits::default() };
    let node = world.node("a", &["a"], limits, Arc::new(NoRelay)).await;
    let check = r#"{"checks":[{"name":"up","type":"tcp","port":80,"intervalSeconds":60,"timeoutSeconds":60}]}"#;
    let silent = |n: u8| IpAddr::from([10, 9, 0, n]);
    node.probe.silent.lock().extend((1..=100).map(silent));
    // A hundred instances of one service, and then one address with a hundred checks in as many services.
    world.put(&[("services/prod/slow/api", check)]);
    for n in 1..=100 {
        let at = format!(r#"{{"addresses":["10.9.0.{n}"]}}"#);
        world.put(&[(&format!("instances/prod/slow/api/i-{n}"), &at)]);
    }
    pass(5).await;
    assert_eq!(node.probe.running.lock().0, 8);
    for n in 0..100 {
        let at = r#"{"addresses":["10.9.0.1"]}"#;
        world.put(&[(&format!("services/prod/s-{n}/api"), check), (&format!("instances/prod/s-{n}/api/i"), at)]);
    }
    pass(5).await;
    assert!(node.probe.running.lock().0 <= 12, "{:?}", node.probe.running.lock());
    // Others are run as if they were not there.
    world.put(&[(SERVICE, UP)]);
    for n in 1..=20 {
        world.put(&[(&format!("instances/prod/web/api/web-{n}"), &at(n))]);
    }
    pass(2).await;
    assert!((1..=20).all(|n| node.probe.count(&format!("10.0.0.{n}:80")) == 1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_check_is_run_by_one_replica_and_moves_when_that_is_gone() {
    let world = World::new();
    let both = ["a", "b"];
    let a = world.node("a", &both, Limits::default(), Arc::new(NoRelay)).await;
    let b = world.node("b", &both, Limits::default(), Arc::new(NoRelay)).await;
    world.put(&[(SERVICE, UP)]);
    for n in 0..40 {
        world.put(&[(&format!("instances/prod/web/api/web-{n}"), &at(n))]);
    }
    pass(30).await;
    let homes = |node: &Node| (0..40).map(|n| node.probe.count(&format!("10.0.0.{n}:80")) > 0).collect::<Vec<_>>();
    let (at_a, at_b) = (homes(&a), homes(&b));
    assert!(at_a.iter().zip(&at_b).all(|(a, b)| a != b), "each at one of them: {at_a:?} {at_b:?}");
    assert!(at_a.contains(&true) && at_b.contains(&true));
    assert_eq!(a.runner.counts().0 + b.runner.counts().0, 40);

    // The other one is gone: what it had is taken over, and what this one had goes on.
    b.stop().await;
    a.believe(&["a"]);
    a.probe.asked.lock().clear();
    pass(15).await;
    assert!(homes(&a).iter().all(|run| *run));

    // Out of touch, it is at home for nothing, whatever it believes of itself.
    a.believe(&[]);
    pass(1).await;
    a.probe.asked.lock().clear();
    let commits = world.commits();
    (0..40).for_each(|n| a.probe.set(&format!("10.0.0.{n}:80"), Health::Critical, "down"));
    pass(60).await;
    assert!(a.probe.asked.lock().is_empty());
    assert_eq!((world.commits(), a.runner.counts()), (commits, (0, 0)));
    a.believe(&both);
    pass(45).await;
    assert_eq!(homes(&a), at_a, "only what is its own again");
    assert_eq!(world.commits() - commits, at_a.iter().filter(|home| **home).count());
    a.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_no_longer_the_home_overwrites_nothing() {
    let world = World::new();
    world.put(&[(SERVICE, UP), (WEB1, &at(1))]);
    // Both believe to be alone.
    let old = world.node("a", &["a"], Limits::default(), Arc::new(NoRelay)).await;
    let new = world.node("b", &["b"], Limits::default(), Arc::new(NoRelay)).await;
    old.set_deaf(true);
    old.probe.set(AT1, Health::Critical, "cut off");
    *old.probe.takes.lock() = Duration::from_millis(1500);
    pass(60).await;
    let result = world.result(UP1).expect("a verdict");
    assert_eq!((result.health, &*result.note), (Health::Passing, "fine"));
    old.stop().await;
    new.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_its_place_judges_nothing() {
    let world = World::new();
    world.put(&[(SERVICE, UP), (WEB1, &at(1))]);
    let node = alone(&world).await;
    pass(20).await;
    assert_eq!(health(&world), Some(Health::Passing));
    node.store.evicted.store(true, Ordering::SeqCst);
    node.probe.set(AT1, Health::Critical, "cut off");
    pass(60).await;
    assert_eq!(health(&world), Some(Health::Passing));
    // It still is the home, or is again.
    node.store.evicted.store(false, Ordering::SeqCst);
    pass(2).await;
    assert_eq!(health(&world), Some(Health::Critical), "judged afresh, and soon");
    // Nor does it clear away what it takes for useless.
    let former = "checks/prod/web/api/web-1/former";
    node.store.evicted.store(true, Ordering::SeqCst);
    world.put(&[(former, r#"{"health":"critical"}"#)]);
    pass(150).await;
    assert!(world.has(former));
    node.store.evicted.store(false, Ordering::SeqCst);
    pass(90).await;
    assert!(!world.has(former));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_declares_is_cleared_away() {
    let world = World::new();
    let drain = "drains/prod/web/api/web-2";
    world.put(&[
        (SERVICE, UP),
        (WEB1, &at(1)),
        ("checks/prod/web/api/web-1/former", r#"{"health":"critical"}"#),
        // Of an instance that is gone.
        ("checks/prod/web/api/web-2/up", r#"{"health":"critical"}"#),
        (drain, "{}"),
        // And of one that is there.
        ("instances/prod/-/api/bare", &at(3)),
        ("drains/prod/-/api/bare", "{}"),
    ]);
    let node = alone(&world).await;
    pass(3).await;
    assert!(!world.has("checks/prod/web/api/web-1/former"));
    assert!(!world.has("checks/prod/web/api/web-2/up") && !world.has(drain));
    assert!(world.has(UP1) && world.has("drains/prod/-/api/bare"));
    // A check is withdrawn, and an instance goes without its parts.
    world.put(&[(SERVICE, "{}")]);
    pass(3).await;
    assert!(!world.has(UP1));
    world.put(&[("instances/prod/-/api/bare", "-")]);
    pass(3).await;
    assert!(!world.has("drains/prod/-/api/bare"));
    // What comes without any change of a view is found in time.
    world.put(&[("checks/prod/web/api/web-9/up", r#"{"health":"critical"}"#)]);
    pass(90).await;
    assert!(!world.has("checks/prod/web/api/web-9/up"));
    assert_eq!(node.runner.counts().0, 0);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn instances_go_with_whatever_hangs_on_them() {
    let world = World::new();
    let checks: Vec<String> = (0..16).map(|n| format!(r#"{{"name":"c-{n}","type":"ttl"}}"#)).collect();
    let declared = format!(r#"{{"addresses":["10.0.0.1"],"checks":[{}]}}"#, checks.join(","));
    let part = |id: &str, check: &str| format!("checks/prod/web/api/{id}/{check}");
    let spoilt = |id: &str| {
        world.put(&[(&format!("instances/prod/web/api/{id}"), &*declared)]);
        (0..16).for_each(|n| world.put(&[(&part(id, &format!("c-{n}")), r#"{"health":"critical"}"#)]));
    };
    let ids: Vec<String> = (0..7).map(|n| format!("web-{n}")).collect();
    let node = alone(&world).await;
    let acting = Caller::anonymous().act_as(Source::api()).unwrap();
    let delete = |ids: &[String]| -> Vec<_> {
        let document = |id: &String| InstanceDocument {
            namespace: Some("prod".to_owned()),
            service: Some("web".to_owned()),
            id: Some(id.clone()),
            ..InstanceDocument::default()
        };
        ids.iter().map(|id| (Verb::Delete, ObjectDocument::Instance(Box::new(document(id))))).collect()
    };
    // 5 with 80 results are one commit, and 7 with 112 would be too much: their results follow.
    for (count, at_once) in [(5, true), (7, false)] {
        ids.iter().for_each(|id| spoilt(id));
        pass(1).await;
        let commits = world.commits();
        node.writer.batch(&acting, &delete(&ids[..count])).await.unwrap();
        assert!(ids[..count].iter().all(|id| !world.has(&format!("instances/prod/web/api/{id}"))));
        assert_eq!((world.commits() - commits, world.has(&part("web-0", "c-0"))), (1, !at_once));
        pass(3).await;
        assert!(ids[..count].iter().all(|id| !world.has(&part(id, "c-0")) && !world.has(&part(id, "c-15"))));
    }
    // One that has more results than a commit can hold, and as one of many.
    let stray = |id: &str| {
        (0..150).for_each(|n| world.put(&[(&part(id, &format!("former-{n}")), r#"{"health":"critical"}"#)]));
    };
    node.store.evicted.store(true, Ordering::SeqCst);
    for id in ["web-0", "web-1", "web-2", "web-3"] {
        spoilt(id);
    }
    stray("web-0");
    stray("web-2");
    pass(1).await;
    node.writer.delete_instance(instance("prod/web/api/web-0"), Guard::None).await.unwrap();
    let rest: Vec<InstanceKey> = (1..4).map(|n| instance(&format!("prod/web/api/web-{n}"))).collect();
    node.writer.remove_instances(&rest, None).await.unwrap();
    assert!((0..4).all(|n| !world.has(&format!("instances/prod/web/api/web-{n}"))));
    assert!(!world.has(&part("web-1", "c-0")) && world.has(&part("web-2", "former-99")));
    node.store.evicted.store(false, Ordering::SeqCst);
    pass(150).await;
    assert!((0..150).all(|n| ["web-0", "web-2"].iter().all(|id| !world.has(&part(id, &format!("former-{n}"))))));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn verdicts_are_written_when_the_store_is_back_and_as_they_are_then() {
    let world = World::new();
    let node = alone(&world).await;
    world.put(&[(SERVICE, UP), (WEB1, &at(1))]);
    pass(3).await;
    assert_eq!(health(&world), Some(Health::Passing));
    world.set_away(true);
    node.probe.set(AT1, Health::Critical, "refused");
    pass(60).await;
    assert_eq!(health(&world), Some(Health::Passing));
    world.set_away(false);
    pass(40).await;
    assert_eq!(health(&world), Some(Health::Critical));
    // What has passed meanwhile is not written any more.
    world.set_away(true);
    node.probe.set(AT1, Health::Passing, "fine");
    pass(30).await;
    node.probe.set(AT1, Health::Critical, "refused");
    pass(30).await;
    let commits = world.commits();
    world.set_away(false);
    pass(60).await;
    assert_eq!((world.commits(), health(&world)), (commits, Some(Health::Critical)));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_goes_away_is_broken_off() {
    let world = World::new();
    let node = alone(&world).await;
    *node.probe.takes.lock() = Duration::from_secs(1000);
    let patient = r#"{"checks":[{"name":"up","type":"tcp","port":80,"intervalSeconds":60,"timeoutSeconds":60}]}"#;
    world.put(&[(SERVICE, patient), (WEB1, &at(1)), ("instances/prod/web/api/web-2", &at(2))]);
    pass(3).await;
    assert_eq!((*node.probe.running.lock(), *node.probe.dropped.lock()), ((2, 2), 0));
    world.put(&[(WEB1, "-")]);
    pass(1).await;
    assert_eq!((node.probe.running.lock().0, *node.probe.dropped.lock()), (1, 1));
    // The other one comes to its timeout, and says so.
    pass(60).await;
    let result = world.result("checks/prod/web/api/web-2/up").expect("a verdict");
    assert_eq!((result.health, &*result.note), (Health::Critical, "no answer within 60 s"));
    assert!(!world.has(UP1));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn targets_that_are_refused_are_never_asked() {
    let world = World::new();
    let node = alone(&world).await;
    world.put(&[
        (SERVICE, UP),
        (WEB1, r#"{"addresses":["169.254.169.254"]}"#),
        ("instances/prod/web/api/web-2", r#"{"addresses":["127.0.0.1"]}"#),
        (
            "instances/prod/web/api/web-3",
            r#"{"addresses":["10.0.0.3"],"checks":[{"name":"named","type":"tcp","port":"x"}]}"#,
        ),
    ]);
    pass(25).await;
    let result = world.result(UP1).expect("a verdict");
    assert!(result.health == Health::Critical && result.note.contains("link-local"), "{result:?}");
    assert!(world.result("checks/prod/web/api/web-2/up").unwrap().note.contains("loopback"));
    assert!(world.result("checks/prod/web/api/web-3/named").unwrap().note.contains("no port `x`"));
    assert!(node.probe.asked.lock().iter().all(|(_, target)| *target == "10.0.0.3:80".parse().unwrap()));
    // It moves to where it may be checked.
    world.put(&[(WEB1, &at(1))]);
    pass(3).await;
    assert_eq!(health(&world), Some(Health::Passing), "at once, not an interval later");
    node.stop().await;
}

const ALIVE: &str = r#"{"addresses":["10.0.0.1"],"checks":[{"name":"alive","type":"ttl","ttlSeconds":30}]}"#;
const ALIVE1: &str = "checks/prod/web/api/web-1/alive";

async fn report(node: &Node, health: Health, note: &str) -> Result<(), WriteError> {
    let key = instance("prod/web/api/web-1");
    node.runner.report(&node.writer, key, "alive", Outcome::new(health, note)).await
}

#[tokio::test(start_paused = true)]
async fn reports_in_time_keep_a_ttl_check_and_are_not_written() {
    let world = World::new();
    let node = alone(&world).await;
    world.put(&[(WEB1, ALIVE)]);
    pass(1).await;
    assert_eq!(world.result(ALIVE1), None);
    report(&node, Health::Passing, "hello").await.unwrap();
    assert_eq!(world.result(ALIVE1).map(|result| result.health), Some(Health::Passing));
    let commits = world.commits();
    for _ in 0..10 {
        pass(25).await;
        report(&node, Health::Passing, "still here").await.unwrap();
    }
    assert_eq!(world.commits(), commits, "heartbeats stay in memory");
    pass(29).await;
    assert_eq!(world.commits(), commits);
    pass(3).await;
    let result = world.result(ALIVE1).unwrap();
    assert_eq!((result.health, &*result.note), (Health::Critical, "no report for 30 s"));
    // Overdue, it stays what it is, and is not written again.
    pass(200).await;
    assert_eq!(world.commits(), commits + 1);
    report(&node, Health::Warning, "slow").await.unwrap();
    assert_eq!(world.result(ALIVE1).map(|result| result.health), Some(Health::Warning));

    let key = instance("prod/web/api/web-1");
    let unknown = node.runner.report(&node.writer, key, "other", Outcome::new(Health::Passing, "")).await;
    assert!(matches!(unknown, Err(WriteError::NotFound(_))), "{unknown:?}");
    world.put(&[(WEB1, r#"{"addresses":["10.0.0.1"],"checks":[{"name":"alive","type":"tcp","port":80}]}"#)]);
    pass(1).await;
    assert!(matches!(report(&node, Health::Passing, "").await, Err(WriteError::Invalid(_))));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_note_on_the_same_verdict_is_written_now_and_then() {
    let world = World::new();
    // As it was reported long ago.
    world.put(&[(WEB1, ALIVE), (ALIVE1, r#"{"health":"warning","note":"disk 90 %","since":5}"#)]);
    let node = alone(&world).await;
    pass(1).await;
    let commits = world.commits();
    report(&node, Health::Warning, "disk 90 %").await.unwrap();
    assert_eq!(world.commits(), commits, "nothing new");
    pass(25).await;
    report(&node, Health::Warning, "disk 95 %").await.unwrap();
    let noted = world.result(ALIVE1).unwrap();
    assert_eq!((noted.health, &*noted.note, noted.since), (Health::Warning, "disk 95 %", 5), "the verdict is as old");
    // A report with a new note is a report.
    pass(28).await;
    assert_eq!(world.result(ALIVE1).as_ref(), Some(&noted));
    // It has just been written, so another one has to wait.
    report(&node, Health::Warning, "disk 96 %").await.unwrap();
    assert_eq!(world.result(ALIVE1), Some(noted));
    let long = "é".repeat(1024);
    report(&node, Health::Critical, &long).await.unwrap();
    let turned = world.result(ALIVE1).unwrap();
    assert_eq!((turned.health, turned.note, turned.noted), (Health::Critical, long, 0));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_home_grants_a_whole_ttl() {
    let world = World::new();
    world.put(&[(WEB1, ALIVE), (ALIVE1, r#"{"health":"passing"}"#)]);
    let first = alone(&world).await;
    pass(25).await;
    first.stop().await;
    let second = alone(&world).await;
    pass(25).await;
    assert_eq!(world.result(ALIVE1).unwrap().health, Health::Passing);
    pass(10).await;
    assert_eq!(world.result(ALIVE1).unwrap().health, Health::Critical);
    second.stop().await;
}

/// Brings heartbeats to one other replica, or fails.
#[derive(Default)]
struct ToOther(Mutex<Option<fingerpost_registry::checks::Runner>>);

impl Relay for ToOther {
    fn heartbeat<'a>(
        &'a self,
        home: &'a Member,
        instance: &'a InstanceKey,
        check: &'a str,
        health: Health,
    ) -> BoxFuture<'a, Result<(), RelayError>> {
        let noted = self.0.lock().as_ref().is_some_and(|runner| runner.heartbeat(instance, check, health));
        assert_eq!(&*home.id, "b");
        Box::pin(async move { if noted { Ok(()) } else { Err(RelayError("cut".to_owned())) } })
    }
}

#[tokio::test(start_paused = true)]
async fn reports_to_any_replica_reach_the_home() {
    let world = World::new();
    let relay = Arc::new(ToOther::default());
    world.put(&[(WEB1, ALIVE)]);
    // The one believes the other to be at home for everything.
    let a = world.node("a", &["b"], Limits::default(), Arc::clone(&relay) as Arc<dyn Relay>).await;
    let b = world.node("b", &["b"], Limits::default(), Arc::new(NoRelay)).await;
    *relay.0.lock() = Some(b.runner.clone());
    pass(1).await;
    report(&a, Health::Passing, "hello").await.unwrap();
    let commits = world.commits();
    for _ in 0..4 {
        pass(25).await;
        report(&a, Health::Passing, "hello").await.unwrap();
    }
    assert_eq!(world.commits(), commits, "the relay works");
    // Without it, the record says so.
    *relay.0.lock() = None;
    for reports in 1..=4 {
        pass(25).await;
        report(&a, Health::Passing, "hello").await.unwrap();
        let result = world.result(ALIVE1).unwrap();
        assert_eq!((result.health, result.reports), (Health::Passing, reports));
    }
    pass(35).await;
    assert_eq!(world.result(ALIVE1).unwrap().health, Health::Critical);
    a.stop().await;
    b.stop().await;
}
