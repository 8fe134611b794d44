//! The probes against real servers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::get;
use fingerpost_catalog::{Check, Health};
use fingerpost_registry::checks::{NetworkProbe, Outcome, Probe, Tls};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use hyper_util::rt::TokioIo;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

fn check(json: serde_json::Value) -> Arc<Check> {
    let mut whole = json!({"name": "up"});
    for (field, value) in json.as_object().unwrap() {
        whole[field] = value.clone();
    }
    Arc::new(serde_json::from_value(whole).unwrap())
}

async fn run_with(tls: Tls, target: SocketAddr, json: serde_json::Value) -> Outcome {
    let looking = NetworkProbe::new(tls).run(check(json), target);
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("in time")
}

async fn run(target: SocketAddr, json: serde_json::Value) -> Outcome {
    run_with(Tls::new(Vec::new()), target, json).await
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Where nobody listens.
async fn nowhere() -> SocketAddr {
    listener().await.1
}

async fn web() -> SocketAddr {
    // What was sent shows in the status: nothing else of a reply does.
    async fn asked(uri: Uri, headers: HeaderMap) -> StatusCode {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let named = header("host") == "web.example" && header("x-deep") == "yes" && uri.query() == Some("a=b");
        let plain = header("host").starts_with("127.0.0.1:") && header("x-deep") == "-" && uri.query().is_none();
        match (header("user-agent").starts_with("fingerpost-check/"), named, plain) {
            (true, true, _) => StatusCode::ACCEPTED,
            (true, _, true) => StatusCode::CREATED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
    let router = Router::new()
        .route("/", get(|| async { "fine" }))
        .route("/asked", get(asked))
        .route("/busy", get(|| async { (StatusCode::TOO_MANY_REQUESTS, "later\r\n\x1b[31m") }))
        .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/")], "") }))
        .route("/large", get(|| async { (StatusCode::BAD_GATEWAY, "x".repeat(10 << 20)) }));
    let (listener, address) = listener().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn http() {
    let target = web().await;
    let http = |path: &str| json!({"type": "http", "path": path});
    let fine = run(target, http("/")).await;
    assert_eq!((fine.health, &*fine.note), (Health::Passing, "HTTP 200"));
    assert_eq!(run(target, json!({"type": "http", "method": "HEAD"})).await.health, Health::Passing);
    let busy = run(target, http("/busy")).await;
    assert_eq!((busy.health, &*busy.note), (Health::Warning, "HTTP 429"));
    let moved = run(target, http("/moved")).await;
    assert_eq!((moved.health, &*moved.note), (Health::Critical, "HTTP 302"), "nobody follows");
    let large = run(target, http("/large")).await;
    assert_eq!((large.health, large.note.len()), (Health::Critical, 8), "nothing of the body");
    assert_eq!(run(target, http("/none")).await.health, Health::Critical);
    let expected = json!({"type": "http", "path": "/none", "expect": [404]});
    assert_eq!(run(target, expected).await.health, Health::Passing);
    let named = json!({"type": "http", "path": "/asked?a=b", "host": "web.example", "headers": {"X-Deep": "yes"}});
    assert_eq!(run(target, named).await.note, "HTTP 202");
    assert_eq!(run(target, http("/asked")).await.note, "HTTP 201");
    let refused = run(nowhere().await, http("/")).await;
    assert!(refused.health == Health::Critical && refused.note.ends_with("connection refused"), "{}", refused.note);
}

#[tokio::test]
async fn what_speaks_no_http() {
    let (listener, target) = listener().await;
    tokio::spawn(async move {
        for answer in [&b""[..], b"220 mail.example ESMTP\r\n", b"HTTP/1.1 200 OK\r\nx: "] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 256];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer).await;
        }
        // One that never ends its head.
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 256]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").await.is_ok() {}
        // One whose body never does.
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 256]).await;
        let _ = stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n").await;
        while stream.write_all(b"no end ").await.is_ok() {}
        // And one that promises a body, sends none, and waits until the other side has gone.
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 256]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
        while stream.read(&mut [0; 256]).await.is_ok_and(|read| read > 0) {}
    });
    for _ in 0..4 {
        let outcome = run(target, json!({"type": "http"})).await;
        assert!(outcome.health == Health::Critical && outcome.note.starts_with("HTTP: "), "{}", outcome.note);
    }
    let endless = run(target, json!({"type": "http"})).await;
    assert_eq!((endless.health, &*endless.note), (Health::Critical, "HTTP 500"));
    let silent = run(target, json!({"type": "http"})).await;
    assert_eq!((silent.health, &*silent.note), (Health::Passing, "HTTP 200"));
}

