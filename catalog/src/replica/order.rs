//! The instances of one service in the order of their keys, which is the order of pages.

use smallvec::SmallVec;
use std::cmp::Ordering;

/// Handles in sorted blocks, so that inserting into a service of any size moves at most one block's worth of integers.
/// The order itself lies with the instances: every operation is given the comparison of a member with its target.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// None of them is empty. Nearly always one.
    blocks: SmallVec<[Vec<u32>; 1]>,
}

const BLOCK: usize = 512;
const FEW_BLOCKS: usize = 4;

impl Order {
    pub(super) fn first(&self) -> Option<u32> {
        self.blocks.first().and_then(|block| block.first()).copied()
    }

    /// The block and the place in it where the first member stands that is not less than the target.
    fn place(&self, compare: impl Fn(u32) -> Ordering) -> (usize, usize) {
        let block = self.blocks.partition_point(|block| compare(block[0]) == Ordering::Less).saturating_sub(1);
        let within =
            self.blocks.get(block).map(|block| block.partition_point(|&member| compare(member) == Ordering::Less));
        (block, within.unwrap_or_default())
    }

    /// The place after the last member, if the target belongs there: in a load, which comes in order, nearly all do.
    fn end(&self, compare: impl Fn(u32) -> Ordering) -> Option<(usize, usize)> {
        let block = self.blocks.last()?;
        (compare(*block.last()?) == Ordering::Less).then_some((self.blocks.len() - 1, block.len()))
    }

    pub(super) fn insert(&mut self, handle: u32, compare: impl Fn(u32) -> Ordering) {
        let (at, within) = self.end(&compare).unwrap_or_else(|| self.place(compare));
        let last = at + 1 >= self.blocks.len();
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(vec![handle]);
            return;
        };
        if block.len() < BLOCK {
            if block.len() == block.capacity() {
                // Doubling would leave a quarter unused in the mean; moving a block costs little.
                block.reserve_exact((block.len() / 4).max(2));
            }
            block.insert(within, handle);
        } else if last && within == BLOCK {
            // A load comes in order: full blocks instead of half-full ones.
            self.blocks.push(vec![handle]);
        } else {
            let mut right = block.split_off(BLOCK / 2);
            match within.checked_sub(BLOCK / 2) {
                Some(within) => right.insert(within, handle),
                None => block.insert(within, handle),
            }
            self.blocks.insert(at + 1, right);
        }
    }

    pub(super) fn remove(&mut self, handle: u32, compare: impl Fn(u32) -> Ordering) {
        // Comparing means going to the instances; looking through some blocks of integers is quicker.
        let at = if self.blocks.len() <= FEW_BLOCKS {
            self.blocks.iter().position(|block| block.contains(&handle))
        } else {
            self.blocks.partition_point(|block| compare(block[0]) != Ordering::Greater).checked_sub(1)
        };
        let Some((at, block)) = at.and_then(|at| self.blocks.get_mut(at).map(|block| (at, block))) else {
            return;
        };
        let Some(within) = block.iter().position(|&member| member == handle) else {
            return;
        };
        block.remove(within);
        let left = block.len();
        if left == 0 {
            self.blocks.remove(at);
        } else if left < BLOCK / 4 && self.blocks.get(at + 1).is_some_and(|next| left + next.len() < BLOCK / 2) {
            let next = self.blocks.remove(at + 1);
            self.blocks[at].extend(next);
        }
    }

    /// All members, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().flatten().copied()
    }

    /// The members from the target on, in order.
    pub(super) fn iter_from(&self, compare: impl Fn(u32) -> Ordering) -> impl Iterator<Item = u32> + '_ {
        let (at, within) = self.place(compare);
        self.blocks.iter().skip(at).flatten().skip(within).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn behaves_like_a_sorted_set(steps in prop::collection::vec((0..4_u8, 0..3000_u32), 0..4000)) {
            let (mut order, mut model) = (Order::default(), BTreeSet::new());
            for (kind, member) in steps {
                if kind > 0 {
                    if model.insert(member) {
                        order.insert(member, |other| other.cmp(&member));
                    }
                } else {
                    // Runs of removals let blocks shrink, merge and vanish.
                    for member in member..member + 3 {
                        order.remove(member, |other| other.cmp(&member));
                        model.remove(&member);
                    }
                }
            }
            prop_assert!(order.iter().eq(model.iter().copied()));
            prop_assert_eq!(order.first(), model.first().copied());
            for from in [0, 1000, 2999, 5000] {
                prop_assert!(order.iter_from(|other| other.cmp(&from)).eq(model.range(from..).copied()));
            }
            for member in model {
                order.remove(member, |other| other.cmp(&member));
            }
            prop_assert!(order.blocks.is_empty());
        }
    }

    #[test]
    fn a_load_in_order_fills_the_blocks() {
        let mut order = Order::default();
        for member in 0..BLOCK as u32 * 4 {
            order.insert(member, |other| other.cmp(&member));
        }
        assert_eq!(order.blocks.len(), 4);
    }
}
