//! What operators ask: is it alive, is it ready, how does it do, and why does this name not resolve?

use super::AppState;
use super::body::{self, MAX_BODY};
use super::described::{Always, BodyProblems, Guarded, OnlyJson, Refused};
use super::objects::reply;
use super::params::Params;
use super::problem::Problem;
use crate::access::{Caller, Role};
use crate::store::MigrateError;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fingerpost_catalog::Health;
use fingerpost_catalog::document::ProblemDocument;
use serde_json::{Map, Value, json};

/// Explain what a name resolves to, step by step.
#[utoipa::path(get, path = "/v1/explain", tag = "operations",
    params(("name" = String, Query, description = "A domain name; whole, but with `from` as the client has it."),
        ("type" = Option<String>, Query, description = "The record type; default `A`."),
        ("from" = Option<String>, Query, description = "The address of a pod: explain what its resolver makes of the name.")),
    responses((status = 200, description = "The steps and the answer.", body = Object),
        (status = 501, description = "This process serves no DNS.", body = ProblemDocument,
            content_type = "application/problem+json"),
        Refused))]
pub(crate) async fn explain(State(app): AppState, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let name = given.take("name").ok_or_else(|| Problem::parameter("name", "say which name to explain"))?;
    let qtype = given.take("type").unwrap_or_else(|| "A".to_owned());
    let from = given
        .take("from")
        .map(|text| text.parse().map_err(|_| Problem::parameter("from", format!("`{text}` is no IP address"))))
        .transpose()?;
    given.finish()?;
    let Some(names) = &app.api.names else {
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "this process serves no DNS"));
    };
    let explanation = names.explain(&name, &qtype, from).map_err(|error| Problem::parameter("name", error))?;
    Ok(reply(StatusCode::OK, &explanation, None))
}

/// How the server does.
#[utoipa::path(get, path = "/v1/status", tag = "operations",
    responses((status = 200, description = "Figures of store, catalog, streams and DNS.", body = Object), Always, Guarded))]
pub(crate) async fn status(State(app): AppState) -> Response {
    let api = &app.api;
    let store = api.store.status();
    let stats = api.live.read().stats();
    let hub = api.hub.stats();
    let (home, running) = api.checks.counts();
    let members = std::sync::Arc::clone(&api.store.members().borrow());
    let own = members.live.iter().find(|member| member.id == members.own);
    let health: Map<String, Value> =
        Health::ALL.into_iter().map(|health| (health.to_string(), json!(stats.health.get(health as usize)))).collect();
    let kept = api.sessions.summary();
    let sessions = json!({
        "total": kept.alive + kept.suspect + kept.expired,
        "alive": kept.alive,
        "suspect": kept.suspect,
        "expired": kept.expired,
        "home": kept.home,
        "protection": api.sessions.protection(),
    });
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "epoch": api.live.epoch().to_string(),
        "revision": api.live.position(),
        "uptimeSeconds": api.started.elapsed().as_secs(),
        "store": {
            "backend": store.backend,
            "revision": store.position,
            "records": store.records,
            "diskBytes": store.disk_bytes,
            "writeError": store.write_error,
            "oldest": fingerpost_catalog::Position::new(store.position.epoch, store.oldest),
            "outOfTouchSeconds": store.out_of_touch.map(|time| time.as_secs_f64()),
            "schema": store.schema,
            "foreign": store.foreign,
            "foreignKeys": store.foreign_keys,
            "lastSyncMicroseconds": store.last_sync.map(|time| time.as_micros() as u64),
        },
        "replica": {
            "id": members.own,
            "url": own.and_then(|member| member.url.as_deref()),
            "inTouch": members.in_touch,
        },
        "replicas": members.live,
        "followers": api.visibility.states(),
        "catalog": {
            "namespaces": stats.namespaces,
            "services": stats.services,
            "instances": stats.instances,
            "health": health,
        },
        "watch": {
            "streams": hub.streams,
            "subscriptions": hub.subscriptions,
            "history": hub.history,
            "laggards": hub.laggards,
        },
        "checks": {"home": home, "running": running},
        "sessions": sessions,
        "httpListen": api.listen,
        "insecure": api.insecure,
        "access": api.access.status(),
    });
    let orphans: Vec<_> =
        api.sources.states().iter().filter(|state| state.orphaned).map(super::sources::document).collect();
    if let Value::Object(status) = &mut status {
        status.insert("orphans".to_owned(), json!(orphans));
    }
    if let (Some(names), Value::Object(status)) = (&api.names, &mut status) {
        status.insert("dns".to_owned(), names.status());
    }
    if let (Some(cluster), Value::Object(status)) = (&api.cluster, &mut status) {
        status.insert("kubernetes".to_owned(), cluster.status());
    }
    reply(StatusCode::OK, &status, None)
}

