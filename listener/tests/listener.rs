//! The whole listener, between an API server that is told how to misbehave and a registry in memory.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    missing_docs,
    reason = "in tests, a broken assumption ends the test"
)]

mod world;

use fingerpost_listener::Phase;
use serde_json::json;
use std::time::{Duration, Instant};
use world::{Cluster, Kind, MemoryRegistry, Running};

async fn small() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.namespace("prod");
    cluster.headless("prod", "web");
    cluster.slice("prod", "web-a", "web", &[("web-0", "10.0.0.1"), ("web-1", "10.0.0.2")]);
    cluster
}

const SMALL: [&str; 4] = ["instance prod/web/web-0", "instance prod/web/web-1", "namespace prod", "service prod/web"];

/// So many services in one namespace that losing them is suspicious.
fn fill(cluster: &Cluster) {
    cluster.namespace("prod");
    for n in 0..150 {
        cluster.headless("prod", &format!("s{n}"));
    }
}

#[tokio::test]
async fn changes_come_through_one_by_one() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    assert_eq!(registry.writes(), (4, 0));
    cluster.slice("prod", "web-a", "web", &[("web-0", "10.0.0.1"), ("web-2", "10.0.0.3")]);
    registry.until(|keys| keys.contains(&"instance prod/web/web-2".into())).await;
    // What leaves goes with what comes.
    assert_eq!((registry.len(), registry.writes()), (4, (5, 1)));
    running.state_is(|state| state.writes == 6).await;
    let metrics = running.metrics();
    assert!(
        metrics
            .contains("kubernetes_dns_programming_duration_seconds_count{service_kind=\"headless_with_selector\"} 1"),
        "{metrics}"
    );
    cluster.delete(Kind::Services, "prod/web");
    registry.until(|keys| keys == ["namespace prod"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_in_pages() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.without_streams();
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    running.stop().await;
}

#[tokio::test]
async fn a_list_that_is_asked_for_is_no_word_from_the_server() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.without_streams();
    cluster.fail_lists(Some(500));
    let began = Instant::now();
    let running = Running::start(&cluster, &registry);
    running.state_is(|state| state.kinds.iter().all(|kind| kind.errors.get("server") >= Some(&4))).await;
    assert!(began.elapsed() > Duration::from_millis(800), "it waits longer each time: {:?}", began.elapsed());
    assert!(running.state.document().kinds.iter().all(|kind| kind.age_seconds.is_none() && kind.trouble.is_some()));
    cluster.fail_lists(None);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    running.stop().await;
}

#[tokio::test]
async fn a_streamed_list_that_never_ends_comes_in_pages() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.break_streams();
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    assert!(running.metrics().contains("reason=\"silent\""), "{}", running.metrics());
    // The next one is tried as a stream again.
    cluster.compact();
    running.state_is(|state| state.kinds.iter().all(|kind| kind.errors["silent"] > 1 && kind.relists > 0)).await;
    cluster.slice("prod", "web-b", "web", &[("web-9", "10.0.0.9")]);
    registry.until(|keys| keys.len() == 5).await;
    running.stop().await;
}

#[tokio::test]
async fn a_list_that_is_not_confirmed_in_time_is_told_of_and_asked_for_again() {
    let (cluster, registry) = (Cluster::start().await, MemoryRegistry::new());
    fill(&cluster);
    let running =
        Running::start_with(&cluster, &registry, |options| options.confirm_within = Duration::from_millis(100));
    running.synced().await;
    cluster.fail_lists(Some(500));
    cluster.empty_cache(Some(Kind::Services));
    cluster.compact();
    running
        .state_is(|state| state.held == 150 && state.kinds.iter().any(|kind| kind.errors.contains_key("silent")))
        .await;
    cluster.fail_lists(None);
    running.state_is(|_| cluster.quorum_lists() > 0).await;
    cluster.headless("prod", "one-more");
    registry.until(|keys| keys.len() == 152).await;
    running.state_is(|state| state.held == 0).await;
    assert_eq!(registry.writes().1, 0);
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_only_the_differences_are_written() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    running.stop().await;
    cluster.slice("prod", "web-a", "web", &[("web-1", "10.0.0.2"), ("web-2", "10.0.0.3")]);
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.writes(), (5, 1));
    assert_eq!(running.state.document().found, Some(4));
    running.stop().await;
}

