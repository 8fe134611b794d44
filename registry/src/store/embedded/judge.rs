//! Judging a group of commits, one after the other, each on what the earlier ones of the group leave behind.
//!
//! A commit that fails does not touch the others. The index is changed at once and restored should the group not reach
//! the disk; until then nobody but the writer sees any of it.

use super::codec;
use super::disk::Trouble;
use super::inbox::Job;
use super::index::{Entry, Index, KeyHash};
use super::tables::Base;
use super::values::{LogRow, Values, append, find_in_rows};
use crate::store::prepare::{Prepared, PreparedOperation};
use crate::store::{CommitError, Committed, Durability, Expect};
use fingerpost_catalog::{Change, ChangeSet, Epoch, Position, Record};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A reply that waits for the group's fate.
pub(super) struct Answer {
    reply: oneshot::Sender<Result<Committed, CommitError>>,
    outcome: Result<Committed, CommitError>,
    /// Whether the outcome holds only if the group is applied.
    depends: bool,
}

/// A judged group.
#[derive(Default)]
pub(super) struct Group {
    pub(super) rows: VecDeque<LogRow>,
    /// What to publish, with the bytes that each counts for.
    pub(super) sets: Vec<(Arc<ChangeSet>, usize)>,
    pub(super) answers: Vec<Answer>,
    /// Whether someone waits for the disk.
    pub(super) durable: bool,
    undo: Vec<(KeyHash, Option<Entry>)>,
}

impl Group {
    /// The number of its last commit that changed something.
    pub(super) fn last(&self) -> Option<u64> {
        self.rows.back().map(LogRow::last)
    }

    /// Takes back what it changed in the index.
    pub(super) fn undo(&mut self, index: &mut Index) {
        for (hash, before) in self.undo.drain(..).rev() {
            index.restore(hash, before);
        }
    }

    /// Tells everyone how it went; with an error, those whose outcome rests on the group get that.
    pub(super) fn answer(&mut self, error: Option<&CommitError>) {
        for answer in self.answers.drain(..) {
            let outcome = match error {
                Some(error) if answer.depends => Err(error.clone()),
                _ => answer.outcome,
            };
            // The caller may have left; what it asked for is done all the same.
            let _ = answer.reply.send(outcome);
        }
    }
}

/// What commits are judged by.
pub(super) struct Judge<'a> {
    pub(super) epoch: Epoch,
    /// The number before the group's first.
    pub(super) head: u64,
    pub(super) index: &'a mut Index,
    pub(super) base: Base,
    /// What is visible but not yet on disk.
    pub(super) unsynced: &'a VecDeque<LogRow>,
    pub(super) values: &'a Values,
}

impl Judge<'_> {
    /// Judges commits in their order. An error means that the disk can't be read; the group says what to undo.
    pub(super) fn judge(&mut self, jobs: Vec<Job>, group: &mut Group) -> Result<(), Trouble> {
        let mut jobs = jobs.into_iter();
        while let Some(Job { commit, reply }) = jobs.next() {
            let durable = commit.durability == Durability::Durable;
            let verdict = match self.one(commit, group) {
                Ok(verdict) => verdict,
                Err(trouble) => {
                    let error = CommitError::Unavailable(trouble.to_string());
                    let rest = std::iter::once(reply).chain(jobs.map(|job| job.reply));
                    group.answers.extend(rest.map(|reply| Answer {
                        reply,
                        outcome: Err(error.clone()),
                        depends: true,
                    }));
                    return Err(trouble);
                }
            };
            // What changes nothing may rest on a relaxed commit, and then waits for that to be on disk.
            let waits = durable && verdict.is_ok();
            group.durable |= waits;
            let depends = !group.rows.is_empty() || (waits && !self.unsynced.is_empty());
            group.answers.push(Answer { reply, outcome: verdict, depends });
        }
        Ok(())
    }

    fn one(&mut self, commit: Prepared, group: &mut Group) -> Result<Result<Committed, CommitError>, Trouble> {
        for condition in commit.conditions {
            let actual = self.index.get(condition.hash).map(|entry| entry.revision);
            let holds = match condition.expect {
                Expect::Absent => actual.is_none(),
                Expect::Present => actual.is_some(),
                Expect::At(number) => actual == Some(number),
            };
            if !holds {
                return Ok(Err(CommitError::Condition { key: condition.key, actual }));
            }
        }

        let mut encoded = Vec::with_capacity(2 + commit.bytes);
        codec::put_commit(&mut encoded, 0);
        let mut changes = Vec::with_capacity(commit.operations.len());
        let mut touched = Vec::with_capacity(commit.operations.len());
        // What a change holds in memory is about three times its encoding.
        let mut bytes = 128;
        for operation in commit.operations {
            if !self.changes(&operation, group)? {
                continue;
            }
            let value = operation.value.as_ref().map(|(_, value)| value.as_slice());
            codec::put_operation(&mut encoded, &operation.text, value);
            bytes += 128 + 3 * (operation.text.len() + value.map_or(0, <[u8]>::len));
            touched.push((operation.hash, operation.value.is_some()));
            let record = operation.value.map(|(record, _)| record);
            changes.push(Change { key: operation.key, record });
        }
        if changes.is_empty() {
            let position = Position::new(self.epoch, self.head);
            return Ok(Ok(Committed { position, changed: false }));
        }

        self.head += 1;
        let position = Position::new(self.epoch, self.head);
        if let Some(place) = encoded.first_chunk_mut::<2>() {
            // At most MAX_OPERATIONS.
            *place = (changes.len() as u16).to_le_bytes();
        }
        append(&mut group.rows, self.head, &encoded);
        for (hash, exists) in touched {
            let before = self.index.change(hash, exists, self.head);
            group.undo.push((hash, before));
        }
        group.sets.push((Arc::new(ChangeSet { position, changes }), bytes));
        Ok(Ok(Committed { position, changed: true }))
    }

    /// Whether an operation changes anything.
    fn changes(&self, operation: &PreparedOperation, group: &Group) -> Result<bool, Trouble> {
        let Some(entry) = self.index.get(operation.hash) else { return Ok(operation.value.is_some()) };
        let Some((record, new)) = &operation.value else { return Ok(true) };
        let Some(old) = self.value(entry, operation.text.as_bytes(), group)? else {
            tracing::warn!(key = operation.text, revision = entry.revision, "a value is not where it should be");
            return Ok(true);
        };
        // A value that this version can't read is replaced like any other.
        Ok(*new != old && Record::decode(&operation.key, &old).ok().is_none_or(|old| **record != old))
    }

    fn value(&self, entry: &Entry, key: &[u8], group: &Group) -> Result<Option<Vec<u8>>, Trouble> {
        find_in_rows(&group.rows, entry.revision, key)
            .or_else(|| find_in_rows(self.unsynced, entry.revision, key))
            .unwrap_or_else(|| self.values.get(entry, key, &self.base))
    }
}
