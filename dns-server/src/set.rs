//! A set of records in which each stands once, however many instances contribute it (an RRset has no duplicates,
//! RFC 2181 §5).

use crate::dense::Dense;
use hashbrown::HashMap;
use std::hash::Hash;

/// Records, each with the number of its contributors.
#[derive(Debug)]
pub(crate) struct Set<R> {
    records: Dense<R>,
    /// How many contributors a record has beside the first. Few records have any: they are not counted in place.
    more: Option<Box<HashMap<R, u32, ahash::RandomState>>>,
}

impl<R> Default for Set<R> {
    fn default() -> Self {
        Self { records: Dense::default(), more: None }
    }
}

impl<R: Eq + Hash + Clone> Set<R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn items(&self) -> &[R] {
        self.records.items()
    }

    /// The record, where it is the only one and has one contributor.
    pub(crate) fn single(&self) -> Option<&R> {
        match self.items() {
            [record] if self.more.is_none() => Some(record),
            _ => None,
        }
    }

    fn find(&self, record: &R) -> Option<usize> {
        self.records.find(record, |held| held == record)
    }

    /// Adds a contributor of the record; true where the record is new.
    pub(crate) fn insert(&mut self, record: &R) -> bool {
        if self.find(record).is_some() {
            *self.more.get_or_insert_default().entry(record.clone()).or_default() += 1;
            return false;
        }
        self.records.push(record.clone());
        true
    }

    /// Takes a contributor of the record away; true where it was the last.
    pub(crate) fn remove(&mut self, record: &R) -> bool {
        let Some(at) = self.find(record) else { return false };
        if let Some(more) = &mut self.more
            && let Some(count) = more.get_mut(record)
        {
            *count -= 1;
            if *count == 0 {
                more.remove(record);
                if more.is_empty() {
                    self.more = None;
                }
            }
            return false;
        }
        self.records.swap_remove(at);
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
                let single = (model.len() == 1 && model.values().all(|&holders| holders == 1)).then(|| set.items()[0]);
                prop_assert_eq!(set.single().copied(), single);
            }
        }
    }
}
