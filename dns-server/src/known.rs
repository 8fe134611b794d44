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
    id: Box<str>,
    common: Arc<Common>,
    /// What most instances do not have.
    rest: Option<Box<Rest>>,
    /// The first address of version 4 that it speaks for; the unspecified one where there is none.
    v4: Ipv4Addr,
    has_v4: bool,
    /// Whether its id is its label; [`Rest::label`] is none then.
    id_is_label: bool,
    answerable: bool,
    panic_answerable: bool,
}

/// What an instance mostly has in common with its siblings, and shares with them then.
#[derive(PartialEq, Debug)]
struct Common {
    source: Source,
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

/// What an instance has to itself and most others have not.
#[derive(Debug)]
struct Rest {
    /// None where it is the id, or where there is none.
    label: Option<Box<str>>,
    addresses: Addresses,
}

/// The other addresses that it speaks for; the usual one in place.
#[derive(PartialEq, Debug)]
enum Addresses {
    None,
    V6(Ipv6Addr),
    Many(Box<[IpAddr]>),
}

impl Common {
    fn of(view: &InstanceView) -> Self {
        let InstanceView { key, instance, .. } = view;
        Self { source: key.source.clone(), weight: instance.weight, ports: Port::list(&instance.ports) }
    }
}

impl Rest {
    fn of(label: Option<&str>, others: &[IpAddr]) -> Option<Box<Self>> {
        let addresses = match *others {
            [] => Addresses::None,
            [IpAddr::V6(v6)] => Addresses::V6(v6),
            _ => Addresses::Many(others.into()),
        };
        let empty = label.is_none() && addresses == Addresses::None;
        (!empty).then(|| Box::new(Self { label: label.map(Box::from), addresses }))
    }
}

impl Known {
    /// What there is to remember of the view; `sibling` is any other instance of its service.
    pub(crate) fn of(view: &InstanceView, names: EndpointNames, sibling: Option<&Known>) -> Self {
        let label = Endpoint::of(view).label(names);
        let id_is_label = label == Some(&*view.key.id);
        let common = Common::of(view);
        // Their order decides nothing: answers are in random order.
        let mut others: smallvec::SmallVec<[IpAddr; 4]> = view.own_addresses().collect();
        let first = others.iter().position(IpAddr::is_ipv4).map(|at| others.swap_remove(at));
        let v4 = match first {
            Some(IpAddr::V4(v4)) => Some(v4),
            _ => None,
        };
        Self {
            id: (&*view.key.id).into(),
            common: match sibling {
                Some(sibling) if *sibling.common == common => sibling.common.clone(),
                _ => Arc::new(common),
            },
            rest: Rest::of(label.filter(|_| !id_is_label), &others),
            v4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            has_v4: v4.is_some(),
            id_is_label,
            answerable: view.answerable,
            panic_answerable: view.panic_answerable,
        }
    }

    pub(crate) fn id(&self) -> Id<'_> {
        Id { id: &self.id, source: &self.common.source }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let (v6, many) = match self.rest.as_ref().map(|rest| &rest.addresses) {
            None | Some(Addresses::None) => (None, &[][..]),
            Some(Addresses::V6(v6)) => (Some(*v6), &[][..]),
            Some(Addresses::Many(list)) => (None, &**list),
        };
        let v4 = self.has_v4.then_some(IpAddr::V4(self.v4));
        v4.into_iter().chain(v6.map(IpAddr::V6)).chain(many.iter().copied())
    }

    /// The label that all its addresses share; none where each has its own.
    pub(crate) fn label(&self) -> Option<&str> {
        let own = self.rest.as_ref().and_then(|rest| rest.label.as_deref());
        own.or_else(|| self.id_is_label.then_some(&*self.id))
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
        assert!(size_of::<Known>() <= 40);
    }
}
