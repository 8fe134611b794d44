//! The suite over a real etcd, and what only this back end can do or suffer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_suite;

use fingerpost_catalog::Position;
use fingerpost_registry::store::etcd::{EtcdOptions, EtcdStore, OpenError, Password};
use fingerpost_registry::store::{Commit, CommitError, Expect, FollowError, MigrateError, ReadAt, Store};
use fingerpost_tests::etcd::{EtcdCluster, PASSWORD, Setup};
use fingerpost_tests::proxy::Proxy;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    options.resume_changes = usize::MAX >> 3;
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
    let options = options(vec![proxy.url()]);
    let store = open(&options).await;
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
    let other = open(&EtcdOptions { endpoints: cluster.endpoints(), ..options }).await;
    let state = contents(&*other).await.1;
    for (n, (done, _, unknown)) in results {
        let stored = state.get(&key(n).to_string()).map_or(0, |(record, _)| weight(record));
        assert!(stored == done || (unknown > 0 && stored == done + 1), "writer {n}: {stored} stored, {done} done");
        written += done;
    }
    assert!(written > 100, "{written}");
    assert!(store.status().write_error.is_none() || store.status().out_of_touch.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_watch_is_noticed_and_mended() {
    let cluster = EtcdCluster::one().await;
    let proxy = Proxy::start(cluster.address(0)).await;
    let mut frozen = options(vec![proxy.url()]);
    let free = open(&EtcdOptions { endpoints: cluster.endpoints(), ..frozen.clone() }).await;
    frozen.progress = Duration::from_millis(200);
    let store = open(&frozen).await;
    let mut follower = store.follow(store.status().position).unwrap();
    until("its place", async || store.members().borrow().in_touch).await;
    proxy.freeze();
    let made = done(&*free, commit([put(1, 1)])).await;
    until("the silence", async || store.status().out_of_touch.is_some()).await;
    // Who is cut off is at home for nothing.
    until("to be lost", async || !store.members().borrow().in_touch).await;
    assert!(store.status().write_error.is_some());
    assert!(matches!(
        store.commit(commit([put(2, 2)])).await,
        Err(CommitError::Unavailable(_) | CommitError::Unknown(_))
    ));
    proxy.cut();
    proxy.heal();
    loop {
        let set = tokio::time::timeout(Duration::from_secs(60), follower.next()).await.unwrap().unwrap();
        if !set.changes.is_empty() {
            assert_eq!(set.position, made.position, "nothing is lost or told twice");
            break;
        }
    }
    until("touch", async || store.status().out_of_touch.is_none()).await;
    until("writes", async || store.commit(commit([put(3, 3)])).await.is_ok()).await;
    until("its place", async || store.members().borrow().in_touch && store.status().write_error.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_writes_fail_soon_and_reads_of_the_history_go_on() {
    let mut cluster = EtcdCluster::one().await;
    let store = open(&options(cluster.endpoints())).await;
    let start = store.status().position;
    done(&*store, commit([put(1, 1)])).await;
    cluster.kill(0);
    until("the end", async || store.status().out_of_touch.is_some()).await;
    let began = std::time::Instant::now();
    let outcome = store.commit(commit([put(2, 2)])).await;
    assert!(matches!(outcome, Err(CommitError::Unavailable(_))), "{outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let mut follower = store.follow(start).unwrap();
    assert_eq!(next(&mut *follower).await.unwrap().changes.len(), 1);
    cluster.restart(0);
    until("writes", async || store.commit(commit([put(2, 2)])).await.is_ok()).await;
    assert_eq!(next(&mut *follower).await.unwrap().changes[0].key, key(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_while_it_is_cut_off_is_survived() {
    let cluster = EtcdCluster::one().await;
    let proxy = Proxy::start(cluster.address(0)).await;
    let cut_off = options(vec![proxy.url()]);
    let free = open(&EtcdOptions { endpoints: cluster.endpoints(), ..cut_off.clone() }).await;
    let store = open(&cut_off).await;
    done(&*free, commit((0..10).map(|n| put(n, n)))).await;
    until("the first state", async || store.status().records == 10).await;
    let before = store.status().position;
    proxy.cut();
    for n in 0..20 {
        done(&*free, commit([put(n, 100 + n), delete(n + 1)])).await;
    }
    let revision = i64::try_from(at(&free)).unwrap();
    cluster.client().await.compact(revision, None).await.unwrap();
    proxy.heal();
    until("the new state", async || store.status().position.includes(&free.status().position)).await;
    assert_eq!(store.status().position.epoch, before.epoch);
    assert!(matches!(store.follow(before), Err(FollowError::Compacted)));
    assert_eq!(contents(&*store).await.1, contents(&*free).await.1);
    assert_eq!(store.status().records, free.status().records);
    // What it knows of each record is right again.
    assert!(!done(&*store, commit([put(19, 119)])).await.changed);
    assert!(done(&*store, commit([put(19, 120)])).await.changed);
    // A new one starts, though the past is gone.
    assert_eq!(latest(&*open(&cut_off).await).await, latest(&*free).await);
}

/// Who opens the store begins in the past, but not so far back that a mass of changes would have to be applied one by one.
#[tokio::test(flavor = "multi_thread")]
async fn the_past_reaches_back_over_few_changes_only() {
    let mut options = options(shared().await);
    let store = open(&options).await;
    let mass = done(&*store, commit((0..50).map(|n| put(n, 1)))).await.position;
    let (over, gone) = (commit([put(0, 2), put(50, 2)]), commit([delete(1), delete(50)]));
    let overwritten = done(&*store, over).await.position;
    let deleted = done(&*store, gone).await.position;
    let last = done(&*store, commit([put(1, 3), put(2, 3)])).await.position;
    let expected = latest(&*store).await;
    store.close().await;
    options.resume_changes = 10;
    let store = open(&options).await;
    assert!(store.status().position.includes(&last));
    let mut follower = store.follow(mass).expect("the few changes after the mass can be followed");
    for position in [overwritten, deleted, last] {
        assert_eq!(next(&mut *follower).await.unwrap().position, position);
    }
    assert!(matches!(store.follow(Position::new(mass.epoch, mass.number - 1)), Err(FollowError::Compacted)));
    // It was all as it was then, and becomes what it is now.
    let (position, then) = contents_at(&*store, ReadAt::Oldest).await;
    assert_eq!((position, then.len()), (mass, 50));
    assert!(then.values().all(|(record, at)| weight(record) == 1 && *at == mass.number), "{then:?}");
    assert_eq!(contents(&*store).await.1, expected);
    store.close().await;
    // Where even the latest change is too large, it begins there.
    options.resume_changes = 1;
    let store = open(&options).await;
    assert!(matches!(store.follow(deleted), Err(FollowError::Compacted)));
    assert_eq!(latest(&*store).await, expected);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_broken_values_are_passed_over() {
    let options = options(shared().await);
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    let root = format!("{}/v1", options.prefix);
    etcd.put(format!("{root}/records/instances/prod/web/api/i-7"), "{garbage", None).await.unwrap();
    etcd.put(format!("{root}/records/no/such/kind"), "{}", None).await.unwrap();
    etcd.put([root.as_bytes(), b"/records/\xff\xfe"].concat(), "{}", None).await.unwrap();
    let store = open(&options).await;
    assert_eq!((store.status().records, store.status().foreign), (0, 3), "{:?}", store.status().foreign_keys);
    let mut follower = store.follow(store.status().position).unwrap();
    done(&*store, commit([put(1, 1)])).await;
    assert_eq!(next(&mut *follower).await.unwrap().changes.len(), 1);

    // What a record said is no longer true when it can't be read.
    etcd.put(format!("{root}/records/{}", key(1)), "garbage", None).await.unwrap();
    let set = next(&mut *follower).await.unwrap();
    assert_eq!((set.changes.len(), &set.changes[0].record), (1, &None));
    etcd.put(format!("{root}/else"), "x", None).await.unwrap();
    until("the fifth", async || store.status().foreign == 5).await;
    assert!(store.status().foreign_keys.contains(&format!("{root}/else")));
    assert_eq!(store.status().records, 0);

    // It can be written over and removed; to whoever writes such a record, it is not there.
    let absent = Commit { conditions: vec![expect(1, Expect::Absent)], ..commit([put(1, 2)]) };
    assert!(done(&*store, absent).await.changed);
    done(&*store, commit([delete(7)])).await;
    etcd.delete(format!("{root}/else"), None).await.unwrap();
    until("two are left", async || store.status().foreign == 2).await;
    assert_eq!(latest(&*store).await.len(), 1);
    assert_eq!(latest(&*open(&options).await).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_begins_another_epoch() {
    let mut cluster = EtcdCluster::one().await;
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(cluster.endpoints());
    options.data_dir = Some(folder.path().join("data"));
    let running = open(&EtcdOptions { data_dir: None, ..options.clone() }).await;
    let store = open(&options).await;
    done(&*store, commit([put(1, 1)])).await;
    cluster.kill(0);
    cluster.back_up(0, &folder.path().join("backup"));
    cluster.restart(0);
    cluster.healthy().await;
    until("writes", async || store.commit(commit([put(2, 2)])).await.is_ok()).await;
    for n in 3..50 {
        done(&*store, commit([put(n, n)])).await;
    }
    let lost = store.status().position;
    until("the other one", async || running.status().position.includes(&lost)).await;
    store.close().await;
    drop(store);
    let mut follower = running.follow(lost).unwrap();

    // While one replica runs: it sees that there is less than there was.
    cluster.kill(0);
    cluster.restore(0, &folder.path().join("backup"));
    cluster.restart(0);
    until("another epoch", async || running.status().position.epoch != lost.epoch).await;
    assert!(matches!(next(&mut *follower).await, Err(FollowError::Foreign)));
    assert!(matches!(running.follow(lost), Err(FollowError::Foreign)));
    until("the state", async || running.status().records == 1).await;
    let epoch = running.status().position.epoch;
    running.close().await;
    drop(running);

    // While none runs: what was noted beside it tells, but only once.
    cluster.kill(0);
    cluster.restore(0, &folder.path().join("backup"));
    cluster.restart(0);
    cluster.healthy().await;
    let store = open(&options).await;
    let renewed = store.status().position.epoch;
    assert!(renewed != lost.epoch && renewed != epoch);
    assert_eq!(latest(&*store).await.len(), 1);
    store.close().await;
    let store = open(&options).await;
    assert_eq!(store.status().position.epoch, renewed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_another_cluster_begins_another_epoch() {
    let options = options(shared().await);
    let store = open(&options).await;
    let made = done(&*store, commit([put(1, 1)])).await.position;
    let mut follower = store.follow(made).unwrap();
    // As if it had come from elsewhere.
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    let meta = format!("{}/v1/meta/epoch", options.prefix);
    let stored = format!("{{\"epoch\":\"{}\",\"clusterId\":\"00000000deadbeef\"}}", made.epoch);
    etcd.put(meta, stored, None).await.unwrap();
    let second = open(&options).await;
    assert_ne!(second.status().position.epoch, made.epoch);
    // The one that runs goes along.
    assert!(matches!(next(&mut *follower).await, Err(FollowError::Foreign)));
    assert_eq!(store.status().position.epoch, second.status().position.epoch);
    assert_eq!(latest(&*store).await, latest(&*second).await);
    done(&*store, commit([put(2, 2)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_raised_together_or_not_at_all() {
    let now = options(shared().await);
    let future = EtcdOptions { schema: 2, ..now.clone() };
    let (old, new) = (open(&now).await, open(&future).await);
    until("both", async || new.members().borrow().live.len() == 2).await;
    let own = old.members().borrow().own.clone();
    let refused = new.migrate().await;
    assert!(
        matches!(&refused, Err(MigrateError::Unsupported { member, supports: 1, .. }) if **member == *own),
        "{refused:?}"
    );
    let nothing = old.migrate().await.unwrap();
    assert_eq!((nothing.from, nothing.to), (1, 1));
    old.close().await;
    until("one", async || new.members().borrow().live.len() == 1).await;
    let migrated = new.migrate().await.unwrap();
    assert_eq!((migrated.from, migrated.to, new.status().schema), (1, 2, 2));
    let error = EtcdStore::open(now).await.unwrap_err();
    assert!(matches!(error, OpenError::SchemaTooNew { found: 2, supported: 1, .. }), "{error}");
    assert!(!error.passes());
}

/// One that was away while the others raised the schema.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_finds_a_schema_too_new_ends() {
    let options = options(shared().await);
    let store = open(&options).await;
    done(&*store, commit([put(1, 1)])).await;
    let mut follower = store.follow(store.status().position).unwrap();
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    etcd.put(format!("{}/v1/meta/schema", options.prefix), "2", None).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Err(error) = follower.next().await {
                return error;
            }
        }
    });
    assert!(matches!(ended.await.unwrap(), FollowError::Closed));
    let refused = store.commit(commit([put(1, 2)])).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");
    store.close().await;
}

/// What is written to the key of the schema by mistake stops the following, loudly, until it is put right.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_no_number_is_waited_out() {
    let options = options(shared().await);
    let store = open(&options).await;
    let key = format!("{}/v1/meta/schema", options.prefix);
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    etcd.put(key.as_str(), "nonsense", None).await.unwrap();
    until("out of touch", async || store.status().out_of_touch.is_some()).await;
    etcd.put(key.as_str(), "1", None).await.unwrap();
    until("in touch", async || store.status().out_of_touch.is_none()).await;
    done(&*store, commit([put(1, 1)])).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go() {
    let mut options = options(shared().await);
    options.url = Some("https://a:1".to_owned());
    let first = open(&options).await;
    until("its place", async || first.members().borrow().in_touch && first.members().borrow().live.len() == 1).await;
    let second = open(&options).await;
    until("both", async || first.members().borrow().live.len() == 2 && second.members().borrow().live.len() == 2).await;
    assert_eq!(first.members().borrow().secret, second.members().borrow().secret);
    assert!(!first.members().borrow().secret.0.is_empty());
    assert_eq!(first.members().borrow().live[0].url.as_deref(), Some("https://a:1"));
    second.close().await;
    until("one", async || first.members().borrow().live.len() == 1).await;
    // A lease that is lost is taken anew.
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    let own = format!("{}/v1/replicas/{}", options.prefix, first.members().borrow().own);
    let again = async |before| {
        until("another place", async || {
            let now = Arc::clone(&first.members().borrow());
            now.fence != before && now.live.len() == 1 && now.in_touch
        })
        .await;
    };
    let before = first.members().borrow().fence;
    let lease = etcd.get(own.as_str(), None).await.unwrap().kvs()[0].lease();
    etcd.lease_revoke(lease).await.unwrap();
    again(before).await;
    // And so is a place whose key somebody removes, or overwrites, while its lease goes on.
    let before = first.members().borrow().fence;
    etcd.delete(own.as_str(), None).await.unwrap();
    again(before).await;
    let before = first.members().borrow().fence;
    etcd.put(own.as_str(), "nonsense", None).await.unwrap();
    again(before).await;
    first.close().await;
    let left = etcd.get(options.prefix.clone() + "/writes/", Some(etcd_client::GetOptions::new().with_prefix())).await;
    assert!(left.unwrap().kvs().is_empty(), "slots are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_longer_the_home_writes_as_none() {
    let options = options(shared().await);
    let first = open(&options).await;
    let (view, fenced) = (first.members(), |fence, n| Commit { fence: Some(fence), ..commit([put(1, n)]) });
    let refused = |outcome: &Result<_, _>| matches!(outcome, Err(CommitError::Fenced));
    until("its place", async || view.borrow().live.len() == 1 && view.borrow().in_touch).await;
    let alone = view.borrow().fence;
    assert!(done(&*first, fenced(alone, 1)).await.changed);
    assert!(!done(&*first, fenced(alone, 1)).await.changed, "what changes nothing is fenced as well");
    // What was decided by a view from before a join does not count, whether it would write or only verify.
    let second = open(&options).await;
    until("both", async || view.borrow().live.len() == 2).await;
    let both = view.borrow().fence;
    for n in [1, 2] {
        let outcome = first.commit(fenced(alone, n)).await;
        assert!(refused(&outcome), "{outcome:?}");
    }
    assert!(!done(&*first, fenced(both, 1)).await.changed, "nothing was changed before");
    // Nor does another replica's view count here.
    until("its place", async || second.members().borrow().in_touch).await;
    let outcome = first.commit(fenced(second.members().borrow().fence, 2)).await;
    assert!(refused(&outcome), "{outcome:?}");
    // Who leaves takes nothing away.
    second.close().await;
    assert!(done(&*first, fenced(both, 2)).await.changed);
    // A replica that was stopped for longer than its lease, and decides by what it knew before.
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    let own = format!("{}/v1/replicas/{}", options.prefix, view.borrow().own);
    let lease = etcd.get(own, None).await.unwrap().kvs()[0].lease();
    etcd.lease_revoke(lease).await.unwrap();
    let outcome = first.commit(fenced(both, 3)).await;
    assert!(refused(&outcome), "{outcome:?}");
    // It takes another place, which does not make good what was decided in the one before.
    until("another place", async || view.borrow().live.len() == 1 && view.borrow().fence != both).await;
    let outcome = first.commit(fenced(both, 3)).await;
    assert!(refused(&outcome), "{outcome:?}");
    let again = view.borrow().fence;
    assert!(done(&*first, fenced(again, 3)).await.changed);
    // A join that this replica can't know of yet, in a commit with conditions that hold.
    etcd.put(format!("{}/v1/meta/joins", options.prefix), "somebody", None).await.unwrap();
    let outcome = first.commit(Commit { conditions: vec![expect(1, Expect::Present)], ..fenced(again, 4) }).await;
    assert!(refused(&outcome), "{outcome:?}");
    // Users' writes need no place.
    assert!(done(&*first, commit([put(1, 4)])).await.changed);
    first.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_passwords() {
    let cluster = EtcdCluster::start(Setup { tls: true, auth: true, ..Setup::default() }).await;
    let files = cluster.certificates().clone();
    let mut good = options(cluster.endpoints());
    good.open_timeout = Duration::from_secs(20);
    (good.ca, good.cert, good.key) = (Some(files.ca), Some(files.cert), Some(files.key));
    (good.user, good.password) = (Some("fingerpost".to_owned()), Some(Password(PASSWORD.to_owned())));
    assert!(!format!("{good:?}").contains(PASSWORD));
    let store = open(&good).await;
    done(&*store, commit([put(1, 1)])).await;
    assert_eq!(latest(&*store).await.len(), 1);
    until("its place", async || store.members().borrow().in_touch).await;
    store.close().await;

    let refused = async |options: EtcdOptions| {
        let begun = std::time::Instant::now();
        let error = EtcdStore::open(options).await.unwrap_err();
        assert!(!error.passes() && begun.elapsed() < Duration::from_secs(15), "{error}");
        assert!(!error.to_string().contains(PASSWORD));
        error
    };
    let error = refused(EtcdOptions { ca: Some(files.other_ca.clone()), ..good.clone() }).await;
    assert!(matches!(error, OpenError::Certificates { .. }), "{error}");
    let other = (Some(files.other_cert.clone()), Some(files.other_key.clone()));
    let error = refused(EtcdOptions { cert: other.0, key: other.1, ..good.clone() }).await;
    assert!(matches!(error, OpenError::Certificates { .. }), "{error}");
    let error = refused(EtcdOptions { password: Some(Password("wrong".to_owned())), ..good.clone() }).await;
    assert!(matches!(error, OpenError::Denied { .. }), "{error}");
    let error = refused(EtcdOptions { user: None, password: None, ..good.clone() }).await;
    assert!(matches!(error, OpenError::Denied { .. }), "{error}");
    let error = refused(EtcdOptions { prefix: "/elsewhere".to_owned(), ..good.clone() }).await;
    assert!(matches!(error, OpenError::Denied { .. }), "{error}");
    let missing = EtcdOptions { ca: Some("/no/such/file".into()), ..good.clone() };
    assert!(refused(missing).await.to_string().contains("/no/such/file"));
    for prefix in ["fingerpost", "/a/", "/"] {
        refused(EtcdOptions { prefix: prefix.to_owned(), ..good.clone() }).await;
    }
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let mut options = options(vec!["http://127.0.0.1:1".to_owned()]);
    options.open_timeout = Duration::from_millis(300);
    let error = EtcdStore::open(options).await.unwrap_err();
    assert!(error.passes() && error.to_string().contains("http://127.0.0.1:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_and_recovers() {
    let cluster = EtcdCluster::start(Setup { quota_bytes: Some(16 << 20), ..Setup::default() }).await;
    let store = open(&options(cluster.endpoints())).await;
    done(&*store, commit([put(1, 1)])).await;
    let mut etcd = cluster.client().await;
    let filler = vec![b'x'; 1 << 20];
    let mut n = 0;
    while etcd.put(format!("/filler/{n}"), filler.clone(), None).await.is_ok() {
        n += 1;
    }
    let outcome = store.commit(commit([put(1, 2)])).await;
    assert!(matches!(outcome, Err(CommitError::Full)), "{outcome:?}");
    assert!(store.status().write_error.is_some());
    assert!(store.status().out_of_touch.is_none(), "reads go on");
    assert_eq!(weight(&contents(&*store).await.1[&key(1).to_string()].0), 1);
    etcd.delete("/filler/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    let revision = etcd.get("x", None).await.unwrap().header().unwrap().revision();
    let physical = etcd_client::CompactionOptions::new().with_physical();
    etcd.compact(revision, Some(physical)).await.unwrap();
    cluster.etcdctl(&["defrag"]);
    cluster.etcdctl(&["alarm", "disarm"]);
    until("room", async || store.status().write_error.is_none()).await;
    done(&*store, commit([put(1, 2)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_leaders_end_loses_no_acknowledged_write() {
    let mut cluster = EtcdCluster::three().await;
    let options = options(cluster.endpoints());
    let stores = [open(&options).await, open(&options).await];
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..16u64)
        .map(|n| {
            let (store, stop) = (Arc::clone(&stores[n as usize % 2]), Arc::clone(&stop));
            tokio::spawn(async move {
                // Each writes records of its own, one after the other.
                let (mut done, mut open, mut next) = (Vec::new(), Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let number = n * 100_000 + next;
                    match store.commit(commit([put(number, next)])).await {
                        Ok(_) => done.push(number),
                        Err(CommitError::Unavailable(_)) => {}
                        Err(CommitError::Unknown(_)) => open.push(number),
                        Err(error) => panic!("{error}"),
                    }
                    next += 1;
                }
                (done, open, next)
            })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.restart(leader);
        cluster.healthy().await;
    }
    let probe = || async { stores[0].commit(commit([put(9_999_999, 1)])).await.is_ok() };
    until("writes", async || probe().await).await;
    stop.store(true, Ordering::Relaxed);
    let mut results = Vec::new();
    for writer in writers {
        results.push(writer.await.unwrap());
    }
    let fresh = open(&options).await;
    let state = contents(&*fresh).await.1;
    let mut acknowledged = 0;
    for (n, (done, open, next)) in results.into_iter().enumerate() {
        acknowledged += done.len();
        for number in (0..next).map(|next| n as u64 * 100_000 + next) {
            let there = state.contains_key(&key(number).to_string());
            assert!(!done.contains(&number) || there, "{number} was acknowledged and is lost");
            assert!(done.contains(&number) || open.contains(&number) || !there, "{number} was refused and is there");
        }
    }
    assert!(acknowledged > 200, "{acknowledged}");
    for store in &stores {
        until("the same", async || latest(&**store).await == state).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_between_changes_are_reached_everywhere() {
    let mut options = options(shared().await);
    options.progress = Duration::from_millis(100);
    let (first, second) = (open(&options).await, open(&options).await);
    done(&*first, commit([put(1, 1)])).await;
    // Somebody else writes into etcd, and a replica reads at the position that makes.
    let mut etcd = etcd_client::Client::connect(shared().await, None).await.unwrap();
    etcd.put("/elsewhere", "1", None).await.unwrap();
    let position: Position = first.read_all(ReadAt::Latest).await.unwrap().position;
    assert!(first.follow(position).is_ok());
    until("the other", async || second.status().position.includes(&position)).await;
}
