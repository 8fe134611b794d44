//! Watch streams over Server-Sent Events.

use super::body::{self, MAX_BODY};
use super::described::{BodyProblems, NotFound, OnlyJson, Refused, Unavailable};
use super::objects::reply;
use super::params::{self, Params, Path};
use super::problem::Problem;
use super::{App, AppState};
use crate::watch::{Filter, StreamLimits, Subscribe, WatchStream};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fingerpost_catalog::document::ProblemDocument;
use fingerpost_catalog::{Kind, Position};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;

/// One subscription of a stream of many.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SubscriptionDocument {
    /// The client's name for it, which its events carry: 1 to 253 of `A-Z a-z 0-9 . _ : -`.
    id: String,
    /// Only objects of this kind.
    #[schema(value_type = Option<String>)]
    kind: Option<Kind>,
    /// Only this namespace and what is in it.
    namespace: Option<String>,
    /// Only this service and its instances.
    service: Option<String>,
    /// Labels, in Kubernetes' grammar.
    selector: Option<String>,
    /// Effective healths, as `passing,warning`; instances only.
    health: Option<String>,
    /// Only what this source declares.
    source: Option<String>,
    /// Resume after this position.
    #[schema(value_type = Option<String>)]
    position: Option<Position>,
}

/// Subscriptions of a new stream.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WatchMany {
    subscriptions: Vec<SubscriptionDocument>,
    /// A bookmark is sent after so many idle seconds, 1 to 60; absent: 15. A client that must notice soon that a
    /// connection is dead asks for a short time.
    #[serde(default)]
    heartbeat_seconds: Option<u64>,
}

/// A change to a running stream.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub(crate) struct ChangeWatch {
    /// Subscriptions to add; one that `remove` names, too, is replaced.
    add: Vec<SubscriptionDocument>,
    /// Ids of subscriptions to end.
    remove: Vec<String>,
}

/// The reply to a change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct WatchChanged {
    added: usize,
    removed: usize,
}

impl SubscriptionDocument {
    fn parse(self, pointer: &str) -> Result<Subscribe, Problem> {
        let at = |field: &str, detail: &dyn std::fmt::Display| Problem::body(format!("{pointer}/{field}"), detail);
        fingerpost_catalog::validate_instance_id(&self.id).map_err(|error| at("id", &error))?;
        for (field, name) in [("namespace", &self.namespace), ("service", &self.service)] {
            if let Some(name) = name {
                fingerpost_catalog::validate_dns_label(name).map_err(|error| at(field, &error))?;
            }
        }
        let selector = self.selector.as_deref().unwrap_or_default().parse().map_err(|error| at("selector", &error))?;
        let health = match &self.health {
            None => fingerpost_catalog::HealthSet::default(),
            Some(text) => text.parse().map_err(|error| at("health", &error))?,
        };
        let source = self.source.as_deref().map(str::parse).transpose().map_err(|error| at("source", &error))?;
        let filter =
            Filter { kind: self.kind, namespace: self.namespace, service: self.service, selector, health, source };
        Ok(Subscribe { id: self.id, filter, position: self.position })
    }
}

fn parse_all(documents: Vec<SubscriptionDocument>, field: &str) -> Result<Vec<Subscribe>, Problem> {
    let mut ids = std::collections::HashSet::new();
    let mut parsed = Vec::with_capacity(documents.len());
    for (n, document) in documents.into_iter().enumerate() {
        let pointer = format!("/{field}/{n}");
        if !ids.insert(document.id.clone()) {
            return Err(Problem::body(format!("{pointer}/id"), "two subscriptions have this id"));
        }
        parsed.push(document.parse(&pointer)?);
    }
    Ok(parsed)
}

fn events(stream: WatchStream) -> Response {
    let chunks = futures_util::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next_chunk().await?;
        Some((Ok::<Bytes, Infallible>(chunk), stream))
    });
    let mut response = Body::from_stream(chunks).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The limits of a stream whose client asked for a bookmark after so many idle seconds.
fn limits(app: &App, heartbeat: Option<u64>, wrong: impl FnOnce(&str) -> Problem) -> Result<StreamLimits, Problem> {
    let limits = app.api.stream_limits;
    match heartbeat {
        None => Ok(limits),
        Some(seconds @ 1..=60) => Ok(StreamLimits { bookmark: Duration::from_secs(seconds), ..limits }),
        Some(_) => Err(wrong("it is 1 to 60 seconds")),
    }
}

fn too_many(error: crate::watch::TooManyStreams) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(5)
}

/// Watch objects: their state, `synced`, then every change, as Server-Sent Events.
#[utoipa::path(get, path = "/v1/watch", tag = "watch",
    params(("kind" = Option<String>, Query, description = "`namespace`, `service` or `instance`."),
        ("namespace" = Option<String>, Query, description = "Only this namespace and what is in it."),
        ("service" = Option<String>, Query, description = "Only services of this name and their instances."),
        ("selector" = Option<String>, Query, description = "Labels, in Kubernetes' grammar."),
        ("health" = Option<String>, Query, description = "Effective healths of instances, as `passing,warning`."),
        ("source" = Option<String>, Query, description = "Only what this source declares."),
        ("position" = Option<String>, Query, description = "Resume after this position, as `Last-Event-ID` does."),
        ("heartbeatSeconds" = Option<u64>, Query, description = "A bookmark is sent after so many idle seconds, 1 to \
            60; absent: 15."),
        ("Last-Event-ID" = Option<String>, Header, description = "Resume after this event.")),
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "Events `put` and `delete` (data: kind and object), `synced`, `bookmark` (data: revision), \
                `reset` (data: reason; what was known is void, the state follows). An id stands on `synced`, \
                `bookmark` and the last event of a position."),
        Refused, Unavailable))]
