//! The client against small servers that say what a registry would, and worse.

mod watch;

use super::{HttpOptions, HttpRegistry};
use crate::request::{Filter, Guard, ListRequest, Operation, WatchRequest};
use crate::{Error, Registry, all_instances};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use fingerpost_catalog::document::{HealthDocument, InstanceDocument, NamespaceDocument, ObjectDocument};
use fingerpost_catalog::{Health, InstanceKey, Source};
use futures_util::{StreamExt, TryStreamExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a test server was asked: method, path with query, a few headers, body.
type Seen = Arc<Mutex<Vec<String>>>;
type Answers = Arc<Mutex<std::vec::IntoIter<Response<Body>>>>;

/// A server that gives these answers, one after the other.
async fn server(answers: Vec<Response<Body>>) -> (HttpRegistry, Seen) {
    async fn answer(State((seen, answers)): State<(Seen, Answers)>, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut line = format!("{} {}", parts.method, parts.uri);
        for name in ["if-match", "if-none-match", "last-event-id"] {
            if let Some(value) = parts.headers.get(name) {
                line.push_str(&format!(" {name}={}", value.to_str().unwrap()));
            }
        }
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        if !body.is_empty() {
            line.push_str(&format!(" {}", String::from_utf8_lossy(&body)));
        }
        seen.lock().unwrap().push(line);
        answers.lock().unwrap().next().unwrap_or_else(|| reply(500, "{\"detail\":\"no more answers\"}"))
    }
    let seen = Seen::default();
    let state = (seen.clone(), Arc::new(Mutex::new(answers.into_iter())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(state);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let options = HttpOptions { timeout: Duration::from_secs(5), max_reply: 1000, ..HttpOptions::default() };
    (HttpRegistry::with_options(&[endpoint], options).unwrap(), seen)
}

fn reply(status: u16, body: &str) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_owned())).unwrap()
}

fn key(id: &str) -> InstanceKey {
    InstanceKey { namespace: "prod".into(), service: Some("web".into()), source: Source::api(), id: id.into() }
}

const POSITION: &str = "000000000000beef-42";

#[tokio::test]
async fn ids_are_encoded_and_odd_ones_refused() {
    let (registry, seen) = server(vec![reply(200, &format!("{{\"revision\":\"{POSITION}\"}}"))]).await;
    let position = registry.delete_instance(&key("fd00::1"), Guard::None).await.unwrap();
    assert_eq!(position.to_string(), POSITION);
    let path = "DELETE /v1/namespaces/prod/services/web/instances/fd00::1?source=api";
    assert_eq!(*seen.lock().unwrap(), [path]);
    for id in ["..", ".", ""] {
        let error = registry.delete_instance(&key(id), Guard::None).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { status: 0, .. }), "{error}");
    }
    // What the catalog would refuse must still not become another path.
    for (id, encoded) in [("a/b", "a%2Fb"), ("a?b#c", "a%3Fb%23c"), ("100%", "100%25"), ("é", "%C3%A9")] {
        let _ = registry.delete_instance(&key(id), Guard::None).await;
        let path = seen.lock().unwrap().pop().unwrap();
        assert!(path.contains(&format!("/instances/{encoded}?")), "{path}");
    }
}

#[tokio::test]
async fn writes_carry_source_and_guard_and_learn_the_position() {
    let created = Response::builder().status(201).header("etag", format!("\"{POSITION}\""));
    let created = created.body(Body::from("{\"namespace\":\"prod\",\"service\":\"web\",\"id\":\"a\"}")).unwrap();
    let (registry, seen) = server(vec![created, reply(200, &format!("{{\"revision\":\"{POSITION}\"}}"))]).await;
    let source: Source = "api/team".parse().unwrap();
    let instance = InstanceDocument {
        namespace: Some("prod".into()),
        id: Some("a".into()),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..InstanceDocument::default()
    };
    let written = registry.put_instance(&source, &instance, Guard::Absent).await.unwrap();
    assert!(written.created);
    assert_eq!(written.revision.to_string(), POSITION);
    let health = HealthDocument { health: Health::Warning, note: "hot".into() };
    registry.report_health(&key("a"), &health).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let put = "PUT /v1/namespaces/prod/instances/a?source=api%2Fteam if-none-match=* \
               {\"namespace\":\"prod\",\"id\":\"a\",\"addresses\":[\"10.0.0.1\"]}";
    assert_eq!(seen[0], put);
    assert!(seen[1].starts_with("PUT /v1/namespaces/prod/services/web/instances/a/health?source=api "), "{}", seen[1]);
    let nameless = InstanceDocument::default();
    let error = registry.put_instance(&source, &nameless, Guard::None).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { pointer: Some(pointer), .. } if pointer == "/namespace"));
}

