//! Metrics of the process as a whole, read when they are asked for.

use fingerpost_catalog::Health;
use fingerpost_registry::live::LiveReplica;
use fingerpost_registry::store::Store;
use fingerpost_registry::watch::Hub;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

struct Parts {
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    hub: Arc<Hub>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// Registers the metrics of store, catalog and streams.
pub(super) fn register(registry: &mut Registry, store: &Arc<dyn Store>, live: &Arc<LiveReplica>, hub: &Arc<Hub>) {
    let (store, live, hub) = (Arc::clone(store), Arc::clone(live), Arc::clone(hub));
    registry.register_collector(Box::new(Parts { store, live, hub }));
}

impl Collector for Parts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = ConstGauge::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(descriptor)
        };
        let store = self.store.status();
        gauge("fingerpost_store_records", "Records in the store", store.records as f64)?;
        gauge("fingerpost_store_position", "Number of the store's latest commit", store.position.number as f64)?;
        gauge(
            "fingerpost_store_writable",
            "1 while the store takes writes",
            f64::from(u8::from(store.write_error.is_none())),
        )?;
        if let Some(bytes) = store.disk_bytes {
            gauge("fingerpost_store_disk_bytes", "Size of the data on disk", bytes as f64)?;
        }
        if let Some(time) = store.last_sync {
            gauge("fingerpost_store_last_sync_seconds", "Time that the last durable write took", time.as_secs_f64())?;
        }
        if let Some(time) = store.out_of_touch {
            gauge(
                "fingerpost_store_out_of_touch_seconds",
                "For how long there has been no word from the store",
                time.as_secs_f64(),
            )?;
        }
        gauge("fingerpost_store_foreign_keys", "Keys in the store that can't be read", store.foreign as f64)?;
        gauge("fingerpost_store_schema", "Schema of the records", f64::from(store.schema))?;
        {
            let members = self.store.members();
            let members = members.borrow();
            gauge("fingerpost_replicas", "Replicas of the registry that are alive", members.live.len() as f64)?;
            gauge(
                "fingerpost_replica_in_touch",
                "1 while this replica is in touch with the store and holds its place",
                f64::from(u8::from(members.in_touch)),
            )?;
        }
        let position = self.live.position();
        gauge("fingerpost_catalog_position", "Number of the position that readers see", position.number as f64)?;
        let stats = self.live.read().stats();
        gauge("fingerpost_catalog_namespaces", "Namespaces", stats.namespaces as f64)?;
        gauge("fingerpost_catalog_services", "Services", stats.services as f64)?;
        for health in Health::ALL {
            let count = stats.health.get(health as usize).copied().unwrap_or_default();
            gauge(
                &format!("fingerpost_catalog_instances_{health}"),
                "Instances of this effective health",
                count as f64,
            )?;
        }
        let hub = self.hub.stats();
        gauge("fingerpost_watch_streams", "Open watch streams", hub.streams as f64)?;
        gauge("fingerpost_watch_subscriptions", "Live subscriptions on them", hub.subscriptions as f64)?;
        gauge("fingerpost_watch_history_positions", "Positions that a stream can resume from", hub.history as f64)?;
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(descriptor)
        };
        counter("fingerpost_watch_deliveries", "Positions handed to live subscriptions", hub.deliveries)?;
        counter("fingerpost_watch_laggards", "Times that a subscription fell behind", hub.laggards)
    }
}
