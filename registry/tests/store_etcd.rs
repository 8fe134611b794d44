//! The suite over a real etcd, and what only this back end can do or suffer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_suite;

use fingerpost_registry::store::Store;
use fingerpost_registry::store::etcd::{EtcdOptions, EtcdStore};
use fingerpost_tests::etcd::EtcdCluster;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store_suite::*;
use tokio::sync::OnceCell;

/// One etcd for all tests that do no harm to it, each under a prefix of its own.
async fn shared() -> Vec<String> {
    static CLUSTER: OnceCell<EtcdCluster> = OnceCell::const_new();
    CLUSTER.get_or_init(EtcdCluster::one).await.endpoints()
}

fn options(endpoints: Vec<String>) -> EtcdOptions {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut options = EtcdOptions::new(endpoints);
    options.prefix = format!("/fingerpost/test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    // Other tests write, too.
    options.resume_revisions = u64::MAX;
    options.open_timeout = Duration::from_secs(30);
    options
}

struct Etcd {
    store: Option<Arc<EtcdStore>>,
    options: EtcdOptions,
}

impl Etcd {
    async fn new() -> Self {
        let mut options = options(shared().await);
        // Nothing but commits moves positions while a test counts them.
        options.progress = Duration::from_secs(60);
        Self { store: Some(EtcdStore::open(options.clone()).await.unwrap()), options }
    }
}

impl Harness for Etcd {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    fn reopen(&mut self) -> BoxFuture<'_, ()> {
        async move {
            self.store.take().unwrap().close().await;
            self.store = Some(EtcdStore::open(self.options.clone()).await.unwrap());
        }
        .boxed()
    }

    fn knows_relaxed(&self) -> bool {
        false
    }

    fn counts_alone(&self) -> bool {
        false
    }

    fn compacts_for_good(&self) -> bool {
        false
    }
}

mod suite {
    use super::*;
    store_suite!(Etcd::new().await);
}
