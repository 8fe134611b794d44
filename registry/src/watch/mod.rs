//! Watching: the state of the world first, then every change, without loss or repetition.
//!
//! The [`Hub`] observes the feed. It keeps the latest changes of the merged view, each with the object as it was and as
//! it is, in a bounded history, and hands what matches to live subscriptions at once. A subscription that starts
//! reads the replica page by page, then catches up from the history, then goes live; one that resumes or fell behind
//! starts at the second step, and gets a `reset` only where the history no longer reaches back.

mod filter;
mod history;
mod hub;
mod queue;
mod stream;

pub use filter::Filter;
pub use hub::{Hub, HubStats};
pub use stream::{ControlError, StreamControl, StreamLimits, Subscribe, TooManyStreams, WatchStream};
