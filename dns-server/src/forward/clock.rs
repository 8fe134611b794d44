//! The time by which answers grow old.
//!
//! Looked at for every query, so it is the kernel's coarse clock: a few milliseconds late, and read without asking any
//! hardware. It does not stop while TTLs run, whatever happens to the clock on the wall.

use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A point in time, in milliseconds since some beginning.
pub(crate) type Moment = u64;

/// Where the time comes from.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// What a test has added.
    ahead: AtomicU64,
}

impl Clock {
    pub(crate) fn now(&self) -> Moment {
        // The call can fail for clocks that don't exist only; this one has since Linux 2.6.32.
        let passed = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |time| {
            u64::try_from(time.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000
        });
        passed + self.ahead.load(Relaxed)
    }

    /// Lets time pass, for tests.
    pub(crate) fn advance(&self, time: Duration) {
        self.ahead.fetch_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}
