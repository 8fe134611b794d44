//! Bringing a group of commits to etcd, whatever happens on the way, and telling its callers.

use super::Core;
use super::decode;
use super::endpoints::{Pause, REQUEST};
use super::failure::{Failure, Outcome};
use super::plan::{Check, Job, Planned};
use super::sequencer::Report;
use super::transaction::{self, Answer, Form, Found, Verdict};
use crate::store::{CommitError, Committed};
use etcd_client::{Txn, TxnResponse};
use fingerpost_catalog::Position;
use futures_util::StreamExt;
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
/// Requests at a time that look up what checks found.
const LOOKS: usize = 4;
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
    Applied(Applied),
    Not(CommitError),
}

/// A transaction that was applied, or looked at.
struct Applied {
    /// The revision that it made or saw.
    revision: u64,
    /// At which revision its checks were judged; 0 is the latest.
    judged: u64,
    /// What came of each commit.
    told: Vec<Told>,
}

/// What is known of one commit of a transaction that was applied.
#[derive(Clone)]
enum Told {
    /// It was applied, and whether that changed anything.
    Applied(bool),
    /// A check did not hold, and which is not known yet.
    Failed,
    /// It was applied if its checks held.
    Open,
    /// What it was judged by can't be read any more.
    Unknown(String),
    /// The same, but it was surely not applied.
    Refused(String),
}

impl From<Verdict> for Told {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Applied(changed) => Told::Applied(changed),
            Verdict::Failed => Told::Failed,
        }
    }
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

