//! What one subscription knows: built from the events of a stream, across streams that break, registries that restart
//! and registries that come back with another history. No I/O, no clock.
//!
//! A position is applied whole: what has come since the last one waits. A state of the world is gathered beside what is
//! known and takes its place when it is complete, so nobody ever sees half of one. A state that lies before what was
//! shown already (another replica's, which is behind) waits until it has caught up, so a view never goes back; only a
//! state of another epoch, a registry whose data was restored, may.

use crate::endpoint::{Endpoint, EndpointKey};
use crate::request::WatchEvent;
use fingerpost_catalog::document::{ObjectDocument, ServiceDocument};
use fingerpost_catalog::{Port, Position};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Objects of one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) service: Option<Arc<ServiceDocument>>,
    /// Without the service's ports.
    pub(crate) instances: BTreeMap<EndpointKey, Arc<Endpoint>>,
}

#[derive(Debug)]
enum Change {
    Put(ObjectDocument),
    Delete(ObjectDocument),
}

impl Objects {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(ObjectDocument::Service(service)) => self.service = Some(Arc::new(service)),
            Change::Delete(ObjectDocument::Service(_)) => self.service = None,
            Change::Put(ObjectDocument::Instance(instance)) => {
                let endpoint = Endpoint::new(*instance);
                self.instances.insert(endpoint.key().clone(), Arc::new(endpoint));
            }
            Change::Delete(ObjectDocument::Instance(instance)) => {
                self.instances.remove(Endpoint::new(*instance).key());
            }
            Change::Put(ObjectDocument::Namespace(_)) | Change::Delete(ObjectDocument::Namespace(_)) => {}
        }
    }

    /// Takes over from `before` what is the same, so that who holds it sees that it is.
    fn keep_identity(&mut self, before: &Self) {
        for (key, instance) in &mut self.instances {
            if let Some(same) = before.instances.get(key).filter(|same| *same == instance) {
                *instance = Arc::clone(same);
            }
        }
        if self.service == before.service {
            self.service.clone_from(&before.service);
        }
    }
}

/// What an event has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing that can be seen.
    Same,
    /// What is known is another, or known for certain now.
    Changed,
    /// It is of another history than before: a registry with restored data.
    Restored,
}

/// A state of the world that is not shown yet.
#[derive(Debug, Default)]
struct Staging {
    objects: Objects,
    /// Up to where it is complete: it is, but lies before what was shown.
    complete: Option<Position>,
}

/// The view of one subscription on a stream.
#[derive(Debug, Default)]
pub(crate) struct View {
    objects: Objects,
    position: Option<Position>,
    /// A registry has said all of it, in this process's life.
    synced: bool,
    /// Changes of a position that is not whole yet.
    pending: Vec<Change>,
    staging: Option<Staging>,
}

impl View {
    /// A view that begins with what was known earlier, at a position.
    pub(crate) fn remembered(objects: Objects, position: Option<Position>) -> Self {
        Self { objects, position, ..Self::default() }
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.position
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// A new stream begins; returns after which position it is to resume, if it can.
    pub(crate) fn begin(&mut self) -> Option<Position> {
        self.pending.clear();
        self.staging = self.position.is_none().then(Staging::default);
        self.position
    }

    /// Takes in an event of the present stream.
    pub(crate) fn apply(&mut self, event: WatchEvent) -> Outcome {
        match event {
            WatchEvent::Put { object, position } => self.change(Change::Put(object), position),
            WatchEvent::Delete { object, position } => self.change(Change::Delete(object), position),
            WatchEvent::Reset { .. } => {
                self.pending.clear();
                self.staging = Some(Staging::default());
                Outcome::Same
            }
            WatchEvent::Synced(position) => self.complete(position, true),
            WatchEvent::Bookmark(position) => self.complete(position, false),
        }
    }

    fn change(&mut self, change: Change, position: Option<Position>) -> Outcome {
        match &mut self.staging {
            // Within a state of the world order is all that counts.
            Some(Staging { objects, complete: None }) => {
                objects.apply(change);
                Outcome::Same
            }
            Some(Staging { complete: Some(_), .. }) | None => {
                self.pending.push(change);
                position.map_or(Outcome::Same, |position| self.complete(position, false))
            }
        }
    }

    /// All up to a position has been told.
    fn complete(&mut self, position: Position, synced: bool) -> Outcome {
        let Some(staging) = &mut self.staging else {
            let changed = !self.pending.is_empty() || (synced && !self.synced);
            self.pending.drain(..).for_each(|change| self.objects.apply(change));
            self.synced |= synced;
            self.position = Some(position);
            return if changed { Outcome::Changed } else { Outcome::Same };
        };
        if staging.complete.is_none() && !synced {
            // A bookmark of the other subscriptions on the stream.
            return Outcome::Same;
        }
        self.pending.drain(..).for_each(|change| staging.objects.apply(change));
        staging.complete = Some(position);
        let behind = self.position.is_some_and(|shown| shown.epoch == position.epoch && shown.number > position.number);
        if behind {
            return Outcome::Same;
        }
        let Some(Staging { mut objects, .. }) = self.staging.take() else { return Outcome::Same };
        objects.keep_identity(&self.objects);
        self.objects = objects;
        self.synced = true;
        match self.position.replace(position) {
            Some(before) if before.epoch != position.epoch => Outcome::Restored,
            _ => Outcome::Changed,
        }
    }
}

/// The endpoints of what a view knows, with the service's ports where they have none of their own. What has not changed
/// since `before` is the same allocation.
pub(crate) fn endpoints(objects: &Objects, ports: &Arc<[Port]>, before: &[Arc<Endpoint>]) -> Vec<Arc<Endpoint>> {
    let mut before = before.iter().peekable();
    let inherits = |endpoint: &Endpoint| !ports.is_empty() && endpoint.document().ports.is_empty();
    objects
        .instances
        .iter()
        .map(|(key, endpoint)| {
            if !inherits(endpoint) {
                return Arc::clone(endpoint);
            }
            while before.next_if(|shown| shown.key() < key).is_some() {}
            let same =
                |shown: &Endpoint| Arc::ptr_eq(shown.document(), endpoint.document()) && *shown.ports() == **ports;
            match before.next_if(|shown| shown.key() == key) {
                Some(shown) if same(shown) => Arc::clone(shown),
                _ => Arc::new(Endpoint::clone(endpoint).with_service_ports(Arc::clone(ports))),
            }
        })
        .collect()
}
