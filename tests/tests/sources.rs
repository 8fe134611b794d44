//! Sources that speak, fall silent, and are removed.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::Server;
use serde_json::{Value, json};
use std::time::Duration;

async fn put(server: &Server, path: &str, body: Value) {
    let answer = server.put(path, body).await;
    assert!((200..300).contains(&answer.status), "{path}: {}", answer.text);
}

async fn source(server: &Server, name: &str) -> Option<Value> {
    let list = server.get("/v1/sources").await;
    assert_eq!(list.status, 200, "{}", list.text);
    list.json["items"].as_array().unwrap().iter().find(|item| item["source"] == name).cloned()
}

/// Asks until the source is as it should be; the test's own time limit ends a wait that is in vain.
async fn until(server: &Server, name: &str, what: impl Fn(Option<&Value>) -> bool) {
    while !what(source(server, name).await.as_ref()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn declare(server: &Server, owner: &str) {
    put(server, &format!("/v1/namespaces/prod?source={owner}"), json!({})).await;
    put(server, &format!("/v1/namespaces/prod/services/web?source={owner}"), json!({"ports": [{"port": 80}]})).await;
    let instances = "/v1/namespaces/prod/services/web/instances";
    if owner == "api" {
        // The bare source has no set of its own to replace.
        return put(server, &format!("{instances}/by-hand"), json!({"addresses": ["10.0.2.1"]})).await;
    }
    let item = |n: u8| json!({"id": format!("i{n}"), "addresses": [format!("10.0.1.{n}")]});
    let items: Vec<Value> = (0..150).map(item).collect();
    put(server, &format!("{instances}?source={owner}"), json!({"items": items})).await;
}

#[tokio::test]
async fn what_a_source_holds_is_listed_and_removed_by_a_call() {
    let server = Server::start();
    declare(&server, "kubernetes/old").await;
    declare(&server, "api/mine").await;
    let old = source(&server, "kubernetes/old").await.unwrap();
    assert_eq!((&old["services"], &old["namespaces"]), (&json!(1), &json!(1)));
    assert_eq!((&old["instances"], &old["sessionless"], &old["orphaned"]), (&json!(150), &json!(150), &json!(false)));

    let (code, out, err) = server.cli(&["source", "remove", "kubernetes/old"]);
    assert_eq!(
        (code, out.as_str()),
        (0, "removed 150 instances, 1 service and 1 namespace of source `kubernetes/old`\n"),
        "{err}"
    );
    assert_eq!(source(&server, "kubernetes/old").await, None);
    assert_eq!(source(&server, "api/mine").await.unwrap()["instances"], 150, "nobody else's are touched");
    let (code, _, err) = server.cli(&["source", "remove", "kubernetes/old"]);
    assert!(code == 1 && err.contains("kubernetes/old"), "{err}");
    let refused = server.delete("/v1/sources/consul%2Fx").await;
    assert_eq!((refused.status, &refused.json["parameter"]), (400, &json!("source")), "{}", refused.text);
}

#[tokio::test]
async fn a_silent_source_is_reported_until_it_speaks_again() {
    let server = Server::start_with(&["--orphan-after", "1s"]);
    declare(&server, "kubernetes/old").await;
    declare(&server, "api").await;
    until(&server, "kubernetes/old", |state| state.unwrap()["orphaned"] == true).await;
    let status = server.get("/v1/status").await.json;
    assert_eq!(status["orphans"][0]["source"], "kubernetes/old", "{status}");
    assert_eq!(status["orphans"].as_array().unwrap().len(), 1, "what is declared by hand is never orphaned");
    let (_, out, _) = server.cli(&["status"]);
    assert!(out.contains("kubernetes/old was last heard"), "{out}");
    let (_, out, _) = server.cli(&["source", "list"]);
    assert!(out.lines().any(|line| line.contains("kubernetes/old") && line.contains("orphaned")), "{out}");

    // Saying the same again changes nothing, and is a sign of life all the same.
    declare(&server, "kubernetes/old").await;
    until(&server, "kubernetes/old", |state| state.unwrap()["orphaned"] == false).await;
    assert_eq!(source(&server, "kubernetes/old").await.unwrap()["instances"], 150, "reported, not removed");
}

/// A session of a source.
async fn begin(server: &Server, owner: &str, ttl: u32) -> String {
    let new = json!({"ttlSeconds": ttl, "graceSeconds": 60});
    let made = server.post(&format!("/v1/sessions?source={owner}"), new).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.json["id"].as_str().unwrap().to_owned()
}

async fn renew(server: &Server, id: &str) -> String {
    let renewed = server.post("/v1/sessions/renew", json!({"ids": [id]})).await;
    renewed.json["items"][0]["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn only_what_nobody_says_again_is_orphaned() {
    let server = Server::start_with(&["--orphan-after", "500ms", "--orphan-remove-after", "500ms"]);
    let session = begin(&server, "kubernetes/alive", 300).await;
    for owner in ["kubernetes/alive", "api/declares", "kubernetes/old"] {
        put(&server, &format!("/v1/namespaces/prod/services/web?source={owner}"), json!({"ports": [{"port": 80}]}))
            .await;
    }
    let item = json!({"id": "held", "addresses": ["10.0.3.1"], "session": session});
    let path = "/v1/namespaces/prod/services/web/instances?source=kubernetes/alive";
    put(&server, path, json!({"items": [item, {"id": "loose", "addresses": ["10.0.3.2"]}]})).await;
    // The one that is orphaned tells that the time is over for all of them. Then again, for one that came later.
    until(&server, "kubernetes/old", |state| state.is_none()).await;
    put(&server, "/v1/namespaces/prod/services/web?source=kubernetes/old", json!({"ports": [{"port": 80}]})).await;
    until(&server, "kubernetes/old", |state| state.is_none()).await;
    for (owner, instances) in [("kubernetes/alive", 2), ("api/declares", 0)] {
        let state = source(&server, owner).await.unwrap();
        assert_eq!((&state["orphaned"], &state["instances"]), (&json!(false), &json!(instances)), "{owner}");
        assert_eq!(state["services"], 1, "{owner}");
    }
    // Without the session, it is silent as any other.
    assert_eq!(server.delete(&format!("/v1/sessions/{session}")).await.status, 200);
    until(&server, "kubernetes/alive", |state| state.is_none()).await;
}

#[tokio::test]
async fn other_calls_than_declarations_are_signs_of_life() {
    let server = Server::start_with(&["--orphan-after", "1s"]);
    let instance = "/v1/namespaces/prod/services/web/instances/i?source=cni/node-1";
    let check = json!({"name": "up", "type": "ttl", "ttlSeconds": 600});
    put(&server, instance, json!({"addresses": ["10.0.4.1"], "checks": [check]})).await;
    let path = |end: &str| format!("/v1/namespaces/prod/services/web/instances/i/{end}?source=cni/node-1");
    let orphaned = |state: Option<&Value>| state.unwrap()["orphaned"] == true;
    until(&server, "cni/node-1", orphaned).await;
    assert!((200..300).contains(&server.put(&path("drain"), json!({})).await.status));
    until(&server, "cni/node-1", |state| !orphaned(state)).await;
    until(&server, "cni/node-1", orphaned).await;
    assert!((200..300).contains(&server.put(&path("checks/up"), json!({"health": "passing"})).await.status));
    until(&server, "cni/node-1", |state| !orphaned(state)).await;
    until(&server, "cni/node-1", orphaned).await;
    begin(&server, "cni/node-1", 300).await;
    until(&server, "cni/node-1", |state| !orphaned(state)).await;
}

#[tokio::test]
async fn removing_a_source_ends_its_sessions() {
    let server = Server::start();
    let session = begin(&server, "kubernetes/old", 300).await;
    let others = begin(&server, "kubernetes/new", 300).await;
    let item = json!({"id": "i", "addresses": ["10.0.5.1"], "session": session});
    put(&server, "/v1/namespaces/prod/services/web/instances?source=kubernetes/old", json!({"items": [item]})).await;
    assert_eq!(renew(&server, &session).await, "alive");
    let removed = server.delete("/v1/sources/kubernetes%2Fold").await;
    assert_eq!((removed.status, &removed.json["instances"]), (200, &json!(1)), "{}", removed.text);
    assert_eq!(renew(&server, &session).await, "unknown");
    assert_eq!(renew(&server, &others).await, "alive");
    while server.get(&format!("/v1/sessions/{session}")).await.status != 404 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_silent_source_is_removed_where_that_is_asked_for() {
    let server = Server::start_with(&["--orphan-after", "500ms", "--orphan-remove-after", "1s"]);
    declare(&server, "kubernetes/old").await;
    declare(&server, "api").await;
    until(&server, "kubernetes/old", |state| state.is_none()).await;
    assert_eq!(source(&server, "api").await.unwrap()["instances"], 1);
    let (code, _, err) = Server::start().cli(&["serve", "--orphan-after", "2d", "--orphan-remove-after", "1d"]);
    assert!(code != 0 && err.contains("orphan-remove-after"), "{err}");
}
