//! Several replicas over one etcd: what a client of any of them sees, also while etcd is away, full or restored.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::Server;
use fingerpost_tests::etcd::{EtcdCluster, Setup};
use fingerpost_tests::events::Parser;
use fingerpost_tests::replicas::Replicas;
use futures_util::StreamExt;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::time::Duration;

fn client() -> Client {
    Client::builder().timeout(Duration::from_secs(30)).build().unwrap()
}

async fn get(url: &str, path: &str) -> (u16, Value) {
    let reply = client().get(format!("{url}{path}")).send().await.unwrap();
    let status = reply.status().as_u16();
    (status, serde_json::from_str(&reply.text().await.unwrap()).unwrap_or_default())
}

async fn text(url: &str, path: &str) -> String {
    client().get(format!("{url}{path}")).send().await.unwrap().text().await.unwrap()
}

async fn try_put(url: &str, id: &str, address: &str) -> Response {
    let path = format!("{url}/v1/namespaces/prod/services/web/instances/{id}");
    client().put(path).json(&json!({"addresses": [address]})).send().await.unwrap()
}

/// Registers an instance; the position that this made.
async fn put(url: &str, id: &str, address: &str) -> String {
    let reply = try_put(url, id, address).await;
    let (status, text) = (reply.status(), reply.text().await.unwrap());
    assert!(status.is_success(), "{status}: {text}");
    let instance: Value = serde_json::from_str(&text).unwrap();
    instance["revision"].as_str().unwrap().to_owned()
}

/// Asks until it is so; a test that waits in vain is ended by its own limit.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{what}");
}