#[tokio::test]
async fn a_compacted_watch_loses_nothing() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    cluster.vanish(Kind::EndpointSlices, "prod/web-a");
    cluster.slice("prod", "web-b", "web", &[("web-9", "10.0.0.9")]);
    cluster.compact();
    registry
        .until(|keys| {
            keys.contains(&"instance prod/web/web-9".into()) && !keys.contains(&"instance prod/web/web-0".into())
        })
        .await;
    running.state_is(|state| state.kinds.iter().all(|kind| kind.relists == 1)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_list_that_is_empty_by_mistake_removes_nothing() {
    let (cluster, registry) = (Cluster::start().await, MemoryRegistry::new());
    fill(&cluster);
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.len(), 151);
    cluster.empty_cache(Some(Kind::Services));
    cluster.compact();
    // It is asked again, this time not from the cache, and the watch goes on from there.
    running.state_is(|_| cluster.quorum_lists() > 0).await;
    cluster.headless("prod", "one-more");
    registry.until(|keys| keys.len() == 152).await;
    assert_eq!(registry.writes().1, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_start_with_an_empty_list_removes_nothing_until_it_is_confirmed() {
    let (cluster, registry) = (Cluster::start().await, MemoryRegistry::new());
    fill(&cluster);
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    running.stop().await;
    cluster.empty_cache(Some(Kind::Services));
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert!(cluster.quorum_lists() > 0);
    assert_eq!((registry.len(), registry.writes().1), (151, 0));
    running.stop().await;
    // Where they are gone indeed, the second list says so, too.
    for n in 0..150 {
        cluster.vanish(Kind::Services, &format!("prod/s{n}"));
    }
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.keys(), ["namespace prod"]);
    running.stop().await;
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.refuse(Some(Kind::EndpointSlices));
    let running = Running::start(&cluster, &registry);
    running.state_is(|state| state.kinds.iter().any(|kind| kind.trouble.is_some())).await;
    let trouble = running.state.trouble().unwrap();
    for part in ["endpointslices", "discovery.k8s.io", "ClusterRole", "watch"] {
        assert!(trouble.contains(part), "{part} in {trouble}");
    }
    assert!(running.metrics().contains("reason=\"forbidden\""));
    assert!(!*running.state.synced().borrow());
    cluster.refuse(None);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    running.stop().await;
}

#[tokio::test]
async fn a_kind_that_cannot_be_listed_holds_up_itself_only() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.pod("prod", "lone", "10.0.9.1");
    let start = || Running::start_with(&cluster, &registry, |options| options.pods = true);
    let running = start();
    running.synced().await;
    let lone = "instance prod//lone".to_owned();
    assert!(registry.keys().contains(&lone));
    running.stop().await;
    cluster.refuse(Some(Kind::Pods));
    let running = start();
    running.state_is(|state| state.kinds.iter().any(|kind| kind.trouble.is_some())).await;
    cluster.slice("prod", "web-a", "web", &[("web-0", "10.0.0.1"), ("web-9", "10.0.0.9")]);
    registry
        .until(|keys| {
            keys.contains(&"instance prod/web/web-9".into()) && !keys.contains(&"instance prod/web/web-1".into())
        })
        .await;
    // What is not known is not taken for gone.
    assert!(registry.keys().contains(&lone) && !*running.state.synced().borrow());
    cluster.vanish(Kind::Pods, "prod/lone");
    cluster.refuse(None);
    registry.until(|keys| !keys.contains(&lone)).await;
    running.stop().await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_costs_nothing_else() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.put(Kind::EndpointSlices, json!({"metadata": {"namespace": "prod", "name": "odd"}, "endpoints": "none"}));
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    // One that becomes so leaves what was known of it.
    cluster.put(Kind::EndpointSlices, json!({"metadata": {"namespace": "prod", "name": "web-a"}, "endpoints": 7}));
    cluster.slice("prod", "web-b", "web", &[("web-9", "10.0.0.9")]);
    registry.until(|keys| keys.len() == 5).await;
    running.state_is(|state| state.kinds.iter().any(|kind| kind.malformed == 2)).await;
    running.stop().await;
}

