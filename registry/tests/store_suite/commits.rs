//! What commits do.

use super::*;
use fingerpost_registry::store::MAX_OPERATIONS;

pub async fn reads_what_was_committed<H: Harness>(harness: H) {
    let store = harness.store();
    assert!(contents(&*store).await.1.is_empty());
    let first = done(&*store, commit((0..50).map(|n| put(n, n)))).await;
    let second = done(&*store, commit([put(3, 1000), delete(4), put(50, 50)])).await;
    assert!(first.changed && second.changed);
    let state = latest(&*store).await;
    assert_eq!(state.len(), 50);
    assert_eq!(store.status().records, 50);
    assert_eq!(weight(&state[&key(3).to_string()].0), 1000);
    assert_eq!(state[&key(3).to_string()].1, second.position.number);
    assert_eq!(state[&key(5).to_string()].1, first.position.number);
    assert!(!state.contains_key(&key(4).to_string()));
}

pub async fn conditions_hold_or_nothing_happens<H: Harness>(harness: H) {
    let store = harness.store();
    let with =
        |operations: Vec<Operation>, conditions: Vec<Condition>| Commit { operations, conditions, ..Commit::default() };
    let made = done(&*store, with(vec![put(1, 1)], vec![expect(1, Expect::Absent)])).await;
    let number = made.position.number;

    let outcome = store.commit(with(vec![put(1, 2)], vec![expect(1, Expect::Absent)])).await;
    assert!(matches!(outcome, Err(CommitError::Condition { actual: Some(at), .. }) if at == number), "{outcome:?}");
    let outcome = store.commit(with(vec![put(1, 2)], vec![expect(1, Expect::At(number + 1))])).await;
    assert!(matches!(outcome, Err(CommitError::Condition { actual: Some(at), .. }) if at == number), "{outcome:?}");
    let outcome = store.commit(with(vec![put(2, 2)], vec![expect(3, Expect::Present)])).await;
    assert!(matches!(outcome, Err(CommitError::Condition { actual: None, .. })), "{outcome:?}");
    // One of two does not hold.
    let both = vec![expect(1, Expect::Present), expect(2, Expect::Present)];
    assert!(is_condition(&store.commit(with(vec![put(1, 9), put(5, 9)], both)).await));
    assert_eq!(latest(&*store).await.len(), 1);

    // A condition on a record that the commit leaves alone, and one without operations.
    done(&*store, with(vec![put(2, 2)], vec![expect(1, Expect::At(number))])).await;
    let nothing = done(&*store, with(Vec::new(), vec![expect(2, Expect::Present)])).await;
    assert!(!nothing.changed);
    done(&*store, with(vec![delete(1)], vec![expect(1, Expect::At(number))])).await;
    done(&*store, with(vec![put(1, 1)], vec![expect(1, Expect::Absent)])).await;
}

/// A batch of instances, each with a condition of its own and one on a session of its own.
pub async fn as_many_conditions_as_are_allowed<H: Harness>(harness: H) {
    let store = harness.store();
    let sessions = done(&*store, commit((100..200).map(|n| put(n, 1)))).await.position.number;
    let batch = |weight: u64, own: Expect, last: Expect| Commit {
        operations: (0..100).map(|n| put(n, weight)).collect(),
        conditions: (0..100)
            .map(|n| expect(n, own))
            .chain((100..199).map(|n| expect(n, Expect::At(sessions))))
            .chain([expect(199, last)])
            .collect(),
        ..Commit::default()
    };
    // One that does not hold refuses everything, wherever it stands; the others hold.
    for last in [Expect::Absent, Expect::At(sessions + 1)] {
        let outcome = store.commit(batch(1, Expect::Absent, last)).await;
        let refused = matches!(&outcome, Err(CommitError::Condition { key: of, actual: Some(at) })
            if *of == key(199) && *at == sessions);
        assert!(refused, "{outcome:?}");
    }
    let outcome = store.commit(batch(1, Expect::Present, Expect::Present)).await;
    assert!(matches!(&outcome, Err(CommitError::Condition { key: of, actual: None }) if *of == key(0)), "{outcome:?}");
    assert_eq!(latest(&*store).await.len(), 100);

    let made = done(&*store, batch(1, Expect::Absent, Expect::At(sessions))).await.position.number;
    assert_eq!(latest(&*store).await.len(), 200);
    // Beside others, and where nothing changes.
    let (again, other) = tokio::join!(
        store.commit(batch(2, Expect::At(made), Expect::At(sessions))),
        store.commit(commit([put(1000, 1)])),
    );
    assert!(again.unwrap().changed && other.unwrap().changed);
    done(&*store, batch(2, Expect::Present, Expect::Present)).await;
    let none = Commit { operations: Vec::new(), ..batch(2, Expect::Present, Expect::Present) };
    assert!(!done(&*store, none.clone()).await.changed);
    done(&*store, commit([delete(199)])).await;
    assert!(is_condition(&store.commit(none).await));
    assert!(is_condition(&store.commit(batch(3, Expect::Present, Expect::Present)).await));
    let mut conditions = batch(3, Expect::Present, Expect::Absent).conditions;
    conditions.push(expect(1000, Expect::Present));
    let outcome = store.commit(Commit { conditions, ..Commit::default() }).await;
    assert!(matches!(outcome, Err(CommitError::Malformed(_))), "{outcome:?}");
}

