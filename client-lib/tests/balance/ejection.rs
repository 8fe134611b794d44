//! That failing endpoints are left alone for a while, and not too many of them.

use crate::world::*;
use fingerpost_client::balance::{Ejection, Policy};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn rule(change: impl FnOnce(&mut Ejection)) -> Ejection {
    let mut rule = Ejection::default();
    change(&mut rule);
    rule
}

#[test]
fn failures_in_a_row_eject_and_time_brings_back() {
    for policy in POLICIES {
        let time = Time::new();
        let balancer = time.builder(policy).build();
        balancer.update(&alike(10));
        fail(&balancer, 3, 4);
        assert!(ejected(&balancer).is_empty(), "{policy:?}");
        fail(&balancer, 3, 1);
        assert!(!picks(&balancer, 1000).contains_key(&3), "{policy:?}");
        assert_eq!(ejected(&balancer), [3]);
        time.pass(30 * SECOND - Duration::from_nanos(1));
        assert!(!picks(&balancer, 1000).contains_key(&3), "{policy:?}");
        time.pass(Duration::from_nanos(1));
        // By itself: the next pick sees it.
        assert!(policy == Policy::PowerOfTwo || picks(&balancer, 1000).contains_key(&3), "{policy:?}");
        assert!(ejected(&balancer).is_empty(), "{policy:?}");
        assert_eq!(balancer.report().endpoints[3].failures, 0);
    }
}

#[test]
fn a_success_in_between_starts_the_count_over() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(10));
    for _ in 0..10 {
        fail(&balancer, 3, 4);
        picks(&balancer, 10);
    }
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn cancelled_requests_count_for_nothing() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(2));
    fail(&balancer, 1, 4);
    for _ in 0..100 {
        drop(balancer.pick());
    }
    assert_eq!(balancer.report().endpoints[1].failures, 4);
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn each_time_is_longer_than_the_last() {
    let time = Time::new();
    let balancer = time.builder(Policy::RoundRobin).build();
    balancer.update(&alike(10));
    for times in 1..=12 {
        fail(&balancer, 3, 5);
        let length = (30 * SECOND * times).min(300 * SECOND);
        assert_eq!(ejected(&balancer), [3]);
        time.pass(length - SECOND);
        assert_eq!(ejected(&balancer), [3], "the time {times}");
        time.pass(SECOND);
        assert!(ejected(&balancer).is_empty(), "the time {times}");
    }
    // Well for long enough, it begins anew.
    time.pass(12 * 30 * SECOND);
    fail(&balancer, 3, 5);
    assert_eq!(ejected(&balancer), [3]);
    time.pass(30 * SECOND);
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn no_more_than_a_share_is_out_at_once() {
    let time = Time::new();
    let balancer = time.builder(Policy::RoundRobin).build();
    balancer.update(&alike(30));
    for n in 0..10 {
        fail(&balancer, n, 5);
        assert!(ejected(&balancer).len() <= 3);
    }
    assert_eq!(ejected(&balancer), [0, 1, 2]);
    // The next ones' turn comes when these are back: they have not worked since.
    time.pass(30 * SECOND);
    assert!(ejected(&balancer).iter().all(|n| (3..10).contains(n)));
    assert_eq!(ejected(&balancer).len(), 3);
}

#[test]
fn one_may_always_be_out() {
    let balancer = Time::new().builder(Policy::RoundRobin).ejection(rule(|rule| rule.max_share = 0.0)).build();
    balancer.update(&alike(3));
    fail(&balancer, 0, 5);
    fail(&balancer, 1, 5);
    assert_eq!(ejected(&balancer), [0]);
    assert_eq!(picks(&balancer, 100).keys().copied().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn fewer_endpoints_are_fewer_ejected_ones() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(30));
    for n in 0..3 {
        fail(&balancer, n, 5);
    }
    assert_eq!(ejected(&balancer).len(), 3);
    balancer.update(&alike(10));
    assert_eq!(ejected(&balancer).len(), 1);
}

#[test]
fn an_ejection_outlives_a_snapshot_but_not_a_move() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(10));
    fail(&balancer, 3, 5);
    balancer.update(&alike(11));
    assert_eq!(ejected(&balancer), [3]);
    assert!(!picks(&balancer, 100).contains_key(&3));
    let moved = |n: usize| endpoint(n, |web| web.addresses = vec![[10, 9, 9, n as u8].into()]);
    balancer.update(&snapshot((0..11).map(moved)));
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn ejection_can_be_off() {
    let balancer = Time::new().builder(Policy::RoundRobin).ejection(None).build();
    balancer.update(&alike(3));
    fail(&balancer, 1, 50);
    assert!(ejected(&balancer).is_empty());
    assert_eq!(picks(&balancer, 30)[&1], 10);
}

#[test]
fn a_second_attempt_avoids_the_ejected() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).build();
        balancer.update(&alike(10));
        fail(&balancer, 3, 5);
        let mut tried = Vec::new();
        while let Some(pick) = balancer.pick_except(&tried) {
            tried.push(pick.key().clone());
        }
        assert_eq!(tried.len(), 9, "{policy:?}");
        assert!(tried.iter().all(|key| number_of(key) != 3), "{policy:?}");
    }
}
