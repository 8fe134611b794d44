//! What is counted of followers, and of the writes that wait for them.

use super::{Followers, Visibility};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// Registers the metrics of followers, and of the writes that wait for them.
pub fn register(registry: &mut Registry, visibility: &Arc<Visibility>) {
    let waits = visibility.waits.clone();
    registry.register("fingerpost_visible_waits", "Writes that waited until they were visible, by outcome", waits);
    registry.register_collector(Box::new(Gauges(Arc::clone(visibility.followers()))));
}

#[derive(Debug)]
struct Gauges(Arc<Followers>);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (present, departed) = self.0.counts();
        let mut gauge = |name: &str, help: &str, value: usize| {
            let metric = ConstGauge::new(value as f64);
            let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(descriptor)
        };
        gauge("fingerpost_followers", "Followers that report what they show, in the whole registry", present)?;
        gauge("fingerpost_followers_departed", "Followers that fell silent lately", departed)
    }
}
