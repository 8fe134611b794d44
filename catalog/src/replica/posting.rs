//! Postings: which instances have a certain label, address, session or source.
//!
//! Most postings hold one instance (an address, a pod's name) and some hold nearly all (a label that everything has),
//! so there are three forms: the instance's handle in place, a short sorted list, a compressed bitmap.

use super::slab::Slab;
use roaring::RoaringBitmap;

/// A posting's contents, or where they lie in [`Postings`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holders(u32);

/// Marks a [`Holders`] that names a list; instances' handles are smaller.
const LIST: u32 = 1 << 31;
const EMPTY: u32 = u32::MAX;

/// Sorted lists longer than this become bitmaps; bitmaps that have shrunk to a quarter become lists again.
const FEW: usize = 64;

impl Default for Holders {
    fn default() -> Self {
        Self(EMPTY)
    }
}

impl Holders {
    pub(super) fn is_empty(self) -> bool {
        self.0 == EMPTY
    }

    fn list(self) -> Option<u32> {
        (self.0 & LIST != 0 && self.0 != EMPTY).then_some(self.0 & !LIST)
    }
}

#[derive(Debug)]
enum List {
    Few(Vec<u32>),
    Many(Box<RoaringBitmap>),
}

impl Default for List {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// The postings that hold more than one instance.
#[derive(Debug, Default)]
pub(super) struct Postings {
    lists: Slab<List>,
}

impl Postings {
    pub(super) fn insert(&mut self, holders: &mut Holders, instance: u32) {
        if holders.is_empty() {
            *holders = Holders(instance);
            return;
        }
        let Some(list) = holders.list() else {
            if holders.0 != instance {
                let pair = vec![holders.0.min(instance), holders.0.max(instance)];
                *holders = Holders(LIST | self.lists.insert(List::Few(pair)));
            }
            return;
        };
        match &mut self.lists[list] {
            List::Many(bitmap) => {
                bitmap.insert(instance);
            }
            List::Few(few) => {
                if let Err(place) = few.binary_search(&instance) {
                    few.insert(place, instance);
                }
                if few.len() > FEW {
                    let bitmap: RoaringBitmap = few.iter().copied().collect();
                    self.lists[list] = List::Many(Box::new(bitmap));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, holders: &mut Holders, instance: u32) {
        let Some(list) = holders.list() else {
            if holders.0 == instance {
                *holders = Holders::default();
            }
            return;
        };
        match &mut self.lists[list] {
            List::Many(bitmap) => {
                bitmap.remove(instance);
                if bitmap.len() <= FEW as u64 / 4 {
                    self.lists[list] = List::Few(bitmap.iter().collect());
                }
            }
            List::Few(few) => {
                if let Ok(place) = few.binary_search(&instance) {
                    few.remove(place);
                }
                if let &[last] = few.as_slice() {
                    self.lists.remove(list);
                    *holders = Holders(last);
                }
            }
        }
    }

    pub(super) fn len(&self, holders: Holders) -> usize {
        match holders.list().map(|list| &self.lists[list]) {
            None => usize::from(!holders.is_empty()),
            Some(List::Few(few)) => few.len(),
            Some(List::Many(bitmap)) => usize::try_from(bitmap.len()).unwrap_or(usize::MAX),
        }
    }

    /// The instances, in the order of their handles.
    pub(super) fn iter(&self, holders: Holders) -> impl Iterator<Item = u32> + '_ {
        let (mut one, mut few, mut many): (_, &[u32], _) = (None, &[], None);
        match holders.list().map(|list| &self.lists[list]) {
            None => one = (!holders.is_empty()).then_some(holders.0),
            Some(List::Few(list)) => few = list,
            Some(List::Many(bitmap)) => many = Some(bitmap.iter()),
        }
        one.into_iter().chain(few.iter().copied()).chain(many.into_iter().flatten())
    }

    /// The bitmap, where the posting is long enough to have one.
    pub(super) fn bitmap(&self, holders: Holders) -> Option<&RoaringBitmap> {
        match &self.lists[holders.list()?] {
            List::Many(bitmap) => Some(bitmap),
            List::Few(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 0..150_u32), 0..600)) {
            let (mut postings, mut holders, mut model) = (Postings::default(), Holders::default(), BTreeSet::new());
            // Mostly additions first and removals later, so that all three forms are passed in both directions.
            let half = steps.len() / 2;
            for (n, (flip, instance)) in steps.into_iter().enumerate() {
                if (n < half) != (flip && instance % 5 == 0) {
                    postings.insert(&mut holders, instance);
                    model.insert(instance);
                } else {
                    postings.remove(&mut holders, instance);
                    model.remove(&instance);
                }
                prop_assert_eq!(postings.len(holders), model.len());
            }
            prop_assert_eq!(postings.iter(holders).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(holders.is_empty(), model.is_empty());
            if model.len() < 2 {
                prop_assert_eq!(postings.lists.len(), 0);
            }
        }
    }
}
