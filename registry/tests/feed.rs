//! When the feed calls its replica ready, whatever the store forgets meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use fingerpost_catalog::{ChangeSet, Effects, Key, Position, Record, Replica};
use fingerpost_registry::live::{Feed, LiveReplica, Observer};
use fingerpost_registry::members::Members;
use fingerpost_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use fingerpost_registry::store::{
    Action, Commit, CommitError, Committed, Contents, FollowError, Follower, MigrateError, Migrated, Operation, ReadAt,
    Store, StoreError, StoreStatus,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn put(id: &str) -> Commit {
    let key: Key = format!("instances/prod/web/api/{id}").parse().unwrap();
    let record = Record::decode(&key, br#"{"addresses":["10.0.0.1"]}"#).unwrap();
    let operations = vec![Operation { key, action: Action::Put(Arc::new(record)) }];
    Commit { operations, ..Commit::default() }
}

/// A store that changes while it is read for the first time, and has then forgotten that change.
struct Forgetful {
    inner: Arc<EmbeddedStore>,
    first: AtomicBool,
}

/// A follower for which nothing is left.
struct Forgotten;

impl Follower for Forgotten {
    fn next(&mut self) -> BoxFuture<'_, Result<Arc<ChangeSet>, FollowError>> {
        async { Err(FollowError::Compacted) }.boxed()
    }

    fn try_next(&mut self) -> Result<Option<Arc<ChangeSet>>, FollowError> {
        Err(FollowError::Compacted)
    }
}

impl Store for Forgetful {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        self.inner.commit(commit)
    }

    fn read_all(&self, at: ReadAt) -> BoxFuture<'_, Result<Contents, StoreError>> {
        async move {
            let contents = self.inner.read_all(at).await?;
            if at == ReadAt::Oldest {
                self.inner.commit(put("later")).await.unwrap();
            }
            Ok(contents)
        }
        .boxed()
    }

    fn follow(&self, after: Position) -> Result<Box<dyn Follower>, FollowError> {
        match self.first.swap(false, Ordering::Relaxed) {
            true => Ok(Box::new(Forgotten)),
            false => self.inner.follow(after),
        }
    }

    fn compact(&self, up_to: Position) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(up_to)
    }

    fn status(&self) -> StoreStatus {
        self.inner.status()
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.inner.members()
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Migrated, MigrateError>> {
        self.inner.migrate()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

/// Notes the position at which it was told that all is there.
#[derive(Default)]
struct Ready(Mutex<Option<Position>>);

impl Observer for Ready {
    fn load(&self, _: &Replica) {}

    fn ready(&self, position: Position) {
        *self.0.lock() = Some(position);
    }

    fn apply(&self, _: &Effects, _: bool) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_state_is_never_called_ready() {
    let dir = tempfile::tempdir().unwrap();
    let inner = EmbeddedStore::open(EmbeddedOptions::new(dir.path())).unwrap();
    inner.commit(put("earlier")).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(Forgetful { inner, first: AtomicBool::new(true) });
    let (live, ready) = (LiveReplica::new("main"), Arc::new(Ready::default()));
    let stop = CancellationToken::new();
    let feed = Feed::new(Arc::clone(&store), Arc::clone(&live), vec![Arc::clone(&ready) as _]).run(stop.clone());
    let feed = tokio::spawn(feed);
    live.wait_loaded().await;
    assert_eq!(live.read().stats().instances, 2);
    assert_eq!(*ready.0.lock(), Some(store.status().position));
    stop.cancel();
    feed.await.unwrap().unwrap();
    store.close().await;
}
