//! The REST API from outside: what it does, and what it refuses.

use fingerpost_tests::Server;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

const WEB1: &str = "/v1/namespaces/prod/services/web/instances/web-1";

#[tokio::test]
async fn register_list_change_remove() {
    let server = Server::start();
    let made = server.put(WEB1, json!({"addresses": ["10.0.0.1", "fd00::1"], "labels": {"app": "web"}})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.json["id"], "web-1");
    assert_eq!(made.json["source"], "api");
    assert_eq!(made.json["health"], "passing");
    assert_eq!(made.json["effectiveHealth"], "passing");
    let revision = made.json["revision"].as_str().unwrap().to_owned();
    assert_eq!(made.etag.as_deref(), Some(format!("\"{revision}\"").as_str()));

    // The same again changes nothing and makes no position.
    let same = server.put(WEB1, json!({"addresses": ["10.0.0.1", "fd00::1"], "labels": {"app": "web"}})).await;
    assert_eq!((same.status, same.json["revision"].as_str()), (200, Some(revision.as_str())));

    // A reply can be sent back as it is.
    assert_eq!(server.put(WEB1, made.json.clone()).await.status, 200);

    let list = server.get("/v1/namespaces/prod/services/web/instances?selector=app%3Dweb").await;
    assert_eq!(list.json["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v1/instances?selector=app%21%3Dweb").await.json["items"], json!([]));
    let service = server.get("/v1/namespaces/prod/services/web").await;
    assert_eq!((service.status, &service.json["type"]), (200, &json!("Headless")));
    assert_eq!(server.get("/v1/namespaces/prod").await.status, 200);

    let patched = server.patch(WEB1, json!({"labels": {"track": "canary"}, "weight": 5})).await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    assert_eq!(patched.json["labels"], json!({"app": "web", "track": "canary"}));
    assert_eq!(server.patch(WEB1, json!({"weight": null})).await.json.get("weight"), None);

    assert_eq!(server.delete(WEB1).await.status, 200);
    assert_eq!(server.delete(WEB1).await.status, 404);
    assert_eq!(server.get(WEB1).await.status, 404);
    assert_eq!(server.get("/v1/namespaces/prod/services/web").await.status, 404);
    assert_eq!(server.get("/v1/namespaces/prod").await.status, 404);
}

#[tokio::test]
async fn reported_health_stays_until_said_otherwise() {
    let server = Server::start();
    server.put(WEB1, json!({"addresses": ["10.0.0.1"]})).await;
    let health = format!("{WEB1}/health");
    let reported = server.put(&health, json!({"health": "critical", "note": "disk on fire"})).await;
    assert_eq!(reported.status, 200, "{}", reported.text);
    assert_eq!(reported.json["effectiveHealth"], "critical");
    assert_eq!(reported.json["healthParts"]["reported"]["note"], "disk on fire");
    // Registering again does not undo it.
    let again = server.put(WEB1, json!({"addresses": ["10.0.0.2"]})).await;
    assert_eq!(again.json["health"], "critical");
    assert_eq!(server.get("/v1/instances?health=passing,warning").await.json["items"], json!([]));
    // Saying so does.
    let healed = server.put(WEB1, json!({"addresses": ["10.0.0.2"], "health": "warning"})).await;
    assert_eq!(healed.json["effectiveHealth"], "warning");
    let missing = "/v1/namespaces/prod/services/web/instances/none/health";
    assert_eq!(server.put(missing, json!({"health": "passing"})).await.status, 404);
    assert_eq!(server.put(&health, json!({"health": "great"})).await.status, 400);
}

