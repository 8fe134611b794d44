//! Who instances belong to: the sources that declare them and the sessions that they hang on, each with its instances.

use super::posting::{Holders, Postings};
use super::slab::Slab;
use super::table::Table;
use crate::object::Session;
use crate::{Rank, SessionState, Source};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct SourceSlot {
    pub(super) source: Source,
    pub(super) rank: Rank,
    pub(super) holders: Holders,
}

impl Default for SourceSlot {
    fn default() -> Self {
        Self { source: Source::api(), rank: Rank::Api, holders: Holders::default() }
    }
}

/// Sources by handle; one lives while it has instances.
#[derive(Debug, Default)]
pub(super) struct Sources {
    slots: Slab<SourceSlot>,
    table: Table,
    postings: Postings,
}

impl Sources {
    /// All handles; a place that is not in use has a source without instances.
    pub(super) fn handles(&self) -> std::ops::Range<u32> {
        self.slots.handles()
    }

    pub(super) fn get(&self, handle: u32) -> &SourceSlot {
        &self.slots[handle]
    }

    pub(super) fn postings(&self) -> &Postings {
        &self.postings
    }

    pub(super) fn find(&self, source: &Source) -> Option<u32> {
        self.table.find(source, |handle| self.slots[handle].source == *source)
    }

    /// The handle of a source. A new one must be given an instance next.
    pub(super) fn intern(&mut self, source: &Source, own_cluster: &str) -> u32 {
        self.find(source).unwrap_or_else(|| {
            let rank = source.rank(own_cluster);
            let handle = self.slots.insert(SourceSlot { source: source.clone(), rank, holders: Holders::default() });
            let slots = &self.slots;
            self.table.insert(handle, |handle| &slots[handle].source);
            handle
        })
    }

    pub(super) fn add(&mut self, handle: u32, instance: u32) {
        self.postings.insert(&mut self.slots[handle].holders, instance);
    }

    pub(super) fn remove(&mut self, handle: u32, instance: u32) {
        self.postings.remove(&mut self.slots[handle].holders, instance);
        if self.slots[handle].holders.is_empty() {
            let gone = self.slots.remove(handle);
            self.table.remove(&gone.source, handle);
        }
    }
}

/// A session's record as it is stored.
#[derive(Debug)]
pub(super) struct StoredSession {
    pub(super) value: Arc<Session>,
    pub(super) revision: u64,
    /// The reload that is under way has brought it.
    pub(super) seen: bool,
}

#[derive(Debug, Default)]
pub(super) struct SessionSlot {
    pub(super) id: Arc<str>,
    /// None where instances name a session that has no record.
    pub(super) stored: Option<Box<StoredSession>>,
    pub(super) holders: Holders,
}

impl SessionSlot {
    pub(super) fn state(&self) -> Option<SessionState> {
        self.stored.as_ref().map(|stored| stored.value.state)
    }
}

/// Sessions by handle; one lives while it has a record or instances.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Slab<SessionSlot>,
    table: Table,
    postings: Postings,
}

impl Sessions {
    pub(super) fn get(&self, handle: u32) -> &SessionSlot {
        &self.slots[handle]
    }

    pub(super) fn get_mut(&mut self, handle: u32) -> &mut SessionSlot {
        &mut self.slots[handle]
    }

    pub(super) fn find(&self, id: &str) -> Option<u32> {
        self.table.find(id, |handle| *self.slots[handle].id == *id)
    }

    /// The handle of a session. A new one must be given a record or an instance next.
    pub(super) fn intern(&mut self, id: &str) -> u32 {
        self.find(id).unwrap_or_else(|| {
            let handle = self.slots.insert(SessionSlot { id: id.into(), ..SessionSlot::default() });
            let slots = &self.slots;
            self.table.insert(handle, |handle| &*slots[handle].id);
            handle
        })
    }

    /// All handles; a place that is not in use has a session without record.
    pub(super) fn handles(&self) -> std::ops::Range<u32> {
        self.slots.handles()
    }

    /// The instances that hang on the session.
    pub(super) fn instances(&self, handle: u32) -> impl Iterator<Item = u32> + '_ {
        self.postings.iter(self.slots[handle].holders)
    }

    pub(super) fn add(&mut self, handle: u32, instance: u32) {
        self.postings.insert(&mut self.slots[handle].holders, instance);
    }

    pub(super) fn remove(&mut self, handle: u32, instance: u32) {
        self.postings.remove(&mut self.slots[handle].holders, instance);
        self.drop_unused(handle);
    }

    /// Forgets the session if it has neither a record nor instances.
    pub(super) fn drop_unused(&mut self, handle: u32) {
        let slot = &self.slots[handle];
        if slot.holders.is_empty() && slot.stored.is_none() {
            let gone = self.slots.remove(handle);
            self.table.remove(&*gone.id, handle);
        }
    }
}
