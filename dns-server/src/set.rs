//! A set of records that costs the same to change whether it holds three or ten thousand.
//!
//! Records stand side by side, so that answers copy a window of them; a removal puts the last record into the gap.
//! Small sets are searched, large ones know each record's place. A record that several instances contribute is held
//! once and counted (an RRset has no duplicates, RFC 2181 §5).

use smallvec::SmallVec;
use std::hash::Hash;

/// Sets up to this size are searched from end to end.
const SEARCHED: usize = 16;
/// A set that had places gives them up only when it is this small, so that one at the border does not build them anew
/// with every change.
const PLACES_END: usize = 4;

/// Records, each once, with the number of its contributors.
#[derive(Debug)]
pub(crate) struct Set<R> {
    items: SmallVec<[R; 1]>,
    holders: SmallVec<[u32; 1]>,
    places: Option<Box<hashbrown::HashMap<R, u32, ahash::RandomState>>>,
}

impl<R> Default for Set<R> {
    fn default() -> Self {
        Self { items: SmallVec::new(), holders: SmallVec::new(), places: None }
    }
}

impl<R: Eq + Hash + Clone> Set<R> {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn items(&self) -> &[R] {
        &self.items
    }

    fn place(&self, record: &R) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(record).map(|&at| at as usize),
            None => self.items.iter().position(|item| item == record),
        }
    }

    /// Adds a contributor of the record; true where the record is new.
    pub(crate) fn insert(&mut self, record: &R) -> bool {
        if let Some(at) = self.place(record) {
            self.holders[at] += 1;
            return false;
        }
        if let Some(places) = &mut self.places {
            places.insert(record.clone(), self.items.len() as u32);
        }
        self.items.push(record.clone());
        self.holders.push(1);
        if self.places.is_none() && self.items.len() > SEARCHED {
            self.places = Some(Box::new(self.items.iter().cloned().zip(0..).collect()));
        }
        true
    }

    /// Takes a contributor of the record away; true where it was the last.
    pub(crate) fn remove(&mut self, record: &R) -> bool {
        let Some(at) = self.place(record) else { return false };
        self.holders[at] -= 1;
        if self.holders[at] > 0 {
            return false;
        }
        self.items.swap_remove(at);
        self.holders.swap_remove(at);
        if self.items.len() <= PLACES_END {
            self.places = None;
        }
        if let Some(places) = &mut self.places {
            places.remove(record);
            if let Some(moved) = self.items.get(at) {
                places.insert(moved.clone(), at as u32);
            }
        }
        // A set that was large for a moment must not hold its memory for good.
        if self.items.spilled() && self.items.capacity() > 64 && self.items.len() < self.items.capacity() / 4 {
            self.items.shrink_to_fit();
            self.holders.shrink_to_fit();
            if let Some(places) = &mut self.places {
                places.shrink_to_fit();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn is_a_counted_set(steps in proptest::collection::vec((any::<bool>(), 0u8..40), 0..400)) {
            let mut set = Set::default();
            let mut model = BTreeMap::<u8, u32>::new();
            for (add, record) in steps {
                if add {
                    let holders = model.entry(record).or_default();
                    *holders += 1;
                    prop_assert_eq!(set.insert(&record), *holders == 1);
                } else if let Some(holders) = model.get_mut(&record) {
                    *holders -= 1;
                    let last = *holders == 0;
                    if last {
                        model.remove(&record);
                    }
                    prop_assert_eq!(set.remove(&record), last);
                } else {
                    prop_assert!(!set.remove(&record));
                }
                let mut items = set.items().to_vec();
                items.sort_unstable();
                prop_assert_eq!(items, model.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
