//! Over etcd: writes beside direct puts to the same etcd, how soon another replica's DNS shows them, and how soon a replica
//! of a full registry is ready.

use crate::http;
use crate::process::{self, Fingerpost};
use crate::report::{self, Latencies};
use anyhow::{Context, Result, bail};
use etcd_client::{Client, Txn, TxnOp};
use fingerpost_tests::etcd::{EtcdCluster, Setup};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Rounds; each measures both.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections, and concurrent direct puts.
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Writes whose way into the other replica's DNS is timed.
    #[arg(long, default_value_t = 1000)]
    writes: usize,
    /// Instances of the registry whose replica gets ready.
    #[arg(long, default_value_t = 100_000)]
    instances: u64,
}

/// Callers that write batches.
const BATCHES: usize = 64;

fn address(n: u64) -> String {
    format!("10.{}.{}.{}", (n >> 16) & 255, (n >> 8) & 255, n & 255)
}

fn instance(n: u64) -> String {
    format!(
        r#"{{"addresses":["{}"],"ports":[{{"name":"http","port":8080}}],"labels":{{"app":"web","version":"v{}"}}}}"#,
        address(n),
        n % 7
    )
}

fn put(n: u64) -> Vec<u8> {
    http::request(
        "PUT",
        &format!("/v1/namespaces/bench/services/s{}/instances/i{n}", n % 100),
        "application/json",
        &instance(n),
    )
}

fn batch(namespace: &str, n: u64) -> Vec<u8> {
    let operations: Vec<String> = (n * 100..(n + 1) * 100)
        .map(|id| {
            format!(
                r#"{{"op":"put","kind":"instance","object":{{"namespace":"{namespace}","service":"s{}","id":"i{id}",{}}}"#,
                id % 1000,
                instance(id).trim_start_matches('{')
            )
        })
        .collect();
    http::request("POST", "/v1/batch", "application/json", &format!(r#"{{"operations":[{}]}}"#, operations.join(",")))
}

/// What is asked of etcd directly.
#[derive(Clone, Copy)]
enum Direct {
    /// A put.
    Put,
    /// A transaction of 100 puts: what etcd can do at most for a batch.
    Hundred,
}

impl Direct {
    async fn call(self, client: &mut etcd_client::KvClient, n: u64) -> Result<(), etcd_client::Error> {
        let key = |n: u64| format!("/direct/v1/records/instances/bench/s{}/api/i{n}", n % 100);
        match self {
            Direct::Put => client.put(key(n), instance(n), None).await.map(drop),
            Direct::Hundred => {
                let puts = (n * 100..(n + 1) * 100).map(|n| TxnOp::put(key(n), instance(n), None));
                client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.map(drop)
            }
        }
    }
}

/// Writes of records of the same size under keys of the same length, each a call of its own, over eight connections.
async fn direct(endpoints: &[String], callers: usize, time: Duration, what: Direct) -> Result<(f64, Latencies)> {
    let next = Arc::new(AtomicU64::new(0));
    let deadline = Instant::now() + time;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(endpoints, None).await?);
    }
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for n in 0..callers {
        let (mut client, next) = (clients[n % clients.len()].kv_client(), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < deadline {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let sent = Instant::now();
                what.call(&mut client, n).await?;
                times.push(sent.elapsed());
            }
            anyhow::Ok(times)
        }));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok((times.len() as f64 / begun.elapsed().as_secs_f64(), Latencies::new(times)))
}

/// Whether an A answer to `name` holds the address.
async fn answers(socket: &UdpSocket, query: &[u8], address: [u8; 4]) -> Result<bool> {
    let mut reply = [0; 4096];
    socket.send(query).await?;
    let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut reply)).await??;
    Ok(reply[..length].windows(4).any(|bytes| bytes == address))
}

