//! Bringing a group of commits to etcd, whatever happens on the way, and telling its callers.

use super::Core;
use super::endpoints::{Pause, REQUEST};
use super::failure::{Failure, Outcome};
use super::plan::{Job, Planned};
use super::sequencer::Report;
use super::transaction::{self, Answer, Verdict};
use crate::store::{CommitError, Committed};
use etcd_client::{Txn, TxnResponse};
use fingerpost_catalog::Position;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long to try where nothing was sent: etcd is away, and the caller had better know soon.
const AWAY: Duration = Duration::from_secs(2);
/// How long to try to find out what came of a write without an answer.
const BUDGET: Duration = Duration::from_secs(10);
/// After so long the slot's word is not believed any more: others clean up what a dead replica has left, and this process
/// may have been stopped for long.
const BELIEF: Duration = Duration::from_secs(60);
/// How long a reply may wait for its own change to come back.
const RETURN: Duration = Duration::from_secs(5);

/// A key that makes writes safe to repeat.
pub(super) struct Slot {
    key: String,
    /// The revision at which it was left; 0 where it does not exist.
    at: i64,
}

impl Slot {
    pub(super) fn new(folder: String, number: usize) -> Self {
        Self { key: format!("{folder}{number}"), at: 0 }
    }
}

enum Delivered {
    Applied(u64, Vec<Told>),
    Not(CommitError),
}

/// What is known of one commit of a transaction that was applied.
enum Told {
    Verdict(Verdict),
    Unknown(String),
}

/// Delivers commits that write.
pub(super) async fn write(
    core: Arc<Core>,
    mut slot: Slot,
    group: Vec<Planned>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let delivered = deliver(&core, &mut slot, &group).await;
    // The slot is free while the callers wait for their changes to come back; their keys are not. Who listens has gone only
    // when nobody cares any more.
    let _ = reports.send(Report::Free(slot));
    settle(&core, group, delivered, &reports).await;
}

/// Makes sure that commits would change nothing.
pub(super) async fn verify(core: Arc<Core>, group: Vec<Planned>, reports: mpsc::UnboundedSender<Report>) {
    let txn = transaction::verify(&group, &core.mirror.keys, &core.id);
    let until = Instant::now() + AWAY;
    let delivered = match core.endpoints.repeat(REQUEST, until, |client| send(client, txn.clone())).await {
        Ok(response) => match transaction::answer(&response, &core.mirror.keys, 0) {
            Answer::Applied(revision, verdicts) => {
                core.mirror.history.know(revision);
                Delivered::Applied(revision, verdicts.into_iter().map(Told::Verdict).collect())
            }
            Answer::Elsewhere(..) => {
                Delivered::Not(CommitError::Unavailable("etcd's answer makes no sense".to_owned()))
            }
        },
        Err(failure) => Delivered::Not(CommitError::Unavailable(failure.text)),
    };
    let _ = reports.send(Report::Verified);
    settle(&core, group, delivered, &reports).await;
}

async fn send(client: etcd_client::Client, txn: Txn) -> Result<TxnResponse, etcd_client::Error> {
    client.kv_client().txn(txn).await
}