pub async fn increments_are_not_lost<H: Harness>(harness: H) {
    let store = harness.store();
    let mut last = done(&*store, commit([put(0, 0)])).await.position.number;
    assert!(last > 0);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            let (mut at, mut seen) = (last, 0);
            tokio::spawn(async move {
                let (mut won, mut lost) = (0, 0);
                while won < 20 {
                    let commit = Commit { conditions: vec![expect(0, Expect::At(at))], ..commit([put(0, seen + 1)]) };
                    match store.commit(commit).await {
                        Ok(committed) => {
                            (at, seen, won) = (committed.position.number, seen + 1, won + 1);
                        }
                        Err(CommitError::Condition { .. }) => {
                            lost += 1;
                            let state = latest(&*store).await;
                            let (record, revision) = &state[&key(0).to_string()];
                            (at, seen) = (*revision, weight(record));
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                lost
            })
        })
        .collect();
    let mut lost = 0;
    for task in tasks {
        lost += task.await.unwrap();
    }
    let state = latest(&*store).await;
    assert_eq!(weight(&state[&key(0).to_string()].0), 320);
    assert!(lost > 0, "there was no race");
    last += 320;
    assert!(store.status().position.number >= last);
}

pub async fn commits_are_whole<H: Harness>(harness: H) {
    // Every commit writes one weight to all of ten records: no state ever shows two.
    let store = harness.store();
    done(&*store, commit((0..10).map(|n| put(n, 0)))).await;
    let writers: Vec<_> = (1..=4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0..50 {
                    done(&*store, commit((0..10).map(|n| put(n, writer * 100 + round)))).await;
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let (_, state) = contents(&*store).await;
        let weights: std::collections::BTreeSet<u64> = state.values().map(|(record, _)| weight(record)).collect();
        assert_eq!((state.len(), weights.len()), (10, 1));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

pub async fn what_changes_nothing_makes_no_position<H: Harness>(harness: H) {
    let store = harness.store();
    let made = done(&*store, commit([put(1, 1), put(2, 2)])).await;
    let mut follower = store.follow(made.position).unwrap();
    for nothing in [commit([put(1, 1)]), commit([delete(7)]), commit([put(2, 2), put(1, 1), delete(8)]), commit([])] {
        let outcome = done(&*store, nothing).await;
        assert!(!outcome.changed);
        assert_eq!(outcome.position, made.position);
    }
    // Only what changes something is part of the commit.
    let some = done(&*store, commit([put(1, 1), put(2, 3), delete(9)])).await;
    assert!(some.changed && some.position.number > made.position.number);
    let set = next(&mut *follower).await.unwrap();
    assert_eq!(set.position, some.position);
    assert_eq!(set.changes.len(), 1);
    assert_eq!(set.changes[0].key, key(2));
    let state = latest(&*store).await;
    assert_eq!(state[&key(1).to_string()].1, made.position.number);
}

pub async fn positions_grow<H: Harness>(harness: H) {
    let store = harness.store();
    let mut before = store.status().position;
    for n in 0..30 {
        let committed = done(&*store, commit([put(n % 3, n)])).await;
        assert_eq!(committed.position.epoch, before.epoch);
        assert!(committed.position.number > before.number);
        assert!(store.status().position.includes(&committed.position));
        before = committed.position;
    }
}

pub async fn rules_of_form_are_enforced<H: Harness>(harness: H) {
    let store = harness.store();
    let full = MAX_OPERATIONS as u64;
    done(&*store, commit((0..full).map(|n| put(n, n)))).await;
    let wrong = Operation { key: "namespaces/prod/api".parse().unwrap(), action: Action::Put(value(1)) };
    for bad in [commit((0..=full).map(|n| put(n, n + 1))), commit([put(1, 8), delete(1)]), commit([wrong])] {
        let outcome = store.commit(bad).await;
        assert!(matches!(outcome, Err(CommitError::Malformed(_))), "{outcome:?}");
    }
    let state = latest(&*store).await;
    assert_eq!(state.len() as u64, full);
    assert_eq!(weight(&state[&key(1).to_string()].0), 1);
}

pub async fn deletes_and_recreates<H: Harness>(harness: H) {
    let store = harness.store();
    for round in 0..5 {
        done(&*store, commit((0..20).map(|n| put(n, round * 20 + n)))).await;
        done(&*store, commit((0..20).filter(|n| n % 2 == round % 2).map(delete))).await;
    }
    let state = latest(&*store).await;
    assert_eq!(state.len(), 10);
    assert_eq!(store.status().records, 10);
}

pub async fn reopening_keeps_everything<H: Harness>(mut harness: H) {
    let mut expected = State::new();
    let mut before: Option<Position> = None;
    for round in 0..6 {
        let store = harness.store();
        if let Some(before) = before {
            assert_eq!(store.status().position.epoch, before.epoch, "a clean end renews nothing");
            assert!(store.status().position.includes(&before));
        }
        assert_eq!(latest(&*store).await, expected);
        for n in 0..60 {
            let number = (round * 37 + n * 7) % 90;
            let operations =
                if n % 5 == 0 { vec![delete(number)] } else { vec![put(number, round * 1000 + n), put(200 + n, n)] };
            done(&*store, commit(operations)).await;
        }
        expected = latest(&*store).await;
        before = Some(store.status().position);
        drop(store);
        harness.reopen().await;
    }
    assert_eq!(latest(&*harness.store()).await, expected);
}
