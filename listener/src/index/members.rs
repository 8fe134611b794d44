//! The endpoints of one service, each under an id of its own, whatever slices they come from.
//!
//! One pod is one instance: its endpoints in the v4 and in the v6 slice, and those that are there twice, belong together
//! by the pod's UID. Its id is the pod's name while no other member has that name (a StatefulSet's pod and its
//! successor do, for a moment), else its first address, and with a suffix where several have that. All of this follows
//! from the present objects alone, so whoever sees the same objects in another order, or after a restart, comes to the same
//! ids. Each step costs as much as the members of that name or address are many, never as the service is large.

use super::interner::{Interner, Marks, Sym};
use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

/// Where an endpoint stands: in which slice, and at which place in it.
pub(super) type Place = (Sym, u32);

/// The keys of some members: of those who would like to have one id, mostly none or one.
type Keys = SmallVec<[u64; 4]>;

#[derive(Debug)]
pub(super) struct Member {
    /// Whose endpoints these are.
    key: u64,
    /// The name it could have as its id; NONE where it has none.
    name: Sym,
    /// Its first address, as text, while it can't have the name.
    fallback: Sym,
    pub(super) id: Sym,
    pub(super) places: SmallVec<[Place; 1]>,
}

impl Member {
    /// Whether it would like to have an id.
    fn claims(&self, id: Sym) -> bool {
        !id.is_none() && (self.name == id || self.fallback == id)
    }

    /// All that it can be looked up by, but for its key.
    fn texts(&self) -> impl Iterator<Item = Sym> + use<> {
        let Self { name, fallback, id, .. } = *self;
        let others = [(fallback, fallback != name), (id, id != name && id != fallback)];
        let texts = std::iter::once((name, true)).chain(others);
        texts.filter(|(text, first)| *first && !text.is_none()).map(|(text, _)| text)
    }
}

/// There are as many of these as there are services, and most have a few members: those are searched from end to end.
#[derive(Debug, Default)]
pub(super) struct Members {
    list: Vec<Member>,
    /// Where each stands in the list, while there are many.
    numbers: Option<Box<Numbers>>,
}

/// Members up to this number are searched from end to end.
const SEARCHED: usize = 16;

/// Members' numbers in the list, by their keys and by their texts.
#[derive(Debug, Default)]
struct Numbers {
    by_key: HashTable<u32>,
    by_text: HashTable<(Sym, u32)>,
    hasher: RandomState,
}

impl Numbers {
    fn add(&mut self, list: &[Member], number: usize) {
        let Some(member) = list.get(number) else { return };
        let Self { by_key, by_text, hasher } = self;
        let key_of = |number: &u32| hasher.hash_one(list.get(*number as usize).map_or(0, |member| member.key));
        by_key.insert_unique(hasher.hash_one(member.key), number as u32, key_of);
        for text in member.texts() {
            by_text.insert_unique(hasher.hash_one(text), (text, number as u32), |(text, _)| hasher.hash_one(*text));
        }
    }

