//! The end of sessions: their instances go first, in commits of bounded size, then the record.
//!
//! A session whose removal fits into one commit goes by that commit, together with others. A larger one is first marked
//! as ended (expired, without a grace), so that nobody can come back to half of its instances, whatever happens in
//! between. Each commit holds only if the record still is as it was found: a session that came back keeps what it has.
//! That its grace is over is for the home alone to say, so what follows from that holds only while this replica is it.

use super::{Engine, is_over, put};
use crate::members::Fence;
use crate::store::{Action, Commit, CommitError, Condition, Expect, MAX_OPERATIONS, Operation};
use crate::writes::WriteError;
use fingerpost_catalog::{InstanceKey, Key, Position, Record, Session, SessionState, Timestamp};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Commits of removals under way at the same time.
const REMOVALS: usize = 4;
/// After a removal that failed.
const RETRY: Duration = Duration::from_secs(1);
/// A write that loses to others this often gives up.
const ATTEMPTS: usize = 16;
/// Instances that are swept away together; each may have parts.
const SWEPT: usize = 5;

/// What is removed by one commit, or in several.
enum Unit {
    /// Whole sessions.
    Together(Vec<Arc<str>>, Commit),
    /// A session of many instances.
    Alone(Arc<str>, Fence),
}

/// What removes instances, and what must be so for that.
#[derive(Default)]
struct Removal {
    operations: Vec<Operation>,
    conditions: Vec<Condition>,
}

impl Engine {
    /// Removes sessions whose grace is over, as they are named.
    pub(super) async fn remove_in_turn(&self) {
        loop {
            self.removals.notified().await;
            let due = std::mem::take(&mut *self.removable.lock());
            let units = self.units(due);
            stream::iter(units).for_each_concurrent(REMOVALS, |unit| self.remove_unit(unit)).await;
        }
    }

    /// Puts small sessions together, as many as a commit takes.
    fn units(&self, due: Vec<Arc<str>>) -> Vec<Unit> {
        let mut units = Vec::new();
        // By the view of the replicas by which they still are due.
        let (due, fence) = self.book.lock().still_removing(due);
        let new = || Commit { fence: Some(fence), ..Commit::default() };
        let (mut ids, mut commit) = (Vec::new(), new());
        for id in due {
            let revision = {
                let replica = self.live.read();
                match replica.session_record(&id) {
                    Some((session, revision)) if session.state == SessionState::Expired => revision,
                    // It came back, or is gone.
                    _ => {
                        drop(replica);
                        self.book.lock().removal_ended(&id, Instant::now());
                        continue;
                    }
                }
            };
            let Some(removal) = self.small_removal(&id) else {
                units.push(Unit::Alone(id, fence));
                continue;
            };
            if commit.operations.len() + removal.operations.len() > MAX_OPERATIONS {
                units.push(Unit::Together(std::mem::take(&mut ids), std::mem::replace(&mut commit, new())));
            }
            commit.operations.extend(removal.operations);
            commit.conditions.extend(removal.conditions);
            commit.conditions.push(at(&id, revision));
            ids.push(id);
        }
        if !ids.is_empty() {
            units.push(Unit::Together(ids, commit));
        }
        units
    }

    /// What removes a session whole; none where that is too much for one commit.
    fn small_removal(&self, id: &Arc<str>) -> Option<Removal> {
        let instances = self.live.read().instance_keys_of_session(id);
        if instances.len() >= MAX_OPERATIONS {
            return None;
        }
        let mut removal = self.removal_of(id, &instances);
        removal.operations.push(delete(id));
        (removal.operations.len() <= MAX_OPERATIONS).then_some(removal)
    }

    /// What removes instances that hang on a session. Each is removed only as it was looked at: its process may have been
    /// told that the session is over, and be registering it on a new one by now.
    fn removal_of(&self, id: &Arc<str>, instances: &[InstanceKey]) -> Removal {
        let mut removal = Removal::default();
        for key in instances {
            let key = Key::Instance(key.clone());
            let found = self.live.read().record(&key);
            let (Key::Instance(instance), Some((Record::Instance(record), revision))) = (&key, found) else { continue };
            if record.session.as_deref() == Some(&**id) {
                removal.operations.extend(self.writer.removal(instance));
                removal.conditions.push(Condition { key, expect: Expect::At(revision) });
            }
        }
        removal
    }

