//! How a DNS server stands with its registry, for those who ask.

use fingerpost_client::Error;
use fingerpost_registry::live::LiveReplica;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A registry tells at least this often that nothing has changed. What is known counts as old when it was silent for
/// three times that and a bit.
const SILENCE: Duration = Duration::from_secs(10);

/// What is known of the registry.
#[derive(Debug)]
pub(super) struct State {
    id: String,
    registry: Vec<String>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When the registry last said anything, in this process's life.
    heard: Option<Instant>,
    /// As of when is what the disk had, until the registry says more.
    kept: Option<SystemTime>,
    /// Whether all of it is known from the registry.
    synced: bool,
    /// What went wrong last, while it does.
    trouble: Option<String>,
    /// Why the registry can't be told what is shown here, while that is so.
    unreported: Option<String>,
}

impl State {
    pub(super) fn new(id: String, registry: Vec<String>) -> Self {
        Self { id, registry, inner: Mutex::default() }
    }

    /// The disk had something.
    pub(super) fn kept(&self, as_of: SystemTime) {
        self.inner.lock().kept = Some(as_of);
    }

    /// The registry said something. While it tells everything anew, what is shown gets no fresher by that: only with `synced` it
    /// is what the registry says.
    pub(super) fn heard(&self, synced: bool) {
        let mut inner = self.inner.lock();
        if synced {
            inner.heard = Some(Instant::now());
            inner.synced = true;
        }
        inner.trouble = None;
    }

    /// The registry can't be followed. True where that is news.
    pub(super) fn lost(&self, error: &Error) -> bool {
        self.inner.lock().trouble.replace(error.to_string()).is_none()
    }

    pub(super) fn reported(&self, trouble: Option<String>) {
        self.inner.lock().unreported = trouble;
    }

    /// When what is shown was what the registry said; none where nothing is shown.
    pub(super) fn as_of(&self) -> Option<SystemTime> {
        let inner = self.inner.lock();
        match (inner.synced, inner.heard) {
            (true, Some(heard)) => SystemTime::now().checked_sub(heard.elapsed()),
            _ => inner.kept,
        }
    }

    /// How old it is.
    pub(super) fn age(&self) -> Option<Duration> {
        // A clock that was set back makes it no younger than this.
        self.as_of().map(|as_of| SystemTime::now().duration_since(as_of).unwrap_or_default())
    }

    /// Why what is shown may be old, if so.
    pub(super) fn stale(&self) -> Option<String> {
        let age = self.age()?;
        let trouble = self.inner.lock().trouble.clone();
        let is_old = age > SILENCE || trouble.is_some();
        let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        is_old.then(|| format!("no word from the registry; what is answered is {} s old{why}", age.as_secs()))
    }

    /// Why nothing is known, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.inner.lock().trouble.clone()
    }

    /// Its part of `status`.
    pub(super) fn document(&self) -> Value {
        let age = self.age().map(|age| age.as_secs_f64());
        let inner = self.inner.lock();
        json!({
            "id": self.id,
            "registry": self.registry,
            "synced": inner.synced,
            "ageSeconds": age,
            "trouble": inner.trouble,
            "unreported": inner.unreported,
        })
    }
}

struct Gauges(Arc<State>, Arc<LiveReplica>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

/// Registers the metrics of following.
pub(super) fn register(registry: &mut Registry, state: &Arc<State>, live: &Arc<LiveReplica>) {
    registry.register_collector(Box::new(Gauges(Arc::clone(state), Arc::clone(live))));
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(state, live) = self;
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = ConstGauge::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(descriptor)
        };
        let flag = |set: bool| f64::from(u8::from(set));
        let (synced, well) = {
            let inner = state.inner.lock();
            (inner.synced, inner.trouble.is_none())
        };
        gauge("fingerpost_following", "1 while the registry can be followed", flag(synced && well))?;
        if let Some(age) = state.age() {
            gauge("fingerpost_following_age_seconds", "How old is what is answered", age.as_secs_f64())?;
        }
        let number = live.position().number;
        gauge("fingerpost_catalog_position", "Number of the position that is answered", number as f64)?;
        let stats = live.read().stats();
        gauge("fingerpost_catalog_namespaces", "Namespaces", stats.namespaces as f64)?;
        gauge("fingerpost_catalog_services", "Services", stats.services as f64)?;
        gauge("fingerpost_catalog_instances", "Instances", stats.instances as f64)
    }
}
