//! The listener's metrics: its state, read when it is asked for, and how long changes take to come through.

use crate::index::LatencyKind;
use crate::objects::Resources;
use crate::state::{Phase, State};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ServiceKindLabel {
    service_kind: &'static str,
}

/// How long it takes from a change in the cluster until DNS answers with it, as Kubernetes defines it (dns programming
/// latency), with CoreDNS' buckets.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Family<ServiceKindLabel, Histogram>);

impl Latency {
    fn new() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 20))))
    }

    pub(crate) fn observe(&self, kind: LatencyKind, latency: Duration) {
        let service_kind = match kind {
            LatencyKind::ClusterIp => "cluster_ip",
            LatencyKind::HeadlessWithSelector => "headless_with_selector",
            LatencyKind::HeadlessWithoutSelector => "headless_without_selector",
        };
        self.0.get_or_create(&ServiceKindLabel { service_kind }).observe(latency.as_secs_f64());
    }
}

/// The listener's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) latency: Latency,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry, state: &Arc<State>) -> Self {
        let latency = Latency::new();
        registry.register(
            "kubernetes_dns_programming_duration_seconds",
            "Time from a change of a service's endpoints until answers show it",
            latency.0.clone(),
        );
        registry.register_collector(Box::new(Snapshot(Arc::clone(state))));
        Self { latency }
    }
}

#[derive(Debug)]
struct Snapshot(Arc<State>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.document();
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let flag = |value: bool| f64::from(u8::from(value));
        gauge(
            "fingerpost_kubernetes_synced",
            "1 while the registry has what the cluster has",
            flag(state.phase == Phase::Synced),
        )?;
        gauge("fingerpost_kubernetes_leader", "1 while this listener is the one that writes", flag(state.leader))?;
        gauge(
            "fingerpost_kubernetes_writes_failing_seconds",
            "Since when writes fail; 0 while they do not",
            state.writes_failing_seconds.unwrap_or_default(),
        )?;
        gauge(
            "fingerpost_kubernetes_lease_trouble",
            "1 while the Lease by which one of several listeners writes can't be used",
            flag(state.lease_trouble.is_some()),
        )?;
        gauge("fingerpost_kubernetes_pending_records", "Records that wait to be written", state.pending as f64)?;
        gauge(
            "fingerpost_kubernetes_held_removals",
            "Removals that wait for a second list to confirm them",
            state.held as f64,
        )?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        counter("fingerpost_kubernetes_writes", "Records written", state.writes)?;
        counter(
            "fingerpost_kubernetes_write_failures",
            "Writes that failed and were tried again",
            state.write_failures,
        )?;
        counter("fingerpost_kubernetes_refused_objects", "Objects that can't be taken, or not whole", state.refused)?;
        counter(
            "fingerpost_kubernetes_fqdn_slices",
            "Slices of names instead of addresses, passed over",
            state.passed_over,
        )?;
        let resource = |kind: &crate::document::KindDocument| [("resource", kind.resource)];
        macro_rules! by_kind {
            ($name:literal, $help:literal, $metric:ident of $type:expr, $kind:ident => $value:expr) => {{
                let mut family = encoder.encode_descriptor($name, $help, None, $type)?;
                for $kind in &state.kinds {
                    $metric::new($value).encode(family.encode_family(&resource($kind))?)?;
                }
            }};
        }
        by_kind!("fingerpost_kubernetes_resource_synced", "1 once the first complete list has come", ConstGauge of MetricType::Gauge, kind => flag(kind.synced));
        by_kind!("fingerpost_kubernetes_objects", "Objects that are known", ConstGauge of MetricType::Gauge, kind => kind.objects as f64);
        by_kind!("fingerpost_kubernetes_age_seconds", "Time since the last word of them", ConstGauge of MetricType::Gauge, kind => kind.age_seconds.unwrap_or(f64::INFINITY));
        by_kind!("fingerpost_kubernetes_relists", "How often they were listed again", ConstCounter of MetricType::Counter, kind => kind.relists);
        by_kind!("fingerpost_kubernetes_malformed_objects", "Objects that could not be read", ConstCounter of MetricType::Counter, kind => kind.malformed);
        let errors = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "fingerpost_kubernetes_errors",
            "Faults in following a kind of object, by reason",
            None,
            errors.metric_type(),
        )?;
        for kind in &state.kinds {
            for (reason, count) in &kind.errors {
                let labels = [("resource", kind.resource), ("reason", reason.as_str())];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        debug_assert!(state.kinds.len() <= Resources::ALL.len());
        Ok(())
    }
}