#[tokio::test]
async fn what_the_registry_refuses_is_left_out_and_named() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    registry.refuse(Some("web-0"));
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL[1..]);
    let state = running.state.document();
    assert_eq!(state.refused, 1);
    assert!(state.refused_names[0].contains("prod/web/web-0"), "{:?}", state.refused_names);
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_is_refused_is_not_answered_by_its_pods() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    registry.refuse_labelled(Some("odd"));
    cluster.service("prod", "good", json!({}), json!({}));
    cluster.slice("prod", "good-a", "good", &[("good-0", "10.0.1.1")]);
    cluster.service("prod", "odd", json!({"odd": "1"}), json!({}));
    cluster.slice("prod", "odd-a", "odd", &[("odd-0", "10.0.2.1")]);
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert!(registry.keys().iter().all(|key| !key.contains("odd")), "{:?}", registry.keys());
    // One that becomes so stays as it was, and its instances go on changing.
    cluster.service("prod", "good", json!({"odd": "1"}), json!({}));
    running.state_is(|state| state.refused == 2).await;
    cluster.slice("prod", "good-a", "good", &[("good-1", "10.0.1.2")]);
    registry.until(|keys| keys.contains(&"instance prod/good/good-1".into())).await;
    assert!(registry.keys().contains(&"service prod/good".into()));
    // One that is taken after all brings its instances along.
    cluster.service("prod", "odd", json!({}), json!({}));
    registry.until(|keys| keys.contains(&"instance prod/odd/odd-0".into())).await;
    assert!(registry.keys().contains(&"service prod/odd".into()));
    running.stop().await;
}

#[tokio::test]
async fn an_annotation_that_cannot_be_taken_costs_nothing_else() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let odd = json!({"fingerpost.io/ttl": "30s", "fingerpost.io/exclude": "yes", "fingerpost.io/all-critical": "Any"});
    cluster.service("prod", "odd", json!({}), odd.clone());
    cluster.service("prod", "long", json!({}), json!({"fingerpost.io/ttl": "604800"}));
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    assert_eq!((registry.service("prod/odd").ttl, registry.service("prod/long").ttl), (None, Some(86_400)));
    let state = running.state.document();
    let named = |what: &str| state.refused_names.iter().any(|name| name.contains(what));
    for part in ["prod/odd", "`30s`", "`yes`", "`Any`", "prod/long", "604800"] {
        assert!(named(part), "{part} in {:?}", state.refused_names);
    }
    // Said once.
    cluster.service("prod", "odd", json!({"a": "b"}), odd);
    registry.until_service("prod/odd", |service| !service.labels.is_empty()).await;
    assert_eq!(running.state.document().refused, 2);
    running.stop().await;
}

#[tokio::test]
async fn what_was_removed_without_a_reply_comes_back_with_the_object() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let running = Running::start(&cluster, &registry);
    running.synced().await;
    registry.lose_replies(true);
    cluster.delete(Kind::EndpointSlices, "prod/web-a");
    registry.until(|keys| keys.len() == 2).await;
    running.state_is(|state| state.write_failures > 0).await;
    cluster.slice("prod", "web-a", "web", &[("web-0", "10.0.0.1"), ("web-1", "10.0.0.2")]);
    registry.until(|keys| keys == SMALL).await;
    registry.lose_replies(false);
    running.state_is(|state| state.write_trouble.is_none() && state.pending == 0).await;
    assert_eq!(registry.keys(), SMALL);
    running.stop().await;
}

#[tokio::test]
async fn failing_servers_are_waited_for() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    registry.fail(true);
    let running = Running::start(&cluster, &registry);
    running.state_is(|state| state.write_failures > 1 && state.writes_failing_seconds.is_some()).await;
    assert!(running.state.trouble().unwrap().contains("writes have failed for"));
    registry.fail(false);
    running.synced().await;
    assert_eq!(registry.keys(), SMALL);
    cluster.fail(Some(500));
    running.state_is(|state| state.kinds.iter().all(|kind| kind.trouble.is_some())).await;
    cluster.slice("prod", "web-b", "web", &[("web-9", "10.0.0.9")]);
    cluster.fail(None);
    registry.until(|keys| keys.len() == 5).await;
    running.state_is(|state| state.kinds.iter().all(|kind| kind.trouble.is_none())).await;
    running.stop().await;
}

