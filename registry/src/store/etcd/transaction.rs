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
//! To give up, the slot is moved on by another write under the same condition (*fenced*): if that succeeds, what was sent
//! before can't be applied any more.

use super::keys::Keys;
use super::plan::{Check, Must, Planned};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use std::collections::HashMap;

/// etcd's limit of operations (`--max-txn-ops`) on any path through a transaction; a server may allow more, not less.
pub(super) const MAX_OPERATIONS: usize = 128;
/// Most bytes of one request; etcd's limit is 1.5 MiB.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// What came of one commit.
pub(super) enum Verdict {
    /// It was applied, and whether that changed anything.
    Applied(bool),
    /// A check failed; the revisions of the checked records.
    Failed(HashMap<String, u64>),
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

/// Reads of the checked records' revisions, each once.
fn reads(checks: &[Check], keys: &Keys) -> Vec<TxnOp> {
    let mut seen = std::collections::HashSet::new();
    checks
        .iter()
        .filter(|check| seen.insert(check.text.as_str()))
        .map(|check| TxnOp::get(keys.record(&check.text), Some(GetOptions::new().with_keys_only())))
        .collect()
}

fn nested(planned: &Planned, keys: &Keys) -> TxnOp {
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
    let compares: Vec<Compare> = planned.checks.iter().map(|check| check.compare(keys)).collect();
    TxnOp::txn(Txn::new().when(compares).and_then(operations).or_else(reads(&planned.checks, keys)))
}

/// The transaction of a group that writes.
pub(super) fn write(group: &[Planned], keys: &Keys, slot: &str, at: i64, id: &str) -> Txn {
    let mut then = Vec::with_capacity(1 + group.len());
    then.push(TxnOp::put(slot, id, None));
    then.extend(group.iter().map(|planned| nested(planned, keys)));
    Txn::new()
        .when([Compare::mod_revision(slot, CompareOp::Equal, at)])
        .and_then(then)
        .or_else([TxnOp::get(slot, None)])
}

/// The transaction of a group that only makes sure that nothing would change. It may be repeated at will.
pub(super) fn verify(group: &[Planned], keys: &Keys) -> Txn {
    Txn::new().and_then(group.iter().map(|planned| nested(planned, keys)).collect::<Vec<_>>())
}

/// Takes the right to be applied from all that was sent before under this condition.
pub(super) fn fence(slot: &str, at: i64) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(slot, CompareOp::Equal, at)])
        .and_then([TxnOp::put(slot, "fence", None)])
        .or_else([TxnOp::get(slot, None)])
}

/// What the revisions of the checked records were at a revision.
pub(super) fn look_back(checks: &[Check], keys: &Keys, at: u64) -> Txn {
    let mut seen = std::collections::HashSet::new();
    let options = GetOptions::new().with_keys_only().with_revision(revision(at));
    let gets: Vec<TxnOp> = checks
        .iter()
        .filter(|check| seen.insert(check.text.as_str()))
        .map(|check| TxnOp::get(keys.record(&check.text), Some(options.clone())))
        .collect();
    Txn::new().and_then(gets)
}

/// The revisions in answers to reads, by the records' keys.
pub(super) fn revisions(responses: Vec<TxnOpResponse>, keys: &Keys) -> HashMap<String, u64> {
    let root = keys.records();
    let mut found = HashMap::new();
    for response in responses {
        if let TxnOpResponse::Get(get) = response {
            for kv in get.kvs() {
                if let Some(text) = kv.key().strip_prefix(root.as_bytes()).and_then(|key| std::str::from_utf8(key).ok())
                {
                    found.insert(text.to_owned(), kv.mod_revision().unsigned_abs());
                }
            }
        }
    }
    found
}

fn verdict(response: TxnOpResponse, keys: &Keys) -> Verdict {
    let TxnOpResponse::Txn(inner) = response else { return Verdict::Failed(HashMap::new()) };
    if !inner.succeeded() {
        return Verdict::Failed(revisions(inner.op_responses(), keys));
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
