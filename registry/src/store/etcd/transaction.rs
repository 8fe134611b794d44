//! Many commits in one etcd transaction, and what came of each.
//!
//! The outer transaction holds only if the *slot* is at the revision where this replica left it, and moves it on, so it is
//! applied at most once however often it is sent:
//!
//! ```text
//! If   slot is at the revision known
//! Then put the slot = id of this write
//!      for each commit: If its checks hold Then its operations Else the revisions of the checked records
//! Else read the slot
//! ```
//!
//! After a lost answer it is simply sent again. Either it is applied now, or the slot holds its id already: then it *was*
//! applied, at the slot's revision R, and what came of each commit follows from the revisions that the checked records had
//! at R - 1, because etcd evaluates all compares on the state before the transaction.
//! A commit that is for a home alone to make also checks that this replica's own key came to be when it was known to, and
//! that the key of the joins was last written when it was known to be.
//! To give up, the slot is moved on by another write under the same condition (*fenced*): if that succeeds, what was sent
//! before can't be applied any more.

use super::keys::{Keys, Place};
use super::plan::{Check, Must, Planned};
use crate::members::Fence;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use std::collections::HashMap;

/// etcd's limit of operations (`--max-txn-ops`) on any path through a transaction; a server may allow more, not less.
pub(super) const MAX_OPERATIONS: usize = 128;
/// Most bytes of one request; etcd's limit is 1.5 MiB.
pub(super) const MAX_BYTES: usize = 1 << 20;

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

    /// The latest change of any of them.
    pub(super) fn latest(&self) -> u64 {
        self.records.values().copied().max().unwrap_or(0).max(self.fence.joins)
    }
}

/// What came of one commit.
pub(super) enum Verdict {
    /// It was applied, and whether that changed anything.
    Applied(bool),
    /// A check failed; how everything that was checked is.
    Failed(Found),
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

impl Check {
    fn compare(&self, keys: &Keys) -> Compare {
        let key = keys.record(&self.text);
        match self.must {
            Must::BeAt(number) => Compare::mod_revision(key, CompareOp::Equal, revision(number)),
            Must::BeThere => Compare::version(key, CompareOp::Greater, 0),
        }
    }
}

fn compares(planned: &Planned, keys: &Keys, own: &str) -> Vec<Compare> {
    let mut compares: Vec<Compare> = planned.checks.iter().map(|check| check.compare(keys)).collect();
    if let Some(Fence { place, joins }) = planned.fence {
        // A key that does not exist has come to be at 0, and no commit is decided by that: nothing came to be at -1.
        let place = if place == 0 { -1 } else { revision(place) };
        compares.push(Compare::create_revision(keys.replica(own), CompareOp::Equal, place));
        compares.push(Compare::mod_revision(keys.joins(), CompareOp::Equal, revision(joins)));
    }
    compares
}

/// Reads of the revisions of what is checked, each once.
fn reads(planned: &Planned, keys: &Keys, own: &str, options: &GetOptions) -> Vec<TxnOp> {
    let mut seen = std::collections::HashSet::new();
    let records = planned.checks.iter().filter(|check| seen.insert(check.text.as_str()));
    let mut names: Vec<String> = records.map(|check| keys.record(&check.text)).collect();
    if planned.fence.is_some() {
        names.extend([keys.replica(own), keys.joins()]);
    }
    names.into_iter().map(|name| TxnOp::get(name, Some(options.clone()))).collect()
}

fn nested(planned: &Planned, keys: &Keys, own: &str) -> TxnOp {
    let operations: Vec<TxnOp> = planned
        .writes
        .iter()
        .map(|&place| {
            let operation = &planned.job.commit.operations[place];
            let key = keys.record(&operation.text);
            match &operation.value {
                Some((_, value)) => TxnOp::put(key, value.as_slice(), None),
                None => TxnOp::delete(key, None::<DeleteOptions>),
            }
        })
        .collect();
    let reads = reads(planned, keys, own, &GetOptions::new().with_keys_only());
    TxnOp::txn(Txn::new().when(compares(planned, keys, own)).and_then(operations).or_else(reads))
}

/// The transaction of a group that writes.
pub(super) fn write(group: &[Planned], keys: &Keys, own: &str, (slot, at): (&str, i64), id: &str) -> Txn {
    let mut then = Vec::with_capacity(1 + group.len());
    then.push(TxnOp::put(slot, id, None));
    then.extend(group.iter().map(|planned| nested(planned, keys, own)));
    Txn::new()
        .when([Compare::mod_revision(slot, CompareOp::Equal, at)])
        .and_then(then)
        .or_else([TxnOp::get(slot, None)])
}

/// The transaction of a group that only makes sure that nothing would change. It may be repeated at will.
pub(super) fn verify(group: &[Planned], keys: &Keys, own: &str) -> Txn {
    Txn::new().and_then(group.iter().map(|planned| nested(planned, keys, own)).collect::<Vec<_>>())
}

/// Takes the right to be applied from all that was sent before under this condition.
pub(super) fn fence_off(slot: &str, at: i64) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(slot, CompareOp::Equal, at)])
        .and_then([TxnOp::put(slot, "fence", None)])
        .or_else([TxnOp::get(slot, None)])
}

/// How everything that a commit checks was at a revision.
pub(super) fn look_back(planned: &Planned, keys: &Keys, own: &str, at: u64) -> Txn {
    let options = GetOptions::new().with_keys_only().with_revision(revision(at));
    Txn::new().and_then(reads(planned, keys, own, &options))
}

/// What answers to reads say.
pub(super) fn found(responses: Vec<TxnOpResponse>, keys: &Keys) -> Found {
    let mut found = Found::default();
    for response in responses {
        if let TxnOpResponse::Get(get) = response {
            for kv in get.kvs() {
                let changed = kv.mod_revision().unsigned_abs();
                match keys.place(kv.key()) {
                    Place::Record(text) => drop(found.records.insert(text.to_owned(), changed)),
                    // Only this replica's own is ever read.
                    Place::Replica(_) => found.fence.place = kv.create_revision().unsigned_abs(),
                    Place::Joins => found.fence.joins = changed,
                    Place::Epoch | Place::Schema | Place::Secret | Place::Foreign => {}
                }
            }
        }
    }
    found
}

fn verdict(response: TxnOpResponse, keys: &Keys) -> Verdict {
    let TxnOpResponse::Txn(inner) = response else { return Verdict::Failed(Found::default()) };
    if !inner.succeeded() {
        return Verdict::Failed(found(inner.op_responses(), keys));
    }
    let changed = inner.op_responses().iter().any(|response| match response {
        TxnOpResponse::Delete(delete) => delete.deleted() > 0,
        _ => true,
    });
    Verdict::Applied(changed)
}

/// Reads the answer to [`write()`] or [`verify()`]; the former's first operation is the slot's.
pub(super) fn answer(response: &TxnResponse, keys: &Keys, slots: usize) -> Answer {
    let responses = response.op_responses();
    if !response.succeeded() {
        let (at, value) = slot_of(&responses);
        return Answer::Elsewhere(at, value);
    }
    let revision = response.header().map_or(0, |header| header.revision().unsigned_abs());
    let verdicts = responses.into_iter().skip(slots).map(|response| verdict(response, keys)).collect();
    Answer::Applied(revision, verdicts)
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
