//! Questions over HTTPS (RFC 8484): one HTTP/2 connection, on which questions go side by side. It is opened with the first
//! question and closed when there was none for a while, or no answer: see `stream`, whose rules these are.

use crate::forward::key::Key;
use crate::forward::upstream::{AskError, Shared, Upstream};
use crate::message::kind;
use crate::name::Name;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, sleep_until};

const TYPE: &str = "application/dns-message";
/// A DNS message is at most this long.
const LARGEST: usize = 65_535;
/// How long the server's address may be looked for, at each of those that are asked.
const BOOTSTRAP: Duration = Duration::from_millis(700);
/// How long a connection is kept without questions. Longer than one of plain TCP, since a new one costs more; firewalls
/// keep them in mind for minutes.
const IDLE: Duration = Duration::from_secs(30);
/// How long nothing may come while a question waits, or has waited in vain.
const SILENCE: Duration = Duration::from_secs(2);

/// A server that is asked over HTTPS.
#[derive(Debug)]
pub(super) struct Https {
    host: String,
    port: u16,
    path: String,
    /// Who may know the address of its name, by the group that says so.
    bootstrap: Mutex<BTreeMap<usize, Vec<Arc<Upstream>>>>,
    connection: AsyncMutex<Option<Open>>,
}

/// A connection.
#[derive(Clone, Debug)]
struct Open {
    sender: SendRequest<Full<Bytes>>,
    life: Arc<Life>,
}

/// What a connection's end depends on.
#[derive(Debug)]
struct Life {
    times: Mutex<Times>,
    /// Told of every question.
    asked: Notify,
}

/// What happened on a connection, and when.
#[derive(Debug)]
struct Times {
    /// A question or an answer.
    active: Instant,
    /// Since when questions wait, or have waited, without any answer.
    unheard: Option<Instant>,
    /// Questions that wait.
    waiting: usize,
}

impl Times {
    /// Until when the connection is kept, unless something happens.
    fn end(&self) -> Option<Instant> {
        let idle = (self.waiting == 0).then_some(self.active + IDLE);
        self.unheard.map(|since| since + SILENCE).or(idle)
    }
}

/// A question that waits for its answer, or is given up.
struct Waiting<'a>(&'a Life);

impl<'a> Waiting<'a> {
    fn begin(life: &'a Life) -> Self {
        let now = Instant::now();
        let mut times = life.times.lock();
        times.active = now;
        times.unheard.get_or_insert(now);
        times.waiting += 1;
        drop(times);
        life.asked.notify_one();
        Self(life)
    }

    fn heard(&self) {
        let now = Instant::now();
        let mut times = self.0.times.lock();
        times.active = now;
        // Of the others that wait, counted from now on.
        times.unheard = (times.waiting > 1).then_some(now);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.times.lock().waiting -= 1;
    }
}

impl Https {
    pub(super) fn new(host: String, port: u16, path: String) -> Self {
        Self { host, port, path, bootstrap: Mutex::default(), connection: AsyncMutex::new(None) }
    }

    /// Takes note of who may know its address.
    pub(super) fn find_by(&self, group: usize, others: Vec<Arc<Upstream>>) {
        self.bootstrap.lock().insert(group, others);
    }

    /// Asks; the caller sets the time limit.
    pub(super) async fn exchange(&self, query: Vec<u8>, shared: &Arc<Shared>) -> Result<Vec<u8>, AskError> {
        let (open, fresh) = self.connection(shared).await?;
        match self.post(open, query.clone()).await {
            // It may have been closed, or have died, since it was last used.
            Err(AskError::Closed) if !fresh => {
                let (open, _) = self.connection(shared).await?;
                self.post(open, query).await
            }
            answer => answer,
        }
    }

