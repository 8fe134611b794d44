//! What lies under the prefix and is not ours to read: counted, some of it named, and left alone.

use crate::store::hashed::{HashedSet, KeyHasher};
use std::collections::BTreeSet;

/// So many keys are named.
const NAMED: usize = 16;

#[derive(Default)]
pub(super) struct Foreign {
    keys: HashedSet,
    named: BTreeSet<String>,
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
