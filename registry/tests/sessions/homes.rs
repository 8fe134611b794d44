//! Several replicas: who keeps what, and the ways of a renewal.

use crate::store_double::{Shared, members};
use crate::world::{Node, Wires, a_moment, sleep};
use fingerpost_catalog::document::{NewSession, RenewalState};
use fingerpost_catalog::{SessionState, Source};
use fingerpost_registry::access::{Caller, Role};
use fingerpost_registry::sessions::{CreateError, EndError, OwnRenewal, SessionOptions, Unreached};
use fingerpost_registry::store::CommitError;
use fingerpost_registry::writes::WriteError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn two() -> (Node, Node, Arc<Wires>) {
    let (shared, wires) = (Shared::new(), Arc::new(Wires::default()));
    let a = Node::start(&shared, &wires, "a", &["a", "b"]).await;
    let b = Node::start(&shared, &wires, "b", &["a", "b"]).await;
    (a, b, wires)
}

/// A session whose home is the replica of this name.
async fn at_home(node: &Node, own: &str) -> String {
    loop {
        let id = node.create(15, 60).await;
        if &*members("a", &["a", "b"]).home_of(&id).unwrap().id == own {
            return id;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_replica_takes_a_renewal() {
    let (a, b, _wires) = two().await;
    let (of_a, of_b) = (at_home(&a, "a").await, at_home(&a, "b").await);
    let others = a.engine.summary().home + b.engine.summary().home;
    assert!(others >= 2, "each session has one home");
    let head = a.shared.head();
    for _ in 0..20 {
        sleep(5).await;
        let states = b.try_renew(&[of_a.clone(), of_b.clone(), "none".to_owned()]).await.unwrap();
        assert_eq!(states, [RenewalState::Alive, RenewalState::Alive, RenewalState::Unknown]);
    }
    assert_eq!((a.state(&of_a), b.state(&of_b)), (Some(SessionState::Alive), Some(SessionState::Alive)));
    // Other sessions of this test expired; these two were not written about.
    assert!(a.shared.session(&of_a).unwrap().renewals == 0 && a.shared.head() >= head);
    // What has expired comes back through any replica, too.
    sleep(16).await;
    assert_eq!(b.state(&of_a), Some(SessionState::Expired));
    assert_eq!(b.renew(&of_a).await, RenewalState::Restored);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_finds_its_way_through_the_store() {
    let (a, b, wires) = two().await;
    let id = at_home(&a, "a").await;
    wires.cut.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        sleep(5).await;
        assert_eq!(b.renew(&id).await, RenewalState::Alive);
    }
    assert_eq!(a.shared.session(&id).unwrap().renewals, 20);
    assert_eq!(a.state(&id), Some(SessionState::Alive));
    sleep(16).await;
    assert_eq!(a.state(&id), Some(SessionState::Expired), "its home still keeps the deadline");
    assert_eq!(b.renew(&id).await, RenewalState::Restored);
    a_moment().await;
    assert_eq!(a.state(&id), Some(SessionState::Alive));
    sleep(12).await;
    assert_eq!(a.state(&id), Some(SessionState::Alive), "with a whole TTL");
    // Where neither way is open, nothing is claimed.
    b.store.cut.store(true, Ordering::SeqCst);
    assert_eq!(b.try_renew(&[id]).await, Err(Unreached));
}

#[tokio::test(start_paused = true)]
async fn a_home_that_is_none_any_more_ends_nothing() {
    let node = Node::alone().await;
    let (id, renewed, held) =
        (node.create(15, 10).await, node.create(15, 10).await, node.create_many(20, 15, 10).await);
    node.store.evicted.store(true, Ordering::SeqCst);
    // Neither expired nor held, however long it takes itself for the home; renewals and what users write are taken.
    for _ in 0..20 {
        sleep(5).await;
        assert_eq!(node.renew(&renewed).await, RenewalState::Alive);
    }
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    assert!(held.iter().all(|id| node.state(id) == Some(SessionState::Alive)));
    // It learns that it still is the home, or is again, and judges afresh.
    node.store.evicted.store(false, Ordering::SeqCst);
    sleep(10).await;
    assert_eq!(node.state(&id), Some(SessionState::Suspect), "so many at once are held");

    // The end of the grace is for the home alone to say, too.
    let node = Node::alone().await;
    let id = node.create(15, 10).await;
    sleep(16).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
    node.store.evicted.store(true, Ordering::SeqCst);
    sleep(60).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
    node.store.evicted.store(false, Ordering::SeqCst);
    sleep(5).await;
    assert_eq!(node.state(&id), None, "removed at the end of its grace");
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_does_not_say_unknown() {
    let (a, b, _wires) = two().await;
    b.store.paused.send_replace(true);
    let (of_a, of_b) = (at_home(&a, "a").await, at_home(&a, "b").await);
    // b has seen neither. It says nothing wrong of them while it can't see them...
    assert_eq!(b.try_renew(std::slice::from_ref(&of_a)).await, Err(Unreached));
    // ...nor does the home that has not, when asked by another.
    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        b.store.paused.send_replace(false);
    };
    let (renewed, ()) = tokio::join!(a.renew(&of_b), catches_up);
    assert_eq!(renewed, RenewalState::Alive);
    assert_eq!(b.try_renew(&[of_a, of_b]).await.unwrap(), [RenewalState::Alive, RenewalState::Alive]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_may_name_a_session_that_another_replica_has_just_made() {
    let (a, b, _wires) = two().await;
    b.store.paused.send_replace(true);
    let id = a.create(15, 60).await;
    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        b.store.paused.send_replace(false);
    };
    let (put, ()) = tokio::join!(b.put("api", "web-1", &id), catches_up);
    put.unwrap();
    // What nobody has made is refused, and what can't be known is not called unknown.
    let refused = b.put("api", "web-2", &"0".repeat(32)).await;
    assert!(matches!(refused, Err(WriteError::Invalid(_))), "{refused:?}");
    b.store.paused.send_replace(true);
    let id = a.create(15, 60).await;
    let refused = b.put("api", "web-2", &id).await;
    assert!(matches!(refused, Err(WriteError::Commit(CommitError::Unavailable(_)))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn the_store_is_asked_once_for_many_and_never_for_what_is_no_id() {
    let (a, b, _wires) = two().await;
    b.store.paused.send_replace(true);
    let made = a.create_many(100, 15, 60).await;
    let none: Vec<String> = (0..100).map(|n| format!("{n:032x}")).collect();
    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        b.store.paused.send_replace(false);
    };
    let before = b.store.asked.load(Ordering::SeqCst);
    let all = [made.as_slice(), none.as_slice()].concat();
    let (states, ()) = tokio::join!(b.try_renew(&all), catches_up);
    let states = states.unwrap();
    assert!(states[..100].iter().all(|state| *state == RenewalState::Alive));
    assert!(states[100..].iter().all(|state| *state == RenewalState::Unknown));
    assert_eq!(b.store.asked.load(Ordering::SeqCst) - before, 1);
    b.store.cut.store(true, Ordering::SeqCst);
    let odd = ["none".to_owned(), String::new(), "G".repeat(32), "ABCDEF0123456789ABCDEF0123456789".to_owned()];
    assert_eq!(b.try_renew(&odd).await.unwrap(), [RenewalState::Unknown; 4]);
}

fn registrar(name: &str, source: &str) -> Caller {
    let sources = [Box::from(source)].into();
    Caller { name: name.into(), role: Role::Registrar { sources, namespaces: [].into() } }
}

async fn begin(node: &Node, caller: &Caller, source: &str) -> String {
    let new = NewSession { name: "test".to_owned(), ttl_seconds: 15, grace_seconds: 60 };
    let source: Source = source.parse().unwrap();
    node.engine.create(caller, &source, new).await.unwrap().id.to_string()
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_asks_whose_a_session_is_before_ending_it() {
    let (a, b, _wires) = two().await;
    b.store.paused.send_replace(true);
    let id = begin(&a, &registrar("ci", "api/ci"), "api/ci").await;
    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        b.store.paused.send_replace(false);
    };
    let other = registrar("other", "api/*");
    let (ended, ()) = tokio::join!(b.engine.end(&other, &id), catches_up);
    assert!(matches!(ended, Err(EndError::Foreign(_))), "{ended:?}");
    assert_eq!(a.state(&id), Some(SessionState::Alive));
    let renewed = b.engine.renew(&other, std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(renewed[0].state, RenewalState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_registrar_has_so_many_sessions_at_most() {
    let options = SessionOptions { of_owner: 2, ..SessionOptions::default() };
    let (shared, wires) = (Shared::new(), Arc::default());
    let a = Node::start_with(&shared, &wires, "a", &["a", "b"], options).await;
    let b = Node::start_with(&shared, &wires, "b", &["a", "b"], options).await;
    let ci = registrar("ci", "api/*");
    let first = begin(&a, &ci, "api/ci").await;
    begin(&b, &ci, "api/other").await;
    a.live.wait_for(b.live.position(), Duration::from_secs(5)).await.unwrap();
    let again = async |node: &Node, caller: &Caller| {
        let new = NewSession { name: "test".to_owned(), ttl_seconds: 15, grace_seconds: 60 };
        node.engine.create(caller, &"api/ci".parse().unwrap(), new).await
    };
    let refused = again(&a, &ci).await.unwrap_err();
    assert!(matches!(refused, CreateError::TooMany { most: 2, .. }), "{refused:?}");
    // Others may, and administrators have no such bound.
    begin(&a, &registrar("other", "api/*"), "api/ci").await;
    for _ in 0..3 {
        again(&a, &Caller::anonymous()).await.unwrap();
    }
    a.engine.end(&ci, &first).await.unwrap();
    again(&a, &ci).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_alone_keeps_no_session() {
    let node = Node::alone().await;
    let id = begin(&node, &registrar("ci", "api/ci"), "api/ci").await;
    let renewed = async |caller: &Caller| node.engine.renew(caller, std::slice::from_ref(&id)).await.unwrap()[0].state;
    // The same name, for another source now.
    let namesake = registrar("ci", "api/other");
    assert_eq!(renewed(&namesake).await, RenewalState::Unknown);
    assert!(matches!(node.engine.end(&namesake, &id).await, Err(EndError::Foreign(_))));
    // The same source, under another name.
    assert_eq!(renewed(&registrar("other", "api/ci")).await, RenewalState::Unknown);
    assert_eq!(renewed(&registrar("ci", "api/*")).await, RenewalState::Alive);
    assert_eq!(renewed(&Caller::anonymous()).await, RenewalState::Alive);
    node.engine.end(&registrar("ci", "api/ci"), &id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_home_grants_a_full_ttl_and_a_full_grace() {
    let (a, b, _wires) = two().await;
    let (id, expired) = (at_home(&a, "b").await, at_home(&a, "b").await);
    sleep(10).await;
    a.renew(&id).await;
    sleep(7).await;
    assert_eq!((a.state(&id), a.state(&expired)), (Some(SessionState::Alive), Some(SessionState::Expired)));
    sleep(5).await;
    // b has gone, 12 s after the last renewal.
    drop(b);
    a.store.set_members(members("a", &["a"]));
    sleep(14).await;
    assert_eq!(a.state(&id), Some(SessionState::Alive));
    sleep(2).await;
    assert_eq!(a.state(&id), Some(SessionState::Expired));
    sleep(42).await;
    assert_eq!(a.state(&expired), Some(SessionState::Expired), "58 s after the change, 65 s after its expiry");
    sleep(4).await;
    assert_eq!(a.state(&expired), None);
}

#[tokio::test(start_paused = true)]
async fn who_is_out_of_touch_ends_nothing() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    let mut away = members("a", &["a"]);
    away.in_touch = false;
    node.store.set_members(away);
    sleep(100).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    node.store.set_members(members("a", &["a"]));
    sleep(14).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive), "a full TTL from then on");
    sleep(2).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_ends_nothing() {
    let node = Node::alone().await;
    let id = node.create(15, 60).await;
    a_moment().await;
    // As SIGSTOP does it: the clock moves, and nothing else.
    tokio::time::advance(Duration::from_secs(60)).await;
    sleep(13).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    sleep(3).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_in_the_middle_of_a_write_ends_nothing() {
    let node = Node::alone().await;
    let (short, id) = (node.create(3, 60).await, node.create(15, 60).await);
    node.store.held.send_replace(true);
    while node.store.waiting.load(Ordering::SeqCst) == 0 {
        a_moment().await;
    }
    tokio::time::advance(Duration::from_secs(25)).await;
    node.store.held.send_replace(false);
    sleep(13).await;
    assert_eq!(node.state(&short), Some(SessionState::Expired));
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    sleep(3).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_and_is_asked_at_once_ends_nothing() {
    let node = Node::alone().await;
    let expired = node.create(3, 600).await;
    sleep(5).await;
    let id = node.create(15, 60).await;
    a_moment().await;
    // The first that it hears is the return of a session.
    let (renewed, ()) = tokio::join!(node.renew(&expired), tokio::time::advance(Duration::from_secs(60)));
    assert_eq!(renewed, RenewalState::Restored);
    sleep(13).await;
    assert_eq!(node.state(&id), Some(SessionState::Alive));
    sleep(3).await;
    assert_eq!(node.state(&id), Some(SessionState::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_slow_renewal_keeps_no_other_waiting() {
    let (a, b, _wires) = two().await;
    let (slow, fast) = (at_home(&a, "a").await, at_home(&a, "a").await);
    sleep(10).await;
    a.renew(&fast).await;
    // The expiry of one is on its way from its home, which has trouble to write.
    a.store.held.send_replace(true);
    while a.store.waiting.load(Ordering::SeqCst) == 0 {
        a_moment().await;
    }
    let ids: Vec<Arc<str>> = [&slow, &fast].map(|id| id.as_str().into()).to_vec();
    let asked = tokio::time::Instant::now();
    assert_eq!(a.engine.renew_for_peer(&ids).await, [OwnRenewal::Failed, OwnRenewal::Alive]);
    // The other one notes in the store what it was not told.
    assert_eq!(b.try_renew(&[slow.clone(), fast.clone()]).await.unwrap(), [RenewalState::Alive; 2]);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(a.shared.session(&slow).unwrap().renewals, 1);
    assert_eq!(a.shared.session(&fast).unwrap().renewals, 0);
    a.store.held.send_replace(false);
    sleep(5).await;
    assert_eq!((a.state(&slow), a.state(&fast)), (Some(SessionState::Alive), Some(SessionState::Alive)));
}

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Five replicas, and so many sessions that have been renewing for a while.
async fn five(count: usize) -> (Vec<Node>, Arc<Wires>, Vec<String>) {
    let (shared, wires) = (Shared::new(), Arc::new(Wires::default()));
    let mut nodes = Vec::new();
    for own in FIVE {
        nodes.push(Node::start(&shared, &wires, own, &FIVE).await);
    }
    let ids = nodes[0].create_many(count, 15, 60).await;
    nodes[0].renew_for(&ids, 20).await;
    (nodes, wires, ids)
}

#[tokio::test(start_paused = true)]
async fn a_few_at_one_home_are_no_mass() {
    // However few it keeps.
    let (nodes, _wires, ids) = five(25).await;
    let view = members("a", &FIVE);
    let largest =
        FIVE.into_iter().max_by_key(|own| ids.iter().filter(|id| &*view.home_of(id).unwrap().id == *own).count());
    let (mut dead, mut rest) = (Vec::new(), Vec::new());
    for id in ids {
        let chosen = dead.len() < 3 && Some(&*view.home_of(&id).unwrap().id) == largest;
        if chosen { &mut dead } else { &mut rest }.push(id);
    }
    assert_eq!(dead.len(), 3);
    nodes[0].renew_for(&rest, 20).await;
    assert_eq!(nodes[0].count(&dead, SessionState::Expired), 3);
    assert_eq!(nodes[0].count(&rest, SessionState::Alive), 22);
    assert!(!nodes[0].engine.protection().active);
    // Nor is what stays below the floor wherever it is.
    let (dead, rest) = rest.split_at(6);
    nodes[0].renew_for(rest, 20).await;
    assert_eq!(nodes[0].count(dead, SessionState::Expired), 6);
}

#[tokio::test(start_paused = true)]
async fn a_few_at_each_home_are_a_mass_together() {
    let (nodes, _wires, ids) = five(12).await;
    sleep(20).await;
    assert_eq!(nodes[0].count(&ids, SessionState::Suspect), 12, "not even the first one expired");
    assert!(nodes.iter().all(|node| node.engine.summary().home_held < 10));
    // It ends everywhere by what is normal everywhere, however few are left at a home.
    let (back, dead) = ids.split_at(9);
    nodes[0].renew_for(back, 45).await;
    assert_eq!(nodes[0].count(dead, SessionState::Expired), 3);
    assert_eq!(nodes[0].count(back, SessionState::Alive), 9);
}

#[tokio::test(start_paused = true)]
async fn homes_that_cannot_ask_each_other_hold_rather_than_end() {
    let (nodes, wires, ids) = five(12).await;
    wires.cut.store(true, Ordering::SeqCst);
    sleep(20).await;
    assert_eq!(nodes[0].count(&ids, SessionState::Suspect), 12);
}

#[tokio::test(start_paused = true)]
async fn the_floor_counts_over_all_replicas() {
    let (a, b, _wires) = two().await;
    let ids = a.create_many(40, 15, 60).await;
    for _ in 0..4 {
        sleep(5).await;
        a.try_renew(&ids).await.unwrap();
    }
    sleep(20).await;
    assert_eq!(a.count(&ids, SessionState::Suspect), 40);
    let (on_a, on_b) = (a.engine.summary(), b.engine.summary());
    assert_eq!(on_a.home_held + on_b.home_held, 40);
    assert!(on_a.home_held > 0 && on_b.home_held > 0, "{on_a:?} {on_b:?}");
    assert_eq!((a.engine.protection().held, b.engine.protection().held), (40, 40), "every replica says so");
}
