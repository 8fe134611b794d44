//! The suite over the embedded store, once as it comes and once with every threshold tiny, and what only it can do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_suite;

use fingerpost_registry::store::embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
use fingerpost_registry::store::{FollowError, Store};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::path::Path;
use std::sync::Arc;
use store_suite::*;
use tempfile::TempDir;

struct Embedded {
    store: Option<Arc<EmbeddedStore>>,
    options: EmbeddedOptions,
    _dir: TempDir,
}

impl Embedded {
    fn new(adapt: impl Fn(&mut EmbeddedOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = EmbeddedOptions::new(dir.path().join("data"));
        adapt(&mut options);
        let store = EmbeddedStore::open(options.clone()).unwrap();
        Self { store: Some(store), options, _dir: dir }
    }
}

impl Harness for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    fn reopen(&mut self) -> BoxFuture<'_, ()> {
        async move {
            self.store.take().unwrap().close().await;
            self.store = Some(EmbeddedStore::open(self.options.clone()).unwrap());
        }
        .boxed()
    }

    fn knows_relaxed(&self) -> bool {
        true
    }
}

/// Bases all the time, and rows swept away as soon as they may.
fn tiny(options: &mut EmbeddedOptions) {
    options.checkpoint_bytes = 2000;
    options.retain_changes = 70;
    options.relaxed_bytes = 500;
    options.queue = 8;
}

mod as_it_comes {
    use super::*;
    store_suite!(Embedded::new(|_| ()));
}

mod with_tiny_thresholds {
    use super::*;
    store_suite!(Embedded::new(tiny));
}

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions::new(dir.join("data"))
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_by_whom() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    let OpenError::Locked { holder, .. } = &error else { panic!("{error}") };
    assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    store.close().await;
    EmbeddedStore::open(options(dir.path())).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _store = EmbeddedStore::open(options(dir.path())).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("data")), 0o700);
    assert_eq!(mode(&dir.path().join("data/store.redb")), 0o600);
}

#[tokio::test]
async fn a_restored_backup_begins_another_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data/store.redb");
    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    done(&*store, commit([put(1, 1)])).await;
    store.close().await;
    std::fs::copy(&file, dir.path().join("backup")).unwrap();

    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    let lost = done(&*store, commit([put(2, 2)])).await.position;
    store.close().await;

    std::fs::copy(dir.path().join("backup"), &file).unwrap();
    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    assert_ne!(store.status().position.epoch, lost.epoch);
    assert!(matches!(store.follow(lost), Err(FollowError::Foreign)));
    assert_eq!(latest(&*store).await.len(), 1);
    let epoch = store.status().position.epoch;
    store.close().await;
    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    assert_eq!(store.status().position.epoch, epoch, "only once");
}

#[tokio::test]
async fn renewing_makes_every_position_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    let old = done(&*store, commit([put(1, 1)])).await.position;
    let mut follower = store.follow(old).unwrap();
    let epoch = store.renew_epoch().await.unwrap();
    assert_ne!(epoch, old.epoch);
    assert!(matches!(follower.next().await, Err(FollowError::Foreign)));
    let made = done(&*store, commit([put(2, 2)])).await.position;
    assert_eq!((made.epoch, made.number), (epoch, old.number + 1));
    store.close().await;
    let store = EmbeddedStore::open(options(dir.path())).unwrap();
    assert_eq!(store.status().position, made);
    assert_eq!(latest(&*store).await.len(), 2);
}

