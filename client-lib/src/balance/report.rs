//! What a balancer thinks of its endpoints, for people and for metrics.

use crate::Endpoint;
use std::sync::Arc;
use std::time::Duration;

/// What a balancer thinks of its endpoints; see [`Balancer::report`](super::Balancer::report).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Too few endpoints work: all are asked.
    pub panic: bool,
    /// All endpoints of the present snapshot, sorted by key.
    pub endpoints: Vec<EndpointReport>,
}

/// What a balancer thinks of one endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointReport {
    /// Which one.
    pub endpoint: Arc<Endpoint>,
    /// Its part of the load, so far as weights, zones and slow starts decide, 0 to 1. 0: it is not picked, or only for
    /// second attempts.
    pub share: f64,
    /// Picks of it that have not ended.
    pub in_flight: u32,
    /// The latency that is expected of it. None where that is not known or does not matter.
    pub latency: Option<Duration>,
    /// It was taken out of use because requests to it failed.
    pub ejected: bool,
    /// Requests to it that failed since the last one that did not.
    pub failures: u32,
}
