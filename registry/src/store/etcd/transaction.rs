//! Many commits in one etcd transaction, and what came of each.
//!
//! The outer transaction holds only if the *slot* is at the revision where this replica left it, and moves it on, so it is
//! applied at most once however often it is sent:
//!
//! ```text
//! If   slot is at the revision known
//!      the checks of all commits hold
//! Then put the slot = id of this write
//!      the operations of all commits
//! Else read the slot
//! ```
//!
//! That is the *flat* form, the cheapest one for etcd. Where the slot is as it should be, but a check does not hold, nothing
//! was applied, and the same is asked in the *nested* form, in which one commit does not stand in another's way:
//!
//! ```text
//! If   slot is at the revision known
//! Then put the slot = id of this write
//!      for each commit: If its checks hold Then its operations
//! Else read the slot
//! ```
//!
//! What stood in the way of a commit is looked up afterwards, as it was at the revision before: etcd evaluates all compares
//! on the state before the transaction. Nobody pays for it whose checks hold.
//!
//! After a lost answer it is simply sent again. Either it is applied now, or the slot holds its id already: then it *was*
//! applied, at the slot's revision R, and what came of each commit follows from the revisions that the checked records had
//! at R - 1.
//!
//! Compares and operations count along each path through a transaction, so a commit of many conditions has no room for all
//! of them before its operations. What is left over is *demanded* in a transaction beside: where it does not hold, that one
//! asks for a revision that can't be, and etcd refuses the whole request before it does anything. So such a commit goes
//! alone.
//!
//! A commit that is for a home alone to make also checks that this replica's own key came to be when it was known to, and
//! that the key of the joins was last written when it was known to be.
//!
//! To give up, the slot is moved on by another write under the same condition (*fenced*): if that succeeds, what was sent
//! before can't be applied any more.

use super::decode;
use super::failure::{Failure, Outcome};
use super::keys::{Keys, Place};
use super::plan::{Check, Must, Planned};
use crate::members::Fence;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use std::collections::{BTreeSet, HashMap};

/// etcd's limit of operations (`--max-txn-ops`) on any path through a transaction; a server may allow more, not less.
pub(super) const MAX_OPERATIONS: usize = 128;
/// Most bytes of one request; etcd's limit is 1.5 MiB.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Demanded checks in one transaction beside.
const DEMANDS: usize = 100;
/// Keys that are read in one request.
const READS: usize = 100;

/// What was checked, as it is.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The revisions of the records that there are, by their keys.
    records: HashMap<String, u64>,
    /// What the view of the replicas would have to be; only where that was checked.
    pub(super) fence: Fence,
}

impl Found {
    /// The revision of a record; none where there is no such record.
    pub(super) fn record(&self, text: &str) -> Option<u64> {
        self.records.get(text).copied()
    }

    /// Adds what answers to reads say.
    pub(super) fn add(&mut self, responses: Vec<TxnOpResponse>, keys: &Keys) {
        for response in responses {
            if let TxnOpResponse::Get(get) = response {
                for kv in get.kvs() {
                    let changed = kv.mod_revision().unsigned_abs();
                    match keys.place(kv.key()) {
                        Place::Record(text) => drop(self.records.insert(text.to_owned(), changed)),
                        // Only this replica's own is ever read.
                        Place::Replica(_) => self.fence.place = kv.create_revision().unsigned_abs(),
                        Place::Joins => self.fence.joins = changed,
                        Place::Epoch | Place::Schema | Place::Secret | Place::Foreign => {}
                    }
                }
            }
        }
    }
}

/// What came of one commit, as far as the answer tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It was applied, and whether that changed anything.
    Applied(bool),
    /// A check did not hold.
    Failed,
}

/// What came of all.
pub(super) enum Answer {
    /// It was applied at a revision.
    Applied(u64, Vec<Verdict>),
    /// It was not applied by this request; the slot's revision and value.
    Elsewhere(i64, Vec<u8>),
}

fn revision(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn compares<'a>(planned: &'a Planned, checks: &'a [Check], keys: &'a Keys) -> impl Iterator<Item = Compare> + 'a {
    checks.iter().map(|check| {
        let key = keys.record(planned.text(check));
        match check.must {
            Must::BeAt(number) => Compare::mod_revision(key, CompareOp::Equal, revision(number)),
            Must::BeThere => Compare::version(key, CompareOp::Greater, 0),
        }
    })
}

fn fence_compares(fence: Fence, keys: &Keys, own: &str) -> [Compare; 2] {
    // A key that does not exist has come to be at 0, and no commit is decided by that: nothing came to be at -1.
    let place = if fence.place == 0 { -1 } else { revision(fence.place) };
    [Compare::create_revision(keys.replica(own), CompareOp::Equal, place), nobody_joined(keys, fence.joins)]
}

/// Holds if no replica has joined since.
pub(super) fn nobody_joined(keys: &Keys, since: u64) -> Compare {
    Compare::mod_revision(keys.joins(), CompareOp::Equal, revision(since))
}

fn operations<'a>(planned: &'a Planned, keys: &'a Keys) -> impl Iterator<Item = TxnOp> + 'a {
    planned.writes.iter().map(|&place| {
        let operation = &planned.job.commit.operations[place];
        let key = keys.record(&operation.text);
        match &operation.value {
            Some((_, value)) => TxnOp::put(key, value.as_slice(), None),
            None => TxnOp::delete(key, None::<DeleteOptions>),
        }
    })
}

/// Everything that must hold for a commit, but for what is demanded apart.
fn gate<'a>(planned: &'a Planned, keys: &'a Keys, own: &'a str) -> impl Iterator<Item = Compare> + 'a {
    let fence = planned.fence.into_iter().flat_map(|fence| fence_compares(fence, keys, own));
    compares(planned, planned.gate(), keys).chain(fence)
}

