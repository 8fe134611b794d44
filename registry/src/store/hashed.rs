//! Keys by their hashes: indexes over millions of records that keep no keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// A key's place in an index: 128 bits of a hash that is keyed anew in every process, so that two keys neither meet by
/// chance nor by intent.
pub(super) type KeyHash = u128;

/// Makes [`KeyHash`]es.
#[derive(Clone)]
pub(super) struct KeyHasher(RandomState, RandomState);

impl KeyHasher {
    pub(super) fn new() -> Self {
        Self(RandomState::new(), RandomState::new())
    }

    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        let half = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write(key);
            u128::from(hasher.finish())
        };
        half(&self.0) << 64 | half(&self.1)
    }
}

/// A hasher of what is a hash already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// A map by [`KeyHash`].
pub(super) type HashedMap<T> = HashMap<KeyHash, T, BuildHasherDefault<AsIs>>;
/// A set of [`KeyHash`]es.
pub(super) type HashedSet = std::collections::HashSet<KeyHash, BuildHasherDefault<AsIs>>;
