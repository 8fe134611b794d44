//! The embedded store against a model: a map, and the list of what changed it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_suite;

use fingerpost_catalog::Position;
use fingerpost_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use fingerpost_registry::store::{Commit, CommitError, Durability, Expect, FollowError, Operation, Store};
use proptest::prelude::*;
use store_suite::*;

const KEYS: u64 = 12;

#[derive(Clone, Debug)]
enum Act {
    Commit { operations: Vec<(u64, Option<u64>)>, conditions: Vec<(u64, u8)>, relaxed: bool },
    Reopen,
    Compact(u64),
    Renew,
    Read,
}

fn act() -> impl Strategy<Value = Act> {
    let operation = (0..KEYS, proptest::option::weighted(0.7, 0u64..4));
    let condition = (0..KEYS, 0u8..4);
    let operations = proptest::collection::vec(operation, 0..6).prop_map(|mut operations| {
        operations.sort_unstable();
        operations.dedup_by_key(|(key, _)| *key);
        operations
    });
    let commit = (operations, proptest::collection::vec(condition, 0..2), proptest::bool::weighted(0.2))
        .prop_map(|(operations, conditions, relaxed)| Act::Commit { operations, conditions, relaxed });
    prop_oneof![
        40 => commit,
        2 => Just(Act::Reopen),
        1 => (0u64..40).prop_map(Act::Compact),
        1 => Just(Act::Renew),
        2 => Just(Act::Read),
    ]
}

/// What the store should be.
#[derive(Default)]
struct Model {
    state: State,
    /// The state at every position of this epoch, from the first on.
    past: Vec<(u64, State)>,
}

impl Model {
    fn holds(&self, key: u64, kind: u8) -> (Expect, bool) {
        let actual = self.state.get(&store_suite::key(key).to_string()).map(|(_, revision)| *revision);
        match kind {
            0 => (Expect::Absent, actual.is_none()),
            1 => (Expect::Present, actual.is_some()),
            // The right number, where there is one.
            2 => (Expect::At(actual.unwrap_or(1)), actual.is_some()),
            _ => (Expect::At(u64::MAX), false),
        }
    }
}

async fn run(acts: Vec<Act>, checkpoint_bytes: u64, retain_changes: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = EmbeddedOptions::new(dir.path().join("data"));
    options.checkpoint_bytes = checkpoint_bytes;
    options.retain_changes = retain_changes;
    let mut store = EmbeddedStore::open(options.clone()).unwrap();
    let mut model = Model::default();
    let mut position = store.status().position;
    model.past.push((position.number, State::new()));
    for act in acts {
        match act {
            Act::Commit { operations, conditions, relaxed } => {
                let mut holds = true;
                let conditions = conditions
                    .into_iter()
                    .map(|(key, kind)| {
                        let (expected, holding) = model.holds(key, kind);
                        holds &= holding;
                        expect(key, expected)
                    })
                    .collect();
                let durability = if relaxed { Durability::Relaxed } else { Durability::Durable };
                let asked: Vec<Operation> = operations
                    .iter()
                    .map(|&(key, weight)| weight.map_or_else(|| delete(key), |weight| put(key, weight)))
                    .collect();
                let outcome = store.commit(Commit { operations: asked, conditions, durability, fence: None }).await;
                if !holds {
                    assert!(matches!(outcome, Err(CommitError::Condition { .. })), "{outcome:?}");
                    continue;
                }
                let committed = outcome.unwrap();
                let mut after = model.state.clone();
                for (key, weight) in operations {
                    let text = store_suite::key(key).to_string();
                    let Some(weight) = weight else {
                        after.remove(&text);
                        continue;
                    };
                    let record = (*value(weight)).clone();
                    if after.get(&text).is_none_or(|(before, _)| *before != record) {
                        after.insert(text, (record, position.number + 1));
                    }
                }
                assert_eq!(committed.changed, after != model.state);
                if committed.changed {
                    position = Position::new(position.epoch, position.number + 1);
                    model.state = after;
                    model.past.push((position.number, model.state.clone()));
                }
                assert_eq!(committed.position, position);
            }
            Act::Reopen => {
                store.close().await;
                drop(store);
                store = EmbeddedStore::open(options.clone()).unwrap();
                assert_eq!(store.status().position, position);
            }
            Act::Compact(behind) => {
                let up_to = Position::new(position.epoch, position.number.saturating_sub(behind));
                store.compact(up_to).await.unwrap();
            }
            Act::Renew => {
                position = Position::new(store.renew_epoch().await.unwrap(), position.number);
                model.past = vec![(position.number, model.state.clone())];
            }
            Act::Read => {
                assert_eq!(latest(&*store).await, model.state);
                // And what it says of the past is what was.
                let (at, state) = contents(&*store).await;
                assert_eq!(at.epoch, position.epoch);
                if let Some((_, then)) = model.past.iter().find(|(number, _)| *number == at.number) {
                    assert_eq!(state, *then, "at {at}");
                }
                for (number, then) in &model.past {
                    match store.follow(Position::new(position.epoch, *number)) {
                        Ok(mut follower) => {
                            let mut state = then.clone();
                            while let Some(set) = follower.try_next().unwrap() {
                                apply(&mut state, &set);
                            }
                            assert_eq!(state, model.state, "from {number}");
                        }
                        Err(error) => assert!(matches!(error, FollowError::Compacted), "{error}"),
                    }
                }
            }
        }
    }
    assert_eq!(latest(&*store).await, model.state);
    assert_eq!(store.status().records, model.state.len() as u64);
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn it_is_its_model(
        acts in proptest::collection::vec(act(), 1..120),
        checkpoint_bytes in prop_oneof![Just(200u64), Just(1_500), Just(1 << 20)],
        retain_changes in prop_oneof![Just(0u64), Just(5), Just(1_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts, checkpoint_bytes, retain_changes));
    }
}
