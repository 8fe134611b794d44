//! Names that are never asked about elsewhere, and what is answered instead.
//!
//! Special-use names (RFC 6761 and those that followed it) and the reverse zones of addresses that nobody on the Internet
//! can speak for (RFC 6303). A rule for such a zone, or for one within it, comes first: whoever writes one knows better.

use crate::encode::{Rcode, Section};
use crate::forward::clock::Moment;
use crate::forward::entry::{Entry, LocalRecord};
use crate::forward::key::Key;
use crate::message::kind;
use crate::name::{self, Name};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long answers about special names hold, in seconds: they never change (RFC 6303 §3).
const TTL: u32 = 10_800;
/// How long it holds that a rule says that there is nothing: it may be taken back.
pub(crate) const RULE_TTL: u32 = 30;
/// The SOA's data (RFC 6303 §3): the zone itself as server, which nobody is to ask, and nobody to write to.
const NOBODY: &[u8] = b"\x06nobody\x07invalid\x00";

/// What a special name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    /// It does not exist, nor does anything below it.
    Nothing,
    /// This machine, for every client its own (RFC 6761 §6.3).
    Localhost,
    /// The zone of an address of this machine.
    Loopback,
}

/// Names that mean the same everywhere, and are known to nobody: RFC 6761 (`test`, `invalid`), RFC 7686 (`onion`), RFC
/// 8375 (`home.arpa`), RFC 9476 (`alt`), RFC 9462 (`resolver.arpa`), RFC 9665 (`service.arpa`).
const NOTHING: [&str; 7] = ["test", "invalid", "onion", "home.arpa", "alt", "resolver.arpa", "service.arpa"];
/// Reverse zones of RFC 6303 §4.1, §4.3 to §4.6; those of loopback are treated apart.
const REVERSE: [&str; 13] = [
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    "8.b.d.0.1.0.0.2.ip6.arpa",
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
];

/// The special names, by their zones.
#[derive(Debug)]
pub(crate) struct Specials {
    zones: HashMap<Name, Meaning, ahash::RandomState>,
}

impl Specials {
    pub(crate) fn new() -> Self {
        let names = |names: &'static [&'static str], meaning| {
            names.iter().filter_map(|text| Name::from_text(text)).map(move |name| (name, meaning))
        };
        let private = crate::Config::private_reverse_zones();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        Self {
            zones: names(&NOTHING, Meaning::Nothing)
                .chain(names(&REVERSE, Meaning::Nothing))
                .chain(private.into_iter().map(|zone| (zone.0, Meaning::Nothing)))
                .chain(names(&["localhost"], Meaning::Localhost))
                .chain(loopback.map(|address| (Name::from_wire(&name::reverse(address)), Meaning::Loopback)))
                .collect(),
        }
    }

    /// The zone of a special name.
    pub(crate) fn zone<'a>(&self, wire: &'a [u8]) -> Option<&'a [u8]> {
        self.find(wire).map(|(zone, _)| zone)
    }

    fn find<'a>(&self, wire: &'a [u8]) -> Option<(&'a [u8], Meaning)> {
        let mut rest = wire;
        loop {
            if let Some(meaning) = self.zones.get(rest) {
                return Some((rest, *meaning));
            }
            rest = name::parent(rest)?;
        }
    }

    /// The answer to a question about a special name.
    pub(crate) fn answer(&self, key: &Key, now: Moment) -> Option<Entry> {
        let (zone, meaning) = self.find(key.name())?;
        let apex = key.name().len() - zone.len();
        let data: Option<Vec<u8>> = match (meaning, key.qtype()) {
            (Meaning::Localhost, kind::A | kind::ANY) => Some(Ipv4Addr::LOCALHOST.octets().to_vec()),
            (Meaning::Localhost, kind::AAAA) => Some(Ipv6Addr::LOCALHOST.octets().to_vec()),
            (Meaning::Loopback, kind::PTR | kind::ANY) if apex == 0 => Some(b"\x09localhost\x00".to_vec()),
            _ => None,
        };
        if let Some(data) = data {
            let rtype = match (meaning, key.qtype()) {
                (Meaning::Loopback, _) => kind::PTR,
                (_, kind::AAAA) => kind::AAAA,
                _ => kind::A,
            };
            let record = LocalRecord { section: Section::Answer, owner_at: 0, rtype, ttl: TTL, data };
            return Some(Entry::local(key, Rcode::NoError, &[record], now));
        }
        // Below `localhost` everything is `localhost`, too; elsewhere nothing is but the zone itself.
        let exists = meaning == Meaning::Localhost || apex == 0;
        Some(nothing(key, zone, if exists { Rcode::NoError } else { Rcode::NxDomain }, TTL, now))
    }
}

/// That there is nothing at a name in a zone of ours, or not that type, for so many seconds.
pub(crate) fn nothing(key: &Key, zone: &[u8], rcode: Rcode, ttl: u32, now: Moment) -> Entry {
    let apex = key.name().len().saturating_sub(zone.len());
    let mut data = zone.to_vec();
    data.extend_from_slice(NOBODY);
    for number in [1, 3600, 1200, 604_800, ttl] {
        data.extend_from_slice(&u32::to_be_bytes(number));
    }
    let at_apex = apex == 0 && key.qtype() == kind::SOA;
    let (section, rcode) = if at_apex { (Section::Answer, Rcode::NoError) } else { (Section::Authority, rcode) };
    let record = LocalRecord { section, owner_at: apex, rtype: kind::SOA, ttl, data };
    Entry::local(key, rcode, &[record], now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, qtype: u16) -> Option<(Rcode, usize)> {
        let name = Name::from_text(text).unwrap();
        let entry = Specials::new().answer(&Key::new(name.wire(), qtype, false, false), 0)?;
        Some((entry.rcode(), entry.records()))
    }

    #[test]
    fn special_names() {
        for (name, qtype, expected) in [
            ("localhost", kind::A, (Rcode::NoError, 1)),
            ("a.b.localhost", kind::AAAA, (Rcode::NoError, 1)),
            ("localhost", kind::TXT, (Rcode::NoError, 0)),
            ("x.invalid", kind::A, (Rcode::NxDomain, 0)),
            ("invalid", kind::SOA, (Rcode::NoError, 1)),
            ("abc.onion", kind::A, (Rcode::NxDomain, 0)),
            ("printer.home.arpa", kind::A, (Rcode::NxDomain, 0)),
            ("1.0.0.127.in-addr.arpa", kind::PTR, (Rcode::NoError, 1)),
            ("2.0.0.127.in-addr.arpa", kind::PTR, (Rcode::NxDomain, 0)),
            ("4.3.20.172.in-addr.arpa", kind::PTR, (Rcode::NxDomain, 0)),
            ("1.1.254.169.in-addr.arpa", kind::PTR, (Rcode::NxDomain, 0)),
        ] {
            assert_eq!(answer(name, qtype), Some(expected), "{name}");
        }
        for other in ["example.com", "local", "internal", "8.8.8.8.in-addr.arpa", "arpa", "."] {
            assert_eq!(answer(other, kind::A), None, "{other}");
        }
    }
}
