//! Endpoints to balance between, and a clock that stands still until it is told.

use fingerpost_client::balance::{Balancer, BalancerBuilder, Policy};
use fingerpost_client::catalog::document::InstanceDocument;
use fingerpost_client::catalog::{Health, HealthParts, PartState};
use fingerpost_client::{Endpoint, EndpointKey, Endpoints};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// All policies.
pub(crate) const POLICIES: [Policy; 5] =
    [Policy::Random, Policy::RoundRobin, Policy::Weighted, Policy::PowerOfTwo, Policy::ConsistentHash];

/// Time that passes only when it is told.
#[derive(Clone)]
pub(crate) struct Time {
    origin: Instant,
    passed: Arc<AtomicU64>,
}

impl Time {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), passed: Arc::default() }
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.passed.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Relaxed);
    }

    pub(crate) fn since_start(&self) -> Duration {
        Duration::from_nanos(self.passed.load(Relaxed))
    }

    /// A builder with this clock, a seed, and no random choices otherwise.
    pub(crate) fn builder(&self, policy: Policy) -> BalancerBuilder {
        let time = self.clone();
        Balancer::builder().policy(policy).clock(move || time.origin + time.since_start()).seed(42)
    }
}

/// An instance named `web-<n>`, to be changed by `with`.
pub(crate) fn endpoint(n: usize, with: impl FnOnce(&mut InstanceDocument)) -> Arc<Endpoint> {
    let (high, low) = (u8::try_from(n / 250).unwrap(), u8::try_from(n % 250).unwrap());
    let mut document = InstanceDocument {
        id: Some(format!("web-{n:04}")),
        addresses: vec![[10, 0, high, low].into()],
        ..Default::default()
    };
    with(&mut document);
    Arc::new(Endpoint::new(document))
}

/// The endpoint's number.
pub(crate) fn number(endpoint: &Endpoint) -> usize {
    number_of(endpoint.key())
}

pub(crate) fn number_of(key: &EndpointKey) -> usize {
    key.id().trim_start_matches("web-").parse().unwrap()
}

/// So many endpoints, all alike.
pub(crate) fn alike(count: usize) -> Endpoints {
    snapshot((0..count).map(|n| endpoint(n, |_| ())))
}

/// Endpoints with these weights.
pub(crate) fn weighted(weights: &[u16]) -> Endpoints {
    snapshot(weights.iter().enumerate().map(|(n, &weight)| endpoint(n, |web| web.weight = Some(weight))))
}

/// Endpoints of this health.
pub(crate) fn healthy(healths: &[Health]) -> Endpoints {
    snapshot(healths.iter().enumerate().map(|(n, &health)| endpoint(n, |web| web.effective_health = Some(health))))
}

/// Makes an instance a drained one.
pub(crate) fn drain(web: &mut InstanceDocument) {
    let drain = Some(PartState { health: Health::Critical, note: String::new(), since: None });
    web.effective_health = Some(Health::Critical);
    web.health_parts = Some(HealthParts { drain, ..Default::default() });
}

pub(crate) fn snapshot(endpoints: impl IntoIterator<Item = Arc<Endpoint>>) -> Endpoints {
    Endpoints::new("prod", "web", endpoints.into_iter().collect(), None)
}

/// How often each endpoint is picked in so many picks that succeed at once.
pub(crate) fn picks(balancer: &Balancer, count: usize) -> BTreeMap<usize, usize> {
    let mut picked = BTreeMap::new();
    for _ in 0..count {
        let pick = balancer.pick().expect("an endpoint");
        *picked.entry(number(&pick)).or_insert(0) += 1;
        pick.success();
    }
    picked
}

/// Fails so many requests to one endpoint.
pub(crate) fn fail(balancer: &Balancer, endpoint: usize, failures: usize) {
    let report = balancer.report();
    let keys = report.endpoints.iter().map(|known| known.endpoint.key());
    let others: Vec<EndpointKey> = keys.filter(|key| number_of(key) != endpoint).cloned().collect();
    for _ in 0..failures {
        balancer.pick_except(&others).expect("the endpoint").failure();
    }
}

/// The endpoints that are ejected.
pub(crate) fn ejected(balancer: &Balancer) -> Vec<usize> {
    balancer.report().endpoints.iter().filter(|e| e.ejected).map(|e| number(&e.endpoint)).collect()
}

/// The endpoints' shares.
pub(crate) fn shares(balancer: &Balancer) -> Vec<f64> {
    balancer.report().endpoints.iter().map(|endpoint| endpoint.share).collect()
}

/// How far the counts are from the expected ones: the chi-square statistic.
pub(crate) fn chi_square(counts: &BTreeMap<usize, usize>, expected: &[f64]) -> f64 {
    let count = |n| *counts.get(&n).unwrap_or(&0) as f64;
    expected.iter().enumerate().map(|(n, due)| (count(n) - due).powi(2) / due).sum()
}

/// What the chi-square statistic of so many counts hardly ever exceeds (about one time in 10,000).
pub(crate) fn chi_square_limit(counts: usize) -> f64 {
    // Wilson and Hilferty's approximation, 3.72 standard deviations up.
    let freedom = counts as f64 - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 3.72 * spread.sqrt()).powi(3)
}
