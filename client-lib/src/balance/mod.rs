//! Which endpoint of a service to ask.
//!
//! A [`Balancer`] is told of a service's endpoints ([`Balancer::update`]) and picks one for each request
//! ([`Balancer::pick`]). It does no I/O, starts no task and needs no async runtime; a pick waits for no lock and takes no
//! memory.
//!
//! ```
//! use fingerpost_client::balance::{Balancer, Policy};
//! use fingerpost_client::{Endpoint, Endpoints, catalog::document::InstanceDocument};
//! use std::sync::Arc;
//!
//! let web = |id: &str, address: &str| -> Result<_, std::net::AddrParseError> {
//!     let addresses = vec![address.parse()?];
//!     Ok(Arc::new(Endpoint::new(InstanceDocument { id: Some(id.into()), addresses, ..Default::default() })))
//! };
//! let balancer = Balancer::builder().policy(Policy::RoundRobin).build();
//! balancer.update(&Endpoints::new("prod", "web", vec![web("a", "10.0.0.1")?, web("b", "10.0.0.2")?], None));
//!
//! let (first, second) = (balancer.pick().ok_or("none")?, balancer.pick().ok_or("none")?);
//! assert_ne!(first.key(), second.key());
//! first.success();
//! second.failure();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who is picked
//!
//! Endpoints whose health is `passing` or `warning`, and which are not ejected. One that declares a weight of 0 is picked
//! only where there is no other. How one of them is found is the [`Policy`]'s matter.
//!
//! # Ejection
//!
//! An endpoint to which [so many](Ejection::failures) requests in a row fail is not picked for a while, which is longer
//! each time. It comes back by itself. Only a [part](Ejection::max_share) of the endpoints may be ejected at once: where
//! more fail, it is likely not their fault.
//!
//! # Panic
//!
//! Where [less than half](BalancerBuilder::panic_threshold) of the endpoints works, the rest would be overloaded by what
//! all were there for, and as likely the checks are wrong: all are picked from then (Envoy's rule). An endpoint that is
//! [withdrawn](crate::Endpoint::is_withdrawn) (drained, or declared not ready) is picked never, and it does not count:
//! else a large deployment would be a panic. For the same reason one whose health is not known yet does not count; in a
//! panic it is picked.
//!
//! # Zones
//!
//! A caller that says where it is ([`BalancerBuilder::zone`]) is served by its own zone as far as that can bear it. How
//! far is Envoy's rule for zones, with the one thing that a client can't know, where all the others are, assumed to be
//! even: each zone that has endpoints, working or not, makes an equal part of the requests. All of a zone's requests stay
//! while its endpoints so get no more than [1.4 times](BalancerBuilder::zone_overload) what they would get without
//! zones; what is more is spread over the zones that have more than their own requests need, in proportion to what they
//! have more. So an own zone that is too small, or too ill, passes on just what is too much for it, and no other zone gets
//! more for that than it would without zones. Unlike Kubernetes' `PreferClose`, this can't overload a zone in which
//! there is one endpoint left. Endpoints of no zone count as spare. Where no endpoint has a zone, and in a panic, zones do
//! not matter. Second attempts ([`Balancer::pick_except`]) go to other zones where the own has nobody else.
//!
//! # Time
//!
//! What time brings about (the end of an ejection, the steps of a slow start) happens with the first pick after it is
//! due, which takes longer for that: some 0.1 ms with 1,000 endpoints, and some 5 ms where they are on a ring. The clock is
//! read only where something is to come, and for [`Policy::PowerOfTwo`], which measures.

mod clock;
mod ejection;
mod latency;
mod options;
mod pick;
mod plan;
mod published;
mod random;
mod report;
mod ring;
mod shares;
mod state;
mod table;
mod zones;

pub use options::{BalancerBuilder, Ejection, Policy};
pub use pick::{Outcome, Pick};
pub use report::{EndpointReport, Report};

use crate::{EndpointKey, Endpoints};
use plan::Plan;
use published::Published;
use state::{Apart, Common, NEVER};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use table::Table;

/// Picks the endpoint for each request; see the [module](self).
///
/// Share it by `Arc`. All threads pick from the same one, so that what one of them sees (an endpoint that is slow, one
/// that fails) all know.
pub struct Balancer {
    common: Arc<Common>,
    /// Whether picks need the time.
    timed: bool,
    table: Published,
    /// Counts picks of policies that take turns.
    turn: Apart<AtomicUsize>,
    plan: Mutex<Plan>,
}

