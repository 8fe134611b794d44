//! The pieces of answers that objects of the catalog contribute, and the names that they are contributed to.

use crate::name::{self, Label, Name};
use fingerpost_catalog::Protocol;
use std::net::IpAddr;

/// What an SRV record leads to. Where the name says an address, only that is kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Target {
    Whole(Name),
    /// The dashed address, below this name.
    V4(Name, [u8; 4]),
    /// The same; boxed, for it would make all others twice as large.
    V6(Box<(Name, [u8; 16])>),
}

impl Target {
    /// The name of an endpoint of a service, by its label in wire form. One name has one form: whoever bears it.
    pub(crate) fn below(service: &Name, label: &Label) -> Option<Self> {
        if !service.has_room(label) {
            return None;
        }
        match name::dashed_address(name::first_label(label)) {
            Some(IpAddr::V4(v4)) => Some(Target::V4(service.clone(), v4.octets())),
            Some(IpAddr::V6(v6)) => Some(Target::V6(Box::new((service.clone(), v6.octets())))),
            None => service.behind(label).map(Target::Whole),
        }
    }

    /// The label that stands in front, if any, and the name behind it.
    pub(crate) fn parts(&self) -> (Label, &Name) {
        match self {
            Target::Whole(name) => (Label::new(), name),
            Target::V4(name, octets) => (name::dashed_label(IpAddr::from(*octets)), name),
            Target::V6(both) => (name::dashed_label(IpAddr::from(both.1)), &both.0),
        }
    }

    /// Whether it is this name as a whole.
    pub(crate) fn is(&self, wire: &[u8]) -> bool {
        matches!(self, Target::Whole(name) if name.wire() == wire)
    }

    /// Whether its label says this address.
    pub(crate) fn says(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Target::V4(_, octets), IpAddr::V4(v4)) => *octets == v4.octets(),
            (Target::V6(both), IpAddr::V6(v6)) => both.1 == v6.octets(),
            _ => false,
        }
    }

    /// The name in full.
    pub(crate) fn name(&self) -> Option<Name> {
        match self {
            Target::Whole(name) => Some(name.clone()),
            _ => {
                let (label, service) = self.parts();
                service.behind(&label)
            }
        }
    }
}

/// An SRV record without its priority, which is always 0 (RFC 2782).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Srv {
    /// None: an equal share, known only when the answer is made.
    pub(crate) weight: Option<u16>,
    pub(crate) port: u16,
    pub(crate) target: Target,
}

/// A named port of a service with addresses of its own, all of which it is reached at. The names for it, as
/// `_http._tcp.web.prod.svc.<zone>`, and the one above that, have no entries: what they answer is read at the service.
///
/// No two ports of a service have one name, but while one takes another's place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NamedPort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl NamedPort {
    /// Whether its protocol has this label.
    pub(crate) fn speaks(&self, label: &[u8]) -> bool {
        is_underscored(label, self.protocol.dns_label())
    }

    /// Whether it is the one with these two labels.
    pub(crate) fn is(&self, name: &[u8], protocol: &[u8]) -> bool {
        is_underscored(name, &self.name) && self.speaks(protocol)
    }
}

/// Whether a label is this text behind an underscore.
fn is_underscored(label: &[u8], text: &str) -> bool {
    label.strip_prefix(b"_") == Some(text.as_bytes())
}

/// Whose name an address leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Role {
    /// A service's own address: the service's.
    Service,
    /// An endpoint's.
    Endpoint,
    /// That of an endpoint whose label is the address with dashes. Kept is only its service's name; and that the
    /// endpoint's name exists, with this address, is said nowhere else.
    Dashed,
}

/// What an address is called. Its hash is its name's, by which it is looked for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pointer {
    pub(crate) name: Name,
    pub(crate) ttl: u32,
    pub(crate) role: Role,
}

impl std::hash::Hash for Pointer {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Pointer {
    /// Whether it is the address' dashed form below this name that it leads to.
    pub(crate) fn is_dashed_below(&self, service: &[u8]) -> bool {
        self.role == Role::Dashed && self.name.wire() == service
    }

    /// The label that stands in front, if any, where this is the pointer of that address.
    pub(crate) fn label(&self, address: Option<IpAddr>) -> Label {
        match (self.role, address) {
            (Role::Dashed, Some(address)) => name::dashed_label(address),
            _ => Label::new(),
        }
    }
}

/// A piece of an answer that an object of the catalog contributes to a name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Data {
    /// Nothing but the name's existence.
    Pin,
    A([u8; 4]),
    Aaaa([u8; 16]),
    Srv(Srv),
    Cname(Name),
    /// From an address to a name.
    Ptr(Role, Name),
    /// At a service's name.
    Port(NamedPort),
}

impl Data {
    /// How many records it is. That of a dashed endpoint stands for its address, too.
    pub(crate) fn records(&self) -> u64 {
        match self {
            Data::Pin => 0,
            Data::Ptr(Role::Dashed, _) => 2,
            _ => 1,
        }
    }
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Data::A(v4.octets()),
            IpAddr::V6(v6) => Data::Aaaa(v6.octets()),
        }
    }
}

/// Where a contribution is made to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    Name(Name),
    /// The name under which the address is looked up backwards.
    Address(IpAddr),
}

impl From<&Name> for Place {
    fn from(name: &Name) -> Self {
        name::reverse_address(name.wire()).map_or_else(|| Place::Name(name.clone()), Place::Address)
    }
}

impl From<IpAddr> for Place {
    fn from(address: IpAddr) -> Self {
        Place::Address(address)
    }
}

/// A contribution, with the name that it is made to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Contribution {
    pub(crate) place: Place,
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}
