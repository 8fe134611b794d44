//! What subscribers cost a replica, and what it does when all of them come back at once.
//!
//! Watchers are bare connections, so that what is measured is the server; those that come back are clients of the library,
//! since it is their jitter that counts.

use crate::process::Fingerpost;
use crate::report::{Latencies, count};
use crate::{http, watch};
use anyhow::{Context, Result, bail};
use fingerpost_client::{Client, ConnectionState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Subscribers, each on its own connection.
    #[arg(long, default_value_t = 10_000)]
    subscribers: usize,
    /// Services among which they and the changes are spread, in the second part.
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Changes a second in the second part.
    #[arg(long, default_value_t = 1_000)]
    rate: usize,
    /// Seconds of the second part.
    #[arg(long, default_value_t = 10)]
    seconds: usize,
    /// Clients that come back at once in the third part.
    #[arg(long, default_value_t = 5_000)]
    clients: usize,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    watch::run(watch::Options { watchers: options.subscribers, changes: 50, every: 200 }).await?;
    println!("  goals of `client`: p99 ≤ 100 ms, at most 10 KB a subscriber");
    spread(&options).await?;
    reconnect(options.clients).await
}

fn instance(service: usize, label: &str) -> Vec<u8> {
    let body = format!(r#"{{"addresses":["10.0.0.1"],"ports":[{{"port":80}}],"labels":{{"sent":"{label}"}}}}"#);
    http::request("PUT", &format!("/v1/namespaces/bench/services/s{service}/instances/i"), "application/json", &body)
}

/// Microseconds since a start, by which a change says when it was sent.
async fn follow(
    address: SocketAddr,
    service: usize,
    start: Instant,
    ready: Arc<Barrier>,
    seen: mpsc::UnboundedSender<Duration>,
) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /v1/watch?kind=instance&namespace=bench&service=s{service} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = Vec::with_capacity(4096);
    let mut synced = false;
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            bail!("the stream ended");
        }
        let now = start.elapsed();
        let text = String::from_utf8_lossy(&buffer);
        for found in text.split("\"sent\":\"").skip(1) {
            if let Some(sent) = found.split('"').next().and_then(|sent| sent.parse::<u64>().ok()).filter(|&at| at > 0) {
                // The collector may have seen enough.
                let _ = seen.send(now.saturating_sub(Duration::from_micros(sent)));
            }
        }
        let is_synced = text.contains("event: synced");
        buffer.clear();
        if is_synced && !synced {
            synced = true;
            ready.wait().await;
        }
    }
}

/// Changes all over, each of which a few subscribers see.
async fn spread(options: &Options) -> Result<()> {
    let (subscribers, services) = (options.subscribers, options.services);
    println!("== client: {subscribers} subscribers of {services} services, {} changes a second", options.rate);
    let folder = tempfile::tempdir()?;
    let server = Fingerpost::start(folder.path())?;
    server.wait_ready().await?;
    let mut writers = Vec::new();
    for _ in 0..16 {
        writers.push(http::Connection::open(server.http).await?);
    }
    for service in 0..services {
        writers[service % 16].call(&instance(service, "0"), false).await?;
    }
    let start = Instant::now();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let ready = Arc::new(Barrier::new(subscribers + 1));
    let mut followers = JoinSet::new();
    for n in 0..subscribers {
        followers.spawn(follow(server.http, n % services, start, Arc::clone(&ready), sender.clone()));
    }
    tokio::time::timeout(Duration::from_secs(120), ready.wait()).await.context("the subscribers did not get ready")?;
    let cpu = server.process.cpu()?;
    let begun = Instant::now();
    let total = options.rate * options.seconds;
    let mut tasks = JoinSet::new();
    for (n, mut writer) in writers.into_iter().enumerate() {
        let (rate, services) = (options.rate, services);
        tasks.spawn(async move {
            for change in (n..total).step_by(16) {
                let due = begun + Duration::from_secs_f64(change as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
                let sent = start.elapsed().as_micros().to_string();
                let reply = writer.call(&instance(change % services, &sent), false).await?;
                if reply.status != 200 {
                    bail!("the server answers {}", reply.status);
                }
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let took = begun.elapsed();
    let wanted = total * subscribers / services;
    let mut delays = Vec::with_capacity(wanted);
    while delays.len() < wanted {
        let next = tokio::time::timeout(Duration::from_secs(10), seen.recv()).await;
        delays.push(
            next.with_context(|| format!("{} of {wanted} deliveries came", delays.len()))?
                .context("the subscribers ended")?,
        );
    }
    let cpu = server.process.cpu()?.saturating_sub(cpu);
    println!("  {} changes in {:.2} s, {} deliveries", count(total as f64), took.as_secs_f64(), count(wanted as f64));
    println!("  request sent → subscriber has it: {}", Latencies::new(delays));
    println!("  CPU of the server: {:.2} cores", cpu.as_secs_f64() / took.as_secs_f64());
    Ok(())
}

/// All clients lose their registry at the same moment.
async fn reconnect(clients: usize) -> Result<()> {
    println!("== client: {clients} clients come back after a restart");
    let folder = tempfile::tempdir()?;
    let server = Fingerpost::start(folder.path())?;
    server.wait_ready().await?;
    let mut writer = http::Connection::open(server.http).await?;
    for service in 0..100 {
        writer.call(&instance(service, "0"), false).await?;
    }
    let url = format!("http://{}", server.http);
    let mut all = Vec::with_capacity(clients);
    for n in 0..clients {
        let client = Client::connect(&url)?;
        let subscription = client.watch(&format!("bench/s{}", n % 100)).subscribe()?;
        all.push((client, subscription));
    }
    for (_, subscription) in &all {
        tokio::time::timeout(Duration::from_secs(120), subscription.synced())
            .await
            .context("a client did not begin")??;
    }
    let before = server.process.resident()?;
    let http = server.http;
    drop(server);
    let restarted = Instant::now();
    let server = Fingerpost::start_at(folder.path(), http, &[])?;
    let up = restarted.elapsed();
    let mut waiting = JoinSet::new();
    for (client, subscription) in all {
        let mut connection = client.connection();
        waiting.spawn(async move {
            connection.wait_for(|state| matches!(state, ConnectionState::Lost { .. })).await?;
            connection.wait_for(|state| matches!(state, ConnectionState::Connected { .. })).await?;
            drop(subscription);
            Ok::<_, anyhow::Error>(restarted.elapsed())
        });
    }
    let mut back = Vec::with_capacity(clients);
    let mut most = 0;
    while let Some(one) = tokio::time::timeout(Duration::from_secs(120), waiting.join_next()).await? {
        back.push(one??.saturating_sub(up));
        most = most.max(server.process.resident()?);
    }
    println!(
        "  served again after {:.2} s; from then on until a client is back: {}",
        up.as_secs_f64(),
        Latencies::new(back)
    );
    println!("  memory of the server: {:.0} MB before, at most {:.0} MB", before as f64 / 1e6, most as f64 / 1e6);
    println!("  goal: all within 10 s");
    Ok(())
}
