//! Serving HTTP, over TLS or plain: connections bounded in number and patience, and a drain at the end.

mod bind;
mod places;

pub use bind::{BindError, bind};
pub use places::ConnectionMetrics;
pub(crate) use places::Place;

use crate::access::tls::{self, Shaken};
use crate::access::{Connection, Tls};
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use places::{Places, Room};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower::util::Oneshot;
use tracing::{debug, warn};

/// What bounds the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Most open connections.
    pub connections: usize,
    /// Most open connections of one client address; a v6 network of 64 bits counts as one.
    pub of_address: usize,
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
            of_address: 8192,
            first_head: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            stalled: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}

/// What is served.
#[derive(Clone)]
pub struct Serving {
    /// What answers requests.
    pub router: Router,
    /// TLS on all connections.
    pub tls: Option<Arc<Tls>>,
    /// What bounds it.
    pub limits: ServerLimits,
    /// What is counted of its connections.
    pub metrics: ConnectionMetrics,
}

/// Serves on all listeners until `shutdown`, then lets requests under way finish.
pub async fn serve(listeners: Vec<TcpListener>, serving: Serving, shutdown: CancellationToken) {
    let limits = serving.limits;
    let connections = TaskTracker::new();
    let room = Room {
        all: limits.connections,
        of_address: limits.of_address.min(limits.connections),
        handshakes: tls::HANDSHAKES_OF_ADDRESS,
    };
    let places = Places::new(room, serving.metrics.clone());
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| accept(listener, serving.clone(), connections.clone(), Arc::clone(&places), shutdown.clone()))
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
    places: Arc<Places>,
    shutdown: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = places.take(peer.ip()) else {
                    debug!(%peer, "there is no room for another connection");
                    continue;
                };
                let place = Arc::new(place);
                let connection = connection(stream, peer, Arc::clone(&place), serving.clone(), shutdown.clone());
                connections.spawn(async move {
                    let ended = tokio::select! {
                        ended = connection => ended,
                        () = place.evicted() => Err("it gave way to a newer one".into()),
                    };
                    if let Err(error) = ended {
                        debug!(%peer, %error, "connection ended");
                    }
                });
            }
            // Out of file descriptors, or the client left: a pause keeps this from spinning.
            Err(error) => {
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
    place: Arc<Place>,
    serving: Serving,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    let Serving { router, tls, limits, .. } = serving;
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
    let mut from = Connection { address: peer.ip(), certificate: None, place };
    match tls {
        None => requests(stream, Calls::new(router, from), limits, shutdown).await,
        Some(tls) => {
            let place = Arc::clone(&from.place);
            let Shaken { stream, shown } = tokio::select! {
                shaken = tls.accept(stream, place.handshakes()) => shaken?,
                () = shutdown.cancelled() => return Ok(()),
            };
            from.certificate = shown;
            requests(stream, Calls::new(router, from), limits, shutdown).await
        }
    }
}

/// The router, as hyper calls it.
struct Calls {
    router: Router,
    /// What each request is told of its connection.
    from: Connection,
    /// Told when a request's head has come.
    came: Arc<Notify>,
}

impl Calls {
    fn new(router: Router, from: Connection) -> Self {
        Self { router, from, came: Arc::default() }
    }
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = Oneshot<Router, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.came.notify_one();
        request.extensions_mut().insert(self.from.clone());
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
    let superseded = calls.from.certificate.as_ref().map(|shown| shown.superseded.clone());
    let superseded = async {
        match superseded {
            Some(superseded) => superseded.cancelled().await,
            None => std::future::pending().await,
        }
    };
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
        // Its certificate is to be judged by the CA that is in force now: on a new connection.
        () = superseded => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}

#[cfg(test)]
mod tests;
