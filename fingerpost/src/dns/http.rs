//! Probes and metrics of a DNS server, and, for its own machine, why a name resolves or does not.
//!
//! The probes and metrics are open to whoever reaches them, as those of `serve --ops-listen` are. What tells of the catalog is
//! served on loopback only, and not to web pages that reach it by a name of their own.

use super::state::State;
use crate::names::DnsNames;
use crate::ops;
use axum::Router;
use axum::extract::{Query, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fingerpost_catalog::document::ProblemDocument;
use fingerpost_registry::api::{NameService, names_this_machine};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// What is told of.
pub(super) struct Parts {
    pub(super) state: Arc<State>,
    pub(super) names: Arc<DnsNames>,
    pub(super) metrics: Arc<Registry>,
    /// Whether all addresses are of this machine alone.
    pub(super) local: bool,
    pub(super) stop: CancellationToken,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    name: String,
    #[serde(rename = "type", default = "default_type")]
    record_type: String,
    from: Option<IpAddr>,
}

fn default_type() -> String {
    "A".to_owned()
}

pub(super) fn router(parts: Parts) -> Router {
    let Parts { state, names, metrics, local, stop } = parts;
    let ready = {
        let (state, names) = (Arc::clone(&state), Arc::clone(&names));
        move || std::future::ready(readiness(&state, &names, &stop))
    };
    let version = json!({"name": "fingerpost", "version": env!("CARGO_PKG_VERSION"), "api": "v1"});
    let router = ops::router(metrics)
        .route("/readyz", get(ready))
        .route("/version", get(move || std::future::ready(axum::Json(version.clone()))));
    let router = match local {
        true => router.merge(local_routes(state, names)),
        false => router,
    };
    router.fallback(|| async { problem(StatusCode::NOT_FOUND, "a DNS server has no such path") })
}

/// What tells of the catalog.
fn local_routes(state: Arc<State>, names: Arc<DnsNames>) -> Router {
    let started = Instant::now();
    let explain = {
        let names = Arc::clone(&names);
        move |Query(asked): Query<Explain>| {
            let Explain { name, record_type, from } = asked;
            std::future::ready(match names.explain(&name, &record_type, from) {
                Ok(explanation) => axum::Json(explanation).into_response(),
                Err(error) => problem(StatusCode::BAD_REQUEST, &error),
            })
        }
    };
    let status = move || {
        let mut dns = names.status();
        // What comes from the disk is older than this process.
        dns["ageSeconds"] = json!(state.age().map(|age| age.as_secs_f64()));
        std::future::ready(axum::Json(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "revision": dns["position"],
            "uptimeSeconds": started.elapsed().as_secs(),
            "dns": dns,
            "following": state.document(),
        })))
    };
    Router::new().route("/v1/explain", get(explain)).route("/v1/status", get(status)).layer(middleware::from_fn(
        async |request: Request, next: Next| {
            let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
            match host.is_none_or(names_this_machine) {
                true => next.run(request).await,
                false => problem(StatusCode::MISDIRECTED_REQUEST, "this is for this machine only; use its address"),
            }
        },
    ))
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let document = ProblemDocument {
        problem_type: "about:blank".to_owned(),
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
        ..ProblemDocument::default()
    };
    (status, [(header::CONTENT_TYPE, "application/problem+json")], serde_json::to_vec(&document).unwrap_or_default())
        .into_response()
}

fn readiness(state: &State, names: &DnsNames, stop: &CancellationToken) -> (StatusCode, String) {
    let mut lines = String::new();
    let mut ready = true;
    let mut line = |mark: char, name: &str, text: &str| lines.push_str(&format!("[{mark}] {name} {text}\n"));
    if stop.is_cancelled() {
        ready = false;
        line('-', "shutdown", "the server is shutting down");
    }
    match names.not_ready() {
        None => line('+', "dns", "ok"),
        Some(why) => {
            ready = false;
            line('-', "dns", &why);
        }
    }
    match state.stale().or_else(|| state.trouble()) {
        None => line('+', "registry", "ok"),
        // Old answers are better than none.
        Some(why) => line('!', "registry", &why),
    }
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines)
}
