//! Sessions from outside: over REST, and by the commands that keep a registration.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_client::catalog::document::{InstanceDocument, NewSession};
use fingerpost_client::{Guard, HttpRegistry, Keeper, KeeperOptions, Registry};
use fingerpost_tests::{Server, binary};
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WEB1: &str = "/v1/namespaces/prod/services/web/instances/web-1";

/// Asks again and again until the answer is as wanted.
async fn until<T, F: Future<Output = T>>(what: &str, mut ask: impl FnMut() -> F, wanted: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn begin(server: &Server, body: Value) -> String {
    let made = server.post("/v1/sessions", body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.json["id"].as_str().unwrap().to_owned()
}

async fn renew(server: &Server, id: &str) -> String {
    let renewed = server.post("/v1/sessions/renew", json!({"ids": [id]})).await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
    assert_eq!(renewed.json["items"][0]["id"], id);
    renewed.json["items"][0]["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_session_over_rest() {
    let server = Server::start();
    let made = server.post("/v1/sessions", json!({"name": "web", "ttlSeconds": 3, "graceSeconds": 30})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.json["id"].as_str().unwrap().to_owned();
    assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()), "{id}");
    let expected = json!({"id": id, "name": "web", "source": "api", "state": "alive", "since": made.json["since"],
        "ttlSeconds": 3, "graceSeconds": 30, "instances": 0, "home": "local", "revision": made.json["revision"]});
    assert_eq!(made.json, expected);
    assert!(made.json["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(server.put(WEB1, json!({"addresses": ["10.0.0.1"], "session": id})).await.status, 201);
    assert_eq!(server.get(&format!("/v1/sessions/{id}")).await.json["instances"], 1);
    assert_eq!(renew(&server, &id).await, "alive");

    // It is not renewed: critical, gone from DNS, and healed by a renewal.
    let instance = || server.get(WEB1);
    until("critical", instance, |web| web.json["effectiveHealth"] == "critical").await;
    let shown = server.get(WEB1).await.json;
    assert_eq!(shown["healthParts"]["session"], json!({"health": "critical", "note": "session expired"}));
    assert_eq!(server.get("/v1/sessions?state=expired").await.json["items"][0]["id"], json!(id));
    assert!(server.ask("web.prod.svc.cluster.local.", "A").await.answers.is_empty());
    let other = server
        .put("/v1/namespaces/prod/services/web/instances/web-2", json!({"addresses": ["10.0.0.2"], "session": id}))
        .await;
    assert_eq!((other.status, &other.json["pointer"]), (422, &json!("/session")), "{}", other.text);
    assert_eq!(renew(&server, &id).await, "restored");
    assert_eq!(server.get(WEB1).await.json["effectiveHealth"], "passing");

    // A graceful end.
    let ended = server.delete(&format!("/v1/sessions/{id}")).await;
    assert_eq!((ended.status, &ended.json["instances"]), (200, &json!(1)), "{}", ended.text);
    assert_eq!(server.get(WEB1).await.status, 404);
    assert_eq!(server.get(&format!("/v1/sessions/{id}")).await.status, 404);
    assert_eq!(server.delete(&format!("/v1/sessions/{id}")).await.status, 404);
    assert_eq!(renew(&server, &id).await, "unknown");
    let metrics = server.get("/metrics").await.text;
    for line in ["fingerpost_session_expirations_total 1", "fingerpost_session_renewals_total{outcome=\"restored\"} 1"]
    {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn the_grace_removes_what_nobody_renews() {
    let server = Server::start();
    let id = begin(&server, json!({"ttlSeconds": 3, "graceSeconds": 1})).await;
    assert_eq!(server.put(WEB1, json!({"addresses": ["10.0.0.1"], "session": id})).await.status, 201);
    until("removed", || server.get(WEB1), |web| web.status == 404).await;
    until("gone", || server.get("/v1/sessions"), |list| list.json["items"] == json!([])).await;
}

#[tokio::test]
async fn lists_and_refusals() {
    let server = Server::start();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(begin(&server, json!({"name": format!("n{}", n % 2)})).await);
    }
    let made = server.post("/v1/sessions?source=api/team", json!({})).await;
    assert_eq!((&made.json["ttlSeconds"], &made.json["graceSeconds"]), (&json!(15), &json!(60)));
    let list = server.get("/v1/sessions?limit=4").await.json;
    assert_eq!(list["protection"], json!({"active": false, "held": 0}));
    let rest = server.get(&format!("/v1/sessions?limit=4&continue={}", list["continue"].as_str().unwrap())).await.json;
    let mut listed: Vec<&str> = [&list, &rest]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|session| session["id"].as_str().unwrap())
        .collect();
    assert!(listed.is_sorted() && rest.get("continue").is_none());
    listed.retain(|id| ids.iter().any(|known| known == id));
    assert_eq!(listed.len(), 5);
    let count = |query: &'static str| {
        let server = &server;
        async move { server.get(&format!("/v1/sessions?{query}")).await.json["items"].as_array().unwrap().len() }
    };
    assert_eq!((count("name=n0").await, count("source=api/team").await, count("state=alive").await), (3, 1, 6));
    let status = server.get("/v1/status").await.json;
    assert_eq!((&status["sessions"]["total"], &status["sessions"]["home"]), (&json!(6), &json!(6)));

    for (body, pointer) in [
        (json!({"ttlSeconds": 2}), "/ttlSeconds"),
        (json!({"ttlSeconds": 86_401}), "/ttlSeconds"),
        (json!({"graceSeconds": 86_401}), "/graceSeconds"),
        (json!({"name": "x".repeat(254)}), "/name"),
    ] {
        let refused = server.post("/v1/sessions", body).await;
        assert_eq!((refused.status, &refused.json["pointer"]), (422, &json!(pointer)), "{}", refused.text);
    }
    let odd = server.post("/v1/sessions", json!({"ttl": 5})).await;
    assert_eq!((odd.status, &odd.json["pointer"]), (400, &json!("/ttl")));
    assert_eq!(server.get("/v1/sessions?state=dead").await.status, 400);
    assert_eq!(server.post("/v1/sessions/renew", json!({"ids": []})).await.status, 422);
    assert_eq!(server.post("/v1/sessions/renew", json!({"ids": vec!["x"; 1001]})).await.status, 422);
    let plain = server.send(Method::POST, "/v1/sessions", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(plain.status, 415);
    let foreign = server.put(WEB1, json!({"addresses": ["10.0.0.1"], "session": made.json["id"]})).await;
    assert_eq!((foreign.status, &foreign.json["pointer"]), (422, &json!("/session")), "{}", foreign.text);
    // Replicas only.
    assert_eq!(server.post("/v1/peer/renew", json!({"ids": ["x"]})).await.status, 403);
    let posed = [("content-type", "application/json"), ("authorization", "Peer ")];
    assert_eq!(server.send(Method::POST, "/v1/peer/renew", &posed, r#"{"ids":[]}"#).await.status, 403);
}

#[tokio::test]
async fn a_restart_ends_no_session_early() {
    let mut server = Server::start();
    let id = begin(&server, json!({"ttlSeconds": 6, "graceSeconds": 60})).await;
    server.put(WEB1, json!({"addresses": ["10.0.0.1"], "session": id})).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.kill();
    let server = server.again();
    let up = Instant::now();
    // More than its TTL after the last sign of life, and less than one after the restart.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let web = server.get(WEB1).await;
    if up.elapsed() < Duration::from_secs(6) {
        assert_eq!(web.json["effectiveHealth"], "passing", "{}", web.text);
    }
    until("critical", || server.get(WEB1), |web| web.json["effectiveHealth"] == "critical").await;
    assert!(up.elapsed() >= Duration::from_secs(5));
    assert_eq!(renew(&server, &id).await, "restored");
}

#[tokio::test]
async fn many_that_vanish_at_once_are_held() {
    let server = Server::start();
    let mut ids = Vec::new();
    for n in 0..12 {
        let id = begin(&server, json!({"ttlSeconds": 3})).await;
        let path = format!("/v1/namespaces/prod/services/web/instances/web-{n}");
        server.put(&path, json!({"addresses": [format!("10.0.0.{n}")], "session": id})).await;
        ids.push(id);
    }
    // Together, so that on a slow machine they are overdue together, too.
    server.post("/v1/sessions/renew", json!({"ids": ids})).await;
    let held = |list: &fingerpost_tests::Answer| list.json["protection"]["held"] == 12;
    let list = until("held", || server.get("/v1/sessions"), held).await.json;
    assert_eq!(list["protection"]["active"], true);
    assert!(list["items"].as_array().unwrap().iter().all(|session| session["state"] == "suspect"));
    assert_eq!(server.ask("web.prod.svc.cluster.local.", "A").await.answers.len(), 12, "still answered");
    assert_eq!(server.get("/v1/status").await.json["sessions"]["protection"]["active"], true);
    let (code, out, err) = server.cli(&["session", "list"]);
    assert!(
        code == 0 && out.matches(" suspect ").count() == 12 && err.contains("12 overdue sessions held"),
        "{out}{err}"
    );
    let renewed = server.post("/v1/sessions/renew", json!({"ids": ids})).await.json;
    assert!(renewed["items"].as_array().unwrap().iter().all(|item| item["state"] == "suspect"), "{renewed}");
    until("over", || server.get("/v1/sessions"), |list| list.json["protection"]["active"] == false).await;
}

#[tokio::test]
async fn a_keeper_comes_back_after_the_registry_has_forgotten() {
    let mut server = Server::start();
    let registry = Arc::new(HttpRegistry::connect(&server.url).unwrap());
    let mut options = KeeperOptions::default();
    options.session = NewSession { name: "kept".to_owned(), ttl_seconds: 3, grace_seconds: 60 };
    let keeper = Keeper::start(Arc::clone(&registry) as Arc<dyn Registry>, options).await.unwrap();
    let web = InstanceDocument {
        namespace: Some("prod".into()),
        service: Some("web".into()),
        id: Some("web-1".into()),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..InstanceDocument::default()
    };
    keeper.put(web).await.unwrap();
    let mut watch = keeper.watch();
    let first = watch.borrow().session.clone();
    assert_eq!(server.get(WEB1).await.json["session"], json!(first));
    // Somebody ends it behind the keeper's back.
    registry.end_session(&first).await.unwrap();
    assert_eq!(server.get(WEB1).await.status, 404);
    tokio::time::timeout(Duration::from_secs(60), watch.wait_for(|keeping| keeping.generation == 2))
        .await
        .unwrap()
        .unwrap();
    let second = watch.borrow().session.clone();
    until("registered again", || server.get(WEB1), |web| web.json["session"] == json!(second)).await;
    // The registry is away for longer than the TTL.
    server.kill();
    let away = watch.wait_for(|keeping| keeping.trouble.is_some());
    tokio::time::timeout(Duration::from_secs(60), away).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let server = server.again_on_same_ports();
    tokio::time::timeout(Duration::from_secs(60), watch.wait_for(|keeping| keeping.trouble.is_none()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(watch.borrow().generation, 2, "it is still the same session");
    assert_eq!(server.get(WEB1).await.json["effectiveHealth"], "passing");
    keeper.end().await.unwrap();
    assert_eq!(server.get(WEB1).await.status, 404);
    // An instance without a session stays.
    let bare = InstanceDocument {
        id: Some("b".into()),
        namespace: Some("prod".into()),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        ..InstanceDocument::default()
    };
    registry.put_instance(&fingerpost_client::catalog::Source::api(), &bare, Guard::None).await.unwrap();
}

/// A command that runs until it is ended.
struct Running(Child);

impl Running {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let command = Command::new(binary())
            .args(arguments)
            .env("FINGERPOST_SERVER", &server.url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(command.expect("start"))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).expect("signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const REGISTER: [&str; 7] = ["register", "prod/web", "-a", "10.0.0.1", "--id", "web-1", "--ttl"];

#[tokio::test]
async fn register_stays_and_renews() {
    let server = Server::start();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut kept = Running::start(&server, &[&REGISTER[..], &["3s"]].concat());
        let mut line = String::new();
        let mut out = BufReader::new(kept.0.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with("registered prod/web/web-1 on session "), "{line}");
        let list = server.get("/v1/sessions").await.json;
        assert_eq!(list["items"][0]["name"], "prod/web/web-1", "{list}");
        let revision = list["items"][0]["revision"].clone();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let list = server.get("/v1/sessions").await.json;
        assert_eq!((&list["items"][0]["state"], &list["items"][0]["revision"]), (&json!("alive"), &revision));
        kept.signal(signal);
        assert!(kept.0.wait().unwrap().success());
        assert_eq!(server.get(WEB1).await.status, 404, "it left at once");
        assert_eq!(server.get("/v1/sessions").await.json["items"], json!([]));
    }
    // Killed, it can't say so: the TTL does.
    let mut kept = Running::start(&server, &[&REGISTER[..], &["3s"]].concat());
    until("registered", || server.get(WEB1), |web| web.status == 200).await;
    kept.0.kill().unwrap();
    until("critical", || server.get(WEB1), |web| web.json["effectiveHealth"] == "critical").await;
    let (code, out, err) = server.cli(&["session", "list", "--state", "expired"]);
    assert_eq!(code, 0, "{err}");
    let id = out.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    let (code, out, err) = server.cli(&["session", "end", id]);
    assert!(code == 0 && out.starts_with(&format!("ended session {id} and 1 instance at ")), "{out}{err}");
    assert_eq!(server.cli(&["session", "end", id]).0, 1);
    assert_eq!(server.get(WEB1).await.status, 404);
}

#[tokio::test]
async fn register_lives_as_long_as_a_command() {
    let server = Server::start();
    let (code, out, err) =
        server.cli(&["register", "prod/web", "-a", "10.0.0.1", "--id", "web-1", "--", "sh", "-c", "echo said; exit 7"]);
    assert_eq!((code, out.as_str()), (7, "said\n"), "{err}");
    assert_eq!(server.get(WEB1).await.status, 404);

    let mut kept = Running::start(&server, &[&REGISTER[..], &["3s", "--", "sleep", "600"]].concat());
    until("registered", || server.get(WEB1), |web| web.status == 200).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.get(WEB1).await.json["effectiveHealth"], "passing");
    kept.signal(rustix::process::Signal::TERM);
    assert_eq!(kept.0.wait().unwrap().code(), Some(128 + 15), "as a shell tells of SIGTERM");
    assert_eq!(server.get(WEB1).await.status, 404);

    let (code, _, err) = server.cli(&["register", "prod/web", "-a", "10.0.0.1", "--", "/no/such/command"]);
    assert!(code == 1 && err.contains("/no/such/command"), "{err}");
    assert_eq!(server.get("/v1/sessions").await.json["items"], json!([]));
    assert_eq!(server.cli(&["register", "prod/web", "-a", "10.0.0.1", "--grace", "5s"]).0, 1);
    assert_eq!(server.cli(&["register", "prod/web", "-a", "10.0.0.1", "--ttl", "2s"]).0, 1);
}

#[test]
fn a_command_ends_in_order_also_while_the_registry_is_silent() {
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let child = Command::new(binary())
        .args([&REGISTER[..], &["3s", "--", "sh", "-c", script]].concat())
        .env("FINGERPOST_SERVER", format!("http://{}", silent.local_addr().unwrap()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut kept = Running(child.expect("start"));
    let mut line = String::new();
    BufReader::new(kept.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    kept.signal(rustix::process::Signal::TERM);
    assert_eq!(kept.0.wait().unwrap().code(), Some(9), "it was told, and ended by itself");
}
