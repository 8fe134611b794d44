//! A small HTTP/1.1 load generator, the same for every server: prepared requests on kept-alive connections, one at a
//! time on each, and nothing parsed but the status and the length, so that it takes little of the cores it shares.

use crate::report::Latencies;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One kept-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The status of a reply and the length of its body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Sends a whole request and reads the whole reply; `keep` says whether its body is wanted.
    pub(crate) async fn call(&mut self, request: &[u8], keep: bool) -> Result<Reply> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
        };
        let head = std::str::from_utf8(&self.buffer[..head_end])?;
        let status = head.get(9..12).and_then(|text| text.parse().ok()).context("no HTTP status")?;
        let mut length: Option<usize> = None;
        let mut chunked = false;
        for line in head.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.trim().eq_ignore_ascii_case("chunked");
            }
        }
        match length {
            Some(length) => {
                while self.buffer.len() < head_end + length {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        bail!("the reply broke off");
                    }
                }
            }
            None if chunked => {
                while !self.buffer.ends_with(b"0\r\n\r\n") {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        bail!("the reply broke off");
                    }
                }
            }
            None => {}
        }
        Ok(Reply { status, body: if keep { self.buffer[head_end..].to_vec() } else { Vec::new() } })
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A whole request.
pub(crate) fn request(method: &str, path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let content = if body.is_empty() && method == "GET" {
        String::new()
    } else {
        format!("content-type: {content_type}\r\ncontent-length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{content}\r\n{body}").into_bytes()
}

/// What a load run came to.
pub(crate) struct Outcome {
    pub(crate) done: u64,
    pub(crate) bytes_of_one: usize,
    pub(crate) elapsed: Duration,
    pub(crate) latencies: Latencies,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends requests over `connections` connections for `time`; `make(n)` makes the nth.
pub(crate) async fn load(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    make: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> Result<Outcome> {
    let make = Arc::new(make);
    let next = Arc::new(AtomicU64::new(0));
    let mut first = Connection::open(address).await?;
    let probe = first.call(&make(next.fetch_add(1, Ordering::Relaxed)), true).await?;
    if !(200..300).contains(&probe.status) {
        bail!("the server answers {}: {}", probe.status, String::from_utf8_lossy(&probe.body));
    }
    let begun = Instant::now();
    let deadline = begun + time;
    let mut workers = Vec::new();
    for _ in 0..connections {
        let (make, next) = (Arc::clone(&make), Arc::clone(&next));
        workers.push(tokio::spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut times = Vec::with_capacity(1 << 14);
            while Instant::now() < deadline {
                let request = make(next.fetch_add(1, Ordering::Relaxed));
                let sent = Instant::now();
                let reply = connection.call(&request, false).await?;
                times.push(sent.elapsed());
                if !(200..300).contains(&reply.status) {
                    bail!("the server answers {}", reply.status);
                }
            }
            anyhow::Ok(times)
        }));
    }
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    let elapsed = begun.elapsed();
    Ok(Outcome { done: times.len() as u64, bytes_of_one: probe.body.len(), elapsed, latencies: Latencies::new(times) })
}
