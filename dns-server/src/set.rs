//! A set of records in which each stands once, however many instances contribute it (an RRset has no duplicates,
//! RFC 2181 §5).

use crate::dense::Dense;
use hashbrown::HashMap;
use std::hash::Hash;

/// Records, each with the number of its contributors. Most sets have one record of one contributor: it stands in place.
#[derive(Debug, Default)]
pub(crate) enum Set<R> {
    #[default]
    Empty,
    One(R),
    Many(Box<Many<R>>),
}

/// More than one record, or one that several contribute.
#[derive(Debug)]
pub(crate) struct Many<R> {
    records: Dense<R>,
    /// How many contributors a record has beside the first. Few records have any: they are not counted in place.
    more: Option<Box<HashMap<R, u32, ahash::RandomState>>>,
}

impl<R: Eq + Hash + Clone> Set<R> {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Set::Empty)
    }

    pub(crate) fn items(&self) -> &[R] {
        match self {
            Set::Empty => &[],
            Set::One(record) => std::slice::from_ref(record),
            Set::Many(many) => many.records.items(),
        }
    }

    /// The record, where it is the only one and has one contributor.
    pub(crate) fn single(&self) -> Option<&R> {
        match self {
            Set::One(record) => Some(record),
            _ => None,
        }
    }

    /// A record with this hash for which `is` says that it is meant.
    pub(crate) fn find_by(&self, hash: &(impl Hash + ?Sized), is: impl Fn(&R) -> bool) -> Option<&R> {
        match self {
            Set::Empty => None,
            Set::One(record) => Some(record).filter(|record| is(record)),
            Set::Many(many) => many.records.find(hash, is).and_then(|at| many.records.items().get(at)),
        }
    }

    /// Adds a contributor of the record; true where the record is new.
    pub(crate) fn insert(&mut self, record: &R) -> bool {
        let many = match self {
            Set::Empty => {
                *self = Set::One(record.clone());
                return true;
            }
            Set::Many(many) => many,
            Set::One(_) => {
                let Set::One(first) = std::mem::take(self) else { return false };
                let mut records = Dense::default();
                records.push(first);
                *self = Set::Many(Box::new(Many { records, more: None }));
                return self.insert(record);
            }
        };
        if many.find(record).is_some() {
            *many.more.get_or_insert_default().entry(record.clone()).or_default() += 1;
            return false;
        }
        many.records.push(record.clone());
        true
    }

    /// Takes a contributor of the record away; true where it was the last.
    pub(crate) fn remove(&mut self, record: &R) -> bool {
        let gone = match self {
            Set::Empty => return false,
            Set::One(held) => {
                let gone = held == record;
                if gone {
                    *self = Set::Empty;
                }
                return gone;
            }
            Set::Many(many) => many.remove(record),
        };
        if let Set::Many(many) = self
            && many.more.is_none()
            && let [_] = many.records.items()
        {
            *self = Set::One(many.records.swap_remove(0));
        }
        gone
    }
}

impl<R: Eq + Hash + Clone> Many<R> {
    fn find(&self, record: &R) -> Option<usize> {
        self.records.find(record, |held| held == record)
    }

    fn remove(&mut self, record: &R) -> bool {
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
