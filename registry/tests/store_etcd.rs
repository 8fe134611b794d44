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

/// A store that only one test uses, on an etcd of its own or a shared one.
async fn open(options: &EtcdOptions) -> Arc<EtcdStore> {
    EtcdStore::open(options.clone()).await.unwrap()
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}: it never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn at(store: &EtcdStore) -> u64 {
    store.status().position.number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_lose_no_increment() {
    let options = options(shared().await);
    let stores = [open(&options).await, open(&options).await];
    done(&*stores[0], commit([put(0, 0)])).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let store = Arc::clone(&stores[n % 2]);
            tokio::spawn(async move {
                let mut won = 0;
                while won < 15 {
                    let state = contents(&*store).await.1;
                    let (record, revision) = &state[&key(0).to_string()];
                    let commit = Commit {
                        conditions: vec![expect(0, Expect::At(*revision))],
                        ..commit([put(0, weight(record) + 1)])
                    };
                    match store.commit(commit).await {
                        Ok(_) => won += 1,
                        Err(CommitError::Condition { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for store in &stores {
        assert_eq!(weight(&contents(&**store).await.1[&key(0).to_string()].0), 120);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_wrote_is_never_taken_for_unchanged() {
    // The second one's knowledge is held back by a frozen watch, while its writes go through.
    let cluster = EtcdCluster::one().await;
    let mut options = options(cluster.endpoints());
    let first = open(&options).await;
    done(&*first, commit([put(1, 1), put(2, 2)])).await;
    options.progress = Duration::from_secs(30);
    let second = open(&options).await;
    for round in 0..50 {
        let (ours, theirs) =
            tokio::join!(second.commit(commit([put(1, 1)])), first.commit(commit([put(1, 100 + round)])));
        ours.unwrap();
        theirs.unwrap();
        // A put that is acknowledged as unchanged was so at some moment after it was asked for.
        let after = done(&*second, commit([put(1, 1)])).await;
        let state = contents(&*second).await.1;
        assert_eq!(weight(&state[&key(1).to_string()].0), 1, "round {round}, {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lost_answers_are_found_out() {
    let cluster = EtcdCluster::one().await;
    let proxy = Proxy::start(cluster.address(0)).await;
    let store = open(&options(vec![proxy.url()])).await;
    // Every writer counts its own record up, under the condition that nobody else did.
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..16u64)
        .map(|n| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut last: Option<u64> = None;
                let mut counts = (0u64, 0u64, 0u64);
                while !stop.load(Ordering::Relaxed) {
                    let condition = last.map_or(Expect::Absent, Expect::At);
                    let commit = Commit { conditions: vec![expect(n, condition)], ..commit([put(n, counts.0 + 1)]) };
                    match store.commit(commit).await {
                        Ok(committed) => {
                            last = Some(committed.position.number);
                            counts.0 += 1;
                        }
                        Err(CommitError::Unavailable(_)) => counts.1 += 1,
                        // Whoever writes alone and knows of each of its writes whether it was applied never meets a conflict.
                        Err(CommitError::Unknown(_)) => {
                            counts.2 += 1;
                            break;
                        }
                        Err(error) => panic!("writer {n} after {counts:?}: {error}"),
                    }
                }
                (n, counts)
            })
        })
        .collect();
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(100 + 7 * round)).await;
        if round % 3 == 2 {
            proxy.freeze()
        } else {
            proxy.cut()
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        // What was on its way when the network froze never arrives: those connections are gone.
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.heal();
    }
    stop.store(true, Ordering::Relaxed);
    let mut written = 0;
    let mut results = Vec::new();
    for writer in writers {
        results.push(writer.await.unwrap());
    }
    let other = open(&EtcdOptions { endpoints: cluster.endpoints(), ..prefix_of(&store) }).await;
    let state = contents(&*other).await.1;
    for (n, (done, _, unknown)) in results {
        let stored = state.get(&key(n).to_string()).map_or(0, |(record, _)| weight(record));
        assert!(stored == done || (unknown > 0 && stored == done + 1), "writer {n}: {stored} stored, {done} done");
        written += done;
    }
    assert!(written > 100, "{written}");
    assert!(store.status().write_error.is_none() || store.status().out_of_touch.is_some());
}
