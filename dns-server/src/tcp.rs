//! Queries over TCP (RFC 7766).
//!
//! A connection may carry any number of queries, sent without waiting (§6.2.1.1); they are answered in order. What a
//! connection can hold is bounded: one query and the answers to what was read with it. Clients that say nothing, send or
//! take too slowly, or open too many connections, lose theirs (§6.2.2, §6.2.3, RFC 7766 §10). A client that has closed
//! its side still gets its answers.

use crate::answer::{Answerer, Transport, Verdict};
use crate::client::counted;
use crate::forward::Forward;
use crate::forward::engine::Back;
use crate::forward::lane::Lane;
use crate::forward::metrics::Tally;
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
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What is read at once; a query is seldom longer.
const CHUNK: usize = 4096;
/// Answers are sent when there are so many octets of them, or when there is nothing more to answer.
const FLUSH: usize = 32 << 10;

/// Answers that one connection may wait for, as many as it may hold in memory.
const MAX_LATER: usize = 128;

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
        let client = counted(client);
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
    /// Where others are asked, too; with the counts of that.
    pub(crate) forward: Option<(Arc<Forward>, Arc<Tally>)>,
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
                    let lane = self.forward.as_ref().map(|(forward, tally)| Lane::new(forward.clone(), tally.clone()));
                    let answerer = Answerer::new(self.index.clone(), self.counters.clone());
                    let answerer = answerer.with_lane(lane).logging(self.log.clone());
                    let connection = Connection::new(stream, answerer, client, self.gate.limits);
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
    answerer: Answerer,
    client: SocketAddr,
    limits: Limits,
    /// Answers that come later, in the order in which they come (RFC 7766 §6.2.1.1), and how many.
    later: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    awaited: usize,
}

/// What there is to do on a connection.
enum Event {
    /// At least one whole message was read.
    Read,
    /// An answer has come.
    Answer(Vec<u8>),
    /// The client has nothing more to say, or has been silent for too long.
    End,
}

/// The length of the first message, and the message, where it is there as a whole.
fn first_message(read: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = read.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some((rest.get(..length)?, 2 + length))
}

/// A message with its length in front.
fn frame(out: &mut Vec<u8>, answer: &[u8]) {
    out.extend_from_slice(&(answer.len() as u16).to_be_bytes());
    out.extend_from_slice(answer);
}

impl Connection {
    fn new(stream: TcpStream, answerer: Answerer, client: SocketAddr, limits: Limits) -> Self {
        Self { stream, answerer, client, limits, later: mpsc::channel(MAX_LATER), awaited: 0 }
    }

    async fn serve(mut self, shutdown: &CancellationToken) -> io::Result<()> {
        // Answers are sent whole: waiting to fill segments would only delay them.
        self.stream.set_nodelay(true)?;
        let mut read: Vec<u8> = Vec::new();
        let (mut answer, mut out) = (Vec::new(), Vec::new());
        loop {
            let mut done = 0;
            while let Some((message, length)) = first_message(&read[done..]) {
                done += length;
                match self.answerer.answer_to(message, Transport::Tcp, self.client, &mut answer) {
                    Verdict::Send => {}
                    // A message without an answer (it is none of ours, or itself an answer) is a client's error.
                    Verdict::Drop => {
                        self.send(&mut out).await?;
                        return Ok(());
                    }
                    Verdict::Later => {
                        let back = Back::Stream(self.later.0.clone());
                        if self.answerer.hand_over(message, Transport::Tcp, self.client, back, &mut answer) {
                            self.awaited += 1;
                            if self.awaited == MAX_LATER {
                                break;
                            }
                            continue;
                        }
                    }
                }
                frame(&mut out, &answer);
                if out.len() >= FLUSH {
                    self.send(&mut out).await?;
                }
            }
            read.drain(..done);
            self.send(&mut out).await?;
            if shutdown.is_cancelled() && read.is_empty() && self.awaited == 0 {
                return self.stream.shutdown().await;
            }
            match self.next(&mut read, shutdown).await? {
                Event::Read => {}
                Event::Answer(answer) => frame(&mut out, &answer),
                Event::End => {
                    // What was asked is still answered.
                    while self.awaited > 0 {
                        let Some(answer) = self.answer_later().await else { break };
                        frame(&mut out, &answer);
                        self.send(&mut out).await?;
                    }
                    return self.stream.shutdown().await;
                }
            }
            // Whatever else has come goes along.
            while out.len() < FLUSH && self.awaited > 0 {
                let Ok(answer) = self.later.1.try_recv() else { break };
                self.awaited -= 1;
                frame(&mut out, &answer);
            }
        }
    }

    async fn answer_later(&mut self) -> Option<Vec<u8>> {
        let answer = self.later.1.recv().await;
        self.awaited -= usize::from(answer.is_some());
        answer
    }

    /// Waits for queries, and for answers that were not there at once.
    async fn next(&mut self, read: &mut Vec<u8>, shutdown: &CancellationToken) -> io::Result<Event> {
        // A client that waits for so many answers is not read from.
        if self.awaited >= MAX_LATER {
            return Ok(self.answer_later().await.map_or(Event::End, Event::Answer));
        }
        while self.awaited > 0 {
            read.reserve(CHUNK);
            // To read some octets, or to take an answer, can be given up halfway without a loss.
            tokio::select! {
                biased;
                Some(answer) = self.later.1.recv() => {
                    self.awaited -= 1;
                    return Ok(Event::Answer(answer));
                }
                got = self.stream.read_buf(read) => {
                    if got? == 0 {
                        return Ok(Event::End);
                    }
                    if first_message(read).is_some() {
                        return Ok(Event::Read);
                    }
                }
            }
        }
        Ok(if self.read_message(read, shutdown).await? { Event::Read } else { Event::End })
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
