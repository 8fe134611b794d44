//! The latency of an endpoint as a peak-sensitive moving average in one atomic word.
//!
//! As in Finagle and Linkerd: an answer that is slower than the average takes its place at once, a faster one moves it
//! only slowly, with the time that has passed. While nothing is in flight the average falls towards nothing, so that an
//! endpoint which was slow is tried again. (There it falls with requests in flight, too; an endpoint that stops answering
//! looks better and better so. Here it does not.)

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Time is counted in steps of 2²⁰ ns, about a millisecond, of which 32 bits hold 52 days.
const STEP: u32 = 20;
/// A failure at once says nothing of how fast the endpoint works; where nothing else is known it counts as this.
const FIRST_FAILURE: f32 = 10e6;
/// What failures alone make of the average at most.
const MOST_BY_FAILURES: f32 = 10e9;

/// How long an average takes to fall to 1/e, in steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decay(f32);

impl Decay {
    pub(super) fn new(nanos: u64) -> Self {
        Self((nanos as f32 / (1_u32 << STEP) as f32).max(1.0))
    }

    /// What is left after so many steps.
    #[inline]
    fn left(self, steps: u32) -> f32 {
        (-(steps as f32) / self.0).exp()
    }
}

/// The average in nanoseconds (an `f32` above) and when it was last changed (in steps, below). 0: nothing is known.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

#[inline]
fn pack(average: f32, at: u32) -> u64 {
    (u64::from(average.to_bits()) << 32) | u64::from(at)
}

#[inline]
fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[inline]
fn step(now: u64) -> u32 {
    (now >> STEP) as u32
}

/// Steps since `at`; none where another thread has been faster than the one which read the clock.
#[inline]
fn since(at: u32, now: u64) -> u32 {
    (step(now).wrapping_sub(at) as i32).max(0).cast_unsigned()
}

impl Latency {
    /// The average in nanoseconds; 0 where nothing is known. It falls with time where the endpoint is `idle`.
    #[inline]
    pub(super) fn get(&self, now: u64, idle: bool, decay: Decay) -> f32 {
        let (average, at) = unpack(self.0.load(Relaxed));
        // Whether it is idle is as good as random: no branch depends on it. What would be hardly anything is left out,
        // since the exponential function takes a tenth of a pick's time.
        let steps = since(at, now) * u32::from(idle);
        if (steps as f32) < decay.0 / 256.0 { average } else { average * decay.left(steps) }
    }

    /// An answer took so long.
    pub(super) fn observe(&self, took: u64, now: u64, decay: Decay) {
        let took = (took as f32).max(1.0);
        self.change(now, |average, steps| {
            if took >= average {
                return Some(took);
            }
            // Of the answers within one step the slowest counts.
            let left = decay.left(steps);
            (steps > 0).then_some(average * left + took * (1.0 - left))
        });
    }

    /// A request failed after so long. It counts as no less than twice the average: an endpoint that fails at once
    /// must not pass for the fastest of all.
    pub(super) fn fail(&self, took: u64, now: u64) {
        self.change(now, |average, _| {
            let doubled = if average > 0.0 { (average * 2.0).min(MOST_BY_FAILURES) } else { FIRST_FAILURE };
            Some(doubled.max(took as f32).max(average))
        });
    }

    /// A request was given up after so long: its answer would have taken longer.
    pub(super) fn at_least(&self, waited: u64, now: u64) {
        self.change(now, |average, _| (average > 0.0 && waited as f32 > average).then_some(waited as f32));
    }

    /// Sets what `next` makes of the average and the steps since its last change, if anything.
    fn change(&self, now: u64, next: impl Fn(f32, u32) -> Option<f32>) {
        let mut word = self.0.load(Relaxed);
        loop {
            let (average, at) = unpack(word);
            let Some(average) = next(average, since(at, now)) else { return };
            match self.0.compare_exchange_weak(word, pack(average, step(now)), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;

    fn near(value: f32, expected: u64) -> bool {
        (value / expected as f32 - 1.0).abs() < 0.01
    }

    #[test]
    fn rises_at_once_and_falls_slowly() {
        let (latency, decay) = (Latency::default(), Decay::new(10 * SECOND));
        assert_eq!(latency.get(5 * SECOND, true, decay), 0.0);
        latency.observe(5 * MS, SECOND, decay);
        latency.observe(80 * MS, 2 * SECOND, decay);
        assert!(near(latency.get(2 * SECOND, true, decay), 80 * MS));
        for at in 3..=12 {
            latency.observe(5 * MS, at * SECOND, decay);
        }
        // 5 + 75/e
        let now = latency.get(12 * SECOND, true, decay);
        assert!(near(now, 32_590_000), "{now}");
    }

    #[test]
    fn falls_while_idle_and_only_then() {
        let (latency, decay) = (Latency::default(), Decay::new(10 * SECOND));
        latency.observe(100 * MS, 0, decay);
        assert!(near(latency.get(10 * SECOND, true, decay), 36_788_000));
        assert!(near(latency.get(10 * SECOND, false, decay), 100 * MS));
        assert!(latency.get(1000 * SECOND, true, decay) < 1.0);
    }

    #[test]
    fn a_failure_makes_it_no_faster() {
        let (latency, decay) = (Latency::default(), Decay::new(10 * SECOND));
        latency.fail(1000, 0);
        assert!(near(latency.get(0, true, decay), 10 * MS));
        latency.fail(1000, 0);
        assert!(near(latency.get(0, true, decay), 20 * MS));
        latency.fail(30 * SECOND, 0);
        assert!(near(latency.get(0, true, decay), 30 * SECOND));
        latency.fail(1000, 0);
        assert!(near(latency.get(0, true, decay), 30 * SECOND));
    }

    #[test]
    fn what_was_given_up_took_at_least_so_long() {
        let (latency, decay) = (Latency::default(), Decay::new(10 * SECOND));
        latency.at_least(SECOND, 0);
        assert_eq!(latency.get(0, true, decay), 0.0, "nobody knows");
        latency.observe(5 * MS, 0, decay);
        latency.at_least(MS, 0);
        assert!(near(latency.get(0, true, decay), 5 * MS));
        latency.at_least(SECOND, 0);
        assert!(near(latency.get(0, true, decay), SECOND));
    }

    #[test]
    fn a_clock_read_earlier_does_no_harm() {
        let (latency, decay) = (Latency::default(), Decay::new(SECOND));
        latency.observe(5 * MS, 10 * SECOND, decay);
        latency.observe(MS, 9 * SECOND, decay);
        assert!(near(latency.get(9 * SECOND, true, decay), 5 * MS));
    }
}
