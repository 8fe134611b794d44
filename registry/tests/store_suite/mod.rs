//! What every back end must do, written against the `Store` trait alone. A back end joins with a [`Harness`] and
//! [`store_suite!`].
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod commits;
pub mod following;

use fingerpost_catalog::{ChangeSet, Epoch, Instance, Key, Position, Record};
use fingerpost_registry::store::{
    Action, Commit, CommitError, Committed, Condition, Durability, Expect, FollowError, Follower, Operation, ReadAt,
    Store,
};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A store to test, and what only its own kind can do with it.
pub trait Harness: Send {
    /// The store. It begins empty.
    fn store(&self) -> Arc<dyn Store>;
    /// Closes the store in good order and opens it again. Callers have let go of the old one.
    fn reopen(&mut self) -> BoxFuture<'_, ()>;
    /// Whether `Relaxed` means anything to it.
    fn knows_relaxed(&self) -> bool;
    /// Whether its numbers are its own: every commit makes the next one, and nothing else does. Otherwise commits may share a
    /// number, and a store that is opened again may stand at a later one than its last commit's.
    fn counts_alone(&self) -> bool {
        true
    }
    /// Whether what was compacted stays so when it is opened again.
    fn compacts_for_good(&self) -> bool {
        true
    }
}

/// Makes a test of every function of the suite.
#[macro_export]
macro_rules! store_suite {
    ($harness:expr) => {
        $crate::store_suite!(@ $harness, commits: reads_what_was_committed conditions_hold_or_nothing_happens
            as_many_conditions_as_are_allowed increments_are_not_lost commits_are_whole what_changes_nothing_makes_no_position positions_grow
            rules_of_form_are_enforced deletes_and_recreates reopening_keeps_everything);
        $crate::store_suite!(@ $harness, following: follows_from_what_was_read resumes_exactly
            every_change_is_told compaction_ends_old_followers foreign_positions_are_refused
            many_followers_see_the_same relaxed_commits_keep_their_order reads_are_consistent_under_writes
            dropped_waits_lose_nothing closing_ends_followers);
    };
    (@ $harness:expr, $module:ident: $($name:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            let work = store_suite::$module::$name($harness);
            tokio::time::timeout(std::time::Duration::from_secs(60), work).await.expect("it hangs");
        }
    )* };
}

pub fn key(number: u64) -> Key {
    format!("instances/prod/web/api/i-{number}").parse().unwrap()
}

pub fn value(weight: u64) -> Arc<Record> {
    let hostname = Some(format!("host-{weight}"));
    Arc::new(Record::Instance(Instance { weight: Some((weight % 60_000) as u16), hostname, ..Instance::default() }))
}

pub fn weight(record: &Record) -> u64 {
    match record {
        Record::Instance(instance) => u64::from(instance.weight.unwrap()),
        _ => panic!("not an instance"),
    }
}

pub fn put(number: u64, weight: u64) -> Operation {
    Operation { key: key(number), action: Action::Put(value(weight)) }
}

pub fn delete(number: u64) -> Operation {
    Operation { key: key(number), action: Action::Delete }
}

pub fn expect(number: u64, expect: Expect) -> Condition {
    Condition { key: key(number), expect }
}

pub fn commit(operations: impl IntoIterator<Item = Operation>) -> Commit {
    Commit { operations: operations.into_iter().collect(), ..Commit::default() }
}

pub fn relaxed(operations: impl IntoIterator<Item = Operation>) -> Commit {
    Commit { durability: Durability::Relaxed, ..commit(operations) }
}

/// Keys as text, with values and revisions.
pub type State = BTreeMap<String, (Record, u64)>;

/// Everything at the latest durable position.
pub async fn contents(store: &dyn Store) -> (Position, State) {
    contents_at(store, ReadAt::Latest).await
}

/// Everything that `read_all` gives.
pub async fn contents_at(store: &dyn Store, at: ReadAt) -> (Position, State) {
    let mut contents = store.read_all(at).await.unwrap();
    let mut state = State::new();
    while let Some(batch) = contents.records.recv().await {
        for stored in batch.unwrap() {
            let before = state.insert(stored.key.to_string(), (stored.record, stored.revision));
            assert!(before.is_none(), "{} came twice", stored.key);
        }
    }
    (contents.position, state)
}

pub fn apply(state: &mut State, set: &ChangeSet) {
    for change in &set.changes {
        let key = change.key.to_string();
        match &change.record {
            Some(record) => state.insert(key, ((**record).clone(), set.position.number)),
            None => state.remove(&key),
        };
    }
}

/// Everything at the latest position: what `read_all` gives and what follows on it.
pub async fn latest(store: &dyn Store) -> State {
    let target = store.status().position;
    loop {
        let (mut position, mut state) = contents_at(store, ReadAt::Oldest).await;
        let mut follower = match store.follow(position) {
            Ok(follower) => follower,
            Err(FollowError::Compacted) => continue,
            Err(error) => panic!("{error}"),
        };
        let mut compacted = false;
        while position.number < target.number {
            match next_set(&mut *follower).await {
                Ok(set) => {
                    apply(&mut state, &set);
                    position = set.position;
                }
                Err(FollowError::Compacted) => {
                    compacted = true;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if !compacted {
            return state;
        }
    }
}

/// The next change set, soon; one without changes only says how far the store is.
pub async fn next_set(follower: &mut dyn Follower) -> Result<Arc<ChangeSet>, FollowError> {
    tokio::time::timeout(Duration::from_secs(10), follower.next()).await.expect("nothing came")
}

/// The next change set with changes, soon.
pub async fn next(follower: &mut dyn Follower) -> Result<Arc<ChangeSet>, FollowError> {
    loop {
        let set = next_set(follower).await?;
        if !set.changes.is_empty() {
            return Ok(set);
        }
    }
}

/// Makes sure that there is no further change.
pub fn nothing_more(follower: &mut dyn Follower) {
    while let Some(set) = follower.try_next().unwrap() {
        assert!(set.changes.is_empty(), "{set:?}");
    }
}

pub async fn done(store: &dyn Store, commit: Commit) -> Committed {
    store.commit(commit).await.unwrap()
}

pub fn other_epoch(position: Position) -> Position {
    Position::new(Epoch(position.epoch.0 ^ 1), position.number)
}

pub fn is_condition(outcome: &Result<Committed, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Condition { .. }))
}
