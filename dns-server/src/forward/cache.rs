//! Answers that are kept, up to so many octets.
//!
//! quick_cache decides what goes (it remembers what was asked for more than once, and never scans), in shards with a
//! lock each; nothing is allocated before there is something to keep.

use crate::forward::entry::Entry;
use crate::forward::key::Key;
use quick_cache::sync::Cache as QuickCache;
use quick_cache::{Lifecycle, Weighter};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an answer is taken to weigh when the number of answers is guessed at.
const TYPICAL: usize = 400;

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Arc<Entry>> for Weight {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        (key.len() + entry.weight()) as u64
    }
}

/// Counts what had to go.
#[derive(Clone, Debug, Default)]
struct Evictions(Arc<AtomicU64>);

impl Lifecycle<Key, Arc<Entry>> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, _: Arc<Entry>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// The answers.
pub(crate) struct Cache {
    inner: QuickCache<Key, Arc<Entry>, Weight, ahash::RandomState, Evictions>,
    evictions: Evictions,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("entries", &self.inner.len()).finish_non_exhaustive()
    }
}

impl Cache {
    /// One that holds so many octets.
    pub(crate) fn new(octets: usize) -> Self {
        let evictions = Evictions::default();
        let items = (octets / TYPICAL).max(1);
        let inner = QuickCache::with(items, octets as u64, Weight, ahash::RandomState::default(), evictions.clone());
        Self { inner, evictions }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.inner.get(key)
    }

    /// Looks without counting as a use.
    pub(crate) fn peek(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.inner.peek(key)
    }

    pub(crate) fn put(&self, key: Key, entry: Arc<Entry>) {
        self.inner.insert(key, entry);
    }

    pub(crate) fn entries(&self) -> usize {
        self.inner.len()
    }

    pub(crate) fn octets(&self) -> u64 {
        self.inner.weight()
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::entry::Entry;
    use std::time::Duration;

    #[test]
    fn is_bounded_by_octets() {
        let cache = Cache::new(1 << 20);
        for number in 0..20_000u32 {
            let name = [&[8u8][..], format!("{number:08}").as_bytes(), &[0]].concat();
            let key = Key::new(&name, 1, false, false);
            let entry = Entry::failure(&key, 0, Duration::from_secs(5), Vec::new());
            cache.put(key, Arc::new(entry));
        }
        assert!(cache.octets() <= 1 << 20, "{}", cache.octets());
        assert!(cache.entries() > 3000 && cache.evictions() > 10_000, "{cache:?} {}", cache.evictions());
    }
}