#[tokio::test]
async fn problems_become_typed_errors() {
    let problem = "{\"type\":\"about:blank\",\"title\":\"Invalid\",\"status\":422,\"detail\":\"port 0\",\
                   \"pointer\":\"/ports/0/port\"}";
    let unknown = "{\"status\":504,\"detail\":\"no word\",\"outcome\":\"unknown\"}";
    let (registry, _) = server(vec![
        reply(422, problem),
        reply(404, "{\"detail\":\"no instance `a`\"}"),
        reply(504, unknown),
        reply(502, "Bad gateway"),
        reply(504, "{\"detail\":\"not there yet\"}"),
        reply(200, "<html>"),
        reply(200, &"x".repeat(2000)),
        reply(302, ""),
    ])
    .await;
    let (key, guard) = (key("a"), Guard::At(POSITION.parse().unwrap()));
    let error = registry.delete_instance(&key, guard).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { status: 422, pointer: Some(p), .. } if p == "/ports/0/port"), "{error}");
    let error = registry.delete_instance(&key, guard).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { detail } if detail == "no instance `a`"), "{error}");
    let error = registry.delete_instance(&key, guard).await.unwrap_err();
    assert!(matches!(&error, Error::UnknownOutcome { .. }), "{error}");
    let error = registry.delete_instance(&key, guard).await.unwrap_err();
    assert!(matches!(&error, Error::UnknownOutcome { .. }), "{error}");
    let error = registry.get_instance(&key).await.unwrap_err();
    assert!(matches!(&error, Error::Behind { .. }), "{error}");
    let error = registry.get_instance(&key).await.unwrap_err();
    assert!(matches!(&error, Error::Unexpected { .. }), "{error}");
    let error = registry.get_instance(&key).await.unwrap_err();
    assert!(matches!(&error, Error::TooLarge { limit: 1000, .. }), "{error}");
    let error = registry.get_instance(&key).await.unwrap_err();
    assert!(matches!(&error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn repeats_only_what_is_safe() {
    let busy = |retry_after: bool| {
        let busy = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
        let busy = if retry_after { busy.header("retry-after", "0") } else { busy };
        busy.body(Body::from("{\"detail\":\"busy\"}")).unwrap()
    };
    let done = || reply(200, &format!("{{\"revision\":\"{POSITION}\",\"items\":[],\"added\":0}}"));
    let (registry, seen) = server(vec![busy(false), done(), busy(true), done(), busy(false), busy(true), done()]).await;
    registry.list_instances(ListRequest::default()).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 2, "a read is repeated");
    registry.delete_instance(&key("a"), Guard::None).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 4, "a write is repeated where the registry says when");
    let error = registry.delete_instance(&key("a"), Guard::None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    assert_eq!(seen.lock().unwrap().len(), 5, "and else not");
    let operation = Operation::Delete(ObjectDocument::Namespace(NamespaceDocument::default()));
    let error = registry.bulk(&Source::api(), vec![operation]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    assert_eq!(seen.lock().unwrap().len(), 6, "nor one that may have been applied in part");
}

#[tokio::test]
async fn nobody_there_and_nobody_answering() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let free = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let options = HttpOptions {
        connect_timeout: Duration::from_millis(50),
        timeout: Duration::from_millis(400),
        ..HttpOptions::default()
    };
    let registry = HttpRegistry::with_options(&[free.as_str()], options.clone()).unwrap();
    let error = registry.delete_instance(&key("a"), Guard::None).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("fingerpost serve"), "{error}");
    let registry = HttpRegistry::with_options(&[silent.as_str()], options.clone()).unwrap();
    let error = registry.delete_instance(&key("a"), Guard::None).await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { .. }), "{error}");
    let error = registry.get_instance(&key("a")).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error}");
    // The next replica takes over, for streams as for calls.
    let answers = vec![reply(200, &format!("{{\"revision\":\"{POSITION}\"}}")), reply(200, "{}\n"), reply(410, "")];
    let (alive, seen) = server(answers).await;
    let replicas =
        || HttpRegistry::with_options(&[free.clone(), alive.endpoint().to_string()], options.clone()).unwrap();
    replicas().delete_instance(&key("a"), Guard::None).await.unwrap();
    assert!(replicas().export().await.is_ok());
    let told = replicas().watch(WatchRequest::new(None)).next().await.unwrap().unwrap_err();
    assert!(matches!(told, Error::Gone { .. }), "{told}");
    assert_eq!(seen.lock().unwrap().len(), 3);
    let nobody = HttpRegistry::with_options(&[free.clone(), free], options).unwrap();
    assert!(matches!(nobody.export().await.err(), Some(Error::Unreachable { .. })));
}

