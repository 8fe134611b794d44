//! Questions over HTTPS (RFC 8484): one HTTP/2 connection, on which questions go side by side.

use crate::forward::key::Key;
use crate::forward::upstream::{AskError, Shared, Upstream};
use crate::message::kind;
use crate::name::Name;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;

const TYPE: &str = "application/dns-message";
/// A DNS message is at most this long.
const LARGEST: usize = 65_535;
/// How long the server's address may be looked for, at each of those that are asked.
const BOOTSTRAP: Duration = Duration::from_millis(700);
/// How soon a connection that is dead is noticed, while questions wait on it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A server that is asked over HTTPS.
#[derive(Debug)]
pub(super) struct Https {
    host: String,
    port: u16,
    path: String,
    /// Who may know the address of its name, by the group that says so.
    bootstrap: Mutex<BTreeMap<usize, Vec<Arc<Upstream>>>>,
    connection: AsyncMutex<Option<SendRequest<Full<Bytes>>>>,
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
        let wrong = |error: hyper::Error| AskError::Http(error.to_string());
        let mut connection = self.connection(shared).await?;
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
        let response = connection.send_request(request).await.map_err(wrong)?;
        if response.status() != StatusCode::OK {
            return Err(AskError::Http(format!("the server answered {}", response.status())));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        Ok(body.map_err(|error| AskError::Http(error.to_string()))?.to_bytes().to_vec())
    }

    async fn connection(&self, shared: &Arc<Shared>) -> Result<SendRequest<Full<Bytes>>, AskError> {
        let mut held = self.connection.lock().await;
        if let Some(open) = held.as_ref().filter(|open| !open.is_closed()) {
            return Ok(open.clone());
        }
        let mut last = AskError::NoAddress(self.host.clone());
        for address in self.addresses().await {
            match self.open(SocketAddr::new(address, self.port), shared).await {
                Ok(open) => {
                    *held = Some(open.clone());
                    return Ok(open);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open(&self, server: SocketAddr, shared: &Arc<Shared>) -> Result<SendRequest<Full<Bytes>>, AskError> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let name = self.host.parse::<IpAddr>().is_err().then_some(self.host.as_str());
        let stream = shared.tls.connect(stream, name, server, b"h2").await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AskError::Http(error.to_string()))?;
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled_owned(connection).await {
                tracing::debug!(%error, "a connection to an upstream ended");
            }
        });
        Ok(sender)
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