#[tokio::test]
async fn tcp() {
    let (_listener, target) = listener().await;
    assert_eq!(run(target, json!({"type": "tcp"})).await.health, Health::Passing);
    let refused = run(nowhere().await, json!({"type": "tcp"})).await;
    assert!(refused.health == Health::Critical && refused.note.contains("connection refused"), "{}", refused.note);
}

/// A certificate for `web.example` and 127.0.0.1, and how to serve with it.
fn certificate(protocol: &[u8]) -> (rcgen::Certificate, TlsAcceptor) {
    let names = vec!["web.example".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let der = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    (made.cert, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn https() {
    let (trusted, acceptor) = certificate(b"http/1.1");
    let (listener, target) = listener().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    let trusting = || Tls::new(vec![trusted.der().clone()]);
    let https = |tls: serde_json::Value| json!({"type": "https", "tls": tls});
    let passing = |outcome: Outcome| assert_eq!((outcome.health, &*outcome.note), (Health::Passing, "HTTP 204"));
    passing(run_with(trusting(), target, https(json!({}))).await);
    passing(run_with(trusting(), target, https(json!({"serverName": "web.example"}))).await);
    passing(run_with(trusting(), target, json!({"type": "https", "host": "web.example:8443"})).await);
    passing(run(target, https(json!({"skipVerify": true}))).await);
    for (tls, check) in [
        (trusting(), https(json!({"serverName": "other.example"}))),
        (Tls::new(Vec::new()), https(json!({"serverName": "web.example"}))),
    ] {
        let refused = run_with(tls, target, check).await;
        assert!(refused.health == Health::Critical && refused.note.starts_with("TLS: "), "{}", refused.note);
    }
    // As a file: of any number of certificates, and refused where there is none.
    let file = tempfile::NamedTempFile::new().unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["other.example".to_owned()]).unwrap().cert.pem();
    std::fs::write(file.path(), format!("{other}{}", trusted.pem())).unwrap();
    passing(run_with(Tls::open(file.path()).unwrap(), target, https(json!({}))).await);
    for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"] {
        std::fs::write(file.path(), bad).unwrap();
        let refused = Tls::open(file.path()).err().expect("refused").to_string();
        assert!(refused.contains(file.path().to_str().unwrap()), "{bad}: {refused}");
    }
    let plain = web().await;
    assert!(run(plain, https(json!({"skipVerify": true}))).await.note.starts_with("TLS: "));
}

/// Serves the gRPC health protocol; the service `up` serves, `down` does not.
async fn health_server(tls: Option<TlsAcceptor>) -> SocketAddr {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    serve_grpc(tonic::service::Routes::new(service).into_axum_router(), tls).await
}

async fn serve_grpc(router: Router, tls: Option<TlsAcceptor>) -> SocketAddr {
    let (listener, target) = listener().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, service) = (tls.clone(), hyper_util::service::TowerToHyperService::new(router.clone()));
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = match tls {
                    None => builder.serve_connection(TokioIo::new(stream), service).await,
                    Some(tls) => {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        builder.serve_connection(TokioIo::new(stream), service).await
                    }
                };
            });
        }
    });
    target
}

