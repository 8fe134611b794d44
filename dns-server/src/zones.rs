//! Which zone a name lies in, and the zones that are one under several names.
//!
//! All names are compiled once, in the primary zone. A query in one of the others has its end replaced before it is
//! looked up, and the names in its answer that lie in the primary zone get the end of the zone that was asked
//! ([`Spelling`]): an alias costs a few octets of memory, and nothing for those who do not ask in it.

use crate::config::Config;
use crate::name::{self, MAX_NAME, Name, V4_SUFFIX, V6_SUFFIX};
use hashbrown::HashSet;

/// The zones that the server is authoritative for.
#[derive(Debug)]
pub(crate) struct Zones {
    pub(crate) primary: Name,
    aliases: Box<[Name]>,
    reverse: HashSet<Name, ahash::RandomState>,
}

/// What kind of zone it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The cluster's, whose names are those of the table.
    Primary,
    /// Another name of it: which.
    Alias(usize),
    /// Names of addresses.
    Reverse,
}

/// The zone of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Within {
    /// Where the zone's name begins in the name that was looked up.
    pub(crate) apex_at: usize,
    pub(crate) kind: Kind,
}

impl Within {
    /// Whether it is a zone of services, under whatever name.
    pub(crate) fn is_cluster(self) -> bool {
        self.kind != Kind::Reverse
    }
}

/// In which zone's words an answer is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spelling<'a> {
    AsCompiled,
    /// Names that end in `primary` end in `asked`.
    Alias {
        primary: &'a [u8],
        asked: &'a [u8],
    },
}

impl Spelling<'_> {
    /// The wire form of a name of the table, in two parts, behind `front` octets of it. One that would be too long stays
    /// as it is, for it is right in both zones.
    pub(crate) fn of<'n>(&'n self, front: usize, name: &'n Name) -> [&'n [u8]; 2] {
        let wire = name.wire();
        if let &Spelling::Alias { primary, asked } = self
            && name::is_within(wire, primary)
        {
            let own = &wire[..wire.len() - primary.len()];
            if front + own.len() + asked.len() <= MAX_NAME {
                return [own, asked];
            }
        }
        [wire, &[]]
    }
}

impl Zones {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            primary: config.zone.0.clone(),
            aliases: config.aliases.iter().map(|zone| zone.0.clone()).collect(),
            reverse: config.reverse_zones.iter().map(|zone| zone.0.clone()).collect(),
        }
    }

    pub(crate) fn reverse(&self) -> impl Iterator<Item = &Name> {
        self.reverse.iter()
    }

    /// The primary zone, then its other names.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.primary).chain(&self.aliases)
    }

    pub(crate) fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// The name of the zone; none for reverse zones, which are found by what they hold.
    pub(crate) fn name(&self, kind: Kind) -> Option<&Name> {
        match kind {
            Kind::Primary => Some(&self.primary),
            Kind::Alias(which) => self.aliases.get(which),
            Kind::Reverse => None,
        }
    }

    /// How answers about names of that zone are spelt.
    pub(crate) fn spelling(&self, kind: Kind) -> Spelling<'_> {
        match kind {
            Kind::Alias(which) => match self.aliases.get(which) {
                Some(asked) => Spelling::Alias { primary: self.primary.wire(), asked: asked.wire() },
                None => Spelling::AsCompiled,
            },
            Kind::Primary | Kind::Reverse => Spelling::AsCompiled,
        }
    }

    /// Turns a lower-case name into the one under which the table has it; its length. None where no such name can be.
    pub(crate) fn compiled(&self, name: &mut [u8; MAX_NAME], length: usize, within: Within) -> Option<usize> {
        if !matches!(within.kind, Kind::Alias(_)) {
            return Some(length);
        }
        let primary = self.primary.wire();
        let end = within.apex_at + primary.len();
        name.get_mut(within.apex_at..end)?.copy_from_slice(primary);
        Some(end)
    }

    /// The innermost zone that holds a lower-case name.
    pub(crate) fn find(&self, wire: &[u8]) -> Option<Within> {
        let at = |apex: &Name| name::is_within(wire, apex.wire()).then(|| wire.len() - apex.wire().len());
        if let Some(apex_at) = at(&self.primary) {
            return Some(Within { apex_at, kind: Kind::Primary });
        }
        for (which, alias) in self.aliases.iter().enumerate() {
            if let Some(apex_at) = at(alias) {
                return Some(Within { apex_at, kind: Kind::Alias(which) });
            }
        }
        if !is_reverse(wire) {
            return None;
        }
        let mut rest = wire;
        loop {
            if self.reverse.contains(rest) {
                return Some(Within { apex_at: wire.len() - rest.len(), kind: Kind::Reverse });
            }
            rest = name::parent(rest)?;
        }
    }
}

