//! That each endpoint gets the share that it is due.

use crate::world::*;
use fingerpost_client::balance::Policy;

#[test]
fn random_and_power_of_two_are_fair() {
    for policy in [Policy::Random, Policy::PowerOfTwo] {
        let balancer = Time::new().builder(policy).build();
        balancer.update(&alike(100));
        let counts = picks(&balancer, 100_000);
        let off = chi_square(&counts, &[1000.0; 100]);
        assert!(off < chi_square_limit(100), "{policy:?}: {off}");
        // Too even would not be random, and others' picks would collide with it.
        assert!(policy != Policy::Random || off > 40.0, "{off}");
    }
}

#[test]
fn round_robin_takes_turns() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(7));
    let order: Vec<usize> = (0..21).map(|_| number(&balancer.pick().unwrap())).collect();
    for pair in order.windows(2) {
        assert_eq!(pair[1], (pair[0] + 1) % 7);
    }
    // Weights don't matter to it.
    balancer.update(&weighted(&[1, 1000, 5]));
    assert!(picks(&balancer, 300).values().all(|&count| count == 100));
}

#[test]
fn two_balancers_do_not_walk_in_step() {
    let firsts: std::collections::BTreeSet<usize> = (0..50)
        .map(|seed| {
            let balancer = Time::new().builder(Policy::RoundRobin).seed(seed).build();
            balancer.update(&alike(100));
            number(&balancer.pick().unwrap())
        })
        .collect();
    assert!(firsts.len() > 30, "{firsts:?}");
}

#[test]
fn weights_are_kept_over_any_span() {
    let weights = [1, 2, 3, 10, 100, 250];
    let total: u16 = weights.iter().sum();
    let balancer = Time::new().builder(Policy::Weighted).build();
    balancer.update(&weighted(&weights));
    for count in [37, 366, 1000, 36_600] {
        let counts = picks(&balancer, count);
        for (n, weight) in weights.iter().enumerate() {
            let due = count as f64 * f64::from(*weight) / f64::from(total);
            let found = *counts.get(&n).unwrap_or(&0) as f64;
            assert!((found - due).abs() < 4.0, "web-{n} got {found} of {due} in {count}");
        }
    }
}

#[test]
fn weights_decide_for_two_choices_while_all_are_alike() {
    let weights = [50, 100, 150, 200];
    let balancer = Time::new().builder(Policy::PowerOfTwo).build();
    balancer.update(&weighted(&weights));
    let counts = picks(&balancer, 50_000);
    let off = chi_square(&counts, &weights.map(|weight| f64::from(weight) * 100.0));
    assert!(off < chi_square_limit(4), "{off}: {counts:?}");
}

#[test]
fn requests_in_flight_follow_the_weights_with_two_choices() {
    let balancer = Time::new().builder(Policy::PowerOfTwo).build();
    balancer.update(&weighted(&[100, 100, 300]));
    let _held: Vec<_> = (0..1000).map(|_| balancer.pick()).collect();
    let in_flight: Vec<u32> = balancer.report().endpoints.iter().map(|endpoint| endpoint.in_flight).collect();
    assert!((180..=220).contains(&in_flight[0]) && (180..=220).contains(&in_flight[1]), "{in_flight:?}");
}

#[test]
fn who_wants_no_load_gets_none_while_there_is_another() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).build();
        balancer.update(&weighted(&[0, 1, 0, 2]));
        assert!(picks(&balancer, 200).keys().all(|n| [1, 3].contains(n)), "{policy:?}");
        balancer.update(&weighted(&[0, 0]));
        assert_eq!(picks(&balancer, 200).len(), 2, "{policy:?}");
    }
}

#[test]
fn two_choices_keep_the_queues_short() {
    let longest = |policy| {
        let balancer = Time::new().builder(policy).build();
        balancer.update(&alike(1000));
        let _held: Vec<_> = (0..10_000).map(|_| balancer.pick()).collect();
        balancer.report().endpoints.iter().map(|endpoint| endpoint.in_flight).max().unwrap()
    };
    // Ten on average. With one choice the longest is far longer than with two.
    let (one, two) = (longest(Policy::Random), longest(Policy::PowerOfTwo));
    assert!(one >= 20 && two <= 13, "{one} and {two}");
}

#[test]
fn second_attempts_go_elsewhere_until_there_is_nobody_left() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).build();
        balancer.update(&alike(20));
        let mut tried = Vec::new();
        while let Some(pick) = balancer.pick_for_except(b"key", &tried) {
            assert!(!tried.contains(pick.key()), "{policy:?}");
            tried.push(pick.key().clone());
        }
        assert_eq!(tried.len(), 20, "{policy:?}");
        assert!(balancer.pick_except(&tried).is_none(), "{policy:?}");
        assert!(balancer.report().endpoints.iter().all(|endpoint| endpoint.in_flight == 0), "{policy:?}");
    }
}

#[test]
fn an_empty_service_has_nobody_to_pick() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).zone("a").build();
        assert!(balancer.pick().is_none());
        balancer.update(&alike(1));
        assert!(balancer.pick().is_some());
        balancer.update(&alike(0));
        assert!(balancer.pick().is_none() && balancer.pick_for(b"x").is_none() && balancer.pick_except(&[]).is_none());
    }
}