async fn deliver(core: &Core, slot: &mut Slot, group: &[Planned]) -> Delivered {
    let keys = &core.mirror.keys;
    let id = format!("{:032x}", rand::random::<u128>());
    let begun = Instant::now();
    let mut pause = Pause::new();
    // Whether something was sent that may have been applied, or may still be.
    let mut open = false;
    loop {
        let txn = transaction::write(group, keys, &core.id, (&slot.key, slot.at), &id);
        let sent = Instant::now();
        let failure = match core.endpoints.once(REQUEST, |client| send(client, txn)).await {
            Ok(response) => match transaction::answer(&response, keys, 1) {
                Answer::Applied(revision, verdicts) => {
                    slot.at = i64::try_from(revision).unwrap_or(i64::MAX);
                    core.wrote(sent.elapsed());
                    return Delivered::Applied(revision, verdicts.into_iter().map(Told::Verdict).collect());
                }
                Answer::Elsewhere(at, value) => {
                    slot.at = at;
                    if value == id.as_bytes() {
                        return recover(core, group, at, begun).await;
                    }
                    // It has moved on from where everything sent so far expected it.
                    if open && begun.elapsed() > BELIEF {
                        return Delivered::Not(CommitError::Unknown("this process was stopped meanwhile".to_owned()));
                    }
                    open = false;
                    if begun.elapsed() > BUDGET {
                        return Delivered::Not(CommitError::Unavailable("etcd is too slow".to_owned()));
                    }
                    continue;
                }
            },
            Err(failure) => failure,
        };
        match failure.outcome {
            Outcome::Unknown => open = true,
            Outcome::NotSent => {}
            // The answer of the request that filled the database says the same, and that one was applied.
            Outcome::NoSpace => match look(core, slot, &id).await {
                Ok(Some(at)) => return recover(core, group, at, begun).await,
                Ok(None) if !open => return Delivered::Not(CommitError::Full),
                Ok(None) | Err(_) => open = true,
            },
            Outcome::Compacted | Outcome::Denied | Outcome::Certificate | Outcome::Refused if !open => {
                return Delivered::Not(CommitError::Unavailable(failure.text));
            }
            Outcome::Compacted | Outcome::Denied | Outcome::Certificate | Outcome::Refused => {}
        }
        if !open && begun.elapsed() > AWAY {
            return Delivered::Not(CommitError::Unavailable(failure.text));
        }
        if open && begun.elapsed() > BUDGET {
            return give_up(core, slot, group, &id, begun, failure).await;
        }
        pause.wait().await;
    }
}

/// Whether the slot holds this write's id, and at which revision.
async fn look(core: &Core, slot: &Slot, id: &str) -> Result<Option<i64>, Failure> {
    let read = |mut client: etcd_client::Client| async move { client.get(slot.key.as_str(), None).await };
    let response = core.endpoints.repeat(REQUEST, Instant::now() + AWAY, read).await?;
    let kv = response.kvs().first();
    Ok(kv.filter(|kv| kv.value() == id.as_bytes()).map(etcd_client::KeyValue::mod_revision))
}

/// Makes sure that what was sent is not applied later, so that there is an outcome at all.
async fn give_up(
    core: &Core,
    slot: &mut Slot,
    group: &[Planned],
    id: &str,
    begun: Instant,
    failure: Failure,
) -> Delivered {
    let unknown = Delivered::Not(CommitError::Unknown(failure.text.clone()));
    if begun.elapsed() > BELIEF {
        return unknown;
    }
    for _ in 0..core.endpoints.urls().len().min(3) {
        let fence = transaction::fence_off(&slot.key, slot.at);
        let Ok(response) = core.endpoints.once(REQUEST, |client| send(client, fence)).await else { continue };
        if response.succeeded() {
            slot.at = response.header().map_or(0, |header| header.revision());
            return Delivered::Not(CommitError::Unavailable(failure.text));
        }
        let (at, value) = transaction::slot_of(&response.op_responses());
        slot.at = at;
        return if value == id.as_bytes() {
            recover(core, group, at, begun).await
        } else {
            // Fenced by a request before, whose answer was lost.
            Delivered::Not(CommitError::Unavailable(failure.text))
        };
    }
    unknown
}

/// What came of each commit of a transaction that was applied at a revision, though its answer was lost.
async fn recover(core: &Core, group: &[Planned], at: i64, begun: Instant) -> Delivered {
    let revision = at.unsigned_abs();
    let keys = &core.mirror.keys;
    let until = begun + BUDGET + AWAY;
    let mut told = Vec::with_capacity(group.len());
    for planned in group {
        if planned.checks.is_empty() && planned.fence.is_none() {
            told.push(Told::Verdict(Verdict::Applied(true)));
            continue;
        }
        let txn = transaction::look_back(planned, keys, &core.id, revision.saturating_sub(1));
        told.push(match core.endpoints.repeat(REQUEST, until, |client| send(client, txn.clone())).await {
            Ok(response) => {
                let found = transaction::found(response.op_responses(), keys);
                Told::Verdict(if planned.holds(&found) { Verdict::Applied(true) } else { Verdict::Failed(found) })
            }
            Err(failure) => Told::Unknown(failure.text),
        });
    }
    tracing::debug!(revision, commits = group.len(), "a write without an answer was found applied");
    Delivered::Applied(revision, told)
}

