//! Upstreams over other transports than UDP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use fingerpost_dns::forward::{Config, Forward, ForwardError, Target};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use scripted::*;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "www.example.com.";

/// A certificate for `dns.example` and 127.0.0.1, by an authority of its own in a file.
fn certificate(folder: &Path) -> (TlsAcceptor, std::path::PathBuf) {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let names = vec!["dns.example".to_owned(), "127.0.0.1".to_owned()];
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let path = folder.join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"dot".to_vec(), b"h2".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), path)
}

fn one_address(packet: &[u8]) -> Vec<u8> {
    let message = Message::from_vec(packet).unwrap();
    let question = &message.queries[0];
    let seen =
        Seen { name: question.name().to_string(), qtype: question.query_type(), tcp: true, message: message.clone() };
    if is_probe(&seen) {
        return negative(&seen, ResponseCode::NXDomain, Some(soa(".", 60, 60)));
    }
    with(&seen, &[a(&seen.name, 60, [192, 0, 2, 44])])
}

/// A server over TLS; it closes every connection after some questions.
async fn over_tls(acceptor: TlsAcceptor, questions: usize) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            for _ in 0..questions {
                let Ok(length) = stream.read_u16().await else { break };
                let mut packet = vec![0; usize::from(length)];
                stream.read_exact(&mut packet).await.unwrap();
                let answer = one_address(&packet);
                let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
                stream.write_all(&framed).await.unwrap();
            }
            let _ = stream.shutdown().await;
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn over_tls_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, ca) = certificate(folder.path());
    let (address, _tasks) = over_tls(acceptor, 3).await;
    let config = |name: Option<&str>, ca: Option<&Path>| Config {
        upstreams: vec![Target::Tls { address, name: name.map(str::to_owned) }],
        ca: ca.map(Path::to_owned),
        ..Config::default()
    };
    for name in [None, Some("dns.example")] {
        let server = Forwarding::start(config(name, Some(&ca)));
        // Over several connections, as the server closes them.
        for n in 0..10 {
            assert_eq!(server.addresses(&format!("n{n}.example.")).await, ["192.0.2.44"], "{n}");
        }
        server.stop().await;
    }
    for config in [config(Some("other.example"), Some(&ca)), config(None, None)] {
        let server = Forwarding::start(config);
        let reply = server.resolve(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let label = format!("tls://{address}");
        assert!(server.forward.states()[0].upstream.starts_with(&label));
        server.stop().await;
    }
}

/// A server over HTTPS; each connection answers as many questions as the function says, and none after those.
async fn over_https(acceptor: TlsAcceptor, answers: fn(usize) -> usize) -> (u16, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let left = Arc::new(AtomicUsize::new(answers(count.fetch_add(1, SeqCst))));
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let left = left.clone();
                async move {
                    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/dns-query"));
                    assert_eq!(request.headers()["content-type"], "application/dns-message");
                    let packet = request.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(packet[..2], [0, 0]);
                    let answer = one_address(&packet);
                    let probe = Message::from_vec(&answer).unwrap().answers.is_empty();
                    if left.load(SeqCst) == 0 {
                        std::future::pending::<()>().await;
                    }
                    left.fetch_sub(usize::from(!probe), SeqCst);
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(Bytes::from(answer))))
                }
            });
            connections.spawn(async move {
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, opened, tasks)
}

#[tokio::test]
async fn a_connection_over_https_that_fell_silent_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, ca) = certificate(folder.path());
    let (port, opened, _tasks) = over_https(acceptor, |connection| if connection == 0 { 1 } else { 100 }).await;
    let upstreams = vec![format!("https://127.0.0.1:{port}/dns-query").parse().unwrap()];
    let server = Forwarding::start(Config { upstreams, ca: Some(ca), ..Config::default() });
    assert_eq!(server.addresses("a.example.").await, ["192.0.2.44"]);
    let ask = async |name| assert_eq!(server.addresses(name).await, ["192.0.2.44"], "{name}");
    tokio::join!(ask("b.example."), ask("c.example."), ask("d.example."));
    assert_eq!(opened.load(SeqCst), 2);
    server.stop().await;
}

#[tokio::test]
async fn over_https_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, ca) = certificate(folder.path());
    let (port, _, _tasks) = over_https(acceptor, |_| usize::MAX).await;
    // The name's address is asked of a plain upstream, which knows nothing else.
    let plain = Upstream::start(|seen| match (seen.name.as_str(), seen.qtype) {
        ("dns.example.", RecordType::A) => vec![with(seen, &[a(&seen.name, 60, [127, 0, 0, 1])])],
        _ => vec![negative(seen, ResponseCode::NoError, Some(soa("example.", 60, 60)))],
    })
    .await;
    let https: Target = format!("https://dns.example:{port}/dns-query").parse().unwrap();
    let only = Config { upstreams: vec![https.clone()], ca: Some(ca.clone()), ..Config::default() };
    assert!(matches!(Forward::open(only), Err(ForwardError::Bootstrap(_))));
    let mut config = Config { ca: Some(ca.clone()), ..asking(&[&plain]) };
    config.upstreams.insert(0, https);
    let server = Forwarding::start(config);
    for n in 0..5 {
        assert_eq!(server.addresses(&format!("n{n}.example.")).await, ["192.0.2.44"]);
    }
    assert_eq!(plain.count("n0.example."), 0);
    server.stop().await;
    let address = format!("https://127.0.0.1:{port}/dns-query").parse().unwrap();
    let server = Forwarding::start(Config { upstreams: vec![address], ca: Some(ca), ..Config::default() });
    assert_eq!(server.addresses(NAME).await, ["192.0.2.44"]);
    server.stop().await;
}

/// A server over TCP whose first connection falls silent after one answer, and takes all further questions.
async fn falling_silent() -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (opened, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    let count = opened.clone();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let first = count.fetch_add(1, SeqCst) == 0;
            connections.spawn(async move {
                let mut silent = false;
                while let Ok(length) = stream.read_u16().await {
                    let mut packet = vec![0; usize::from(length)];
                    stream.read_exact(&mut packet).await.unwrap();
                    if silent {
                        continue;
                    }
                    let answer = one_address(&packet);
                    stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).await.unwrap();
                    silent = first && !Message::from_vec(&answer).unwrap().answers.is_empty();
                }
            });
        }
    });
    (address, opened, tasks)
}

#[tokio::test]
async fn a_connection_that_fell_silent_is_given_up() {
    let (address, opened, _tasks) = falling_silent().await;
    let server = Forwarding::start(Config { upstreams: vec![Target::Tcp(address)], ..Config::default() });
    assert_eq!(server.addresses("a.example.").await, ["192.0.2.44"]);
    // Whoever asks next waits for a while, but not in vain, however many ask.
    let ask = async |name| assert_eq!(server.addresses(name).await, ["192.0.2.44"], "{name}");
    tokio::join!(ask("b.example."), ask("c.example."), ask("d.example."));
    assert_eq!(opened.load(SeqCst), 2);
    server.stop().await;
}

#[tokio::test]
async fn over_tcp_alone() {
    let upstream = Upstream::start(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 80])])]).await;
    let server = Forwarding::start(Config { upstreams: vec![Target::Tcp(upstream.address)], ..Config::default() });
    assert_eq!(server.addresses(NAME).await, ["192.0.2.80"]);
    assert!(upstream.seen().iter().all(|seen| seen.tcp));
    server.stop().await;
}
