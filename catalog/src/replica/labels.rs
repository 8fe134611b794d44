//! The label index: every label pair once, and who has it.

use super::posting::{Holders, Postings};
use super::slab::Slab;
use super::table::Table;

#[derive(Debug, Default)]
struct LabelKey {
    text: Box<str>,
    /// All instances with a label of this key.
    holders: Holders,
}

#[derive(Debug, Default)]
struct Pair {
    value: Box<str>,
    key: u32,
    holders: Holders,
}

/// Labels by handle. A pair lives while an instance has it.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    keys: Slab<LabelKey>,
    key_table: Table,
    pairs: Slab<Pair>,
    pair_table: Table,
    postings: Postings,
}

impl LabelIndex {
    /// How many different pairs there are.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn postings(&self) -> &Postings {
        &self.postings
    }

    pub(super) fn key(&self, pair: u32) -> u32 {
        self.pairs[pair].key
    }

    pub(super) fn key_text(&self, pair: u32) -> &str {
        &self.keys[self.pairs[pair].key].text
    }

    pub(super) fn value(&self, pair: u32) -> &str {
        &self.pairs[pair].value
    }

    pub(super) fn find_key(&self, text: &str) -> Option<u32> {
        self.key_table.find(text, |handle| *self.keys[handle].text == *text)
    }

    pub(super) fn find_pair(&self, key: u32, value: &str) -> Option<u32> {
        self.pair_table.find((key, value), |handle| {
            let pair = &self.pairs[handle];
            pair.key == key && *pair.value == *value
        })
    }

    pub(super) fn key_holders(&self, key: u32) -> Holders {
        self.keys[key].holders
    }

    pub(super) fn pair_holders(&self, pair: u32) -> Holders {
        self.pairs[pair].holders
    }

    /// The handle of a pair. A new one must be given to an instance (by [`Self::replace`]) before anything is
    /// removed.
    pub(super) fn intern(&mut self, key: &str, value: &str) -> u32 {
        let key = self.find_key(key).unwrap_or_else(|| {
            let handle = self.keys.insert(LabelKey { text: key.into(), holders: Holders::default() });
            let keys = &self.keys;
            self.key_table.insert(handle, |handle| &*keys[handle].text);
            handle
        });
        self.find_pair(key, value).unwrap_or_else(|| {
            let handle = self.pairs.insert(Pair { value: value.into(), key, holders: Holders::default() });
            let pairs = &self.pairs;
            self.pair_table.insert(handle, |handle| (pairs[handle].key, &*pairs[handle].value));
            handle
        })
    }

    /// Records that the instance has the pairs `new` and no longer `old`.
    pub(super) fn replace(&mut self, instance: u32, old: &[u32], new: &[u32]) {
        for pair in new.iter().copied().filter(|pair| !old.contains(pair)) {
            let pair = &mut self.pairs[pair];
            self.postings.insert(&mut pair.holders, instance);
            self.postings.insert(&mut self.keys[pair.key].holders, instance);
        }
        for pair in old.iter().copied().filter(|pair| !new.contains(pair)) {
            let key = self.pairs[pair].key;
            self.postings.remove(&mut self.pairs[pair].holders, instance);
            if self.pairs[pair].holders.is_empty() {
                let gone = self.pairs.remove(pair);
                self.pair_table.remove((key, &*gone.value), pair);
            }
            if new.iter().any(|&other| self.pairs[other].key == key) {
                continue;
            }
            self.postings.remove(&mut self.keys[key].holders, instance);
            if self.keys[key].holders.is_empty() {
                let gone = self.keys.remove(key);
                self.key_table.remove(&*gone.text, key);
            }
        }
    }
}
