//! The listener of the same process: what it says in `status` and probes, and what DNS may say before it knows the cluster.

use crate::config::ServeConfig;
use fingerpost_catalog::{Source, Timestamp};
use fingerpost_dns::Index;
use fingerpost_listener::{Phase, State};
use fingerpost_registry::api::ClusterFollower;
use fingerpost_registry::live::LiveReplica;
use fingerpost_registry::sources::Sources;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::warn;

/// Which registry this process is of, in words that are the same for all of its replicas.
pub(super) fn registry_name(config: &ServeConfig) -> String {
    match &config.etcd {
        Some(etcd) => {
            let mut endpoints = etcd.endpoints.clone();
            endpoints.sort();
            format!("etcd {} under {}", endpoints.join(","), etcd.prefix)
        }
        // Nobody shares it.
        None => {
            let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "this host".to_owned());
            format!("the store {} of {host}", config.answers.data_dir.display())
        }
    }
}

/// Holds DNS back from saying that a name does not exist, until the store has had all of the cluster that is to be followed.
/// Where an earlier run has come so far, it may speak at once; where that was ended in the midst of it, not yet.
pub(super) struct Gate {
    source: Source,
    /// What of the cluster is followed. Who followed less before does not know what is missing of the rest.
    scope: String,
    state: Arc<State>,
    live: Arc<LiveReplica>,
    sources: Arc<Sources>,
    closed: AtomicBool,
}

impl Gate {
    pub(super) fn new(
        (source, scope): (Source, String),
        state: Arc<State>,
        live: Arc<LiveReplica>,
        sources: Arc<Sources>,
    ) -> Arc<Self> {
        Arc::new(Self { source, scope, state, live, sources, closed: AtomicBool::new(true) })
    }

    /// Whether the store has had all of the cluster.
    fn knows(&self) -> bool {
        self.sources.is_complete(&self.source, &self.scope)
    }

    /// When the cluster was last written of, as far as the store says; to within an hour or so.
    fn last_heard(&self) -> Option<Timestamp> {
        self.live.read().source_stats().get(&self.source)?.seen.map(|(at, _)| Timestamp(at))
    }

    /// Lets DNS speak once it may. Runs until then.
    pub(super) async fn open(self: Arc<Self>, index: Arc<Index>) {
        self.live.wait_loaded().await;
        if !self.knows() {
            let mut synced = self.state.synced();
            loop {
                if *synced.borrow_and_update() {
                    break;
                }
                // Another listener may be the one that writes.
                if self.state.document().phase == Phase::Standby && self.knows() {
                    break;
                }
                let _ = tokio::time::timeout(Duration::from_millis(500), synced.changed()).await;
            }
        }
        self.closed.store(false, Ordering::Release);
        match index.position() {
            Some(_) => index.open(),
            None => index.set_synced(self.live.position()),
        }
        while !self.knows() {
            match self.sources.complete(&self.source, &self.scope).await {
                Ok(()) => break,
                Err(error) => warn!(%error, "can't note that all of the cluster is here; trying again"),
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
}

impl ClusterFollower for Gate {
    fn status(&self) -> Value {
        serde_json::to_value(self.state.document()).unwrap_or_default()
    }

    fn not_ready(&self) -> Option<String> {
        let unknown = || "knows nothing of the cluster yet".to_owned();
        if let Some(foreign) = self.state.document().foreign {
            return Some(foreign);
        }
        self.closed.load(Ordering::Acquire).then(|| self.state.trouble().unwrap_or_else(unknown))
    }

    fn trouble(&self) -> Option<String> {
        let trouble = self.state.trouble()?;
        if self.state.document().phase != Phase::Starting {
            return Some(trouble);
        }
        let heard = self.last_heard().map(|at| format!(", written until {at} or a little later")).unwrap_or_default();
        Some(format!("{trouble}; what is answered is from an earlier run{heard}"))
    }
}
