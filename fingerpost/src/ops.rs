//! What a process that is no registry serves to those who operate it, beside its own readiness.

use axum::Router;
use axum::routing::get;
use fingerpost_registry::api::openmetrics;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// Whether it lives, and its metrics.
pub(crate) fn router(metrics: Arc<Registry>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/metrics", get(move || std::future::ready(openmetrics(&metrics))))
}
