//! When a check runs: first soon, and then at a place in its interval that is its own.
//!
//! The place follows from the check's name and the clock on the wall, so any number of checks are spread evenly over
//! their intervals, whenever they were declared, and a replica that starts or takes over goes on where the former one
//! was. A place may be a day away, though, and who has just declared a check, or restarts registries again and again,
//! must not wait for it. So the first run here comes [soon](Schedule::first); only so many a second, as a replica
//! that starts may have any number of checks to begin with.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Where the first run of a check comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hurry {
    /// Nothing is known, or somebody has just changed the declaration and waits to see what comes of it.
    New,
    /// Its verdict stands: it is only here that it was not run yet.
    TakenOver,
}

impl Hurry {
    /// First runs are spread over so much time, however few they are.
    fn spread(self) -> Duration {
        match self {
            Hurry::New => Duration::from_secs(1),
            Hurry::TakenOver => Duration::from_secs(5),
        }
    }
}

/// Turns at a rate: each is free when the one before has passed.
#[derive(Debug)]
struct Turns {
    gap: Duration,
    free: Instant,
}

impl Turns {
    fn next(&self, now: Instant) -> Instant {
        self.free.max(now)
    }

    fn take(&mut self, now: Instant) {
        self.free = self.next(now) + self.gap;
    }
}

/// When checks run in this process.
#[derive(Debug)]
pub(super) struct Schedule {
    /// A moment, and how long after the beginning of 1970 it was.
    origin: (Instant, Duration),
    new: Turns,
    taken_over: Turns,
}

/// How far into a span a name belongs: the same after a restart, and on every replica.
fn part_of(span: Duration, name: &str) -> Duration {
    // A hasher of known keys.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    span.mul_f64((hash >> 11) as f64 / (1_u64 << 53) as f64)
}

impl Schedule {
    /// A schedule with so many first runs a second, for each [`Hurry`].
    pub(super) fn new(first_runs: u32) -> Self {
        // A clock before 1970 is no clock, and its places are as good as any.
        Self::counted_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), first_runs)
    }

    /// The same, where it is so long after the beginning of 1970 now.
    fn counted_from(since_1970: Duration, first_runs: u32) -> Self {
        let now = Instant::now();
        let turns = || Turns { gap: Duration::from_secs(1) / first_runs.max(1), free: now };
        Self { origin: (now, since_1970), new: turns(), taken_over: turns() }
    }

    /// The first run here: soon, or at the check's own place if that comes first, as it does where so many begin at once
    /// that their turns are further away than their intervals are long.
    pub(super) fn first(&mut self, now: Instant, interval: Duration, name: &str, hurry: Hurry) -> Instant {
        let place = self.next(now, interval, name);
        let turns = match hurry {
            Hurry::New => &mut self.new,
            Hurry::TakenOver => &mut self.taken_over,
        };
        let turn = turns.next(now) + part_of(interval.min(hurry.spread()), name);
        if turn >= place {
            return place;
        }
        turns.take(now);
        turn
    }

    /// The first run at the check's place after `after`. A little of chance keeps checks of the same place from meeting
    /// again and again.
    fn next(&self, after: Instant, interval: Duration, name: &str) -> Instant {
        let (origin, since_1970) = self.origin;
        let nanos = interval.as_nanos().max(1);
        let into = (since_1970 + after.saturating_duration_since(origin)).as_nanos() % nanos;
        let place = part_of(interval, name).as_nanos() % nanos;
        // From now to the place, at least a nanosecond.
        let wait = if place > into { place - into } else { place + nanos - into };
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        after + wait + interval.min(Duration::from_secs(20)).mul_f64(rand::random::<f64>() / 20.0)
    }

    /// The run after one that was due at `due`: never sooner than after half an interval, and never in the past, whatever
    /// was missed.
    pub(super) fn after(&self, due: Instant, now: Instant, interval: Duration, name: &str) -> Instant {
        self.next((due + interval / 2).max(now), interval, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// Begun at some time of some year.
    fn schedule(first_runs: u32) -> Schedule {
        Schedule::counted_from(Duration::from_millis(1_700_000_000_123), first_runs)
    }

    #[tokio::test(start_paused = true)]
    async fn runs_are_spread_and_keep_their_place() {
        let (schedule, origin) = (schedule(500), Instant::now());
        let interval = Duration::from_secs(10);
        let mut buckets = [0; 10];
        for n in 0..10_000 {
            let name = format!("instance-{n}/check");
            let due = schedule.next(origin, interval, &name);
            buckets[(due - origin).as_secs() as usize % 10] += 1;
            let mut before = due;
            for _ in 0..20 {
                let next = schedule.after(before, before, interval, &name);
                let gap = next - before;
                assert!(gap > interval.mul_f64(0.94) && gap < interval.mul_f64(1.06), "{gap:?}");
                before = next;
            }
        }
        assert!(buckets.iter().all(|count| (850..1200).contains(count)), "{buckets:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_is_the_same_after_a_restart_and_elsewhere() {
        let now = Instant::now();
        let (one, later) = (Duration::from_secs(1_700_000_000), Duration::from_secs(5000));
        for n in 0..100 {
            let name = format!("instance-{n}/check");
            let before = Schedule::counted_from(one, 500).next(now + later, DAY, &name);
            let after = Schedule::counted_from(one + later, 500).next(now, DAY, &name) + later;
            assert!(before.max(after) - before.min(after) <= Duration::from_secs(1), "{before:?} {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_run_comes_soon_and_the_second_in_its_place() {
        let origin = Instant::now();
        let (interval, now) = (Duration::from_secs(60), origin + Duration::from_secs(1234));
        for n in 0..100 {
            let name = format!("instance-{n}/check");
            for hurry in [Hurry::New, Hurry::TakenOver] {
                let mut schedule = schedule(500);
                let first = schedule.first(now, interval, &name, hurry);
                assert!(first >= now && first <= now + hurry.spread());
                let second = schedule.after(first, first, interval, &name);
                let gap = second - first;
                assert!(gap >= interval / 2 && gap <= interval * 3 / 2 + Duration::from_secs(4), "{gap:?}");
            }
        }
        // Runs that were missed are not caught up with.
        let late = now + interval * 100;
        assert!(schedule(500).after(now, late, interval, "x") > late);
    }

    #[tokio::test(start_paused = true)]
    async fn first_runs_come_at_a_rate_and_within_an_interval() {
        let now = Instant::now();
        let begun = |interval: Duration| {
            let mut schedule = schedule(500);
            let mut seconds = vec![0; 40];
            for n in 0..10_000 {
                let first = schedule.first(now, interval, &format!("instance-{n}/check"), Hurry::TakenOver);
                seconds[(first - now).as_secs() as usize] += 1;
            }
            // What somebody waits for does not stand in line with them.
            let new = schedule.first(now, interval, "new", Hurry::New);
            assert!(new - now <= Duration::from_secs(1));
            seconds
        };
        // 20 seconds of 500 each, spread a little.
        let daily = begun(DAY);
        assert!(daily.iter().all(|count| *count < 600), "{daily:?}");
        assert_eq!(daily[26..].iter().sum::<i32>(), 0, "{daily:?}");
        // Those that are due anyway are not held up.
        let often = begun(Duration::from_secs(10));
        assert_eq!(often[11..].iter().sum::<i32>(), 0, "{often:?}");
        assert!(often.iter().all(|count| *count < 1600), "their places are 1000 a second: {often:?}");
    }
}