#[tokio::test]
async fn guards_are_judged_in_the_stores_order() {
    let server = Server::start();
    let body = json!({"addresses": ["10.0.0.1"]});
    let put = |headers: Vec<(&'static str, String)>, body: Value| {
        let server = &server;
        async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            server.send(Method::PUT, WEB1, &headers, body.to_string()).await
        }
    };
    assert_eq!(put(vec![("if-match", "*".into())], body.clone()).await.status, 412);
    let made = put(vec![("if-none-match", "*".into())], body.clone()).await;
    assert_eq!(made.status, 201);
    assert_eq!(put(vec![("if-none-match", "*".into())], body.clone()).await.status, 412);
    let etag = made.etag.unwrap();
    let changed = put(vec![("if-match", etag.clone())], json!({"addresses": ["10.0.0.2"]})).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(put(vec![("if-match", etag)], body.clone()).await.status, 412);
    // A well-formed tag of somebody else's matches nothing; a weak one never does (RFC 9110 §13.1.1).
    let own = changed.etag.clone().unwrap();
    for tag in ["\"nonsense\"".to_owned(), "\"\"".to_owned(), format!("W/{own}"), format!("W/{own}, \"x,y\"")] {
        assert_eq!(put(vec![("if-match", tag.clone())], body.clone()).await.status, 412, "{tag}");
    }
    let position = own.trim_matches('"');
    for tag in [position.to_owned(), format!("\"{position}"), format!("{own} {own}"), String::new(), "\"a b\"".into()] {
        let refused = put(vec![("if-match", tag.clone())], body.clone()).await;
        assert_eq!((refused.status, &refused.json["parameter"]), (400, &json!("If-Match")), "{tag}");
    }
    let listed =
        put(vec![("if-match", format!("\"other\", {own} ,W/\"x\""))], json!({"addresses": ["10.0.0.3"]})).await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    let changed = listed;

    // Of many that read the same state, one wins.
    let etag = changed.etag.unwrap();
    let attempts =
        (0..20).map(|n| put(vec![("if-match", etag.clone())], json!({"addresses": [format!("10.1.0.{n}")]})));
    let won = futures_util::future::join_all(attempts).await.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn each_source_has_its_own_and_readers_see_one() {
    let server = Server::start();
    let service = "/v1/namespaces/prod/services/web";
    server.put(service, json!({"type": "Headless", "labels": {"team": "a", "tier": "front"}})).await;
    let kube = json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.10"], "labels": {"team": "k"}});
    assert_eq!(server.put(&format!("{service}?source=kubernetes/default"), kube).await.status, 201);
    let merged = server.get(service).await.json;
    assert_eq!(merged["type"], "ClusterIP");
    assert_eq!(merged["labels"], json!({"team": "k", "tier": "front"}));
    assert_eq!(merged["sources"], json!(["kubernetes/default", "api"]));
    let declarations = server.get(&format!("{service}?view=sources")).await.json;
    assert_eq!(declarations["items"].as_array().unwrap().len(), 2);

    // The same address from two sources is one endpoint, and Kubernetes' word counts.
    server
        .put(
            &format!("{service}/instances/pod-a?source=kubernetes/default"),
            json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false}}),
        )
        .await;
    server
        .put(
            &format!("{service}/instances/sandbox?source=cni/node-1"),
            json!({"addresses": ["10.0.0.1"], "labels": {"cni": "yes"}}),
        )
        .await;
    let merged = server.get(&format!("{service}/instances")).await.json;
    assert_eq!(merged["items"].as_array().unwrap().len(), 1, "{merged}");
    assert_eq!(merged["items"][0]["id"], "pod-a");
    assert_eq!(merged["items"][0]["labels"], json!({"cni": "yes"}));
    assert_eq!(merged["items"][0]["effectiveHealth"], "critical");
    let own = server.get(&format!("{service}/instances?source=cni/node-1")).await.json;
    assert_eq!(own["items"][0]["id"], "sandbox");

    // A source touches only its own.
    assert_eq!(server.delete(&format!("{service}/instances/pod-a")).await.status, 404);
    assert_eq!(server.delete(service).await.status, 200);
    assert_eq!(server.get(service).await.json["labels"], json!({"team": "k"}));
}

