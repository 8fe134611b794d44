//! Connections beyond what there is room for, over real sockets.

use super::*;
use crate::access::{Access, Authenticator};
use crate::members::Secret;
use axum::middleware;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of two routes, one of them public, where anybody may call the other.
async fn start(connections: usize, of_address: usize) -> (SocketAddr, Registry, tokio_util::sync::DropGuard) {
    let access = Arc::new(Access::new(Authenticator::Open, false, &mut Registry::default()));
    let guard = move |request, next| {
        let access = Arc::clone(&access);
        async move { access.guard(|| Secret([].into()), request, next).await }
    };
    let router = Router::new()
        .route("/v1/status", get(|| async { "status" }))
        .route("/livez", get(|| async { "livez" }))
        .layer(middleware::from_fn(guard));
    let (metrics, mut registry) = (ConnectionMetrics::default(), Registry::default());
    metrics.register(&mut registry);
    let limits = ServerLimits { connections, of_address, first_head: PATIENCE * 2, ..ServerLimits::default() };
    let listener = bind(&[([127, 0, 0, 1], 0).into()], "--http-listen").unwrap().remove(0);
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = Serving { router, tls: None, limits, metrics };
    tokio::spawn(serve(vec![listener], serving, shutdown.clone()));
    (address, registry, shutdown.drop_guard())
}

async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, from], 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Asks for a path; what is answered, or nothing where the connection is closed.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut answer = [0; 1024];
    let read = async {
        stream.write_all(request.as_bytes()).await.ok()?;
        stream.read(&mut answer).await.ok()
    };
    let length = tokio::time::timeout(PATIENCE, read).await.expect("an answer, or the end").unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

async fn ended(stream: &mut TcpStream) {
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("the connection is ended");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[tokio::test]
async fn who_takes_many_connections_takes_their_own() {
    let (address, registry, _running) = start(8, 4).await;
    let mut used = connect(2, address).await;
    assert!(ask(&mut used, "/v1/status").await.contains("status"));
    let mut public = connect(2, address).await;
    assert!(ask(&mut public, "/livez").await.contains("livez"));
    // Two idle ones fill the share; the next takes the place of the oldest that was of no use yet.
    let mut idle = vec![connect(2, address).await, connect(2, address).await];
    let mut new = connect(2, address).await;
    assert!(ask(&mut new, "/v1/status").await.contains("status"));
    ended(&mut public).await;
    let mut newer = connect(2, address).await;
    assert!(ask(&mut newer, "/v1/status").await.contains("status"));
    ended(&mut idle.remove(0)).await;
    assert!(ask(&mut idle[0], "/v1/status").await.contains("status"));
    // All of the share is of use now.
    ended(&mut connect(2, address).await).await;
    for stream in [&mut used, &mut new, &mut newer, &mut idle[0]] {
        assert!(ask(stream, "/v1/status").await.contains("status"));
    }
    assert!(ask(&mut connect(3, address).await, "/v1/status").await.contains("status"), "others have their own");
    let text = text(&registry);
    for line in [
        "fingerpost_http_connections_turned_away_total{what=\"evicted\",room=\"address\"} 2",
        "fingerpost_http_connections_turned_away_total{what=\"refused\",room=\"address\"} 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn a_full_server_has_room_for_whoever_comes_in() {
    let (address, registry, _running) = start(4, 4).await;
    let mut used = connect(2, address).await;
    assert!(ask(&mut used, "/v1/status").await.contains("status"));
    let mut idle = Vec::new();
    for from in [2, 3, 3] {
        idle.push(connect(from, address).await);
    }
    let mut new = connect(4, address).await;
    assert!(ask(&mut new, "/v1/status").await.contains("status"));
    ended(&mut idle[0]).await;
    assert!(ask(&mut used, "/v1/status").await.contains("status"));
    let text = text(&registry);
    assert!(
        text.contains("{what=\"evicted\",room=\"all\"} 1") && text.contains("fingerpost_http_connections 4"),
        "{text}"
    );
}
