//! Crashes, full disks, hostile clients: what is promised must hold.

use fingerpost_tests::Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What one writer was told: the last state of each of its objects that was acknowledged, and the one under way.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<String, u64>,
    under_way: Option<(Vec<String>, u64)>,
}

/// Writes single instances and batches until the server is gone.
async fn write_until_gone(url: String, writer: usize, from: u64) -> (Told, u64) {
    let client = reqwest::Client::new();
    let mut told = Told::default();
    let mut n = from;
    loop {
        n += 1;
        let body = |id: &str| json!({"namespace": "crash", "service": "s", "id": id, "addresses": ["10.0.0.1"], "labels": {"n": n.to_string()}});
        let (ids, request) = if n.is_multiple_of(3) {
            let ids: Vec<String> = (0..10).map(|k| format!("w{writer}-batch-{k}")).collect();
            let operations: Vec<Value> =
                ids.iter().map(|id| json!({"op": "put", "kind": "instance", "object": body(id)})).collect();
            (ids, client.post(format!("{url}/v1/batch")).json(&json!({"operations": operations})))
        } else {
            let id = format!("w{writer}-{}", n % 7);
            let request = client.put(format!("{url}/v1/namespaces/crash/services/s/instances/{id}")).json(&body(&id));
            (vec![id], request)
        };
        told.under_way = Some((ids.clone(), n));
        match request.send().await {
            Ok(response) if response.status().is_success() => {
                told.under_way = None;
                told.acknowledged.extend(ids.into_iter().map(|id| (id, n)));
            }
            Ok(response) => panic!("refused: {}", response.status()),
            Err(_) => return (told, n),
        }
    }
}

/// `kill -9` at any moment loses no acknowledged write and leaves no half batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_under_load_lose_nothing() {
    const WRITERS: usize = 8;
    let mut server = Server::start();
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    let mut n = 0;
    for round in 0..50u64 {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write_until_gone(server.url.clone(), writer, n))).collect();
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..250))).await;
        server.kill();
        let mut under_way = Vec::new();
        for writer in writers {
            let (told, reached) = writer.await.unwrap();
            n = n.max(reached);
            known.extend(told.acknowledged);
            under_way.extend(told.under_way);
        }
        server = server.again();
        let list = server.get("/v1/namespaces/crash/services/s/instances?limit=1000").await;
        let found: BTreeMap<String, u64> = list.json["items"]
            .as_array()
            .unwrap_or_else(|| panic!("{}", list.text))
            .iter()
            .map(|item| {
                let n = item["labels"]["n"].as_str().unwrap().parse().unwrap();
                (item["id"].as_str().unwrap().to_owned(), n)
            })
            .collect();
        for (ids, n) in &under_way {
            let applied = ids.iter().filter(|id| found.get(*id) == Some(n)).count();
            assert!(applied == 0 || applied == ids.len(), "round {round}: half a batch: {ids:?} at {n}: {found:?}");
            if applied > 0 {
                known.extend(ids.iter().map(|id| (id.clone(), *n)));
            }
        }
        assert_eq!(found, known, "round {round}");
    }
    assert!(known.len() > WRITERS * 10);
}

/// Through restarts, DNS says what is so or SERVFAIL: never that a name does not exist that does, nor one that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_tells_no_lies_through_restarts() {
    let mut server = Server::start();
    let path = |name: &str| format!("/v1/namespaces/z/services/{name}/instances/i");
    server.put(&path("gone"), json!({"addresses": ["10.0.0.1"]})).await;
    server.put(&path("stays"), json!({"addresses": ["10.0.0.1"]})).await;
    for n in 0..300 {
        server.put(&path("filler"), json!({"addresses": [format!("10.1.{}.1", n % 200)]})).await;
    }
    server.delete(&path("gone")).await;
    for round in 0..6 {
        if round % 2 == 0 {
            server.kill();
        } else {
            server.terminate();
        }
        // The same port again, so that whoever asks does not notice the restart but by the answers.
        let dns = server.dns;
        let asking = tokio::spawn(async move {
            let mut answers = Vec::new();
            loop {
                for name in ["stays.z.svc.cluster.local", "gone.z.svc.cluster.local"] {
                    let asked = fingerpost_dns::query::query(dns, name, "A", Duration::from_millis(300)).await;
                    if let Ok(reply) = asked {
                        answers.push((name, reply.rcode));
                    }
                }
                if answers.iter().filter(|(_, rcode)| rcode != "SERVFAIL").count() > 40 {
                    return answers;
                }
            }
        });
        server = server.again_on_same_ports();
        let mut told = 0;
        for (name, rcode) in asking.await.unwrap() {
            let truth = if name.starts_with("stays") { "NOERROR" } else { "NXDOMAIN" };
            assert!(rcode == truth || rcode == "SERVFAIL", "round {round}: {name} is {rcode}");
            told += 1;
        }
        assert!(told > 40);
    }
}

