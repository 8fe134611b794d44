//! What subscriptions need of a registry: one stream for many of them. A trait, so that they can be tried against
//! registries that misbehave in every way.

use crate::Result;
use crate::request::{Filter, WatchEvent};
use fingerpost_catalog::{Kind, Position};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// A subscription as the registry is asked for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    /// Its name on the stream.
    pub(crate) id: String,
    pub(crate) kind: Option<Kind>,
    pub(crate) filter: Filter,
    /// Resume after this; absent: from the state of the world on.
    pub(crate) position: Option<Position>,
}

/// What a stream tells.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "almost all are events; the other comes once for each stream")]
pub(crate) enum Told {
    /// The stream's name, by which it can be changed from now on.
    Stream(String),
    /// Something about one subscription; about all of them where it names none.
    Event { subscription: Option<String>, event: WatchEvent },
}

/// An open stream.
pub(crate) struct Connection {
    /// Who answers, for people.
    pub(crate) endpoint: String,
    /// What has arrived, as much as there is at a time. It ends with an error.
    pub(crate) told: BoxStream<'static, Result<Vec<Told>>>,
    pub(crate) changes: Box<dyn Changes>,
}

/// Changes the subscriptions of an open stream.
pub(crate) trait Changes: Send + Sync {
    /// All of it is done, or nothing.
    fn change(&self, stream: String, add: Vec<Wanted>, remove: Vec<String>) -> BoxFuture<'static, Result<()>>;
}

/// A registry that can be subscribed to.
pub(crate) trait Wire: Send + Sync + 'static {
    /// Opens a stream with these subscriptions.
    fn open(&self, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Connection>>;

    /// The endpoint in use has failed: the next one is to be asked from now on.
    fn next_endpoint(&self);
}