    fn remove(&mut self, list: &[Member], number: usize) {
        let Some(member) = list.get(number) else { return };
        let Self { by_key, by_text, hasher } = self;
        if let Ok(entry) = by_key.find_entry(hasher.hash_one(member.key), |&other| other as usize == number) {
            entry.remove();
        }
        for text in member.texts() {
            let found = by_text.find_entry(hasher.hash_one(text), |&other| other == (text, number as u32));
            if let Ok(entry) = found {
                entry.remove();
            }
        }
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn get(&self, key: u64) -> Option<&Member> {
        self.list.get(self.number(key)?)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Sym> {
        self.list.iter().map(|member| member.id)
    }

    /// The member of an id.
    pub(super) fn by_id(&self, id: Sym) -> Option<&Member> {
        if id.is_none() {
            return None;
        }
        let mut found = None;
        self.each_of(id, |member| {
            if member.id == id {
                found = Some(member);
            }
        });
        found
    }

    fn number(&self, key: u64) -> Option<usize> {
        let is = |member: &Member| member.key == key;
        let Some(numbers) = &self.numbers else { return self.list.iter().position(is) };
        let found =
            numbers.by_key.find(numbers.hasher.hash_one(key), |&number| self.list.get(number as usize).is_some_and(is));
        found.map(|&number| number as usize)
    }

    /// Shows those that may have a text.
    fn each_of<'a>(&'a self, text: Sym, mut show: impl FnMut(&'a Member)) {
        match &self.numbers {
            None => self.list.iter().for_each(show),
            Some(numbers) => {
                let same = numbers.by_text.iter_hash(numbers.hasher.hash_one(text));
                same.filter(|(other, _)| *other == text)
                    .filter_map(|(_, number)| self.list.get(*number as usize))
                    .for_each(&mut show);
            }
        }
    }

    /// Those who would like to have an id, but for one of them.
    fn rivals(&self, id: Sym, key: u64) -> Keys {
        let mut keys = Keys::new();
        self.each_of(id, |member| {
            if member.key != key && member.claims(id) {
                keys.push(member.key);
            }
        });
        keys
    }

    /// The one whom it concerns that another has come to want an id, or wants it no longer: who is, or was, alone with it.
    fn concerned(&self, id: Sym, key: u64) -> Option<u64> {
        match self.rivals(id, key).as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    fn change(&mut self, number: usize, change: impl FnOnce(&mut Member)) {
        if let Some(numbers) = &mut self.numbers {
            numbers.remove(&self.list, number);
        }
        if let Some(member) = self.list.get_mut(number) {
            change(member);
        }
        if let Some(numbers) = &mut self.numbers {
            numbers.add(&self.list, number);
        }
    }

    fn add(&mut self, member: Member) {
        if self.list.len() == self.list.capacity() {
            // Doubling would leave a quarter of all memory unused.
            self.list.reserve_exact((self.list.len() / 4).max(1));
        }
        self.list.push(member);
        match &mut self.numbers {
            Some(numbers) => numbers.add(&self.list, self.list.len() - 1),
            None if self.list.len() > SEARCHED => {
                let mut numbers = Box::<Numbers>::default();
                (0..self.list.len()).for_each(|number| numbers.add(&self.list, number));
                self.numbers = Some(numbers);
            }
            None => {}
        }
    }

    fn take(&mut self, number: usize) {
        let last = self.list.len() - 1;
        if last <= SEARCHED / 4 {
            self.numbers = None;
        }
        if let Some(numbers) = &mut self.numbers {
            numbers.remove(&self.list, number);
            if number != last {
                numbers.remove(&self.list, last);
            }
        }
        self.list.swap_remove(number);
        if let Some(numbers) = &mut self.numbers
            && number != last
        {
            numbers.add(&self.list, number);
        }
        // A service that was large for a moment must not hold its memory for good.
        if self.list.len() < self.list.capacity() / 2 {
            self.list.shrink_to(last + last / 4);
            if let Some(numbers) = &mut self.numbers {
                let Numbers { by_key, by_text, hasher } = &mut **numbers;
                let key_of = |number: &u32| self.list.get(*number as usize).map_or(0, |member| member.key);
                by_key.shrink_to(last + last / 4, |number| hasher.hash_one(key_of(number)));
                by_text.shrink_to(last + last / 4, |(text, _)| hasher.hash_one(*text));
            }
        }
    }

    /// Says where a member's endpoints in a slice are now, in place of those before.
    pub(super) fn put_places(&mut self, key: u64, slice: Sym, places: &[u32]) {
        let number = self.number(key).unwrap_or_else(|| {
            let none = Sym::NONE;
            self.add(Member { key, name: none, fallback: none, id: none, places: SmallVec::new() });
            self.list.len() - 1
        });
        // None of this is what it is looked up by.
        if let Some(member) = self.list.get_mut(number) {
            member.places.retain(|(other, _)| *other != slice);
            member.places.extend(places.iter().map(|&place| (slice, place)));
        }
    }

    /// Settles a member's id after its endpoints have changed; it goes where it has none any more. `name` and `address`
    /// are what its endpoints say now. All ids that it or others had or have now are added to `touched`.
    pub(super) fn settle(
        &mut self,
        strings: &mut Interner,
        key: u64,
        name: Sym,
        address: &dyn Fn(u64, &Members) -> String,
        touched: &mut Vec<Sym>,
    ) {
        let Some(number) = self.number(key) else { return };
        let Some(member) = self.list.get(number) else { return };
        let gone = member.places.is_empty();
        let name = if gone { Sym::NONE } else { name };
        let (before, fallback) = (member.name, member.fallback);
        touched.push(member.id);
        let mut concerned = Keys::new();
        if before != name {
            self.change(number, |member| member.name = name);
            concerned.extend(self.concerned(before, key));
            concerned.extend(self.concerned(name, key));
        }
        if !gone {
            self.reassess(strings, key, address, touched);
        } else {
            self.take(number);
            if let Some(other) = self.concerned(fallback, key) {
                self.rename(strings, other, touched);
            }
        }
        for other in concerned {
            self.reassess(strings, other, address, touched);
        }
        if let Some(member) = self.get(key) {
            touched.push(member.id);
        }
        touched.retain(|id| !id.is_none());
    }

    /// Whether a member may have its name, and if not, by which address it goes.
    fn reassess(
        &mut self,
        strings: &mut Interner,
        key: u64,
        address: &dyn Fn(u64, &Members) -> String,
        touched: &mut Vec<Sym>,
    ) {
        let Some(number) = self.number(key) else { return };
        let Some(&Member { name, fallback: before, .. }) = self.list.get(number) else { return };
        let alone = !name.is_none() && self.rivals(name, key).is_empty();
        let fallback = if alone { Sym::NONE } else { strings.intern(&address(key, self)) };
        if before != fallback {
            self.change(number, |member| member.fallback = fallback);
            let others = [self.concerned(before, key), self.concerned(fallback, key)];
            others.into_iter().flatten().for_each(|other| self.rename(strings, other, touched));
        }
        self.rename(strings, key, touched);
    }

    /// Gives a member the id that its claims come to.
    fn rename(&mut self, strings: &mut Interner, key: u64, touched: &mut Vec<Sym>) {
        let Some(number) = self.number(key) else { return };
        let Some(&Member { name, fallback, id: before, .. }) = self.list.get(number) else { return };
        let id = if fallback.is_none() {
            name
        } else if self.rivals(fallback, key).is_empty() {
            fallback
        } else {
            strings.intern(&suffixed(strings.text(fallback), key))
        };
        if id != before {
            self.change(number, |member| member.id = id);
            touched.extend([before, id].into_iter().filter(|id| !id.is_none()));
        }
    }

    pub(super) fn mark(&self, marks: &mut Marks) {
        for member in &self.list {
            member.texts().for_each(|text| marks.mark(text));
            member.places.iter().for_each(|(slice, _)| marks.mark(*slice));
        }
    }
}

/// The id of one of several that would go by the same address.
pub(super) fn suffixed(address: &str, key: u64) -> String {
    format!("{address}:{key:016x}")
}
