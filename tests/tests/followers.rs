//! Writes that wait until everybody shows them, and the DNS servers apart from the registry that are waited for.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_client::catalog::document::InstanceDocument;
use fingerpost_client::catalog::{InstanceKey, Position, Source};
use fingerpost_client::{Error, Follower, Guard, HttpRegistry, Registry, Reported};
use fingerpost_tests::etcd::EtcdCluster;
use fingerpost_tests::replicas::Replicas;
use fingerpost_tests::{Answer, Server};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const WEB: &str = "/v1/namespaces/prod/services/web/instances";
const NAME: &str = "web.prod.svc.cluster.local";

/// Asks until it is so; a test that waits in vain is ended by its own limit.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{what}");
}

fn body(address: &str) -> Value {
    json!({"addresses": [address]})
}

fn ids<'a>(document: &'a Value, field: &str) -> Vec<&'a str> {
    let list = document[field].as_array().unwrap_or_else(|| panic!("no {field} in {document}"));
    list.iter().map(|item| item["id"].as_str().unwrap()).collect()
}

/// What a follower says.
async fn report(server: &Server, id: &str, run: &str, sequence: u64, position: Option<&str>) -> Answer {
    let report = json!({"kind": "test", "run": run, "sequence": sequence, "position": position});
    server.post(&format!("/v1/followers/{id}"), report).await
}

async fn answers(server: &Server, name: &str) -> (String, Vec<String>) {
    let reply = server.ask(name, "A").await;
    (reply.rcode, reply.answers.into_iter().map(|line| line.data).collect())
}

/// A DNS server that follows, with its data in a folder of its own.
struct Dns {
    server: Server,
    data: PathBuf,
    _folder: TempDir,
}

impl Dns {
    async fn start(registry: &str, id: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let server = Server::start_dns(registry, &data, &["--follower-id", id]);
        let dns = Self { server, data, _folder: folder };
        dns.ready().await;
        dns
    }

    async fn ready(&self) {
        until("the DNS server is ready", async || self.server.get("/readyz").await.status == 200).await;
    }
}

#[tokio::test]
async fn every_write_can_wait_and_says_what_came_of_it() {
    let server = Server::start();
    let visible = |answer: &Answer| {
        assert!(answer.status < 300, "{answer:?}");
        assert_eq!((&answer.json["visible"], &answer.json["lagging"]), (&json!(true), &json!([])), "{answer:?}");
    };
    let put = server.put(&format!("{WEB}/a?wait=visible"), body("10.0.0.1")).await;
    visible(&put);
    assert_eq!((put.status, &put.json["id"]), (201, &json!("a")), "what else the reply has stays: {put:?}");
    assert!(put.etag.is_some());
    assert_eq!(answers(&server, NAME).await.1, ["10.0.0.1"]);
    // The same again makes no position, and waits for the present one.
    visible(&server.put(&format!("{WEB}/a?wait=visible&timeout=2s"), body("10.0.0.1")).await);
    visible(&server.patch(&format!("{WEB}/a?timeout=2&wait=visible"), json!({"weight": 7})).await);
    visible(&server.put(&format!("{WEB}/a/health?wait=visible"), json!({"health": "warning"})).await);
    visible(&server.put(&format!("{WEB}/a/drain?source=api&wait=visible"), json!({})).await);
    visible(&server.delete(&format!("{WEB}/a/drain?wait=visible")).await);
    visible(&server.put("/v1/namespaces/prod?wait=visible", json!({})).await);
    visible(&server.put("/v1/namespaces/prod/services/web?wait=visible", json!({})).await);
    let set = json!({"items": [{"id": "b", "addresses": ["10.0.0.2"]}]});
    visible(&server.put(&format!("{WEB}?source=api%2Fteam&wait=visible"), set).await);
    let batch = json!({"operations": [{"op": "put", "kind": "namespace", "object": {"name": "test"}}]});
    visible(&server.post("/v1/batch?wait=visible", batch.clone()).await);
    visible(&server.post("/v1/batch?atomic=false&wait=visible", batch).await);
    let session = server.post("/v1/sessions?wait=visible", json!({})).await;
    visible(&session);
    visible(&server.delete(&format!("/v1/sessions/{}?wait=visible", session.json["id"].as_str().unwrap())).await);
    visible(&server.delete("/v1/sources/api%2Fteam?wait=visible").await);
    let removed = server.delete(&format!("{WEB}/a?wait=visible")).await;
    visible(&removed);
    assert!(removed.json["revision"].is_string());

    // What was refused was not waited for.
    assert_eq!(server.delete(&format!("{WEB}/a?wait=visible")).await.status, 404);
    for (query, parameter) in [
        ("wait=always", "wait"),
        ("wait=visible&timeout=61", "timeout"),
        ("wait=visible&timeout=soon", "timeout"),
        ("timeout=5", "timeout"),
        ("wait=visible&wait=visible", "query"),
        ("wait=visible&x=1", "query"),
    ] {
        let refused = server.put(&format!("{WEB}/a?{query}"), body("10.0.0.1")).await;
        assert_eq!((refused.status, &refused.json["parameter"]), (400, &json!(parameter)), "{query}: {refused:?}");
    }
    assert_eq!(server.get(&format!("{WEB}?wait=visible")).await.status, 400);
    assert_eq!(server.post("/v1/sessions/renew?wait=visible", json!({"ids": ["x"]})).await.status, 400);
    assert_eq!(server.get(&format!("{WEB}/a")).await.status, 404, "nothing of all that was written");
}

