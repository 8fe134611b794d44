//! That keys stay where they are, and that no endpoint is overloaded for that.

use crate::world::*;
use fingerpost_client::balance::{Balancer, Policy};
use fingerpost_client::catalog::Health;
use std::collections::BTreeMap;

const KEYS: usize = 20_000;

fn balancer() -> Balancer {
    Time::new().builder(Policy::ConsistentHash).build()
}

/// Where each key belongs, while nothing is in flight.
fn homes(balancer: &Balancer) -> Vec<usize> {
    (0..KEYS).map(|key| number(&balancer.pick_for(format!("user-{key}").as_bytes()).unwrap())).collect()
}

fn counts(homes: &[usize]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for home in homes {
        *counts.entry(*home).or_insert(0) += 1;
    }
    counts
}

#[test]
fn clients_agree_whatever_they_saw_before() {
    let (one, other) = (balancer(), Time::new().builder(Policy::ConsistentHash).seed(7).build());
    one.update(&alike(50));
    other.update(&alike(3));
    other.update(&alike(80));
    other.update(&alike(50));
    assert_eq!(homes(&one), homes(&other));
}

#[test]
fn keys_are_spread_by_weight() {
    let balancer = balancer();
    balancer.update(&alike(20));
    let even = counts(&homes(&balancer));
    // With 100 points each, shares differ by some 10 %.
    assert!(even.values().all(|count| (650..=1400).contains(count)), "{even:?}");
    balancer.update(&weighted(&[50, 100, 100, 150, 400]));
    let found = counts(&homes(&balancer));
    for (n, weight) in [50, 100, 100, 150, 400].into_iter().enumerate() {
        let due = KEYS * weight / 800;
        assert!((due * 6 / 10..=due * 15 / 10).contains(&found[&n]), "web-{n}: {} of {due}", found[&n]);
    }
}

#[test]
fn only_the_keys_of_an_endpoint_that_goes_move() {
    let balancer = balancer();
    balancer.update(&alike(50));
    let before = homes(&balancer);
    balancer.update(&snapshot((0..50).filter(|n| *n != 17).map(|n| endpoint(n, |_| ()))));
    let after = homes(&balancer);
    for (before, after) in before.iter().zip(&after) {
        assert!(*before == *after || *before == 17, "a key of web-{before} went to web-{after}");
    }
    // They went to all the others, not to a neighbour.
    let heirs = counts(&before.iter().zip(&after).filter(|(b, _)| **b == 17).map(|(_, a)| *a).collect::<Vec<_>>());
    assert!(heirs.len() > 35, "{heirs:?}");
    // And it gets back what was its own.
    balancer.update(&alike(50));
    assert_eq!(homes(&balancer), before);
}

#[test]
fn only_the_keys_that_a_new_endpoint_gets_move() {
    let balancer = balancer();
    balancer.update(&alike(49));
    let before = homes(&balancer);
    balancer.update(&alike(50));
    let after = homes(&balancer);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 49));
    assert!((KEYS / 80..KEYS / 35).contains(&moved), "{moved}");
}

#[test]
fn a_weight_moves_keys_to_or_from_its_endpoint_only() {
    let balancer = balancer();
    let with = |weight| snapshot((0..20).map(|n| endpoint(n, |web| web.weight = (n == 4).then_some(weight))));
    balancer.update(&with(100));
    let before = homes(&balancer);
    balancer.update(&with(130));
    let heavier = homes(&balancer);
    assert!(before.iter().zip(&heavier).all(|(before, after)| before == after || *after == 4));
    balancer.update(&with(60));
    let lighter = homes(&balancer);
    assert!(before.iter().zip(&lighter).all(|(before, after)| before == after || *before == 4));
    let count = |homes: &[usize]| counts(homes)[&4];
    assert!(count(&lighter) < count(&before) && count(&before) < count(&heavier));
}

#[test]
fn keys_of_an_ill_endpoint_move_and_come_back() {
    let balancer = balancer();
    let mut healths = [Health::Passing; 10];
    balancer.update(&healthy(&healths));
    let before = homes(&balancer);
    healths[6] = Health::Critical;
    balancer.update(&healthy(&healths));
    let ill = homes(&balancer);
    assert!(before.iter().zip(&ill).all(|(before, after)| before == after || *before == 6));
    assert!(!ill.contains(&6));
    healths[6] = Health::Warning;
    balancer.update(&healthy(&healths));
    assert_eq!(homes(&balancer), before);
}

#[test]
fn nobody_has_more_in_flight_than_the_bound() {
    for (factor, weights) in [(1.25, vec![100; 20]), (1.0, vec![100; 7]), (2.0, vec![10, 200, 300, 50])] {
        let balancer = Time::new().builder(Policy::ConsistentHash).load_factor(factor).build();
        balancer.update(&weighted(&weights));
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        let mut held = Vec::new();
        for request in 0..2000_usize {
            // Half of all requests are for one key.
            let key = if request.is_multiple_of(2) { 0 } else { request as u64 };
            held.push(balancer.pick_for_hash(key).unwrap());
            if request % 3 == 0 {
                drop(held.swap_remove((request * 7919) % held.len()));
                continue;
            }
            let picked = number(held.last().unwrap());
            let in_flight = held.iter().filter(|pick| number(pick) == picked).count();
            let bound = (factor * held.len() as f64 * f64::from(weights[picked]) / total).ceil();
            assert!(in_flight as f64 <= bound, "{in_flight} of {} on web-{picked}, {bound} allowed", held.len());
        }
    }
}

#[test]
fn without_a_bound_a_key_never_moves() {
    let balancer = Time::new().builder(Policy::ConsistentHash).load_factor(f64::INFINITY).build();
    balancer.update(&alike(10));
    let held: Vec<_> = (0..500).map(|_| balancer.pick_for(b"hot").unwrap()).collect();
    assert!(held.iter().all(|pick| pick.key() == held[0].key()));
}

#[test]
fn a_hot_key_overflows_in_a_fixed_order() {
    let order = || {
        let balancer = balancer();
        balancer.update(&alike(10));
        let held: Vec<_> = (0..100).map(|_| balancer.pick_for(b"hot").unwrap()).collect();
        held.iter().map(|pick| number(pick)).collect::<Vec<_>>()
    };
    assert_eq!(order(), order());
}