fn query(name: &str) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// How long after the reply of one replica the other one's DNS answers what was written.
async fn propagation(writer: SocketAddr, dns: SocketAddr, writes: usize) -> Result<Latencies> {
    let mut connection = http::Connection::open(writer).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(dns).await?;
    let query = query("moving.hop.svc.cluster.local");
    let mut times = Vec::new();
    for n in 0..writes as u64 {
        let octets = [10, 77, (n >> 8) as u8, n as u8];
        let body = format!(r#"{{"addresses":["10.77.{}.{}"],"ports":[{{"port":80}}]}}"#, octets[2], octets[3]);
        let request =
            http::request("PUT", "/v1/namespaces/hop/services/moving/instances/one", "application/json", &body);
        let reply = connection.call(&request, true).await?;
        if !(200..300).contains(&reply.status) {
            bail!("the server answers {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
        }
        let replied = Instant::now();
        while !answers(&socket, &query, octets).await? {
            if replied.elapsed() > Duration::from_secs(5) {
                bail!("the other replica did not show write {n} in 5 s");
            }
        }
        times.push(replied.elapsed());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(Latencies::new(times))
}

async fn ready(folder: &Path, endpoints: &str) -> Result<(Duration, Fingerpost)> {
    let begun = Instant::now();
    let replica = Fingerpost::start_with(folder, &["--store", "etcd", "--etcd-endpoints", endpoints])?;
    let request = http::request("GET", "/readyz", "", "");
    loop {
        let mut connection = http::Connection::open(replica.http).await?;
        if connection.call(&request, false).await?.status == 200 {
            return Ok((begun.elapsed(), replica));
        }
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("the replica is not ready after a minute");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!("== etcd: {} connections, {} s a measurement", options.connections, options.seconds);
    let folder = tempfile::tempdir()?;
    crate::machine::describe(folder.path())?;
    let time = Duration::from_secs(options.seconds);
    let (mut puts, mut hundreds, mut singles, mut batches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.rounds {
        println!("round {}", round + 1);
        // Waits for the disk, as one in use does.
        let etcd = EtcdCluster::start(Setup { fsync: true, ..Setup::default() }).await;
        let endpoints = etcd.endpoints();
        let (_, ours) = ready(&folder.path().join(format!("round-{round}")), &endpoints.join(",")).await?;
        let cpu = || anyhow::Ok((process::cpu(etcd.pid(0))?, ours.process.cpu()?));
        let show = |what: &str, per_second: f64, latencies: &Latencies, before: (Duration, Duration), done: f64| {
            let (etcd, own) = cpu()?;
            let each = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64() * 1e6 / done;
            let (etcd, own) = (each(etcd, before.0), each(own, before.1));
            let per_second = report::count(per_second);
            println!("  {what:<30} {per_second:>7}/s  CPU each: etcd {etcd:.1} µs, replica {own:.1} µs;  {latencies}");
            anyhow::Ok(())
        };
        let before = cpu()?;
        let (per_second, latencies) = direct(&endpoints, options.connections, time, Direct::Put).await?;
        show("etcd, direct puts", per_second, &latencies, before, per_second * time.as_secs_f64())?;
        puts.push(per_second);

        let before = cpu()?;
        let outcome = http::load(ours.http, options.connections, time, put).await?;
        show("PUT through a replica", outcome.per_second(), &outcome.latencies, before, outcome.done as f64)?;
        singles.push(outcome.per_second());

        let before = cpu()?;
        let (per_second, latencies) = direct(&endpoints, BATCHES, time, Direct::Hundred).await?;
        let per_second = per_second * 100.0;
        show("etcd, direct, 100 puts a txn", per_second, &latencies, before, per_second * time.as_secs_f64())?;
        hundreds.push(per_second);

        let before = cpu()?;
        let outcome = http::load(ours.http, BATCHES, time, |n| batch("batch", n)).await?;
        let per_second = outcome.per_second() * 100.0;
        show("batches through a replica", per_second, &outcome.latencies, before, outcome.done as f64 * 100.0)?;
        batches.push(per_second);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (puts, hundreds, singles, batches) = (median(puts), median(hundreds), median(singles), median(batches));
    println!("  PUT / direct put: {:.2} (goal: at least 0.9)", singles / puts);
    println!(
        "  instances in batches / direct put: {:.2} (goal: at least 5); etcd's own transactions of 100: {:.2}",
        batches / puts,
        hundreds / puts
    );

    let etcd = EtcdCluster::start(Setup { fsync: true, ..Setup::default() }).await;
    let endpoints = etcd.endpoints().join(",");
    let (_, first) = ready(&folder.path().join("first"), &endpoints).await?;
    let (_, second) = ready(&folder.path().join("second"), &endpoints).await?;
    let latencies = propagation(first.http, second.dns, options.writes).await?;
    println!("  reply of one replica → in the other's DNS: {latencies} (goal: p99 ≤ 5 ms)");

    let mut connection = http::Connection::open(first.http).await?;
    for n in 0..options.instances / 100 {
        let reply = connection.call(&batch("full", n), true).await?;
        if reply.status != 200 {
            bail!("the server answers {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
        }
    }
    drop(second);
    let mut times = Vec::new();
    for n in 0..5 {
        let (time, replica) = ready(&folder.path().join(format!("ready-{n}")), &endpoints).await?;
        times.push(time);
        if n == 4 {
            println!("  resident memory then: {} MB", replica.process.resident()? >> 20);
        }
    }
    times.sort_unstable();
    let middle = times.get(2).context("no times")?;
    println!(
        "  a replica of {} instances is ready after {:.2} s (from {:.2} to {:.2}; goal: under 1 s)",
        options.instances,
        middle.as_secs_f64(),
        times[0].as_secs_f64(),
        times[4].as_secs_f64()
    );
    Ok(())
}
