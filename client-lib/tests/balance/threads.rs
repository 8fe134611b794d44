//! That threads may pick, end and update as they like.

use crate::world::*;
use fingerpost_client::balance::Policy;
use fingerpost_client::catalog::Health;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

#[test]
fn picks_and_updates_do_not_disturb_each_other() {
    for policy in POLICIES {
        let time = Time::new();
        let balancer = time.builder(policy).zone("a").slow_start(Duration::from_secs(10)).build();
        // There is always the same half; the other one comes and goes.
        let state = |round: usize| {
            snapshot((0..40).filter(|n| n % 2 == 0 || (n + round).is_multiple_of(3)).map(|n| {
                endpoint(n, |web| {
                    web.zone = Some(if n % 4 == 0 { "a" } else { "b" }.to_owned());
                    web.effective_health = ((n + round).is_multiple_of(7)).then_some(Health::Critical);
                })
            }))
        };
        balancer.update(&state(0));
        let (done, picked) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let (balancer, done, picked) = (&balancer, &done, &picked);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    let mut count = 0_u64;
                    while !done.load(Relaxed) {
                        count += 1;
                        let pick = balancer.pick_for_hash(count * 3 + thread).expect("always somebody");
                        if number(&pick).is_multiple_of(5) {
                            pick.failure();
                        } else {
                            held.push(pick);
                        }
                        if held.len() > 10 {
                            held.drain(..5).for_each(|pick| pick.success());
                            held.truncate(3);
                        }
                        picked.fetch_add(1, Relaxed);
                    }
                });
            }
            for round in 0..150 {
                // Each state is picked from.
                let before = picked.load(Relaxed);
                balancer.update(&state(round));
                time.pass(Duration::from_millis(700));
                while picked.load(Relaxed) < before + 20 {
                    std::thread::yield_now();
                }
            }
            done.store(true, Relaxed);
        });
        let report = balancer.report();
        assert!(report.endpoints.iter().all(|endpoint| endpoint.in_flight == 0), "{policy:?}: {report:?}");
        balancer.update(&alike(3));
        assert!(picks(&balancer, 30).keys().all(|n| *n < 3), "{policy:?}");
    }
}

#[test]
fn turns_are_taken_once_by_all_threads_together() {
    let balancer = Time::new().builder(Policy::RoundRobin).build();
    balancer.update(&alike(10));
    let mut counts = [0; 10];
    let found: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..1000).map(|_| number(&balancer.pick().unwrap())).collect())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for n in found.into_iter().flatten() {
        counts[n] += 1;
    }
    assert_eq!(counts, [400; 10]);
}

#[test]
fn an_ejection_is_not_lost_between_threads() {
    for _ in 0..50 {
        let balancer = Time::new().builder(Policy::RoundRobin).build();
        balancer.update(&alike(20));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let pick = balancer.pick().unwrap();
                        if number(&pick) < 2 { pick.failure() } else { pick.success() }
                    }
                });
            }
            scope.spawn(|| (0..20).for_each(|_| balancer.update(&alike(20))));
        });
        drop(balancer.pick());
        assert_eq!(ejected(&balancer), [0, 1]);
    }
}
