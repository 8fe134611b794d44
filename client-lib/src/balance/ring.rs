//! A ring of hashes, on which every endpoint has points in proportion to its weight.
//!
//! A key belongs to the endpoint whose point is the next one from the key's hash. Where the points of an endpoint lie
//! depends on its name alone, and how many they are on its weight (and, in steps of two, on the average weight): so an
//! endpoint that comes takes only those keys that it is to have, and one that goes leaves its keys to all the others.

use super::random::{GOLDEN, hash, mix, scale};
use crate::EndpointKey;

/// Points of an endpoint of average weight, at most; at least half as many. With 100, shares differ by some 10 %.
const POINTS: f64 = 128.0;

/// The points of all endpoints.
#[derive(Debug)]
pub(super) struct Ring {
    /// Each point's place and its endpoint, sorted.
    points: Box<[(u64, u32)]>,
    /// For each of equal parts of the ring, the first point in it; and the end.
    starts: Box<[u32]>,
}

/// The start of an endpoint's points.
pub(super) fn place(key: &EndpointKey) -> u64 {
    // Not only the sum of both: `a` with `bc` is not `ab` with `c`.
    mix(hash(key.source().as_str().as_bytes()).rotate_left(32) ^ hash(key.id().as_bytes()))
}

/// How many points an endpoint of that weight has. Fractions count for some endpoints and not for others, always the
/// same ones, so that the sum is right and none loses a point by growing.
fn count(place: u64, weight: f64) -> u32 {
    let luck = (mix(place) >> 32) as f64 / (1_u64 << 32) as f64;
    (weight + luck) as u32
}

impl Ring {
    /// The ring of endpoints with these places and weights, which are greater than 0.
    pub(super) fn new(endpoints: &[(u64, f64)]) -> Self {
        let mean = endpoints.iter().map(|(_, weight)| weight).sum::<f64>() / endpoints.len().max(1) as f64;
        // A power of two, so that points change only where the mean does by much.
        let factor = (POINTS / mean).log2().floor().exp2();
        let of = |&(place, weight): &(u64, f64)| {
            (0..count(place, weight * factor))
                .map(move |number| mix(place.wrapping_add((u64::from(number) + 1).wrapping_mul(GOLDEN))))
        };

        let total: usize = endpoints.iter().map(|endpoint| of(endpoint).len()).sum();
        let parts = total.next_power_of_two();
        // The points are spread evenly: sorted into as many parts as there are, few of them share one.
        let mut starts = vec![0_u32; parts + 1];
        for point in endpoints.iter().flat_map(of) {
            starts[scale(point, parts) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut free = starts.clone();
        let mut points = vec![(0, 0); total].into_boxed_slice();
        for (number, endpoint) in endpoints.iter().enumerate() {
            for point in of(endpoint) {
                let free = &mut free[scale(point, parts)];
                points[*free as usize] = (point, number as u32);
                *free += 1;
            }
        }
        for part in starts.windows(2) {
            points[part[0] as usize..part[1] as usize].sort_unstable();
        }
        Self { points, starts: starts.into_boxed_slice() }
    }

    /// The endpoints from `hash` on, once around; each comes as often as it has points.
    #[inline]
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let mut at = self.starts[scale(hash, self.starts.len() - 1)] as usize;
        while self.points.get(at).is_some_and(|&(point, _)| point < hash) {
            at += 1;
        }
        self.points[at..].iter().chain(&self.points[..at]).map(|&(_, endpoint)| endpoint as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::Source;

    fn endpoints(weights: &[f64]) -> Vec<(u64, f64)> {
        let place = |n| place(&EndpointKey::new(Source::api(), &format!("web-{n}")));
        weights.iter().enumerate().map(|(n, &weight)| (place(n), weight)).collect()
    }

    #[test]
    fn a_hash_belongs_to_the_next_point() {
        let ring = Ring::new(&endpoints(&[100.0, 30.0, 250.0]));
        assert!(ring.points.is_sorted());
        for n in 0..1000 {
            let hash = mix(n);
            let next = ring.points.iter().find(|(point, _)| *point >= hash).unwrap_or(&ring.points[0]);
            assert_eq!(ring.from(hash).next(), Some(next.1 as usize));
            assert_eq!(ring.from(hash).count(), ring.points.len());
        }
        for &(point, endpoint) in &ring.points {
            assert_eq!(ring.from(point).next(), Some(endpoint as usize));
        }
        assert_eq!(ring.from(u64::MAX).next(), Some(ring.points[0].1 as usize));
    }

    #[test]
    fn points_are_proportional_and_bounded_whatever_the_weights() {
        for unit in [0.001, 1.0, 100.0, 65535.0] {
            let ring = Ring::new(&endpoints(&[unit, 2.0 * unit, 3.0 * unit, 4.0 * unit]));
            let total = ring.points.len();
            assert!((4 * 64..=4 * 129).contains(&total), "{total} points");
            for endpoint in 0..4 {
                let own = ring.points.iter().filter(|(_, owner)| *owner == endpoint).count();
                let due = total as f64 * f64::from(endpoint + 1) / 10.0;
                assert!((own as f64 - due).abs() < 2.0, "{own} of {due}");
            }
        }
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        assert_eq!(Ring::new(&[]).from(5).next(), None);
    }

    #[test]
    fn tiny_weights_have_points_in_sum() {
        // A thousandth of the average each: together they are to have as much as one.
        let ring = Ring::new(&endpoints(&[vec![1.0; 1000], vec![1000.0; 1000]].concat()));
        let own = ring.points.iter().filter(|(_, owner)| *owner < 1000).count();
        let due = ring.points.len() as f64 / 1001.0;
        assert!((own as f64 - due).abs() < 4.0 * due.sqrt(), "{own} of {due}");
    }
}