#[tokio::test]
async fn grpc() {
    let target = health_server(None).await;
    let grpc = |service: Option<&str>| json!({"type": "grpc", "service": service});
    let ok = run(target, grpc(None)).await;
    assert_eq!((ok.health, &*ok.note), (Health::Passing, "SERVING"));
    assert_eq!(run(target, grpc(Some("up"))).await.health, Health::Passing);
    let down = run(target, grpc(Some("down"))).await;
    assert_eq!((down.health, &*down.note), (Health::Critical, "NOT_SERVING"));
    let none = run(target, grpc(Some("none"))).await;
    assert_eq!((none.health, &*none.note), (Health::Critical, "the server knows no service `none`"));
    let other = serve_grpc(tonic::service::Routes::default().into_axum_router(), None).await;
    let other = run(other, grpc(None)).await;
    assert!(other.health == Health::Critical && other.note.contains("does not speak"), "{}", other.note);
    let refused = run(nowhere().await, grpc(None)).await;
    assert!(refused.note.ends_with("connection refused"), "{}", refused.note);
    let web = run(web().await, grpc(None)).await;
    assert!(web.health == Health::Critical && web.note.contains("does not speak"), "{}", web.note);
    // What else a server says may be anything.
    let talkative = |status: &'static str| async move {
        [("content-type", "application/grpc"), ("grpc-status", status), ("grpc-message", "the password is 1234")]
    };
    let path = "/grpc.health.v1.Health/Check";
    for (status, note) in [("7", "gRPC PERMISSION_DENIED"), ("14", "gRPC UNAVAILABLE"), ("99", "gRPC UNKNOWN")] {
        let router = Router::new().route(path, axum::routing::post(move || talkative(status)));
        let said = run(serve_grpc(router, None).await, grpc(None)).await;
        assert_eq!((said.health, &*said.note), (Health::Critical, note));
    }
    let (silent, target) = listener().await;
    let refused = tokio::spawn(async move { drop(silent.accept().await) });
    let cut = run(target, grpc(None)).await;
    assert!(cut.health == Health::Critical && cut.note.starts_with("gRPC"), "{}", cut.note);
    refused.await.unwrap();

    let (trusted, acceptor) = certificate(b"h2");
    let target = health_server(Some(acceptor)).await;
    let tls = |tls: serde_json::Value| json!({"type": "grpc", "service": "up", "tls": tls});
    let trusting = Tls::new(vec![trusted.der().clone()]);
    assert_eq!(run_with(trusting, target, tls(json!({"serverName": "web.example"}))).await.health, Health::Passing);
    assert_eq!(run(target, tls(json!({"skipVerify": true}))).await.health, Health::Passing);
    let refused = run(target, tls(json!({}))).await;
    assert!(refused.health == Health::Critical && refused.note.starts_with("TLS: "), "{}", refused.note);
}

/// The answer to a query for a name that says what it shall be.
fn answer(packet: &[u8], over_tcp: bool) -> Vec<u8> {
    let question = Message::from_vec(packet).unwrap();
    let mut message = question.clone();
    message.metadata.message_type = MessageType::Response;
    let query = question.queries[0].clone();
    let first = query.name().to_string();
    let record = || Record::from_rdata(query.name().clone(), 5, RData::A(A::new(10, 0, 0, 1)));
    match first.split('.').next().unwrap() {
        "fine" => message.answers = vec![record()],
        "two" => message.answers = vec![record(), record()],
        "truncated" if !over_tcp => message.metadata.truncation = true,
        "truncated" => message.answers = vec![record()],
        "none" => message.metadata.response_code = ResponseCode::NXDomain,
        "broken" => message.metadata.response_code = ResponseCode::ServFail,
        "foreign" => message.metadata.id = message.metadata.id.wrapping_add(1),
        _ => {}
    }
    message.to_vec().unwrap()
}

#[tokio::test]
async fn dns() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = socket.local_addr().unwrap();
    let listener = TcpListener::bind(target).await.unwrap();
    tokio::spawn(async move {
        let (mut buffer, mut heard) = ([0; 1500], 0);
        loop {
            let (size, from) = socket.recv_from(&mut buffer).await.unwrap();
            heard += 1;
            // The first packet is lost.
            if heard > 1 {
                let _ = socket.send_to(&answer(&buffer[..size], false), from).await;
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let size = stream.read_u16().await.unwrap();
            let mut packet = vec![0; usize::from(size)];
            stream.read_exact(&mut packet).await.unwrap();
            let answer = answer(&packet, true);
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    let ask = |name: &str| run(target, json!({"type": "dns", "query": format!("{name}.example.")}));
    for (name, health, note) in [
        ("fine", Health::Passing, "NOERROR, 1 record"),
        ("two", Health::Passing, "NOERROR, 2 records"),
        ("truncated", Health::Passing, "NOERROR, 1 record"),
        ("empty", Health::Critical, "NOERROR, but no record of type A"),
        ("none", Health::Critical, "NXDOMAIN"),
        ("broken", Health::Critical, "SERVFAIL"),
    ] {
        let outcome = ask(name).await;
        assert_eq!((outcome.health, &*outcome.note), (health, note), "{name}");
    }
    let other = json!({"type": "dns", "query": "fine.example", "recordType": "AAAA"});
    assert_eq!(run(target, other).await.note, "NOERROR, but no record of type AAAA");
    // An answer to another question is none.
    let foreign =
        NetworkProbe::new(Tls::new(Vec::new())).run(check(json!({"type": "dns", "query": "foreign.x"})), target);
    assert!(tokio::time::timeout(Duration::from_secs(2), foreign).await.is_err());
    let refused = run(nowhere().await, json!({"type": "dns", "query": "fine.example"})).await;
    assert!(refused.note.ends_with("connection refused"), "{}", refused.note);
}
