//! Strings that many objects share, each kept once and named by a number.
//!
//! Pods come and go for as long as the process runs, so what nobody uses any more must go, too. Counting every use would be
//! a count at each copy; instead, once the strings have doubled since the last time, the index marks those that it still
//! has, and the rest is dropped. That costs a constant time for each new string.

use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// A string's number. [`Sym::NONE`] is no string.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Sym(u32);

impl Sym {
    pub(crate) const NONE: Self = Self(u32::MAX);

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// The strings.
pub(crate) struct Interner {
    texts: Vec<Option<Box<str>>>,
    free: Vec<u32>,
    numbers: HashTable<u32>,
    hasher: ahash::RandomState,
    sweep_at: usize,
}

/// Which strings are in use.
pub(crate) struct Marks(Vec<bool>);

impl Marks {
    pub(crate) fn mark(&mut self, sym: Sym) {
        if let Some(mark) = self.0.get_mut(sym.0 as usize) {
            *mark = true;
        }
    }
}

/// Fewer strings than this are not worth a sweep.
const SWEEP: usize = 4096;

impl Interner {
    pub(crate) fn new() -> Self {
        Self {
            texts: Vec::new(),
            free: Vec::new(),
            numbers: HashTable::new(),
            hasher: ahash::RandomState::new(),
            sweep_at: SWEEP,
        }
    }

    fn hash(&self, text: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text.as_bytes());
        hasher.finish()
    }

    pub(crate) fn get(&self, text: &str) -> Option<Sym> {
        let found = self.numbers.find(self.hash(text), |&number| self.is(number, text));
        found.map(|&number| Sym(number))
    }

    fn is(&self, number: u32, text: &str) -> bool {
        self.texts.get(number as usize).and_then(Option::as_deref) == Some(text)
    }

    pub(crate) fn intern(&mut self, text: &str) -> Sym {
        if let Some(sym) = self.get(text) {
            return sym;
        }
        let number = match self.free.pop() {
            Some(number) => {
                if let Some(slot) = self.texts.get_mut(number as usize) {
                    *slot = Some(text.into());
                }
                number
            }
            None => {
                self.texts.push(Some(text.into()));
                (self.texts.len() - 1) as u32
            }
        };
        let hash = self.hash(text);
        let Self { texts, numbers, hasher, .. } = self;
        numbers.insert_unique(hash, number, |&number| {
            let mut state = hasher.build_hasher();
            state.write(texts.get(number as usize).and_then(Option::as_deref).unwrap_or_default().as_bytes());
            state.finish()
        });
        Sym(number)
    }

    pub(crate) fn intern_some(&mut self, text: Option<&str>) -> Sym {
        text.filter(|text| !text.is_empty()).map_or(Sym::NONE, |text| self.intern(text))
    }

    /// The string; empty where there is none.
    pub(crate) fn text(&self, sym: Sym) -> &str {
        self.texts.get(sym.0 as usize).and_then(Option::as_deref).unwrap_or_default()
    }

    pub(crate) fn text_some(&self, sym: Sym) -> Option<String> {
        (!sym.is_none()).then(|| self.text(sym).to_owned())
    }

    /// How many strings there are.
    pub(crate) fn len(&self) -> usize {
        self.texts.len() - self.free.len()
    }

    pub(crate) fn wants_sweep(&self) -> bool {
        self.len() >= self.sweep_at
    }

    pub(crate) fn marks(&self) -> Marks {
        Marks(vec![false; self.texts.len()])
    }

    /// Drops what is not marked.
    pub(crate) fn sweep(&mut self, marks: &Marks) {
        let mut dropped = Vec::new();
        for (number, text) in self.texts.iter().enumerate() {
            if let Some(text) = text
                && !marks.0.get(number).copied().unwrap_or_default()
            {
                dropped.push((number as u32, self.hash(text)));
            }
        }
        for (number, hash) in dropped {
            if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == number) {
                entry.remove();
            }
            if let Some(slot) = self.texts.get_mut(number as usize) {
                *slot = None;
            }
            self.free.push(number);
        }
        self.sweep_at = SWEEP.max(2 * self.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_marked_and_uses_numbers_again() {
        let mut interner = Interner::new();
        let (a, b) = (interner.intern("a"), interner.intern("b"));
        assert_eq!((interner.intern("a"), interner.text(b), interner.len()), (a, "b", 2));
        let mut marks = interner.marks();
        marks.mark(b);
        marks.mark(Sym::NONE);
        interner.sweep(&marks);
        assert_eq!((interner.get("a"), interner.get("b"), interner.len()), (None, Some(b), 1));
        assert_eq!(interner.intern("c"), a);
        assert_eq!((interner.text(a), interner.text(Sym::NONE)), ("c", ""));
        assert!(interner.intern_some(Some("")).is_none());
    }
}
