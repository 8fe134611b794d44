//! `?wait=visible` on writes: the reply comes when all who follow show what was written, or when the time is up. By then
//! the write is committed, so it succeeds in either case, and the reply says how far it is visible.
//!
//! It is the same for every write, so it stands around the handlers and not in them. What is waited for is what this
//! replica shows when the handler is done: that includes what was written and, where nothing changed, is the present.

use super::App;
use super::objects;
use super::params::Params;
use super::problem::{Committed, Problem};
use crate::access::routes::{self, Need};
use crate::writes::WriteError;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Uri, header, uri::PathAndQuery};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fingerpost_catalog::Position;
use fingerpost_catalog::document::VisibilityDocument;
use serde::Serialize;
use std::time::Duration;

/// How long a write waits that does not say.
const DEFAULT: Duration = Duration::from_secs(5);
/// The longest time that one may wait.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a write is to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wait(Duration);

/// Whether a route writes what can be waited for.
fn takes(method: &Method, template: &str) -> bool {
    match (method.as_str(), template) {
        ("POST", "/v1/sessions/renew") => false,
        ("DELETE", "/v1/sources/{source}") | ("POST", "/v1/import") => true,
        _ => routes::need(method, Some(template)) == Need::Write,
    }
}

impl Wait {
    /// Takes `wait` and `timeout` out of a request's query. Where the route takes none, they stay, and its handler refuses
    /// them as it does all that it does not know.
    pub(super) fn take(request: &mut Request) -> Result<Option<Self>, Problem> {
        let Some(query) = request.uri().query().filter(|query| query.contains("wait=") || query.contains("timeout="))
        else {
            return Ok(None);
        };
        let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        if !template.is_some_and(|template| takes(request.method(), template)) {
            return Ok(None);
        }
        let mut given = Params::new(Some(query))?;
        let (wait, timeout) = (given.take("wait"), given.take("timeout"));
        let is_ours = |pair: &&str| {
            let name = pair.split('=').next().unwrap_or_default();
            name != "wait" && name != "timeout"
        };
        let rest: Vec<&str> = query.split('&').filter(is_ours).collect();
        let path = request.uri().path();
        let target = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
        match wait.as_deref() {
            Some("visible") => {}
            Some(_) => return Err(Problem::parameter("wait", "the one thing to wait for is `visible`")),
            None if timeout.is_some() => {
                return Err(Problem::parameter("timeout", "it goes with `wait=visible`"));
            }
            None => return Ok(None),
        }
        let wait = Self(timeout.as_deref().map_or(Ok(DEFAULT), parse)?);
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = PathAndQuery::try_from(target).ok();
        // A part of what was a URI is one.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        Ok(Some(wait))
    }

    /// Waits after a write that succeeded, and says in its reply how far it is visible.
    pub(super) async fn after(self, app: &App, response: Response) -> Response {
        // Written, but this replica itself has not come to show it: nor has everybody, then.
        if let Some(Committed { position, reply }) = response.extensions().get() {
            let visibility = app.api.visibility.wait(*position, Duration::ZERO).await;
            let mut response = (StatusCode::OK, extended(reply, &visibility)).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            return response;
        }
        if !response.status().is_success() {
            return response;
        }
        let visibility = app.api.visibility.wait(app.api.live.position(), self.0).await;
        let (mut parts, body) = response.into_parts();
        // It was made in memory, by a handler.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, Body::from(extended(&body, &visibility)))
    }
}

/// The reply to a write that was done whole, once it is known whether this replica shows it.
pub(super) fn told(
    position: Position,
    shown: Result<(), WriteError>,
    reply: &impl Serialize,
) -> Result<Response, Problem> {
    match shown {
        Err(WriteError::NotVisible { error, .. }) => Err(Problem::not_visible(position, error, reply)),
        Err(other) => Err(other.into()),
        Ok(()) => Ok(objects::reply(StatusCode::OK, reply, None)),
    }
}

/// A time, as in `5`, `5s` or `500ms`.
fn parse(text: &str) -> Result<Duration, Problem> {
    let wrong = || {
        let most = LONGEST.as_secs();
        Problem::parameter("timeout", format!("write it as in `5`, `5s` or `500ms`, at most {most} seconds"))
    };
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let time = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    if time > LONGEST { Err(wrong()) } else { Ok(time) }
}

/// A JSON object with the fields of a visibility beside its own.
fn extended(object: &[u8], visibility: &VisibilityDocument) -> Bytes {
    let fields = serde_json::to_vec(visibility).unwrap_or_default();
    match (object.trim_ascii_end().strip_suffix(b"}"), fields.strip_prefix(b"{")) {
        (Some(own), Some(fields)) => {
            let separator: &[u8] = if own.trim_ascii_end().ends_with(b"{") { b"" } else { b"," };
            [own, separator, fields].concat().into()
        }
        // No object; handlers of writes answer with nothing else.
        _ => Bytes::copy_from_slice(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [("5", 5000), ("5s", 5000), ("0", 0), ("250ms", 250), ("60s", 60_000)] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(expected), "{text}");
        }
        for bad in ["", "s", "-1", "61", "1m", "1.5s", "99999999999999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_that_write() {
        assert!(takes(&Method::PUT, "/v1/namespaces/{namespace}"));
        assert!(takes(&Method::POST, "/v1/batch"));
        assert!(takes(&Method::DELETE, "/v1/sessions/{id}"));
        assert!(takes(&Method::DELETE, "/v1/sources/{source}"));
        for (method, template) in [
            (Method::GET, "/v1/namespaces/{namespace}"),
            (Method::POST, "/v1/sessions/renew"),
            (Method::POST, "/v1/migrate"),
            (Method::POST, "/v1/followers/{id}"),
            (Method::POST, "/v1/watch"),
        ] {
            assert!(!takes(&method, template), "{method} {template}");
        }
    }

    #[test]
    fn replies_get_more_fields() {
        let visibility = VisibilityDocument { visible: true, ..VisibilityDocument::default() };
        let json =
            |object: &[u8]| -> serde_json::Value { serde_json::from_slice(&extended(object, &visibility)).unwrap() };
        assert_eq!(json(b"{}")["visible"], true);
        let reply = json(b"{\"revision\":\"x\"}");
        assert_eq!((&reply["revision"], &reply["lagging"]), (&"x".into(), &serde_json::json!([])));
    }
}
