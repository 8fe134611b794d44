//! The API's own description, as a document and as a page to browse.

use super::App;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use std::sync::Arc;

/// The page loads nothing from elsewhere, so it works where there is no internet; its script may do no more than read
/// the document.
const PAGE: &str = include_str!("docs.html");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

pub(super) fn routes(openapi: Bytes) -> Router<Arc<App>> {
    Router::new()
        .route(
            "/openapi.json",
            get(move || {
                let openapi = openapi.clone();
                async move { ([(header::CONTENT_TYPE, "application/json")], openapi).into_response() }
            }),
        )
        .route(
            "/docs",
            get(|| async {
                let headers =
                    [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
                (headers, PAGE).into_response()
            }),
        )
}
