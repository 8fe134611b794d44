//! The query log: what its lines say, that names can't break them, and that the file may be moved away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_dns::query::query;
use fingerpost_dns::{Config, Listen, LogTarget, QueryLog, Server};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    log: Arc<QueryLog>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
    metrics: prometheus_client::registry::Registry,
}

fn start(path: &Path, sample: u32) -> Running {
    let dns = Dns::with(Config { aliases: vec!["example.org".parse().unwrap()], ..Config::default() });
    dns.load(&[cluster_ip("prod", "web", &["10.96.0.1"], &[])], &[]);
    dns.index.set_synced(at(1));
    let log = Arc::new(QueryLog::open(LogTarget::File(path.to_owned()), sample).unwrap());
    let on = Listen::on(&["127.0.0.1:0".parse().unwrap()]);
    let listen = Listen { workers: 2, query_log: Some(log.clone()), ..on };
    let shutdown = CancellationToken::new();
    let server = Server::bind(dns.index, listen, shutdown.clone()).unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    server.metrics().register(&mut metrics);
    Running { address: server.udp_addresses()[0], log, shutdown, task: tokio::spawn(server.run()), metrics }
}

impl Running {
    /// Ends the server, by which all is written.
    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    async fn written(&self, count: u64) {
        let all = async {
            while self.log.written() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_line_says_what_was_asked_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries");
    let server = start(&path, 1);
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(server.address).await.unwrap();
    let mut odd = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    odd.extend_from_slice(b"\x08a\"b\n.\\\xffZ\x00\x00\x41\x00\x01");
    let mut buffer = [0; 512];
    for packet in [&odd[..], &[0; 12]] {
        client.send(packet).await.unwrap();
        tokio::time::timeout(PATIENCE, client.recv(&mut buffer)).await.unwrap().unwrap();
    }
    for (name, qtype) in
        [("Web.prod.svc.cluster.local", "A"), ("web.prod.svc.example.org", "CAA"), ("9.9.9.10.in-addr.arpa", "PTR")]
    {
        query(server.address, name, qtype, PATIENCE).await.unwrap();
    }
    let mut text = String::new();
    server.written(5).await;
    prometheus_client::encoding::text::encode(&mut text, &server.metrics).unwrap();
    assert!(text.contains("fingerpost_dns_query_log_entries_total 5"), "{text}");
    assert!(text.contains("fingerpost_dns_query_log_dropped_total 0"), "{text}");
    let own = client.local_addr().unwrap().to_string();
    server.stop().await;

    let lines = lines(&path);
    assert_eq!(lines.len(), 5);
    let of = |name: &str| lines.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("{name}: {lines:?}"));
    let line = of("a\"b\\010\\.\\\\\\255Z.");
    assert_eq!((&line["client"], &line["rcode"], &line["type"]), (&own.into(), &"REFUSED".into(), &"HTTPS".into()));
    assert!(line.get("zone").is_none());
    let line = of("Web.prod.svc.cluster.local.");
    assert_eq!((&line["transport"], &line["type"], &line["rcode"]), (&"udp".into(), &"A".into(), &"NOERROR".into()));
    assert_eq!((&line["answers"], &line["zone"]), (&1.into(), &"cluster.local".into()));
    assert_eq!(line["flags"], serde_json::json!(["aa", "rd", "edns"]));
    assert!(line["microseconds"].as_f64().unwrap() > 0.0 && line["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(of("web.prod.svc.example.org.")["zone"], "example.org");
    assert_eq!(of("9.9.9.10.in-addr.arpa.")["zone"], "reverse");
    let unread = lines.iter().find(|line| line["name"].is_null()).unwrap();
    assert_eq!((&unread["rcode"], &unread["type"]), (&"FORMERR".into(), &Value::Null));
}

#[tokio::test]
async fn one_in_so_many_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries");
    let server = start(&path, 10);
    for _ in 0..400 {
        query(server.address, "cluster.local", "SOA", PATIENCE).await.unwrap();
    }
    server.stop().await;
    let count = lines(&path).len();
    // 40 are expected; what lies outside of this is a matter of once in many millions.
    assert!((5..=100).contains(&count), "{count}");
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("queries"), folder.path().join("queries.1"));
    let server = start(&path, 1);
    query(server.address, "one.cluster.local", "A", PATIENCE).await.unwrap();
    server.written(1).await;
    std::fs::rename(&path, &moved).unwrap();
    server.log.reopen();
    let there = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.unwrap();
    query(server.address, "two.cluster.local", "A", PATIENCE).await.unwrap();
    server.written(2).await;
    // Removed, without a word.
    std::fs::remove_file(&path).unwrap();
    let there = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.unwrap();
    query(server.address, "three.cluster.local", "A", PATIENCE).await.unwrap();
    server.stop().await;
    assert_eq!(lines(&moved)[0]["name"], "one.cluster.local.");
    assert_eq!(lines(&path)[0]["name"], "three.cluster.local.");
    assert!(QueryLog::open(LogTarget::File(folder.path().join("no/such/folder")), 1).is_err());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_drops_and_answers() {
    let server = start(Path::new("/dev/full"), 1);
    for _ in 0..20 {
        assert_eq!(query(server.address, "cluster.local", "SOA", PATIENCE).await.unwrap().rcode, "NOERROR");
    }
    let log = server.log.clone();
    server.stop().await;
    assert_eq!((log.written(), log.dropped()), (0, 20));
}
