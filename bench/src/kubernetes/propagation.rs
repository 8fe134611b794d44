//! An EndpointSlice is accepted: how long until its address is in the answers?

use super::{Both, Options, SLICE, Way, address, endpoint, octets, question, slices, until_shown};
use crate::report::Latencies;
use anyhow::{Result, bail};
use fingerpost_tests::kubernetes::{Cluster, objects};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is asked.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    /// The endpoint by its own name: one address, over UDP.
    Endpoint,
    /// The service: all addresses, over TCP where they need it.
    Service,
}

pub(super) async fn run(options: &Options, folder: &Path) -> Result<()> {
    println!("propagation: the API server has replied → the new address is answered; {} changes each", options.changes);
    let cluster = Cluster::start().await;
    cluster.api.put(&objects::namespace("bench")).await;
    let mut services = Vec::new();
    for &size in &options.endpoints {
        let name = format!("size-{size}");
        cluster.api.put(&objects::headless("bench", &name)).await;
        let slices = slices(&name, size);
        cluster.api.put_all(&slices).await;
        services.push((name, size, slices));
    }
    let both = Both::start(&cluster, folder).await?;
    let limit = Duration::from_secs(120);
    let mut own: Vec<(usize, Latencies)> = Vec::new();
    for (service, size, slices) in &mut services {
        for follower in both.followers() {
            until_shown(follower.dns, &format!("e0.{service}.bench.svc.cluster.local"), &address(0, 0), limit).await?;
        }
        for asked in [Asked::Endpoint, Asked::Service] {
            // An answer of more than 64 KiB is cut, and need not hold the new address.
            if asked == Asked::Service && *size > 2_000 {
                continue;
            }
            let mut times = [Vec::new(), Vec::new()];
            for n in 0..options.changes {
                // In turns, so that noise hits both.
                for (follower, times) in both.followers().iter().zip(&mut times) {
                    times.push(one(&cluster, follower.dns, service, slices, asked, n).await?);
                }
            }
            let [ours, theirs] = times.map(Latencies::new);
            let what = if asked == Asked::Endpoint { "the endpoint's own name" } else { "the service" };
            println!("  {size:>6} endpoints, {what:24} fingerpost {ours}");
            println!("  {:>6} {:34} coredns    {theirs}", "", "");
            let ratio = |percent| ours.percentile(percent).as_secs_f64() / theirs.percentile(percent).as_secs_f64();
            println!("  {:>6} {:34} fingerpost / coredns: p50 {:.2}, p99 {:.2}", "", "", ratio(50.0), ratio(99.0));
            if asked == Asked::Endpoint {
                own.push((*size, ours));
            }
        }
    }
    let of = |size: usize| own.iter().find(|(n, _)| *n == size).map(|(_, times)| times.percentile(99.0).as_secs_f64());
    if let (Some(hundred), Some(most)) = (of(100), of(10_000)) {
        println!("  fingerpost, 10,000 / 100 endpoints, own name, p99: {:.2} (goal: at most 1.5)", most / hundred);
    }
    Ok(())
}

/// Gives an endpoint a new address; how long after the reply the server answers with it.
async fn one(
    cluster: &Cluster,
    server: SocketAddr,
    service: &str,
    slices: &mut [Value],
    asked: Asked,
    n: usize,
) -> Result<Duration> {
    static LIVES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    // Addresses of a service's endpoints must not meet: a life is a range of addresses.
    let life = LIVES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let size: usize = slices.iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).sum();
    let which = (n * 7919) % size;
    let mut changed = endpoint(which, 0);
    let new = format!("172.{}.{}.{}", 16 + ((life >> 16) & 15), (life >> 8) & 255, life & 255);
    changed["addresses"][0] = new.clone().into();
    let slice = &mut slices[which / SLICE];
    slice["endpoints"][which % SLICE] = changed;
    let name = match asked {
        Asked::Endpoint => format!("e{which}.{service}.bench.svc.cluster.local"),
        Asked::Service => format!("{service}.bench.svc.cluster.local"),
    };
    let (query, octets) = (question(&name), octets(&new)?);
    let mut way = Way::to(server, asked == Asked::Service && size > 25).await?;
    let mut buffer = Vec::new();
    if let Err(refused) = cluster.api.replace(slice).await {
        bail!("the API server refuses a slice: {refused}");
    }
    let replied = Instant::now();
    while !way.shows(&query, octets, &mut buffer).await? {
        if replied.elapsed() > Duration::from_secs(20) {
            bail!("{server} does not show a change of {name} in 20 s");
        }
    }
    let time = replied.elapsed();
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(time)
}
