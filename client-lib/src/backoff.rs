//! How long to wait before trying again: doubling, with jitter, so that clients which lost the same server do not all
//! come back at the same moment.

use rand::RngExt;
use std::time::Duration;

/// Waits that double from `first` to `most`.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next wait: between half of the current step and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.most);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts over, after a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_over() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        for step in [100, 200, 350, 350] {
            let wait = backoff.next();
            assert!(wait >= ms(step) / 2 && wait <= ms(step), "{wait:?} of {step}");
        }
        backoff.reset();
        assert!(backoff.next() <= ms(100));
    }
}
