//! Sessions and TTL checks over several replicas: news of them reach their home through any replica and cost no write,
//! and no replica's end, standstill or silence ends what is still renewed.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::binary;
use fingerpost_tests::etcd::EtcdCluster;
use fingerpost_tests::replicas::{Replica, Replicas};
use reqwest::{Client, Method};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Of the sessions and the TTL checks here, in seconds.
const TTL: u64 = 6;
const WEB1: &str = "/v1/namespaces/prod/services/web/instances/web-1";

async fn call(replica: &Replica, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    let mut request = client.request(method, format!("{}{path}", replica.url));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let reply = request.send().await.unwrap();
    let status = reply.status().as_u16();
    (status, serde_json::from_str(&reply.text().await.unwrap()).unwrap_or_default())
}

async fn get(replica: &Replica, path: &str) -> Value {
    call(replica, Method::GET, path, None).await.1
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn sees(replica: &Replica, count: usize) {
    let seen = async || {
        let status = get(replica, "/v1/status").await;
        status["replicas"].as_array().unwrap().len() == count && status["replica"]["inTouch"] == true
    };
    until(&format!("{count} replicas"), seen).await;
}

async fn two() -> Replicas {
    let cluster = Replicas::start(EtcdCluster::one().await, 2, &[]).await;
    for replica in &cluster.replicas {
        sees(replica, 2).await;
    }
    cluster
}

/// How far etcd has counted: whatever anybody writes moves it.
async fn revision(cluster: &Replicas) -> i64 {
    cluster.etcd.client().await.get("/", None).await.unwrap().header().unwrap().revision()
}

/// Begins a session with an instance that hangs on it; its id, and which replica is its home.
async fn begin(cluster: &Replicas) -> (String, usize) {
    let [first, second] = &cluster.replicas[..] else { panic!("two replicas") };
    let asked = json!({"ttlSeconds": TTL, "graceSeconds": 60});
    let (status, made) = call(first, Method::POST, "/v1/sessions", Some(asked)).await;
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    let at_first = get(first, "/v1/status").await["replica"]["id"] == made["home"];
    let instance = json!({"addresses": ["10.0.0.1"], "session": id});
    let (status, web) = call(first, Method::PUT, WEB1, Some(instance)).await;
    assert_eq!(status, 201, "{web}");
    until("both show it", async || get(second, WEB1).await["effectiveHealth"] == "passing").await;
    (id, usize::from(!at_first))
}

async fn renew(replica: &Replica, id: &str) {
    let (status, renewed) = call(replica, Method::POST, "/v1/sessions/renew", Some(json!({"ids": [id]}))).await;
    assert_eq!((status, &renewed["items"][0]["state"]), (200, &json!("alive")), "{renewed}");
}

/// Renews through one replica after the other, for so many TTLs.
async fn keep(replicas: &[&Replica], id: &str, ttls: u64) {
    let begun = Instant::now();
    let mut turn = replicas.iter().cycle();
    while begun.elapsed() < Duration::from_secs(ttls * TTL) {
        renew(turn.next().unwrap(), id).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Nothing has moved the session's state since it began, by the word of this replica.
async fn never_ended(replica: &Replica, id: &str, begun: &Value) {
    let session = get(replica, &format!("/v1/sessions/{id}")).await;
    assert_eq!((&session["state"], &session["since"]), (&json!("alive"), &begun["since"]), "{session}");
    assert_eq!(get(replica, WEB1).await["effectiveHealth"], "passing");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_and_reports_through_any_replica_cost_no_write() {
    let cluster = two().await;
    let (id, home) = begin(&cluster).await;
    let (home, other) = (&cluster.replicas[home], &cluster.replicas[1 - home]);
    let begun = get(other, &format!("/v1/sessions/{id}")).await;
    let before = revision(&cluster).await;
    keep(&[home, other], &id, 3).await;
    assert_eq!(revision(&cluster).await, before, "not one write");
    never_ended(other, &id, &begun).await;

    // Where the home can't be reached by the other one, its renewals are written.
    home.from_peers.cut();
    keep(&[other], &id, 3).await;
    assert!(revision(&cluster).await > before);
    never_ended(home, &id, &begun).await;
    home.from_peers.heal();

    // A TTL check that is reported only through the replica at which it is not at home.
    let path = "/v1/namespaces/prod/services/web/instances/web-2";
    let check = json!({"name": "beat", "type": "ttl", "ttlSeconds": TTL});
    let instance = json!({"addresses": ["10.0.0.2"], "checks": [check]});
    assert_eq!(call(home, Method::PUT, path, Some(instance)).await.0, 201);
    let mut at = None;
    until("its home", async || {
        at = None;
        for (n, replica) in cluster.replicas.iter().enumerate() {
            if get(replica, "/v1/status").await["checks"]["home"] == 1 {
                at = Some(n);
            }
        }
        at.is_some()
    })
    .await;
    let (home, other) = (&cluster.replicas[at.unwrap()], &cluster.replicas[1 - at.unwrap()]);
    until("both know it", async || get(other, path).await["id"] == "web-2").await;
    let report = async || {
        let beat = format!("{path}/checks/beat");
        let (status, reported) = call(other, Method::PUT, &beat, Some(json!({"health": "passing"}))).await;
        assert_eq!(status, 200, "{reported}");
    };
    report().await;
    until("passing", async || get(home, path).await["effectiveHealth"] == "passing").await;
    // Nobody renews the session meanwhile: its end is a write, so it goes first.
    assert_eq!(call(home, Method::DELETE, &format!("/v1/sessions/{id}"), None).await.0, 200);
    report().await;
    let before = revision(&cluster).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3 * TTL) {
        report().await;
        assert_eq!(get(home, path).await["effectiveHealth"], "passing");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(revision(&cluster).await, before, "not one write");
    until("overdue", async || get(other, path).await["effectiveHealth"] == "critical").await;
}

/// Begins so many sessions that nobody will renew; their ids.
async fn abandon(replica: &Replica, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let asked = json!({"ttlSeconds": TTL, "graceSeconds": 60});
        let (status, made) = call(replica, Method::POST, "/v1/sessions", Some(asked)).await;
        assert_eq!(status, 201, "{made}");
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    // Once all together, so that on a slow machine they are overdue together, too.
    let (status, renewed) = call(replica, Method::POST, "/v1/sessions/renew", Some(json!({"ids": ids}))).await;
    assert_eq!(status, 200, "{renewed}");
    ids
}

async fn states(replica: &Replica, ids: &[String]) -> Vec<String> {
    let mut states = Vec::new();
    for id in ids {
        let session = get(replica, &format!("/v1/sessions/{id}")).await;
        states.push(session["state"].as_str().unwrap_or("gone").to_owned());
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn few_or_many_are_what_all_homes_count_together() {
    let cluster = two().await;
    let [first, second] = &cluster.replicas[..] else { panic!("two replicas") };
    // Below the floor, however they are spread.
    let few = abandon(first, 8).await;
    until("they expired", async || states(second, &few).await.iter().all(|state| state == "expired")).await;
    tokio::time::sleep(Duration::from_secs(TTL + 1)).await;
    // Above it, though neither home has so many.
    let many = abandon(first, 12).await;
    until("they are held", async || states(second, &many).await.iter().all(|state| state == "suspect")).await;
    for replica in [first, second] {
        let sessions = get(replica, "/v1/status").await["sessions"].clone();
        assert!(sessions["home"].as_u64().unwrap() > 0 && sessions["protection"]["held"] == 12, "{sessions}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_between_opening_the_store_and_serving_it_ends() {
    let etcd = EtcdCluster::one().await;
    let data = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        let mut server = tokio::process::Command::new(binary())
            .args(["serve", "--store", "etcd", "--etcd-endpoints", &etcd.endpoints().join(",")])
            .args(["--http-listen", "127.0.0.1:0", "--dns-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .env("FINGERPOST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
        while !log.next_line().await.unwrap().expect("it opens the store").contains("the store in etcd is open") {}
        let pid = i32::try_from(server.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        let rest = tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let ended = tokio::time::timeout(Duration::from_secs(60), server.wait()).await.expect("it was not heard");
        assert!(ended.unwrap().success());
        rest.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_home_and_ends_without_renewals() {
    let mut cluster = two().await;
    let (id, home) = begin(&cluster).await;
    let begun = get(&cluster.replicas[home], &format!("/v1/sessions/{id}")).await;
    cluster.replicas[home].kill();
    let other = &cluster.replicas[1 - home];
    // First noted in the store, as the dead home is still held for alive, then kept here.
    until("it is alone", async || {
        renew(other, &id).await;
        get(other, "/v1/status").await["replicas"].as_array().unwrap().len() == 1
    })
    .await;
    keep(&[other], &id, 2).await;
    never_ended(other, &id, &begun).await;
    until("critical", async || get(other, WEB1).await["effectiveHealth"] == "critical").await;
    assert_eq!(get(other, &format!("/v1/sessions/{id}")).await["state"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_was_stopped_wakes_up_and_ends_nothing() {
    let cluster = two().await;
    let (id, home) = begin(&cluster).await;
    let (home, other) = (&cluster.replicas[home], &cluster.replicas[1 - home]);
    let begun = get(other, &format!("/v1/sessions/{id}")).await;
    home.stop();
    until("it is taken over", async || {
        renew(other, &id).await;
        get(other, "/v1/status").await["replicas"].as_array().unwrap().len() == 1
    })
    .await;
    let before = revision(&cluster).await;
    keep(&[other], &id, 2).await;
    assert_eq!(revision(&cluster).await, before, "renewals are in memory only, where the old home can't see them");
    home.cont();
    keep(&[other], &id, 2).await;
    sees(home, 2).await;
    never_ended(home, &id, &begun).await;
    never_ended(other, &id, &begun).await;
}
