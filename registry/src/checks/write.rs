//! Writing verdicts, and clearing away those that nobody asked for any more.

use super::CheckKey;
use super::verdict::Outcome;
use crate::live::LiveReplica;
use crate::members::Fence;
use crate::store::{Action, Commit, CommitError, Condition, Expect, Operation, Store};
use fingerpost_catalog::{CheckResult, Health, Key, Record, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// A store that does not answer is asked again later.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait until this process shows what it wrote; without that, the next result would be judged by the past.
const VISIBLE: Duration = Duration::from_secs(5);

/// A check's verdict as it stands, with its revision.
pub(super) fn standing(live: &LiveReplica, key: &CheckKey) -> Option<(CheckResult, u64)> {
    let key = Key::Check { instance: key.instance.clone(), check: key.check.clone() };
    match live.read().record(&key)? {
        (Record::Check(result), revision) => Some((result, revision)),
        _ => None,
    }
}

/// The verdict's health; none where there is no verdict.
pub(super) fn health_of(standing: &Option<(CheckResult, u64)>) -> Option<Health> {
    standing.as_ref().map(|(result, _)| result.health)
}

/// Writes a verdict in the place of the one that stood when it was judged, while the replica that judged is the home.
pub(super) async fn turn(
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    key: CheckKey,
    standing: Option<(CheckResult, u64)>,
    outcome: Outcome,
    fence: Fence,
) -> Result<(), CommitError> {
    let record = Key::Check { instance: key.instance.clone(), check: key.check };
    let expect = standing.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::At(*revision));
    let before = standing.map(|(result, _)| result).unwrap_or_default();
    let result =
        CheckResult { health: outcome.health, note: outcome.note, since: Timestamp::now().0, noted: 0, ..before };
    let commit = Commit {
        operations: vec![Operation { key: record.clone(), action: Action::Put(Arc::new(Record::Check(result))) }],
        conditions: vec![
            Condition { key: record, expect },
            Condition { key: Key::Instance(key.instance), expect: Expect::Present },
        ],
        fence: Some(fence),
        ..Commit::default()
    };
    commit_and_show(store, live, commit).await
}

/// Removes a part that is of no use any more: the result of a check that is not declared on its instance, or what is
/// left of an instance that is gone. Whatever was changed meanwhile stays, and so does everything where this replica's
/// idea of who is the home is not what it was: a check may have been declared since that it does not know of.
pub(super) async fn clear(
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    part: Key,
    fence: Fence,
) -> Result<(), CommitError> {
    let Some(instance) = part.instance().cloned().map(Key::Instance) else { return Ok(()) };
    let (revision, owner) = {
        let replica = live.read();
        let Some(revision) = replica.revision_of(&part) else { return Ok(()) };
        (revision, replica.revision_of(&instance))
    };
    let commit = Commit {
        operations: vec![Operation { key: part.clone(), action: Action::Delete }],
        conditions: vec![
            Condition { key: part, expect: Expect::At(revision) },
            Condition { key: instance, expect: owner.map_or(Expect::Absent, Expect::At) },
        ],
        fence: Some(fence),
        ..Commit::default()
    };
    commit_and_show(store, live, commit).await
}

async fn commit_and_show(store: Arc<dyn Store>, live: Arc<LiveReplica>, commit: Commit) -> Result<(), CommitError> {
    let committed = tokio::time::timeout(TIMEOUT, store.commit(commit))
        .await
        .unwrap_or_else(|_| Err(CommitError::Unknown("the store did not answer".to_owned())))?;
    // Not shown in time, it is judged anew when it is.
    let _ = live.wait_for(committed.position, VISIBLE).await;
    Ok(())
}