#[tokio::test]
async fn followers_are_waited_for_and_named() {
    let server = Server::start();
    let first = server.put(&format!("{WEB}/a"), body("10.0.0.1")).await.json["revision"].as_str().unwrap().to_owned();
    assert_eq!(report(&server, "f", "r1", 1, Some(&first)).await.status, 200);

    // Written, and late.
    let late = server.put(&format!("{WEB}/a?wait=visible&timeout=200ms"), body("10.0.0.2")).await;
    assert_eq!((late.status, &late.json["visible"]), (200, &json!(false)), "{late:?}");
    assert_eq!(ids(&late.json, "lagging"), ["f"], "{late:?}");
    let lagging = &late.json["lagging"][0];
    assert_eq!((&lagging["kind"], &lagging["revision"]), (&json!("test"), &json!(first)), "{late:?}");
    assert_eq!(lagging["lag"], 1, "{late:?}");
    let status = server.get("/v1/status").await;
    assert_eq!((ids(&status.json, "followers"), &status.json["followers"][0]["lag"]), (vec!["f"], &json!(1)));
    // The present position is waited for, too, where nothing changes.
    let same = server.put(&format!("{WEB}/a?wait=visible&timeout=100ms"), body("10.0.0.2")).await;
    assert_eq!((same.status, &same.json["visible"]), (200, &json!(false)), "{same:?}");

    // It comes while somebody waits.
    let now = late.json["revision"].as_str().unwrap();
    let again = format!("{WEB}/a?wait=visible&timeout=60s");
    let (waited, _) = tokio::join!(server.put(&again, body("10.0.0.2")), report(&server, "f", "r1", 2, Some(now)));
    assert_eq!(waited.json["visible"], true, "{waited:?}");
    // Held up on its way, this is old news.
    assert_eq!(report(&server, "f", "r1", 1, Some(&first)).await.status, 200);
    assert_eq!(server.put(&again, body("10.0.0.2")).await.json["visible"], true);

    // What no reader is told of, no follower can have been told of.
    let session = server.post("/v1/sessions?wait=visible&timeout=60s", json!({})).await;
    assert_eq!((session.status, &session.json["visible"]), (201, &json!(true)), "{session:?}");

    // Another history is none of this one's positions.
    assert_eq!(report(&server, "f", "r2", 1, Some("00000000deadbeef-900")).await.status, 200);
    let foreign = server.put(&format!("{WEB}/a?wait=visible&timeout=100ms"), body("10.0.0.3")).await;
    assert_eq!((ids(&foreign.json, "lagging"), &foreign.json["lagging"][0]["lag"]), (vec!["f"], &Value::Null));
    // It leaves, and nobody waits any more.
    assert_eq!(report(&server, "f", "r2", 2, None).await.status, 200);
    let left = server.put(&format!("{WEB}/a?wait=visible&timeout=60s"), body("10.0.0.4")).await;
    assert_eq!((&left.json["visible"], &left.json["departed"]), (&json!(true), &json!([])), "{left:?}");

    let long = "x".repeat(254);
    for (id, body, status) in [
        (&*long, json!({"kind": "test", "run": "r"}), 400),
        ("a%2Fb", json!({"kind": "test", "run": "r"}), 400),
        ("a", json!({"kind": "No kind", "run": "r"}), 422),
        ("a", json!({"kind": "test", "run": ""}), 422),
        ("a", json!({"kind": "test", "run": "x".repeat(65)}), 422),
        ("a", json!({"kind": "test", "run": "r", "version": "x".repeat(65)}), 422),
        ("a", json!({"kind": "test", "run": "r", "position": "7"}), 400),
        ("a", json!({"kind": "test", "run": "r", "shows": true}), 400),
    ] {
        let refused = server.post(&format!("/v1/followers/{id}"), body.clone()).await;
        assert_eq!(refused.status, status, "{id} {body}: {refused:?}");
    }
    let form = server.send(Method::POST, "/v1/followers/a", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(form.status, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_server_and_says_so() {
    let mut server = Server::start();
    let first = server.put(&format!("{WEB}/a"), body("10.0.0.1")).await.json["revision"].as_str().unwrap().to_owned();
    report(&server, "f", "r", 1, Some(&first)).await;
    let client = reqwest::Client::new();
    let put = client.put(format!("{}{WEB}/a?wait=visible&timeout=60s", server.url)).json(&body("10.0.0.2"));
    let waiting = tokio::spawn(put.send());
    until("it is written", async || server.get(&format!("{WEB}/a")).await.json["revision"] != json!(first)).await;
    assert!(server.terminate().success());
    let reply = waiting.await.unwrap().unwrap();
    assert_eq!(reply.status(), 200);
    let seen: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    assert_eq!((&seen["visible"], &seen["addresses"]), (&json!(false), &json!(["10.0.0.2"])), "{seen}");
    let own = &seen["lagging"][0];
    assert_eq!((&own["kind"], &own["detail"]), (&json!("replica"), &json!("it shuts down, and waits no longer")));
    assert!(ids(&seen, "lagging").contains(&"f"), "{seen}");
}

#[tokio::test]
async fn a_follower_that_falls_silent_departs() {
    let server = Server::start();
    let first = server.put(&format!("{WEB}/a"), body("10.0.0.1")).await.json["revision"].as_str().unwrap().to_owned();
    report(&server, "f", "r", 1, Some(&first)).await;
    let waited = server.put(&format!("{WEB}/a?wait=visible&timeout=60s"), body("10.0.0.2")).await;
    assert_eq!((&waited.json["visible"], ids(&waited.json, "departed")), (&json!(true), vec!["f"]), "{waited:?}");
    let status = server.get("/v1/status").await;
    assert_eq!(status.json["followers"][0]["departed"], true);
    // It is back, and counts.
    report(&server, "f", "r", 2, Some(&first)).await;
    let back = server.put(&format!("{WEB}/a?wait=visible&timeout=100ms"), body("10.0.0.2")).await;
    assert_eq!((ids(&back.json, "lagging"), ids(&back.json, "departed").len()), (vec!["f"], 0), "{back:?}");
}

#[tokio::test]
async fn the_library_writes_reports_and_reads_fresh() {
    let server = Server::start();
    let registry = HttpRegistry::connect(&server.url).unwrap();
    let instance = |address: [u8; 4]| InstanceDocument {
        namespace: Some("prod".to_owned()),
        service: Some("web".to_owned()),
        id: Some("a".to_owned()),
        addresses: vec![address.into()],
        ..InstanceDocument::default()
    };
    let source = Source::api();
    let one = instance([10, 0, 0, 1]);
    let put = async |registry: HttpRegistry| registry.put_instance(&source, &one, Guard::None).await;
    let (written, seen) = registry.visibly(Duration::from_secs(30), put).await.unwrap();
    assert!(seen.visible && written.created);

    let reporter =
        registry.report_as(Follower { id: "me".to_owned(), kind: "test".to_owned(), version: "1".to_owned() }).unwrap();
    let mut reported = reporter.reported();
    reporter.shows(written.revision);
    let is_known = |now: &Reported, wanted: Position| matches!(now, Reported::At(at) if *at == wanted);
    reported.wait_for(|now| is_known(now, written.revision)).await.unwrap();
    let two = instance([10, 0, 0, 2]);
    let put = async |registry: HttpRegistry| registry.put_instance(&source, &two, Guard::None).await;
    let (second, seen) = registry.visibly(Duration::from_millis(100), put).await.unwrap();
    assert!(!seen.visible && seen.lagging[0].id == "me" && seen.lagging[0].version == "1", "{seen:?}");
    // Positions that come faster than replies are told by the last of them.
    for number in 0..=second.revision.number {
        reporter.shows(Position::new(second.revision.epoch, number));
    }
    let key =
        InstanceKey { namespace: "prod".into(), service: Some("web".into()), source: source.clone(), id: "a".into() };
    let delete = async |registry: HttpRegistry| registry.delete_instance(&key, Guard::None).await;
    reported.wait_for(|now| is_known(now, second.revision)).await.unwrap();
    let (third, seen) = registry.visibly(Duration::from_millis(100), delete).await.unwrap();
    assert!(!seen.visible);
    reporter.leave().await;
    assert_eq!(server.get("/v1/status").await.json["followers"], json!([]));

    // Reads of single objects can ask for a position, as lists do.
    let fresh = registry.at_least(third);
    assert!(matches!(fresh.get_instance(&key).await, Err(Error::NotFound { .. })));
    let foreign = registry.at_least("00000000deadbeef-1".parse().unwrap());
    assert!(matches!(foreign.get_instance(&key).await, Err(Error::Gone { .. })));
    assert!(matches!(foreign.get_service("prod", "web").await, Err(Error::Gone { .. })));
    assert!(matches!(foreign.find_instance("prod", Some("web"), "a").await, Err(Error::Gone { .. })));
}

#[tokio::test]
async fn the_command_line_waits_and_names_who_is_late() {
    let server = Server::start();
    let (code, _, errors) = server.cli(&["register", "prod/web", "-a", "10.0.0.1", "--id", "a", "--wait"]);
    assert_eq!(code, 0, "{errors}");
    let revision = server.get(&format!("{WEB}/a")).await.json["revision"].as_str().unwrap().to_owned();
    report(&server, "slow", "r", 1, Some(&revision)).await;
    let (code, out, errors) = server.cli(&["register", "prod/web", "-a", "10.0.0.2", "--id", "a", "--wait=200ms"]);
    assert_eq!(code, 2, "{out}{errors}");
    assert!(
        out.contains("registered prod/web/a") && errors.contains("test slow does not show it yet"),
        "{out}{errors}"
    );
    let (_, out, _) = server.cli(&["status"]);
    assert!(out.contains("test slow: 1 position behind"), "{out}");
    let (code, ..) = server.cli(&["drain", "prod/web/a", "--wait=100ms"]);
    assert_eq!(code, 2);
    report(&server, "slow", "r", 2, None).await;
    let (code, _, errors) = server.cli(&["deregister", "prod/web", "--all", "--wait"]);
    assert_eq!(code, 0, "{errors}");
    let (code, _, errors) = server.cli(&["register", "web", "-a", "10.0.0.1", "--ttl", "15s", "--wait"]);
    assert!(code == 1 && errors.contains("--wait"), "{errors}");
}

#[tokio::test]
async fn a_dns_server_apart_answers_what_was_written_before_the_reply() {
    let registry = Server::start();
    let service = "/v1/namespaces/prod/services";
    registry.put(&format!("{service}/web"), json!({"ports": [{"name": "http", "port": 80}], "ttl": 7})).await;
    registry.put(&format!("{WEB}/a"), body("10.0.0.1")).await;
    let dns = Dns::start(&registry.url, "dns-1").await;
    assert_eq!(answers(&dns.server, NAME).await, ("NOERROR".to_owned(), vec!["10.0.0.1".to_owned()]));
    let srv = dns.server.ask("_http._tcp.web.prod.svc.cluster.local", "SRV").await;
    assert_eq!((srv.answers.len(), srv.answers[0].ttl), (1, 7), "{srv:?}");

    for n in 2..=60u8 {
        let address = format!("10.0.0.{n}");
        let put = registry.put(&format!("{WEB}/a?wait=visible&timeout=60s"), body(&address)).await;
        assert_eq!(put.json["visible"], true, "{put:?}");
        assert_eq!(answers(&dns.server, NAME).await.1, [address]);
    }
    // All that a registry's own DNS makes of these, the other one makes of them, too.
    registry.put(&format!("{WEB}/sick"), json!({"addresses": ["10.0.1.1"], "health": "critical"})).await;
    registry.put(&format!("{WEB}/waits"), json!({"addresses": ["10.0.1.2"], "conditions": {"ready": false}})).await;
    registry.put(&format!("{WEB}/out"), body("10.0.1.3")).await;
    registry.put(&format!("{WEB}/out/drain"), json!({})).await;
    registry.put(&format!("{service}/vip"), json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.7"]})).await;
    registry.put(&format!("{service}/alias"), json!({"type": "ExternalName", "externalName": "example.com"})).await;
    registry.put(&format!("{service}/bad"), json!({"allCritical": "all", "publishNotReady": true})).await;
    for (id, extra) in [
        ("x", json!({"addresses": ["10.0.2.1"], "health": "critical"})),
        ("y", json!({"addresses": ["10.0.2.2"], "health": "critical", "conditions": {"ready": false}})),
        ("z", json!({"addresses": ["10.0.2.3"], "health": "critical"})),
    ] {
        registry.put(&format!("{service}/bad/instances/{id}"), extra).await;
    }
    registry.put(&format!("{service}/bad/instances/z/drain"), json!({})).await;
    let last = registry.put("/v1/namespaces/empty?wait=visible&timeout=60s", json!({})).await;
    assert_eq!(last.json["visible"], true, "{last:?}");
    for name in [
        NAME,
        "sick.web.prod.svc.cluster.local",
        "waits.web.prod.svc.cluster.local",
        "out.web.prod.svc.cluster.local",
        "vip.prod.svc.cluster.local",
        "alias.prod.svc.cluster.local",
        "bad.prod.svc.cluster.local",
        "empty.svc.cluster.local",
        "nobody.svc.cluster.local",
        "10-0-0-1.prod.pod.cluster.local",
    ] {
        let sorted = |(rcode, mut data): (String, Vec<String>)| {
            data.sort();
            (rcode, data)
        };
        let expected = sorted(answers(&registry, name).await);
        assert_eq!(sorted(answers(&dns.server, name).await), expected, "{name}");
    }

    // It tells of itself, and the registry of it.
    let status = registry.get("/v1/status").await;
    let follower = &status.json["followers"][0];
    assert_eq!((&follower["id"], &follower["kind"], &follower["lag"]), (&json!("dns-1"), &json!("dns"), &json!(0)));
    let metrics = dns.server.get("/metrics").await.text;
    assert!(metrics.contains("fingerpost_following 1") && metrics.contains("fingerpost_dns_"), "{metrics}");
    assert_eq!(dns.server.get("/livez").await.text, "ok\n");
    let (code, out, errors) = dns.server.cli(&["explain", "sick.web.prod"]);
    assert!(code == 0 && out.contains("critical"), "{out}{errors}");
    let (code, out, errors) = dns.server.cli(&["status"]);
    assert!(code == 0 && out.contains("as dns-1") && out.contains("as of "), "{out}{errors}");
    let foreign = dns.server.send(Method::GET, "/v1/status", &[("host", "evil.example")], "").await;
    assert_eq!(foreign.status, 421);
}

#[tokio::test]
async fn a_dns_server_that_stands_still_or_dies_is_named_and_then_not_waited_for() {
    let registry = Server::start();
    let mut dns = Dns::start(&registry.url, "dns-1").await;
    let quick = format!("{WEB}/a?wait=visible&timeout=300ms");
    assert_eq!(registry.put(&format!("{WEB}/a?wait=visible"), body("10.0.0.1")).await.json["visible"], true);
    dns.server.stop();
    let late = registry.put(&quick, body("10.0.0.2")).await;
    assert_eq!((late.status, ids(&late.json, "lagging")), (200, vec!["dns-1"]), "{late:?}");
    dns.server.cont();
    let caught_up = registry.put(&format!("{WEB}/a?wait=visible&timeout=60s"), body("10.0.0.2")).await;
    assert_eq!(
        (&caught_up.json["visible"], ids(&caught_up.json, "departed").len()),
        (&json!(true), 0),
        "{caught_up:?}"
    );
    assert_eq!(answers(&dns.server, NAME).await.1, ["10.0.0.2"]);

    dns.server.kill();
    let dead = registry.put(&quick, body("10.0.0.3")).await;
    assert_eq!((dead.status, ids(&dead.json, "lagging")), (200, vec!["dns-1"]), "{dead:?}");
    let departed = registry.put(&format!("{WEB}/a?wait=visible&timeout=60s"), body("10.0.0.4")).await;
    assert_eq!((&departed.json["visible"], ids(&departed.json, "departed")), (&json!(true), vec!["dns-1"]));

    // Back with what its disk has and what is new; in order, it leaves without a trace.
    let again = Server::start_dns(&registry.url, &dns.data, &["--follower-id", "dns-1"]);
    until("it is back", async || again.get("/readyz").await.status == 200).await;
    assert_eq!(answers(&again, NAME).await.1, ["10.0.0.4"]);
    let mut again = again;
    assert!(again.terminate().success());
    let left = registry.put(&format!("{WEB}/a?wait=visible&timeout=60s"), body("10.0.0.5")).await;
    assert_eq!((&left.json["visible"], ids(&left.json, "departed").len()), (&json!(true), 0), "{left:?}");
}

#[tokio::test]
async fn a_dns_server_answers_from_its_disk_while_the_registry_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("dns");
    // Nobody has ever told it anything.
    let lost = Server::start_dns("http://127.0.0.1:9", &data, &[]);
    assert_eq!(answers(&lost, NAME).await.0, "SERVFAIL");
    assert_eq!(answers(&lost, "nobody.prod.svc.cluster.local").await.0, "SERVFAIL");
    assert_eq!(lost.get("/readyz").await.status, 503);
    // A second one on the same data would write over what the first one keeps.
    let mut second = Server::command_dns("http://127.0.0.1:9", &data, &[]);
    assert!(!second.output().unwrap().status.success());
    drop(lost);

    let mut registry = Server::start();
    registry.put("/v1/namespaces/prod/services/web", json!({"ttl": 9})).await;
    registry.put(&format!("{WEB}/a"), body("10.0.0.1")).await;
    registry.put(&format!("{WEB}/b"), json!({"addresses": ["10.0.0.2"], "health": "critical"})).await;
    let mut dns = Server::start_dns(&registry.url, &data, &[]);
    until("it follows", async || answers(&dns, NAME).await.1 == ["10.0.0.1"]).await;
    until("it is kept", async || data.join("catalog.ndjson").exists()).await;
    // What changed after that is not lost where it ends in order.
    assert_eq!(registry.put(&format!("{WEB}/c?wait=visible"), body("10.0.0.3")).await.json["visible"], true);
    assert!(dns.terminate().success());
    registry.kill();

    let alone = Server::start_dns(&registry.url, &data, &[]);
    until("it answers alone", async || alone.get("/readyz").await.status == 200).await;
    let reply = alone.ask(NAME, "A").await;
    let mut data_of: Vec<_> = reply.answers.iter().map(|line| (line.data.as_str(), line.ttl)).collect();
    data_of.sort_unstable();
    assert_eq!(data_of, [("10.0.0.1", 9), ("10.0.0.3", 9)]);
    assert_eq!(answers(&alone, "nobody.prod.svc.cluster.local").await.0, "NXDOMAIN");
    let ready = alone.get("/readyz").await.text;
    assert!(ready.contains("[!] registry no word from the registry; what is answered is"), "{ready}");
    assert_eq!(alone.get("/v1/status").await.json["following"]["synced"], false);

    // The registry is back, and everything goes on.
    let registry = registry.again_on_same_ports();
    registry.delete(&format!("{WEB}/a")).await;
    until("it follows again", async || answers(&alone, NAME).await.1 == ["10.0.0.3"]).await;
    until("it says so", async || !alone.get("/readyz").await.text.contains("[!]")).await;
    drop(alone);

    // Half a file is none.
    let kept = data.join("catalog.ndjson");
    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, &text[..text.len() - 10]).unwrap();
    let broken = Server::start_dns("http://127.0.0.1:9", &data, &[]);
    assert_eq!(answers(&broken, NAME).await.0, "SERVFAIL");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_wait_for_each_other_and_for_each_others_followers() {
    let mut cluster = Replicas::start(EtcdCluster::one().await, 2, &[]).await;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(90)).build().unwrap();
    let put = async |url: &str, query: &str, address: &str| -> Value {
        let reply = client.put(format!("{url}{WEB}/a?{query}")).json(&body(address)).send().await.unwrap();
        assert!(reply.status().is_success(), "{}", reply.status());
        serde_json::from_str(&reply.text().await.unwrap()).unwrap()
    };
    let [a, b] = [0, 1].map(|n: usize| cluster.replicas[n].url.clone());
    let dns = Dns::start(&b, "behind-b").await;
    let both = Dns::start(&format!("{b},{a}"), "behind-both").await;
    for n in 1..=40u8 {
        let address = format!("10.0.0.{n}");
        let written = put(&a, "wait=visible&timeout=60s", &address).await;
        assert_eq!(written["visible"], true, "{written}");
        for server in [&dns.server, &both.server] {
            assert_eq!(answers(server, NAME).await.1, std::slice::from_ref(&address));
        }
        let reply = cluster.replicas[1].ask(NAME, "A").await.unwrap();
        assert_eq!(reply.answers[0].data, address);
    }

    // A follower of the other replica that stands still is named, with who hears it.
    dns.server.stop();
    let late = put(&a, "wait=visible&timeout=300ms", "10.0.1.1").await;
    assert_eq!((ids(&late, "lagging"), late["visible"].clone()), (vec!["behind-b"], json!(false)), "{late}");
    assert!(late["lagging"][0]["replica"].is_string(), "{late}");
    dns.server.cont();
    assert_eq!(put(&a, "wait=visible&timeout=60s", "10.0.1.2").await["visible"], true);
    let status: Value =
        serde_json::from_str(&client.get(format!("{a}/v1/status")).send().await.unwrap().text().await.unwrap())
            .unwrap();
    assert_eq!(ids(&status, "followers"), ["behind-b", "behind-both"]);

    // A replica that the others can't reach is named, and waited for once it is there again.
    cluster.replicas[1].from_peers.cut();
    let cut = put(&a, "wait=visible&timeout=500ms", "10.0.1.3").await;
    assert_eq!(cut["visible"], false, "{cut}");
    assert!(cut["lagging"].as_array().unwrap().iter().any(|one| one["kind"] == "replica"), "{cut}");
    cluster.replicas[1].from_peers.heal();
    assert_eq!(put(&a, "wait=visible&timeout=60s", "10.0.1.4").await["visible"], true);

    // It dies: one of the followers goes on with the other replica, and the one that can't departs.
    cluster.replicas[1].kill();
    let moved = async || {
        let written = put(&a, "wait=visible&timeout=60s", "10.0.1.5").await;
        written["visible"] == true && ids(&written, "departed") == ["behind-b"]
    };
    until("the one that is left departs", moved).await;
    let written = put(&a, "wait=visible&timeout=60s", "10.0.1.6").await;
    assert_eq!(written["visible"], true, "{written}");
    assert_eq!(answers(&both.server, NAME).await.1, ["10.0.1.6"]);
    assert_eq!(answers(&dns.server, NAME).await.0, "NOERROR", "old answers are better than none");
}
