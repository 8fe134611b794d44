//! The server on real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_dns::query::query;
use fingerpost_dns::{Config, Index, Limits, Listen, Server};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "db.prod.svc.cluster.local";

struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

fn index(count: usize) -> Arc<Index> {
    let dns = Dns::with(Config::default());
    let instances: Vec<_> = (0..count)
        .map(|n| instance("prod", "db", &format!("db-{n}"), &[&format!("10.1.{}.{}", n / 250, n % 250)]))
        .collect();
    dns.load(&[headless("prod", "db", &[port("sql", 5432)])], &instances);
    dns.index.set_synced(at(1));
    dns.index
}

fn start(listen: Listen, count: usize) -> Running {
    let shutdown = CancellationToken::new();
    let server = Server::bind(index(count), listen, shutdown.clone()).unwrap();
    assert_eq!(server.udp_addresses(), server.tcp_addresses());
    let address = server.udp_addresses()[0];
    Running { address, shutdown, task: tokio::spawn(server.run()) }
}

fn local() -> Listen {
    Listen { workers: 2, ..Listen::on(&["127.0.0.1:0".parse().unwrap()]) }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(10 * SECOND, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn framed(name: &str, qtype: RecordType, id: u16) -> Vec<u8> {
    let mut message = question(name, qtype);
    message.metadata.id = id;
    let packet = message.to_vec().unwrap();
    [&(packet.len() as u16).to_be_bytes()[..], &packet].concat()
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<Message> {
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    Ok(Message::from_vec(&packet).unwrap())
}

#[tokio::test]
async fn answers_over_udp_and_turns_to_tcp() {
    let few = start(local(), 3);
    let reply = query(few.address, NAME, "a", SECOND).await.unwrap();
    assert_eq!((reply.rcode.as_str(), reply.answers.len(), reply.tcp), ("NOERROR", 3, false));
    assert!(reply.authoritative && reply.answers[0].to_string().contains(" 5 IN A 10.1.0."));
    assert_eq!(query(few.address, "x.cluster.local", "A", SECOND).await.unwrap().rcode, "NXDOMAIN");
    assert!(query(few.address, NAME, "NONSENSE", SECOND).await.is_err());
    few.stop().await;
    let many = start(local(), 300);
    let reply = query(many.address, NAME, "A", SECOND).await.unwrap();
    assert_eq!((reply.answers.len(), reply.tcp, reply.truncated), (300, true, false));
    let address = many.address;
    many.stop().await;
    let error = query(address, NAME, "A", SECOND / 4).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

impl Running {
    async fn pipeline(&self, count: u16, half_close: bool) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let queries: Vec<u8> = (0..count).flat_map(|id| framed(NAME, RecordType::A, id)).collect();
        let (mut read, mut write) = stream.split();
        let sender = async {
            write.write_all(&queries).await.unwrap();
            if half_close {
                write.shutdown().await.unwrap();
            }
        };
        let receiver = async {
            for id in 0..count {
                let mut packet = vec![0; usize::from(read.read_u16().await.unwrap())];
                read.read_exact(&mut packet).await.unwrap();
                let reply = Message::from_vec(&packet).unwrap();
                assert_eq!((reply.metadata.id, reply.answers.len()), (id, 200));
            }
            if half_close {
                assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
            }
        };
        tokio::join!(sender, receiver);
    }
}

#[tokio::test]
async fn tcp_pipelines_and_half_closed_clients() {
    let server = start(local(), 200);
    server.pipeline(500, false).await;
    server.pipeline(500, true).await;
    // One octet at a time, the last ones after a pause.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for octet in framed(NAME, RecordType::A, 9) {
        stream.write_all(&[octet]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 9);
    server.stop().await;
}

#[tokio::test]
async fn tcp_carries_64_kib() {
    let server = start(local(), 10_000);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&framed(NAME, RecordType::A, 1)).await.unwrap();
    let reply = receive(&mut stream).await.unwrap();
    assert!(reply.answers.len() > 4000 && !reply.metadata.truncation);
    // The largest query: a length of 65535, malformed behind its question.
    let mut packet = framed(NAME, RecordType::A, 2)[2..].to_vec();
    packet.resize(65_535, 0);
    stream.write_all(&65_535u16.to_be_bytes()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    assert_eq!(receive(&mut stream).await.unwrap().metadata.id, 2);
    server.stop().await;
}

#[tokio::test]
async fn tcp_clients_that_take_too_long_are_cut_off() {
    let limits = Limits { idle: SECOND / 2, transfer: SECOND / 4, ..Limits::default() };
    let server = start(Listen { limits, ..local() }, 10_000);
    let began = Instant::now();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() >= SECOND / 2);
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(&[0]).await.unwrap();
    let began = Instant::now();
    assert_eq!(slow.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() < SECOND / 2);
    // Asks for much, and takes nothing: its end comes when the buffers between are full.
    let mut greedy = TcpStream::connect(server.address).await.unwrap();
    let queries: Vec<u8> = (0..200).flat_map(|id| framed(NAME, RecordType::A, id)).collect();
    let sent = async {
        loop {
            if greedy.write_all(&queries).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(20 * SECOND, sent).await.expect("the connection to be closed");
    server.stop().await;
}

#[tokio::test]
async fn tcp_connections_are_limited() {
    let limits = Limits { connections: 3, connections_per_client: 2, ..Limits::default() };
    let server = start(Listen { limits, ..local() }, 1);
    let mut open = Vec::new();
    for id in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&framed(NAME, RecordType::A, id)).await.unwrap();
        receive(&mut stream).await.unwrap();
        open.push(stream);
    }
    let mut refused = TcpStream::connect(server.address).await.unwrap();
    let _ = refused.write_all(&framed(NAME, RecordType::A, 3)).await;
    assert!(receive(&mut refused).await.is_err());
    drop(open);
    tokio::time::sleep(SECOND / 5).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&framed(NAME, RecordType::A, 4)).await.unwrap();
    receive(&mut stream).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_wildcard_answers_from_the_address_that_was_asked() {
    let server = start(Listen { workers: 1, ..Listen::on(&["0.0.0.0:0".parse().unwrap()]) }, 3);
    for host in ["127.0.0.1", "127.9.8.7"] {
        // The helper's socket is connected and takes answers from that address alone.
        let to = SocketAddr::new(ip(host), server.address.port());
        assert_eq!(query(to, NAME, "A", SECOND).await.unwrap().answers.len(), 3, "{host}");
    }
    server.stop().await;
    if std::net::UdpSocket::bind("[::1]:0").is_ok() {
        let server = start(Listen { workers: 1, ..Listen::on(&["[::]:0".parse().unwrap()]) }, 3);
        let to = SocketAddr::new(ip("::1"), server.address.port());
        assert_eq!(query(to, NAME, "A", SECOND).await.unwrap().answers.len(), 3);
        server.stop().await;
    }
}

#[tokio::test]
async fn taken_ports_are_told_with_the_way_out() {
    let first = start(local(), 1);
    let error = Server::bind(index(1), Listen::on(&[first.address]), CancellationToken::new()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("udp {}", first.address)) && text.contains("ss -lnp"), "{text}");
    let udp_free = Listen { udp: Vec::new(), ..Listen::on(&[first.address]) };
    let text = Server::bind(index(1), udp_free, CancellationToken::new()).unwrap_err().to_string();
    assert!(text.contains(&format!("tcp {}", first.address)), "{text}");
    let address = first.address;
    first.stop().await;
    // Free again at once.
    start(Listen::on(&[address]), 1).stop().await;
    let foreign = Listen::on(&["192.0.2.1:5353".parse().unwrap()]);
    let text = Server::bind(index(1), foreign, CancellationToken::new()).unwrap_err().to_string();
    assert!(text.contains("ip address"), "{text}");
}

#[tokio::test]
async fn what_had_arrived_is_answered_before_the_end() {
    let server = start(Listen { workers: 1, ..local() }, 1);
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(server.address).await.unwrap();
    let packet = question(NAME, RecordType::A).to_vec().unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..50 {
        client.send(&packet).await.unwrap();
    }
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < 2 * SECOND, "an idle connection does not hold the end up");
    let mut buffer = [0; 512];
    for _ in 0..50 {
        tokio::time::timeout(SECOND, client.recv(&mut buffer)).await.unwrap().unwrap();
    }
    assert_eq!(idle.read(&mut buffer).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn counts_what_it_does() {
    let shutdown = CancellationToken::new();
    let server = Server::bind(index(300), local(), shutdown.clone()).unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    server.metrics().register(&mut registry);
    let address = server.udp_addresses()[0];
    let task = tokio::spawn(server.run());
    query(address, NAME, "A", SECOND).await.unwrap();
    query(address, "x.cluster.local", "AAAA", SECOND).await.unwrap();
    query(address, NAME, "CAA", SECOND).await.unwrap();
    query(address, "9.9.9.10.in-addr.arpa", "PTR", SECOND).await.unwrap();
    query(address, "example.com", "A", SECOND).await.unwrap();
    let raw = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    raw.send_to(&[0; 12], address).await.unwrap();
    let mut buffer = [0; 512];
    raw.recv(&mut buffer).await.unwrap();
    assert_eq!(buffer[3] & 15, u16::from(ResponseCode::FormErr) as u8);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "fingerpost_dns_requests_total{proto=\"udp\",family=\"1\",type=\"A\"} 2",
        "fingerpost_dns_requests_total{proto=\"tcp\",family=\"1\",type=\"A\"} 1",
        "fingerpost_dns_requests_total{proto=\"udp\",family=\"1\",type=\"AAAA\"} 1",
        "fingerpost_dns_requests_total{proto=\"udp\",family=\"1\",type=\"other\"} 1",
        "fingerpost_dns_requests_total{proto=\"udp\",family=\"2\",type=\"A\"} 0",
        "fingerpost_dns_responses_total{zone=\"cluster.local.\",rcode=\"NOERROR\"} 3",
        "fingerpost_dns_responses_total{zone=\"cluster.local.\",rcode=\"NXDOMAIN\"} 1",
        "fingerpost_dns_responses_total{zone=\"reverse\",rcode=\"NXDOMAIN\"} 1",
        "fingerpost_dns_responses_total{zone=\"none\",rcode=\"REFUSED\"} 1",
        "fingerpost_dns_responses_total{zone=\"none\",rcode=\"FORMERR\"} 1",
        "fingerpost_dns_truncated_responses_total 1",
        "fingerpost_dns_malformed_packets_total 1",
        "fingerpost_dns_instances 300",
        "fingerpost_dns_synced 1",
        "fingerpost_dns_request_duration_seconds_count",
        "le=\"+Inf\"",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
