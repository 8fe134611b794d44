//! What can be chosen of a balancer, and the defaults.

use super::Balancer;
use super::clock::{Clock, nanos};
use super::latency::Decay;
use super::random::Random;
use super::state::Common;
use std::time::{Duration, Instant};

/// How an endpoint is chosen among those that work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Any, all alike.
    Random,
    /// All in turn, all alike. Each balancer begins somewhere else.
    RoundRobin,
    /// In turn by the instances' weights, evenly mixed.
    Weighted,
    /// The better one of two that are drawn by weight, by the latency seen lately times the requests in flight. Needs to
    /// be told how requests ended ([`Pick::success`](super::Pick::success), [`Pick::failure`](super::Pick::failure));
    /// else it goes by the requests in flight alone.
    ///
    /// Where the weights differ, both draws may hit the same endpoint, so that the weights bound what latency can do: one
    /// with the share `s` gets no more than `2s - s²` and no less than `s²` of the requests.
    #[default]
    PowerOfTwo,
    /// The endpoint that a key belongs to ([`Balancer::pick_for`]), as long as it has no more than its share of the
    /// requests in flight times a [factor](BalancerBuilder::load_factor); else the next one on the ring.
    ConsistentHash,
}

/// When an endpoint is taken out of use because requests to it fail.
///
/// ```
/// use fingerpost_client::balance::{Balancer, Ejection};
/// use std::time::Duration;
///
/// let mut ejection = Ejection::default();
/// ejection.failures = 3;
/// ejection.base = Duration::from_secs(10);
/// let balancer = Balancer::builder().ejection(ejection).build();
/// ```
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Ejection {
    /// So many failures in a row eject. Default: 5.
    pub failures: u32,
    /// For how long, the first time; the second time it is twice as long, and so on. For each such time that an endpoint
    /// stays in, one earlier ejection is forgotten. Default: 30 seconds.
    pub base: Duration,
    /// For how long at most. Default: 300 seconds.
    pub max: Duration,
    /// The part of all endpoints that may be ejected at once, 0 to 1; one always may. Default: 0.1.
    pub max_share: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, base: Duration::from_secs(30), max: Duration::from_secs(300), max_share: 0.1 }
    }
}

/// Makes a [`Balancer`]; see [`Balancer::builder`].
#[must_use]
pub struct BalancerBuilder {
    policy: Policy,
    latency_decay: Duration,
    load_factor: f64,
    zone: Option<String>,
    zone_overload: f64,
    slow_start: Duration,
    ejection: Option<Ejection>,
    panic_threshold: f64,
    clock: Option<Box<dyn Fn() -> Instant + Send + Sync>>,
    seed: Option<u64>,
}

impl Default for BalancerBuilder {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            latency_decay: Duration::from_secs(10),
            load_factor: 1.25,
            zone: None,
            zone_overload: 1.4,
            slow_start: Duration::ZERO,
            ejection: Some(Ejection::default()),
            panic_threshold: 0.5,
            clock: None,
            seed: None,
        }
    }
}

impl std::fmt::Debug for BalancerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BalancerBuilder").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl BalancerBuilder {
    /// How an endpoint is chosen. Default: [`Policy::PowerOfTwo`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// [`Policy::PowerOfTwo`]: how soon the latency of earlier requests is forgotten; after this time it counts for
    /// 1/e. Default: 10 seconds.
    pub fn latency_decay(mut self, decay: Duration) -> Self {
        self.latency_decay = decay;
        self
    }

    /// [`Policy::ConsistentHash`]: how many times its share of all requests in flight an endpoint takes at most, 1 or
    /// more. The lower, the more evenly the load is spread and the more often a key goes elsewhere than it went before.
    /// Infinity: no bound. Default: 1.25.
    pub fn load_factor(mut self, factor: f64) -> Self {
        self.load_factor = factor;
        self
    }

    /// The zone that the caller is in: its endpoints are preferred, as far as they can bear that
    /// ([how far](super#zones)). Default: none, and all zones are alike.
    ///
    /// ```
    /// use fingerpost_client::balance::Balancer;
    ///
    /// let balancer = Balancer::builder().zone("eu-west-1a").build();
    /// ```
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// How many times as much load as without zones the own zone's endpoints may get for being near, 1 or more.
    /// Infinity: whatever there is. Default: 1.4.
    pub fn zone_overload(mut self, factor: f64) -> Self {
        self.zone_overload = factor;
        self
    }

    /// The time over which an endpoint that comes new, or comes back to health, gets to its full share: from a tenth of
    /// it, in proportion to the time. The endpoints that the first snapshot has are not new. Default: zero, at once.
    pub fn slow_start(mut self, window: Duration) -> Self {
        self.slow_start = window;
        self
    }

    /// When failing endpoints are taken out of use; `None`: never. Default: [`Ejection::default`].
    pub fn ejection(mut self, ejection: impl Into<Option<Ejection>>) -> Self {
        self.ejection = ejection.into();
        self
    }

    /// Where less than this part of the endpoints works, all are asked ([panic](super#panic)), 0 to 1. 0: never; then
    /// there may be nothing to pick. Default: 0.5.
    pub fn panic_threshold(mut self, threshold: f64) -> Self {
        self.panic_threshold = threshold;
        self
    }

    /// Where the time comes from, which must not go back. Default: the system's monotonic clock.
    ///
    /// ```
    /// use fingerpost_client::balance::Balancer;
    ///
    /// // In tests of an async program that stop the time.
    /// let balancer = Balancer::builder().clock(|| tokio::time::Instant::now().into_std()).build();
    /// ```
    pub fn clock(mut self, now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        self.clock = Some(Box::new(now));
        self
    }

    /// Makes random choices repeatable, at some cost where several threads pick. Default: they are not.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The balancer, without endpoints yet. What is out of range is taken for the nearest value in it.
    pub fn build(self) -> Balancer {
        let at_least_one = |factor: f64, default: f64| if factor.is_nan() { default } else { factor.max(1.0) };
        let options = Options {
            policy: self.policy,
            decay: Decay::new(nanos(self.latency_decay)),
            load_factor: at_least_one(self.load_factor, 1.25),
            zone: self.zone,
            zone_overload: at_least_one(self.zone_overload, 1.4),
            slow_start: (!self.slow_start.is_zero()).then(|| nanos(self.slow_start)),
            ejection: self.ejection,
            panic_threshold: if self.panic_threshold.is_nan() { 0.5 } else { self.panic_threshold.clamp(0.0, 1.0) },
        };
        Balancer::new(Common::new(options, Clock::new(self.clock), Random::new(self.seed)))
    }
}

/// What was chosen, all in range.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) policy: Policy,
    pub(super) decay: Decay,
    pub(super) load_factor: f64,
    pub(super) zone: Option<String>,
    pub(super) zone_overload: f64,
    /// In nanoseconds.
    pub(super) slow_start: Option<u64>,
    pub(super) ejection: Option<Ejection>,
    pub(super) panic_threshold: f64,
}

impl Options {
    /// Whether each pick and its end need the time.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.policy == Policy::PowerOfTwo
    }

    /// Whether requests in flight are bounded by those of all endpoints together.
    #[inline]
    pub(super) fn is_bounded(&self) -> bool {
        self.policy == Policy::ConsistentHash
    }
}
