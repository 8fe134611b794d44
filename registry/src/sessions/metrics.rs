//! What the sessions' engine counts, and its gauges.

use super::Engine;
use fingerpost_catalog::document::RenewalState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counters of the sessions' engine.
#[derive(Clone, Debug, Default)]
pub struct SessionMetrics {
    renewals: Family<Outcome, Counter>,
    pub(super) expirations: Counter,
    pub(super) restorations: Counter,
    pub(super) holds: Counter,
    pub(super) ends: Counter,
    pub(super) forwarded: Counter,
    pub(super) noted: Counter,
    pub(super) failed_writes: Counter,
}

impl SessionMetrics {
    pub(super) fn renewed(&self, state: RenewalState) {
        let outcome = match state {
            RenewalState::Alive => "alive",
            RenewalState::Suspect => "suspect",
            RenewalState::Restored => "restored",
            RenewalState::Unknown => "unknown",
        };
        self.renewals.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn unreached(&self) {
        self.renewals.get_or_create(&Outcome { outcome: "unreached" }).inc();
    }
}

/// Registers the metrics of an engine.
pub fn register(registry: &mut Registry, engine: &Arc<Engine>) {
    let metrics = engine.metrics().clone();
    registry.register("fingerpost_session_renewals", "Renewals by what they found", metrics.renewals);
    registry.register("fingerpost_session_expirations", "Sessions that expired at this home", metrics.expirations);
    registry.register("fingerpost_session_restorations", "Expired sessions that came back", metrics.restorations);
    registry.register("fingerpost_session_holds", "Overdue sessions that were held", metrics.holds);
    registry.register("fingerpost_session_removals", "Sessions removed with their instances", metrics.ends);
    registry.register("fingerpost_session_renewals_forwarded", "Renewals passed to their home", metrics.forwarded);
    registry.register(
        "fingerpost_session_renewals_noted",
        "Renewals noted in the store because their home could not be reached",
        metrics.noted,
    );
    registry.register(
        "fingerpost_session_write_failures",
        "Writes about sessions that failed, and are judged afresh",
        metrics.failed_writes,
    );
    registry.register_collector(Box::new(Gauges(Arc::clone(engine))));
}

#[derive(Debug)]
struct Gauges(Arc<Engine>);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let summary = self.0.summary();
        let mut gauge = |name: &str, help: &str, value: usize| {
            let metric = ConstGauge::new(value as f64);
            let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(descriptor)
        };
        gauge("fingerpost_sessions_alive", "Sessions that are alive, in the whole registry", summary.alive)?;
        gauge("fingerpost_sessions_suspect", "Overdue sessions that are held, in the whole registry", summary.suspect)?;
        gauge(
            "fingerpost_sessions_expired",
            "Expired sessions in their grace, in the whole registry",
            summary.expired,
        )?;
        gauge("fingerpost_sessions_home", "Sessions that this replica keeps", summary.home)?;
        gauge("fingerpost_sessions_home_held", "Sessions that this replica holds", summary.home_held)?;
        let active = usize::from(summary.suspect > 0);
        gauge("fingerpost_sessions_protection_active", "1 while overdue sessions are held", active)
    }
}