async fn ids(url: &str) -> Vec<String> {
    let (status, list) = get(url, "/v1/namespaces/prod/services/web/instances").await;
    assert_eq!(status, 200, "{list}");
    list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_through_one_is_read_through_the_other() {
    let cluster = Replicas::start(EtcdCluster::one().await, 2, &[]).await;
    let [a, b] = &cluster.replicas[..] else { panic!("two replicas") };
    let made = put(&a.url, "one", "10.0.0.1").await;
    let (status, instance) =
        get(&b.url, &format!("/v1/namespaces/prod/services/web/instances/one?minRevision={made}")).await;
    assert_eq!((status, &instance["revision"]), (200, &json!(made)), "{instance}");
    // What a list shows, DNS shows.
    let reply = b.ask("web.prod.svc.cluster.local", "A").await.unwrap();
    assert!(format!("{reply:?}").contains("10.0.0.1"), "{reply:?}");

    // A guard is judged by what both have written.
    let stale = format!("\"{made}\"");
    let newer = put(&b.url, "one", "10.0.0.2").await;
    assert_ne!(newer, made);
    let path = format!("{}/v1/namespaces/prod/services/web/instances/one", a.url);
    let guarded =
        |tag: String| client().put(&path).header("if-match", tag).json(&json!({"addresses": ["10.0.0.3"]})).send();
    assert_eq!(guarded(stale).await.unwrap().status(), 412);
    assert_eq!(guarded(format!("\"{newer}\"")).await.unwrap().status(), 200);
    // Another history's position is told from one that is to come.
    let (status, _) = get(&b.url, "/v1/instances?minRevision=00000000deadbeef-1").await;
    assert_eq!(status, 410);

    let (_, status) = get(&a.url, "/v1/status").await;
    assert_eq!(status["store"]["backend"], "etcd");
    assert_eq!(status["replicas"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["replica"]["inTouch"], true, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_at_another_replica_where_it_broke_off() {
    let mut cluster = Replicas::start(EtcdCluster::one().await, 2, &[]).await;
    let (a, b) = (cluster.replicas[0].url.clone(), cluster.replicas[1].url.clone());
    put(&a, "one", "10.0.0.1").await;
    let open = async |url: &str, last: Option<String>| {
        let mut request = Client::new().get(format!("{url}/v1/watch?kind=instance&namespace=prod"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        request.send().await.unwrap().bytes_stream()
    };
    let mut stream = open(&a, None).await;
    let (mut parser, mut last) = (Parser::default(), None);
    while last.is_none() {
        let chunk = stream.next().await.unwrap().unwrap();
        last = parser.push(&chunk).into_iter().filter(|event| event.name == "synced").find_map(|event| event.id);
    }
    cluster.replicas[0].kill();
    put(&b, "two", "10.0.0.2").await;
    let mut stream = open(&b, last).await;
    let mut parser = Parser::default();
    let first = loop {
        let chunk = stream.next().await.unwrap().unwrap();
        if let Some(event) = parser.push(&chunk).into_iter().next() {
            break event;
        }
    };
    assert_eq!((first.name.as_str(), &first.data["object"]["id"]), ("put", &json!("two")), "only what was missed");

    // Also where the replica has only just started: its history reaches back before its start.
    cluster.replicas[0].start();
    cluster.replicas[0].ready().await;
    let mut stream = open(&a, first.id).await;
    let mut parser = Parser::default();
    put(&b, "three", "10.0.0.3").await;
    let next = loop {
        let chunk = stream.next().await.unwrap().unwrap();
        if let Some(event) =
            parser.push(&chunk).into_iter().find(|event| !matches!(&*event.name, "bookmark" | "synced"))
        {
            break event;
        }
    };
    assert_eq!((next.name.as_str(), &next.data["object"]["id"]), ("put", &json!("three")));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_etcd_away_reads_and_dns_go_on() {
    // Without a proxy in between, which would take connections where a host that is gone refuses them.
    let mut etcd = EtcdCluster::one().await;
    let server = Server::start_with(&["--store", "etcd", "--etcd-endpoints", &etcd.endpoints().join(",")]);
    let url = server.url.clone();
    put(&url, "one", "10.0.0.1").await;
    etcd.kill(0);
    // Of a write that is on its way when etcd goes, nobody knows; those that come later surely are not applied.
    let first = try_put(&url, "two", "10.0.0.2").await.status().as_u16();
    assert!(matches!(first, 503 | 504), "{first}");
    let refused = try_put(&url, "two", "10.0.0.2").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(ids(&url).await, ["one"]);
    let reply = server.ask("web.prod.svc.cluster.local", "A").await;
    assert!(format!("{reply:?}").contains("10.0.0.1"), "{reply:?}");
    until("status says that there is no word from etcd", || async {
        get(&url, "/v1/status").await.1["store"]["outOfTouchSeconds"].is_number()
    })
    .await;
    let ready = client().get(format!("{url}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 200, "it answers truthfully, and says how old that is");
    let lines = ready.text().await.unwrap();
    assert!(lines.lines().any(|line| line.starts_with("[!]")), "{lines}");
    let metrics = text(&url, "/metrics").await;
    let age = metrics.lines().find(|line| line.starts_with("fingerpost_store_out_of_touch_seconds"));
    assert!(age.is_some_and(|line| !line.ends_with(" 0.0")), "{age:?}");

    etcd.restart(0);
    until("writes succeed again", || async { try_put(&url, "two", "10.0.0.2").await.status().is_success() }).await;
    assert_eq!(ids(&url).await, ["one", "two"]);
    until("it is in touch again", || async { get(&url, "/v1/status").await.1["store"]["outOfTouchSeconds"].is_null() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_cut_off_catches_up() {
    let cluster = Replicas::start(EtcdCluster::one().await, 2, &[]).await;
    let [a, b] = &cluster.replicas[..] else { panic!("two replicas") };
    put(&a.url, "one", "10.0.0.1").await;
    for silent in [false, true] {
        if silent {
            b.freeze_etcd()
        } else {
            b.cut_from_etcd()
        };
        let id = format!("while-{silent}");
        let made = put(&a.url, &id, "10.0.0.2").await;
        let (status, _) = get(&b.url, &format!("/v1/instances?minRevision={made}")).await;
        assert_eq!(status, 504, "it can't know");
        b.heal();
        until("it catches up", || async { ids(&b.url).await.contains(&id) }).await;
        until("and takes writes", || async { try_put(&b.url, "three", "10.0.0.3").await.status().is_success() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_may_start_before_etcd() {
    let mut cluster = Replicas::start(EtcdCluster::one().await, 1, &[]).await;
    put(&cluster.replicas[0].url, "one", "10.0.0.1").await;
    cluster.replicas[0].terminate();
    cluster.etcd.kill(0);
    cluster.replicas[0].start();
    // It has nothing to tell yet, and says so where it is asked at all.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(cluster.replicas[0].runs(), "{}", cluster.replicas[0].log());
    cluster.etcd.restart(0);
    cluster.replicas[0].ready().await;
    assert_eq!(ids(&cluster.replicas[0].url).await, ["one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_under_the_prefix_is_passed_over_and_named() {
    let cluster = Replicas::start(EtcdCluster::one().await, 1, &[]).await;
    let url = &cluster.replicas[0].url;
    put(url, "one", "10.0.0.1").await;
    let mut etcd = cluster.etcd.client().await;
    for (key, value) in [
        ("/fingerpost/v1/records/instances/prod/web/api/broken", "{\"addresses\": 7}"),
        ("/fingerpost/v1/records/not/one/of/ours", "{}"),
        ("/fingerpost/v1/records/instances/prod/web/api/future", "{\"addresses\":[\"10.0.0.9\"],\"fromTheFuture\":1}"),
    ] {
        etcd.put(key, value, None).await.unwrap();
    }
    until("what can be read is shown", || async { ids(url).await.contains(&"future".to_owned()) }).await;
    assert_eq!(ids(url).await, ["future", "one"]);
    let (_, status) = get(url, "/v1/status").await;
    assert_eq!(status["store"]["foreign"], 2, "{status}");
    let named = status["store"]["foreignKeys"].to_string();
    assert!(named.contains("broken") && named.contains("not/one/of/ours"), "{named}");
    // What this version does not know is kept when it writes the record again.
    let health = format!("{url}/v1/namespaces/prod/services/web/instances/future/health");
    let reply = client().put(health).json(&json!({"health": "warning"})).send().await.unwrap();
    assert!(reply.status().is_success(), "{}", reply.text().await.unwrap());
    let stored = etcd.get("/fingerpost/v1/records/instances/prod/web/api/future", None).await.unwrap();
    let stored = stored.kvs()[0].value_str().unwrap();
    assert!(stored.contains("fromTheFuture") && stored.contains("warning"), "{stored}");
    // And a name that another's rubbish holds can be taken.
    put(url, "broken", "10.0.0.2").await;
    assert_eq!(ids(url).await, ["broken", "future", "one"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_writes_until_there_is_room() {
    let etcd = EtcdCluster::start(Setup { quota_bytes: Some(16 << 20), ..Setup::default() }).await;
    let cluster = Replicas::start(etcd, 1, &[]).await;
    let url = &cluster.replicas[0].url;
    put(url, "one", "10.0.0.1").await;
    let mut etcd = cluster.etcd.client().await;
    let mut n = 0;
    while etcd.put(format!("/else/{n}"), vec![b'x'; 1 << 20], None).await.is_ok() {
        n += 1;
    }
    let refused = try_put(url, "two", "10.0.0.2").await;
    assert_eq!(refused.status(), 507, "{}", refused.text().await.unwrap());
    assert_eq!(ids(url).await, ["one"]);
    etcd.delete("/else/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    let head = etcd.get("head", None).await.unwrap().header().unwrap().revision();
    etcd.compact(head, None).await.unwrap();
    cluster.etcd.etcdctl(&["defrag"]);
    cluster.etcd.etcdctl(&["alarm", "disarm"]);
    until("writes succeed again", || async { try_put(url, "two", "10.0.0.2").await.status().is_success() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_begins_another_history() {
    let mut cluster = Replicas::start(EtcdCluster::one().await, 1, &[]).await;
    let url = cluster.replicas[0].url.clone();
    put(&url, "one", "10.0.0.1").await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    cluster.etcd.kill(0);
    cluster.etcd.back_up(0, &backup);
    cluster.etcd.restart(0);
    until("writes succeed", || async { try_put(&url, "lost", "10.0.0.2").await.status().is_success() }).await;
    let (_, before) = get(&url, "/v1/instances").await;

    cluster.etcd.kill(0);
    cluster.etcd.restore(0, &backup);
    cluster.etcd.restart(0);
    until("the restored state is shown", || async { ids(&url).await == ["one"] }).await;
    let (_, after) = get(&url, "/v1/instances").await;
    let epoch = |list: &Value| list["revision"].as_str().unwrap().split_once('-').unwrap().0.to_owned();
    assert_ne!(epoch(&before), epoch(&after));
    let (status, _) = get(&url, &format!("/v1/instances?minRevision={}", before["revision"].as_str().unwrap())).await;
    assert_eq!(status, 410);
    put(&url, "two", "10.0.0.3").await;
    assert_eq!(ids(&url).await, ["one", "two"]);
}

/// etcd takes 1.5 MiB at once, and the registry asks it for 1 MiB at most.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_one_commit_is_split_or_refused_with_the_way_out() {
    let cluster = Replicas::start(EtcdCluster::one().await, 1, &[]).await;
    let url = &cluster.replicas[0].url;
    let labels: serde_json::Map<String, Value> =
        (0..60).map(|n| (format!("{}example/label-{n}", "prefix.".repeat(30)), json!("x".repeat(60)))).collect();
    let item = |n: usize| json!({"id": format!("i-{n:03}"), "addresses": ["10.0.0.1"], "labels": labels});
    let set = json!({"items": (0..100).map(item).collect::<Vec<_>>()});
    assert!(set.to_string().len() > 3 << 19, "more than etcd would take");
    let path = format!("{url}/v1/namespaces/prod/services/web/instances?source=api/big");
    let reply = client().put(path).json(&set).send().await.unwrap();
    let (status, text) = (reply.status(), reply.text().await.unwrap());
    assert!(status == 200 && text.contains("\"added\":100"), "{status}: {text}");

    // What an export has of it comes in again, too.
    let export = client().get(format!("{url}/v1/export")).send().await.unwrap().text().await.unwrap();
    let dropped = client().delete(format!("{url}/v1/sources/api%2Fbig")).send().await.unwrap();
    assert_eq!(dropped.status(), 200);
    let import = client().post(format!("{url}/v1/import")).header("content-type", "application/x-ndjson").body(export);
    let reply = import.send().await.unwrap();
    let (status, text) = (reply.status(), reply.text().await.unwrap());
    assert!(status == 200, "{status}: {text}");
    assert_eq!(ids(url).await.len(), 100);

    // Nobody may split what is to be applied all or none. Names stand in a key and in its record, so that a body of less
    // than 1 MiB comes to more.
    let short: serde_json::Map<String, Value> = labels.into_iter().take(40).collect();
    let operation = |n: usize| {
        let mut object = json!({"namespace": "prod", "service": "web", "addresses": ["10.0.0.2"], "labels": short});
        object["id"] = json!(format!("{n:03}{}", "x".repeat(200)));
        object["ports"] = (1..=40).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        json!({"op": "put", "kind": "instance", "object": object})
    };
    let whole = |count: usize| json!({"operations": (0..count).map(operation).collect::<Vec<_>>()});
    let count = (1..=100).take_while(|count| whole(*count).to_string().len() < 1 << 20).last().unwrap();
    let batch = |more: &str| client().post(format!("{url}/v1/batch{more}")).json(&whole(count)).send();
    let reply = batch("").await.unwrap();
    let (status, refusal) = (reply.status(), reply.json::<Value>().await.unwrap());
    assert_eq!((status.as_u16(), &refusal["pointer"]), (422, &json!("/operations")), "{refusal}");
    let detail = refusal["detail"].as_str().unwrap();
    assert!(detail.contains("1048576 bytes") && detail.contains("?atomic=false"), "{detail}");
    let reply: Value = batch("?atomic=false").await.unwrap().json().await.unwrap();
    let results = reply["results"].as_array().unwrap();
    assert!(results.len() == count && results.iter().all(|one| one["status"] == 201), "{reply}");
}