pub(crate) async fn watch(
    State(app): AppState,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    let kind = match given.take("kind").as_deref() {
        None => None,
        Some("namespace") => Some(Kind::Namespace),
        Some("service") => Some(Kind::Service),
        Some("instance") => Some(Kind::Instance),
        Some(_) => return Err(Problem::parameter("kind", "it is `namespace`, `service` or `instance`")),
    };
    let namespace = given.take("namespace");
    if let Some(namespace) = &namespace {
        params::namespace(namespace)?;
    }
    let service = given.take("service");
    if let Some(service) = &service {
        params::service(service)?;
    }
    let (selector, health) = (given.selector()?, given.health()?);
    let source = given.parse("source")?;
    let asked: Option<Position> = given.parse("position")?;
    let heartbeat = given.parse("heartbeatSeconds")?;
    given.finish()?;
    let position = match headers.get("last-event-id").map(HeaderValue::to_str) {
        None => asked,
        Some(text) => Some(
            text.ok()
                .and_then(|text| text.trim().parse().ok())
                .ok_or_else(|| Problem::parameter("Last-Event-ID", "not an id of this stream's events"))?,
        ),
    };
    let filter = Filter { kind, namespace, service, selector, health, source };
    let subscribe = Subscribe { id: String::new(), filter, position };
    let limits = limits(&app, heartbeat, |detail| Problem::parameter("heartbeatSeconds", detail))?;
    let api = &app.api;
    let stream = WatchStream::single(&api.hub, &api.live, limits, subscribe, api.shutdown.clone());
    Ok(events(stream.map_err(too_many)?))
}

/// Watch with many subscriptions on one stream. Its first event, `stream`, names it for `PATCH`; every other event's
/// data carries its `subscription`.
#[utoipa::path(post, path = "/v1/watch", tag = "watch", request_body = WatchMany,
    responses((status = 200, content_type = "text/event-stream", body = String,
            description = "Events as those of a single watch, each with its `subscription`."),
        Refused, BodyProblems, OnlyJson, Unavailable))]
pub(crate) async fn watch_many(State(app): AppState, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    params::loaded(&app)?;
    body::require_json(&headers)?;
    let asked: WatchMany = body::json(&body::read(body, MAX_BODY).await?)?;
    limit(&app, asked.subscriptions.len(), "/subscriptions")?;
    let subscriptions = parse_all(asked.subscriptions, "subscriptions")?;
    let limits = limits(&app, asked.heartbeat_seconds, |detail| Problem::body("/heartbeatSeconds", detail))?;
    let api = &app.api;
    let stream = WatchStream::multiplexed(&api.hub, &api.live, limits, subscriptions, api.shutdown.clone());
    Ok(events(stream.map_err(too_many)?))
}

fn limit(app: &App, count: usize, pointer: &str) -> Result<(), Problem> {
    let most = app.api.stream_limits.subscriptions;
    if count > most {
        return Err(Problem::body(
            pointer,
            format!("{count} subscriptions, and at most {most} are allowed on a stream"),
        ));
    }
    Ok(())
}

/// Add and remove subscriptions of a running stream: all of them, or none.
#[utoipa::path(patch, path = "/v1/watch/{stream}", tag = "watch",
    params(("stream" = String, Path, description = "From the stream's first event.")),
    request_body = ChangeWatch,
    responses((status = 200, description = "All of it was done.", body = WatchChanged),
        (status = 409, description = "A subscription of this id runs already.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "There is no such subscription, or there are too many.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 504, description = "The stream did not take the change in time.", body = ProblemDocument,
            content_type = "application/problem+json"),
        Refused, NotFound, BodyProblems, OnlyJson))]
pub(crate) async fn change_watch(
    State(app): AppState,
    Path(stream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    use crate::watch::ControlError;
    body::require_json(&headers)?;
    let asked: ChangeWatch = body::json(&body::read(body, MAX_BODY).await?)?;
    limit(&app, asked.add.len(), "/add")?;
    let add = parse_all(asked.add, "add")?;
    let changed = WatchChanged { added: add.len(), removed: asked.remove.len() };
    app.api.hub.change_stream(&stream, add, asked.remove).await.map_err(|error| match error {
        ControlError::NoStream => Problem::new(StatusCode::NOT_FOUND, error),
        ControlError::Stuck => Problem::new(StatusCode::GATEWAY_TIMEOUT, error),
        ControlError::Exists(_) => Problem::new(StatusCode::CONFLICT, error),
        ControlError::Absent(_) | ControlError::TooMany(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error),
    })?;
    Ok(reply(StatusCode::OK, &changed, None))
}
