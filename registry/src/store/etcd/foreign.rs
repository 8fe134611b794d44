//! What lies under the prefix and is not ours to read: counted, some of it named, and left alone.

use crate::store::hashed::{HashedMap, HashedSet, KeyHash, KeyHasher};
use std::collections::BTreeSet;

/// So many keys are named.
const NAMED: usize = 16;

#[derive(Default)]
pub(super) struct Foreign {
    keys: HashedSet,
    named: BTreeSet<String>,
    /// The keys of records whose values can't be read, with the revisions of those: to whoever writes such a record it is not
    /// there, and to etcd it is.
    unreadable: HashedMap<u64>,
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).chars().take(512).collect()
}

impl Foreign {
    /// A key that is not ours, or whose value can't be read.
    pub(super) fn note(&mut self, key: &[u8], why: &str, hasher: &KeyHasher) {
        if self.keys.insert(hasher.hash(key)) {
            let shown = shown(key);
            tracing::warn!(key = shown, why, "passed over in etcd");
            if self.named.len() < NAMED {
                self.named.insert(shown);
            }
        }
    }

    /// The value of a record's key can't be read.
    pub(super) fn note_record(&mut self, key: &[u8], record: KeyHash, revision: u64, why: &str, hasher: &KeyHasher) {
        self.note(key, why, hasher);
        self.unreadable.insert(record, revision);
    }

    /// The record's value is gone, or can be read now.
    pub(super) fn forget_record(&mut self, key: &[u8], record: KeyHash, hasher: &KeyHasher) {
        self.forget(key, hasher);
        self.unreadable.remove(&record);
    }

    /// At which revision etcd has a value for the record that can't be read.
    pub(super) fn unreadable(&self, record: KeyHash) -> Option<u64> {
        self.unreadable.get(&record).copied()
    }

    /// It is gone, or can be read now.
    pub(super) fn forget(&mut self, key: &[u8], hasher: &KeyHasher) {
        if !self.keys.is_empty() && self.keys.remove(&hasher.hash(key)) {
            self.named.remove(&shown(key));
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.keys.len() as u64
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.named.iter().cloned().collect()
    }
}
