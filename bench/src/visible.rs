//! Writes that wait until everybody shows them: what that costs beside the same writes without waiting, over etcd, with
//! two replicas and DNS servers that follow them; and whether it is true.

use crate::http;
use crate::process::{Dns, Fingerpost};
use crate::report::Latencies;
use anyhow::{Context, Result, bail};
use fingerpost_tests::etcd::{EtcdCluster, Setup};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// DNS servers apart from the replicas; they follow the replicas in turn.
    #[arg(long, default_value_t = 3)]
    followers: usize,
    /// Writes, one after the other, of each kind.
    #[arg(long, default_value_t = 2000)]
    writes: usize,
    /// Milliseconds between writes.
    #[arg(long, default_value_t = 3)]
    every: u64,
}

/// Registers an instance again and again with another address; the time of each write.
async fn writes(server: &Fingerpost, options: &Options, query: &str, kind: u8) -> Result<Vec<Duration>> {
    let mut connection = http::Connection::open(server.http).await?;
    let path = format!("/v1/namespaces/bench/services/seen/instances/one{query}");
    let mut times = Vec::with_capacity(options.writes);
    for n in 0..options.writes {
        let body = format!(r#"{{"addresses":["10.{kind}.{}.{}"],"ports":[{{"port":80}}]}}"#, n >> 8 & 255, n & 255);
        let request = http::request("PUT", &path, "application/json", &body);
        let sent = Instant::now();
        let reply = connection.call(&request, true).await?;
        times.push(sent.elapsed());
        let text = String::from_utf8_lossy(&reply.body);
        if !(200..300).contains(&reply.status) || (!query.is_empty() && !text.contains(r#""visible":true"#)) {
            bail!("write {n} is answered {}: {text}", reply.status);
        }
        tokio::time::sleep(Duration::from_millis(options.every)).await;
    }
    Ok(times)
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!(
        "== visible: {} writes, {} DNS servers that follow two replicas over etcd",
        options.writes, options.followers
    );
    let folder = tempfile::tempdir()?;
    crate::machine::describe(folder.path())?;
    let etcd = EtcdCluster::start(Setup { fsync: true, ..Setup::default() }).await;
    let endpoints = etcd.endpoints().join(",");
    let flags = ["--store", "etcd", "--etcd-endpoints", &endpoints];
    let first = Fingerpost::start_peer(&folder.path().join("first"), &flags)?;
    let second = Fingerpost::start_peer(&folder.path().join("second"), &flags)?;
    for replica in [&first, &second] {
        replica.wait_ready().await?;
    }
    let mut followers = Vec::new();
    for n in 0..options.followers {
        let replica = if n % 2 == 0 { &second } else { &first };
        followers.push(Dns::start(&folder.path().join(format!("dns-{n}")), replica.http).await?);
    }
    let plain = Latencies::new(writes(&first, &options, "", 1).await?);
    println!("  PUT:                 {plain}");
    let cpu = |followers: &[Dns]| -> Result<Duration> {
        let own = first.process.cpu()? + second.process.cpu()?;
        followers.iter().try_fold(own, |sum, dns| Ok(sum + dns.process.cpu()?))
    };
    let before = cpu(&followers)?;
    let waited = Latencies::new(writes(&first, &options, "?wait=visible&timeout=10s", 2).await?);
    let spent = cpu(&followers)?.saturating_sub(before);
    println!("  PUT ?wait=visible:   {waited} (goal: p99 ≤ 10 ms)");
    let each = spent.as_secs_f64() * 1e6 / options.writes as f64;
    println!("  CPU of replicas and DNS servers for each of those: {each:.0} µs");
    let last = followers.first().context("no followers")?;
    println!("  resident memory of a DNS server: {} MB", last.process.resident()? >> 20);
    Ok(())
}