#[tokio::test]
async fn batches_are_all_or_none() {
    let server = Server::start();
    let instance = |n: usize| {
        let id = format!("i{n}");
        json!({"namespace": "prod", "service": "web", "id": id, "addresses": ["10.0.0.1"], "health": "warning"})
    };
    let operations = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"op": "put", "kind": "instance", "object": instance(n)})).collect()
    };
    let done = server.post("/v1/batch", json!({"operations": operations(100)})).await;
    assert_eq!(done.status, 200, "{}", done.text);
    let results = done.json["results"].as_array().unwrap();
    assert!(results.len() == 100 && results.iter().all(|result| result["status"] == 201));
    assert!(results.iter().all(|result| result["revision"] == done.json["revision"]));

    let too_many = server.post("/v1/batch", json!({"operations": operations(101)})).await;
    assert_eq!((too_many.status, &too_many.json["pointer"]), (400, &json!("/operations")));

    let mut bad = operations(3);
    bad[0]["object"]["id"] = json!("new");
    bad[2]["object"]["addresses"] = json!(["0.0.0.0"]);
    let refused = server.post("/v1/batch", json!({"operations": bad.clone()})).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json["pointer"], "/operations/2/object/addresses/0");
    assert_eq!(server.get("/v1/namespaces/prod/services/web/instances/new").await.status, 404);

    let loose = server.post("/v1/batch?atomic=false", json!({"operations": bad})).await;
    assert_eq!(loose.status, 200);
    let statuses: Vec<_> =
        loose.json["results"].as_array().unwrap().iter().map(|result| result["status"].clone()).collect();
    assert_eq!(statuses, [201, 200, 422]);
    assert_eq!(loose.json["results"][2]["problem"]["pointer"], "/operations/2/object/addresses/0");

    let many = server.post("/v1/batch?atomic=false", json!({"operations": operations(2500)})).await;
    assert_eq!(many.json["results"].as_array().unwrap().len(), 2500);
    let twice = server.post("/v1/batch", json!({"operations": [operations(1)[0], operations(1)[0]]})).await;
    assert_eq!(twice.status, 422, "{}", twice.text);
    let mixed = json!({"operations": [
        {"op": "put", "kind": "namespace", "object": {"name": "prod", "labels": {"stage": "live"}}},
        {"op": "put", "kind": "service",
            "object": {"namespace": "prod", "name": "web", "ports": [{"name": "http", "port": 80}]}},
        {"op": "delete", "kind": "instance", "object": {"namespace": "prod", "service": "web", "id": "i0"}},
    ]});
    assert_eq!(server.post("/v1/batch", mixed).await.status, 200);
    assert_eq!(server.get("/v1/namespaces/prod").await.json["labels"], json!({"stage": "live"}));
}

#[tokio::test]
async fn deleting_what_is_absent_fails_no_batch() {
    let server = Server::start();
    let delete = |kind: &str, object: Value| json!({"op": "delete", "kind": kind, "object": object});
    let web1 = json!({"namespace": "prod", "service": "web", "id": "web-1"});
    let put = json!({"op": "put", "kind": "instance", "object": {"namespace": "prod", "service": "web", "id": "web-1",
        "addresses": ["10.0.0.1"]}});
    let statuses = |answer: &fingerpost_tests::Answer| -> Vec<u64> {
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
    };
    let absent = [
        delete("instance", web1.clone()),
        delete("service", json!({"namespace": "prod", "name": "web"})),
        delete("namespace", json!({"name": "prod"})),
    ];
    let atomic = server.post("/v1/batch", json!({"operations": absent})).await;
    assert_eq!(statuses(&atomic), [200, 200, 200]);
    let loose = server.post("/v1/batch?atomic=false", json!({"operations": absent})).await;
    assert_eq!(statuses(&loose), [404, 404, 404]);
    assert_eq!(loose.json["results"][0]["problem"]["status"], 404);
    // Each operation is judged after those before it.
    let delete = delete("instance", web1);
    let in_order = json!({"operations": [delete, put, delete, delete]});
    assert_eq!(statuses(&server.post("/v1/batch?atomic=false", in_order).await), [404, 201, 200, 404]);
    assert_eq!(server.get(WEB1).await.status, 404);
}

#[tokio::test]
async fn replacing_a_set_repairs_every_drift() {
    let server = Server::start();
    let set = "/v1/namespaces/prod/services/web/instances";
    server.put(&format!("{set}/mine"), json!({"addresses": ["10.9.9.9"]})).await;
    let items = |ids: std::ops::Range<usize>| -> Vec<Value> {
        ids.map(|n| json!({"id": format!("i{n}"), "addresses": [format!("10.0.{}.{}", n / 250, n % 250 + 1)]}))
            .collect()
    };
    let refused = server.put(set, json!({"items": items(0..1)})).await;
    assert_eq!((refused.status, &refused.json["parameter"]), (400, &json!("source")));
    let set = &format!("{set}?source=api/team");
    let first = server.put(set, json!({"items": items(0..350)})).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!((&first.json["added"], &first.json["removed"]), (&json!(350), &json!(0)));
    let again = server.put(set, json!({"items": items(0..350)})).await;
    assert_eq!((&again.json["unchanged"], &again.json["revision"]), (&json!(350), &first.json["revision"]));
    let moved = server.put(set, json!({"items": items(100..360)})).await;
    assert_eq!(
        (&moved.json["added"], &moved.json["removed"], &moved.json["unchanged"]),
        (&json!(10), &json!(100), &json!(250))
    );
    let mut bad = items(0..2);
    bad[1]["addresses"] = json!([]);
    let refused = server.put(set, json!({"items": bad})).await;
    assert_eq!((refused.status, &refused.json["pointer"]), (422, &json!("/items/1/addresses")));
    assert_eq!(
        server.get("/v1/namespaces/prod/services/web/instances?limit=1000").await.json["items"]
            .as_array()
            .unwrap()
            .len(),
        261
    );
}

