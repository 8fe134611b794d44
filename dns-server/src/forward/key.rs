//! What is asked of upstreams, and by what answers are kept.

use crate::message::CLASS_IN;
use crate::name::MAX_NAME;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Type and flags in front of the name.
const FRONT: usize = 3;
const DNSSEC_OK: u8 = 1;
const CHECKING_DISABLED: u8 = 2;
/// A name, its question's type and flags.
const LONGEST: usize = FRONT + MAX_NAME;

/// A question: name in lower case, type, and the two bits that change what an answer holds. The class is IN.
///
/// One piece of memory, so that it is hashed at once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key(Arc<[u8]>);

impl Key {
    pub(crate) fn new(name: &[u8], qtype: u16, dnssec_ok: bool, checking_disabled: bool) -> Self {
        Self(Arc::from(KeyBuffer::new(name, qtype, dnssec_ok, checking_disabled).as_slice()))
    }

    /// The name in wire form, in lower case.
    pub(crate) fn name(&self) -> &[u8] {
        self.0.get(FRONT..).unwrap_or_default()
    }

    pub(crate) fn qtype(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.0[2] & DNSSEC_OK != 0
    }

    pub(crate) fn checking_disabled(&self) -> bool {
        self.0[2] & CHECKING_DISABLED != 0
    }

    /// Octets that it takes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The question section of its query.
    pub(crate) fn question(&self) -> impl Iterator<Item = u8> {
        self.name().iter().copied().chain(self.qtype().to_be_bytes()).chain(CLASS_IN.to_be_bytes())
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} type {}", crate::name::Name::from_wire(self.name()), self.qtype())
    }
}

/// A key on the stack, to look up by.
pub(crate) struct KeyBuffer {
    bytes: [u8; LONGEST],
    length: usize,
}

impl KeyBuffer {
    /// The name must be valid, and so at most 255 octets; what is longer is cut.
    pub(crate) fn new(name: &[u8], qtype: u16, dnssec_ok: bool, checking_disabled: bool) -> Self {
        let mut bytes = [0; LONGEST];
        bytes[..2].copy_from_slice(&qtype.to_be_bytes());
        bytes[2] = if dnssec_ok { DNSSEC_OK } else { 0 } | if checking_disabled { CHECKING_DISABLED } else { 0 };
        let length = name.len().min(MAX_NAME);
        bytes[FRONT..FRONT + length].copy_from_slice(&name[..length]);
        Self { bytes, length: FRONT + length }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
