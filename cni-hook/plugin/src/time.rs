//! Clocks.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The time since the machine's start, which goes on while it sleeps and never goes back. The same for all processes, so
/// it orders what different ones saw.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

/// What names the present run of the machine; empty where the kernel does not say.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
