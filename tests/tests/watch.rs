//! Watch streams from outside: state, changes, resumption, many subscriptions.

#![allow(clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::Server;
use fingerpost_tests::events::Events;
use serde_json::{Value, json};

async fn put(server: &Server, service: &str, id: &str, body: Value) -> String {
    let answer = server.put(&format!("/v1/namespaces/prod/services/{service}/instances/{id}"), body).await;
    assert!(answer.status < 300, "{}", answer.text);
    answer.json["revision"].as_str().unwrap().to_owned()
}

fn at(n: u8) -> Value {
    json!({"addresses": [format!("10.0.0.{n}")]})
}

#[tokio::test]
async fn state_then_changes_with_ids_where_a_position_ends() {
    let server = Server::start();
    put(&server, "web", "a", at(1)).await;
    put(&server, "other", "x", at(9)).await;
    let mut events = Events::open(&server, "?namespace=prod&service=web", None).await;
    let (state, synced) = events.until_synced().await;
    let kinds: Vec<_> = state.iter().map(|event| (event.name.as_str(), event.data["kind"].as_str().unwrap())).collect();
    assert_eq!(kinds, [("put", "service"), ("put", "instance")]);
    assert!(state.iter().all(|event| event.id.is_none()));
    assert_eq!(synced.id.as_deref(), synced.data["revision"].as_str());

    put(&server, "other", "x", at(8)).await;
    let revision = put(&server, "web", "b", at(2)).await;
    let event = events.next().await;
    assert_eq!((event.name.as_str(), &event.data["object"]["id"]), ("put", &json!("b")));
    assert_eq!(event.id.as_deref(), Some(revision.as_str()));

    // One position, several events: the id stands on the last.
    let batch = json!({"operations": [
        {"op": "delete", "kind": "instance", "object": {"namespace": "prod", "service": "web", "id": "a"}},
        {"op": "put", "kind": "instance", "object": {"namespace": "prod", "service": "web", "id": "c", "addresses": ["10.0.0.3"]}},
    ]});
    let done = server.post("/v1/batch", batch).await;
    let (first, second) = (events.next().await, events.next().await);
    assert_eq!((first.id.as_deref(), second.id.as_deref()), (None, done.json["revision"].as_str()));
    let mut names = [first.name, second.name];
    names.sort();
    assert_eq!(names, ["delete", "put"]);
}

#[tokio::test]
async fn what_stops_matching_is_deleted_and_what_matches_is_put() {
    let server = Server::start();
    let labelled = |track: &str| json!({"addresses": ["10.0.0.1"], "labels": {"track": track}});
    put(&server, "web", "a", labelled("stable")).await;
    let mut canaries = Events::open(&server, "?kind=instance&selector=track%3Dcanary", None).await;
    let mut healthy = Events::open(&server, "?kind=instance&health=passing,warning", None).await;
    assert_eq!(canaries.until_synced().await.0.len(), 0);
    assert_eq!(healthy.until_synced().await.0.len(), 1);

    put(&server, "web", "a", labelled("canary")).await;
    assert_eq!(canaries.next().await.name, "put");
    assert_eq!(healthy.next().await.name, "put");
    server.put("/v1/namespaces/prod/services/web/instances/a/health", json!({"health": "critical"})).await;
    assert_eq!(canaries.next().await.data["object"]["effectiveHealth"], "critical");
    let gone = healthy.next().await;
    assert_eq!((gone.name.as_str(), &gone.data["object"]["effectiveHealth"]), ("delete", &json!("passing")));
    put(&server, "web", "a", labelled("stable")).await;
    assert_eq!(canaries.next().await.name, "delete");
}

