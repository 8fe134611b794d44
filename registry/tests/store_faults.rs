//! The embedded store on a disk that crashes, fails and fills up.
//!
//! A failing run prints its seed; `FINGERPOST_FAULT_SEED` runs that one alone, `FINGERPOST_FAULT_ROUNDS` runs more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_faulty;
mod store_suite;

use fingerpost_catalog::{ChangeSet, Epoch, Position};
use fingerpost_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use fingerpost_registry::store::{Action, Commit, CommitError, Durability, Follower, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use store_faulty::{Disk, Fault};
use store_suite::{State, apply, commit, delete, latest, put, relaxed, weight};

const KEYS: u64 = 40;
/// Crashes that one disk lives through.
const LIVES: u64 = 4;

/// Keys and the weight that a commit gives them, or none for a removal.
type Effects = BTreeMap<String, Option<u64>>;

fn effects(commit: &Commit) -> Effects {
    let effect = |action: &Action| match action {
        Action::Put(record) => Some(weight(record)),
        Action::Delete => None,
    };
    commit.operations.iter().map(|operation| (operation.key.to_string(), effect(&operation.action))).collect()
}

/// What a world remembers of a life of its store.
#[derive(Default)]
struct Life {
    /// By the weight that only this commit puts.
    tried: HashMap<u64, Effects>,
    /// The highest number that was acknowledged, durable.
    acknowledged: u64,
}

fn options(rng: &mut StdRng) -> EmbeddedOptions {
    let mut options = EmbeddedOptions::new("memory");
    options.checkpoint_bytes = [400, 3_000, 1 << 20][rng.random_range(0..3)];
    options.retain_changes = [3, 30, 1_000][rng.random_range(0..3)];
    options.queue = 16;
    options.group_commits = [1, 4, 1024][rng.random_range(0..3)];
    options.cache_bytes = 1 << 20;
    options
}

/// A commit that puts a weight of its own at least once.
fn random_commit(rng: &mut StdRng, weight: u64, may_relax: bool) -> Commit {
    let mut numbers: Vec<u64> = (0..rng.random_range(1..6)).map(|_| rng.random_range(0..KEYS)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut operations = vec![put(numbers[0], weight)];
    operations.extend(numbers[1..].iter().map(|&n| if rng.random_bool(0.3) { delete(n) } else { put(n, weight) }));
    if may_relax && rng.random_bool(0.5) { relaxed(operations) } else { commit(operations) }
}

/// Checks that a change set is one of the commits that were tried, whole, and adds it to the state.
fn replay(state: &mut State, set: &ChangeSet, tried: &HashMap<u64, Effects>) {
    let told: Effects =
        set.changes.iter().map(|change| (change.key.to_string(), change.record.as_deref().map(weight))).collect();
    let own = told.values().flatten().next().expect("every commit puts something");
    let before = |key: &String| state.get(key).map(|(record, _)| weight(record));
    let expected: Effects = tried[own]
        .iter()
        .filter(|&(key, effect)| before(key) != *effect)
        .map(|(key, effect)| (key.clone(), *effect))
        .collect();
    assert_eq!(told, expected, "half a commit at {}", set.position);
    apply(state, set);
}

/// Runs random commits from several tasks until they are done or the disk is gone.
async fn live(
    store: &Arc<EmbeddedStore>,
    rng: &mut StdRng,
    weights: &Arc<AtomicU64>,
    may_relax: bool,
    patient: bool,
) -> Life {
    let tasks: Vec<_> = (0..rng.random_range(1..5))
        .map(|_| {
            let (store, weights) = (Arc::clone(store), Arc::clone(weights));
            let mut rng = StdRng::seed_from_u64(rng.random());
            tokio::spawn(async move {
                let mut life = Life::default();
                for _ in 0..rng.random_range(5..40) {
                    let weight = weights.fetch_add(1, Ordering::Relaxed);
                    let commit = random_commit(&mut rng, weight, may_relax);
                    let durable = commit.durability == Durability::Durable;
                    life.tried.insert(weight, effects(&commit));
                    match store.commit(commit).await {
                        Ok(committed) if durable => {
                            life.acknowledged = life.acknowledged.max(committed.position.number);
                        }
                        Ok(_) => {}
                        Err(CommitError::Unknown(_)) => {}
                        Err(CommitError::Full | CommitError::Unavailable(_)) => {
                            // Nothing was changed, so it may not turn up.
                            life.tried.remove(&weight);
                            if !patient {
                                break;
                            }
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                life
            })
        })
        .collect();
    let mut all = Life::default();
    for task in tasks {
        let life = task.await.unwrap();
        all.tried.extend(life.tried);
        all.acknowledged = all.acknowledged.max(life.acknowledged);
    }
    all
}

fn published(follower: &mut dyn Follower) -> Vec<Arc<ChangeSet>> {
    std::iter::from_fn(|| follower.try_next().unwrap()).collect()
}

/// One disk through several crashes.
async fn world(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = Disk::new(rng.random());
    let weights = Arc::new(AtomicU64::new(1));
    let options = options(&mut rng);
    let mut known = State::new();
    let mut store = EmbeddedStore::open_on(options.clone(), disk.medium()).unwrap();
    for _ in 0..LIVES {
        let may_relax = rng.random_bool(0.3);
        let begin = store.status().position;
        assert_eq!(contents_at(&*store, begin).await, known);
        let mut follower = store.follow(begin).unwrap();
        disk.set_fault(Some(Fault::Crash(rng.random_range(0..400))));
        let life = live(&store, &mut rng, &weights, may_relax, false).await;
        let seen = published(&mut *follower);
        drop(follower);
        // Whatever the store still does when it closes happens to a disk that is gone, or just before it is.
        if rng.random_bool(0.8) {
            disk.set_fault(Some(Fault::Crash(0)));
        }
        drop(store);
        disk.crash();

        store = EmbeddedStore::open_on(options.clone(), disk.medium()).unwrap();
        let now = store.status().position;
        if !may_relax {
            assert_eq!(now.epoch, begin.epoch, "nothing relaxed, nothing lost");
        }
        assert!(now.number >= life.acknowledged, "{} acknowledged, {} found", life.acknowledged, now.number);
        for set in seen.iter().filter(|set| set.position.number <= now.number) {
            replay(&mut known, set, &life.tried);
        }
        let last = seen.last().map_or(begin.number, |set| set.position.number);
        assert!(may_relax || now.number >= last, "published, but gone");
        if now.number < last {
            assert_ne!(now.epoch, begin.epoch, "a lost tail renews the epoch");
        }
        if now.number > last {
            // Commits that nobody was told about any more.
            unseen(&*store, Position::new(begin.epoch, last), &mut known, &life).await;
        }
        let found = contents_at(&*store, now).await;
        assert_eq!(found, known, "began at {begin}, told up to {last}, found {now}, may relax: {may_relax}");
    }
    store.close().await;
}

/// Everything at a position that is the latest one.
async fn contents_at(store: &dyn Store, position: Position) -> State {
    let state = latest(store).await;
    assert_eq!(store.status().position, position);
    state
}

async fn unseen(store: &dyn Store, last: Position, known: &mut State, life: &Life) {
    let now = store.status().position;
    if now.epoch == last.epoch {
        match store.follow(last) {
            Ok(mut follower) => {
                for set in published(&mut *follower) {
                    replay(known, &set, &life.tried);
                }
                return;
            }
            Err(error) => assert!(matches!(error, fingerpost_registry::store::FollowError::Compacted)),
        }
    }
    // The changes are not told any more, but the records say which commit they are from.
    let state = latest(store).await;
    let mut commits: BTreeMap<u64, u64> = BTreeMap::new();
    for (record, revision) in state.values().filter(|(_, revision)| *revision > last.number) {
        let before = commits.insert(*revision, weight(record));
        assert!(before.is_none_or(|before| before == weight(record)), "two commits at {revision}");
    }
    if commits.len() as u64 == now.number - last.number {
        for (revision, weight) in commits {
            for (key, effect) in &life.tried[&weight] {
                match effect {
                    None => drop(known.remove(key)),
                    Some(weight) if known.get(key).map(|(record, _)| store_suite::weight(record)) == Some(*weight) => {}
                    Some(weight) => {
                        drop(known.insert(key.clone(), ((*store_suite::value(*weight)).clone(), revision)));
                    }
                }
            }
        }
    } else {
        *known = state;
    }
}

/// One disk that returns errors now and then, and crashes in the end.
async fn troubled_world(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let disk = Disk::new(rng.random());
    let weights = Arc::new(AtomicU64::new(1));
    let options = options(&mut rng);
    let store = EmbeddedStore::open_on(options.clone(), disk.medium()).unwrap();
    let begin = store.status().position;
    let mut follower = store.follow(begin).unwrap();
    let mut life = Life::default();
    for _ in 0..3 {
        disk.set_fault(Some(Fault::Errors(rng.random_range(0..200), rng.random_range(1..25))));
        let more = live(&store, &mut rng, &weights, false, true).await;
        life.tried.extend(more.tried);
        life.acknowledged = life.acknowledged.max(more.acknowledged);
    }
    // The disk is well again, and so is the store soon, without being opened again by anybody.
    disk.set_fault(None);
    let began = Instant::now();
    let healed = loop {
        let weight = weights.fetch_add(1, Ordering::Relaxed);
        let commit = commit([put(0, weight)]);
        life.tried.insert(weight, effects(&commit));
        match store.commit(commit).await {
            Ok(committed) => break committed,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(store.status().write_error, None);
    assert_eq!(healed.position.epoch, begin.epoch);
    let mut known = State::new();
    let mut expected = begin.number;
    for set in published(&mut *follower) {
        expected += 1;
        assert_eq!(set.position.number, expected, "a gap");
        replay(&mut known, &set, &life.tried);
    }
    assert_eq!(expected, healed.position.number);
    assert_eq!(contents_at(&*store, healed.position).await, known, "disk and followers disagree");

    drop(follower);
    disk.set_fault(Some(Fault::Crash(0)));
    drop(store);
    disk.crash();
    let store = EmbeddedStore::open_on(options, disk.medium()).unwrap();
    assert_eq!(contents_at(&*store, healed.position).await, known);
}

fn worlds(rounds: u64, run: impl AsyncFn(u64) + Send + Sync) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let only = number("FINGERPOST_FAULT_SEED");
    let rounds = number("FINGERPOST_FAULT_ROUNDS").unwrap_or(rounds);
    let base = only.unwrap_or_else(rand::random);
    let next = AtomicU64::new(0);
    let total = if only.is_some() { 1 } else { rounds };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= total {
                        break;
                    }
                    let seed = base.wrapping_add(round);
                    let guard = Seed(seed);
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(run(seed));
                    std::mem::forget(guard);
                }
            });
        }
    });
}

