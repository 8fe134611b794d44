//! Questions over TCP or TLS (RFC 7766, RFC 7858): one connection for all, many questions in flight, told apart by their
//! ids. It is opened with the first question and closed when there was none for a while, or no answer.
//!
//! A connection can die without a word: a firewall forgets it, or the server's machine is gone. Questions that are
//! written to it say nothing then; only what is read does.

use crate::forward::upstream::{AskError, Shared};
use hashbrown::HashMap;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// How long a connection is kept without questions. Servers close theirs after 10 s and more.
const IDLE: Duration = Duration::from_secs(8);
/// How long nothing may come while a question waits. Less than what the first two attempts take together: the second one
/// then goes on over a new connection.
const SILENCE: Duration = Duration::from_secs(2);
/// How long a server may take to take a question.
const WRITE: Duration = Duration::from_secs(2);
/// Questions that wait to be written.
const QUEUE: usize = 64;
/// Questions in flight on one connection; beyond, answers of long ago would be mistaken for new ones.
const IN_FLIGHT: usize = 4096;

/// A question, and where its answer goes.
struct Request {
    query: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// A server that is asked over streams.
#[derive(Debug)]
pub(super) struct Stream {
    server: SocketAddr,
    /// With TLS, and the name in the server's certificate.
    tls: Option<Option<String>>,
    connection: Mutex<Option<mpsc::Sender<Request>>>,
}

impl Stream {
    pub(super) fn plain(server: SocketAddr) -> Self {
        Self { server, tls: None, connection: Mutex::new(None) }
    }

    pub(super) fn tls(server: SocketAddr, name: Option<String>) -> Self {
        Self { server, tls: Some(name), connection: Mutex::new(None) }
    }

    /// Asks; the caller sets the time limit.
    pub(super) async fn exchange(&self, query: Vec<u8>, shared: &Arc<Shared>) -> Result<Vec<u8>, AskError> {
        let (connection, fresh) = self.connection(shared).await?;
        match ask(&connection, query.clone()).await {
            // The server may have closed it at the very moment when we asked.
            Err(AskError::Closed) if !fresh => {
                let (connection, _) = self.connection(shared).await?;
                ask(&connection, query).await
            }
            answer => answer,
        }
    }

    /// The connection, and whether it is new.
    async fn connection(&self, shared: &Arc<Shared>) -> Result<(mpsc::Sender<Request>, bool), AskError> {
        // Held while connecting: those who come meanwhile wait for the same connection.
        let mut held = self.connection.lock().await;
        if let Some(open) = held.as_ref().filter(|open| !open.is_closed()) {
            return Ok((open.clone(), false));
        }
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        // The kernel gives up, too, instead of sending again for many minutes. Where it can't, we do by ourselves.
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(SILENCE));
        let (sender, requests) = mpsc::channel(QUEUE);
        let stop = shared.stop.clone();
        match &self.tls {
            None => shared.tasks.spawn(stop.run_until_cancelled_owned(keep(stream, requests))),
            Some(name) => {
                let stream = shared.tls.connect(stream, name.as_deref(), self.server, b"dot").await?;
                shared.tasks.spawn(stop.run_until_cancelled_owned(keep(stream, requests)))
            }
        };
        *held = Some(sender.clone());
        Ok((sender, true))
    }
}

async fn ask(connection: &mpsc::Sender<Request>, query: Vec<u8>) -> Result<Vec<u8>, AskError> {
    let (answer, answered) = oneshot::channel();
    connection.send(Request { query, answer }).await.map_err(|_| AskError::Closed)?;
    answered.await.map_err(|_| AskError::Closed)
}

/// Keeps a connection until its end. Whoever still waits then is told by what is dropped.
async fn keep<S: AsyncRead + AsyncWrite + Unpin>(stream: S, requests: mpsc::Receiver<Request>) {
    if let Err(error) = serve(stream, requests).await {
        tracing::debug!(%error, "a connection to an upstream ended");
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut requests: mpsc::Receiver<Request>,
) -> io::Result<()> {
    let mut waiting: HashMap<u16, oneshot::Sender<Vec<u8>>> = HashMap::new();
    let mut read: Vec<u8> = Vec::new();
    // When something was last written or read, and since when a question waits without anything being read.
    let mut active = Instant::now();
    let mut unheard: Option<Instant> = None;
    loop {
        let end = unheard.map_or(active + IDLE, |since| since + SILENCE);
        tokio::select! {
            request = requests.recv(), if waiting.len() < IN_FLIGHT => {
                let Some(Request { mut query, answer }) = request else { return Ok(()) };
                // Those who no longer wait make room.
                waiting.retain(|_, answer| !answer.is_closed());
                let mut id: u16 = rand::random();
                while waiting.contains_key(&id) {
                    id = id.wrapping_add(1);
                }
                query[..2].copy_from_slice(&id.to_be_bytes());
                let mut frame = (query.len() as u16).to_be_bytes().to_vec();
                frame.extend_from_slice(&query);
                waiting.insert(id, answer);
                let written = async {
                    stream.write_all(&frame).await?;
                    stream.flush().await
                };
                timeout(WRITE, written).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                active = Instant::now();
                unheard.get_or_insert(active);
            }
            got = stream.read_buf(&mut read) => {
                if got? == 0 {
                    return Ok(());
                }
                while let Some(message) = take_message(&mut read) {
                    let id = message.first_chunk().map(|id| u16::from_be_bytes(*id));
                    if let Some(answer) = id.and_then(|id| waiting.remove(&id)) {
                        // Whoever asked may have given up.
                        let _ = answer.send(message);
                    }
                }
                active = Instant::now();
                unheard = (!waiting.is_empty()).then_some(active);
            }
            () = sleep_until(end) => return match unheard {
                Some(_) => Err(io::ErrorKind::TimedOut.into()),
                None => Ok(()),
            },
        }
    }
}

/// The first message, where it is there as a whole.
fn take_message(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*read.first_chunk()?));
    let message = read.get(2..2 + length)?.to_vec();
    read.drain(..2 + length);
    Some(message)
}
