//! Interners: one copy of a value that many instances have, counted by its users.

use super::slab::Slab;
use super::table::Table;
use std::hash::Hash;

/// Stands for "no value" where a handle is expected.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T: ?Sized> {
    value: Box<T>,
    users: u32,
}

impl<T: ?Sized> Default for Slot<T>
where
    Box<T>: Default,
{
    fn default() -> Self {
        Self { value: Box::default(), users: 0 }
    }
}

/// Values by handle, each stored once.
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    slots: Slab<Slot<T>>,
    table: Table,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { slots: Slab::default(), table: Table::default() }
    }
}

impl<T> Interner<T>
where
    T: ?Sized + Hash + Eq,
    Box<T>: Default + for<'a> From<&'a T>,
{
    /// The value's handle, with one user more.
    pub(super) fn acquire(&mut self, value: &T) -> u32 {
        let slots = &self.slots;
        if let Some(handle) = self.table.find(value, |handle| *slots[handle].value == *value) {
            self.slots[handle].users += 1;
            return handle;
        }
        let handle = self.slots.insert(Slot { value: value.into(), users: 1 });
        let slots = &self.slots;
        self.table.insert(handle, |handle| &*slots[handle].value);
        handle
    }

    /// One user less; the last one takes the value along.
    pub(super) fn release(&mut self, handle: u32) {
        if handle == NONE {
            return;
        }
        let slot = &mut self.slots[handle];
        slot.users -= 1;
        if slot.users == 0 {
            let slot = self.slots.remove(handle);
            self.table.remove(&*slot.value, handle);
        }
    }

    pub(super) fn get(&self, handle: u32) -> Option<&T> {
        (handle != NONE).then(|| &*self.slots[handle].value)
    }
}
