//! What can be done for a commit before it waits for its turn: the rules of form are checked and everything is encoded in
//! the caller's own task, so that the store's one writer has less to do.

use super::hashed::{KeyHash, KeyHasher};
use super::{Action, Commit, CommitError, Durability, Expect, MAX_CONDITIONS, MAX_OPERATIONS};
use crate::members::Fence;
use fingerpost_catalog::{Key, Record};
use std::collections::HashSet;
use std::sync::Arc;

/// An operation, encoded.
pub(super) struct PreparedOperation {
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) text: String,
    /// The new value and its encoding; none for a removal.
    pub(super) value: Option<(Arc<Record>, Vec<u8>)>,
}

/// A condition, with what its record is found by.
pub(super) struct PreparedCondition {
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) text: String,
    pub(super) expect: Expect,
}

/// A commit, encoded.
pub(super) struct Prepared {
    pub(super) operations: Vec<PreparedOperation>,
    pub(super) conditions: Vec<PreparedCondition>,
    pub(super) durability: Durability,
    pub(super) fence: Option<Fence>,
    /// About how many bytes its keys and values take.
    pub(super) bytes: usize,
}

/// Checks and encodes a commit of at most so many bytes.
pub(super) fn prepare(commit: Commit, hasher: &KeyHasher, max_bytes: usize) -> Result<Prepared, CommitError> {
    let malformed = |text: String| Err(CommitError::Malformed(text));
    if commit.operations.len() > MAX_OPERATIONS {
        return malformed(format!(
            "a commit has at most {MAX_OPERATIONS} operations, not {}: split it",
            commit.operations.len()
        ));
    }
    if commit.conditions.len() > MAX_CONDITIONS {
        return malformed(format!(
            "a commit has at most {MAX_CONDITIONS} conditions, not {}: split it",
            commit.conditions.len()
        ));
    }
    let mut seen = HashSet::with_capacity(commit.operations.len());
    let mut operations = Vec::with_capacity(commit.operations.len());
    let mut bytes = 0;
    for operation in commit.operations {
        let text = operation.key.to_string();
        if text.len() > usize::from(u16::MAX) {
            return malformed(format!("a key of {} bytes is too long", text.len()));
        }
        let value = match operation.action {
            Action::Put(record) if !record.fits(&operation.key) => {
                return malformed(format!("the value for `{text}` is of another kind"));
            }
            Action::Put(record) => {
                let encoded = record.encode();
                Some((record, encoded))
            }
            Action::Delete => None,
        };
        bytes += 7 + text.len() + value.as_ref().map_or(0, |(_, encoded)| encoded.len());
        if bytes > max_bytes {
            return Err(CommitError::TooLarge { most: max_bytes });
        }
        let hash = hasher.hash(text.as_bytes());
        if !seen.insert(hash) {
            return malformed(format!("`{text}` stands twice in one commit"));
        }
        operations.push(PreparedOperation { key: operation.key, hash, text, value });
    }
    let conditions = commit.conditions.into_iter().map(|condition| {
        let text = condition.key.to_string();
        PreparedCondition { hash: hasher.hash(text.as_bytes()), key: condition.key, text, expect: condition.expect }
    });
    let (durability, fence) = (commit.durability, commit.fence);
    Ok(Prepared { conditions: conditions.collect(), operations, durability, fence, bytes })
}
