//! Every pod of a large service is replaced, a few at a time, as a deployment does it: what that costs who follows.

use super::{Both, Options, SLICE, address, endpoint, slices, until_shown};
use crate::process;
use anyhow::{Result, bail};
use fingerpost_tests::kubernetes::{Cluster, objects};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pods that are replaced at a time.
const STEP: usize = 25;
/// A step begins so long after the one before.
const PACE: Duration = Duration::from_millis(100);

pub(super) async fn run(options: &Options, folder: &Path) -> Result<()> {
    let size = options.rolling.next_multiple_of(SLICE);
    println!("rolling: {size} endpoints are replaced, {STEP} at a time, in two writes of a slice each");
    let cluster = Cluster::start().await;
    cluster.api.put(&objects::namespace("bench")).await;
    cluster.api.put(&objects::headless("bench", "rolling")).await;
    let mut slices = slices("rolling", size);
    cluster.api.put_all(&slices).await;
    let both = Both::start(&cluster, folder).await?;
    let name = |n: usize| format!("e{n}.rolling.bench.svc.cluster.local");
    let limit = Duration::from_secs(120);
    for follower in both.followers() {
        until_shown(follower.dns, &name(size - 1), &address(size - 1, 0), limit).await?;
    }
    // What starting left to do is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let cpu = || -> Result<Vec<Duration>> { both.followers().iter().map(|one| process::cpu(one.pid)).collect() };
    let (cpu_before, bytes_before, begun) = (cpu()?, both.received(), Instant::now());
    let mut due = Instant::now();
    for first in (0..size).step_by(STEP) {
        due += PACE;
        tokio::time::sleep_until(due.into()).await;
        let slice = &mut slices[first / SLICE];
        for life in [0, 1] {
            for n in first..first + STEP {
                let mut changed = endpoint(n, life);
                if life == 0 {
                    changed["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
                }
                slice["endpoints"][n % SLICE] = changed;
            }
            if let Err(refused) = cluster.api.replace(slice).await {
                bail!("the API server refuses a slice: {refused}");
            }
        }
    }
    let writing = begun.elapsed();
    for follower in both.followers() {
        until_shown(follower.dns, &name(size - 1), &address(size - 1, 1), limit).await?;
    }
    // The last of it may still be on its way to the disk.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (cpu_after, bytes_after) = (cpu()?, both.received());
    let spent: Vec<f64> =
        cpu_after.iter().zip(&cpu_before).map(|(after, before)| (*after - *before).as_secs_f64()).collect();
    let read: Vec<f64> = bytes_after.iter().zip(bytes_before).map(|(after, before)| (after - before) as f64).collect();
    println!("  {} writes of slices in {:.1} s", 2 * size / STEP, writing.as_secs_f64());
    for (n, follower) in both.followers().iter().enumerate() {
        println!("  {:10} {:.2} s CPU, {:.1} MB read from the API server", follower.name, spent[n], read[n] / 1e6);
    }
    println!("  fingerpost / coredns: CPU {:.2}, bytes {:.2}", spent[0] / spent[1], read[0] / read[1]);
    Ok(())
}
