//! One change to a thousand watchers of one service, and what a watcher costs.

use crate::http;
use crate::process::Fingerpost;
use crate::report::Latencies;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, mpsc};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Watchers, each on its own connection.
    #[arg(long, default_value_t = 1000)]
    pub(crate) watchers: usize,
    /// Changes.
    #[arg(long, default_value_t = 200)]
    pub(crate) changes: usize,
    /// Milliseconds between changes.
    #[arg(long, default_value_t = 50)]
    pub(crate) every: u64,
}

async fn watch(
    address: std::net::SocketAddr,
    ready: Arc<Barrier>,
    seen: mpsc::UnboundedSender<(u64, Instant)>,
) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /v1/watch?kind=instance&namespace=bench&service=watched HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        .await?;
    let mut buffer = Vec::with_capacity(4096);
    let mut synced = false;
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            bail!("the stream ended");
        }
        let now = Instant::now();
        let text = String::from_utf8_lossy(&buffer);
        // The change's number is in a label, and an event's data is one line.
        let mut at = 0;
        while let Some(found) = text[at..].find("\"change\":\"") {
            let start = at + found + 10;
            let Some(end) = text[start..].find('"') else { break };
            if let Ok(number) = text[start..start + end].parse() {
                // The collector may have seen enough.
                let _ = seen.send((number, now));
            }
            at = start + end;
        }
        let is_synced = text.contains("event: synced");
        buffer.clear();
        if is_synced && !synced {
            synced = true;
            ready.wait().await;
        }
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!("== watch: {} watchers of one service, {} changes", options.watchers, options.changes);
    let folder = tempfile::tempdir()?;
    crate::machine::describe(folder.path())?;
    let server = Fingerpost::start(folder.path())?;
    server.wait_ready().await?;
    let mut writer = http::Connection::open(server.http).await?;
    let put = |n: usize| {
        let body = format!(r#"{{"addresses":["10.0.0.1"],"ports":[{{"port":80}}],"labels":{{"change":"{n}"}}}}"#);
        http::request("PUT", "/v1/namespaces/bench/services/watched/instances/i1", "application/json", &body)
    };
    let reply = writer.call(&put(0), true).await?;
    if reply.status != 201 {
        bail!("the server answers {}", reply.status);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.process.resident()?;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let ready = Arc::new(Barrier::new(options.watchers + 1));
    for _ in 0..options.watchers {
        tokio::spawn(watch(server.http, Arc::clone(&ready), sender.clone()));
    }
    tokio::time::timeout(Duration::from_secs(60), ready.wait()).await.context("the watchers did not get ready")?;
    // The state of the world carried change 0.
    while let Ok((0, _)) = seen.try_recv() {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    let per_watcher = server.process.resident()?.saturating_sub(before) / options.watchers as u64;
    let cpu = server.process.cpu()?;
    let (mut from_request, mut from_reply) = (Vec::new(), Vec::new());
    for n in 1..=options.changes {
        let sent = Instant::now();
        let reply = writer.call(&put(n), false).await?;
        let replied = Instant::now();
        if reply.status != 200 {
            bail!("the server answers {}", reply.status);
        }
        let mut arrived = 0;
        while arrived < options.watchers {
            let (number, at) = tokio::time::timeout(Duration::from_secs(10), seen.recv())
                .await
                .with_context(|| format!("change {n} reached {arrived} watchers in 10 s"))?
                .context("the watchers ended")?;
            if number == n as u64 {
                arrived += 1;
                from_request.push(at.saturating_duration_since(sent));
                from_reply.push(at.saturating_duration_since(replied));
            }
        }
        tokio::time::sleep(Duration::from_millis(options.every)).await;
    }
    let cpu = server.process.cpu()?.saturating_sub(cpu);
    let deliveries = (options.changes * options.watchers) as f64;
    println!("  request sent → watcher has it: {}", Latencies::new(from_request));
    println!("  reply read   → watcher has it: {}", Latencies::new(from_reply));
    println!(
        "  CPU a delivery: {:.1} µs; memory a watcher: {:.1} KB",
        cpu.as_secs_f64() * 1e6 / deliveries,
        per_watcher as f64 / 1e3
    );
    println!("  goals: p99 of all watchers ≤ 20 ms, at most 20 KB a watcher");
    Ok(())
}
