//! Which zone a name lies in.

use crate::config::Config;
use crate::name::{self, Name, V4_SUFFIX, V6_SUFFIX};
use hashbrown::HashSet;

/// The zones that the server is authoritative for.
#[derive(Debug)]
pub(crate) struct Zones {
    pub(crate) cluster: Name,
    reverse: HashSet<Name, ahash::RandomState>,
}

/// The zone of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Within {
    /// Where the zone's name begins in the name that was looked up.
    pub(crate) apex_at: usize,
    /// Whether it is the cluster's zone, else a reverse zone.
    pub(crate) cluster: bool,
}

impl Zones {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            cluster: config.zone.0.clone(),
            reverse: config.reverse_zones.iter().map(|zone| zone.0.clone()).collect(),
        }
    }

    pub(crate) fn reverse(&self) -> impl Iterator<Item = &Name> {
        self.reverse.iter()
    }

    /// The innermost zone that holds a lower-case name.
    pub(crate) fn find(&self, wire: &[u8]) -> Option<Within> {
        if name::is_within(wire, self.cluster.wire()) {
            return Some(Within { apex_at: wire.len() - self.cluster.wire().len(), cluster: true });
        }
        if !is_reverse(wire) {
            return None;
        }
        let mut rest = wire;
        loop {
            if self.reverse.contains(rest) {
                return Some(Within { apex_at: wire.len() - rest.len(), cluster: false });
            }
            rest = name::parent(rest)?;
        }
    }
}

/// Whether the name is one of an address, or above such.
pub(crate) fn is_reverse(wire: &[u8]) -> bool {
    wire.ends_with(V4_SUFFIX) || wire.ends_with(V6_SUFFIX)
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.wire()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_innermost() {
        let mut config = Config::default();
        config.reverse_zones.extend("96.10.in-addr.arpa".parse());
        let zones = Zones::new(&config);
        let find = |text: &str| {
            let name = Name::from_text(text).unwrap();
            zones.find(name.wire()).map(|at| (Name::from_wire(&name.wire()[at.apex_at..]).to_string(), at.cluster))
        };
        assert_eq!(find("a.b.cluster.local"), Some(("cluster.local.".to_owned(), true)));
        assert_eq!(find("1.0.96.10.in-addr.arpa"), Some(("96.10.in-addr.arpa.".to_owned(), false)));
        assert_eq!(find("1.0.97.10.in-addr.arpa"), Some(("10.in-addr.arpa.".to_owned(), false)));
        assert_eq!(find("8.8.8.8.in-addr.arpa"), None);
        assert_eq!(find("local"), None);
        assert_eq!(find("."), None);
    }
}
