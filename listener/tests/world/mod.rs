//! What the tests of the listener run against: an API server that behaves, or misbehaves, as told, and a registry in memory.

mod cluster;
mod registry;

pub(crate) use cluster::{Cluster, Kind};
pub(crate) use registry::MemoryRegistry;

use fingerpost_listener::{ListenError, Listener, Options, State};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A listener between a cluster and a registry.
pub(crate) struct Running {
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Arc<prometheus_client::registry::Registry>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ListenError>>,
}

impl Running {
    pub(crate) fn start(cluster: &Cluster, registry: &Arc<MemoryRegistry>) -> Self {
        Self::start_with(cluster, registry, |_| {})
    }

    pub(crate) fn start_with(
        cluster: &Cluster,
        registry: &Arc<MemoryRegistry>,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = Options::new("kubernetes/test".parse().unwrap());
        change(&mut options);
        let mut metrics = prometheus_client::registry::Registry::default();
        let listener = Listener::new(cluster.config(), Arc::clone(registry) as _, options, &mut metrics).unwrap();
        let (state, stop) = (listener.state(), CancellationToken::new());
        let task = tokio::spawn(listener.run(stop.clone()));
        Self { state, metrics: Arc::new(metrics), stop, task }
    }

    /// Waits until the registry has what the cluster had at the start.
    pub(crate) async fn synced(&self) {
        self.state.synced().wait_for(|synced| *synced).await.unwrap();
    }

    /// Waits until the state is as told; it changes without a word, so it is looked at again and again.
    pub(crate) async fn state_is(&self, right: impl Fn(&fingerpost_listener::StateDocument) -> bool) {
        while !right(&self.state.document()) {
            assert!(!self.task.is_finished(), "the listener ended");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}
