//! The metrics of checks.

use fingerpost_catalog::{CheckType, Health};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    check: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    check: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransitionLabels {
    to: &'static str,
}

/// What happens to the checks at this replica.
#[derive(Clone, Debug)]
pub(super) struct CheckMetrics {
    runs: Family<RunLabels, Counter>,
    seconds: Family<TypeLabels, Histogram, fn() -> Histogram>,
    transitions: Family<TransitionLabels, Counter>,
    pub(super) late: Counter,
    pub(super) write_failures: Counter,
    pub(super) home: Gauge,
    pub(super) running: Gauge,
}

impl Default for CheckMetrics {
    fn default() -> Self {
        // 1 ms to 16 s; timeouts may be longer.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            runs: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            transitions: Family::default(),
            late: Counter::default(),
            write_failures: Counter::default(),
            home: Gauge::default(),
            running: Gauge::default(),
        }
    }
}

impl CheckMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("fingerpost_checks_runs", "Runs of checks by type and result", self.runs.clone());
        registry.register(
            "fingerpost_checks_run_duration_seconds",
            "Time that runs of checks take",
            self.seconds.clone(),
        );
        registry.register(
            "fingerpost_checks_transitions",
            "Verdicts that changed, by what they changed to",
            self.transitions.clone(),
        );
        registry.register(
            "fingerpost_checks_late",
            "Runs that began late because too many were under way",
            self.late.clone(),
        );
        registry.register(
            "fingerpost_checks_write_failures",
            "Verdicts that could not be written, each attempt counted",
            self.write_failures.clone(),
        );
        registry.register("fingerpost_checks_home", "Checks that this replica runs", self.home.clone());
        registry.register("fingerpost_checks_running", "Checks that are being run now", self.running.clone());
    }

    pub(super) fn ran(&self, check: CheckType, result: Health, time: Duration) {
        let check = check.as_str();
        self.runs.get_or_create(&RunLabels { check, result: result.as_str() }).inc();
        self.seconds.get_or_create(&TypeLabels { check }).observe(time.as_secs_f64());
    }

    pub(super) fn turned(&self, to: Health) {
        self.transitions.get_or_create(&TransitionLabels { to: to.as_str() }).inc();
    }
}
