//! Mass-expiry protection: when it begins, and how it ends.

use crate::world::{Node, a_moment, sleep};
use fingerpost_catalog::document::RenewalState;
use fingerpost_catalog::{Health, SessionState};
use std::time::Duration;

/// Sessions that renew every 5 s for a while, in three groups at different moments.
async fn steady(node: &Node, count: usize) -> Vec<String> {
    let ids = node.create_many(count, 15, 60).await;
    steadily(node, &ids, 30).await;
    ids
}

async fn steadily(node: &Node, ids: &[String], seconds: u64) {
    let third = ids.len().div_ceil(3).max(1);
    for _ in 0..seconds / 5 {
        for group in ids.chunks(third) {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            node.try_renew(group).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_at_once_are_held_and_still_served() {
    let node = Node::alone().await;
    let ids = steady(&node, 60).await;
    node.put("api", "web-1", &ids[0]).await.unwrap();
    assert!(!node.engine.protection().active);
    sleep(20).await;
    assert_eq!(node.count(&ids, SessionState::Suspect), 60, "not even the first one expired");
    assert_eq!(node.health("web-1"), Some(Health::Warning));
    let protection = node.engine.protection();
    assert!(protection.active && protection.held == 60 && protection.since_seconds.is_some(), "{protection:?}");
    // It ends for a session when it renews.
    assert_eq!(node.renew(&ids[0]).await, RenewalState::Suspect);
    a_moment().await;
    assert_eq!(node.state(&ids[0]), Some(SessionState::Alive));
    assert_eq!(node.health("web-1"), Some(Health::Passing));
    assert_eq!(node.engine.protection().held, 59);
    // And for all when all have come back.
    steadily(&node, &ids, 10).await;
    assert_eq!(node.count(&ids, SessionState::Alive), 60);
    assert!(!node.engine.protection().active);
}

#[tokio::test(start_paused = true)]
async fn the_held_expire_once_the_others_have_been_normal_for_two_ttls() {
    let node = Node::alone().await;
    let ids = steady(&node, 60).await;
    sleep(20).await;
    assert_eq!(node.count(&ids, SessionState::Suspect), 60);
    // A third stays dead.
    let (back, dead) = ids.split_at(40);
    steadily(&node, back, 25).await;
    assert_eq!(node.count(back, SessionState::Alive), 40);
    assert_eq!(node.count(dead, SessionState::Suspect), 20, "two TTLs have not gone by");
    steadily(&node, back, 15).await;
    assert_eq!(node.count(dead, SessionState::Expired), 20);
    assert_eq!(node.count(back, SessionState::Alive), 40);
    assert!(!node.engine.protection().active);
    // What was released is no sign of a new fault: the next death is just one.
    steadily(&node, &back[1..], 20).await;
    assert_eq!(node.state(&back[0]), Some(SessionState::Expired));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_held_for_longer_than_the_maximum() {
    let node = Node::alone().await;
    let ids = steady(&node, 60).await;
    sleep(590).await;
    assert_eq!(node.count(&ids, SessionState::Suspect), 60);
    sleep(30).await;
    assert_eq!(node.count(&ids, SessionState::Expired), 60);
    sleep(70).await;
    assert_eq!(node.engine.summary().home, 0, "and they are removed after their grace");
}

#[tokio::test(start_paused = true)]
async fn below_the_floor_sessions_expire_as_usual() {
    let node = Node::alone().await;
    let ids = steady(&node, 9).await;
    sleep(20).await;
    assert_eq!(node.count(&ids, SessionState::Expired), 9, "nine of nine");
}

#[tokio::test(start_paused = true)]
async fn below_the_share_sessions_expire_as_usual() {
    let node = Node::alone().await;
    let ids = steady(&node, 100).await;
    let (dead, rest) = ids.split_at(14);
    steadily(&node, rest, 20).await;
    assert_eq!(node.count(dead, SessionState::Expired), 14);
    assert_eq!(node.count(rest, SessionState::Alive), 86);
    // Two more in the same TTL, and it is a mass: what comes on top is held.
    let (dead, rest) = rest.split_at(30);
    steadily(&node, rest, 20).await;
    assert_eq!(node.count(dead, SessionState::Suspect), 30);
    assert_eq!(node.count(rest, SessionState::Alive), 56);
}

#[tokio::test(start_paused = true)]
async fn one_in_a_hundred_expires_in_time_and_the_rest_is_undisturbed() {
    let node = Node::alone().await;
    let ids = node.create_many(20_000, 15, 60).await;
    steadily(&node, &ids, 0).await;
    let renew_all = |ids: Vec<String>| {
        let node = &node;
        async move {
            for chunk in ids.chunks(1000) {
                node.try_renew(chunk).await.unwrap();
            }
        }
    };
    for _ in 0..4 {
        sleep(5).await;
        renew_all(ids.clone()).await;
    }
    let head = node.shared.head();
    let (dead, rest) = ids.split_at(200);
    let died = tokio::time::Instant::now();
    while node.count(dead, SessionState::Expired) < 200 {
        renew_all(rest.to_vec()).await;
        assert!(died.elapsed() <= Duration::from_secs(17), "{:?}", died.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(died.elapsed() >= Duration::from_secs(15));
    assert_eq!(node.count(rest, SessionState::Alive), 19_800);
    assert!(node.shared.head() - head <= 4, "they expire in few commits");
}
