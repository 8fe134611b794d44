//! What a reader finds at a name, however it is kept.

use crate::name::Name;
use crate::node::{Node, Pointers, Special};
use crate::record::{Pointer, Srv};
use std::net::IpAddr;

/// What stands at a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    /// What the table has there.
    Kept {
        node: &'a Node,
        /// The address whose name it is, of those of addresses.
        reversed: Option<IpAddr>,
    },
    /// The one address of an endpoint whose name says it.
    A { ttl: u32, address: [u8; 4] },
    /// The same, of version 6.
    Aaaa { ttl: u32, address: [u8; 16] },
    /// The one record at the name of a port.
    Srv { ttl: u32, srv: &'a Srv },
    /// Nothing, but there are names below.
    Bare,
}

impl<'a> View<'a> {
    /// Of an endpoint's name that is the dashed form of this address.
    pub(crate) fn said(address: IpAddr, ttl: u32) -> Self {
        match address {
            IpAddr::V4(v4) => View::A { ttl, address: v4.octets() },
            IpAddr::V6(v6) => View::Aaaa { ttl, address: v6.octets() },
        }
    }

    fn node(&self) -> Option<&'a Node> {
        match *self {
            View::Kept { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The TTL of its records; those of pointers have their own.
    pub(crate) fn ttl(&self) -> u32 {
        match self {
            View::Kept { node, .. } => node.ttl(),
            View::A { ttl, .. } | View::Aaaa { ttl, .. } | View::Srv { ttl, .. } => *ttl,
            View::Bare => 0,
        }
    }

    pub(crate) fn a(&self) -> &[[u8; 4]] {
        match self {
            View::Kept { node, .. } => node.a(),
            View::A { address, .. } => std::slice::from_ref(address),
            _ => &[],
        }
    }

    pub(crate) fn aaaa(&self) -> &[[u8; 16]] {
        match self {
            View::Kept { node, .. } => node.aaaa(),
            View::Aaaa { address, .. } => std::slice::from_ref(address),
            _ => &[],
        }
    }

    pub(crate) fn srv(&self) -> &'a [Srv] {
        match *self {
            View::Kept { node, .. } => node.srv(),
            View::Srv { srv, .. } => std::slice::from_ref(srv),
            _ => &[],
        }
    }

    pub(crate) fn cname(&self) -> Option<&'a Name> {
        self.node()?.cname()
    }

    pub(crate) fn special(&self) -> Special {
        self.node().map(Node::special).unwrap_or_default()
    }

    /// Whether there is something to answer, beside the name's existence.
    pub(crate) fn has_records(&self) -> bool {
        match self {
            View::Kept { node, .. } => node.has_records(),
            View::Bare => false,
            _ => true,
        }
    }

    /// What the address is called.
    pub(crate) fn called(&self) -> Option<Called<'a>> {
        match self.node()? {
            Node::Pointer(pointer) => Some(Called::One(pointer)),
            Node::Rich(records) => records.ptr.as_deref().map(Called::Some),
            _ => None,
        }
    }

    /// The address whose name it is.
    pub(crate) fn reversed(&self) -> Option<IpAddr> {
        match *self {
            View::Kept { reversed, .. } => reversed,
            _ => None,
        }
    }
}

/// What an address is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Called<'a> {
    One(&'a Pointer),
    Some(&'a Pointers),
}
