//! Fault schedules, generated: whatever happens to the registry, what a subscriber sees is a state that the registry had,
//! never goes back, and in the end is the registry's.

use super::registry::{FakeRegistry, World};
use super::{subscriptions, watch};
use crate::endpoint::Endpoints;
use fingerpost_catalog::Position;
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, Option<u32>)>),
    Stop(usize),
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    Restore(u8),
    Compact,
    Cut(Option<usize>),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..6, proptest::option::weighted(0.7, 0u32..1000));
    prop_oneof![
        6 => proptest::collection::vec(change, 1..4).prop_map(Step::Commit),
        1 => (0usize..2).prop_map(Step::Stop),
        2 => (0usize..2).prop_map(Step::Start),
        1 => (0usize..2).prop_map(Step::Freeze),
        2 => (0usize..2).prop_map(Step::Thaw),
        1 => any::<u8>().prop_map(Step::Restore),
        1 => Just(Step::Compact),
        1 => proptest::option::of(0usize..12).prop_map(Step::Cut),
        5 => (0u16..4000).prop_map(Step::Wait),
    ]
}

fn world(endpoints: &Endpoints) -> World {
    let version = |labels: &std::collections::BTreeMap<String, String>| labels["version"].parse().unwrap();
    endpoints.iter().map(|endpoint| (endpoint.key().id().to_owned(), version(endpoint.labels()))).collect()
}

/// Judges every snapshot against what the registry had, and against the one before.
#[derive(Default)]
struct Judge {
    seen: Option<Position>,
}

impl Judge {
    fn judge(&mut self, registry: &FakeRegistry, snapshot: &Endpoints) {
        let Some(position) = snapshot.position() else {
            assert!(snapshot.is_empty());
            return;
        };
        if let Some(seen) = self.seen.replace(position) {
            assert!(position.epoch >= seen.epoch, "the epoch went back from {seen} to {position}");
            assert!(position.epoch > seen.epoch || position.number >= seen.number, "from {seen} back to {position}");
        }
        // Of an epoch that is over nothing is known any more.
        if let Some(had) = registry.world(position) {
            assert_eq!(world(snapshot), had, "at {position}");
        }
    }
}

fn perform(registry: &FakeRegistry, step: &Step) -> Duration {
    match step {
        Step::Commit(changes) => {
            let changes = changes.iter().map(|(id, version)| (char::from(b'a' + id).to_string(), *version));
            registry.commit_all(changes.collect());
        }
        Step::Stop(replica) => registry.stop(*replica),
        Step::Start(replica) => registry.start(*replica),
        Step::Freeze(replica) => registry.freeze(*replica),
        Step::Thaw(replica) => registry.thaw(*replica),
        Step::Restore(number) => registry.restore(u64::from(*number)),
        Step::Compact => registry.compact(),
        Step::Cut(pieces) => registry.cut_after(*pieces),
        Step::Wait(ms) => return Duration::from_millis(u64::from(*ms)),
    }
    Duration::ZERO
}

async fn run(steps: Vec<Step>) {
    let registry = FakeRegistry::new(2);
    let all = subscriptions(&registry, None);
    let web = watch(&all).keep_last(Duration::ZERO).subscribe().unwrap();
    let mut judge = Judge::default();
    for step in &steps {
        let wait = perform(&registry, step);
        let mut reader = web.clone();
        // Every snapshot on the way is judged, not only the one at the end of the wait.
        let _ = tokio::time::timeout(wait, async {
            loop {
                if let Ok(snapshot) = reader.changed().await {
                    judge.judge(&registry, &snapshot);
                }
            }
        })
        .await;
        judge.judge(&registry, &web.current());
    }
    registry.cut_after(None);
    for replica in 0..2 {
        registry.thaw(replica);
        registry.start(replica);
    }
    let newest = registry.newest();
    let mut reader = web.clone();
    let converged = tokio::time::timeout(Duration::from_secs(300), async {
        while world(&reader.current()) != newest {
            if let Ok(snapshot) = reader.changed().await {
                judge.judge(&registry, &snapshot);
            }
        }
    });
    assert!(converged.await.is_ok(), "shows {:?} and not {newest:?}", world(&web.current()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_view_is_a_state_that_was_and_converges(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}
