//! What followers see.

use super::*;

pub async fn follows_from_what_was_read<H: Harness>(harness: H) {
    let store = harness.store();
    done(&*store, commit((0..10).map(|n| put(n, n)))).await;
    let (position, _) = contents(&*store).await;
    let mut follower = store.follow(position).unwrap();
    while follower.try_next().unwrap().is_some() {}
    let made = done(&*store, commit([put(3, 33), delete(4)])).await;
    let set = next(&mut *follower).await.unwrap();
    assert_eq!(set.position, made.position);
    let mut changed: Vec<String> = set.changes.iter().map(|change| change.key.to_string()).collect();
    changed.sort();
    assert_eq!(changed, [key(3).to_string(), key(4).to_string()]);
    nothing_more(&mut *follower);
}

pub async fn resumes_exactly<H: Harness>(mut harness: H) {
    let store = harness.store();
    let mut made = vec![store.status().position];
    for n in 0..20 {
        made.push(done(&*store, commit([put(n, n)])).await.position);
    }
    let check = async |store: &dyn Store| {
        for (place, from) in made.iter().enumerate() {
            let mut follower = store.follow(*from).unwrap();
            for expected in &made[place + 1..] {
                assert_eq!(next(&mut *follower).await.unwrap().position, *expected);
            }
            nothing_more(&mut *follower);
        }
    };
    check(&*store).await;
    drop(store);
    harness.reopen().await;
    check(&*harness.store()).await;
}

pub async fn every_change_is_told<H: Harness>(mut harness: H) {
    let store = harness.store();
    let start = store.status().position;
    done(&*store, commit([put(1, 1), put(2, 2)])).await;
    done(&*store, commit([put(1, 11), delete(2)])).await;
    done(&*store, commit([put(2, 22), delete(1)])).await;
    let check = async |store: &dyn Store| {
        let mut follower = store.follow(start).unwrap();
        let mut told = Vec::new();
        for _ in 0..3 {
            let set = next(&mut *follower).await.unwrap();
            let mut changes: Vec<_> = set.changes.iter().collect();
            changes.sort_by_key(|change| change.key.to_string());
            told.extend(changes.into_iter().map(|change| (change.key.clone(), change.record.as_deref().map(weight))));
        }
        assert_eq!(
            told,
            [
                (key(1), Some(1)),
                (key(2), Some(2)),
                (key(1), Some(11)),
                (key(2), None),
                (key(1), None),
                (key(2), Some(22))
            ]
        );
    };
    check(&*store).await;
    drop(store);
    harness.reopen().await;
    check(&*harness.store()).await;
}

pub async fn compaction_ends_old_followers<H: Harness>(mut harness: H) {
    let store = harness.store();
    let start = store.status().position;
    let mut made = Vec::new();
    for n in 0..10 {
        made.push(done(&*store, commit([put(n, n)])).await.position);
    }
    let mut slow = store.follow(start).unwrap();
    store.compact(made[4]).await.unwrap();
    assert!(matches!(slow.try_next(), Err(FollowError::Compacted)));
    assert!(matches!(slow.next().await, Err(FollowError::Compacted)));
    assert!(matches!(store.follow(made[3]), Err(FollowError::Compacted)));
    let mut follower = store.follow(made[4]).unwrap();
    assert_eq!(next(&mut *follower).await.unwrap().position, made[5]);
    assert_eq!(latest(&*store).await.len(), 10);
    drop((store, slow, follower));
    harness.reopen().await;
    let store = harness.store();
    if harness.compacts_for_good() {
        assert!(matches!(store.follow(made[3]), Err(FollowError::Compacted)));
    }
    assert_eq!(latest(&*store).await.len(), 10);
}

pub async fn foreign_positions_are_refused<H: Harness>(harness: H) {
    let store = harness.store();
    let made = done(&*store, commit([put(1, 1)])).await.position;
    assert!(matches!(store.follow(other_epoch(made)), Err(FollowError::Foreign)));
    let ahead = Position::new(made.epoch, made.number + 1_000_000);
    assert!(matches!(store.follow(ahead), Err(FollowError::Foreign)));
    assert!(store.follow(made).is_ok());
}

