//! A large cluster: how soon a server that starts is right about it, what it weighs then, and ours without the API server.

use super::{Options, start_ours, until_shown};
use crate::process;
use anyhow::Result;
use fingerpost_tests::kubernetes::{Cluster, CoreDns, Corefile, User, objects};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Starts of each server.
const STARTS: usize = 3;

fn endpoint_address(service: usize, n: usize) -> String {
    format!("10.{}.{}.{}", 1 + ((service >> 12) & 127), (service >> 4) & 255, ((service & 15) << 4) + n)
}

fn headless(service: usize) -> bool {
    service.is_multiple_of(10)
}

fn namespace(service: usize) -> String {
    format!("ns-{}", service % 100)
}

async fn fill(cluster: &Cluster, options: &Options) {
    let namespaces: Vec<Value> = (0..100).map(|n| objects::namespace(&namespace(n))).collect();
    cluster.api.put_all(&namespaces).await;
    let service = |n: usize| {
        let (namespace, name) = (namespace(n), format!("svc-{n}"));
        if headless(n) { objects::headless(&namespace, &name) } else { objects::cluster_ip(&namespace, &name) }
    };
    let slice = |n: usize| {
        let (namespace, name) = (namespace(n), format!("svc-{n}"));
        let endpoint = |k: usize| {
            let pod = format!("{name}-7c9d8f6b5-{k:05}");
            objects::pod_endpoint(&endpoint_address(n, k), &namespace, &pod)
        };
        let endpoints = (0..options.each.min(16)).map(endpoint).collect();
        objects::slice(&namespace, &name, &format!("{name}-x7k2p"), endpoints, objects::http_port())
    };
    cluster.api.put_all(&(0..options.services).map(service).collect::<Vec<_>>()).await;
    cluster.api.put_all(&(0..options.services).map(slice).collect::<Vec<_>>()).await;
}

fn middle(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64()
}

pub(super) async fn run(options: &Options, folder: &Path) -> Result<()> {
    println!("state: {} services with {} endpoints each, every tenth headless", options.services, options.each);
    let mut cluster = Cluster::start().await;
    let begun = Instant::now();
    fill(&cluster, options).await;
    println!("  loaded in {:.0} s", begun.elapsed().as_secs_f64());
    // What was loaded last, of a kind that needs both its Service and its slice.
    let last = (options.services - 1) / 10 * 10;
    let name = format!("svc-{last}.{}.svc.cluster.local", namespace(last));
    let shown = endpoint_address(last, 0);
    let limit = Duration::from_secs(300);
    // After a while, so that what was only needed while loading may be given back.
    let rest = Duration::from_secs(10);
    let (mut ours, mut theirs, mut weights) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    let kubeconfig = cluster.kubeconfig(User::CoreDns, cluster.address());
    for n in 0..STARTS {
        let begun = Instant::now();
        let coredns = CoreDns::launch(&kubeconfig, &Corefile::default());
        until_shown(coredns.dns, &name, &shown, limit).await?;
        theirs.push(begun.elapsed());
        tokio::time::sleep(rest).await;
        weights[1].push((process::resident(coredns.pid())?, process::peak(coredns.pid())?));
        drop(coredns);

        let begun = Instant::now();
        let own = start_ours(&cluster, cluster.address(), &folder.join(n.to_string()))?;
        until_shown(own.dns, &name, &shown, limit).await?;
        ours.push(begun.elapsed());
        tokio::time::sleep(rest).await;
        weights[0].push((process::resident(own.process.pid())?, process::peak(own.process.pid())?));
        // As an operator would, so that everything is on the disk.
        own.process.terminate(Duration::from_secs(60))?;
    }
    let (own, peer) = (middle(ours), middle(theirs));
    println!("  start → first right answer: fingerpost {own:.2} s, coredns {peer:.2} s, ratio {:.2}", own / peer);
    let [own, peer] = weights.map(|mut weights| {
        weights.sort_unstable();
        weights.get(weights.len() / 2).copied().unwrap_or_default()
    });
    let megabytes = |bytes: u64| bytes >> 20;
    println!(
        "  resident memory then: fingerpost {} MB (peak {}), coredns {} MB (peak {}), ratio {:.2} (goal: at most 0.33)",
        megabytes(own.0),
        megabytes(own.1),
        megabytes(peer.0),
        megabytes(peer.1),
        own.0 as f64 / peer.0 as f64
    );
    cluster.kill();
    let mut again = Vec::new();
    for n in 0..STARTS {
        let begun = Instant::now();
        let own = start_ours(&cluster, cluster.address(), &folder.join(n.to_string()))?;
        until_shown(own.dns, &name, &shown, limit).await?;
        again.push(begun.elapsed());
    }
    println!(
        "  restart → first right answer, the API server away: fingerpost {:.2} s (goal: under 1 s)",
        middle(again)
    );
    Ok(())
}
