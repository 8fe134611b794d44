//! That a new endpoint gets its load little by little.

use crate::world::*;
use fingerpost_client::balance::{Balancer, Policy};
use fingerpost_client::catalog::Health;
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(100);

fn balancer(time: &Time, policy: Policy) -> Balancer {
    time.builder(policy).slow_start(WINDOW).build()
}

/// The endpoint's share by that of the first one.
fn ramp(balancer: &Balancer, endpoint: usize) -> f64 {
    let shares = shares(balancer);
    shares[endpoint] / shares[0]
}

#[test]
fn the_first_endpoints_have_their_shares_at_once() {
    let time = Time::new();
    for policy in POLICIES {
        let balancer = balancer(&time, policy);
        balancer.update(&alike(4));
        assert_eq!(shares(&balancer), [0.25; 4], "{policy:?}");
    }
}

#[test]
fn a_new_endpoint_gets_its_share_in_proportion_to_time() {
    for policy in POLICIES {
        let time = Time::new();
        let balancer = balancer(&time, policy);
        balancer.update(&alike(9));
        time.pass(WINDOW);
        balancer.update(&alike(10));
        for (seconds, due) in [(0, 0.1), (5, 0.1), (5, 0.1), (20, 0.3), (20, 0.5), (40, 0.9), (9, 0.99), (1, 1.0)] {
            time.pass(Duration::from_secs(seconds));
            let ramp = ramp(&balancer, 9);
            assert!((ramp - due).abs() < 0.021, "{policy:?}: {ramp} where {due} is due");
        }
        assert_eq!(ramp(&balancer, 9), 1.0);
    }
}

#[test]
fn picks_follow_the_ramp_without_being_told() {
    for policy in [Policy::Random, Policy::RoundRobin, Policy::Weighted, Policy::PowerOfTwo] {
        let time = Time::new();
        let balancer = balancer(&time, policy);
        balancer.update(&alike(1));
        balancer.update(&alike(2));
        for percent in [10, 30, 50, 90, 100] {
            time.pass((WINDOW / 100 * percent).saturating_sub(time.since_start()));
            let found = *picks(&balancer, 20_000).get(&1).unwrap_or(&0) as f64 / 20_000.0;
            let part = f64::from(percent) / 100.0;
            let due = part / (1.0 + part);
            assert!((found - due).abs() < 0.02, "{policy:?} at {percent} %: {found} of {due}");
        }
    }
}

#[test]
fn who_comes_back_to_health_starts_slowly_again() {
    let time = Time::new();
    let balancer = balancer(&time, Policy::RoundRobin);
    balancer.update(&alike(3));
    balancer.update(&healthy(&[Health::Passing, Health::Passing, Health::Critical]));
    time.pass(WINDOW);
    balancer.update(&healthy(&[Health::Passing, Health::Warning, Health::Passing]));
    assert!((ramp(&balancer, 2) - 0.1).abs() < 1e-9);
    assert_eq!(ramp(&balancer, 1), 1.0);
    time.pass(WINDOW);
    assert_eq!(ramp(&balancer, 2), 1.0);
}

#[test]
fn a_change_of_other_things_does_not_start_it_again() {
    let time = Time::new();
    let balancer = balancer(&time, Policy::RoundRobin);
    balancer.update(&alike(1));
    balancer.update(&alike(2));
    time.pass(WINDOW / 2);
    balancer.update(&snapshot([endpoint(0, |_| ()), endpoint(1, |web| web.node = Some("n1".into()))]));
    assert!((ramp(&balancer, 1) - 0.5).abs() < 1e-9);
}

#[test]
fn without_a_window_there_is_none() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(1));
    balancer.update(&alike(2));
    assert_eq!(shares(&balancer), [0.5; 2]);
}