/// Prints the seed when a world ends badly.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("FINGERPOST_FAULT_SEED={}", self.0);
    }
}

#[test]
fn crashes_lose_nothing_and_halve_nothing() {
    worlds(260, world);
}

#[test]
fn errors_are_told_truly_and_survived() {
    worlds(100, troubled_world);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let disk = Disk::new(1);
    let mut options = EmbeddedOptions::new("memory");
    options.relaxed_bytes = 10_000;
    let store = EmbeddedStore::open_on(options, disk.medium()).unwrap();
    store.commit(relaxed([put(1_000, 1)])).await.unwrap();
    store.commit(commit([put(1_001, 1)])).await.unwrap();
    disk.set_room(Some(40));
    let mut done = 0;
    let error = loop {
        match store.commit(commit((0..100).map(|n| put(n, done)))).await {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 1_000);
    };
    assert!(matches!(error, CommitError::Full), "{error}");
    assert!(done > 0);
    assert!(store.status().write_error.unwrap().contains("full"));

    // Reads and followers go on, and so do relaxed commits, up to a bound.
    let head = store.status().position;
    let mut follower = store.follow(head).unwrap();
    let mut accepted = 0;
    let error = loop {
        match store.commit(relaxed([put(2_000 + accepted, 7)])).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1_000);
    };
    assert!(matches!(error, CommitError::Full), "{error}");
    assert!(accepted > 10, "{accepted}");
    for _ in 0..accepted {
        follower.next().await.unwrap();
    }
    assert_eq!(latest(&*store).await.len() as u64, 102 + accepted);

    disk.set_room(None);
    let began = Instant::now();
    while let Err(error) = store.commit(commit([put(5_000, 1)])).await {
        assert!(began.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.status().write_error, None);
    assert_eq!(latest(&*store).await.len() as u64, 103 + accepted);
    store.close().await;
    let options = EmbeddedOptions::new("memory");
    let store = EmbeddedStore::open_on(options, disk.medium()).unwrap();
    assert_eq!(latest(&*store).await.len() as u64, 103 + accepted);
    assert_eq!(store.status().position.epoch, head.epoch);
}