/// Whether the name is one of an address, or above such.
pub(crate) fn is_reverse(wire: &[u8]) -> bool {
    wire.ends_with(V4_SUFFIX) || wire.ends_with(V6_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_innermost() {
        let mut config = Config::default();
        config.reverse_zones.extend("96.10.in-addr.arpa".parse());
        config.aliases.extend("example.org".parse());
        let zones = Zones::new(&config);
        let find = |text: &str| {
            let name = Name::from_text(text).unwrap();
            zones.find(name.wire()).map(|at| (Name::from_wire(&name.wire()[at.apex_at..]).to_string(), at.kind))
        };
        assert_eq!(find("a.b.cluster.local"), Some(("cluster.local.".to_owned(), Kind::Primary)));
        assert_eq!(find("a.example.org"), Some(("example.org.".to_owned(), Kind::Alias(0))));
        assert_eq!(find("1.0.96.10.in-addr.arpa"), Some(("96.10.in-addr.arpa.".to_owned(), Kind::Reverse)));
        assert_eq!(find("1.0.97.10.in-addr.arpa"), Some(("10.in-addr.arpa.".to_owned(), Kind::Reverse)));
        assert_eq!(find("8.8.8.8.in-addr.arpa"), None);
        assert_eq!(find("local"), None);
        assert_eq!(find("."), None);
    }

    #[test]
    fn names_change_their_end() {
        let mut config = Config::default();
        config.aliases.extend([&"z".repeat(63), "o"].map(|text| text.parse().unwrap()));
        let zones = Zones::new(&config);
        let mut buffer = [0; MAX_NAME];
        let asked = Name::from_text("web.prod.svc.o").unwrap();
        buffer[..asked.wire().len()].copy_from_slice(asked.wire());
        let within = zones.find(asked.wire()).unwrap();
        let length = zones.compiled(&mut buffer, asked.wire().len(), within).unwrap();
        assert_eq!(Name::from_wire(&buffer[..length]).to_string(), "web.prod.svc.cluster.local.");
        let spelling = zones.spelling(within.kind);
        let spelt = |name: &str| Name::from_wire(&spelling.of(0, &Name::from_text(name).unwrap()).concat()).to_string();
        assert_eq!(spelt("a.svc.cluster.local"), "a.svc.o.");
        assert_eq!(spelt("a.svc.xcluster.local"), "a.svc.xcluster.local.");
        assert_eq!(spelt("example.com"), "example.com.");
        // What would be too long in the alias stays, and what is too long in the primary zone does not exist.
        let long = format!("{0}.{0}.{0}", "a".repeat(63));
        let spelling = zones.spelling(Kind::Alias(0));
        let name = Name::from_text(&format!("{long}.cluster.local")).unwrap();
        assert_eq!(spelling.of(0, &name), [name.wire(), &[]]);
        let longest = Name::from_text(&format!("{0}.{0}.{1}.{2}.o", "a".repeat(63), "b".repeat(60), "c".repeat(59)));
        let longest = longest.unwrap();
        buffer[..longest.wire().len()].copy_from_slice(longest.wire());
        let within = zones.find(longest.wire()).unwrap();
        assert_eq!(zones.compiled(&mut buffer, longest.wire().len(), within), None);
    }
}