impl Default for Balancer {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl Balancer {
    /// A balancer with other choices than the defaults.
    ///
    /// ```
    /// use fingerpost_client::balance::{Balancer, Policy};
    /// use std::time::Duration;
    ///
    /// let balancer = Balancer::builder()
    ///     .policy(Policy::Weighted)
    ///     .zone("eu-west-1a")
    ///     .slow_start(Duration::from_secs(30))
    ///     .build();
    /// assert!(balancer.pick().is_none(), "nobody has told it of any endpoint");
    /// ```
    pub fn builder() -> BalancerBuilder {
        BalancerBuilder::default()
    }

    fn new(common: Common) -> Self {
        let turn = common.random.next() as usize;
        let table = Table::new(common.options.policy, Vec::new(), false);
        Self {
            timed: common.options.is_timed(),
            common: Arc::new(common),
            table: Published::new(table),
            turn: Apart(AtomicUsize::new(turn)),
            plan: Mutex::new(Plan::new()),
        }
    }

    /// Takes over a snapshot: from now on its endpoints are picked, and none else. What is known of endpoints that it has
    /// in common with the last one (latency, failures, ejections) stays.
    pub fn update(&self, endpoints: &Endpoints) {
        let mut plan = self.plan();
        if plan.is_of(endpoints) {
            return;
        }
        plan.update(endpoints, &self.common, self.common.clock.now());
        self.renew(&mut plan);
    }

    /// An endpoint for a request; none where none works.
    ///
    /// ```
    /// # use fingerpost_client::{Endpoint, Endpoints, balance::Balancer, catalog::document::InstanceDocument};
    /// # use std::sync::Arc;
    /// # let web = Arc::new(Endpoint::new(InstanceDocument { id: Some("a".into()), ..Default::default() }));
    /// # let balancer = Balancer::default();
    /// # balancer.update(&Endpoints::new("prod", "web", vec![web], None));
    /// let pick = balancer.pick().ok_or("all of prod/web is down")?;
    /// // … ask `pick.socket_addr(None)`, and then
    /// pick.success();
    /// # Ok::<(), &str>(())
    /// ```
    pub fn pick(&self) -> Option<Pick> {
        self.find(None)
    }

    /// With [`Policy::ConsistentHash`], the endpoint that the key belongs to: all clients of the same version that know
    /// the same endpoints find the same one, as long as it has room. Other policies take no notice of the key.
    ///
    /// ```
    /// # use fingerpost_client::{Endpoint, Endpoints, balance::{Balancer, Policy}, catalog::document::InstanceDocument};
    /// # use std::sync::Arc;
    /// # let web = |id: &str| Arc::new(Endpoint::new(InstanceDocument { id: Some(id.into()), ..Default::default() }));
    /// let balancer = Balancer::builder().policy(Policy::ConsistentHash).build();
    /// balancer.update(&Endpoints::new("prod", "web", vec![web("a"), web("b"), web("c")], None));
    /// let first = balancer.pick_for(b"user-4711").map(|pick| pick.key().clone());
    /// let second = balancer.pick_for(b"user-4711").map(|pick| pick.key().clone());
    /// assert_eq!(first, second);
    /// ```
    pub fn pick_for(&self, key: &[u8]) -> Option<Pick> {
        self.find(Some(random::hash(key)))
    }

    /// As [`pick_for`](Balancer::pick_for), for a key that is a number, or a hash of the caller's own.
    pub fn pick_for_hash(&self, hash: u64) -> Option<Pick> {
        self.find(Some(hash))
    }

    /// For a second attempt: an endpoint other than those that were tried, by the same policy; none where all were.
    ///
    /// ```
    /// # use fingerpost_client::{Endpoint, Endpoints, balance::Balancer, catalog::document::InstanceDocument};
    /// # use std::sync::Arc;
    /// # let web = |id: &str| Arc::new(Endpoint::new(InstanceDocument { id: Some(id.into()), ..Default::default() }));
    /// # let balancer = Balancer::default();
    /// # balancer.update(&Endpoints::new("prod", "web", vec![web("a"), web("b")], None));
    /// # fn ask(_: &Endpoint) -> Result<(), ()> { Err(()) }
    /// let mut tried = Vec::new();
    /// while let Some(pick) = balancer.pick_except(&tried) {
    ///     if ask(&pick).is_ok() {
    ///         pick.success();
    ///         break;
    ///     }
    ///     tried.push(pick.key().clone());
    ///     pick.failure();
    /// }
    /// assert_eq!(tried.len(), 2, "both failed");
    /// ```
    pub fn pick_except(&self, tried: &[EndpointKey]) -> Option<Pick> {
        self.find_untried(None, tried)
    }

