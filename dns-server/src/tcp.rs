//! Queries over TCP (RFC 7766).
//!
//! A connection may carry any number of queries, sent without waiting (§6.2.1.1); they are answered in order. What a
//! connection can hold is bounded: one query and the answers to what was read with it. Clients that say nothing, send or
//! take too slowly, or open too many connections, lose theirs (§6.2.2, §6.2.3, RFC 7766 §10). A client that has closed
//! its side still gets its answers.

use crate::answer::{Answerer, Transport, Verdict};
use crate::index::Index;
use crate::metrics::{Counters, Metrics};
use crate::querylog::QueryLog;
use crate::server::Limits;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What is read at once; a query is seldom longer.
const CHUNK: usize = 4096;
/// Answers are sent when there are so many octets of them, or when there is nothing more to answer.
const FLUSH: usize = 32 << 10;

/// Who may have a connection.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    metrics: Metrics,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    open: usize,
    by_address: HashMap<IpAddr, usize, ahash::RandomState>,
}

impl Gate {
    pub(crate) fn new(limits: Limits, metrics: Metrics) -> Self {
        Self { limits, metrics, clients: Mutex::default() }
    }

    fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Pass> {
        // One IPv6 client has a whole network of addresses.
        let client = match client {
            IpAddr::V6(v6) => {
                let segments = v6.segments();
                IpAddr::from([segments[0], segments[1], segments[2], segments[3], 0, 0, 0, 0])
            }
            v4 => v4,
        };
        let mut clients = self.clients.lock();
        let held = clients.by_address.get(&client).copied().unwrap_or_default();
        if clients.open >= self.limits.connections || held >= self.limits.connections_per_client {
            self.metrics.connection_refused();
            return None;
        }
        clients.open += 1;
        clients.by_address.insert(client, held + 1);
        self.metrics.connection_opened();
        Some(Pass { gate: self.clone(), client })
    }
}

/// A connection's place, given back with it.
struct Pass {
    gate: Arc<Gate>,
    client: IpAddr,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.metrics.connection_closed();
        let mut clients = self.gate.clients.lock();
        clients.open -= 1;
        if let Some(held) = clients.by_address.get_mut(&self.client) {
            *held -= 1;
            if *held == 0 {
                clients.by_address.remove(&self.client);
            }
        }
    }
}

/// What serves a listener's connections.
pub(crate) struct Service {
    pub(crate) index: Arc<Index>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) log: Option<Arc<QueryLog>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) drain: Duration,
}

impl Service {
    /// Accepts until shutdown, then waits for the connections to end.
    pub(crate) async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            // Those that have ended.
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok((stream, client)) => {
                    let Some(pass) = self.gate.enter(client.ip()) else {
                        continue;
                    };
                    let answerer = Answerer::new(self.index.clone(), self.counters.clone()).logging(self.log.clone());
                    let connection = Connection { stream, client, answerer, limits: self.gate.limits };
                    let shutdown = self.shutdown.clone();
                    connections.spawn(async move {
                        // How a client ends its connection is its own affair.
                        let _ = connection.serve(&shutdown).await;
                        drop(pass);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, or a client that was gone at once.
                    self.gate.metrics.socket_error();
                    tracing::debug!(%error, "accepting a DNS connection failed");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        drop(listener);
        let ended = timeout(self.drain, async { while connections.join_next().await.is_some() {} });
        if ended.await.is_err() {
            connections.shutdown().await;
        }
    }
}

struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    answerer: Answerer,
    limits: Limits,
}

/// The length of the first message, and the message, where it is there as a whole.
fn first_message(read: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = read.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some((rest.get(..length)?, 2 + length))
}

impl Connection {
    async fn serve(mut self, shutdown: &CancellationToken) -> io::Result<()> {
        // Answers are sent whole: waiting to fill segments would only delay them.
        self.stream.set_nodelay(true)?;
        let mut read: Vec<u8> = Vec::new();
        let (mut answer, mut out) = (Vec::new(), Vec::new());
        loop {
            let mut done = 0;
            while let Some((message, length)) = first_message(&read[done..]) {
                done += length;
                // A message without an answer (it is none of ours, or itself an answer) is a client's error.
                if self.answerer.answer_to(message, Transport::Tcp, self.client, &mut answer) == Verdict::Drop {
                    self.send(&mut out).await?;
                    return Ok(());
                }
                out.extend_from_slice(&(answer.len() as u16).to_be_bytes());
                out.extend_from_slice(&answer);
                if out.len() >= FLUSH {
                    self.send(&mut out).await?;
                }
            }
            read.drain(..done);
            self.send(&mut out).await?;
            if shutdown.is_cancelled() && read.is_empty() {
                return self.stream.shutdown().await;
            }
            if !self.read_message(&mut read, shutdown).await? {
                return self.stream.shutdown().await;
            }
        }
    }

    /// Reads until there is at least one whole message; false where the connection is to end.
    async fn read_message(&mut self, read: &mut Vec<u8>, shutdown: &CancellationToken) -> io::Result<bool> {
        if read.is_empty() {
            // Do not keep what one large query took.
            read.shrink_to(CHUNK);
            read.reserve(CHUNK);
            tokio::select! {
                biased;
                got = timeout(self.limits.idle, self.stream.read_buf(read)) => match got {
                    Ok(got) => if got? == 0 { return Ok(false) },
                    Err(_) => return Ok(false),
                },
                () = shutdown.cancelled() => return Ok(false),
            }
        }
        let rest = async {
            while first_message(read).is_none() {
                read.reserve(CHUNK);
                if self.stream.read_buf(read).await? == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        timeout(self.limits.transfer, rest).await.unwrap_or(Ok(false))
    }

    async fn send(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let sent = timeout(self.limits.transfer, self.stream.write_all(out)).await;
        out.clear();
        out.shrink_to(FLUSH);
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