/// Up to which revision this replica must have come before a caller is told: to its own change, or to what it was refused
/// for, so that it does not try again with the same old knowledge.
fn must_show(planned: &Planned, told: &Told, revision: u64) -> u64 {
    match told {
        Told::Verdict(Verdict::Applied(true)) if !planned.writes.is_empty() => revision,
        // Who only asks wants to know what holds now, and to see it here.
        Told::Verdict(Verdict::Applied(_)) if planned.job.commit.operations.is_empty() => revision,
        Told::Verdict(Verdict::Failed(found)) => {
            let gone = planned.checks.iter().any(|check| match found.record(&check.text) {
                Some(_) => false,
                // When it was removed is not told.
                None => !check.must.holds(None),
            });
            let evicted = planned.fence.is_some() && found.fence.place == 0;
            if gone || evicted { revision } else { found.latest() }
        }
        Told::Verdict(Verdict::Applied(_)) | Told::Unknown(_) => 0,
    }
}

/// Tells the callers, after this replica shows what they wrote, or what they were refused for.
async fn settle(core: &Core, group: Vec<Planned>, delivered: Delivered, reports: &mpsc::UnboundedSender<Report>) {
    let (mut done, mut again) = (Vec::new(), Vec::new());
    match delivered {
        Delivered::Applied(revision, told) => {
            core.mirror.history.know(revision);
            let changed = told.iter().any(|told| matches!(told, Told::Verdict(Verdict::Applied(true))));
            let changed = changed && group.iter().any(|planned| !planned.writes.is_empty());
            let due = group.iter().zip(&told).map(|(planned, told)| must_show(planned, told, revision)).max();
            if let Some(due) = due.filter(|due| *due > core.mirror.applied()) {
                if !changed && due == revision {
                    // Nothing of ours changes at this revision, so the watch has to be asked.
                    core.mirror.hurry.notify_one();
                }
                core.mirror.wait_for(due, RETURN).await;
            }
            core.works();
            let (epoch, head) = (core.mirror.epoch(), core.mirror.head());
            let behind = core.mirror.applied() < revision;
            for (mut planned, told) in group.into_iter().zip(told) {
                let outcome = match told {
                    Told::Verdict(Verdict::Applied(true)) if !planned.writes.is_empty() => {
                        Ok(Committed { position: Position::new(epoch, revision), changed: true })
                    }
                    Told::Verdict(Verdict::Applied(_)) if behind && planned.job.commit.operations.is_empty() => {
                        Err(CommitError::Unavailable("this replica is behind what etcd holds".to_owned()))
                    }
                    Told::Verdict(Verdict::Applied(_)) => Ok(Committed { position: head, changed: false }),
                    Told::Verdict(Verdict::Failed(found)) => match planned.failed_condition(&found) {
                        Some(error) => Err(error),
                        None => {
                            planned.job.surprises += 1;
                            again.push(planned.job);
                            continue;
                        }
                    },
                    Told::Unknown(why) => Err(CommitError::Unknown(why)),
                };
                done.push((planned.job, outcome));
            }
        }
        Delivered::Not(error) => {
            core.fails(&error);
            done.extend(group.into_iter().map(|planned| (planned.job, Err(error.clone()))));
        }
    }
    let jobs: Vec<Job> = done.into_iter().map(|(job, outcome)| job.answer(outcome)).collect();
    let _ = reports.send(Report::Done(jobs));
    if !again.is_empty() {
        let _ = reports.send(Report::Again(again));
    }
}
