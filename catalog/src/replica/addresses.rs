//! The address index: every address once, and which instances hold it.

use super::posting::{Holders, Postings};
use super::slab::Slab;
use super::table::Table;
use std::hash::Hash;
use std::net::IpAddr;

/// The addresses of one family, as their octets.
#[derive(Debug, Default)]
struct Family<A> {
    slots: Slab<(A, Holders)>,
    table: Table,
}

impl<A: Copy + Eq + Hash + Default> Family<A> {
    fn find(&self, address: A) -> Option<u32> {
        self.table.find(address, |handle| self.slots[handle].0 == address)
    }

    fn intern(&mut self, address: A) -> u32 {
        self.find(address).unwrap_or_else(|| {
            let handle = self.slots.insert((address, Holders::default()));
            let slots = &self.slots;
            self.table.insert(handle, |handle| slots[handle].0);
            handle
        })
    }

    fn remove(&mut self, handle: u32) {
        let (address, _) = self.slots.remove(handle);
        self.table.remove(address, handle);
    }
}

/// Addresses by handle; one lives while an instance holds it.
#[derive(Debug, Default)]
pub(super) struct AddressIndex {
    v4: Family<[u8; 4]>,
    v6: Family<[u8; 16]>,
    postings: Postings,
}

/// Marks the handles of v6 addresses.
const V6: u32 = 1 << 31;

impl AddressIndex {
    pub(super) fn address(&self, handle: u32) -> IpAddr {
        if handle & V6 == 0 { self.v4.slots[handle].0.into() } else { self.v6.slots[handle & !V6].0.into() }
    }

    pub(super) fn find(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.octets()),
            IpAddr::V6(address) => self.v6.find(address.octets()).map(|handle| handle | V6),
        }
    }

    pub(super) fn holders(&self, handle: u32) -> Holders {
        if handle & V6 == 0 { self.v4.slots[handle].1 } else { self.v6.slots[handle & !V6].1 }
    }

    pub(super) fn postings(&self) -> &Postings {
        &self.postings
    }

    /// The handle of an address. A new one must be given to an instance (by [`Self::replace`]) before anything is
    /// removed.
    pub(super) fn intern(&mut self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(address) => self.v4.intern(address.octets()),
            IpAddr::V6(address) => self.v6.intern(address.octets()) | V6,
        }
    }

    /// Records that the instance holds the addresses `new` and no longer `old`.
    pub(super) fn replace(&mut self, instance: u32, old: &[u32], new: &[u32]) {
        for (n, handle) in new.iter().copied().enumerate() {
            // Nothing forbids a list to name an address twice; the index counts it once.
            if !old.contains(&handle) && !new[..n].contains(&handle) {
                self.postings.insert(slot(&mut self.v4, &mut self.v6, handle), instance);
            }
        }
        for (n, handle) in old.iter().copied().enumerate() {
            if new.contains(&handle) || old[..n].contains(&handle) {
                continue;
            }
            let holders = slot(&mut self.v4, &mut self.v6, handle);
            self.postings.remove(holders, instance);
            if holders.is_empty() {
                if handle & V6 == 0 { self.v4.remove(handle) } else { self.v6.remove(handle & !V6) }
            }
        }
    }
}

fn slot<'a>(v4: &'a mut Family<[u8; 4]>, v6: &'a mut Family<[u8; 16]>, handle: u32) -> &'a mut Holders {
    if handle & V6 == 0 { &mut v4.slots[handle].1 } else { &mut v6.slots[handle & !V6].1 }
}