#[tokio::test]
async fn an_unclean_end_after_relaxed_commits_renews_the_epoch() {
    let disk = Disk::new(2);
    let store = EmbeddedStore::open_on(EmbeddedOptions::new("memory"), disk.medium()).unwrap();
    let first = store.commit(relaxed([put(1, 1)])).await.unwrap().position;
    disk.set_fault(Some(Fault::Crash(0)));
    drop(store);
    disk.crash();
    let store = EmbeddedStore::open_on(EmbeddedOptions::new("memory"), disk.medium()).unwrap();
    let epoch: Epoch = store.status().position.epoch;
    assert_ne!(epoch, first.epoch);
    disk.set_fault(Some(Fault::Crash(0)));
    drop(store);
    disk.crash();
    let store = EmbeddedStore::open_on(EmbeddedOptions::new("memory"), disk.medium()).unwrap();
    assert_eq!(store.status().position.epoch, epoch, "nothing relaxed since");
}

#[tokio::test]
async fn a_durable_commit_that_changes_nothing_waits_for_the_relaxed_one_it_rests_on() {
    let disk = Disk::new(3);
    let store = EmbeddedStore::open_on(EmbeddedOptions::new("memory"), disk.medium()).unwrap();
    let made = store.commit(relaxed([put(1, 1)])).await.unwrap().position;
    let same = store.commit(commit([put(1, 1)])).await.unwrap();
    assert!(!same.changed);
    assert_eq!(same.position, made);
    disk.set_fault(Some(Fault::Crash(0)));
    drop(store);
    disk.crash();
    let store = EmbeddedStore::open_on(EmbeddedOptions::new("memory"), disk.medium()).unwrap();
    assert_eq!(latest(&*store).await.len(), 1);
}
