//! What the index remembers of an instance: what its records are made from, and nothing else.
//!
//! They are made anew whenever it or its service changes, so they need not be remembered themselves; but what changes
//! with its service can't be made from the service alone. Every instance has one of these: it is kept small.

use crate::compile::Port;
use crate::config::EndpointNames;
use crate::label::Endpoint;
use fingerpost_catalog::{InstanceKey, InstanceView, Source};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// An instance.
#[derive(Debug)]
pub(crate) struct Known {
    /// Shared with the replica.
    id: Arc<str>,
    common: Arc<Common>,
    addresses: Addresses,
    /// Whether its id is its label; [`Common::label`] is none then.
    id_is_label: bool,
    answerable: bool,
    panic_answerable: bool,
}

/// What an instance mostly has in common with its siblings, and shares with them then.
#[derive(PartialEq, Debug)]
struct Common {
    source: Source,
    /// None where it is the id, or where there is none.
    label: Option<Box<str>>,
    weight: Option<u16>,
    ports: Box<[Port]>,
}

/// Which of its service's instances it is: the key of a [`Known`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id<'a> {
    id: &'a str,
    source: &'a Source,
}

impl<'a> Id<'a> {
    pub(crate) fn of(key: &'a InstanceKey) -> Self {
        Self { id: &key.id, source: &key.source }
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

/// The addresses that it speaks for; the usual ones in place.
#[derive(Debug)]
enum Addresses {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Both(Ipv4Addr, Ipv6Addr),
    Other(Box<[IpAddr]>),
}

impl Addresses {
    fn of(view: &InstanceView) -> Self {
        let addresses: smallvec::SmallVec<[IpAddr; 4]> = view.own_addresses().collect();
        match *addresses {
            [IpAddr::V4(v4)] => Addresses::V4(v4),
            [IpAddr::V6(v6)] => Addresses::V6(v6),
            // The order decides nothing: answers are in random order.
            [IpAddr::V4(v4), IpAddr::V6(v6)] | [IpAddr::V6(v6), IpAddr::V4(v4)] => Addresses::Both(v4, v6),
            _ => Addresses::Other(addresses.into_vec().into()),
        }
    }
}

impl Common {
    fn of(view: &InstanceView, label: Option<&str>) -> Self {
        let InstanceView { key, instance, .. } = view;
        Self {
            source: key.source.clone(),
            label: label.filter(|label| *label != &*key.id).map(Box::from),
            weight: instance.weight,
            ports: Port::list(&instance.ports),
        }
    }
}

impl Known {
    /// What there is to remember of the view; `sibling` is any other instance of its service.
    pub(crate) fn of(view: &InstanceView, names: EndpointNames, sibling: Option<&Known>) -> Self {
        let label = Endpoint::of(view).label(names);
        let common = Common::of(view, label);
        Self {
            id: view.key.id.clone(),
            common: match sibling {
                Some(sibling) if *sibling.common == common => sibling.common.clone(),
                _ => Arc::new(common),
            },
            addresses: Addresses::of(view),
            id_is_label: label == Some(&*view.key.id),
            answerable: view.answerable,
            panic_answerable: view.panic_answerable,
        }
    }

    pub(crate) fn id(&self) -> Id<'_> {
        Id { id: &self.id, source: &self.common.source }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (v4, v6, other) = match &self.addresses {
            Addresses::V4(v4) => (Some(*v4), None, &[][..]),
            Addresses::V6(v6) => (None, Some(*v6), &[][..]),
            Addresses::Both(v4, v6) => (Some(*v4), Some(*v6), &[][..]),
            Addresses::Other(list) => (None, None, &**list),
        };
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).chain(other.iter().copied())
    }

    /// The label that all its addresses share; none where each has its own.
    pub(crate) fn label(&self) -> Option<&str> {
        self.common.label.as_deref().or_else(|| self.id_is_label.then_some(&*self.id))
    }

    pub(crate) fn weight(&self) -> Option<u16> {
        self.common.weight
    }

    /// Its own ports; where empty, its service's are meant.
    pub(crate) fn ports(&self) -> &[Port] {
        &self.common.ports
    }

    /// Whether it is answered while its service panics or does not.
    pub(crate) fn is_answered(&self, panics: bool) -> bool {
        self.answerable || (panics && self.panic_answerable)
    }

    /// Whether it is answered only because its service panics.
    pub(crate) fn is_brought_back(&self) -> bool {
        self.panic_answerable && !self.answerable
    }

    /// Whether it keeps its service from panicking.
    pub(crate) fn counts(&self) -> bool {
        self.answerable && self.addresses().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_small() {
        assert!(size_of::<Known>() <= 56);
    }
}
