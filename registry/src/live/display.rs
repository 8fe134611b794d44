//! The one way to change a [`LiveReplica`]: changes go into the replica, their effects to the observers, and then the
//! position is declared applied.

use super::{LiveReplica, Observer};
use fingerpost_catalog::{ChangeSet, Effects, Key, Position, Record};
use std::sync::Arc;

/// How many change sets are applied in one hold of the replica's lock, so that readers get their turn.
const SETS_PER_HOLD: usize = 64;

/// A record as it was read, with its revision.
pub type Loaded = (Key, Record, u64);

/// Feeds a [`LiveReplica`] and its observers, whatever the changes come from. There must be no other one of the same
/// replica.
pub struct Display {
    live: Arc<LiveReplica>,
    observers: Vec<Arc<dyn Observer>>,
}

impl Display {
    /// Changes are shown by `live` and told to the observers, in their order.
    pub fn new(live: Arc<LiveReplica>, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self { live, observers }
    }

    /// The replica.
    pub fn live(&self) -> &Arc<LiveReplica> {
        &self.live
    }

    /// Takes in a part of the first state.
    pub fn load<'a>(&self, records: impl IntoIterator<Item = (&'a Key, &'a Record, u64)>) {
        let mut replica = self.live.replica.write();
        for (key, record, revision) in records {
            replica.load(key, record, revision);
        }
    }

    /// All of the first state is in.
    pub fn loaded(&self, position: Position) {
        self.live.replica.write().loaded(position);
        {
            let replica = self.live.replica.read();
            for observer in &self.observers {
                observer.load(&replica);
            }
        }
        self.live.mark_applied(position, true);
    }

    /// The first state has been brought up to date: what is shown is true from now on.
    pub fn ready(&self) {
        let position = self.live.position();
        for observer in &self.observers {
            observer.ready(position);
        }
        self.live.loaded.send_replace(true);
    }

    /// Applies a change set, and those that `more` has at hand, up to a number of them.
    pub fn apply(&self, first: &ChangeSet, mut more: impl FnMut() -> Option<Arc<ChangeSet>>) {
        let mut position = first.position;
        let mut applied: Vec<Effects> = Vec::new();
        {
            let mut replica = self.live.replica.write();
            applied.push(replica.apply(first));
            while applied.len() < SETS_PER_HOLD
                && let Some(set) = more()
            {
                position = set.position;
                applied.push(replica.apply(&set));
            }
        }
        for effects in &applied {
            for observer in &self.observers {
                observer.apply(effects, false);
            }
        }
        self.live.mark_applied(position, false);
    }

    /// Takes in a whole new state after a break in the history; only the differences are told.
    pub fn reload(&self, position: Position, records: impl IntoIterator<Item = Loaded>) {
        let effects = self.live.replica.write().reload(position, records);
        for observer in &self.observers {
            observer.apply(&effects, true);
        }
        self.live.mark_applied(position, true);
    }
}