    /// [`pick_for`](Balancer::pick_for) for a second attempt: the next endpoint on the ring that was not tried.
    pub fn pick_for_except(&self, key: &[u8], tried: &[EndpointKey]) -> Option<Pick> {
        self.find_untried(Some(random::hash(key)), tried)
    }

    /// What the balancer thinks of its endpoints. Takes the lock that updates take; for metrics and people, not for each
    /// request.
    ///
    /// ```
    /// # use fingerpost_client::{Endpoint, Endpoints, balance::Balancer, catalog::document::InstanceDocument};
    /// # use std::sync::Arc;
    /// # let web = |id: &str| Arc::new(Endpoint::new(InstanceDocument { id: Some(id.into()), ..Default::default() }));
    /// # let balancer = Balancer::default();
    /// balancer.update(&Endpoints::new("prod", "web", vec![web("a"), web("b")], None));
    /// let _pick = balancer.pick();
    /// let report = balancer.report();
    /// assert_eq!(report.endpoints.iter().map(|endpoint| endpoint.in_flight).sum::<u32>(), 1);
    /// assert_eq!(report.endpoints[0].share, 0.5);
    /// ```
    pub fn report(&self) -> Report {
        let mut plan = self.plan();
        let now = self.common.clock.now();
        if self.common.next_change.load(Relaxed) <= now {
            self.renew(&mut plan);
        }
        let table = self.table.load();
        let shares: BTreeMap<_, _> = table.slots.iter().map(|slot| (slot.entry.endpoint.key(), slot.share)).collect();
        let endpoints = plan.members().iter().map(|member| {
            let (endpoint, state) = (&member.entry.endpoint, &member.entry.state);
            let latency = state.latency(now);
            EndpointReport {
                endpoint: Arc::clone(endpoint),
                share: shares.get(endpoint.key()).copied().unwrap_or_default(),
                in_flight: state.in_flight(),
                latency: (latency > 0.0).then(|| Duration::from_nanos(latency as u64)),
                ejected: member.ejections.is_ejected(),
                failures: state.failures(),
            }
        });
        Report { panic: table.panic, endpoints: endpoints.collect() }
    }

    #[inline]
    fn find(&self, hash: Option<u64>) -> Option<Pick> {
        let now = self.now();
        let entry = self
            .table
            .read(|table| table.claim(&self.common, now, hash, || self.turn.0.fetch_add(1, Relaxed)).cloned());
        entry.map(|entry| Pick::new(entry, now))
    }

    fn find_untried(&self, hash: Option<u64>, tried: &[EndpointKey]) -> Option<Pick> {
        let now = self.now();
        let entry = self.table.read(|table| {
            let count = || self.turn.0.fetch_add(1, Relaxed);
            table.claim_untried(&self.common, now, hash, count, tried).cloned()
        });
        entry.map(|entry| Pick::new(entry, now))
    }

    /// The time, where it matters; and does what has become due.
    #[inline]
    fn now(&self) -> u64 {
        let now = if self.timed { self.common.clock.now() } else { 0 };
        if self.common.next_change.load(Relaxed) != NEVER {
            self.catch_up();
        }
        now
    }

    /// Makes a new table where one is due. Where another thread is at it, the present one does.
    #[cold]
    fn catch_up(&self) {
        if self.common.next_change.load(Relaxed) > self.common.clock.now() {
            return;
        }
        let mut plan = match self.plan.try_lock() {
            Ok(plan) => plan,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.renew(&mut plan);
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the table for this moment, for as long as endpoints fail meanwhile.
    fn renew(&self, plan: &mut Plan) {
        loop {
            self.common.suspicion.store(false, SeqCst);
            let (table, due) = plan.table(&self.common.options, self.common.clock.now());
            self.table.publish(table);
            self.common.next_change.store(due, SeqCst);
            // What was suspected before `due` was written is overwritten by it; what comes after overwrites it.
            if !self.common.suspicion.load(SeqCst) {
                return;
            }
        }
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer").field("options", &self.common.options).finish_non_exhaustive()
    }
}
