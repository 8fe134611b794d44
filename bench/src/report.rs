//! Figures as people read them.

use std::time::Duration;

/// Percentiles of latencies.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        write!(f, "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", ms(50.0), ms(99.0), ms(100.0))
    }
}

/// A number with a thousands mark.
pub(crate) fn count(value: f64) -> String {
    let whole = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
