//! Fingerpost beside CoreDNS over one random cluster: the same names, the same answers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::differential::exceptions::{self, Known};
use fingerpost_tests::differential::world::{Size, World};
use fingerpost_tests::differential::{Pair, Report, questions};
use fingerpost_tests::kubernetes::{Cluster, CoreDns, Corefile, User, follower, objects};
use fingerpost_tests::{Server, kubernetes::api::Api};
use std::time::{Duration, Instant};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Puts objects of all kinds there, and waits until both servers answer with each: what was written before, each has by
/// then on the same way.
async fn settle(api: &Api, pair: &Pair, n: u32) {
    let namespace = format!("marker-{n}");
    let address = format!("10.254.{}.{}", n >> 8, n & 255);
    api.put(&objects::namespace(&namespace)).await;
    api.put(&objects::headless(&namespace, "marker")).await;
    let endpoints = vec![objects::endpoint(&address)];
    api.put(&objects::slice(&namespace, "marker", "marker", endpoints, objects::http_port())).await;
    api.put_pod(&objects::pod(&namespace, "marker", "Running", &[&address])).await;
    let label = questions::dashed(&address);
    for name in [format!("marker.{namespace}.svc.cluster.local"), format!("{label}.{namespace}.pod.cluster.local")] {
        let begun = Instant::now();
        for server in [pair.ours, pair.theirs] {
            loop {
                let asked = fingerpost_dns::query::query(server, &name, "A", Duration::from_secs(10)).await;
                if asked.is_ok_and(|reply| reply.answers.iter().any(|line| line.data == address)) {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(120), "{server} does not come to answer {name}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Fills a cluster, changes it, and compares both servers each time that they have settled.
async fn compare(seed: u64, pods: &str) {
    eprintln!("seed {seed}; run it again with FINGERPOST_DIFFERENTIAL_SEED={seed}");
    let cluster = Cluster::start().await;
    let scale = number("FINGERPOST_DIFFERENTIAL_SCALE").unwrap_or(2) as usize;
    let rounds = number("FINGERPOST_DIFFERENTIAL_ROUNDS").unwrap_or(4);
    let most = number("FINGERPOST_DIFFERENTIAL_NAMES").unwrap_or(3000) as usize;
    let size = Size { namespaces: 12, services: 500 * scale, slices: 800 * scale, pods: 150 * scale };
    let mut world = World::new(seed, size);
    // Both see some of it when they start, and the rest come.
    // The same zones as ours, as far as there are names in them.
    let zones = ["cluster.local", "10.in-addr.arpa", "c.f.ip6.arpa", "d.f.ip6.arpa"].map(str::to_owned).to_vec();
    let corefile = Corefile { zones, ..Corefile::pods(pods) };
    let coredns = CoreDns::start(&cluster.kubeconfig(User::CoreDns, cluster.address()), &corefile).await;
    world.fill(&cluster.api).await;
    let server: Server = follower(&cluster, &["--pods", pods, "--kubernetes-pods"]).await;
    let pair = Pair { ours: server.dns, theirs: coredns.dns };

    let mut marker = 0;
    let mut report = Report::default();
    for round in 0..=rounds {
        if round > 0 {
            let names = questions::names(&world, seed).sample(seed ^ round, 200);
            // Asked all the while, for what only happens under change: errors, and no answer.
            let mut errors = Vec::new();
            let changes = async {
                for _ in 0..4 {
                    world.change(&cluster.api, 60 * scale).await;
                }
            };
            let asking = async {
                loop {
                    for case in pair.ask_all(&names).await {
                        if !["NOERROR", "NXDOMAIN", "REFUSED"].contains(&case.ours.rcode.as_str()) {
                            errors.push(case);
                        }
                    }
                }
            };
            tokio::select! { () = changes => {}, () = asking => {} }
            // Aliases may go round.
            errors.retain(|case| case.ours.rcode != "SERVFAIL" || !world.was_alias(&case.name));
            assert!(errors.is_empty(), "under change: {errors:?}");
        }
        marker += 1;
        settle(&cluster.api, &pair, marker).await;
        let mut known = Known::new(&world);
        let all = questions::names(&world, seed);
        let names = all.sample(seed ^ round, most);
        let again = async || {
            marker += 1;
            settle(&cluster.api, &pair, marker).await;
        };
        let compared = pair.compare(&names, &all, &mut known, again).await;
        eprintln!(
            "round {round}: {} objects, {} of {} names, {} questions, {} with records, {} excused, {} late, {} differences",
            world.len(),
            names.len(),
            all.len(),
            compared.asked,
            compared.positive,
            compared.excused.values().sum::<usize>(),
            compared.late,
            compared.differences.len()
        );
        report.add(compared);
        if !report.differences.is_empty() {
            break;
        }
    }
    for exception in exceptions::ALL {
        let Some(case) = report.examples.get(exception.name) else { continue };
        eprintln!("{} times: {}, as {} {}", report.excused[exception.name], exception.name, case.name, case.qtype);
    }
    let idle = report.idle(pods == "verified");
    if !idle.is_empty() {
        eprintln!("never: {}", idle.join("; "));
    }
    if !report.differences.is_empty() {
        eprintln!("{}", pair.describe(&world, &report.differences));
        hold(&pair).await;
    }
    assert!(report.differences.is_empty(), "{} differences, seed {seed}", report.differences.len());
    assert!(report.positive * 40 > report.asked, "hardly any answers had records");
    assert!(idle.is_empty() || rounds < 8, "exceptions that nothing needs: {}", idle.join("; "));
}

/// Lets somebody look, where that is wanted.
async fn hold(pair: &Pair) {
    if let Some(seconds) = number("FINGERPOST_DIFFERENTIAL_HOLD") {
        eprintln!("held for {seconds} s: ours {}, theirs {}", pair.ours, pair.theirs);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

fn seed() -> u64 {
    number("FINGERPOST_DIFFERENTIAL_SEED").unwrap_or_else(rand::random)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_answers_as_coredns() {
    compare(seed(), "insecure").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_answers_as_coredns_with_verified_pods() {
    compare(seed(), "verified").await;
}
