//! That two choices avoid who is slow, and give them another chance.

use crate::world::*;
use fingerpost_client::balance::{Balancer, Pick, Policy};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// Requests that come every `gap` and take as long as `latency` says of their endpoint; how many each gets.
fn run(
    balancer: &Balancer,
    time: &Time,
    requests: usize,
    gap: Duration,
    latency: impl Fn(usize) -> Duration,
) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    let mut ends: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
    let mut running: BTreeMap<usize, Pick> = BTreeMap::new();
    for request in 0..requests {
        let now = time.since_start();
        let next = now + gap;
        let pick = balancer.pick().unwrap();
        *counts.entry(number(&pick)).or_insert(0) += 1;
        ends.push(Reverse((now + latency(number(&pick)), request)));
        running.insert(request, pick);
        while let Some(&Reverse((end, request))) = ends.peek().filter(|end| end.0.0 <= next) {
            ends.pop();
            time.pass(end.saturating_sub(time.since_start()));
            running.remove(&request).unwrap().success();
        }
        time.pass(next.saturating_sub(time.since_start()));
    }
    counts
}

#[test]
fn a_slow_endpoint_is_avoided() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).build();
    balancer.update(&alike(10));
    let counts = run(&balancer, &time, 10_000, MS, |n| if n == 3 { 200 * MS } else { 5 * MS });
    // 1000 would be its even share.
    assert!(counts[&3] < 50, "{counts:?}");
    let others: Vec<usize> = counts.iter().filter(|(n, _)| **n != 3).map(|(_, count)| *count).collect();
    assert!(others.iter().all(|count| (900..1350).contains(count)), "{counts:?}");
}

#[test]
fn who_is_twice_as_fast_gets_more() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).build();
    balancer.update(&alike(10));
    let counts = run(&balancer, &time, 20_000, MS, |n| if n < 5 { 5 * MS } else { 10 * MS });
    let fast: usize = (0..5).map(|n| counts[&n]).sum();
    assert!(fast > 12_000, "{counts:?}");
}

#[test]
fn an_endpoint_that_was_slow_gets_another_chance() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).latency_decay(Duration::from_secs(1)).build();
    balancer.update(&alike(4));
    let slow = run(&balancer, &time, 2000, MS, |n| if n == 0 { 100 * MS } else { 2 * MS });
    assert!(slow[&0] < 50, "{slow:?}");
    // Between 1 and 3 ms: were all the same, the least trace of the past would decide.
    let turn = Cell::new(0_u32);
    let well = |_| {
        turn.set(turn.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        Duration::from_micros(1000 + u64::from(turn.get() >> 21))
    };
    // Its 100 ms have to fall to a fiftieth; then they are as good as forgotten.
    run(&balancer, &time, 10_000, MS, well);
    let counts = run(&balancer, &time, 10_000, MS, well);
    assert!(counts.values().all(|count| (2250..2750).contains(count)), "{counts:?}");
}

#[test]
fn an_endpoint_that_hangs_gets_no_more_than_a_few() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).build();
    balancer.update(&alike(10));
    run(&balancer, &time, 2000, MS, |_| 5 * MS);
    // Nothing comes back from it for far longer than it takes to forget its latency.
    let counts = run(&balancer, &time, 100_000, MS, |n| if n == 7 { Duration::from_secs(10_000) } else { 5 * MS });
    assert!(counts[&7] < 20, "{counts:?}");
}

#[test]
fn an_endpoint_that_fails_at_once_is_not_the_fastest() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).ejection(None).build();
    balancer.update(&alike(10));
    let mut counts = BTreeMap::new();
    for _ in 0..10_000 {
        let pick = balancer.pick().unwrap();
        *counts.entry(number(&pick)).or_insert(0) += 1;
        if number(&pick) == 2 {
            time.pass(Duration::from_micros(20));
            pick.failure();
        } else {
            time.pass(5 * MS);
            pick.success();
        }
    }
    assert!(counts[&2] < 100, "{counts:?}");
}

#[test]
fn requests_that_are_given_up_tell_of_the_latency() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).build();
    balancer.update(&alike(2));
    run(&balancer, &time, 100, MS, |_| 5 * MS);
    let latencies =
        || -> Vec<Option<Duration>> { balancer.report().endpoints.iter().map(|endpoint| endpoint.latency).collect() };
    let before = latencies();
    assert!(before.iter().all(|latency| latency.unwrap() <= 5 * MS), "{before:?}");
    let pick = balancer.pick().unwrap();
    let given_up = number(&pick);
    time.pass(300 * MS);
    drop(pick);
    let report = balancer.report();
    assert_eq!(report.endpoints[given_up].latency, Some(300 * MS));
    assert_eq!((report.endpoints[given_up].in_flight, report.endpoints[given_up].failures), (0, 0));
}

#[test]
fn what_is_known_stays_through_snapshots() {
    let time = Time::new();
    let balancer = time.builder(Policy::PowerOfTwo).build();
    balancer.update(&alike(3));
    run(&balancer, &time, 300, MS, |n| if n == 1 { 50 * MS } else { 5 * MS });
    let held = balancer.pick().unwrap();
    let before = balancer.report();
    // The same with a label more, and one endpoint that is new.
    balancer.update(&snapshot((0..4).map(|n| endpoint(n, |web| web.labels = [("a", "b")].into_iter().collect()))));
    let after = balancer.report();
    for (before, after) in before.endpoints.iter().zip(&after.endpoints) {
        assert_eq!((before.latency, before.in_flight), (after.latency, after.in_flight));
    }
    assert_eq!(after.endpoints[number(&held)].in_flight, 1);
    assert_eq!(after.endpoints[3].latency, None);
    held.success();
    assert!(balancer.report().endpoints.iter().all(|endpoint| endpoint.in_flight == 0));

    // The same name at another address is another process.
    balancer.update(&snapshot((0..4).map(|n| endpoint(n, |web| web.addresses = vec![[10, 9, 9, n as u8].into()]))));
    assert!(balancer.report().endpoints.iter().all(|endpoint| endpoint.latency.is_none()));
}
