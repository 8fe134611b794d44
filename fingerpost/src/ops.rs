//! What a process that is no registry serves to those who operate it, beside its own readiness.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// Whether it lives, and its metrics.
pub(crate) fn router(metrics: Arc<Registry>) -> Router {
    let metrics = move || {
        let mut text = String::new();
        let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        std::future::ready(match prometheus_client::encoding::text::encode(&mut text, &metrics) {
            Ok(()) => (StatusCode::OK, kind, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, kind, error.to_string()),
        })
    };
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/metrics", get(metrics))
}