#[tokio::test]
async fn a_slow_follower_is_told_so() {
    let harness = Embedded::new(|options| options.history_changes = 10);
    let store = harness.store();
    let mut follower = store.follow(store.status().position).unwrap();
    for n in 0..11 {
        done(&*store, commit([put(n, n)])).await;
    }
    assert!(matches!(follower.next().await, Err(FollowError::Compacted)));
    assert_eq!(store.status().position.number - store.status().oldest, 10);
    assert_eq!(latest(&*store).await.len(), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bases_keep_the_file_small() {
    let mut harness = Embedded::new(|options| {
        options.checkpoint_bytes = 64 << 10;
        options.retain_changes = 10;
    });
    let store = harness.store();
    for round in 0..100u64 {
        for part in 0..4 {
            let one = commit((0..100).map(|n| put(part * 100 + n, round)));
            done(&*store, one).await;
        }
    }
    // 40,000 writes of some 100 bytes each, on 400 records.
    let bytes = store.status().disk_bytes.unwrap();
    assert!(bytes < 3 << 20, "{bytes} bytes");
    let expected = latest(&*store).await;
    assert_eq!(expected.len(), 400);
    drop(store);
    harness.reopen().await;
    assert_eq!(latest(&*harness.store()).await, expected);
}

const LOG: redb::TableDefinition<'static, u64, &'static [u8]> = redb::TableDefinition::new("log");
const BASE: redb::TableDefinition<'static, (u32, u32), &'static [u8]> = redb::TableDefinition::new("base");
const META: redb::TableDefinition<'static, &'static str, u64> = redb::TableDefinition::new("meta");

/// Changes the database behind the store's back.
fn tamper(dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = redb::Database::open(dir.join("data/store.redb")).unwrap();
    let transaction = db.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

async fn three_commits(dir: &Path) {
    let store = EmbeddedStore::open(options(dir)).unwrap();
    for n in 0..3 {
        done(&*store, commit([put(n, n)])).await;
    }
    store.close().await;
}

#[tokio::test]
async fn records_of_an_unknown_kind_survive() {
    let dir = tempfile::tempdir().unwrap();
    three_commits(dir.path()).await;
    // One commit with one put, as a newer version might write it.
    let (key, value) = (b"gateways/prod/front/api", b"{\"from\":\"the future\"}");
    let mut row = vec![1, 1, 0, 0, 0, 1, 0, 1, key.len() as u8, 0];
    row.extend_from_slice(key);
    row.extend_from_slice(&[value.len() as u8, 0, 0, 0]);
    row.extend_from_slice(value);
    tamper(dir.path(), |transaction| {
        transaction.open_table(LOG).unwrap().insert(4, row.as_slice()).unwrap();
    });

    let mut options = options(dir.path());
    tiny(&mut options);
    let store = EmbeddedStore::open(options).unwrap();
    assert_eq!((store.status().position.number, store.status().records), (4, 4));
    assert_eq!(latest(&*store).await.len(), 3, "not served");
    let mut follower = store.follow(fingerpost_catalog::Position::new(store.status().position.epoch, 3)).unwrap();
    assert!(next_set(&mut *follower).await.unwrap().changes.is_empty());
    for n in 0..1_000 {
        done(&*store, commit([put(n % 5, n)])).await;
    }
    store.close().await;
    drop((store, follower));
    let mut found = false;
    tamper(dir.path(), |transaction| {
        let log = transaction.open_table(LOG).unwrap();
        assert!(redb::ReadableTable::first(&log).unwrap().unwrap().0.value() > 4, "a base has taken over");
        let base = transaction.open_table(BASE).unwrap();
        for chunk in redb::ReadableTable::iter(&base).unwrap() {
            let (_, chunk) = chunk.unwrap();
            found |= chunk.value().windows(value.len()).any(|bytes| bytes == value);
        }
    });
    assert!(found);
}

#[tokio::test]
async fn damaged_rows_are_named() {
    let dir = tempfile::tempdir().unwrap();
    three_commits(dir.path()).await;
    tamper(dir.path(), |transaction| {
        transaction.open_table(LOG).unwrap().insert(2, [1, 1, 0, 0, 0, 9].as_slice()).unwrap();
    });
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("row 2 of table `log`"), "{error}");
    tamper(dir.path(), |transaction| {
        transaction.open_table(LOG).unwrap().remove(2).unwrap();
    });
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(error.to_string().contains("commit 2 is missing"), "{error}");
}

#[tokio::test]
async fn data_of_a_newer_version_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    three_commits(dir.path()).await;
    tamper(dir.path(), |transaction| {
        transaction.open_table(META).unwrap().insert("schema", 2).unwrap();
    });
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::SchemaTooNew { found: 2, supported: 1, .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/store.redb"), vec![7; 10_000]).unwrap();
    let error = EmbeddedStore::open(options(dir.path())).unwrap_err();
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
}
