//! Registered services over DNS, asked as clients ask.

use fingerpost_tests::{Server, output_of};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

async fn names(server: &Server, name: &str, qtype: &str) -> (String, Vec<String>) {
    let reply = server.ask(name, qtype).await;
    let mut data: Vec<String> =
        reply.answers.iter().map(|line| format!("{} {}", line.record_type, line.data)).collect();
    data.sort();
    (reply.rcode, data)
}

#[tokio::test]
async fn a_write_is_answered_before_its_reply() {
    let server = Server::start();
    for n in 1..=50u8 {
        let address = format!("10.0.0.{n}");
        let path = "/v1/namespaces/prod/services/web/instances/web-1";
        assert!(server.put(path, json!({"addresses": [address]})).await.status < 300);
        let (rcode, data) = names(&server, "web.prod.svc.cluster.local", "A").await;
        assert_eq!((rcode.as_str(), data), ("NOERROR", vec![format!("A {address}")]));
    }
    server.delete("/v1/namespaces/prod/services/web/instances/web-1").await;
    assert_eq!(names(&server, "web.prod.svc.cluster.local", "A").await.0, "NXDOMAIN");
}

#[tokio::test]
async fn all_kinds_of_records() {
    let server = Server::start();
    let service = "/v1/namespaces/prod/services";
    server.put(&format!("{service}/web"), json!({"ports": [{"name": "http", "port": 80}], "ttl": 7})).await;
    server.put(&format!("{service}/web/instances/web-1"), json!({"addresses": ["10.0.0.1", "fd00::1"]})).await;
    server.put(&format!("{service}/web/instances/web-2"), json!({"addresses": ["10.0.0.2"], "weight": 9})).await;
    server
        .put(&format!("{service}/web/instances/sick"), json!({"addresses": ["10.0.0.3"], "health": "critical"}))
        .await;
    server.put(&format!("{service}/vip"), json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.7"]})).await;
    server.put(&format!("{service}/out"), json!({"type": "ExternalName", "externalName": "example.com"})).await;

    let ok = |data: &[&str]| ("NOERROR".to_owned(), data.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
    assert_eq!(names(&server, "web.prod.svc.cluster.local", "A").await, ok(&["A 10.0.0.1", "A 10.0.0.2"]));
    assert_eq!(names(&server, "WEB.Prod.svc.CLUSTER.local", "AAAA").await, ok(&["AAAA fd00::1"]));
    assert_eq!(names(&server, "web-2.web.prod.svc.cluster.local", "A").await, ok(&["A 10.0.0.2"]));
    assert_eq!(names(&server, "sick.web.prod.svc.cluster.local", "A").await.0, "NXDOMAIN");
    assert_eq!(names(&server, "vip.prod.svc.cluster.local", "A").await, ok(&["A 10.96.0.7"]));
    assert_eq!(names(&server, "out.prod.svc.cluster.local", "A").await, ok(&["CNAME example.com."]));
    let srv = server.ask("_http._tcp.web.prod.svc.cluster.local", "SRV").await;
    let mut data: Vec<_> = srv.answers.iter().map(|line| line.data.clone()).collect();
    data.sort();
    assert_eq!(data, ["0 50 80 web-1.web.prod.svc.cluster.local.", "0 9 80 web-2.web.prod.svc.cluster.local."]);
    assert_eq!(srv.additionals.len(), 3);
    assert!(srv.answers.iter().all(|line| line.ttl == 7));
    assert_eq!(names(&server, "1.0.0.10.in-addr.arpa", "PTR").await, ok(&["PTR web-1.web.prod.svc.cluster.local."]));
    assert_eq!(names(&server, "7.0.96.10.in-addr.arpa", "PTR").await, ok(&["PTR vip.prod.svc.cluster.local."]));
    // What exists without such a record, or only above others, is no NXDOMAIN.
    for name in
        ["web.prod.svc.cluster.local", "_tcp.web.prod.svc.cluster.local", "prod.svc.cluster.local", "0.10.in-addr.arpa"]
    {
        assert_eq!(names(&server, name, "TXT").await, ok(&[]), "{name}");
    }
    assert_eq!(names(&server, "none.prod.svc.cluster.local", "A").await.0, "NXDOMAIN");
    assert_eq!(names(&server, "example.com", "A").await.0, "REFUSED");
    assert_eq!(names(&server, "dns-version.cluster.local", "TXT").await, ok(&["TXT \"1.1.0\""]));
}

#[tokio::test]
async fn dig_agrees() {
    let server = Server::start();
    for n in 1..=60 {
        let path = format!("/v1/namespaces/prod/services/big/instances/i{n}");
        server.put(&path, json!({"addresses": [format!("10.0.1.{n}")]})).await;
    }
    let dig = |arguments: &[&str]| {
        let (host, port) = (format!("@{}", server.dns.ip()), server.dns.port().to_string());
        output_of(Command::new("dig").args([host.as_str(), "-p", &port, "+tries=1"]).args(arguments))
    };
    // Over plain UDP they do not fit: truncated, and asked again over TCP.
    let text = dig(&["+noedns", "+ignore", "big.prod.svc.cluster.local", "A"]);
    assert!(text.contains(" tc") && text.contains("NOERROR"), "{text}");
    assert_eq!(dig(&["+short", "+noedns", "big.prod.svc.cluster.local", "A"]).lines().count(), 60);
    assert!(dig(&["+edns=1", "+noednsnegotiation", "big.prod.svc.cluster.local"]).contains("BADVERS"));
    assert!(dig(&["no.such.svc.cluster.local"]).contains("SOA"));
    assert!(dig(&["-x", "10.0.1.7", "+short"]).contains("i7.big.prod.svc.cluster.local."));
}

#[tokio::test]
async fn malformed_packets_do_no_harm() {
    let server = Server::start();
    server.put("/v1/namespaces/prod/services/web/instances/i", json!({"addresses": ["10.0.0.1"]})).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut seed = 1u64;
    for length in (0..600).chain([9000, 65_000]) {
        let packet: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as u8
            })
            .collect();
        socket.send_to(&packet, server.dns).unwrap();
    }
    // A length and nothing after it, half a query, and a client that never reads.
    for bytes in [&[0u8, 200][..], &[0, 30, 1, 2, 3], &[255, 255]] {
        TcpStream::connect(server.dns).unwrap().write_all(bytes).unwrap();
    }
    // A client that half-closes gets its answer.
    let mut stream = TcpStream::connect(server.dns).unwrap();
    let query = b"\x00\x2b\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04prod\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";
    let mut framed = query.to_vec();
    framed[1] = (query.len() - 2) as u8;
    stream.write_all(&framed).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.get(2..4), Some(&[0x12, 0x34][..]));
    assert!(answer.ends_with(&[10, 0, 0, 1]));
    assert_eq!(names(&server, "web.prod.svc.cluster.local", "A").await.1, ["A 10.0.0.1"]);
}