#[tokio::test]
async fn resumes_without_loss_or_repetition() {
    let server = Server::start();
    put(&server, "web", "a", at(1)).await;
    let mut events = Events::open(&server, "?kind=instance", None).await;
    let (_, synced) = events.until_synced().await;
    drop(events);
    for n in 2..30 {
        put(&server, "web", &format!("i{n}"), at(n)).await;
    }
    let mut resumed = Events::open(&server, "?kind=instance", synced.id.as_deref()).await;
    let (missed, synced) = resumed.until_synced().await;
    let ids: Vec<_> = missed.iter().map(|event| event.data["object"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, (2..30).map(|n| format!("i{n}")).collect::<Vec<_>>());
    assert!(missed.iter().all(|event| event.id.is_some()));

    // From the middle.
    let mut resumed = Events::open(&server, "?kind=instance", missed[10].id.as_deref()).await;
    assert_eq!(resumed.until_synced().await.0, missed[11..]);

    // Also through a restart.
    let server = server.again();
    put(&server, "web", "last", at(99)).await;
    let mut resumed = Events::open(&server, "?kind=instance", synced.id.as_deref()).await;
    let (missed, _) = resumed.until_synced().await;
    assert_eq!(missed.len(), 1, "{missed:?}");
    assert_eq!(missed[0].data["object"]["id"], "last");

    // Another history: reset, and the state again.
    let mut foreign = Events::open(&server, "?kind=instance", Some("0000000000000001-5")).await;
    let (events, _) = foreign.until_synced().await;
    assert_eq!(events[0].name, "reset");
    assert_eq!(events.len(), 1 + 30);
    // A position that this history has not reached is none of its own.
    let ahead = format!("{}-999999", synced.id.unwrap().split_once('-').unwrap().0);
    let mut ahead = Events::open(&server, "?kind=instance", Some(&ahead)).await;
    assert_eq!(ahead.next().await.name, "reset");
}

#[tokio::test]
async fn many_subscriptions_share_a_stream() {
    let server = Server::start();
    put(&server, "web", "a", at(1)).await;
    put(&server, "api", "b", at(2)).await;
    let subscribe =
        |id: &str, service: &str| json!({"id": id, "kind": "instance", "namespace": "prod", "service": service});
    let mut events =
        Events::open_many(&server, json!({"subscriptions": [subscribe("one", "web"), subscribe("two", "api")]})).await;
    let stream = events.next().await.data["stream"].as_str().unwrap().to_owned();
    let mut synced = Vec::new();
    while synced.len() < 2 {
        let event = events.next().await;
        if event.name == "synced" {
            synced.push(event.data["subscription"].clone());
        }
    }
    synced.sort_by_key(ToString::to_string);
    assert_eq!(synced, ["one", "two"]);
    put(&server, "api", "b", at(3)).await;
    let event = events.next().await;
    assert_eq!((&event.data["subscription"], &event.data["object"]["id"]), (&json!("two"), &json!("b")));

    let path = format!("/v1/watch/{stream}");
    let changed = server.patch(&path, json!({"add": [subscribe("three", "db")], "remove": ["two"]})).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(events.next().await.data["subscription"], "three");
    put(&server, "api", "b", at(4)).await;
    put(&server, "db", "d", at(5)).await;
    let event = events.next().await;
    assert_eq!((event.name.as_str(), &event.data["subscription"]), ("put", &json!("three")));
    assert_eq!(server.patch(&path, json!({"add": [subscribe("one", "db")]})).await.status, 409);
    assert_eq!(server.patch(&path, json!({"remove": ["nine"]})).await.status, 422);
    drop(events);
    let twice = json!({"subscriptions": [subscribe("one", "web"), subscribe("one", "web")]});
    assert_eq!(server.post("/v1/watch", twice).await.status, 400);
    assert_eq!(server.patch("/v1/watch/none", json!({})).await.status, 404);
}

#[tokio::test]
async fn a_large_state_comes_page_by_page_and_whole() {
    let server = Server::start();
    for batch in 0..12 {
        let operations: Vec<_> = (0..100)
            .map(|n| {
                let id = format!("i{:04}", batch * 100 + n);
                json!({"op": "put", "kind": "instance", "object": {"namespace": "prod", "service": format!("s{}", n % 7), "id": id, "addresses": ["10.0.0.1"]}})
            })
            .collect();
        assert_eq!(server.post("/v1/batch", json!({"operations": operations})).await.status, 200);
    }
    let mut events = Events::open(&server, "", None).await;
    let (state, _) = events.until_synced().await;
    let count = |kind: &str| state.iter().filter(|event| event.data["kind"] == kind).count();
    assert_eq!((count("namespace"), count("service"), count("instance")), (1, 7, 1200));
}

/// Whoever starts watching while others write gets the state and `synced`, and no reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_watchers_under_load_are_not_reset() {
    let server = Server::start();
    put(&server, "web", "a", at(1)).await;
    let writing = async {
        for n in 0..60 {
            let operations: Vec<_> = (0..100)
                .map(|k| json!({"op": "put", "kind": "instance", "object": {"namespace": "prod", "service": "busy", "id": format!("i{k}"), "addresses": [format!("10.0.{n}.1")]}}))
                .collect();
            assert_eq!(server.post("/v1/batch", json!({"operations": operations})).await.status, 200);
        }
    };
    let watching = async {
        for _ in 0..150 {
            let mut events = Events::open(&server, "?namespace=prod&service=web", None).await;
            let (state, _) = events.until_synced().await;
            assert!(state.iter().all(|event| event.name == "put"), "{state:?}");
        }
    };
    tokio::join!(writing, watching);
}