fn nested(planned: &Planned, keys: &Keys, own: &str) -> TxnOp {
    let compares: Vec<Compare> = gate(planned, keys, own).collect();
    TxnOp::txn(Txn::new().when(compares).and_then(operations(planned, keys).collect::<Vec<_>>()))
}

/// What fails the whole request where a check does not hold.
fn demands<'a>(group: &'a [Planned], keys: &'a Keys) -> impl Iterator<Item = TxnOp> + 'a {
    let chunks =
        group.iter().flat_map(|planned| planned.demands().chunks(DEMANDS).map(move |checks| (planned, checks)));
    chunks.map(|(planned, checks)| {
        let compares: Vec<Compare> = compares(planned, checks, keys).collect();
        let never = GetOptions::new().with_revision(i64::MAX);
        TxnOp::txn(Txn::new().when(compares).or_else([TxnOp::get(keys.epoch(), Some(never))]))
    })
}

/// Whether a request was refused because a demanded check does not hold.
pub(super) fn is_unmet(failure: &Failure) -> bool {
    failure.outcome == Outcome::Refused && failure.text.contains("future revision")
}

/// How a group that writes is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// All or none of it.
    Flat,
    /// Each commit for itself.
    Nested,
}

/// The transaction of a group that writes.
pub(super) fn write(form: Form, group: &[Planned], keys: &Keys, own: &str, (slot, at): (&str, i64), id: &str) -> Txn {
    let mut when = vec![Compare::mod_revision(slot, CompareOp::Equal, at)];
    let mut then = vec![TxnOp::put(slot, id, None)];
    match form {
        Form::Flat => {
            when.extend(group.iter().flat_map(|planned| gate(planned, keys, own)));
            then.extend(group.iter().flat_map(|planned| operations(planned, keys)));
        }
        Form::Nested => {
            then.extend(group.iter().map(|planned| nested(planned, keys, own)));
            then.extend(demands(group, keys));
        }
    }
    Txn::new().when(when).and_then(then).or_else([TxnOp::get(slot, None)])
}

/// The transaction of a group that only makes sure that nothing would change. It may be repeated at will.
pub(super) fn verify(group: &[Planned], keys: &Keys, own: &str) -> Txn {
    let nested = group.iter().map(|planned| nested(planned, keys, own));
    Txn::new().and_then(nested.chain(demands(group, keys)).collect::<Vec<_>>())
}

/// Takes the right to be applied from all that was sent before under this condition.
pub(super) fn fence_off(slot: &str, at: i64) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(slot, CompareOp::Equal, at)])
        .and_then([TxnOp::put(slot, "fence", None)])
        .or_else([TxnOp::get(slot, None)])
}

/// Reads of everything that commits check, as it was at a revision; 0 is the latest.
pub(super) fn look_back<'a>(commits: impl Iterator<Item = &'a Planned>, keys: &Keys, own: &str, at: u64) -> Vec<Txn> {
    let mut names = BTreeSet::new();
    for planned in commits {
        names.extend(planned.checks.iter().map(|check| keys.record(planned.text(check))));
        if planned.fence.is_some() {
            names.extend([keys.replica(own), keys.joins()]);
        }
    }
    let options = GetOptions::new().with_keys_only().with_revision(revision(at));
    let reads: Vec<TxnOp> = names.into_iter().map(|name| TxnOp::get(name, Some(options.clone()))).collect();
    reads.chunks(READS).map(|reads| Txn::new().and_then(reads)).collect()
}

fn has_changed(responses: &[TxnOpResponse]) -> bool {
    responses.iter().any(|response| match response {
        TxnOpResponse::Delete(delete) => delete.deleted() > 0,
        _ => true,
    })
}

fn verdict(response: &TxnOpResponse) -> Verdict {
    match response {
        TxnOpResponse::Txn(inner) if inner.succeeded() => Verdict::Applied(has_changed(&inner.op_responses())),
        _ => Verdict::Failed,
    }
}

/// Reads the answer to [`write()`].
pub(super) fn answer(form: Form, response: &TxnResponse, group: &[Planned]) -> Answer {
    let responses = response.op_responses();
    if !response.succeeded() {
        let (at, value) = slot_of(&responses);
        return Answer::Elsewhere(at, value);
    }
    // The first is the slot's.
    let mut rest = responses.get(1..).unwrap_or_default();
    let verdicts = match form {
        Form::Nested => verdicts(rest, group),
        Form::Flat => {
            let each = group.iter().map(|planned| {
                let (own, others) = rest.split_at(planned.writes.len().min(rest.len()));
                rest = others;
                Verdict::Applied(has_changed(own))
            });
            each.collect()
        }
    };
    Answer::Applied(decode::revision(response.header()), verdicts)
}

/// Reads the answer to [`verify()`]: at which revision, and what came of each commit.
pub(super) fn verified(response: &TxnResponse, group: &[Planned]) -> (u64, Vec<Verdict>) {
    (decode::revision(response.header()), verdicts(&response.op_responses(), group))
}

/// What came of nested commits; behind them may be what was demanded apart.
fn verdicts(responses: &[TxnOpResponse], group: &[Planned]) -> Vec<Verdict> {
    responses.iter().take(group.len()).map(verdict).collect()
}

/// The slot's revision and value in an answer that read it.
pub(super) fn slot_of(responses: &[TxnOpResponse]) -> (i64, Vec<u8>) {
    match responses.first() {
        Some(TxnOpResponse::Get(get)) => {
            get.kvs().first().map_or((0, Vec::new()), |kv| (kv.mod_revision(), kv.value().to_vec()))
        }
        _ => (0, Vec::new()),
    }
}
