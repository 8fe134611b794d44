//! From a snapshot, and from what is remembered of its endpoints, to the table that picks read.

use super::ejection::{Record, judge};
use super::options::{Options, Policy};
use super::state::{Common, Entry, NEVER, State};
use super::table::Table;
use super::zones::{Located, prefer};
use crate::{Endpoint, Endpoints};
use std::sync::Arc;

/// The least part of its share that an endpoint has in its slow start.
const SLOWEST: f64 = 0.1;
/// Into how many steps a slow start is divided at most.
const STEPS: u64 = 50;
/// How long such a step takes at least, in nanoseconds: each makes a new table.
const SHORTEST_STEP: u64 = 100_000_000;

/// An endpoint of the present snapshot, and what is remembered of it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) entry: Arc<Entry>,
    pub(super) ejections: Record,
    /// When its slow start began, while that lasts.
    started: Option<u64>,
}

/// All endpoints of the present snapshot, sorted by key.
#[derive(Debug, Default)]
pub(super) struct Plan {
    members: Vec<Member>,
    /// There was a snapshot already.
    filled: bool,
}

impl Plan {
    /// A plan without endpoints.
    pub(super) const fn new() -> Self {
        Self { members: Vec::new(), filled: false }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether this snapshot is the one that it has already.
    pub(super) fn is_of(&self, endpoints: &Endpoints) -> bool {
        let same = |(member, endpoint): (&Member, &Arc<Endpoint>)| Arc::ptr_eq(&member.entry.endpoint, endpoint);
        self.filled && self.members.len() == endpoints.len() && self.members.iter().zip(endpoints).all(same)
    }

    /// Takes a snapshot over. What is known of an endpoint stays while it stays where it is: one of the same name at
    /// other addresses is another process.
    pub(super) fn update(&mut self, endpoints: &Endpoints, common: &Arc<Common>, now: u64) {
        let mut before = std::mem::take(&mut self.members).into_iter().peekable();
        self.members.reserve(endpoints.len());
        for endpoint in endpoints {
            while before.next_if(|member| member.entry.endpoint.key() < endpoint.key()).is_some() {}
            let known = before
                .next_if(|member| member.entry.endpoint.key() == endpoint.key())
                .filter(|member| member.entry.endpoint.is_at_the_place_of(endpoint));
            self.members.push(match known {
                Some(known) => known.told(endpoint, now),
                None => Member {
                    entry: Arc::new(Entry {
                        endpoint: Arc::clone(endpoint),
                        state: Arc::new(State::new(Arc::clone(common))),
                    }),
                    ejections: Record::default(),
                    started: self.filled.then_some(now),
                },
            });
        }
        self.filled = true;
    }

    /// The table for this moment, and when another one is due.
    pub(super) fn table(&mut self, options: &Options, now: u64) -> (Table, u64) {
        let ejections = options.ejection.as_ref();
        let due = ejections.map_or(NEVER, |rule| judge(&mut self.members, rule, now));
        let due = due.min(self.start_slowly(options.slow_start, now));

        let (chosen, panic) = self.choose(options.panic_threshold);
        let mut weights: Vec<Located<'_>> = self
            .members
            .iter()
            .zip(&chosen)
            .map(|(member, &chosen)| Located {
                zone: member.entry.endpoint.zone(),
                weight: if chosen { member.weight(options, now) } else { 0.0 },
            })
            .collect();
        // In a panic nobody knows what a zone can bear.
        if let (Some(zone), false) = (&options.zone, panic) {
            prefer(zone, options.zone_overload, &mut weights);
        }
        let endpoints = self.members.iter().zip(&weights).zip(&chosen).filter(|(_, chosen)| **chosen);
        let endpoints = endpoints.map(|((member, located), _)| (Arc::clone(&member.entry), located.weight));
        (Table::new(options.policy, endpoints.collect(), panic), due)
    }

    /// Ends the slow starts whose time is over. Returns when the next step of one is due.
    fn start_slowly(&mut self, window: Option<u64>, now: u64) -> u64 {
        let step = window.map_or(0, |window| (window / STEPS).max(SHORTEST_STEP));
        let mut due = NEVER;
        for member in &mut self.members {
            let Some(started) = member.started else { continue };
            let end = started.saturating_add(window.unwrap_or_default());
            if end <= now {
                member.started = None;
            } else {
                due = due.min(end).min(now.saturating_add(step));
            }
        }
        due
    }

    /// Which endpoints may be asked, and whether that is a panic.
    fn choose(&self, threshold: f64) -> (Vec<bool>, bool) {
        let which = |rule: &dyn Fn(&Member) -> bool| -> Vec<bool> { self.members.iter().map(rule).collect() };
        let count = |chosen: &[bool]| chosen.iter().filter(|chosen| **chosen).count();
        let in_use = |member: &Member| !member.entry.endpoint.is_withdrawn();
        // Who declares a weight of 0 wants no load, as long as there is anybody else.
        let any_weight = self.members.iter().any(|member| in_use(member) && member.entry.endpoint.weight() > 0);
        let in_use = |member: &Member| in_use(member) && (!any_weight || member.entry.endpoint.weight() > 0);

        let works = which(&|member| in_use(member) && member.works());
        let working = count(&works);
        let broken = count(&which(&|member| in_use(member) && member.is_broken()));
        let panic = threshold > 0.0 && (working as f64) < threshold * (working + broken) as f64;
        if working > 0 && !panic {
            return (works, false);
        }
        if working == 0 {
            let spare = which(&|member| !member.entry.endpoint.is_withdrawn() && member.works());
            if threshold == 0.0 || count(&spare) > 0 {
                return (spare, false);
            }
        }
        let all = which(&in_use);
        let any = count(&all) > 0;
        (all, any)
    }
}

impl Member {
    /// The same with what the registry says now.
    fn told(mut self, endpoint: &Arc<Endpoint>, now: u64) -> Self {
        if !Arc::ptr_eq(&self.entry.endpoint, endpoint) {
            if endpoint.is_usable() && !self.entry.endpoint.is_usable() {
                self.started = Some(now);
            }
            self.entry = Arc::new(Entry { endpoint: Arc::clone(endpoint), state: Arc::clone(&self.entry.state) });
        }
        self
    }

    /// Works, so far as the registry and its latest requests say.
    fn works(&self) -> bool {
        self.entry.endpoint.is_usable() && !self.ejections.is_ejected()
    }

    /// Was found not to work. One of which nobody has said anything yet was not.
    fn is_broken(&self) -> bool {
        self.ejections.is_ejected() || self.entry.endpoint.health() == fingerpost_catalog::Health::Critical
    }

    /// Its share of the load beside the others', greater than 0.
    fn weight(&self, options: &Options, now: u64) -> f64 {
        let weight = match options.policy {
            Policy::Random | Policy::RoundRobin => 1.0,
            Policy::Weighted | Policy::PowerOfTwo | Policy::ConsistentHash => {
                // All are 0, where one of 0 is asked at all.
                f64::from(self.entry.endpoint.weight().max(1))
            }
        };
        let started = match (self.started, options.slow_start) {
            (Some(started), Some(window)) => now.saturating_sub(started) as f64 / window as f64,
            _ => 1.0,
        };
        weight * started.clamp(SLOWEST, 1.0)
    }
}

impl Endpoint {
    /// Whether it is reached as `other` is.
    fn is_at_the_place_of(&self, other: &Self) -> bool {
        self.addresses() == other.addresses() && self.ports() == other.ports()
    }
}
