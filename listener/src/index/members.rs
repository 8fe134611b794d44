//! The endpoints of one service, each under an id of its own, whatever slices they come from.
//!
//! One pod is one instance: its endpoints in the v4 and in the v6 slice, and those that are there twice, belong together
//! by the pod's UID. Its id is the pod's name while no other member has that name (a StatefulSet's pod and its
//! successor do, for a moment), else its first address, and with a suffix where several have that. All of this follows
//! from the present objects alone, so whoever sees the same objects in another order, or after a restart, comes to the same
//! ids. Each step costs as much as the members of that name or address are many, never as the service is large.

use super::interner::{Interner, Marks, Sym};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Where an endpoint stands: in which slice, and at which place in it.
pub(super) type Place = (Sym, u32);

type Numbers<K, V> = HashMap<K, V, ahash::RandomState>;

#[derive(Debug)]
pub(super) struct Member {
    /// The name it could have as its id; NONE where it has none.
    name: Sym,
    /// Its first address, as text, while it can't have the name.
    fallback: Sym,
    pub(super) id: Sym,
    pub(super) places: SmallVec<[Place; 1]>,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    members: Numbers<u64, Member>,
    /// Who would like to have an id.
    claims: Numbers<Sym, SmallVec<[u64; 1]>>,
    /// Ids with a suffix.
    odd: Numbers<Sym, u64>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn get(&self, key: u64) -> Option<&Member> {
        self.members.get(&key)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Sym> {
        self.members.values().map(|member| member.id)
    }

    /// The member of an id.
    pub(super) fn by_id(&self, id: Sym) -> Option<&Member> {
        let key = match self.claims.get(&id).map(SmallVec::as_slice) {
            Some([key]) => key,
            _ => self.odd.get(&id)?,
        };
        self.members.get(key).filter(|member| member.id == id)
    }

    /// Says where a member's endpoints in a slice are now, in place of those before.
    pub(super) fn put_places(&mut self, key: u64, slice: Sym, places: &[u32]) {
        let member = self.members.entry(key).or_insert_with(|| Member {
            name: Sym::NONE,
            fallback: Sym::NONE,
            id: Sym::NONE,
            places: SmallVec::new(),
        });
        member.places.retain(|(other, _)| *other != slice);
        member.places.extend(places.iter().map(|&place| (slice, place)));
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
        let Some(member) = self.members.get_mut(&key) else { return };
        let gone = member.places.is_empty();
        let name = if gone { Sym::NONE } else { name };
        let before = std::mem::replace(&mut member.name, name);
        touched.push(member.id);
        let mut rivals = SmallVec::<[u64; 4]>::new();
        if before != name {
            rivals.extend(self.unclaim(before, key));
            rivals.extend(self.claim(name, key));
        }
        if !gone {
            self.reassess(strings, key, address, touched);
        } else {
            let fallback = self.members.get(&key).map_or(Sym::NONE, |member| member.fallback);
            let others = self.unclaim(fallback, key);
            if let Some(member) = self.members.remove(&key) {
                self.odd.remove(&member.id);
            }
            others.into_iter().for_each(|other| self.rename(strings, other, touched));
        }
        for rival in rivals {
            if rival != key {
                self.reassess(strings, rival, address, touched);
            }
        }
        if let Some(member) = self.members.get(&key) {
            touched.push(member.id);
        }
        touched.retain(|id| !id.is_none());
    }

    /// Adds a claim; the others who have it, where that is news to them.
    fn claim(&mut self, id: Sym, key: u64) -> SmallVec<[u64; 4]> {
        if id.is_none() {
            return SmallVec::new();
        }
        let claims = self.claims.entry(id).or_default();
        claims.push(key);
        match claims.as_slice() {
            [first, _] => SmallVec::from_slice(&[*first]),
            _ => SmallVec::new(),
        }
    }

    /// Takes a claim back; the one who has it alone now, if so.
    fn unclaim(&mut self, id: Sym, key: u64) -> SmallVec<[u64; 4]> {
        let Some(claims) = self.claims.get_mut(&id) else { return SmallVec::new() };
        claims.retain(|other| *other != key);
        match claims.as_slice() {
            [] => {
                self.claims.remove(&id);
                SmallVec::new()
            }
            [last] => SmallVec::from_slice(&[*last]),
            _ => SmallVec::new(),
        }
    }

    /// Whether a member may have its name, and if not, by which address it goes.
    fn reassess(
        &mut self,
        strings: &mut Interner,
        key: u64,
        address: &dyn Fn(u64, &Members) -> String,
        touched: &mut Vec<Sym>,
    ) {
        let Some(member) = self.members.get(&key) else { return };
        let alone = !member.name.is_none() && self.claims.get(&member.name).is_some_and(|claims| claims.len() == 1);
        let fallback = if alone { Sym::NONE } else { strings.intern(&address(key, self)) };
        let before = member.fallback;
        if before != fallback {
            let mut others = self.unclaim(before, key);
            others.extend(self.claim(fallback, key));
            if let Some(member) = self.members.get_mut(&key) {
                member.fallback = fallback;
            }
            others.into_iter().filter(|other| *other != key).for_each(|other| self.rename(strings, other, touched));
        }
        self.rename(strings, key, touched);
    }

    /// Gives a member the id that its claims come to.
    fn rename(&mut self, strings: &mut Interner, key: u64, touched: &mut Vec<Sym>) {
        let Some(member) = self.members.get(&key) else { return };
        let (before, fallback) = (member.id, member.fallback);
        let id = if fallback.is_none() {
            member.name
        } else if self.claims.get(&fallback).is_some_and(|claims| claims.len() == 1) {
            fallback
        } else {
            let id = strings.intern(&suffixed(strings.text(fallback), key));
            self.odd.insert(id, key);
            id
        };
        if id == before {
            return;
        }
        if self.odd.get(&before) == Some(&key) {
            self.odd.remove(&before);
        }
        if let Some(member) = self.members.get_mut(&key) {
            member.id = id;
        }
        touched.extend([before, id].into_iter().filter(|id| !id.is_none()));
    }

    pub(super) fn mark(&self, marks: &mut Marks) {
        self.claims.keys().chain(self.odd.keys()).for_each(|id| marks.mark(*id));
        for place in self.members.values().flat_map(|member| &member.places) {
            marks.mark(place.0);
        }
    }
}

/// The id of one of several that would go by the same address.
pub(super) fn suffixed(address: &str, key: u64) -> String {
    format!("{address}:{key:016x}")
}
