//! What the writer knows about every record without reading the disk: that it exists, the number of its last change, and
//! where its value lies. Neither keys nor values are kept, so a million records take about 60 MB.

pub(super) use crate::store::hashed::{HashedMap, HashedSet, KeyHash, KeyHasher};

/// What is known of one record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    /// The number of its last change. Above the base's position it tells the row of the log, too.
    pub(super) revision: u64,
    /// The chunk of the base that holds it, for bases of even and of odd generation: while a new base is built, both the
    /// old and the new place are known, and the switch costs nothing.
    pub(super) chunk: [u32; 2],
}

/// All records that exist.
#[derive(Default)]
pub(super) struct Index {
    entries: HashedMap<Entry>,
}

impl Index {
    pub(super) fn get(&self, hash: KeyHash) -> Option<&Entry> {
        self.entries.get(&hash)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    /// A record as the base holds it.
    pub(super) fn load(&mut self, hash: KeyHash, revision: u64, generation: u32, chunk: u32) {
        let mut entry = Entry { revision, chunk: [0; 2] };
        entry.chunk[parity(generation)] = chunk;
        self.entries.insert(hash, entry);
    }

    /// A change; returns what was there, for [`Index::restore`].
    pub(super) fn change(&mut self, hash: KeyHash, exists: bool, number: u64) -> Option<Entry> {
        if exists {
            self.entries.insert(hash, Entry { revision: number, chunk: [0; 2] })
        } else {
            self.entries.remove(&hash)
        }
    }

    /// Undoes a change.
    pub(super) fn restore(&mut self, hash: KeyHash, before: Option<Entry>) {
        match before {
            Some(entry) => self.entries.insert(hash, entry),
            None => self.entries.remove(&hash),
        };
    }

    /// Notes where a record lies in a base of that generation, if it is still the same.
    pub(super) fn place(&mut self, hash: KeyHash, revision: u64, generation: u32, chunk: u32) {
        if let Some(entry) = self.entries.get_mut(&hash)
            && entry.revision == revision
        {
            entry.chunk[parity(generation)] = chunk;
        }
    }
}

impl Entry {
    /// Its chunk in the base of that generation.
    pub(super) fn chunk_in(&self, generation: u32) -> u32 {
        self.chunk[parity(generation)]
    }
}

fn parity(generation: u32) -> usize {
    (generation & 1) as usize
}
