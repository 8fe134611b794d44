//! The torture: a short one with the other tests, and a long one by `cargo xtask torture`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::torture::{Options, torture};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_whatever_goes_wrong() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seconds = number("FINGERPOST_TORTURE_SECONDS").unwrap_or(40);
    let seed = number("FINGERPOST_TORTURE_SEED").unwrap_or_else(rand::random);
    eprintln!("seed {seed}; run it again with FINGERPOST_TORTURE_SEED={seed}");
    let options = Options { time: Duration::from_secs(seconds), seed, replicas: 3, writers: 8, sessions: 40 };
    let report = torture(options).await;
    println!(
        "{} faults; {} writes acknowledged, {} refused, {} unknown; {} reads, {} events, {} renewals, {} sessions died",
        report.faults.len(),
        report.acknowledged,
        report.refused,
        report.unknown,
        report.reads,
        report.events,
        report.renewals,
        report.deaths
    );
    assert!(report.acknowledged > 100 && report.renewals > 100, "the clients did hardly anything");
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}
