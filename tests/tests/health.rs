//! Health from outside: checks that the registry runs, reports to TTL checks, drains, and what DNS, lists and the command
//! line make of them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::Server;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const WEB: &str = "/v1/namespaces/prod/services/web";
const NAME: &str = "web.prod.svc.cluster.local";

fn web(id: &str) -> String {
    format!("{WEB}/instances/{id}")
}

/// A web server that answers every request with the status that stands.
struct Web {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    serving: JoinHandle<()>,
}

impl Web {
    async fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("an address");
        let (address, status) = (listener.local_addr().unwrap(), Arc::new(AtomicU16::new(200)));
        let stands = Arc::clone(&status);
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let status = stands.load(Ordering::SeqCst);
                let reply = format!("HTTP/1.1 {status} Status\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy");
                let _ = stream.write_all(reply.as_bytes()).await;
            }
        });
        Self { address, status, serving }
    }

    async fn stop(self) -> SocketAddr {
        self.serving.abort();
        let _ = self.serving.await;
        self.address
    }
}

/// Waits until the instance is in this health; returns it.
async fn until(server: &Server, path: &str, health: &str) -> Value {
    let begun = Instant::now();
    loop {
        let instance = server.get(path).await.json;
        if instance["effectiveHealth"] == health {
            return instance;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not {health} in time: {instance}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn answers(server: &Server) -> usize {
    server.ask(NAME, "A").await.answers.len()
}

fn cli(server: &Server, line: &str) -> String {
    let (code, out, err) = server.cli(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{line}\n{out}{err}");
    out
}

#[tokio::test]
async fn an_instance_is_answered_while_its_check_passes() {
    let server = Server::start();
    let target = Web::start("127.0.0.1:0").await;
    let check = json!({"name": "up", "type": "http", "port": "http", "path": "/up", "intervalSeconds": 1,
        "timeoutSeconds": 1, "failures": 2});
    let declared = json!({"checks": [check], "ports": [{"name": "http", "port": target.address.port()}]});
    assert_eq!(server.put(WEB, declared.clone()).await.json["checks"], declared["checks"]);
    let made = server.put(&web("web-1"), json!({"addresses": ["127.0.0.1"]})).await.json;
    assert_eq!(made["healthParts"]["checks"]["up"], json!({"health": "unknown", "note": "has not run yet"}));
    let passing = until(&server, &web("web-1"), "passing").await;
    assert!(passing["healthParts"]["checks"]["up"]["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(answers(&server).await, 1);

    target.status.store(429, Ordering::SeqCst);
    let warning = until(&server, &web("web-1"), "warning").await;
    assert_eq!(warning["healthParts"]["checks"]["up"]["note"], "HTTP 429");
    assert_eq!(answers(&server).await, 1);

    let address = target.stop().await;
    let critical = until(&server, &web("web-1"), "critical").await;
    assert!(critical["healthParts"]["checks"]["up"]["note"].as_str().unwrap().contains("connection refused"));
    assert_eq!(server.ask(NAME, "A").await.rcode, "NXDOMAIN");
    // Registering again is no cure.
    server.put(&web("web-1"), json!({"addresses": ["127.0.0.1"], "weight": 3})).await;
    assert_eq!(server.get(&web("web-1")).await.json["effectiveHealth"], "critical");
    let explained = cli(&server, "explain web.prod");
    assert!(explained.contains("`allCritical: none`") && explained.contains("its check `up` fails"), "{explained}");

    let again = Web::start(&address.to_string()).await;
    until(&server, &web("web-1"), "passing").await;
    assert_eq!(answers(&server).await, 1);

    let history = server.get(&format!("{}/history", web("web-1"))).await.json["items"].clone();
    let turns: Vec<(&str, &str)> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["from"].as_str().unwrap(), item["to"].as_str().unwrap()))
        .collect();
    let expected = [("critical", "passing"), ("warning", "critical"), ("passing", "warning"), ("unknown", "passing")];
    assert_eq!(turns, expected, "{history}");
    assert_eq!(history[2]["reason"], "check up: HTTP 429");
    let described = cli(&server, "describe instance prod/web/web-1");
    for part in ["up: passing (HTTP 200) since 20", "SINCE", "check up: HTTP 429"] {
        assert!(described.contains(part), "{part} in\n{described}");
    }
    assert!(cli(&server, "describe service prod/web").contains("up: http :http /up, every 1 s"));
    assert_eq!(server.get("/v1/status").await.json["checks"]["home"], 1);
    assert!(cli(&server, "status").contains("1 check at home here"));
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("fingerpost_checks_transitions_total{to=\"passing\"} 2"), "{metrics}");

    // Without the check, nothing of it is left.
    server.put(WEB, json!({})).await;
    assert_eq!(server.get(&web("web-1")).await.json.get("healthParts"), None);
    drop(again);
}

#[tokio::test]
async fn checks_trust_what_they_are_told_to() {
    // A registry is a server over TLS like any other.
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (ca, key) = (write("ca.pem", &made.cert.pem()), write("key.pem", &made.signing_key.serialize_pem()));
    let target = Server::start_with(&["--tls-cert", &ca, "--tls-key", &key]);
    let check = json!({"name": "up", "type": "https", "port": target.http.port(), "path": "/livez"});
    let instance = json!({"addresses": ["127.0.0.1"], "checks": [check]});
    for (flags, health, note) in
        [(&["--check-ca", &*ca][..], "passing", "HTTP 200"), (&[], "critical", "TLS: invalid peer certificate")]
    {
        let server = Server::start_with(flags);
        server.put(&web("web-1"), instance.clone()).await;
        let seen = until(&server, &web("web-1"), health).await;
        assert!(seen["healthParts"]["checks"]["up"]["note"].as_str().unwrap().starts_with(note), "{seen}");
    }
    // A file that can't be meant is told at once, and not in each check's note.
    let bad = write("bad.pem", "hello");
    let mut command = Server::command(&folder.path().join("data"), &["--check-ca", &bad]);
    let refused = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("bad.pem") && said.contains("no certificate"), "{said}");
}

#[tokio::test]
async fn a_drain_keeps_an_instance_listed_and_survives_registration_and_restart() {
    let mut server = Server::start();
    server.put(&web("web-1"), json!({"addresses": ["10.0.0.1"]})).await;
    server.put(&web("web-2"), json!({"addresses": ["10.0.0.2"]})).await;
    let drain = format!("{}/drain", web("web-1"));
    let drained = server.put(&drain, json!({"note": "upgrade"})).await;
    assert_eq!((drained.status, &drained.json["effectiveHealth"]), (200, &json!("critical")), "{}", drained.text);
    assert_eq!(drained.json["healthParts"]["drain"]["note"], "upgrade");
    let revision = drained.json["revision"].clone();
    assert_eq!(server.put(&drain, json!({"note": "upgrade"})).await.json["revision"], revision, "the same again");
    assert_eq!(answers(&server).await, 1);
    assert_eq!(server.get(&format!("{WEB}/instances")).await.json["items"].as_array().unwrap().len(), 2);
    server.put(&web("web-1"), json!({"addresses": ["10.0.0.1"], "health": "passing"})).await;
    assert_eq!(answers(&server).await, 1);
    server.terminate();
    let server = server.again();
    assert_eq!(server.get(&web("web-1")).await.json["healthParts"]["drain"]["note"], "upgrade");
    assert!(cli(&server, "drain prod/web/web-1 --undo").contains("its health is passing"));
    assert_eq!(answers(&server).await, 2);
    assert_eq!(server.delete(&drain).await.status, 200, "nothing to end");
    assert_eq!(
        cli(&server, "drain prod/web/web-2 --note moving"),
        "prod/web/web-2 is drained: listed, but not answered\n"
    );
    assert_eq!(answers(&server).await, 1);
    assert!(cli(&server, "describe instance prod/web/web-2").contains("drain: moving"));

    // No body is no note; what is not there can't be drained; a guard is kept to.
    let bare = "/v1/namespaces/prod/instances/bare";
    assert_eq!(server.put(&format!("{bare}/drain"), json!({})).await.status, 404);
    server.put(bare, json!({"addresses": ["10.0.0.3"]})).await;
    let empty = server.send(reqwest::Method::PUT, &format!("{bare}/drain"), &[], "").await;
    assert_eq!((empty.status, &empty.json["effectiveHealth"]), (200, &json!("critical")), "{}", empty.text);
    let stale = [("if-match", "\"0000000000000001-1\"")];
    assert_eq!(server.send(reqwest::Method::DELETE, &format!("{bare}/drain"), &stale, "").await.status, 412);
    assert_eq!(server.put(&format!("{bare}/drain"), json!({"nte": "x"})).await.status, 400);
    assert_eq!(server.put(&format!("{bare}/drain"), json!({"note": "\u{1b}[31m"})).await.status, 422);
    let history = server.get(&format!("{bare}/history")).await.json;
    assert_eq!(history["items"][0]["reason"], "drain: critical", "{history}");
    assert_eq!(server.get("/v1/namespaces/prod/instances/none/history").await.status, 404);
}

#[tokio::test]
async fn ttl_checks_are_reported_to_or_overdue() {
    let server = Server::start();
    let alive = json!({"name": "alive", "type": "ttl", "ttlSeconds": 2});
    server.put(&web("web-1"), json!({"addresses": ["10.0.0.1"], "checks": [alive]})).await;
    assert_eq!(server.ask(NAME, "A").await.rcode, "NXDOMAIN", "unknown is not answered");
    let path = format!("{}/checks/alive", web("web-1"));
    let report = |health: &str, note: &str| server.put(&path, json!({"health": health, "note": note}));
    let reported = report("passing", "hello").await;
    assert_eq!((reported.status, &reported.json["effectiveHealth"]), (200, &json!("passing")), "{}", reported.text);
    assert_eq!(answers(&server).await, 1, "shown before the reply");
    let revision = reported.json["revision"].clone();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let answer = report("passing", "hello again").await;
        // A machine that stands still for longer than the TTL has let it pass.
        if begun.elapsed() < Duration::from_secs(2) {
            assert_eq!(answer.json["revision"], revision, "heartbeats are not written");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let overdue = until(&server, &web("web-1"), "critical").await;
    assert_eq!(overdue["healthParts"]["checks"]["alive"]["note"], "no report for 2 s");
    assert_eq!(server.ask(NAME, "A").await.rcode, "NXDOMAIN");
    let said = cli(&server, "check prod/web/web-1 alive --health warning --note slow");
    assert_eq!(said, "reported alive as warning; prod/web/web-1 is warning\n");

    for (path, body, status) in [
        (path.clone(), json!({"health": "unknown"}), 422),
        (path.clone(), json!({"health": "good"}), 400),
        (format!("{}/checks/other", web("web-1")), json!({"health": "passing"}), 404),
        (format!("{}/checks/Other", web("web-1")), json!({"health": "passing"}), 400),
        (format!("{}/checks/alive", web("none")), json!({"health": "passing"}), 404),
    ] {
        assert_eq!(server.put(&path, body.clone()).await.status, status, "{path} {body}");
    }
    let tcp = json!({"name": "up", "type": "tcp", "port": 1});
    server.put(&web("web-2"), json!({"addresses": ["127.0.0.1"], "checks": [tcp]})).await;
    let refused = server.put(&format!("{}/checks/up", web("web-2")), json!({"health": "passing"})).await;
    assert!(refused.status == 422 && refused.text.contains("type `tcp`"), "{}", refused.text);
}

#[tokio::test]
async fn declarations_are_judged_and_kept() {
    let server = Server::start();
    let with = |checks: Value| json!({"addresses": ["10.0.0.1"], "checks": checks});
    for (checks, place) in [
        (json!([{"name": "up", "type": "http", "path": "/\r\n"}]), "/checks/0/path"),
        (json!([{"name": "up", "type": "http", "pth": "/"}]), "/checks/0/pth"),
        (json!([{"name": "up", "type": "ttl"}, {"name": "up", "type": "tcp"}]), "/checks/1/name"),
    ] {
        let refused = server.put(&web("web-1"), with(checks.clone())).await;
        assert_eq!((refused.status, &refused.json["pointer"]), (422, &json!(place)), "{checks}: {}", refused.text);
        let refused = server.put(WEB, json!({"checks": checks})).await;
        assert_eq!((refused.status, &refused.json["pointer"]), (422, &json!(place)), "{checks}: {}", refused.text);
    }
    assert_eq!(server.put(&web("web-1"), with(json!([{"name": "up", "type": "ping"}]))).await.status, 400);
    // The metadata service is nobody's instance to check.
    let metadata = json!({"addresses": ["169.254.169.254"], "checks": [{"name": "up", "type": "http", "port": 80}]});
    let refused = server.put(&web("web-1"), metadata.clone()).await;
    assert_eq!((refused.status, &refused.json["pointer"]), (422, &json!("/checks/0")), "{}", refused.text);
    let batch = json!({"operations": [{"op": "put", "kind": "instance", "object":
        {"namespace": "prod", "service": "web", "id": "i", "addresses": metadata["addresses"], "checks": metadata["checks"]}}]});
    assert_eq!(server.post("/v1/batch", batch).await.json["pointer"], "/operations/0/object/checks/0");
    // Where its service's check would be aimed there, the instance can be registered, but the check is refused.
    server
        .put(
            WEB,
            json!({"checks": [{"name": "up", "type": "http", "port": 80, "intervalSeconds": 1, "timeoutSeconds": 1}]}),
        )
        .await;
    server.put(&web("web-1"), json!({"addresses": ["169.254.169.254"]})).await;
    let refused = until(&server, &web("web-1"), "critical").await;
    assert!(refused["healthParts"]["checks"]["up"]["note"].as_str().unwrap().contains("--check-allow"), "{refused}");
    // A reply can be sent back, and a patch of something else leaves checks alone.
    server.put(&web("web-2"), with(json!([{"name": "alive", "type": "ttl"}]))).await;
    let reply = server.get(&web("web-2")).await;
    assert_eq!(server.put(&web("web-2"), reply.json.clone()).await.json["revision"], reply.json["revision"]);
    assert_eq!(server.patch(&web("web-2"), json!({"weight": 1})).await.json["checks"], reply.json["checks"]);

    let allowing = Server::start_with(&["--check-allow", "169.254.0.0/16"]);
    assert_eq!(allowing.put(&web("web-1"), metadata).await.status, 201);
}

#[tokio::test]
async fn when_all_are_critical_the_service_decides() {
    let server = Server::start();
    for (id, address) in [("web-1", "10.0.0.1"), ("web-2", "10.0.0.2"), ("web-3", "10.0.0.3")] {
        server.put(&web(id), json!({"addresses": [address], "health": "critical"})).await;
    }
    server.put(&format!("{}/drain", web("web-3")), json!({})).await;
    let list = |query: &'static str| {
        server.get(match query {
            "" => "/v1/namespaces/prod/services/web/instances",
            _ => "/v1/namespaces/prod/services/web/instances?health=passing,warning",
        })
    };
    assert_eq!(server.ask(NAME, "A").await.rcode, "NXDOMAIN");
    assert_eq!(list("").await.json.get("panic"), None);
    server.put(WEB, json!({"allCritical": "all"})).await;
    assert_eq!(answers(&server).await, 2, "all but the drained");
    let listed = list("").await.json;
    assert_eq!((listed["items"].as_array().unwrap().len(), &listed["panic"]), (3, &json!(true)), "{listed}");
    let filtered = list("health").await.json;
    assert_eq!((filtered["items"].as_array().unwrap().len(), &filtered["panic"]), (0, &json!(true)), "{filtered}");
    let explained = cli(&server, "explain web.prod");
    assert!(explained.contains("`allCritical: all` has 2 of 3 answered"), "{explained}");
    server.put(&format!("{}/health", web("web-2")), json!({"health": "passing"})).await;
    assert_eq!(answers(&server).await, 1);
    assert_eq!(list("").await.json.get("panic"), None);
}

#[tokio::test]
async fn an_instance_inherits_nothing_from_one_that_was() {
    let server = Server::start();
    let ids: Vec<String> = (0..60).map(|n| format!("web-{n}")).collect();
    let instance =
        json!({"addresses": ["10.0.0.1"], "checks": [{"name": "a", "type": "ttl"}, {"name": "b", "type": "ttl"}]});
    let object = |id: &str| {
        let mut object = instance.clone();
        for (field, value) in [("namespace", "prod"), ("service", "web"), ("id", id)] {
            object[field] = json!(value);
        }
        object
    };
    let batch = |op: &str| {
        let operations: Vec<Value> =
            ids.iter().map(|id| json!({"op": op, "kind": "instance", "object": object(id)})).collect();
        json!({"operations": operations})
    };
    assert_eq!(server.post("/v1/batch", batch("put")).await.status, 200);
    let spoil = async |id: &str| {
        assert_eq!(server.put(&format!("{}/drain", web(id)), json!({"note": "old"})).await.status, 200);
        for check in ["a", "b"] {
            let report = json!({"health": "critical", "note": "old"});
            assert_eq!(server.put(&format!("{}/checks/{check}", web(id)), report).await.status, 200);
        }
    };
    for id in &ids {
        spoil(id).await;
    }
    // 60 instances with 180 parts: more than one commit can hold, and yet all of them go at one position.
    let gone = server.post("/v1/batch", batch("delete")).await;
    assert_eq!(gone.status, 200, "{}", gone.text);
    assert_eq!(server.post("/v1/batch", batch("put")).await.status, 200);
    for id in &ids {
        let instance = server.get(&web(id)).await.json;
        assert_eq!(instance["healthParts"].get("drain"), None, "{instance}");
        assert_eq!(instance["healthParts"]["checks"]["a"]["note"], "has not run yet", "{instance}");
    }
    // One by one, and by the set.
    spoil("web-0").await;
    server.delete(&web("web-0")).await;
    server.put(&web("web-0"), instance.clone()).await;
    assert_eq!(server.get(&web("web-0")).await.json["effectiveHealth"], "unknown");
    // What is left behind does not stay.
    let begun = Instant::now();
    server.post("/v1/batch", batch("delete")).await;
    while server.get("/v1/status").await.json["store"]["records"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", server.get("/v1/export").await.text);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