#[test]
fn endpoints() {
    for good in ["127.0.0.1:8053", "http://localhost:8053/", "http://[::1]:8053/prefix", "https://example.com"] {
        assert!(HttpRegistry::connect(good).is_ok(), "{good}");
    }
    for bad in ["", "ftp://x", "http://", "http://x?y", "http://me:secret@x"] {
        let error = HttpRegistry::connect(bad).unwrap_err();
        assert!(matches!(error, Error::Endpoint { .. }), "{bad}: {error}");
    }
}

#[tokio::test]
async fn pages_are_joined() {
    let page = |id: &str, more: &str| {
        reply(200, &format!("{{\"revision\":\"{POSITION}\",\"items\":[{{\"id\":\"{id}\"}}]{more}}}"))
    };
    let (registry, seen) = server(vec![page("a", ",\"continue\":\"x y\""), page("b", "")]).await;
    let filter = Filter {
        namespace: Some("prod".into()),
        service: Some("web".into()),
        selector: "a=b,c!=d".parse().unwrap(),
        health: vec![Health::Passing, Health::Warning],
        source: None,
    };
    let all: Vec<_> = all_instances(&registry, filter.into()).try_collect().await.unwrap();
    assert_eq!(all.iter().filter_map(|instance| instance.id.as_deref()).collect::<String>(), "ab");
    let path = "GET /v1/namespaces/prod/services/web/instances?selector=a%3Db%2Cc%21%3Dd&health=passing%2Cwarning";
    assert_eq!(*seen.lock().unwrap(), [path.to_owned(), format!("{path}&continue=x+y")]);
}

#[tokio::test]
async fn batches() {
    let results = format!(
        "{{\"revision\":\"{POSITION}\",\"results\":[{{\"status\":200,\"revision\":\"{POSITION}\"}},\
         {{\"status\":409,\"problem\":{{\"title\":\"Conflict\",\"status\":409,\"detail\":\"no\"}}}}]}}"
    );
    let (registry, seen) = server(vec![reply(200, &results)]).await;
    let namespace = NamespaceDocument { name: Some("prod".into()), ..NamespaceDocument::default() };
    let object = ObjectDocument::Namespace(namespace);
    let operations = vec![Operation::Put(object.clone()), Operation::Delete(object)];
    let reply = registry.bulk(&Source::api(), operations).await.unwrap();
    assert!(reply.results[0].is_ok() && matches!(reply.results[1], Err(Error::Conflict { .. })));
    let sent = "POST /v1/batch?source=api&atomic=false {\"operations\":[\
                {\"op\":\"put\",\"kind\":\"namespace\",\"object\":{\"name\":\"prod\"}},\
                {\"op\":\"delete\",\"kind\":\"namespace\",\"object\":{\"name\":\"prod\"}}]}";
    assert_eq!(*seen.lock().unwrap(), [sent]);
}
