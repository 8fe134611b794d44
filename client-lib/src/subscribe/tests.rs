//! Subscriptions over a registry that misbehaves.

mod faults;
mod registry;

use super::core::Spec;
use super::start::{Subscriptions, Watch};
use super::subscription::{Change, Subscription};
use crate::endpoint::{Endpoints, Freshness};
use crate::{Error, Target};
use futures_util::StreamExt;
use registry::FakeRegistry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn subscriptions(registry: &FakeRegistry, cache: Option<&Path>) -> Arc<Subscriptions> {
    Arc::new(Subscriptions::new(Arc::new(registry.clone()), cache.map(Path::to_path_buf)))
}

fn watch(subscriptions: &Arc<Subscriptions>) -> Watch {
    Watch::new(Arc::clone(subscriptions), "prod/web".parse::<Target>())
}

/// Ids with the version that each has, as `a1 b3`.
fn shown(endpoints: &Endpoints) -> String {
    let shown: Vec<String> = endpoints
        .iter()
        .map(|endpoint| format!("{}{}", endpoint.key().id(), endpoint.labels().get("version").unwrap()))
        .collect();
    shown.join(" ")
}

/// Waits until a subscription shows something.
async fn until(subscription: &mut Subscription, wanted: &str) {
    let seen = async {
        while shown(&subscription.current()) != wanted {
            let _ = subscription.changed().await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(600), seen).await;
    assert!(seen.is_ok(), "shows `{}` and not `{wanted}`", shown(&subscription.current()));
}

#[tokio::test(start_paused = true)]
async fn follows_and_tells_differences() {
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1", "b1"]);
    let all = subscriptions(&registry, None);
    let mut web = watch(&all).subscribe().unwrap();
    assert!(web.current().is_empty() && web.current().position().is_none());
    web.synced().await.unwrap();
    assert_eq!(shown(&web.current()), "a1 b1");
    let before = web.current();
    let mut changes = web.changes();
    for _ in 0..2 {
        assert!(matches!(changes.next().await, Some(Change::Added(_))));
    }
    registry.commit(&["-a", "b2", "c1"]);
    until(&mut web, "b2 c1").await;
    let told = [changes.next().await, changes.next().await, changes.next().await];
    assert!(matches!(&told[0], Some(Change::Removed(gone)) if gone.key().id() == "a"), "{told:?}");
    assert!(matches!(&told[1], Some(Change::Updated { before: old, .. }) if Arc::ptr_eq(old, &before.as_slice()[1])));
    assert!(matches!(&told[2], Some(Change::Added(new)) if new.key().id() == "c"), "{told:?}");
    // A reader who sleeps through much is told the sum of it.
    registry.commit(&["d1"]);
    registry.commit(&["-d"]);
    registry.commit(&["c2"]);
    until(&mut web, "b2 c2").await;
    assert!(matches!(changes.next().await, Some(Change::Updated { after, .. }) if after.key().id() == "c"));
}

#[tokio::test(start_paused = true)]
async fn a_change_between_two_waits_is_told_of() {
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1"]);
    let all = subscriptions(&registry, None);
    let (mut one, mut two) = (watch(&all).subscribe().unwrap(), watch(&all).subscribe().unwrap());
    assert_eq!(shown(&one.changed().await.unwrap()), "a1");
    registry.commit(&["b1"]);
    until(&mut two, "a1 b1").await;
    let told = tokio::time::timeout(Duration::from_secs(60), one.changed()).await;
    assert_eq!(shown(&told.expect("it is told at once").unwrap()), "a1 b1");
    // And no more than once.
    assert!(tokio::time::timeout(Duration::from_secs(60), one.changed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_same_shares_it_and_others_do_not() {
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1", "b2"]);
    let all = subscriptions(&registry, None);
    let one = watch(&all).subscribe().unwrap();
    let mut two = watch(&all).subscribe().unwrap();
    let mut some = watch(&all).selector("version=2").subscribe().unwrap();
    one.synced().await.unwrap();
    some.synced().await.unwrap();
    assert_eq!((shown(&one.current()).as_str(), shown(&some.current()).as_str()), ("a1 b2", "b2"));
    assert!(Arc::ptr_eq(&one.current(), &two.current()));
    assert_eq!(registry.subscribed(), ["0", "1", "1.service"]);
    drop(one);
    registry.commit(&["a2", "b3"]);
    until(&mut two, "a2 b3").await;
    until(&mut some, "a2").await;
    drop((two, some));
    // The task ends what nobody holds any more.
    let mut late = watch(&all).subscribe().unwrap();
    until(&mut late, "a2 b3").await;
    registry.until_subscribed(&["2"]).await;
}

#[tokio::test(start_paused = true)]
async fn ports_of_the_service_apply_with_a_selector_too() {
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1"]);
    let all = subscriptions(&registry, None);
    for watch in [watch(&all), watch(&all).selector("version")] {
        let web = watch.subscribe().unwrap();
        web.synced().await.unwrap();
        assert_eq!(web.current().as_slice()[0].port(Some("http")), Some(8080));
    }
}

#[tokio::test(start_paused = true)]
async fn an_emptied_service_keeps_its_last_instances_for_a_time() {
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1", "b1"]);
    let all = subscriptions(&registry, None);
    let mut careful = watch(&all).subscribe().unwrap();
    let mut credulous = watch(&all).keep_last(Duration::ZERO).subscribe().unwrap();
    until(&mut careful, "a1 b1").await;
    registry.commit(&["-a", "-b"]);
    until(&mut credulous, "").await;
    while careful.current().freshness() != Freshness::Kept {
        careful.changed().await.unwrap();
    }
    assert_eq!(shown(&careful.current()), "a1 b1");
    let began = tokio::time::Instant::now();
    until(&mut careful, "").await;
    assert_eq!(began.elapsed().as_secs(), 60);
    assert_eq!(careful.current().freshness(), Freshness::Live);
    // What comes back in time ends it.
    registry.commit(&["a2"]);
    until(&mut careful, "a2").await;
    registry.commit(&["-a"]);
    while careful.current().freshness() != Freshness::Kept {
        careful.changed().await.unwrap();
    }
    registry.commit(&["c1"]);
    until(&mut careful, "c1").await;
    assert_eq!(careful.current().freshness(), Freshness::Live);
}

#[tokio::test(start_paused = true)]
async fn begins_with_what_the_disk_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1", "b1"]);
    let path = {
        let all = subscriptions(&registry, Some(folder.path()));
        let mut web = watch(&all).subscribe().unwrap();
        until(&mut web, "a1 b1").await;
        let spec = Spec {
            namespace: "prod".to_owned(),
            service: "web".to_owned(),
            selector: String::new(),
            keep_last: Duration::ZERO,
        };
        let path = super::cache::path(folder.path(), &spec);
        while super::cache::read(&path).is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        path
    };
    registry.stop(0);
    let all = subscriptions(&registry, Some(folder.path()));
    let mut web = watch(&all).subscribe().unwrap();
    assert_eq!(shown(&web.current()), "a1 b1");
    assert!(matches!(web.current().freshness(), Freshness::Cached { .. }) && web.current().is_stale());
    assert_eq!(web.current().as_slice()[0].port(None), Some(8080));
    registry.commit(&["-a"]);
    registry.start(0);
    until(&mut web, "b1").await;
    assert!(!web.current().is_stale());
    drop((web, all));

    // Whatever is not whole is no memory.
    let whole = std::fs::read(&path).unwrap();
    for broken in [&whole[..whole.len() - 1], &whole[1..], b"", b"{}\n", &whole.repeat(2)] {
        std::fs::write(&path, broken).unwrap();
        assert!(super::cache::read(&path).is_none());
    }
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert!(super::cache::read(&path).is_none());
    std::fs::write(&path, whole).unwrap();
    assert!(super::cache::read(&path).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_tried_again_seldom() {
    let registry = FakeRegistry::new(2);
    registry.commit(&["a1"]);
    registry.refuse(Some(Error::Unauthorized { detail: "a wrong token".to_owned() }));
    let all = subscriptions(&registry, None);
    let mut web = watch(&all).subscribe().unwrap();
    assert!(matches!(web.synced().await, Err(Error::Unauthorized { .. })));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = registry.opened();
    assert!((10..=40).contains(&tries), "{tries} tries in ten minutes");
    registry.refuse(None);
    until(&mut web, "a1").await;
    web.synced().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_replica_takes_over_and_a_slow_one_does_not_turn_the_clock_back() {
    let registry = FakeRegistry::new(2);
    registry.commit(&["a1"]);
    let all = subscriptions(&registry, None);
    let mut web = watch(&all).subscribe().unwrap();
    until(&mut web, "a1").await;
    // The second replica learns nothing for now.
    registry.freeze(1);
    registry.commit(&["a2"]);
    until(&mut web, "a2").await;
    registry.stop(0);
    registry.until_connected_to(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(shown(&web.current()), "a2");
    registry.thaw(1);
    registry.commit(&["b1"]);
    until(&mut web, "a2 b1").await;
}

#[tokio::test(start_paused = true)]
async fn restored_data_is_taken_over() {
    let registry = FakeRegistry::new(1);
    registry.commit(&["a1"]);
    registry.commit(&["b1"]);
    let all = subscriptions(&registry, None);
    let mut web = watch(&all).subscribe().unwrap();
    until(&mut web, "a1 b1").await;
    registry.restore(1);
    until(&mut web, "a1").await;
}

#[tokio::test(start_paused = true)]
async fn bad_names_are_refused_at_once() {
    let all = subscriptions(&FakeRegistry::new(1), None);
    assert!(Watch::new(Arc::clone(&all), "web".parse::<Target>()).subscribe().is_err());
    assert!(watch(&all).selector("a=b=c").subscribe().is_err());
}

#[test]
fn without_a_runtime_it_says_so() {
    let all = subscriptions(&FakeRegistry::new(1), None);
    assert!(matches!(watch(&all).subscribe(), Err(Error::NoRuntime)));
}
