//! Checks: the registry finds out by itself how instances are, or is told in time.
//!
//! A check is declared on a service or an instance ([`declaration`], `target`). Each check of each instance is run by
//! one replica, its home ([`Members`](crate::members::Members)), soon and then at its own place in its interval
//! (`schedule`), by a probe (`probes`), as soon as there is a place for it (`places`). It takes enough results in a row to change a verdict (`verdict`), and only a changed verdict is
//! written: as a record of its own, on the condition that no other verdict was written since and that the instance is
//! there, so that a replica which does not know yet that it is no longer the home can't overwrite what its successor
//! found. While a replica is out of touch with the store, it is at home for nothing and runs nothing.
//!
//! Everything here is made from the replica's state and can be made again: `runner` is told by the feed what has
//! changed (`inbox`) and looks at it anew. `reports` is about TTL checks, `history` about what became of it all.

pub mod declaration;
mod history;
mod inbox;
mod metrics;
mod places;
mod probes;
mod reports;
mod runner;
mod schedule;
mod target;
mod verdict;
mod write;

pub use history::History;
pub use probes::{CheckCaError, NetworkProbe, Probe, Tls};
pub use reports::{NoRelay, Relay, RelayError};
pub use runner::{Limits, Runner};
pub use target::{Cidr, ParseCidrError, TargetRules};
pub use verdict::Outcome;

use fingerpost_catalog::InstanceKey;
use std::sync::Arc;

/// One check of one instance.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct CheckKey {
    pub(crate) instance: InstanceKey,
    pub(crate) check: Arc<str>,
}

/// What decides where it is at home, and when it runs.
impl std::fmt::Display for CheckKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.instance, self.check)
    }
}
