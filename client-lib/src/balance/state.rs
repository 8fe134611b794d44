//! What is counted: of each endpoint, for as long as it is in the snapshots, and of all together.

use super::clock::Clock;
use super::latency::{Decay, Latency};
use super::options::Options;
use super::pick::Outcome;
use super::random::Random;
use crate::Endpoint;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// There is no change to come.
pub(super) const NEVER: u64 = u64::MAX;
/// Requests in flight that cost nothing to compare, of an endpoint that has not answered yet.
const UNKNOWN: f32 = 1e18;

/// On a cache line of its own: what many threads write must not slow down what they read beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Apart<T>(pub(super) T);

/// What a balancer and all its endpoints share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) options: Options,
    pub(super) clock: Clock,
    pub(super) random: Random,
    /// When the table has to be made anew; 0: at once.
    pub(super) next_change: AtomicU64,
    /// An endpoint has failed so often that it may have to be ejected.
    pub(super) suspicion: AtomicBool,
    /// The requests in flight to all endpoints, where they are bounded.
    pub(super) in_flight: Apart<AtomicU64>,
}

impl Common {
    pub(super) fn new(options: Options, clock: Clock, random: Random) -> Self {
        Self {
            options,
            clock,
            random,
            next_change: AtomicU64::new(NEVER),
            suspicion: AtomicBool::new(false),
            in_flight: Apart::default(),
        }
    }

    /// Has the next pick look for endpoints to eject.
    fn suspect(&self) {
        // In this order, so that whoever makes the table right now either sees the first or leaves the second.
        self.suspicion.store(true, SeqCst);
        self.next_change.store(0, SeqCst);
    }
}

/// An endpoint with what is counted of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) state: Arc<State>,
}

/// What is counted of one endpoint.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct State {
    in_flight: AtomicU32,
    /// In a row.
    failures: AtomicU32,
    latency: Latency,
    common: Arc<Common>,
}

impl State {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self { in_flight: AtomicU32::new(0), failures: AtomicU32::new(0), latency: Latency::default(), common }
    }

    /// One more request in flight.
    #[inline]
    pub(super) fn claim(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// One more request in flight, where that makes no more than `most`.
    pub(super) fn claim_within(&self, most: f64) -> bool {
        let more = |count: u32| (f64::from(count) < most).then_some(count + 1);
        self.in_flight.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// One less in flight.
    #[inline]
    pub(super) fn release(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
        if self.common.options.is_bounded() {
            self.common.in_flight.0.fetch_sub(1, Relaxed);
        }
    }

    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// In nanoseconds; 0 where nothing is known.
    pub(super) fn latency(&self, now: u64) -> f32 {
        self.latency.get(now, self.in_flight() == 0, self.common.options.decay)
    }

    /// What one more request costs: the time that it takes, were those in flight answered one after the other. `relief`
    /// is less than 1 for an endpoint that is to bear more than the average.
    ///
    /// One that has not answered yet is free for a first request, and the last choice for a second.
    #[inline]
    pub(super) fn cost(&self, now: u64, decay: Decay, relief: f32) -> f32 {
        let in_flight = self.in_flight();
        let latency = self.latency.get(now, in_flight == 0, decay);
        let unknown = if (latency == 0.0) & (in_flight > 0) { UNKNOWN } else { 0.0 };
        (latency + unknown) * (in_flight as f32 * relief + 1.0)
    }

    #[inline]
    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    pub(super) fn forgive(&self) {
        self.failures.store(0, Relaxed);
    }

    /// A request that was picked at `started` has ended.
    #[inline]
    pub(super) fn end(&self, outcome: Outcome, started: u64) {
        let common = &*self.common;
        match outcome {
            // Mostly there is nothing to write.
            Outcome::Success if self.failures() != 0 => self.forgive(),
            Outcome::Success => {}
            Outcome::Failure => self.failed(),
        }
        if common.options.is_timed() {
            let now = common.clock.now();
            let took = now.saturating_sub(started);
            match outcome {
                Outcome::Success => self.latency.observe(took, now, common.options.decay),
                Outcome::Failure => self.latency.fail(took, now),
            }
        }
    }

    /// A request that was picked at `started` was given up.
    #[inline]
    pub(super) fn abandon(&self, started: u64) {
        if self.common.options.is_timed() {
            let now = self.common.clock.now();
            self.latency.at_least(now.saturating_sub(started), now);
        }
    }

    fn failed(&self) {
        let Some(ejection) = &self.common.options.ejection else { return };
        let more = |count: u32| count.checked_add(1);
        let before = self.failures.fetch_update(Relaxed, Relaxed, more).unwrap_or(u32::MAX);
        // Once: where it may not be ejected now, it is looked at again when another one is back.
        if before.checked_add(1) == Some(ejection.failures.max(1)) {
            self.common.suspect();
        }
    }
}
