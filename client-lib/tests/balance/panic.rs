//! That all are asked where too few work, and who is never asked.

use crate::world::*;
use fingerpost_client::balance::Policy;
use fingerpost_client::catalog::Health::{self, Critical, Passing, Unknown, Warning};

/// Who is picked of endpoints with such health.
fn picked(threshold: f64, healths: &[Health]) -> Vec<usize> {
    let balancer = Time::new().builder(Policy::RoundRobin).panic_threshold(threshold).build();
    balancer.update(&healthy(healths));
    (0..100)
        .filter_map(|_| balancer.pick())
        .map(|pick| number(&pick))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[test]
fn all_are_asked_where_less_than_half_work() {
    assert_eq!(picked(0.5, &[Passing, Warning, Critical, Critical]), [0, 1]);
    assert_eq!(picked(0.5, &[Passing, Critical, Critical]), [0, 1, 2]);
    assert_eq!(picked(0.5, &[Critical, Critical]), [0, 1]);
    assert_eq!(picked(0.3, &[Passing, Critical, Critical]), [0]);
    assert_eq!(picked(1.0, &[Passing, Passing, Critical]), [0, 1, 2]);
}

#[test]
fn without_panic_there_may_be_nobody() {
    assert_eq!(picked(0.0, &[Passing, Critical, Critical, Critical]), [0]);
    assert!(picked(0.0, &[Critical, Critical, Unknown]).is_empty());
}

#[test]
fn those_that_nobody_knows_are_no_reason_to_panic() {
    // As in a deployment that triples the service.
    assert_eq!(picked(0.5, &[Passing, Unknown, Unknown, Unknown]), [0]);
    // But better than nobody, and better than none but the broken.
    assert_eq!(picked(0.5, &[Unknown, Unknown]), [0, 1]);
    assert_eq!(picked(0.5, &[Passing, Critical, Critical, Unknown]), [0, 1, 2, 3]);
}

#[test]
fn the_drained_are_never_asked_and_are_no_reason_to_panic() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).build();
        let drained = |from| {
            snapshot((0..5).map(move |n| {
                endpoint(n, |web| {
                    if n >= from {
                        drain(web)
                    }
                })
            }))
        };
        balancer.update(&drained(1));
        assert!(!balancer.report().panic);
        assert_eq!(picks(&balancer, 50).into_keys().collect::<Vec<_>>(), [0], "{policy:?}");
        balancer.update(&drained(0));
        assert!(balancer.pick().is_none(), "{policy:?}");
    }
}

#[test]
fn the_ejected_are_asked_in_a_panic() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(1));
    fail(&balancer, 0, 5);
    // The only one there is.
    let report = balancer.report();
    assert!(report.panic && report.endpoints[0].ejected);
    assert_eq!(picks(&balancer, 10)[&0], 10);

    let balancer = Time::new().builder(Policy::RoundRobin).panic_threshold(0.0).build();
    balancer.update(&alike(1));
    fail(&balancer, 0, 5);
    assert!(balancer.pick().is_none());
}

#[test]
fn a_spare_endpoint_is_better_than_a_panic() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&snapshot((0..3).map(|n| {
        endpoint(n, |web| {
            web.weight = (n == 2).then_some(0);
            web.effective_health = (n < 2).then_some(Critical);
        })
    })));
    assert!(!balancer.report().panic);
    assert_eq!(picks(&balancer, 10)[&2], 10);
}

#[test]
fn a_panic_knows_no_zones() {
    let balancer = Time::new().builder(Policy::RoundRobin).zone("a").build();
    balancer.update(&snapshot((0..4).map(|n| {
        endpoint(n, |web| {
            web.zone = Some(if n == 0 { "a" } else { "b" }.to_owned());
            web.effective_health = (n > 0).then_some(Critical);
        })
    })));
    assert!(balancer.report().panic);
    assert_eq!(shares(&balancer), [0.25; 4]);
}

#[test]
fn a_panic_ends() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&healthy(&[Passing, Critical, Critical]));
    assert!(balancer.report().panic);
    balancer.update(&healthy(&[Passing, Passing, Critical]));
    assert!(!balancer.report().panic);
    assert_eq!(picks(&balancer, 10).into_keys().collect::<Vec<_>>(), [0, 1]);
}