/// The body of a call that has nothing to say.
#[derive(serde::Deserialize)]
struct Nothing {}

/// Raise the schema of the stored records to the newest that this version knows, once every live replica can read it.
#[utoipa::path(post, path = "/v1/migrate", tag = "operations",
    responses((status = 200, description = "The schema before and now.", body = Object),
        (status = 403, description = "Only administrators may.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 409, description = "A replica that is alive could not read them any more.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The store takes no writes now.", body = ProblemDocument,
            content_type = "application/problem+json"),
        BodyProblems, OnlyJson, Refused))]
pub(crate) async fn migrate(
    State(app): AppState,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::new(query.as_deref())?.finish()?;
    // There is nothing to say, but who sends no type may be a web page that nobody asked.
    body::require_json(&headers)?;
    let said = body::read(body, MAX_BODY).await?;
    if !said.is_empty() {
        let Nothing {} = body::json(&said)?;
    }
    if caller.role != Role::Admin {
        return Err(Problem::new(StatusCode::FORBIDDEN, "only administrators may migrate the records"));
    }
    let migrated = app.api.store.migrate().await.map_err(|error| match error {
        MigrateError::Unsupported { .. } => Problem::new(StatusCode::CONFLICT, error),
        MigrateError::Unavailable(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1),
    })?;
    Ok(reply(StatusCode::OK, &json!({"from": migrated.from, "to": migrated.to}), None))
}

/// The process is alive.
#[utoipa::path(get, path = "/livez", tag = "operations",
    responses((status = 200, description = "It is.", body = String), Always))]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// The process answers truthfully: its catalog is loaded, and DNS answers from it. A store that can't take writes does
/// not make it unready, because reads and DNS go on; the text says so.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, description = "It does.", body = String),
        (status = 503, description = "Not yet, or not any more; the text says why.", body = String), Always))]
pub(crate) async fn readyz(State(app): AppState) -> Response {
    let api = &app.api;
    let mut lines = Vec::new();
    let mut ready = true;
    let mut check = |name: &str, problem: Option<String>, decisive: bool| {
        ready &= problem.is_none() || !decisive;
        let mark = match (&problem, decisive) {
            (None, _) => "+",
            (Some(_), true) => "-",
            (Some(_), false) => "!",
        };
        lines.push(format!("[{mark}] {name} {}\n", problem.as_deref().unwrap_or("ok")));
    };
    check("shutdown", api.shutdown.is_cancelled().then(|| "the server is shutting down".to_owned()), true);
    check("catalog", (!api.live.is_loaded()).then(|| "is still being loaded".to_owned()), true);
    if let Some(names) = &api.names {
        check("dns", names.not_ready(), true);
    }
    // Anyone may ask this; what others said, with their hosts and paths, is in the status.
    let said = |error: String| if api.access.is_open() { error } else { "fail".to_owned() };
    if let Some(cluster) = &api.cluster {
        let not_ready = cluster.not_ready();
        let decisive = not_ready.is_some();
        check("kubernetes", not_ready.or_else(|| cluster.trouble()).map(said), decisive);
    }
    let store = api.store.status();
    let old =
        store.out_of_touch.map(|time| format!("has had no word for {} s; what is shown is so old", time.as_secs()));
    check("store", old, false);
    check("writes", store.write_error.map(said), false);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, lines.concat()).into_response()
}

/// The server's version.
#[utoipa::path(get, path = "/version", tag = "operations",
    responses((status = 200, description = "Its name, version and API.", body = Object), Always))]
pub(crate) async fn version() -> Response {
    reply(StatusCode::OK, &json!({"name": "fingerpost", "version": env!("CARGO_PKG_VERSION"), "api": "v1"}), None)
}

/// Metrics, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "All metrics.", body = String,
        content_type = "application/openmetrics-text"), Always, Guarded))]
pub(crate) async fn metrics(State(app): AppState) -> Result<Response, Problem> {
    openmetrics(&app.api.metrics)
}

/// A reply that holds all metrics of a registry of them.
pub fn openmetrics(metrics: &prometheus_client::registry::Registry) -> Result<Response, Problem> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, metrics)
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written"))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
