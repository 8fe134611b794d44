//! Cheap random numbers, and hashes that are the same in every process.
//!
//! A pick needs a few random bits and can't pay a cryptographic generator for them. Each thread counts through a
//! splitmix64 sequence of its own, which is seeded from the operating system; a balancer that was given a seed counts
//! through one sequence for all threads instead.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// 2⁶⁴ divided by the golden ratio: steps of this size come back close to an earlier point as late as can be.
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits into all bits, one to one (the finaliser of splitmix64).
#[inline]
pub(super) const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A hash of bytes. Clients find the same endpoint for the same key only while this stays as it is.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let take = |state: u64, word: [u8; 8]| mix(state.wrapping_add(GOLDEN) ^ u64::from_le_bytes(word));
    let (words, rest) = bytes.as_chunks::<8>();
    // The length tells a short word from one that ends in zeroes.
    let mut state = mix(bytes.len() as u64);
    for &word in words {
        state = take(state, word);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        state = take(state, word);
    }
    mix(state)
}

/// The place of `x` among `n` equal parts of all numbers.
#[inline]
pub(super) const fn scale(x: u64, n: usize) -> usize {
    ((x as u128 * n as u128) >> 64) as usize
}

/// Where random numbers come from.
#[derive(Debug)]
pub(super) enum Random {
    /// A sequence for each thread, never the same twice.
    Threads,
    /// One sequence from a given seed.
    Seeded(AtomicU64),
}

impl Random {
    pub(super) fn new(seed: Option<u64>) -> Self {
        seed.map_or(Self::Threads, |seed| Self::Seeded(AtomicU64::new(seed)))
    }

    #[inline]
    pub(super) fn next(&self) -> u64 {
        thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
        match self {
            Self::Threads => STATE.with(|state| {
                let mut last = state.get();
                if last == 0 {
                    last = rand::random();
                }
                let next = last.wrapping_add(GOLDEN);
                state.set(next);
                mix(next)
            }),
            Self::Seeded(state) => mix(state.fetch_add(GOLDEN, Relaxed).wrapping_add(GOLDEN)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hashes_tell_keys_apart_and_stay_as_they_are() {
        let mut seen = HashSet::new();
        for length in 0..40 {
            assert!(seen.insert(hash(&vec![0; length])), "{length} zeroes");
            assert!(seen.insert(hash(&vec![1; length + 1])));
        }
        // Were these to change, clients of two versions would ask different endpoints for one key.
        assert_eq!(hash(b""), 0);
        assert_eq!(hash(b"user-4711"), 0x3728_f1db_ed11_fa1f);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_and_threads_do_not() {
        let take = |random: Random| -> Vec<u64> { (0..8).map(|_| random.next()).collect() };
        assert_eq!(take(Random::new(Some(7))), take(Random::new(Some(7))));
        assert_ne!(take(Random::new(Some(7))), take(Random::new(Some(8))));
        assert_ne!(take(Random::new(None)), take(Random::new(None)));
    }

    #[test]
    fn scaling_keeps_to_the_range() {
        assert_eq!((scale(0, 3), scale(u64::MAX, 3), scale(u64::MAX / 2, 3)), (0, 2, 1));
    }
}
