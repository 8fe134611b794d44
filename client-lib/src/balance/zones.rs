//! How much stays in the own zone: see the module documentation of [`balance`](super).

use std::collections::BTreeMap;

/// One endpoint, as far as zones are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located<'a> {
    pub(super) zone: Option<&'a str>,
    /// 0 where it can't be asked.
    pub(super) weight: f64,
}

/// Changes the weights of all endpoints so that the zone `own` is preferred. `overload` is how many times as much as its
/// even share an endpoint there may get.
pub(super) fn prefer(own: &str, overload: f64, endpoints: &mut [Located<'_>]) {
    // The zones that requests come from: those with endpoints, whether they work or not, and the own.
    let mut zones = BTreeMap::from([(own, 0.0)]);
    let mut nowhere = 0.0;
    for endpoint in &*endpoints {
        match endpoint.zone {
            Some(zone) => *zones.entry(zone).or_insert(0.0) += endpoint.weight,
            None => nowhere += endpoint.weight,
        }
    }
    let total = zones.values().sum::<f64>() + nowhere;
    let here = zones.get(own).copied().unwrap_or_default();
    if total <= 0.0 {
        return;
    }
    // The part of all requests that begin in each zone, as far as can be known from here.
    let even = 1.0 / zones.len() as f64;
    let stays = if here > 0.0 { (overload * here / total / even).min(1.0) } else { 0.0 };

    // The rest goes where there is more than the zone's own requests need.
    let spare = |weight: f64| (weight / total - even).max(0.0);
    let others = zones.iter().filter(|(zone, _)| **zone != own);
    let spares = others.map(|(_, &weight)| spare(weight)).sum::<f64>() + nowhere / total;
    for endpoint in endpoints {
        let (part, weight) = match endpoint.zone {
            Some(zone) if zone == own => (stays, here),
            _ if spares <= 0.0 => (0.0, 1.0),
            Some(zone) => {
                let weight = zones.get(zone).copied().unwrap_or_default();
                ((1.0 - stays) * spare(weight) / spares, weight)
            }
            None => ((1.0 - stays) * nowhere / total / spares, nowhere),
        };
        endpoint.weight = if weight > 0.0 { endpoint.weight * part / weight } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The part of a zone's requests that goes to each zone, where zone `n` has endpoints of the weight `weights[n]`
    /// together, and the last of them is no zone.
    fn parts(own: usize, overload: f64, weights: &[f64]) -> Vec<f64> {
        let names: Vec<String> = (0..weights.len()).map(|zone| zone.to_string()).collect();
        let zone = |n: usize| (n + 1 < names.len()).then(|| names[n].as_str());
        let located = |(n, &weight): (usize, &f64)| {
            [Located { zone: zone(n), weight: weight * 0.25 }, Located { zone: zone(n), weight: weight * 0.75 }]
        };
        let mut all: Vec<Located<'_>> = weights.iter().enumerate().flat_map(located).collect();
        prefer(&names[own], overload, &mut all);
        let total: f64 = all.iter().map(|endpoint| endpoint.weight).sum();
        all.chunks(2).map(|pair| (pair[0].weight + pair[1].weight) / total).collect()
    }

    #[test]
    fn stays_where_there_is_enough() {
        assert_eq!(parts(0, 1.4, &[5.0, 5.0, 5.0, 0.0]), [1.0, 0.0, 0.0, 0.0]);
        // Less than an even part, but by no more than is allowed.
        assert_eq!(parts(0, 1.4, &[4.0, 5.0, 5.0, 0.0]), [1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn spills_what_is_too_much_to_those_with_more_than_they_need() {
        let near = |found: Vec<f64>, expected: &[f64]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {expected:?}");
        };
        // A tenth of the weight for a third of the requests: 1.4 tenths of all stay, which is 42 % of the zone's.
        near(parts(0, 1.4, &[1.0, 4.5, 4.5, 0.0]), &[0.42, 0.29, 0.29, 0.0]);
        near(parts(0, 1.4, &[1.0, 1.0, 8.0, 0.0]), &[0.42, 0.0, 0.58, 0.0]);
        // Nothing works here.
        near(parts(0, 1.4, &[0.0, 5.0, 5.0, 0.0]), &[0.0, 0.5, 0.5, 0.0]);
        // Those of no zone have no requests of their own.
        near(parts(0, 1.4, &[1.0, 1.0, 2.0]), &[0.7, 0.0, 0.3]);
    }

    #[test]
    fn unknown_zones_change_nothing() {
        assert_eq!(parts(0, 1.4, &[0.0, 7.0]), [0.0, 1.0]);
        assert_eq!(parts(0, f64::INFINITY, &[1.0, 1.0, 8.0, 0.0]), [1.0, 0.0, 0.0, 0.0]);
        let mut none = [Located { zone: Some("a"), weight: 0.0 }];
        prefer("a", 1.4, &mut none);
        assert_eq!(none[0].weight, 0.0);
    }

    proptest! {
        /// The promise: while all zones have as many requests and go by this rule, no endpoint gets more than the
        /// overload allows.
        #[test]
        fn nobody_is_overloaded(
            mut weights in prop::collection::vec(0_u32..20, 2..8), overload in 1.0_f64..3.0,
        ) {
            weights[0] += 1;
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let zones = weights.len() - 1;
            let total: f64 = weights.iter().sum();
            let mut load = vec![0.0; weights.len()];
            for own in 0..zones {
                let parts = parts(own, overload, &weights);
                prop_assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{parts:?}");
                for (load, part) in load.iter_mut().zip(parts) {
                    *load += part / zones as f64;
                }
            }
            for (load, weight) in load.iter().zip(&weights) {
                prop_assert!(*load <= overload * weight / total + 1e-9, "{load} on {weight} of {total}");
            }
        }
    }
}
