//! From a number to an endpoint, in proportion to weights, at a cost that does not depend on how many there are.
//!
//! Each endpoint owns a stretch of the numbers from 0 to 2⁶⁴, as long as its share. A random number so finds an endpoint
//! at random. A number that goes round in steps of the golden ratio finds them in turn, evenly mixed: such steps visit
//! any stretch at nearly constant distances (the three-gap theorem), so that this is a weighted round robin without a
//! schedule and without a lock, exact to a few picks whatever the weights.

use super::random::{GOLDEN, scale};

/// Who gets which share.
#[derive(Debug)]
pub(super) enum Shares {
    /// All alike.
    Even(Even),
    /// By weight.
    Uneven(Stretches),
}

/// So many endpoints that are all alike.
#[derive(Debug)]
pub(super) struct Even {
    pub(super) count: usize,
    /// 2⁶⁴ by the count, for a remainder without a division, which takes as long as all the rest of a pick.
    inverse: u64,
}

/// The stretches of endpoints with different weights.
#[derive(Debug)]
pub(super) struct Stretches {
    /// Where each stretch ends, exclusively; the last reaches to the end.
    ends: Box<[u64]>,
    /// For each of equal parts of all numbers, which stretch its first number lies in; and the last stretch, once more.
    starts: Box<[u32]>,
}

impl Shares {
    /// Shares in proportion to `weights`, which are greater than 0.
    pub(super) fn new(weights: &[f64]) -> Self {
        let (least, most) = weights.iter().fold((f64::MAX, 0.0_f64), |(least, most), &w| (least.min(w), most.max(w)));
        if weights.len() < 2 || most - least <= most * 1e-9 {
            return Self::Even(Even::new(weights.len()));
        }
        Self::Uneven(Stretches::new(weights))
    }

    /// The endpoint that owns `x`; 0 where there is none at all.
    #[inline]
    pub(super) fn find(&self, x: u64) -> usize {
        match self {
            Self::Even(even) => scale(x, even.count),
            Self::Uneven(stretches) => stretches.find(x),
        }
    }

    /// The endpoint whose turn it is at the `count`th pick.
    #[inline]
    pub(super) fn turn(&self, count: usize) -> usize {
        match self {
            Self::Even(even) => even.remainder(count as u32),
            Self::Uneven(stretches) => stretches.find((count as u64).wrapping_mul(GOLDEN)),
        }
    }
}

impl Even {
    fn new(count: usize) -> Self {
        Self { count, inverse: (u64::MAX / count.max(1) as u64).wrapping_add(1) }
    }

    /// `turn` modulo the count (Lemire, "Faster remainder by direct computation").
    #[inline]
    fn remainder(&self, turn: u32) -> usize {
        scale(self.inverse.wrapping_mul(u64::from(turn)), self.count)
    }
}

impl Stretches {
    fn new(weights: &[f64]) -> Self {
        // 2⁶⁴, which `as` saturates to the greatest number.
        const WHOLE: f64 = 18_446_744_073_709_551_616.0;
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let mut ends: Box<[u64]> = weights
            .iter()
            .map(|weight| {
                sum += weight;
                (sum / total * WHOLE) as u64
            })
            .collect();
        if let Some(last) = ends.last_mut() {
            *last = u64::MAX;
        }
        let parts = (weights.len() * 2).next_power_of_two();
        let width = u64::MAX / parts as u64 + 1;
        let mut at = 0;
        let starts = (0..=parts)
            .map(|part| {
                let first = (part as u64).saturating_mul(width);
                while at + 1 < ends.len() && ends[at] <= first {
                    at += 1;
                }
                at as u32
            })
            .collect();
        Self { ends, starts }
    }

    #[inline]
    fn find(&self, x: u64) -> usize {
        let part = scale(x, self.starts.len() - 1);
        let (from, to) = (self.starts[part] as usize, self.starts[part + 1] as usize);
        // Mostly the part lies within one stretch, or two.
        from + self.ends[from..to].partition_point(|&end| end <= x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each is found in `count` turns.
    fn turns(shares: &Shares, endpoints: usize, from: usize, count: usize) -> Vec<u32> {
        let mut found = vec![0; endpoints];
        for turn in from..from + count {
            found[shares.turn(turn)] += 1;
        }
        found
    }

    #[test]
    fn equal_weights_take_turns() {
        let shares = Shares::new(&[7.0; 5]);
        assert!(matches!(shares, Shares::Even(Even { count: 5, .. })));
        assert_eq!(turns(&shares, 5, 3, 50), [10; 5]);
        assert_eq!(Shares::new(&[]).turn(3), 0);
    }

    #[test]
    fn remainders_are_exact() {
        for count in [1, 2, 3, 7, 64, 1000, 1001, 65_535, 1_000_003] {
            let even = Even::new(count);
            for turn in [0, 1, 999, 1000, 65_536, 123_456_789, u32::MAX - 1, u32::MAX] {
                assert_eq!(even.remainder(turn), turn as usize % count, "{turn} by {count}");
            }
        }
    }

    #[test]
    fn every_number_finds_the_stretch_that_it_lies_in() {
        for weights in [vec![1.0, 65535.0], vec![65535.0, 1.0, 1.0, 1.0], (1..200).map(f64::from).collect()] {
            let Shares::Uneven(stretches) = Shares::new(&weights) else { panic!("uneven") };
            let ends = stretches.ends.clone();
            let around = |end: &u64| [end.saturating_sub(1), *end, end.saturating_add(1)];
            for x in ends.iter().flat_map(around).chain([0, u64::MAX, u64::MAX / 2]) {
                let expected = ends.iter().position(|&end| x < end).unwrap_or(ends.len() - 1);
                assert_eq!(stretches.find(x), expected, "{x} of {weights:?}");
            }
        }
    }

    #[test]
    fn turns_are_proportional_over_any_span() {
        let weights = [1.0, 2.0, 3.0, 10.0, 100.0, 250.5];
        let total: f64 = weights.iter().sum();
        let shares = Shares::new(&weights);
        for (from, count) in [(0, 100), (12345, 1000), (999_999, 37), (1 << 40, 100_000)] {
            for (at, found) in turns(&shares, weights.len(), from, count).into_iter().enumerate() {
                let due = count as f64 * weights[at] / total;
                assert!((f64::from(found) - due).abs() < 4.0, "{at}: {found} of {due} in {count} from {from}");
            }
        }
    }

    #[test]
    fn turns_are_mixed_evenly() {
        // One of four: never more than three others' turns in a row beyond the even distance.
        let shares = Shares::new(&[1.0, 3.0]);
        let turns: Vec<usize> = (0..1000).filter(|&turn| shares.turn(turn) == 0).collect();
        for pair in turns.windows(2) {
            assert!((2..=7).contains(&(pair[1] - pair[0])), "{pair:?}");
        }
    }
}