#[tokio::test]
async fn lists_page_through() {
    let server = Server::start();
    for n in 0..25 {
        server
            .put(&format!("/v1/namespaces/n{}/services/s{n}/instances/i", n % 3), json!({"addresses": ["10.0.0.1"]}))
            .await;
    }
    for list in
        ["/v1/instances", "/v1/services", "/v1/namespaces", "/v1/namespaces/n1/services", "/v1/namespaces/n1/instances"]
    {
        let whole = server.get(list).await.json;
        let mut pages = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let token = next.as_ref().map(|token| format!("&continue={token}")).unwrap_or_default();
            let page = server.get(&format!("{list}?limit=2{token}")).await;
            assert_eq!(page.status, 200, "{}", page.text);
            let items = page.json["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            pages.extend(items.iter().cloned());
            next = page.json["continue"].as_str().map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        assert_eq!(Value::Array(pages), whole["items"], "{list}");
    }
    assert_eq!(server.get("/v1/instances?continue=nonsense").await.status, 400);
    let other_history = "0000000000000001-1.00";
    assert_eq!(server.get(&format!("/v1/instances?continue={other_history}")).await.status, 410);
}

#[tokio::test]
async fn reads_wait_for_a_position() {
    let server = Server::start();
    let made = server.put(WEB1, json!({"addresses": ["10.0.0.1"]})).await;
    let revision = made.json["revision"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/instances?minRevision={revision}")).await.status, 200);
    let (epoch, number) = revision.split_once('-').unwrap();
    let future = format!("{epoch}-{}", number.parse::<u64>().unwrap() + 1);
    let path = format!("{WEB1}?minRevision={future}");
    let (waited, _) =
        tokio::join!(server.get(&path), async { server.put(WEB1, json!({"addresses": ["10.0.0.2"]})).await });
    assert_eq!(waited.json["addresses"], json!(["10.0.0.2"]));
    let never = format!("{epoch}-{}", number.parse::<u64>().unwrap() + 100);
    assert_eq!(server.get(&format!("/v1/instances?minRevision={never}")).await.status, 504);
    assert_eq!(server.get("/v1/instances?minRevision=0000000000000001-1").await.status, 410);
    // Nobody waits for a refusal.
    let begun = std::time::Instant::now();
    for path in [
        format!("/v1/instances?minRevision={never}&limit=0"),
        format!("/v1/services?minRevision={never}&x=1"),
        format!("/v1/namespaces?minRevision={never}&selector=%21"),
        format!("/v1/namespaces/prod?minRevision={never}&view=x"),
        format!("{WEB1}?minRevision={never}&source=x"),
    ] {
        assert_eq!(server.get(&path).await.status, 400, "{path}");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    let server = Server::start();
    let before = server.get("/v1/status").await.json["revision"].clone();
    let ok = || json!({"addresses": ["10.0.0.1"]});
    let with = |field: &str, value: Value| {
        let mut body = ok();
        body[field] = value;
        body
    };
    let label64 = "a".repeat(64);
    for (path, body, status, place) in [
        ("/v1/namespaces/Prod/services/web/instances/i".to_owned(), ok(), 400, "namespace"),
        (format!("/v1/namespaces/{label64}/services/web/instances/i"), ok(), 400, "namespace"),
        ("/v1/namespaces/prod/services/w_b/instances/i".to_owned(), ok(), 400, "service"),
        ("/v1/namespaces/prod/services/web/instances/a%20b".to_owned(), ok(), 400, "id"),
        (WEB1.to_owned(), with("adresses", json!([])), 400, "/adresses"),
        (WEB1.to_owned(), with("addresses", json!(["10.0.0.256"])), 400, "/addresses/0"),
        (WEB1.to_owned(), with("addresses", json!(["0.0.0.0"])), 422, "/addresses/0"),
        (WEB1.to_owned(), with("addresses", json!(["ff02::1"])), 422, "/addresses/0"),
        (WEB1.to_owned(), with("addresses", json!(["::ffff:10.0.0.1"])), 422, "/addresses/0"),
        (WEB1.to_owned(), with("ports", json!([{"port": 0}])), 422, "/ports/0/port"),
        (WEB1.to_owned(), with("ports", json!([{"port": 65536}])), 400, "/ports/0/port"),
        (WEB1.to_owned(), with("hostname", json!(label64)), 422, "/hostname"),
        (WEB1.to_owned(), with("labels", json!({"a b": "c"})), 422, "/labels"),
        (WEB1.to_owned(), with("id", json!("other")), 422, "/id"),
        (WEB1.to_owned(), with("source", json!("api/other")), 422, "/source"),
        (WEB1.to_owned(), with("session", json!("none")), 422, "/session"),
        (WEB1.to_owned(), json!([]), 400, ""),
        (WEB1.to_owned(), with("ports", json!([["http", 80, "TCP"]])), 400, "/ports/0"),
        (WEB1.to_owned(), with("conditions", json!([true, true, false])), 400, "/conditions"),
        (WEB1.to_owned(), with("pod", json!(["web-1", "u"])), 400, "/pod"),
        ("/v1/namespaces/prod/services/web/instances/x%ff".to_owned(), ok(), 400, "path"),
        ("/v1/namespaces/prod/instances/%c3%28".to_owned(), ok(), 400, "path"),
        ("/v1/namespaces/%ff".to_owned(), json!({}), 400, "path"),
        ("/v1/namespaces/prod/services/%ff".to_owned(), json!({}), 400, "path"),
        (format!("{WEB1}?source=consul"), ok(), 400, "source"),
        (format!("{WEB1}?sauce=api"), ok(), 400, "query"),
    ] {
        let answer = server.put(&path, body.clone()).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text);
        assert_eq!(answer.content_type, "application/problem+json");
        let given = answer.json["pointer"].as_str().or_else(|| answer.json["parameter"].as_str());
        assert_eq!(given, Some(place), "{path} {body}: {}", answer.text);
    }
    for (body, words) in [
        (b"{".to_vec(), "ends too early"),
        (b"{\"addresses\":[\"\xff\"]}".to_vec(), "not JSON"),
        (format!("{{\"x\":{}{}}}", "[".repeat(5 << 10), "]".repeat(5 << 10)).into_bytes(), "no field"),
        (b"{} x".to_vec(), "more than one"),
        (Vec::new(), "ends too early"),
    ] {
        let answer = server.send(Method::PUT, WEB1, &[], body).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.json["detail"].as_str().unwrap().contains(words), "{}", answer.text);
    }
    assert_eq!(server.send(Method::PUT, WEB1, &[], vec![b' '; (1 << 20) + 1]).await.status, 413);
    for selector in ["a%3D%3D%3Db", "a+in+(b", "%21", "a%3Db%2C%2C"] {
        let answer = server.get(&format!("/v1/instances?selector={selector}")).await;
        assert_eq!((answer.status, &answer.json["parameter"]), (400, &json!("selector")), "{selector}");
    }
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("health=good", "health"),
        ("x=1", "query"),
        ("source=x", "source"),
    ] {
        let answer = server.get(&format!("/v1/instances?{query}")).await;
        assert_eq!((answer.status, &answer.json["parameter"]), (400, &json!(parameter)), "{query}");
    }
    assert_eq!(server.get("/v1/nothing").await.status, 404);
    assert_eq!(server.send(Method::DELETE, "/v1/services", &[], "").await.status, 405);
    // What a web page could send by itself is not taken.
    assert_eq!(
        server.send(Method::POST, "/v1/batch", &[("content-type", "text/plain")], r#"{"operations":[]}"#).await.status,
        415
    );
    for (content_type, body, status) in
        [("text/plain", "", 415), ("application/json", "", 200), ("application/json", r#"{"x":1}"#, 400)]
    {
        let answer = server.send(Method::POST, "/v1/migrate", &[("content-type", content_type)], body).await;
        assert_eq!(answer.status, status, "{content_type} {body}");
    }
    assert_eq!(server.send(Method::POST, "/v1/migrate", &[], "").await.status, 415);
    assert_eq!(server.send(Method::GET, "/v1/services", &[("host", "evil.example")], "").await.status, 421);
    assert_eq!(server.get("/v1/status").await.json["revision"], before, "nothing was changed");
}

#[tokio::test]
async fn places_are_told_only_in_what_the_client_sent() {
    let server = Server::start();
    server.put(WEB1, json!({"addresses": ["10.0.0.1"]})).await;
    let patched = server.patch(WEB1, json!({"weight": "heavy"})).await;
    assert_eq!((patched.status, &patched.json["pointer"]), (422, &json!("/weight")));
    let bad = json!({"op": "put", "kind": "instance", "object": {"namespace": "prod", "id": "i", "weight": "heavy"}});
    let batch = server.post("/v1/batch", json!({"operations": [bad]})).await;
    assert_eq!((batch.status, &batch.json["pointer"]), (400, &json!("/operations/0/object/weight")));
    for answer in [patched, batch] {
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(!detail.contains("line") && !detail.contains("column"), "{detail}");
    }
    let whole = server.put(WEB1, json!({"weight": "heavy"})).await;
    assert!(whole.json["detail"].as_str().unwrap().contains("line 1, column"), "{}", whole.text);
}

#[tokio::test]
async fn the_api_describes_itself() {
    let server = Server::start();
    let document = server.get("/openapi.json").await.json;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            operations += 1;
            let call = format!("{verb} {path}");
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{call} {status}");
                assert_eq!(status.len(), 3, "{call}: {status}");
            }
            assert!(responses.contains_key("421"), "{call}");
            let parameters: Vec<&str> = operation["parameters"]
                .as_array()
                .map(|all| all.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect())
                .unwrap_or_default();
            let statuses: &[&str] = if path.contains("{namespace}") || path == "/v1/batch" {
                let guarded =
                    verb != "get" && verb != "post" && !path.ends_with("/instances") && !path.contains("/checks/");
                assert_eq!(parameters.contains(&"If-Match"), guarded, "{call}");
                let creates = verb == "put" && guarded && !path.ends_with("/health") && !path.ends_with("/drain");
                assert_eq!(parameters.contains(&"If-None-Match"), creates, "{call}");
                assert_eq!(parameters.contains(&"minRevision"), verb == "get", "{call}");
                match verb.as_str() {
                    "get" => &["400", "410", "503", "504"],
                    "delete" => &["400", "404", "409", "412", "422", "503", "504", "507"],
                    "patch" => &["400", "404", "408", "409", "412", "413", "415", "422", "503", "504", "507"],
                    _ => &["400", "408", "409", "412", "413", "422", "503", "504", "507"],
                }
            } else if call == "post /v1/sessions" {
                &["201", "400", "403", "408", "413", "415", "422", "503", "504", "507"]
            } else {
                &["200"]
            };
            for status in statuses {
                assert!(responses.contains_key(*status), "{call} does not say {status}");
            }
        }
    }
    assert!(operations > 30, "{operations}");
    // What is referred to is there.
    for reference in server.get("/openapi.json").await.text.split("\"$ref\":\"#").skip(1) {
        let (pointer, _) = reference.split_once('"').unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    for path in [
        "/v1/namespaces/{namespace}/services/{service}/instances/{id}",
        "/v1/namespaces/{namespace}/instances/{id}/health",
        "/v1/batch",
        "/v1/watch",
        "/v1/watch/{stream}",
        "/readyz",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let page = server.get("/docs").await;
    assert!(page.content_type.starts_with("text/html") && page.text.contains("/openapi.json"));
    assert_eq!(server.get("/livez").await.status, 200);
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
    assert_eq!(server.get("/version").await.json["name"], "fingerpost");
    let metrics = server.get("/metrics").await.text;
    for name in ["fingerpost_http_requests_total", "fingerpost_store_records", "fingerpost_dns_"] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
}

#[tokio::test]
async fn export_and_import() {
    let one = Server::start();
    one.put("/v1/namespaces/prod/services/web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    one.put(WEB1, json!({"addresses": ["10.0.0.1"], "health": "warning"})).await;
    let export = one.get("/v1/export").await.text;
    let two = Server::start();
    two.put("/v1/namespaces/prod/services/old/instances/i", json!({"addresses": ["10.0.0.9"]})).await;
    let json_lines = [("content-type", "application/x-ndjson")];
    let done = two.send(Method::POST, "/v1/import?replace=true", &json_lines, export.clone()).await;
    assert_eq!(
        (done.status, &done.json["records"], &done.json["removed"]),
        (200, &json!(2), &json!(1)),
        "{}",
        done.text
    );
    assert_eq!(two.get(WEB1).await.json["effectiveHealth"], "warning");
    assert_eq!(two.get("/v1/namespaces/prod/services/old").await.status, 404);
    let revision = two.get("/v1/status").await.json["revision"].clone();
    let cut: String = export.lines().take(2).map(|line| format!("{line}\n")).collect();
    let refused = two.send(Method::POST, "/v1/import?replace=true", &json_lines, cut).await;
    assert!(refused.status == 400 && refused.text.contains("cut short"), "{}", refused.text);
    let spoiled = export.replace("10.0.0.1", "0.0.0.0");
    let refused = two.send(Method::POST, "/v1/import", &json_lines, spoiled).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.json["detail"].as_str().unwrap().contains("line "));
    assert_eq!(two.get("/v1/status").await.json["revision"], revision);
}

#[tokio::test]
async fn imports_come_one_at_a_time() {
    let server = Server::start();
    server.put(WEB1, json!({"addresses": ["10.0.0.1"]})).await;
    let export = server.get("/v1/export").await.text;
    let json_lines = [("content-type", "application/x-ndjson")];
    // One that has not come whole yet holds the turn; it has it as soon as it is asked for its body.
    let mut slow = TcpStream::connect(server.http).unwrap();
    let head = format!(
        "POST /v1/import HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        server.http,
        export.len()
    );
    slow.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    slow.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    slow.write_all(&export.as_bytes()[..10]).unwrap();
    let second = server.send(Method::POST, "/v1/import", &json_lines, export.clone()).await;
    assert_eq!(second.status, 503, "{}", second.text);
    assert!(second.json["detail"].as_str().unwrap().contains("another import"), "{}", second.text);
    slow.write_all(&export.as_bytes()[10..]).unwrap();
    let mut reply = [0; 12];
    slow.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"HTTP/1.1 200");
    let third = server.send(Method::POST, "/v1/import", &json_lines, export).await;
    assert_eq!(third.status, 200, "{}", third.text);
}

/// A set or an import that breaks off says how far it came.
#[tokio::test]
async fn what_broke_off_says_how_far_it_came() {
    let applied = |answer: &fingerpost_tests::Answer, words: &str| -> usize {
        assert_eq!(answer.status, 507, "{}", answer.text);
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains(words) && detail.contains("repeating"), "{detail}");
        detail.split(|c: char| !c.is_ascii_digit()).find_map(|number| number.parse().ok()).unwrap()
    };
    let filler = "x".repeat(250);

    let server = Server::start_on_small_disk(12);
    let items: Vec<Value> = (0..28_000)
        .map(|n| json!({"id": format!("i{n}"), "addresses": ["10.0.0.1"], "node": filler, "zone": filler}))
        .collect();
    let set = server.put("/v1/namespaces/a/services/b/instances?source=api/x", json!({"items": items})).await;
    assert!((100..28_000).contains(&applied(&set, "of the set's 28000 changes were applied")), "{}", set.text);

    let server = Server::start_on_small_disk(12);
    let header = server.get("/v1/export").await.text.lines().next().unwrap().to_owned();
    let lines = (0..28_000).map(|n| {
        let record = json!({"addresses": ["10.0.0.1"], "node": filler, "zone": filler});
        format!("{}\n", json!({"key": format!("instances/a/b/api/i{n}"), "value": record}))
    });
    let footer = format!("{}\n", json!({"fingerpost": "end", "records": 28_000}));
    let import: String = std::iter::once(format!("{header}\n")).chain(lines).chain([footer]).collect();
    let import = server.send(Method::POST, "/v1/import", &[("content-type", "application/x-ndjson")], import).await;
    let written = applied(&import, "of 28000 records were written");
    assert!((100..28_000).contains(&written), "{}", import.text);
}
