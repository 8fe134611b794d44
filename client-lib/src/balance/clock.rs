//! The time, as a number that fits into an atomic.

use std::time::{Duration, Instant};

/// Where a balancer takes the time from.
pub(super) struct Clock {
    origin: Instant,
    /// None: the system's monotonic clock, without a call through a pointer.
    given: Option<Box<dyn Fn() -> Instant + Send + Sync>>,
}

impl Clock {
    pub(super) fn new(given: Option<Box<dyn Fn() -> Instant + Send + Sync>>) -> Self {
        let origin = given.as_ref().map_or_else(Instant::now, |now| now());
        Self { origin, given }
    }

    /// Nanoseconds since the clock was made.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        let now = match &self.given {
            None => Instant::now(),
            Some(given) => given(),
        };
        nanos(now.saturating_duration_since(self.origin))
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("given", &self.given.is_some()).finish_non_exhaustive()
    }
}

/// A duration in nanoseconds, at most some 584 years.
#[inline]
pub(super) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}
