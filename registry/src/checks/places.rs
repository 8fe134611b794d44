//! Who may be under way: probes take one of a bounded number of places, and who never answers keeps it until the
//! check's timeout. So no address and no service gets all of them, however many checks it has and however slow it is.
//!
//! - An address gets a few places; more would only be a burden to it.
//! - Services that wait take turns, the one with the fewest under way first, and each may have no more of them than are
//!   free. So one alone gets half of all, two get a third each, and there always is a place for one that has none.

use super::CheckKey;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// What shares places: a service, or all instances of a namespace that belong to none.
type Group = (Arc<str>, Option<Arc<str>>);

/// A run that waits for its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    pub(super) key: CheckKey,
    /// Of which job.
    pub(super) number: u64,
    /// Where it is aimed; none where that is refused, and nobody is asked.
    pub(super) address: Option<IpAddr>,
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place {
    group: Group,
    address: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    under_way: usize,
    /// When it had its latest turn.
    turn: u64,
}

#[derive(Debug, Default)]
struct Address {
    under_way: usize,
    /// Those whose turn had come, but not to this address.
    held: VecDeque<Waiting>,
}

#[derive(Debug, Default)]
struct Lines {
    /// Those in which somebody waits, or has a place.
    lines: HashMap<Group, Line>,
    /// Those in which somebody waits: the one with the fewest places first, then in turns.
    order: BTreeSet<(usize, u64, Group)>,
}

impl Lines {
    /// Changes a line, and keeps the order in step.
    fn change(&mut self, group: &Group, change: impl FnOnce(&mut Line)) {
        let line = self.lines.entry(group.clone()).or_default();
        self.order.remove(&(line.under_way, line.turn, group.clone()));
        change(line);
        if !line.waiting.is_empty() {
            self.order.insert((line.under_way, line.turn, group.clone()));
        } else if line.under_way == 0 {
            self.lines.remove(group);
        }
    }
}

/// The places, and who waits for one.
#[derive(Debug)]
pub(super) struct Places {
    free: usize,
    /// Most that an address may have.
    per_address: usize,
    lines: Lines,
    addresses: HashMap<IpAddr, Address>,
    turns: u64,
    waiting: usize,
}

fn group(key: &CheckKey) -> Group {
    (key.instance.namespace.clone(), key.instance.service.clone())
}

impl Places {
    pub(super) fn new(places: usize, per_address: usize) -> Self {
        Self {
            free: places,
            per_address: per_address.max(1),
            lines: Lines::default(),
            addresses: HashMap::new(),
            turns: 0,
            waiting: 0,
        }
    }

    /// Somebody begins to wait.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        self.waiting += 1;
        self.lines.change(&group(&waiting.key), |line| line.waiting.push_back(waiting));
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Gives a place to whoever is the next to have one.
    pub(super) fn next(&mut self) -> Option<(Waiting, Place)> {
        loop {
            let (under_way, _, group) = self.lines.order.first()?;
            // None of the others has fewer.
            if *under_way >= self.free {
                return None;
            }
            let group = group.clone();
            let (mut next, most) = (None, self.per_address);
            let addresses = &mut self.addresses;
            let turn = self.turns;
            self.lines.change(&group, |line| {
                let Some(waiting) = line.waiting.pop_front() else { return };
                if let Some(address) = waiting.address {
                    let address = addresses.entry(address).or_default();
                    if address.under_way >= most {
                        return address.held.push_back(waiting);
                    }
                    address.under_way += 1;
                }
                line.under_way += 1;
                line.turn = turn;
                next = Some(waiting);
            });
            if let Some(waiting) = next {
                self.turns += 1;
                self.free -= 1;
                self.waiting -= 1;
                let place = Place { group, address: waiting.address };
                return Some((waiting, place));
            }
        }
    }

    /// Takes a place back.
    pub(super) fn free(&mut self, place: Place) {
        self.free += 1;
        self.lines.change(&place.group, |line| line.under_way -= 1);
        let Some(at) = place.address else { return };
        let Some(address) = self.addresses.get_mut(&at) else { return };
        address.under_way -= 1;
        let held = address.held.pop_front();
        if address.under_way == 0 && address.held.is_empty() {
            self.addresses.remove(&at);
        }
        if let Some(waiting) = held {
            // It has waited already.
            self.lines.change(&group(&waiting.key), |line| line.waiting.push_front(waiting));
        }
    }

