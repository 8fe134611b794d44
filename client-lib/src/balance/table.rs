//! What a pick reads: who may be asked, and how one of them is found. Made anew when any of that changes, never changed.

use super::latency::Decay;
use super::options::Policy;
use super::random::{mix, scale};
use super::ring::{Ring, place};
use super::shares::Shares;
use super::state::{Common, Entry, State};
use crate::EndpointKey;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How often the policy is asked again for an endpoint that was not tried yet, before any other is taken.
const REDRAWS: usize = 8;

/// An endpoint that may be asked.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) entry: Arc<Entry>,
    /// The entry's, one step nearer.
    pub(super) state: Arc<State>,
    /// The average share by its own.
    relief: f32,
    /// Its part of the load, so far as weights decide; all together have 1.
    pub(super) share: f64,
}

/// Who may be asked.
#[derive(Debug)]
pub(super) struct Table {
    /// Those with a share, then those that are there for second attempts only.
    pub(super) slots: Box<[Slot]>,
    /// How many have a share.
    sharing: usize,
    policy: Policy,
    choice: Choice,
    /// Too few work; these are all that there are.
    pub(super) panic: bool,
}

/// How one is found.
#[derive(Debug)]
enum Choice {
    Shares(Shares),
    Ring(Ring),
}

impl Table {
    /// The table of these endpoints with their weights. One of weight 0 is for second attempts only.
    pub(super) fn new(policy: Policy, mut endpoints: Vec<(Arc<Entry>, f64)>, panic: bool) -> Self {
        endpoints.sort_by_key(|(_, weight)| *weight <= 0.0);
        let sharing = endpoints.partition_point(|(_, weight)| *weight > 0.0);
        let total: f64 = endpoints.iter().map(|(_, weight)| weight).sum();
        let choice = if policy == Policy::ConsistentHash {
            let placed = |(entry, weight): &(Arc<Entry>, f64)| (place(entry.endpoint.key()), *weight);
            Choice::Ring(Ring::new(&endpoints[..sharing].iter().map(placed).collect::<Vec<_>>()))
        } else {
            Choice::Shares(Shares::new(&endpoints[..sharing].iter().map(|(_, weight)| *weight).collect::<Vec<_>>()))
        };
        let slot = |(entry, weight): (Arc<Entry>, f64)| Slot {
            relief: if weight > 0.0 { (total / sharing as f64 / weight) as f32 } else { 1.0 },
            share: if weight > 0.0 { weight / total } else { 0.0 },
            state: Arc::clone(&entry.state),
            entry,
        };
        Self { slots: endpoints.into_iter().map(slot).collect(), sharing, policy, choice, panic }
    }

    /// Whether it is too large for each thread to keep one.
    pub(super) fn is_large(&self) -> bool {
        matches!(self.choice, Choice::Ring(_))
    }

    /// Finds an endpoint and counts the request on it. `count` gives the number of this pick, where it is asked for.
    #[inline]
    pub(super) fn claim(
        &self,
        common: &Common,
        now: u64,
        hash: Option<u64>,
        count: impl Fn() -> usize,
    ) -> Option<&Arc<Entry>> {
        let slot = match &self.choice {
            Choice::Shares(shares) => {
                let slot = self.slots.get(self.draw(shares, common, now, count))?;
                slot.state.claim();
                slot
            }
            Choice::Ring(ring) => self.claim_on(ring, common, hash, &[])?,
        };
        Some(&slot.entry)
    }

    /// The same, but none of those that were tried.
    pub(super) fn claim_untried(
        &self,
        common: &Common,
        now: u64,
        hash: Option<u64>,
        count: impl Fn() -> usize,
        tried: &[EndpointKey],
    ) -> Option<&Arc<Entry>> {
        let slot = match &self.choice {
            Choice::Shares(shares) => {
                let drawn = (0..REDRAWS).filter_map(|_| self.slots.get(self.draw(shares, common, now, &count)));
                let slot = drawn.into_iter().find(|slot| slot.is_untried(tried));
                let slot = slot.or_else(|| self.any_untried(common, tried))?;
                slot.state.claim();
                slot
            }
            Choice::Ring(ring) => self.claim_on(ring, common, hash, tried)?,
        };
        Some(&slot.entry)
    }

    #[inline]
    fn draw(&self, shares: &Shares, common: &Common, now: u64, count: impl Fn() -> usize) -> usize {
        match self.policy {
            Policy::RoundRobin | Policy::Weighted => shares.turn(count()),
            Policy::PowerOfTwo => self.better_of_two(shares, common, now),
            Policy::Random | Policy::ConsistentHash => shares.find(common.random.next()),
        }
    }

    #[inline]
    fn better_of_two(&self, shares: &Shares, common: &Common, now: u64) -> usize {
        let (one, other) = match shares {
            Shares::Even(even) => {
                let random = common.random.next();
                let one = scale(random, even.count);
                let other = scale(random << 32, even.count.saturating_sub(1));
                // Never the same one twice.
                (one, other + usize::from(other >= one && even.count > 1))
            }
            Shares::Uneven(_) => (shares.find(common.random.next()), shares.find(common.random.next())),
        };
        let decay = common.options.decay;
        match (self.slots.get(one), self.slots.get(other)) {
            (Some(a), Some(b)) if b.cost(now, decay) < a.cost(now, decay) => other,
            _ => one,
        }
    }

    /// The first endpoint on the ring that has room.
    fn claim_on(&self, ring: &Ring, common: &Common, hash: Option<u64>, tried: &[EndpointKey]) -> Option<&Slot> {
        let hash = hash.map_or_else(|| common.random.next(), mix);
        let factor = common.options.load_factor;
        // This one included. Counted first: so the bounds of all together have room for all.
        let mut total = common.in_flight.0.fetch_add(1, Relaxed) + 1;
        let untried = || ring.from(hash).filter_map(|at| self.slots.get(at)).filter(|slot| slot.is_untried(tried));
        let with_room = untried().find(|slot| {
            // It grows under our feet where other threads pick.
            total = total.max(common.in_flight.0.load(Relaxed));
            slot.state.claim_within((factor * total as f64 * slot.share).ceil())
        });
        if with_room.is_some() {
            return with_room;
        }
        // All that have room were tried already, or other threads were faster each time.
        let any = untried().next().or_else(|| self.any_untried(common, tried));
        match any {
            Some(slot) => slot.state.claim(),
            None => drop(common.in_flight.0.fetch_sub(1, Relaxed)),
        }
        any
    }

    /// One that was not tried; with a share, if there is any.
    fn any_untried(&self, common: &Common, tried: &[EndpointKey]) -> Option<&Slot> {
        let (sharing, others) = self.slots.split_at(self.sharing);
        [sharing, others].into_iter().find_map(|slots| {
            let (before, after) = slots.split_at(scale(common.random.next(), slots.len()));
            after.iter().chain(before).find(|slot| slot.is_untried(tried))
        })
    }
}

impl Slot {
    /// What one more request here costs.
    #[inline]
    fn cost(&self, now: u64, decay: Decay) -> f32 {
        self.state.cost(now, decay, self.relief)
    }

    fn is_untried(&self, tried: &[EndpointKey]) -> bool {
        !tried.contains(self.entry.endpoint.key())
    }
}
