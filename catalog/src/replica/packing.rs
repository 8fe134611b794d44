//! Several values in one piece of memory, one after another: lists and texts of their own would cost a pointer, a length
//! and an allocation each.

use smallvec::SmallVec;
use std::net::IpAddr;

/// What is packed; on the stack until it is known to be kept.
pub(super) type Packed = SmallVec<[u8; 192]>;

/// Writes values.
#[derive(Debug, Default)]
pub(super) struct Packer(Packed);

impl Packer {
    pub(super) fn finish(self) -> Packed {
        self.0
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// Seven bits in each byte, the lowest first; the highest bit says that more follow.
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.octets(text.as_bytes());
    }

    pub(super) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.byte(4);
                self.octets(&address.octets());
            }
            IpAddr::V6(address) => {
                self.byte(6);
                self.octets(&address.octets());
            }
        }
    }
}

/// Reads values in the order in which they were written. What is not there reads as empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    pub(super) fn new(packed: &'a [u8]) -> Self {
        Self(packed)
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    pub(super) fn octets<const N: usize>(&mut self) -> [u8; N] {
        let Some((&octets, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        octets
    }

    pub(super) fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 || shift > 63 {
                return number;
            }
        }
    }

    /// A text as bytes, for comparing.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.number()).unwrap_or(usize::MAX);
        let (bytes, rest) = self.0.split_at_checked(length).unwrap_or_default();
        self.0 = rest;
        bytes
    }

    pub(super) fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    pub(super) fn address(&mut self) -> IpAddr {
        match self.byte() {
            4 => self.octets::<4>().into(),
            _ => self.octets::<16>().into(),
        }
    }
}
