//! A list searched by the key of its items, and costs the same to change whether it holds three or ten thousand.
//!
//! Items stand side by side, so that answers copy a window of them; a removal puts the last item into the gap. Short
//! lists are searched from end to end, long ones know each item's place. There are as many lists as there are names,
//! and most are short: room for growth is kept small.

use hashbrown::HashTable;
use std::hash::Hash;

/// Lists up to this length are searched from end to end.
const SEARCHED: usize = 16;
/// A list that had places gives them up only when it is this short, so that one at the border does not build them anew
/// with every change.
const PLACES_END: usize = 4;

/// Items, each with a key of its own. An item's hash is its key's.
#[derive(Debug)]
pub(crate) struct Dense<T> {
    items: Vec<T>,
    places: Option<Box<Places>>,
}

/// Where in the list each item stands, found by its key.
#[derive(Debug, Default)]
struct Places {
    table: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl<T> Default for Dense<T> {
    fn default() -> Self {
        Self { items: Vec::new(), places: None }
    }
}

impl<T: Hash> Dense<T> {
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Where the item with this key is; `is` says whether it is one's.
    pub(crate) fn find(&self, key: &(impl Hash + ?Sized), is: impl Fn(&T) -> bool) -> Option<usize> {
        match &self.places {
            Some(places) => {
                let hash = places.hasher.hash_one(key);
                places.table.find(hash, |&at| is(&self.items[at as usize])).map(|&at| at as usize)
            }
            None => self.items.iter().position(is),
        }
    }

    /// Puts an item in the place of one with the same key.
    pub(crate) fn replace(&mut self, at: usize, item: T) -> T {
        std::mem::replace(&mut self.items[at], item)
    }

    /// Adds an item whose key is not there yet.
    pub(crate) fn push(&mut self, item: T) {
        if self.items.len() == self.items.capacity() {
            // Doubling would leave a quarter of all memory unused.
            self.items.reserve_exact((self.items.len() / 4).max(1));
        }
        self.items.push(item);
        match &mut self.places {
            Some(places) => places.add(&self.items, self.items.len() - 1),
            None if self.items.len() > SEARCHED => {
                let mut places = Box::<Places>::default();
                (0..self.items.len()).for_each(|at| places.add(&self.items, at));
                self.places = Some(places);
            }
            None => {}
        }
    }

    /// Takes the item at a place out; the last one takes its place.
    pub(crate) fn swap_remove(&mut self, at: usize) -> T {
        let last = self.items.len() - 1;
        if last <= PLACES_END {
            self.places = None;
        }
        if let Some(places) = &mut self.places {
            places.remove(&self.items, at);
            if at != last {
                places.remove(&self.items, last);
            }
        }
        let item = self.items.swap_remove(at);
        if let Some(places) = &mut self.places
            && at != last
        {
            places.add(&self.items, at);
        }
        // A list that was long for a moment must not hold its memory for good.
        if self.items.len() < self.items.capacity() / 2 {
            self.items.shrink_to(last + last / 4);
            if let Some(places) = &mut self.places {
                let Places { table, hasher } = &mut **places;
                table.shrink_to(last + last / 4, |&at| hasher.hash_one(&self.items[at as usize]));
            }
        }
        item
    }
}

impl Places {
    fn add<T: Hash>(&mut self, items: &[T], at: usize) {
        let hash = |at: &u32| self.hasher.hash_one(&items[*at as usize]);
        self.table.insert_unique(hash(&(at as u32)), at as u32, hash);
    }

    fn remove<T: Hash>(&mut self, items: &[T], at: usize) {
        let hash = self.hasher.hash_one(&items[at]);
        if let Ok(found) = self.table.find_entry(hash, |&place| place as usize == at) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(PartialEq, Debug)]
    struct Item {
        key: u32,
        value: u32,
    }

    impl Hash for Item {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            self.key.hash(state);
        }
    }

    #[test]
    fn finds_its_items_at_any_length() {
        let mut list = Dense::default();
        let mut keys: Vec<u32> = (0..1000).collect();
        for &key in &keys {
            assert_eq!(list.find(&key, |item: &Item| item.key == key), None);
            list.push(Item { key, value: 0 });
            assert!(list.items.capacity() <= list.items.len() * 5 / 4 + 1);
        }
        while !keys.is_empty() {
            let key = keys.swap_remove(keys.len() * 7 / 11);
            let at = list.find(&key, |item| item.key == key).unwrap();
            assert_eq!(list.replace(at, Item { key, value: 1 }), Item { key, value: 0 });
            assert_eq!(list.find(&key, |item| item.key == key), Some(at));
            assert_eq!(list.swap_remove(at), Item { key, value: 1 });
            assert_eq!(list.find(&key, |item| item.key == key), None);
            for &other in keys.iter().take(5) {
                assert!(list.find(&other, |item| item.key == other).is_some());
            }
            assert!(list.items.capacity() <= (list.items.len() * 2 + 1).max(4));
        }
        assert!(list.is_empty() && list.places.is_none());
    }
}