    async fn post(&self, mut open: Open, query: Vec<u8>) -> Result<Vec<u8>, AskError> {
        let authority = match self.host.parse() {
            Ok(ip @ IpAddr::V6(_)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{authority}{}", self.path))
            .header(CONTENT_TYPE, TYPE)
            .header(ACCEPT, TYPE)
            // The id stays 0, so that caches on the way can serve (RFC 8484 §4.1).
            .body(Full::new(Bytes::from(query)))
            .map_err(|error| AskError::Http(error.to_string()))?;
        let waiting = Waiting::begin(&open.life);
        // Whatever breaks a connection, another one may do better.
        let broken = |error: &(dyn std::error::Error + 'static)| {
            tracing::debug!(host = self.host, error, "a question over HTTPS failed");
            AskError::Closed
        };
        let response = open.sender.send_request(request).await.map_err(|error| broken(&error))?;
        waiting.heard();
        if response.status() != StatusCode::OK {
            return Err(AskError::Http(format!("the server answered {}", response.status())));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(too_long) => AskError::Http(too_long.to_string()),
            None => broken(&*error),
        })?;
        waiting.heard();
        Ok(body.to_bytes().to_vec())
    }

    /// The connection, and whether it is new.
    async fn connection(&self, shared: &Arc<Shared>) -> Result<(Open, bool), AskError> {
        let mut held = self.connection.lock().await;
        if let Some(open) = held.as_ref().filter(|open| !open.sender.is_closed()) {
            return Ok((open.clone(), false));
        }
        let mut last = AskError::NoAddress(self.host.clone());
        for address in self.addresses().await {
            match self.open(SocketAddr::new(address, self.port), shared).await {
                Ok(open) => {
                    *held = Some(open.clone());
                    return Ok((open, true));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open(&self, server: SocketAddr, shared: &Arc<Shared>) -> Result<Open, AskError> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let name = self.host.parse::<IpAddr>().is_err().then_some(self.host.as_str());
        let stream = shared.tls.connect(stream, name, server, b"h2").await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AskError::Http(error.to_string()))?;
        let times = Mutex::new(Times { active: Instant::now(), unheard: None, waiting: 0 });
        let life = Arc::new(Life { times, asked: Notify::new() });
        let (stop, kept) = (shared.stop.clone(), Arc::clone(&life));
        shared.tasks.spawn(stop.run_until_cancelled_owned(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to an upstream ended");
                },
                () = until_of_no_use(&kept) => tracing::debug!(%server, "a connection to an upstream is given up"),
            }
        }));
        Ok(Open { sender, life })
    }

    /// The server's addresses: its own, or what the other upstreams know of its name.
    ///
    /// To ask them is what leads here, so it can't be part of the same future.
    fn addresses(&self) -> Pin<Box<dyn Future<Output = Vec<IpAddr>> + Send + '_>> {
        if let Ok(address) = self.host.parse() {
            return Box::pin(std::future::ready(vec![address]));
        }
        match Name::from_text(&self.host) {
            Some(name) => Box::pin(self.bootstrap(name)),
            None => Box::pin(std::future::ready(Vec::new())),
        }
    }

    async fn bootstrap(&self, name: Name) -> Vec<IpAddr> {
        let others: Vec<Arc<Upstream>> = self.bootstrap.lock().values().flatten().cloned().collect();
        for upstream in &others {
            let mut addresses = Vec::new();
            for qtype in [kind::A, kind::AAAA] {
                let key = Key::new(name.wire(), qtype, false, false);
                if let Ok(Ok(entry)) = upstream.ask(&key, BOOTSTRAP).await {
                    addresses.extend(entry.addresses());
                }
            }
            if !addresses.is_empty() {
                return addresses;
            }
        }
        Vec::new()
    }
}

/// Until nothing was asked for a while, or nothing has come.
async fn until_of_no_use(life: &Life) {
    loop {
        // With a question under way there is always an end; an answer moves it further away.
        let end = life.times.lock().end().unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = life.asked.notified() => {}
            () = sleep_until(end) => if life.times.lock().end().is_some_and(|end| end <= Instant::now()) {
                return;
            }
        }
    }
}
