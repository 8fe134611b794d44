//! What is asked of a registry, and what it replies.

use crate::Result;
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_catalog::{Health, Kind, Position, Selector, SessionState, Source};
use serde::Deserialize;

/// Which objects a list or a watch is about. Empty fields filter nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this namespace only.
    pub namespace: Option<String>,
    /// Of this service only; goes with `namespace`.
    pub service: Option<String>,
    /// With labels that match.
    pub selector: Selector,
    /// Instances with one of these effective healths.
    pub health: Vec<Health>,
    /// What this source declared.
    pub source: Option<Source>,
}

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Which objects.
    pub filter: Filter,
    /// Most objects on the page, 1 to 1000; absent: the registry's default (500).
    pub limit: Option<u32>,
    /// Where the previous page ended.
    pub continue_token: Option<String>,
    /// Wait (at most 5 s) until the registry knows this position: reads what another's write made.
    pub min_revision: Option<Position>,
}

impl From<Filter> for ListRequest {
    fn from(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }
}

/// A page of the sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRequest {
    /// Only those with this name.
    pub name: Option<String>,
    /// Only those that this source made.
    pub source: Option<Source>,
    /// Only those in this state.
    pub state: Option<SessionState>,
    /// Most sessions on the page, 1 to 1000; absent: the registry's default (500).
    pub limit: Option<u32>,
    /// Where the previous page ended.
    pub continue_token: Option<String>,
}

/// In which state an object must be for a write to happen. The registry judges it in the same step as the write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// In any.
    #[default]
    None,
    /// It must exist.
    Present,
    /// It must not exist.
    Absent,
    /// Its last change must be this position.
    At(Position),
}

/// The reply to a write of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Written<T> {
    /// The object as readers see it now.
    pub object: T,
    /// Whether it did not exist before.
    pub created: bool,
    /// The position of its last change; an earlier one where the write changed nothing.
    pub revision: Position,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Creates or replaces the object.
    Put(ObjectDocument),
    /// Removes it; only its identity counts.
    Delete(ObjectDocument),
}

/// The reply to a batch.
#[derive(Debug)]
pub struct BatchReply {
    /// The position after the last operation.
    pub revision: Position,
    /// What became of each operation, in the order given. An atomic batch has no failures: it fails as a whole.
    pub results: Vec<Result<()>>,
}

/// The reply to a replacement of a source's whole set of instances in a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplaceReply {
    /// The position at which the set is whole.
    pub revision: Position,
    /// Instances that are new.
    #[serde(default)]
    pub added: u64,
    /// Instances that are different now.
    #[serde(default)]
    pub updated: u64,
    /// Instances that are gone.
    #[serde(default)]
    pub removed: u64,
    /// Instances that were like this before.
    #[serde(default)]
    pub unchanged: u64,
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Which kind of object; absent: all kinds.
    pub kind: Option<Kind>,
    /// Which of them.
    pub filter: Filter,
    /// Resume after this position, without the state of the world first; absent: state first.
    pub position: Option<Position>,
}

impl WatchRequest {
    /// A watch of all objects of a kind (or of all kinds), from their present state on.
    pub fn new(kind: Option<Kind>) -> Self {
        Self { kind, filter: Filter::default(), position: None }
    }
}

/// What a watch tells.
///
/// First comes the present state as `Put`s, then `Synced`, then changes, with a `Bookmark` now and then. A position is
/// applied whole: events carry one only where they are the last of it. After a resumption, the events since the last
/// position that was given come again; putting and deleting again what was put and deleted is harmless.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The object is now like this, or now matches the filter.
    Put {
        /// The object.
        object: ObjectDocument,
        /// The position that this event completes.
        position: Option<Position>,
    },
    /// The object is gone, or no longer matches the filter.
    Delete {
        /// Its identity; further fields may hold what it was.
        object: ObjectDocument,
        /// The position that this event completes.
        position: Option<Position>,
    },
    /// All objects of the present state have been sent: what was known before and did not come again is gone.
    Synced(Position),
    /// Nothing has happened up to this position.
    Bookmark(Position),
    /// Changes may have been missed. The present state follows, up to the next `Synced`.
    Reset {
        /// Why.
        reason: String,
    },
}