#[tokio::test]
async fn names_of_others_are_forwarded() {
    let other = Server::start_with(&["--zone", "other.example"]);
    let service = "/v1/namespaces/prod/services";
    other.put(&format!("{service}/web"), json!({"type": "ClusterIP", "clusterIPs": ["10.9.0.1"]})).await;
    let rule = format!("other.example={}", other.dns);
    let server = Server::start_with(&["--forward-zone", &rule]);
    server
        .put(&format!("{service}/out"), json!({"type": "ExternalName", "externalName": "web.prod.svc.other.example"}))
        .await;
    let ok = |data: &[&str]| ("NOERROR".to_owned(), data.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
    for _ in 0..2 {
        assert_eq!(names(&server, "web.prod.svc.other.example", "A").await, ok(&["A 10.9.0.1"]));
    }
    let alias = names(&server, "out.prod.svc.cluster.local", "A").await;
    assert_eq!(alias, ok(&["A 10.9.0.1", "CNAME web.prod.svc.other.example."]));
    assert_eq!(names(&server, "no.prod.svc.other.example", "A").await.0, "NXDOMAIN");
    assert_eq!(names(&server, "www.example.com", "A").await.0, "REFUSED");
    let status = server.get("/v1/status").await.json;
    assert_eq!(status["dns"]["upstreams"][0]["healthy"], true, "{status}");
    let metrics = server.get("/metrics").await.text;
    let series = format!("fingerpost_forward_upstream_healthy{{upstream=\"{}\"}} 1", other.dns);
    assert!(metrics.contains(&series), "{metrics}");
}

#[tokio::test]
async fn a_server_does_not_forward_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = ["--dns-listen", &free, "--forward", &free];
    let output = Server::command(folder.path(), &flags).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(&free) && error.contains("--forward"), "{error}");
}