/// A position that a reply has just named is never ahead of a watch.
#[tokio::test]
async fn a_replys_position_can_be_watched_from() {
    let server = Server::start();
    for n in 1..50 {
        let revision = put(&server, "web", "a", at(n)).await;
        let mut events = Events::open(&server, &format!("?kind=instance&position={revision}"), None).await;
        assert_eq!(events.until_synced().await.0, []);
    }
}

/// One commit may concern any number of a stream's subscriptions, and one with a long way to go holds up no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_a_stream_do_not_hold_each_other_up() {
    let server = Server::start();
    for round in 0..20 {
        let operations: Vec<_> = (0..100)
            .map(|k| json!({"op": "put", "kind": "instance", "object": {"namespace": "bulk", "service": format!("s{k}"), "id": format!("i{round}"), "addresses": ["10.0.0.1"]}}))
            .collect();
        assert_eq!(server.post("/v1/batch", json!({"operations": operations})).await.status, 200);
    }
    let subscriptions: Vec<_> = (0..200)
        .map(|n| json!({"id": format!("w{n}"), "kind": "instance", "namespace": "prod", "service": format!("s{n}")}))
        .collect();
    let mut events = Events::open_many(&server, json!({"subscriptions": subscriptions})).await;
    let stream = events.next().await.data["stream"].as_str().unwrap().to_owned();
    for _ in 0..200 {
        assert_eq!(events.next().await.name, "synced");
    }
    // One commit, a hundred subscriptions; nobody has to catch up.
    for round in 0..5 {
        let operations: Vec<_> = (0..100)
            .map(|k| json!({"op": "put", "kind": "instance", "object": {"namespace": "prod", "service": format!("s{k}"), "id": "i", "addresses": [format!("10.0.0.{}", round + 1)]}}))
            .collect();
        assert_eq!(server.post("/v1/batch", json!({"operations": operations})).await.status, 200);
        for _ in 0..100 {
            assert_eq!(events.next().await.name, "put");
        }
    }
    // One that joins late has a long way to go; the others go on meanwhile.
    let added = server.patch(&format!("/v1/watch/{stream}"), json!({"add": [{"id": "all", "kind": "instance"}]})).await;
    assert_eq!(added.status, 200, "{}", added.text);
    put(&server, "s1", "late", at(9)).await;
    let (mut live, mut synced) = (false, false);
    while !live || !synced {
        let event = events.next().await;
        assert_ne!(event.name, "reset");
        live |= event.data["subscription"] == "w1" && event.data["object"]["id"] == "late";
        synced |= event.data["subscription"] == "all" && event.name == "synced";
    }
    assert_eq!(server.get("/v1/status").await.json["watch"]["laggards"], 0);
}

/// A reader that applies every event must hold what a list shows, whatever happens while it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_holds_what_lists_show() {
    let server = Server::start();
    let writing = async {
        for n in 0..600u32 {
            let id = format!("i{}", n % 40);
            let path = format!("/v1/namespaces/prod/services/s{}/instances/{id}", n % 3);
            if n % 5 == 4 {
                server.delete(&path).await;
            } else {
                server.put(&path, json!({"addresses": [format!("10.0.{}.1", n % 250)]})).await;
            }
        }
        server.put("/v1/namespaces/end/services/end/instances/end", at(1)).await;
    };
    let following = async {
        let mut model = std::collections::BTreeMap::new();
        let mut last: Option<String> = None;
        let mut reconnects = 0;
        'streams: loop {
            let mut events = Events::open(&server, "?kind=instance", last.as_deref()).await;
            let mut pending = Vec::new();
            for _ in 0..97 {
                let event = events.next().await;
                let id = event.id.clone();
                pending.push(event);
                // A position is applied whole, so what follows the last id is not kept when the stream is cut.
                if let Some(id) = id {
                    for event in pending.drain(..) {
                        let object = &event.data["object"];
                        let key = format!("{}/{}", object["service"], object["id"]);
                        match event.name.as_str() {
                            "put" => drop(model.insert(key, object.clone())),
                            "delete" => drop(model.remove(&key)),
                            "reset" => model.clear(),
                            _ => {}
                        }
                    }
                    last = Some(id);
                    if model.contains_key("\"end\"/\"end\"") {
                        break 'streams;
                    }
                }
            }
            reconnects += 1;
        }
        assert!(reconnects > 2, "the stream was cut now and then");
        model
    };
    let ((), model) = tokio::join!(writing, following);
    let list = server.get("/v1/instances?limit=1000").await.json;
    let listed: std::collections::BTreeMap<String, Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (format!("{}/{}", item["service"], item["id"]), item.clone()))
        .collect();
    assert_eq!(model, listed);
}