#[tokio::test]
async fn two_clusters_of_one_name_do_not_remove_each_others_records() {
    let (one, registry) = (small().await, MemoryRegistry::new());
    let kube_system = |uid: &str| json!({"metadata": {"name": "kube-system", "uid": uid}});
    one.put(Kind::Namespaces, kube_system("one"));
    let running = Running::start(&one, &registry);
    running.synced().await;
    let keys = registry.keys();
    running.stop().await;
    let other = Cluster::start().await;
    other.put(Kind::Namespaces, kube_system("other"));
    other.namespace("test");
    let running = Running::start(&other, &registry);
    running.state_is(|state| state.foreign.is_some()).await;
    let trouble = running.state.trouble().unwrap();
    assert!(trouble.contains("--cluster-name") && trouble.contains("source remove"), "{trouble}");
    other.namespace("more");
    running.state_is(|state| state.kinds[0].objects == 3).await;
    assert_eq!((registry.keys(), running.state.document().writes), (keys, 0));
    running.stop().await;
    // The first one knows its own.
    let running = Running::start(&one, &registry);
    running.synced().await;
    running.stop().await;
}

#[tokio::test]
async fn drift_is_repaired() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let running = Running::start_with(&cluster, &registry, |options| options.resync = Duration::from_millis(50));
    running.synced().await;
    registry.remove("instance prod/web/web-1");
    registry.until(|keys| keys == SMALL).await;
    cluster.cut();
    running.stop().await;
}

#[tokio::test]
async fn a_lease_that_may_not_be_used_is_told_of() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    cluster.refuse_leases(true);
    let running = Running::start_with(&cluster, &registry, |options| {
        options.lease = Some("kube-system/fingerpost".parse().unwrap());
    });
    running.state_is(|state| state.lease_trouble.is_some() && state.phase == Phase::Standby).await;
    let trouble = running.state.trouble().unwrap();
    for part in ["nobody", "coordination.k8s.io", "kube-system"] {
        assert!(trouble.contains(part), "{part} in {trouble}");
    }
    assert!(running.state.waits_for_nobody());
    assert!(running.metrics().contains("fingerpost_kubernetes_lease_trouble 1"));
    cluster.refuse_leases(false);
    running.synced().await;
    assert_eq!(running.state.document().lease_holder.as_deref(), Some("fingerpost"));
    assert_eq!((running.state.trouble(), running.state.waits_for_nobody()), (None, false));
    running.stop().await;
}

#[tokio::test]
async fn two_registries_of_one_lease_find_out() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let start = |name: &'static str| {
        Running::start_with(&cluster, &registry, |options| {
            options.lease = Some("kube-system/fingerpost".parse().unwrap());
            (options.identity, options.registry) = (name.to_owned(), name.to_owned());
        })
    };
    let first = start("first");
    first.synced().await;
    let second = start("second");
    second.state_is(|state| state.lease_trouble.is_some()).await;
    let trouble = second.state.trouble().unwrap();
    assert!(trouble.contains("in first") && trouble.contains("another Lease"), "{trouble}");
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn one_of_two_listeners_writes_and_the_other_takes_over() {
    let (cluster, registry) = (small().await, MemoryRegistry::new());
    let start = |identity: &str| {
        Running::start_with(&cluster, &registry, |options| {
            options.lease = Some("kube-system/fingerpost".parse().unwrap());
            options.identity = identity.to_owned();
        })
    };
    let first = start("first");
    first.synced().await;
    let second = start("second");
    second.state_is(|state| state.kinds.iter().all(|kind| kind.synced)).await;
    assert!(first.state.document().leader && !second.state.document().leader);
    assert_eq!(registry.writes(), (4, 0));
    first.stop().await;
    // What the first one sent last is not visible yet when the second one takes over.
    registry.remove_late("instance prod/web/web-1");
    second.synced().await;
    assert_eq!(cluster.lease_holder().as_deref(), Some("second"));
    // What was there is not written again.
    assert_eq!((registry.keys(), registry.writes()), (SMALL.map(str::to_owned).to_vec(), (5, 0)));
    cluster.slice("prod", "web-b", "web", &[("web-9", "10.0.0.9")]);
    registry.until(|keys| keys.len() == 5).await;
    second.stop().await;
}
