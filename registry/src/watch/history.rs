//! The latest changes of the merged view, so that a stream can resume after a position.

use bytes::{BufMut, Bytes, BytesMut};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{Effects, Epoch, Kind, Position, ViewChange};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::filter::{Filter, Turn};

/// A change, with its events rendered at most once, whoever watches.
pub(crate) struct Event {
    pub(crate) change: ViewChange,
    put: OnceLock<Bytes>,
    delete: OnceLock<Bytes>,
}

impl Event {
    /// The change as `"kind":…,"object":…`, the part of an event's data that is the same for every stream.
    pub(crate) fn rendered(&self, turn: Turn, epoch: Epoch) -> &Bytes {
        match turn {
            Turn::Put => self.put.get_or_init(|| render(&self.change, Turn::Put, epoch)),
            Turn::Delete => self.delete.get_or_init(|| render(&self.change, Turn::Delete, epoch)),
        }
    }
}

/// Renders one object of a view as the inside of an event's data.
pub(crate) fn render_object(kind: Kind, object: &impl serde::Serialize) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(match kind {
        Kind::Namespace => br#""kind":"namespace","object":"#,
        Kind::Service => br#""kind":"service","object":"#,
        Kind::Instance => br#""kind":"instance","object":"#,
    });
    let mut writer = out.writer();
    // Documents have string keys only, and writing to memory can't fail.
    let written = serde_json::to_writer(&mut writer, object);
    debug_assert!(written.is_ok());
    writer.into_inner().freeze()
}

fn render(change: &ViewChange, turn: Turn, epoch: Epoch) -> Bytes {
    // A delete shows the object as it was last seen by whoever saw it: the one before, or, where it only stopped
    // matching, still the one before.
    match (change, turn) {
        (ViewChange::Namespace { after: Some(view), .. }, Turn::Put)
        | (ViewChange::Namespace { before: Some(view), .. }, Turn::Delete) => {
            render_object(Kind::Namespace, &NamespaceDocument::from_view(view, epoch))
        }
        (ViewChange::Service { after: Some(view), .. }, Turn::Put)
        | (ViewChange::Service { before: Some(view), .. }, Turn::Delete) => {
            render_object(Kind::Service, &ServiceDocument::from_view(view, epoch))
        }
        (ViewChange::Instance { after: Some(view), .. }, Turn::Put)
        | (ViewChange::Instance { before: Some(view), .. }, Turn::Delete) => {
            render_object(Kind::Instance, &InstanceDocument::from_view(view, epoch))
        }
        _ => Bytes::new(),
    }
}

/// All changes of one position.
pub(crate) struct Batch {
    pub(crate) position: Position,
    pub(crate) events: Vec<Event>,
    weight: usize,
}

impl Batch {
    pub(crate) fn new(effects: &Effects) -> Arc<Self> {
        let events: Vec<Event> = effects
            .changes
            .iter()
            .map(|change| Event { change: change.clone(), put: OnceLock::new(), delete: OnceLock::new() })
            .collect();
        Arc::new(Self { position: effects.position, weight: events.iter().map(weight).sum(), events })
    }

    /// What matches a filter, with what it is.
    pub(crate) fn matching<'a>(&'a self, filter: &'a Filter) -> impl Iterator<Item = (&'a Event, Turn)> {
        self.events.iter().filter_map(|event| Some((event, filter.turn(&event.change)?)))
    }
}

/// About what an event costs in memory: two views of an object, and its rendering.
fn weight(event: &Event) -> usize {
    let labels = match &event.change {
        ViewChange::Namespace { before, after } => before.iter().chain(after).map(|view| view.labels.0.len()).sum(),
        ViewChange::Service { before, after } => before.iter().chain(after).map(|view| view.labels.0.len()).sum(),
        ViewChange::Instance { before, after } => {
            before.iter().chain(after).map(|view| view.instance.labels.0.len()).sum::<usize>()
        }
    };
    1500 + 100 * labels
}

/// A bounded run of batches with consecutive positions (those without visible changes are left out).
#[derive(Default)]
pub(crate) struct History {
    batches: VecDeque<Arc<Batch>>,
    weight: usize,
    /// The position after which every change is here.
    after: Option<Position>,
}

/// The history does not reach back to a position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl History {
    /// Forgets everything: the next change comes after `position`.
    pub(crate) fn restart(&mut self, position: Position) {
        self.batches.clear();
        self.weight = 0;
        self.after = Some(position);
    }

    /// Adds the next batch, and forgets the oldest while all of them weigh more than `limit`.
    pub(crate) fn push(&mut self, batch: Arc<Batch>, limit: usize) {
        self.weight += batch.weight;
        self.batches.push_back(batch);
        // The newest stays, however large: a follower that is up to date must be able to step over it.
        while self.weight > limit && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.weight -= oldest.weight;
                self.after = Some(oldest.position);
            }
        }
    }

    /// At most `most` batches after `position`.
    pub(crate) fn after(&self, position: Position, most: usize) -> Result<Vec<Arc<Batch>>, Gone> {
        let Some(start) = self.after else { return Err(Gone) };
        if !position.includes(&start) {
            return Err(Gone);
        }
        let first = self.batches.partition_point(|batch| batch.position.number <= position.number);
        Ok(self.batches.range(first..).take(most).cloned().collect())
    }

    /// The last position, up to `position`, at which something changed that a stream without a filter tells; none where
    /// that lies before what is here.
    pub(crate) fn told_by(&self, position: Position) -> Option<Position> {
        let start = self.after.filter(|start| position.includes(start))?;
        let everything = Filter::default();
        let end = self.batches.partition_point(|batch| batch.position.number <= position.number);
        let told = self.batches.range(..end).rev().find(|batch| batch.matching(&everything).next().is_some());
        Some(told.map_or(start, |batch| batch.position))
    }

    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }
}