pub async fn many_followers_see_the_same<H: Harness>(harness: H) {
    let store = harness.store();
    let start = store.status().position;
    let followers: Vec<_> = (0..8)
        .map(|_| {
            let mut follower = store.follow(start).unwrap();
            tokio::spawn(async move {
                let (mut seen, mut changes) = (Vec::new(), 0);
                while changes < 200 {
                    let set = next(&mut *follower).await.unwrap();
                    changes += set.changes.len();
                    seen.push(set);
                }
                assert_eq!(changes, 200);
                seen
            })
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..50 {
                    let made = done(&*store, commit([put(writer * 100 + n, n)])).await;
                    // Published before the reply.
                    assert!(store.status().position.includes(&made.position));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut seen = Vec::new();
    for follower in followers {
        seen.push(follower.await.unwrap());
    }
    assert!(seen[0].windows(2).all(|pair| pair[0].position.number < pair[1].position.number));
    assert!(seen.iter().all(|one| *one == seen[0]));
}

pub async fn relaxed_commits_keep_their_order<H: Harness>(mut harness: H) {
    let store = harness.store();
    let start = store.status().position;
    let mut follower = store.follow(start).unwrap();
    let mut made = Vec::new();
    for n in 0..60 {
        let operations = [put(n % 7, n)];
        let one = if n % 4 == 0 { commit(operations) } else { relaxed(operations) };
        made.push(done(&*store, one).await.position);
    }
    for expected in &made {
        assert_eq!(next(&mut *follower).await.unwrap().position, *expected);
    }
    let state = latest(&*store).await;
    assert_eq!(weight(&state[&key(59 % 7).to_string()].0), 59);
    drop((store, follower));
    harness.reopen().await;
    let store = harness.store();
    let position = store.status().position;
    assert!(position.includes(&made[59]), "a clean end persists all and renews nothing");
    assert!(position == made[59] || !harness.counts_alone());
    assert_eq!(latest(&*store).await, state);
}

pub async fn reads_are_consistent_under_writes<H: Harness>(harness: H) {
    let store = harness.store();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let at = writer * 1000 + n * 13 % 300;
                    let one = if n % 3 == 0 { commit([delete(at)]) } else { commit([put(at, n), put(at + 1, n)]) };
                    done(&*store, one).await;
                    n += 1;
                }
            })
        })
        .collect();
    let mut all = store.follow(store.status().position).map(|follower| (follower, State::new()));
    let mut reads = Vec::new();
    for _ in 0..10 {
        reads.push(contents(&*store).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    // What was read at each position, brought up to date by following from there, is what is there in the end.
    let end = store.status().position;
    let expected = latest(&*store).await;
    let mut compared = 0;
    for (position, mut state) in reads {
        let Ok(mut follower) = store.follow(position) else {
            continue;
        };
        while let Some(set) = follower.try_next().unwrap() {
            apply(&mut state, &set);
        }
        assert_eq!(state, expected, "read at {position}, followed to {end}");
        compared += 1;
    }
    assert!(compared > 0);
    if let Ok((follower, _)) = &mut all {
        while let Ok(Some(_)) = follower.try_next() {}
    }
}

pub async fn dropped_waits_lose_nothing<H: Harness>(harness: H) {
    let store = harness.store();
    let mut follower = store.follow(store.status().position).unwrap();
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut made = Vec::new();
            for n in 0..50 {
                made.push(done(&*store, commit([put(n, n)])).await.position);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            made
        })
    };
    let mut seen = Vec::new();
    while seen.len() < 50 {
        if let Ok(set) = tokio::time::timeout(Duration::from_micros(300), follower.next()).await {
            // One without changes only says how far the store is.
            let set = set.unwrap();
            seen.extend((!set.changes.is_empty()).then_some(set.position));
        }
    }
    assert_eq!(seen, writer.await.unwrap());
}

pub async fn closing_ends_followers<H: Harness>(harness: H) {
    let store = harness.store();
    let made = done(&*store, commit([put(1, 1)])).await.position;
    let mut follower = store.follow(made).unwrap();
    let waiting = tokio::spawn(async move { next(&mut *follower).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    store.close().await;
    store.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(FollowError::Closed)));
    assert!(matches!(store.follow(made), Err(FollowError::Closed)));
    assert!(matches!(store.commit(commit([put(2, 2)])).await, Err(CommitError::Unavailable(_))));
    assert!(store.read_all(ReadAt::Latest).await.is_err());
}
