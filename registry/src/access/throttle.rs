//! Slowing down who fails to authenticate.
//!
//! Each client address may fail some times a minute and is told so at once. After that, a failure is answered late and
//! with 429, so that one connection gets no further than one guess a second. What succeeds is never slowed, wherever it
//! comes from: a machine with one misconfigured client still reaches the registry with the others.

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Failures that are answered at once, and how many of them a minute gives back.
const ALLOWED: f64 = 10.0;
/// How long a failure beyond those waits for its answer.
const DELAY: Duration = Duration::from_secs(1);
/// Answers that wait at the same time; what comes beyond is answered at once, with 429 all the same.
const DELAYED: usize = 256;
/// Addresses that are remembered.
const ADDRESSES: usize = 8192;

/// How a failure is to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// At once.
    Plainly,
    /// Late, and with 429.
    Slowly {
        /// After so many seconds the next failure would be answered plainly.
        retry_after: u32,
        /// Whether this is the first since one was answered plainly.
        first: bool,
    },
}

/// What is left to an address.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
    slowed: bool,
}

/// Failures by address.
#[derive(Debug)]
pub struct Throttle {
    buckets: Cache<IpAddr, Arc<Mutex<Bucket>>>,
    delays: Semaphore,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { buckets: Cache::new(ADDRESSES), delays: Semaphore::new(DELAYED) }
    }
}

/// Who is counted as one: a v4 address, or a v6 network of 64 bits, of which everybody has 2^64 addresses.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Throttle {
    /// Notes a failure.
    pub fn failed(&self, address: IpAddr, now: Instant) -> Verdict {
        let address = counted(address);
        let new = || Arc::new(Mutex::new(Bucket { left: ALLOWED, at: now, slowed: false }));
        let bucket = self.buckets.get(&address).unwrap_or_else(|| {
            let bucket = new();
            self.buckets.insert(address, Arc::clone(&bucket));
            bucket
        });
        let mut bucket = bucket.lock();
        let minutes = now.saturating_duration_since(bucket.at).as_secs_f64() / 60.0;
        bucket.left = (bucket.left + minutes * ALLOWED).min(ALLOWED);
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            bucket.slowed = false;
            return Verdict::Plainly;
        }
        let first = !std::mem::replace(&mut bucket.slowed, true);
        Verdict::Slowly { retry_after: ((1.0 - bucket.left) * 60.0 / ALLOWED).ceil() as u32, first }
    }

    /// Waits as long as a slow answer has to.
    pub(super) async fn delay(&self) {
        if let Ok(_place) = self.delays.try_acquire() {
            tokio::time::sleep(DELAY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_failures_a_minute_are_answered_plainly() {
        let throttle = Throttle::default();
        let (address, begin) = (IpAddr::from([10, 0, 0, 1]), Instant::now());
        for _ in 0..10 {
            assert_eq!(throttle.failed(address, begin), Verdict::Plainly);
        }
        assert_eq!(throttle.failed(address, begin), Verdict::Slowly { retry_after: 6, first: true });
        assert_eq!(throttle.failed(address, begin), Verdict::Slowly { retry_after: 6, first: false });
        assert_eq!(throttle.failed(IpAddr::from([10, 0, 0, 2]), begin), Verdict::Plainly, "others are not slowed");
        let later = begin + Duration::from_secs(7);
        assert_eq!(throttle.failed(address, later), Verdict::Plainly);
        assert!(matches!(throttle.failed(address, later), Verdict::Slowly { first: true, .. }));
        let much_later = begin + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| throttle.failed(address, much_later) == Verdict::Plainly).count(), 10);
    }

    #[test]
    fn a_v6_network_is_one() {
        assert_eq!(counted("2001:db8::1".parse().unwrap()), counted("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(counted("2001:db8:0:1::1".parse().unwrap()), counted("2001:db8:0:2::1".parse().unwrap()));
        assert_eq!(counted("::ffff:10.0.0.1".parse().unwrap()), IpAddr::from([10, 0, 0, 1]));
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..100_000_u32 {
            throttle.failed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(throttle.buckets.len() <= ADDRESSES);
    }

    #[tokio::test]
    async fn delays_are_bounded() {
        let throttle = Throttle::default();
        let all = futures_util::future::join_all((0..DELAYED + 10).map(|_| async {
            let begun = Instant::now();
            throttle.delay().await;
            begun.elapsed()
        }));
        let times = all.await;
        assert_eq!(times.iter().filter(|time| **time < DELAY).count(), 10);
    }
}
