//! When a check runs: at a place in its interval that is its own, so that any number of checks are spread evenly over
//! theirs, whenever they were declared.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;
use tokio::time::Instant;

/// A check that nobody has run yet is not made to wait for its place longer than this.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// How far into a span a name belongs: the same after a restart, and on every replica.
fn part_of(span: Duration, name: &str) -> Duration {
    // A hasher of known keys.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    span.mul_f64((hash >> 11) as f64 / (1_u64 << 53) as f64)
}

/// The first run of a check that has no verdict yet.
pub(super) fn soon(now: Instant, interval: Duration, name: &str) -> Instant {
    now + part_of(interval.min(SOON), name)
}

/// The first run at the check's place after `after`; intervals are counted from `origin`. A little of chance keeps
/// checks of the same place from meeting again and again.
pub(super) fn next(origin: Instant, after: Instant, interval: Duration, name: &str) -> Instant {
    let first = origin + part_of(interval, name);
    let whole = match after.checked_duration_since(first) {
        None => first,
        Some(since) => {
            let intervals = since.as_nanos() / interval.as_nanos().max(1) + 1;
            first + interval.saturating_mul(u32::try_from(intervals).unwrap_or(u32::MAX))
        }
    };
    whole + interval.min(Duration::from_secs(20)).mul_f64(rand::random::<f64>() / 20.0)
}

/// The run after one that was due at `due`: never sooner than after half an interval, and never in the past, whatever
/// was missed.
pub(super) fn after(origin: Instant, due: Instant, now: Instant, interval: Duration, name: &str) -> Instant {
    next(origin, (due + interval / 2).max(now), interval, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn runs_are_spread_and_keep_their_place() {
        let origin = Instant::now();
        let interval = Duration::from_secs(10);
        let mut buckets = [0; 10];
        for n in 0..10_000 {
            let name = format!("instance-{n}/check");
            let due = next(origin, origin, interval, &name);
            buckets[(due - origin).as_secs() as usize % 10] += 1;
            let mut before = due;
            for _ in 0..20 {
                let next = after(origin, before, before, interval, &name);
                let gap = next - before;
                assert!(gap > interval.mul_f64(0.94) && gap < interval.mul_f64(1.06), "{gap:?}");
                before = next;
            }
        }
        assert!(buckets.iter().all(|count| (850..1200).contains(count)), "{buckets:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_run_comes_soon_and_the_second_in_its_place() {
        let origin = Instant::now();
        let (interval, now) = (Duration::from_secs(60), origin + Duration::from_secs(1234));
        for n in 0..100 {
            let name = format!("instance-{n}/check");
            let first = soon(now, interval, &name);
            assert!(first >= now && first <= now + SOON);
            let second = after(origin, first, first, interval, &name);
            assert!(
                second - first >= interval / 2 && second - first <= interval * 3 / 2 + SOON * 4,
                "{:?}",
                second - first
            );
        }
        // Runs that were missed are not caught up with.
        let late = now + interval * 100;
        assert!(after(origin, now, late, interval, "x") > late);
    }
}
