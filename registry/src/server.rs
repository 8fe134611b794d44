//! Serving HTTP, over TLS or plain: connections bounded in number and patience, and a drain at the end.

use crate::access::{Connection, Tls};
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower::util::Oneshot;
use tracing::{debug, warn};

/// What bounds the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Most open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// The first request's head must have come within this time.
    pub first_head: Duration,
    /// A later request's head must have come within this time, on a connection that was idle.
    pub header_timeout: Duration,
    /// A peer that takes nothing of what was sent to it for this long is disconnected.
    pub stalled: Duration,
    /// At shutdown, how long requests under way may take.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            first_head: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            stalled: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

/// The listening socket can't be had.
#[derive(Debug, thiserror::Error)]
#[error("can't listen for HTTP on {address}; is another process using it? Choose another with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    #[source]
    source: io::Error,
}

/// Binds a listener to an address that `flag` gave.
pub async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, flag, source })
}

/// What is served.
#[derive(Clone)]
pub struct Serving {
    /// What answers requests.
    pub router: Router,
    /// TLS on all connections.
    pub tls: Option<Arc<Tls>>,
    /// Whether each request is told its [`Connection`], for access control.
    pub identify: bool,
    /// What bounds it.
    pub limits: ServerLimits,
}

/// Serves on all listeners until `shutdown`, then lets requests under way finish.
pub async fn serve(listeners: Vec<TcpListener>, serving: Serving, shutdown: CancellationToken) {
    let limits = serving.limits;
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(limits.connections));
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| accept(listener, serving.clone(), connections.clone(), Arc::clone(&room), shutdown.clone()))
        .collect();
    futures_util::future::join_all(accepting).await;
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "requests did not finish in time and are broken off");
    }
}

async fn accept(
    listener: TcpListener,
    serving: Serving,
    connections: TaskTracker,
    room: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = async {
                // The semaphore is never closed.
                let place = Arc::clone(&room).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, peer)), place) => {
                let connection = connection(stream, peer, serving.clone(), shutdown.clone());
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        debug!(%peer, %error, "connection ended");
                    }
                    drop(place);
                });
            }
            // Out of file descriptors, or the client left: a pause keeps this from spinning.
            (Err(error), _) => {
                warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    serving: Serving,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    let Serving { router, tls, identify, limits } = serving;
    // Replies and events are written whole; waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    // A peer that vanished without a word is noticed, so that its watch stream does not stay for ever.
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        debug!(%error, "SO_KEEPALIVE");
    }
    // A peer that is there but takes nothing would hold its place for ever: keep-alive is content with it.
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(limits.stalled)) {
        debug!(%error, "TCP_USER_TIMEOUT");
    }
    let mut from = Connection { address: peer.ip(), names: None };
    match tls {
        None => requests(stream, Calls::new(router, identify.then_some(from)), limits, shutdown).await,
        Some(tls) => {
            let (stream, names) = tokio::select! {
                shaken = tls.accept(stream) => shaken?,
                () = shutdown.cancelled() => return Ok(()),
            };
            from.names = names;
            requests(stream, Calls::new(router, identify.then_some(from)), limits, shutdown).await
        }
    }
}

/// The router, as hyper calls it.
struct Calls {
    router: Router,
    /// What each request is told of its connection.
    from: Option<Connection>,
    /// Told when a request's head has come.
    came: Arc<Notify>,
}

impl Calls {
    fn new(router: Router, from: Option<Connection>) -> Self {
        Self { router, from, came: Arc::default() }
    }
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = Oneshot<Router, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.came.notify_one();
        if let Some(from) = &self.from {
            request.extensions_mut().insert(from.clone());
        }
        self.router.clone().oneshot(request)
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    calls: Calls,
    limits: ServerLimits,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // A client that half-closes after its request still gets the reply.
        .half_close(true)
        .max_buf_size(64 << 10);
    let came = Arc::clone(&calls.came);
    let silent = async {
        if tokio::time::timeout(limits.first_head, came.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let connection = builder.serve_connection(TokioIo::new(stream), calls);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = silent => return Err("no request came in time".into()),
        () = shutdown.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