/// Many writers of one instance queue up; none is refused, and no acknowledged report of health is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contention_for_one_instance_loses_nothing() {
    let server = Server::start();
    let path = "/v1/namespaces/hot/services/s/instances/i";
    server.put(path, json!({"addresses": ["10.0.0.1"]})).await;
    let puts = (0..32u8).map(|writer| {
        let server = &server;
        async move {
            for n in 0..20u8 {
                let answer = server.put(path, json!({"addresses": [format!("10.0.{writer}.{}", n + 1)]})).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
            }
        }
    });
    futures_util::future::join_all(puts).await;

    let items: Vec<_> = (0..250).map(|n| json!({"id": format!("i{n}"), "addresses": ["10.0.0.1"]})).collect();
    let set = "/v1/namespaces/hot/services/set/instances";
    assert_eq!(server.put(&format!("{set}?source=api/me"), json!({"items": items})).await.status, 200);
    let replacing = async {
        for n in 0..8u8 {
            let items: Vec<_> =
                (0..250).map(|k| json!({"id": format!("i{k}"), "addresses": [format!("10.0.{n}.1")]})).collect();
            let answer = server.put(&format!("{set}?source=api/me"), json!({"items": items})).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    };
    let reporting = async {
        for n in 0..60 {
            let answer = server.put(&format!("{set}/i{n}/health?source=api/me"), json!({"health": "warning"})).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    };
    tokio::join!(replacing, reporting);
    let list = server.get(&format!("{set}?health=warning&limit=1000")).await;
    assert_eq!(list.json["items"].as_array().unwrap().len(), 60);
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() {
    let server = Server::start();
    let output = Server::command(&server.data, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&server.pid().to_string()) && text.contains("data"), "{text}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let taken = [("--http-listen", server.http), ("--dns-listen", server.dns)];
    for (flag, address) in taken {
        let other = if flag == "--http-listen" { "--dns-listen" } else { "--http-listen" };
        let output = Command::new(fingerpost_tests::binary())
            .args(["serve", flag, &address.to_string(), other, "127.0.0.1:0", "--data-dir"])
            .arg(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(&address.to_string()), "{text}");
    }
    let open = Command::new(fingerpost_tests::binary())
        .args(["serve", "--http-listen", "0.0.0.0:0", "--data-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&open.stderr).into_owned();
    assert!(open.status.code() == Some(1) && text.contains("--insecure"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminates_after_what_is_under_way() {
    let mut server = Server::start();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (url, stop) = (server.url.clone(), Arc::clone(&stop));
        async move {
            let client = reqwest::Client::new();
            let mut acknowledged = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let path = format!("{url}/v1/namespaces/a/services/b/instances/i{}", acknowledged + 1);
                match client.put(path).json(&json!({"addresses": ["10.0.0.1"]})).send().await {
                    Ok(response) if response.status().is_success() => acknowledged += 1,
                    _ => break,
                }
            }
            acknowledged
        }
    });
    let mut events = fingerpost_tests::events::Events::open(&server, "?kind=instance", None).await;
    while events.next().await.data["object"]["id"] != "i20" {}
    let status = server.terminate();
    assert!(status.success(), "{status}");
    while events.try_next().await.is_some() {}
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    let server = server.again();
    let found = server.get("/v1/namespaces/a/services/b/instances?limit=1000").await;
    let mut count = found.json["items"].as_array().unwrap().len() as u32;
    if let Some(token) = found.json["continue"].as_str() {
        let rest = server.get(&format!("/v1/namespaces/a/services/b/instances?limit=1000&continue={token}")).await;
        count += rest.json["items"].as_array().unwrap().len() as u32;
    }
    assert!(acknowledged >= 20 && count >= acknowledged.min(2000), "{count} of {acknowledged}");
}

/// A full disk refuses writes, reads and DNS go on, and writes succeed again when there is room.
#[tokio::test]
async fn a_full_disk_is_survived() {
    let server = Server::start_on_small_disk(12);
    // The folder as the server sees it.
    let inside = format!("/proc/{}/root{}", server.pid(), server.data.display());
    let path = |n: usize| format!("/v1/namespaces/full/services/s/instances/i{n}");
    let body = || json!({"addresses": ["10.0.0.1"]});
    assert_eq!(server.put(&path(0), body()).await.status, 201);

    let ballast = std::path::Path::new(&inside).join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0u8; 4096]).is_ok() {}
    drop(file);
    let mut acknowledged = 1;
    let refused = loop {
        let answer = server.put(&path(acknowledged), json!({"addresses": ["10.0.0.1"], "node": "x".repeat(250)})).await;
        match answer.status {
            201 => acknowledged += 1,
            _ => break answer,
        }
        assert!(acknowledged < 20_000, "the disk never got full");
    };
    assert_eq!(refused.status, 507, "{}", refused.text);
    assert!(refused.text.contains("disk is full"), "{}", refused.text);
    assert_eq!(server.put(&path(1_000_000), body()).await.status, 507);
    assert_eq!(server.get(&path(0)).await.status, 200);
    assert_eq!(server.ask("s.full.svc.cluster.local", "A").await.rcode, "NOERROR");
    let ready = server.get("/readyz").await;
    assert!(ready.status == 200 && ready.text.contains("[!] writes"), "{}", ready.text);

    std::fs::remove_file(&ballast).unwrap();
    let mut last = None;
    for _ in 0..100 {
        let answer = server.put(&path(2_000_000), body()).await;
        if answer.status == 201 {
            last = Some(answer);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(last.is_some(), "writes succeed again without a restart");
    for n in 0..acknowledged {
        assert_eq!(server.get(&path(n)).await.status, 200, "instance {n}");
    }
    assert_eq!(server.get(&path(1_000_000)).await.status, 404);
}

#[tokio::test]
async fn hostile_connections_do_not_hold_others_up() {
    let server = Server::start();
    let open = || {
        let stream = TcpStream::connect(server.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    // Slow clients: heads and bodies that never end.
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = open();
        let start: &[u8] = if n % 2 == 0 {
            b"PUT /v1/namespaces/a/services/b/instances/c HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n{"
        } else {
            b"GET /v1/services HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "
        };
        stream.write_all(start).unwrap();
        slow.push(stream);
    }
    // Watchers that never read.
    for _ in 0..20 {
        let mut stream = open();
        stream.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
        slow.push(stream);
    }
    for n in 0..300 {
        let path = format!("/v1/namespaces/a/services/b/instances/i{n}");
        assert_eq!(server.put(&path, json!({"addresses": ["10.0.0.1"], "node": "n".repeat(250)})).await.status, 201);
    }
    // A head that is too large, and one that is no HTTP.
    for bytes in [
        format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200 << 10)).into_bytes(),
        b"\x16\x03\x01hello\r\n\r\n".to_vec(),
    ] {
        let mut stream = open();
        let _ = stream.write_all(&bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    // A client that half-closes after its request still gets the reply.
    let mut half = open();
    half.write_all(b"GET /version HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    half.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("fingerpost"), "{text}");
    assert_eq!(server.get("/v1/namespaces/a/services/b/instances/c").await.status, 404);
    assert_eq!(server.get("/readyz").await.status, 200);
}
