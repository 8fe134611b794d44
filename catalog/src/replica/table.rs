//! Lookup tables: from a value to its handle, where the value itself lies in a [`Slab`](super::slab::Slab).

use ahash::RandomState;
use hashbrown::HashTable;
use std::hash::Hash;

/// A hash table of handles in shards. Each shard grows on its own, so that no single insertion has to move the whole.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[HashTable<u32>]>,
    hasher: RandomState,
}

const SHARDS: usize = 64;

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashTable::new()).collect(), hasher: RandomState::new() }
    }
}

/// The table picks buckets by the lowest bits and tells neighbours apart by the highest; these are between them.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

impl Table {
    pub(super) fn find(&self, key: impl Hash, is: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.shards[shard_of(hash)].find(hash, |&handle| is(handle)).copied()
    }

    /// Adds a handle whose key is not in the table; `key_of` gives the key of any handle in it.
    pub(super) fn insert<K: Hash>(&mut self, handle: u32, key_of: impl Fn(u32) -> K) {
        let hash = self.hasher.hash_one(key_of(handle));
        let hasher = &self.hasher;
        self.shards[shard_of(hash)].insert_unique(hash, handle, |&other| hasher.hash_one(key_of(other)));
    }

    pub(super) fn remove(&mut self, key: impl Hash, handle: u32) {
        let hash = self.hasher.hash_one(key);
        if let Ok(found) = self.shards[shard_of(hash)].find_entry(hash, |&other| other == handle) {
            found.remove();
        }
    }
}
