//! The API's metrics.

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: Arc<str>,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: Arc<str>,
}

/// Counts and times requests by route; routes are templates, so their number is bounded.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl HttpMetrics {
    /// Metrics registered in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        // 0.1 ms to 6.5 s; a watch is timed until its stream begins.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 17));
        let metrics = Self { requests: Family::default(), seconds: Family::new_with_constructor(histogram) };
        registry.register("fingerpost_http_requests", "HTTP requests by route and status", metrics.requests.clone());
        registry.register(
            "fingerpost_http_request_duration_seconds",
            "Time from a request's head to its reply's head",
            metrics.seconds.clone(),
        );
        metrics
    }

    pub(crate) fn observe(&self, method: &Method, route: Arc<str>, status: StatusCode, time: Duration) {
        let method = match *method {
            Method::GET => "GET",
            Method::PUT => "PUT",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let labels = RequestLabels { method, route: Arc::clone(&route), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.seconds.get_or_create(&RouteLabels { method, route }).observe(time.as_secs_f64());
    }
}
