//! The life of single sessions on one replica.

use crate::world::{Node, a_moment, sleep};
use fingerpost_catalog::document::RenewalState;
use fingerpost_catalog::{Health, Instance, InstanceKey, Key, Record, SessionState, Source};
use fingerpost_registry::access::Caller;
use fingerpost_registry::sessions::{EndError, Unreached};
use fingerpost_registry::store::{Action, Commit, Operation, Store};
use fingerpost_registry::writes::WriteError;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[tokio::test(start_paused = true)]
async fn renewals_keep_it_alive_without_a_write() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    node.put("api", "web-1", &id).await.unwrap();
    let head = node.shared.head();
    node.renew_for(std::slice::from_ref(&id), 300).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    assert_eq!(node.renew(&id).await, RenewalState::Alive);
    assert_eq!(node.shared.head(), head, "heartbeats are no writes");
}

#[tokio::test(start_paused = true)]
async fn it_expires_comes_back_expires_again_and_is_removed() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    node.put("api", "web-1", &id).await.unwrap();
    sleep(14).await;
    assert_eq!((node.state(&id), node.health("web-1")), (Some(SessionState::Alive), Some(Health::Passing)));
    sleep(2).await;
    assert_eq!((node.state(&id), node.health("web-1")), (Some(SessionState::Expired), Some(Health::Critical)));
    let head = node.shared.head();
    sleep(40).await;
    assert_eq!(node.renew(&id).await, RenewalState::Restored);
    assert_eq!((node.state(&id), node.health("web-1")), (Some(SessionState::Alive), Some(Health::Passing)));
    assert_eq!(node.shared.head(), head + 1, "one write heals");
    // It has a whole TTL again.
    sleep(14).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    sleep(2).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
    sleep(58).await;
    assert_eq!(node.health("web-1"), Some(Health::Critical), "the grace is not over");
    sleep(3).await;
    assert_eq!((node.state(&id), node.health("web-1")), (None, None));
    assert_eq!(node.renew(&id).await, RenewalState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_the_end_is_final() {
    let node = Node::alone().await;
    let id = node.create(3, 0).await;
    node.put("api", "web-1", &id).await.unwrap();
    sleep(4).await;
    assert_eq!((node.state(&id), node.health("web-1")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn many_instances_are_critical_by_one_write_and_then_removed() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    fill(&node, &id, 10_000).await;
    let head = node.shared.head();
    let (count, position) = node.engine.end(&Caller::anonymous(), &id).await.unwrap();
    assert_eq!(count, 10_000);
    assert_eq!(node.witness.made_critical(), [(head + 1, 10_000)]);
    assert_eq!(node.live.read().stats().instances, 0);
    assert_eq!(node.state(&id), None);
    assert!(position.number <= head + 103, "{position}");
    assert!(matches!(node.engine.end(&Caller::anonymous(), &id).await, Err(EndError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_leaves_of_an_end_is_completed() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    fill(&node, &id, 1000).await;
    // The caller goes away after the first write.
    let caller = Caller::anonymous();
    let ending = node.engine.end(&caller, &id);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        tokio::select! {
            biased;
            () = async { while node.state(&id) != Some(SessionState::Expired) { tokio::task::yield_now().await } } => None,
            ended = ending => Some(ended),
        }
    });
    assert!(ended.await.unwrap().is_none(), "it was to be broken off");
    assert_eq!(node.renew(&id).await, RenewalState::Unknown, "nothing brings it back");
    a_moment().await;
    assert_eq!((node.state(&id), node.live.read().stats().instances), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_large_session_is_removed_whole_after_its_grace() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    fill(&node, &id, 250).await;
    sleep(16).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
    sleep(61).await;
    assert_eq!((node.state(&id), node.live.read().stats().instances), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_meets_the_expiry_is_told_the_truth() {
    let node = Arc::new(Node::alone().await);
    let id = node.create(15, 60).await;
    node.put("api", "web-1", &id).await.unwrap();
    // The expiry is on its way to the store, which takes its time.
    node.store.held.send_replace(true);
    while node.store.waiting.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let renewal = tokio::spawn({
        let (node, id) = (Arc::clone(&node), id.clone());
        async move { node.renew(&id).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(!renewal.is_finished(), "what it finds is not decided yet");
    node.store.held.send_replace(false);
    assert_eq!(renewal.await.unwrap(), RenewalState::Restored);
    assert_eq!((node.state(&id), node.health("web-1")), (Some(SessionState::Alive), Some(Health::Passing)));
    sleep(14).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_before_an_expiry_that_fails_wins() {
    let node = Arc::new(Node::alone().await);
    let id = node.create(15, 60).await;
    node.store.cut.store(true, Ordering::SeqCst);
    sleep(20).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive), "the expiry can't be written");
    assert_eq!(node.renew(&id).await, RenewalState::Alive);
    node.store.cut.store(false, Ordering::SeqCst);
    sleep(10).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    sleep(10).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired), "writes are tried again");
}

#[tokio::test(start_paused = true)]
async fn an_expiry_whose_outcome_was_not_known_is_mended() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    node.put("api", "web-1", &id).await.unwrap();
    // The expiry is applied, and nobody is told; what is shown lags, too.
    node.store.paused.send_replace(true);
    node.store.silent.store(true, Ordering::SeqCst);
    sleep(16).await;
    assert_eq!(node.shared.session(&id).unwrap().state, SessionState::Expired);
    assert_eq!(node.try_renew(std::slice::from_ref(&id)).await, Err(Unreached), "nothing is claimed");
    node.store.silent.store(false, Ordering::SeqCst);
    node.store.paused.send_replace(false);
    // After writes that failed, the next ones wait a little.
    sleep(5).await;
    assert_eq!((node.state(&id), node.health("web-1")), (Some(SessionState::Alive), Some(Health::Passing)));
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_may_land_late_can_not_after_a_renewal() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    node.store.late.store(true, Ordering::SeqCst);
    sleep(16).await;
    node.store.late.store(false, Ordering::SeqCst);
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    assert_eq!(node.renew(&id).await, RenewalState::Alive);
    assert_eq!(node.shared.land(), 0, "what was promised holds");
    sleep(14).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive), "for a whole TTL");
    assert_eq!(node.shared.session(&id).unwrap().renewals, 1, "it took a write");
    // And then it is as before.
    node.renew_for(std::slice::from_ref(&id), 60).await;
    assert_eq!(node.shared.session(&id).unwrap().renewals, 1);

    // What has landed before the renewal is found.
    let id = node.create(15, 60).await;
    node.store.late.store(true, Ordering::SeqCst);
    sleep(16).await;
    node.store.late.store(false, Ordering::SeqCst);
    assert!(node.shared.land() >= 1);
    assert_eq!(node.renew(&id).await, RenewalState::Restored);
}

#[tokio::test(start_paused = true)]
async fn however_long_an_expiry_takes_no_renewal_is_promised_anything() {
    let node = Arc::new(Node::alone().await);
    let id = node.create(15, 60).await;
    let other = node.create(60, 60).await;
    node.store.held.send_replace(true);
    while node.store.waiting.load(Ordering::SeqCst) == 0 {
        a_moment().await;
    }
    sleep(8).await;
    assert_eq!(node.try_renew(std::slice::from_ref(&id)).await, Err(Unreached));
    assert_eq!(node.renew(&other).await, RenewalState::Alive, "nothing is written about this one");
    let renewal = tokio::spawn({
        let (node, id) = (Arc::clone(&node), id.clone());
        async move { node.renew(&id).await }
    });
    a_moment().await;
    node.store.held.send_replace(false);
    assert_eq!(renewal.await.unwrap(), RenewalState::Restored);
    assert_eq!(node.state(&id), Some(SessionState::Alive));
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_was_overtaken_is_made_up_for() {
    let node = Node::alone().await;
    let id = node.create(15, 0).await;
    fill(&node, &id, 250).await;
    while node.state(&id) != Some(SessionState::Expired) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    node.store.held.send_replace(true);
    while node.store.waiting.load(Ordering::SeqCst) == 0 {
        a_moment().await;
    }
    // Somebody writes the record again while the removal is on its way.
    let session = fingerpost_catalog::Session { name: "renamed".to_owned(), ..node.shared.session(&id).unwrap() };
    let key = Key::Session { id: id.as_str().into() };
    let operations = vec![Operation { key, action: Action::Put(Arc::new(Record::Session(session))) }];
    node.shared.apply(&Commit { operations, ..Commit::default() }).unwrap();
    node.store.held.send_replace(false);
    sleep(5).await;
    assert_eq!((node.state(&id), node.live.read().stats().instances), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn instances_hang_only_on_sessions_that_they_may() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    let refused = |outcome: Result<(), WriteError>| match outcome {
        Err(WriteError::Invalid(invalid)) => {
            assert_eq!(invalid.pointer, "/session");
            invalid.detail
        }
        other => panic!("{other:?}"),
    };
    assert!(refused(node.put("api", "web-1", "none").await).contains("not known"));
    assert!(refused(node.put("api/other", "web-1", &id).await).contains("belongs to source `api`"));
    node.put("api", "web-1", &id).await.unwrap();
    sleep(16).await;
    assert!(refused(node.put("api", "web-2", &id).await).contains("has expired"));
    // It is the end of a session that decides, not what was seen of it before.
    node.renew(&id).await;
    node.store.held.send_replace(true);
    let put = node.put("api", "web-2", &id);
    let caller = Caller::anonymous();
    let end = node.engine.end(&caller, &id);
    let release = async {
        while node.store.waiting.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        node.store.held.send_replace(false);
    };
    let (end, put, ()) = tokio::join!(end, put, release);
    end.unwrap();
    drop(put);
    a_moment().await;
    assert_eq!((node.health("web-2"), node.state(&id)), (None, None), "nothing is left behind");
}

/// A session with so many instances.
async fn fill(node: &Node, session: &str, count: usize) {
    let operations: Vec<Operation> = (0..count)
        .map(|n| {
            let key = InstanceKey {
                namespace: "prod".into(),
                service: Some("web".into()),
                source: Source::api(),
                id: format!("i-{n}").into(),
            };
            let instance = Instance {
                addresses: vec![std::net::Ipv4Addr::from(n as u32 + (10 << 24)).into()],
                session: Some(session.to_owned()),
                ..Instance::default()
            };
            Operation { key: Key::Instance(key), action: Action::Put(Arc::new(Record::Instance(instance))) }
        })
        .collect();
    let mut last = None;
    for chunk in operations.chunks(100) {
        let commit = Commit { operations: chunk.to_vec(), ..Commit::default() };
        last = Some(node.store.commit(commit).await.unwrap().position);
    }
    node.live.wait_for(last.unwrap(), std::time::Duration::from_secs(10)).await.unwrap();
}