    async fn remove_unit(&self, unit: Unit) {
        let (ids, removed) = match unit {
            Unit::Together(ids, commit) => {
                let removed = self.writer.commit(commit).await.map(|_| ());
                (ids, removed)
            }
            Unit::Alone(id, fence) => {
                let removed = match self.end_for_good(&id, Some(fence)).await {
                    Ok(Some(revision)) => self.remove_ended(&id, revision).await.map(|_| ()),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                (vec![id], removed)
            }
        };
        let retry = Instant::now() + RETRY.mul_f64(0.5 + rand::random::<f64>());
        {
            // Of those that are gone, the book knows no more. What is there still, has come back or been changed
            // meanwhile, or failed: it is judged anew.
            let mut book = self.book.lock();
            for id in &ids {
                book.removal_ended(id, retry);
            }
        }
        match removed {
            Ok(()) => {
                info!(sessions = ids.len(), "sessions removed with their instances");
                self.metrics.ends.inc_by(ids.len() as u64);
                for id in &ids {
                    self.sweep(id).await;
                }
            }
            Err(error) => {
                // A session that came back is the usual reason; the others of the commit are tried again soon.
                if !matches!(error, WriteError::Commit(CommitError::Condition { .. } | CommitError::Fenced)) {
                    warn!(sessions = ids.len(), %error, "sessions can't be removed; trying again");
                    self.metrics.failed_writes.inc();
                }
            }
        }
    }

    /// Marks a session as ended: its instances are critical from then on, and nothing brings it back. Returns the
    /// record's revision; none where there is no such session. With a fence, only while this replica is at home for it.
    pub(super) async fn end_for_good(&self, id: &Arc<str>, fence: Option<Fence>) -> Result<Option<u64>, WriteError> {
        let key = Key::Session { id: Arc::clone(id) };
        for _ in 0..ATTEMPTS {
            let found = self.live.read().session_record(id).map(|(session, revision)| (Arc::clone(session), revision));
            let Some((session, revision)) = found else { return Ok(None) };
            if is_over(&session) {
                return Ok(Some(revision));
            }
            let since = if session.state == SessionState::Expired { session.since } else { Timestamp::now().0 };
            let ended = Session { state: SessionState::Expired, grace_seconds: 0, since, ..(*session).clone() };
            let commit = Commit {
                operations: vec![put(&key, ended)],
                conditions: vec![at(id, revision)],
                fence,
                ..Commit::default()
            };
            match self.writer.commit(commit).await {
                Ok(committed) => return Ok(Some(committed.position.number)),
                Err(WriteError::Commit(CommitError::Condition { actual, .. })) => {
                    self.writer.wait_for_change(actual).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(WriteError::Contended(format!("session `{id}`")))
    }

    /// Removes a session that is marked as ended. Returns how many instances it had, and the position of the last commit.
    /// Two replicas may do it side by side; each deletes what is still there. Waits until this replica shows it, if it does in
    /// time: what the last commit means is decided then.
    pub(super) async fn remove_ended(&self, id: &Arc<str>, revision: u64) -> Result<(usize, Position), WriteError> {
        let mut count = 0;
        for _ in 0..ATTEMPTS {
            let instances = self.live.read().instance_keys_of_session(id);
            let mut rest = instances.as_slice();
            loop {
                let mut removal = Removal::default();
                while let Some((first, others)) = rest.split_first() {
                    // All of an instance goes at once, as far as a commit takes it, and the session's own record needs a place,
                    // too. What is left behind is of no effect, and cleared away.
                    let mut one = self.removal_of(id, std::slice::from_ref(first));
                    one.operations.truncate(MAX_OPERATIONS - 1);
                    if removal.operations.len() + one.operations.len() >= MAX_OPERATIONS {
                        break;
                    }
                    removal.operations.extend(one.operations);
                    removal.conditions.extend(one.conditions);
                    rest = others;
                }
                let removed = removal.conditions.len();
                let last = rest.is_empty();
                if last {
                    removal.operations.push(delete(id));
                }
                let mut conditions = vec![at(id, revision)];
                conditions.extend(removal.conditions);
                let commit = Commit { operations: removal.operations, conditions, ..Commit::default() };
                match self.writer.store_commit(commit).await {
                    Ok(committed) => {
                        count += removed;
                        if last {
                            // Where it does not come to show it, nothing is seen to be swept away.
                            let _ = self.writer.shown(committed.position).await;
                            self.sweep(id).await;
                            return Ok((count, committed.position));
                        }
                    }
                    Err(CommitError::Condition { key, actual }) => {
                        self.writer.wait_for_change(actual).await;
                        if matches!(key, Key::Session { .. }) {
                            // Somebody else has completed it.
                            return Ok((count, self.live.position()));
                        }
                        // An instance was changed in between: looked at again.
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(WriteError::Contended(format!("session `{id}`")))
    }

    /// Removes what came to hang on the session although it was ending: an import can do that.
    async fn sweep(&self, id: &Arc<str>) {
        let left = {
            let replica = self.live.read();
            if replica.session_record(id).is_some() { Vec::new() } else { replica.instance_keys_of_session(id) }
        };
        for some in left.chunks(SWEPT) {
            let Removal { operations, conditions } = self.removal_of(id, some);
            let commit = Commit { operations, conditions, ..Commit::default() };
            if let Err(error) = self.writer.store_commit(commit).await {
                warn!(session = %id, %error, "instances of a removed session stay, and are critical");
                return;
            }
        }
    }
}

fn at(id: &Arc<str>, revision: u64) -> Condition {
    Condition { key: Key::Session { id: Arc::clone(id) }, expect: Expect::At(revision) }
}

fn delete(id: &Arc<str>) -> Operation {
    Operation { key: Key::Session { id: Arc::clone(id) }, action: Action::Delete }
}
