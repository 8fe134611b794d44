//! What a pick costs with each policy: nanoseconds, and allocations.
//!
//! `cargo run --release -p fingerpost-client --example pick_speed [-- <endpoints> [<policy>]]`

// The one place to count allocations is the allocator, and its trait is unsafe.
#![allow(unsafe_code, reason = "a counting global allocator")]
#![allow(clippy::unwrap_used, reason = "a measurement that goes wrong has to stop")]

use fingerpost_client::balance::{Balancer, Pick, Policy};
use fingerpost_client::catalog::document::InstanceDocument;
use fingerpost_client::{Endpoint, Endpoints};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Picks in one round, and rounds; the fastest round counts, since others share the machine.
const PICKS: usize = 1000;
const ROUNDS: usize = 2000;

fn endpoints(count: usize, weight: impl Fn(usize) -> u16) -> Endpoints {
    let web = |n: usize| {
        let [_, _, high, low] = u32::try_from(n).unwrap().to_be_bytes();
        Arc::new(Endpoint::new(InstanceDocument {
            id: Some(format!("web-{n}")),
            addresses: vec![[10, 0, high, low].into()],
            weight: Some(weight(n)),
            ..Default::default()
        }))
    };
    Endpoints::new("prod", "web", (0..count).map(web).collect(), None)
}

/// What it is called, the policy, and the endpoints' weights.
type Case = (&'static str, Policy, fn(usize) -> u16);

/// Nanoseconds for each of the picks in the fastest and the middle round.
fn measure(mut round: impl FnMut() -> Duration) -> (f64, f64) {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    times.sort_unstable();
    let each = |time: Duration| time.as_secs_f64() * 1e9 / PICKS as f64;
    (each(times[0]), each(times[ROUNDS / 2]))
}

/// Only the picks: they end outside the measured time.
fn picks_alone(pick: impl Fn(u64) -> Option<Pick>) -> (f64, f64) {
    let mut held = Vec::with_capacity(PICKS);
    measure(|| {
        let begin = Instant::now();
        held.extend((0..PICKS as u64).filter_map(&pick));
        let time = begin.elapsed();
        assert_eq!(held.len(), PICKS);
        held.drain(..).for_each(|pick| pick.success());
        time
    })
}

/// A pick and its end.
fn whole(pick: impl Fn(u64) -> Option<Pick>, end: impl Fn(Pick)) -> (f64, f64) {
    measure(|| {
        let begin = Instant::now();
        for n in 0..PICKS as u64 {
            end(black_box(pick(n)).unwrap());
        }
        begin.elapsed()
    })
}

fn main() {
    let count = std::env::args().nth(1).map_or(1000, |count| count.parse().unwrap());
    let clock = measure(|| {
        let begin = Instant::now();
        for _ in 0..PICKS {
            black_box(Instant::now());
        }
        begin.elapsed()
    });
    println!("{count} endpoints; reading the clock takes {:.1} ns; all in ns, fastest / middle round", clock.0);
    println!(
        "{:<24} {:>15} {:>15} {:>15} {:>12} {:>10}",
        "policy", "pick", "pick + drop", "pick + success", "allocations", "update"
    );
    let cases: [Case; 7] = [
        ("random", Policy::Random, |_| 100),
        ("round robin", Policy::RoundRobin, |_| 100),
        ("weighted, even", Policy::Weighted, |_| 100),
        ("weighted, uneven", Policy::Weighted, |n| 1 + (n % 300) as u16),
        ("power of two", Policy::PowerOfTwo, |_| 100),
        ("power of two, uneven", Policy::PowerOfTwo, |n| 1 + (n % 300) as u16),
        ("consistent hash", Policy::ConsistentHash, |_| 100),
    ];
    let only = std::env::args().nth(2);
    for (name, policy, weight) in cases {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let balancer = Balancer::builder().policy(policy).build();
        let snapshot = endpoints(count, weight);
        balancer.update(&endpoints(count.saturating_sub(1), weight));
        let begin = Instant::now();
        balancer.update(&snapshot);
        let update = begin.elapsed();
        let pick = |n: u64| if policy == Policy::ConsistentHash { balancer.pick_for_hash(n) } else { balancer.pick() };
        // So that all latencies are known, as they are in use.
        whole(pick, Pick::success);

        let alone = picks_alone(pick);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..100_000).for_each(|n| pick(n).unwrap().success());
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let (dropped, succeeded) = (whole(pick, drop), whole(pick, Pick::success));
        let show = |(fastest, middle): (f64, f64)| format!("{fastest:.1} / {middle:.1}");
        println!(
            "{name:<24} {:>15} {:>15} {:>15} {:>12} {:>10}",
            show(alone),
            show(dropped),
            show(succeeded),
            allocations as f64 / 100_000.0,
            format!("{} µs", update.as_micros()),
        );
    }
}
