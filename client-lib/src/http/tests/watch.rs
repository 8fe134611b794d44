//! Watches over streams that are cut, compacted, or no streams at all.

use super::{reply, server};
use crate::request::{WatchEvent, WatchRequest};
use crate::{Error, Registry, Result};
use axum::body::Body;
use axum::http::Response;
use fingerpost_catalog::Kind;
use fingerpost_catalog::document::ObjectDocument;
use futures_util::StreamExt;

fn events(text: &str) -> Response<Body> {
    Response::builder().header("content-type", "text/event-stream").body(Body::from(text.to_owned())).unwrap()
}

fn put(name: &str, id: &str) -> String {
    format!("event: put\n{id}data: {{\"kind\":\"namespace\",\"object\":{{\"name\":\"{name}\"}}}}\n\n")
}

/// An event in a few letters.
fn short(event: Result<WatchEvent>) -> String {
    match event {
        Ok(WatchEvent::Put { object: ObjectDocument::Namespace(namespace), position }) => {
            format!("put {} {:?}", namespace.name.unwrap(), position.map(|position| position.number))
        }
        Ok(WatchEvent::Synced(position)) => format!("synced {}", position.number),
        Ok(WatchEvent::Bookmark(position)) => format!("bookmark {}", position.number),
        Ok(WatchEvent::Reset { reason }) => format!("reset {reason}"),
        Ok(other) => format!("{other:?}"),
        Err(Error::Broken { .. }) => "broken".to_owned(),
        Err(error) => format!("error {error}"),
    }
}

#[tokio::test]
async fn watches_resume_where_a_position_was_whole() {
    let at = |number: u64| format!("000000000000beef-{number}");
    let marker =
        |event: &str, number: u64| format!("event: {event}\nid: {0}\ndata: {{\"revision\":\"{0}\"}}\n\n", at(number));
    let (registry, seen) = server(vec![
        // Cut within the state: it must come again from its beginning.
        events(&put("a", "")),
        events(&(put("b", "") + &marker("synced", 5) + &put("c", &format!("id: {}\n", at(6))) + &put("d", ""))),
        events(
            &(put("d", &format!("id: {}\n", at(7))) + &marker("bookmark", 8) + "event: from-the-future\ndata: 1\n\n"),
        ),
        reply(410, "{\"detail\":\"compacted\"}"),
        events(&marker("synced", 9)),
        reply(400, "{\"detail\":\"no\"}"),
    ])
    .await;
    let told: Vec<String> = registry.watch(WatchRequest::new(Some(Kind::Namespace))).map(short).collect().await;
    assert_eq!(
        told,
        [
            "put a None",
            "broken",
            "reset the connection broke before the state was complete",
            "put b None",
            "synced 5",
            "put c Some(6)",
            "put d None",
            "broken",
            "put d Some(7)",
            "bookmark 8",
            "broken",
            "reset compacted",
            "synced 9",
            "broken",
            "error no",
        ]
    );
    let asked = seen.lock().unwrap().clone();
    let path = "GET /v1/watch?kind=namespace&heartbeatSeconds=3";
    assert_eq!(
        asked,
        [
            path.to_owned(),
            path.to_owned(),
            format!("{path} last-event-id={}", at(6)),
            format!("{path} last-event-id={}", at(8)),
            path.to_owned(),
            format!("{path} last-event-id={}", at(9)),
        ]
    );
}

#[tokio::test]
async fn watches_give_up_on_streams_that_are_none() {
    let (registry, _) = server(vec![reply(200, "hello"), events("event: put\ndata: {}\n\n")]).await;
    for _ in 0..2 {
        let told: Vec<_> = registry.watch(WatchRequest::new(None)).collect().await;
        assert!(matches!(&told[..], [Err(Error::Unexpected { .. })]), "{told:?}");
    }
}