    /// Forgets those who wait for nothing any more.
    pub(super) fn retain(&mut self, keep: impl Fn(&Waiting) -> bool) {
        for address in self.addresses.values_mut() {
            address.held.retain(&keep);
        }
        for group in self.lines.lines.keys().cloned().collect::<Vec<_>>() {
            self.lines.change(&group, |line| line.waiting.retain(&keep));
        }
        // Where nobody is under way, no end will let those go on who wait for their address.
        let mut free = Vec::new();
        self.addresses.retain(|_, address| {
            if address.under_way == 0 {
                free.extend(address.held.drain(..));
            }
            address.under_way > 0
        });
        for waiting in free {
            self.lines.change(&group(&waiting.key), |line| line.waiting.push_back(waiting));
        }
        self.waiting = self.lines.lines.values().map(|line| line.waiting.len()).sum::<usize>()
            + self.addresses.values().map(|address| address.held.len()).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::{InstanceKey, Source};

    fn waiting(service: &str, number: u64, address: [u8; 4]) -> Waiting {
        let instance = InstanceKey {
            namespace: "prod".into(),
            service: Some(service.into()),
            source: Source::api(),
            id: format!("i-{number}").into(),
        };
        Waiting { key: CheckKey { instance, check: "up".into() }, number, address: Some(address.into()) }
    }

    /// Gives all places that there are to give; the services in the order of their turns.
    fn give(places: &mut Places, taken: &mut Vec<Place>) -> Vec<String> {
        let mut services = Vec::new();
        while let Some((waiting, place)) = places.next() {
            services.push(waiting.key.instance.service.unwrap().to_string());
            taken.push(place);
        }
        services
    }

    #[test]
    fn a_service_has_no_more_than_are_free() {
        let (mut places, mut taken) = (Places::new(12, 100), Vec::new());
        (0..50).for_each(|n| places.wait(waiting("slow", n, [10, 0, 0, n as u8])));
        assert_eq!(give(&mut places, &mut taken).len(), 6);
        (0..50).for_each(|n| places.wait(waiting("also", n, [10, 0, 1, n as u8])));
        assert_eq!(give(&mut places, &mut taken).len(), 3);
        (0..50).for_each(|n| places.wait(waiting("quick", n, [10, 0, 2, n as u8])));
        assert_eq!(give(&mut places, &mut taken), ["quick", "quick"], "there are places for who has none");
        // Whoever is quick gets on, again and again.
        for _ in 0..40 {
            places.free(taken.pop().unwrap());
            assert_eq!(give(&mut places, &mut taken), ["quick"]);
        }
        // When all have ended, nothing is left of them.
        while let Some(place) = taken.pop() {
            places.free(place);
            give(&mut places, &mut taken);
        }
        assert_eq!((places.waiting(), places.free, places.lines.lines.len(), places.addresses.len()), (0, 12, 0, 0));
    }

    #[test]
    fn services_take_turns() {
        let (mut places, mut taken) = (Places::new(100, 100), Vec::new());
        for service in ["a", "b", "c"] {
            (0..3).for_each(|n| places.wait(waiting(service, n, [10, 0, 0, 1])));
        }
        assert_eq!(give(&mut places, &mut taken), ["a", "b", "c", "a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn an_address_has_a_few_whoever_asks_for_it() {
        let (mut places, mut taken) = (Places::new(100, 2), Vec::new());
        for n in 0..10 {
            places.wait(waiting("a", n, [10, 0, 0, 1]));
            places.wait(waiting("b", n, [10, 0, 0, 1]));
        }
        places.wait(waiting("a", 10, [10, 0, 0, 2]));
        assert_eq!(give(&mut places, &mut taken), ["a", "b", "a"], "others pass them by");
        assert_eq!(places.waiting(), 18);
        // Each in its turn, as others end.
        let mut seen = 3;
        while let Some(place) = taken.pop() {
            places.free(place);
            seen += give(&mut places, &mut taken).len();
        }
        assert_eq!((seen, places.waiting(), places.free, places.addresses.len()), (21, 0, 100, 0));
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (mut places, mut taken) = (Places::new(2, 1), Vec::new());
        (0..10).for_each(|n| places.wait(waiting("a", n, [10, 0, 0, 1])));
        assert_eq!(give(&mut places, &mut taken).len(), 1);
        places.retain(|waiting| waiting.number == 9);
        assert_eq!(places.waiting(), 1);
        places.free(taken.pop().unwrap());
        assert_eq!(places.next().map(|(waiting, _)| waiting.number), Some(9));
    }
}
