//! That the own zone is preferred, and not beyond what it can bear.

use crate::world::*;
use fingerpost_client::balance::{Balancer, Policy};
use fingerpost_client::catalog::Health;
use fingerpost_client::{Endpoint, Endpoints};
use std::collections::BTreeMap;
use std::sync::Arc;

/// So many endpoints in each zone, of which so many work.
fn zones(zones: &[(&str, usize, usize)]) -> Endpoints {
    let mut n = 0;
    let mut all: Vec<Arc<Endpoint>> = Vec::new();
    for &(zone, count, works) in zones {
        for at in 0..count {
            all.push(endpoint(n, |web| {
                web.zone = (!zone.is_empty()).then(|| zone.to_owned());
                web.effective_health = (at >= works).then_some(Health::Critical);
            }));
            n += 1;
        }
    }
    snapshot(all)
}

/// The part of the picks that goes to each zone.
fn parts(balancer: &Balancer) -> BTreeMap<String, f64> {
    const PICKS: usize = 20_000;
    let mut parts = BTreeMap::new();
    for _ in 0..PICKS {
        let pick = balancer.pick().unwrap();
        *parts.entry(pick.zone().unwrap_or_default().to_owned()).or_insert(0.0) += 1.0 / PICKS as f64;
        pick.success();
    }
    parts
}

#[test]
fn all_stays_in_a_zone_that_can_bear_it() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).zone("a").build();
        balancer.update(&zones(&[("a", 5, 5), ("b", 5, 5), ("c", 6, 6)]));
        assert_eq!(parts(&balancer).len(), 1, "{policy:?}");
        // One of five less is borne by the others.
        balancer.update(&zones(&[("a", 5, 4), ("b", 5, 5), ("c", 5, 5)]));
        assert_eq!(parts(&balancer).len(), 1, "{policy:?}");
    }
}

#[test]
fn what_is_too_much_goes_to_others_with_any_policy() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).zone("a").build();
        balancer.update(&zones(&[("a", 8, 2), ("b", 8, 8), ("c", 8, 8)]));
        // 2 of 18 work here, for a third of the requests: 1.4 × 3 × 2/18.
        let parts = parts(&balancer);
        let off = if policy == Policy::ConsistentHash { 0.12 } else { 0.02 };
        assert!((parts["a"] - 0.4667).abs() < off, "{policy:?}: {parts:?}");
        assert!((parts["b"] - 0.2667).abs() < off, "{policy:?}: {parts:?}");
    }
}

#[test]
fn an_empty_or_dead_zone_is_served_by_the_others() {
    for endpoints in [zones(&[("b", 5, 5), ("c", 5, 5)]), zones(&[("a", 3, 0), ("b", 5, 5), ("c", 5, 5)])] {
        let balancer = Time::new().builder(Policy::Random).zone("a").build();
        balancer.update(&endpoints);
        let parts = parts(&balancer);
        assert!((parts["b"] - 0.5).abs() < 0.02 && (parts["c"] - 0.5).abs() < 0.02, "{parts:?}");
    }
}

#[test]
fn zones_do_not_matter_where_none_is_known() {
    for own in [None, Some("a")] {
        let mut builder = Time::new().builder(Policy::RoundRobin);
        if let Some(own) = own {
            builder = builder.zone(own);
        }
        let balancer = builder.build();
        balancer.update(&alike(10));
        assert!(shares(&balancer).iter().all(|share| (share - 0.1).abs() < 1e-9));
    }
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&zones(&[("a", 5, 5), ("b", 5, 5)]));
    assert!(shares(&balancer).iter().all(|share| (share - 0.1).abs() < 1e-9));
}

#[test]
fn a_lonely_endpoint_is_not_overrun() {
    let balancer = Time::new().builder(Policy::Random).zone("a").build();
    balancer.update(&zones(&[("a", 1, 1), ("b", 10, 10), ("c", 10, 10)]));
    // 1.4 × 3 × 1/21
    assert!((parts(&balancer)["a"] - 0.2).abs() < 0.02);
    let balancer = Time::new().builder(Policy::Random).zone("a").zone_overload(f64::INFINITY).build();
    balancer.update(&zones(&[("a", 1, 1), ("b", 10, 10), ("c", 10, 10)]));
    assert_eq!(parts(&balancer).len(), 1);
}

#[test]
fn the_overload_bounds_what_each_endpoint_gets() {
    // Clients in all zones, each with a balancer of its own.
    let endpoints = zones(&[("a", 2, 2), ("b", 9, 6), ("c", 16, 16), ("d", 4, 0), ("", 3, 3)]);
    let mut load: BTreeMap<String, f64> = BTreeMap::new();
    for own in ["a", "b", "c", "d"] {
        let balancer = Time::new().builder(Policy::PowerOfTwo).zone(own).build();
        balancer.update(&endpoints);
        for (zone, part) in parts(&balancer) {
            *load.entry(zone).or_insert(0.0) += part / 4.0;
        }
    }
    for (zone, works) in [("a", 2.0), ("b", 6.0), ("c", 16.0), ("", 3.0)] {
        let even = works / 27.0;
        assert!(load[zone] <= even * 1.4 * 1.05, "{zone} gets {} instead of {even}", load[zone]);
    }
}

#[test]
fn second_attempts_leave_the_zone() {
    for policy in POLICIES {
        let balancer = Time::new().builder(policy).zone("a").build();
        balancer.update(&zones(&[("a", 2, 2), ("b", 2, 2)]));
        let mut tried = Vec::new();
        let mut order = Vec::new();
        while let Some(pick) = balancer.pick_except(&tried) {
            order.push(pick.zone().unwrap().to_owned());
            tried.push(pick.key().clone());
        }
        assert_eq!(order, ["a", "a", "b", "b"], "{policy:?}");
    }
}
