//! What each source holds, and when it was last heard.

use super::Replica;
use crate::Source;
use crate::object::Mark;
use crate::record::Key;
use std::collections::BTreeMap;

/// A source's mark as it is stored.
#[derive(Debug)]
pub(super) struct StoredMark {
    pub(super) value: Mark,
    pub(super) revision: u64,
    /// The reload that is under way has brought it.
    pub(super) seen: bool,
}

/// How much a source holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourceStats {
    /// Namespaces that it declares.
    pub namespaces: usize,
    /// Services that it declares.
    pub services: usize,
    /// Its instances.
    pub instances: usize,
    /// Those of them that hang on no session, so that nothing ends them when the source is gone.
    pub sessionless: usize,
    /// Its sessions that have not expired: whoever renews them is there.
    pub sessions: usize,
    /// When it was last heard, in milliseconds since 1970, and the revision of that record.
    pub seen: Option<(u64, u64)>,
}

impl SourceStats {
    /// Whether it has any objects.
    pub fn holds_objects(&self) -> bool {
        self.instances + self.services + self.namespaces > 0
    }
}

impl Replica {
    /// All sources that hold anything or were ever heard, and what they hold.
    pub fn source_stats(&self) -> BTreeMap<Source, SourceStats> {
        self.counts.sources()
    }

    /// Whether a source holds anything or was ever heard.
    pub fn knows_source(&self, source: &Source) -> bool {
        self.counts.knows_source(source)
    }

    /// The declarations of a source: services before namespaces.
    pub fn declarations_of(&self, source: &Source) -> Vec<Key> {
        let slots = || self.namespace_order.values().map(|&handle| &self.namespaces[handle]);
        let services = slots()
            .flat_map(|slot| slot.groups().map(move |handle| (slot, &self.groups[handle])))
            .filter_map(|(slot, group)| {
                group.declarations.get(source)?;
                Some(Key::Service { namespace: slot.name.clone(), name: group.name.clone()?, source: source.clone() })
            });
        let namespaces = slots().filter_map(|slot| {
            slot.declarations.get(source)?;
            Some(Key::Namespace { name: slot.name.clone(), source: source.clone() })
        });
        services.chain(namespaces).collect()
    }
}