/// Makes sure that commits would change nothing. The slot is only kept meanwhile.
pub(super) async fn verify(core: Arc<Core>, slot: Slot, group: Vec<Planned>, reports: mpsc::UnboundedSender<Report>) {
    let txn = transaction::verify(&group, &core.mirror.keys, &core.id);
    let until = Instant::now() + AWAY;
    let delivered = match core.endpoints.repeat(REQUEST, until, |client| send(client, txn.clone())).await {
        Ok(response) => {
            let (revision, verdicts) = transaction::verified(&response, &group);
            core.mirror.history.know(revision);
            let told = verdicts.into_iter().map(Told::from).collect();
            Delivered::Applied(Applied { revision, judged: revision, told })
        }
        Err(failure) if transaction::is_unmet(&failure) => unmet(&group),
        Err(failure) => Delivered::Not(CommitError::Unavailable(failure.reason())),
    };
    let _ = reports.send(Report::Free(slot));
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
    let mut form = first_form(group);
    loop {
        let place = (slot.key.as_str(), slot.at);
        let txn = transaction::write(form, group, keys, &core.id, place, &id);
        let before = core.mirror.applied();
        let sent = Instant::now();
        let failure = match core.endpoints.once(REQUEST, |client| send(client, txn)).await {
            Ok(response) => match transaction::answer(form, &response, group) {
                // A check does not hold: one by one, then.
                Answer::Elsewhere(at, _) if form == Form::Flat && at == slot.at => {
                    form = Form::Nested;
                    continue;
                }
                Answer::Applied(revision, verdicts) => {
                    slot.at = i64::try_from(revision).unwrap_or(i64::MAX);
                    core.wrote(sent.elapsed());
                    core.works();
                    if revision <= before || is_elsewhere(core, &response) {
                        core.mirror.doubt.notify_one();
                        let why = "etcd was replaced by an older state of it meanwhile";
                        return Delivered::Not(CommitError::Unknown(why.to_owned()));
                    }
                    let told = verdicts.into_iter().map(Told::from).collect();
                    return Delivered::Applied(Applied { revision, judged: revision.saturating_sub(1), told });
                }
                Answer::Elsewhere(at, value) => {
                    slot.at = at;
                    if value == id.as_bytes() {
                        return recovered(group, at);
                    }
                    // It has moved on from where everything sent so far expected it; unless somebody has cleared it away, as is
                    // done with what a dead replica left.
                    if open && at == 0 {
                        return Delivered::Not(CommitError::Unknown(
                            "this process was taken for dead meanwhile".to_owned(),
                        ));
                    }
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
            Err(failure) if transaction::is_unmet(&failure) => {
                // What was sent before may still be applied, as long as it is not known to be out of the way.
                let closed = if open { close_off(core, slot, &id).await } else { Closed::NotApplied };
                return closed.or(group, failure, unmet(group));
            }
            Err(failure) => failure,
        };
        match failure.outcome {
            Outcome::Unknown => open = true,
            Outcome::NotSent => {}
            // The answer of the request that filled the database says the same, and that one was applied.
            Outcome::NoSpace => match look(core, slot, &id).await {
                Ok(Some(at)) => return recovered(group, at),
                Ok(None) if !open => return Delivered::Not(CommitError::Full),
                Ok(None) | Err(_) => open = true,
            },
            Outcome::Compacted | Outcome::Denied | Outcome::Certificate | Outcome::Refused if !open => {
                return Delivered::Not(CommitError::Unavailable(failure.reason()));
            }
            Outcome::Compacted | Outcome::Denied | Outcome::Certificate | Outcome::Refused => {}
        }
        if !open && begun.elapsed() > AWAY {
            return Delivered::Not(CommitError::Unavailable(failure.reason()));
        }
        if open && begun.elapsed() > BUDGET {
            return give_up(core, slot, group, &id, begun, failure).await;
        }
        pause.wait().await;
    }
}

/// A group is tried first in the form in which one failing check fails all, unless one did not hold before, and may not
/// hold again.
fn first_form(group: &[Planned]) -> Form {
    let hopeful = group.iter().all(|planned| planned.demands().is_empty() && planned.job.surprises == 0);
    if hopeful { Form::Flat } else { Form::Nested }
}

/// Whether an answer is of another etcd cluster than the one that is followed.
fn is_elsewhere(core: &Core, response: &TxnResponse) -> bool {
    response.header().is_some_and(|header| header.cluster_id() != core.mirror.cluster())
}

/// Whether the slot holds this write's id, and at which revision.
async fn look(core: &Core, slot: &Slot, id: &str) -> Result<Option<i64>, Failure> {
    let read = |mut client: etcd_client::Client| async move { client.get(slot.key.as_str(), None).await };
    let response = core.endpoints.repeat(REQUEST, Instant::now() + AWAY, read).await?;
    let kv = response.kvs().first();
    Ok(kv.filter(|kv| kv.value() == id.as_bytes()).map(etcd_client::KeyValue::mod_revision))
}

/// What became of everything that was sent so far.
enum Closed {
    /// None of it was applied, or will be.
    NotApplied,
    /// It was applied at that revision of the slot.
    Applied(i64),
    Unknown,
}

impl Closed {
    /// What came of the group, if `nothing` is what came of it where nothing was applied.
    fn or(self, group: &[Planned], failure: Failure, nothing: Delivered) -> Delivered {
        match self {
            Closed::NotApplied => nothing,
            Closed::Applied(at) => recovered(group, at),
            Closed::Unknown => Delivered::Not(CommitError::Unknown(failure.reason())),
        }
    }
}

/// Makes sure that what was sent is not applied later, so that there is an outcome at all.
async fn close_off(core: &Core, slot: &mut Slot, id: &str) -> Closed {
    for _ in 0..core.endpoints.urls().len().min(3) {
        let fence = transaction::fence_off(&slot.key, slot.at);
        let Ok(response) = core.endpoints.once(REQUEST, |client| send(client, fence)).await else { continue };
        if response.succeeded() {
            slot.at = response.header().map_or(0, |header| header.revision());
            return Closed::NotApplied;
        }
        let (at, value) = transaction::slot_of(&response.op_responses());
        slot.at = at;
        return match at {
            // Somebody has cleared it away.
            0 => Closed::Unknown,
            _ if value == id.as_bytes() => Closed::Applied(at),
            // Fenced by a request before, whose answer was lost.
            _ => Closed::NotApplied,
        };
    }
    Closed::Unknown
}

/// There was no answer for too long.
async fn give_up(
    core: &Core,
    slot: &mut Slot,
    group: &[Planned],
    id: &str,
    begun: Instant,
    failure: Failure,
) -> Delivered {
    let closed = if begun.elapsed() > BELIEF { Closed::Unknown } else { close_off(core, slot, id).await };
    let unavailable = Delivered::Not(CommitError::Unavailable(failure.reason()));
    closed.or(group, failure, unavailable)
}

/// A transaction was applied at a revision, though its answer was lost.
fn recovered(group: &[Planned], at: i64) -> Delivered {
    let revision = at.unsigned_abs();
    tracing::debug!(revision, commits = group.len(), "a write without an answer was found applied");
    let told = group.iter().map(|planned| if planned.depends() { Told::Open } else { Told::Applied(true) }).collect();
    Delivered::Applied(Applied { revision, judged: revision.saturating_sub(1), told })
}

/// A group was refused because something demanded does not hold. Where it holds again by the time somebody looks, the
/// commit is simply tried again.
fn unmet(group: &[Planned]) -> Delivered {
    Delivered::Applied(Applied { revision: 0, judged: 0, told: vec![Told::Failed; group.len()] })
}

/// Looks up what the checks found that did not hold, or may not have.
async fn judge(core: &Core, group: &[Planned], applied: &mut Applied) -> Found {
    let unclear = group.iter().zip(&applied.told).filter(|(_, told)| matches!(told, Told::Failed | Told::Open));
    let reads =
        transaction::look_back(unclear.map(|(planned, _)| planned), &core.mirror.keys, &core.id, applied.judged);
    let mut found = Found::default();
    if reads.is_empty() {
        return found;
    }
    let until = Instant::now() + AWAY;
    let reading = reads
        .into_iter()
        .map(|txn| async move { core.endpoints.repeat(REQUEST, until, |client| send(client, txn.clone())).await });
    let mut reading = futures_util::stream::iter(reading).buffer_unordered(LOOKS);
    let mut failed = None;
    while let Some(read) = reading.next().await {
        match read {
            Ok(response) => {
                if applied.judged == 0 {
                    applied.revision = applied.revision.max(decode::revision(response.header()));
                }
                found.add(response.op_responses(), &core.mirror.keys);
            }
            Err(failure) => failed = Some(failure.reason()),
        }
    }
    for (planned, told) in group.iter().zip(&mut applied.told) {
        *told = match (&*told, &failed) {
            (Told::Open, Some(why)) => Told::Unknown(why.clone()),
            (Told::Failed, Some(why)) => Told::Refused(why.clone()),
            (Told::Open, None) if planned.holds(&found) => Told::Applied(true),
            (Told::Open, None) => Told::Failed,
            _ => continue,
        };
    }
    found
}

/// Up to which revision this replica must have come before a caller is told: to its own change, or to what it was refused
/// for, so that it does not try again with the same old knowledge.
fn must_show(planned: &Planned, told: &Told, found: &Found, revision: u64) -> u64 {
    match told {
        // Also where there was nothing left to delete: this replica may not know that yet.
        Told::Applied(_) if !planned.writes.is_empty() => revision,
        // Who only asks wants to know what holds now, and to see it here.
        Told::Applied(_) if planned.job.commit.operations.is_empty() => revision,
        Told::Failed => {
            let seen = |check: &Check| (check.must, found.record(planned.text(check)));
            // When it was removed is not told.
            let gone = planned.checks.iter().map(seen).any(|(must, now)| now.is_none() && !must.holds(None));
            let evicted = planned.fence.is_some() && found.fence.place == 0;
            let latest = planned.checks.iter().filter_map(|check| seen(check).1).max().unwrap_or(0);
            if gone || evicted { revision } else { latest.max(found.fence.joins) }
        }
        Told::Applied(_) | Told::Open | Told::Unknown(_) | Told::Refused(_) => 0,
    }
}

/// Tells the callers, after this replica shows what they wrote, or what they were refused for.
async fn settle(core: &Core, group: Vec<Planned>, delivered: Delivered, reports: &mpsc::UnboundedSender<Report>) {
    let (mut done, mut again) = (Vec::new(), Vec::new());
    match delivered {
        Delivered::Applied(mut applied) => {
            let found = judge(core, &group, &mut applied).await;
            let Applied { revision, told, .. } = applied;
            core.mirror.history.know(revision);
            let both = || group.iter().zip(&told);
            let changed =
                both().any(|(planned, told)| matches!(told, Told::Applied(true)) && !planned.writes.is_empty());
            let due = both().map(|(planned, told)| must_show(planned, told, &found, revision)).max();
            if let Some(due) = due.filter(|due| *due > core.mirror.applied()) {
                if !changed && due == revision {
                    // Nothing of ours changes at this revision, so the watch has to be asked.
                    core.mirror.hurry.notify_one();
                }
                core.mirror.wait_for(due, RETURN).await;
            }
            let (epoch, head) = (core.mirror.epoch(), core.mirror.head());
            let behind = core.mirror.applied() < revision;
            for (mut planned, told) in group.into_iter().zip(told) {
                let outcome = match told {
                    Told::Applied(true) if !planned.writes.is_empty() => {
                        Ok(Committed { position: Position::new(epoch, revision), changed: true })
                    }
                    Told::Applied(_) if behind && planned.job.commit.operations.is_empty() => {
                        Err(CommitError::Unavailable("this replica is behind what etcd holds".to_owned()))
                    }
                    Told::Applied(_) => Ok(Committed { position: head, changed: false }),
                    Told::Failed | Told::Open => match planned.failed_condition(&found) {
                        Some(error) => Err(error),
                        None => {
                            planned.job.surprises += 1;
                            again.push(planned.job);
                            continue;
                        }
                    },
                    Told::Unknown(why) => Err(CommitError::Unknown(why)),
                    Told::Refused(why) => Err(CommitError::Unavailable(why)),
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
