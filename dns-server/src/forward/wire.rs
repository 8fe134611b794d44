//! Reads messages from other servers: more than a query's parser needs, and as little trust.
//!
//! What is read stays where it is, in wire form; these functions find its parts and never look outside of the message.

use crate::encode::Section;
use crate::message::{HEADER, skip_name};
use crate::name::{MAX_LABEL, MAX_NAME};
use smallvec::SmallVec;

/// The message breaks the rules for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the message can't be read")]
pub(crate) struct Malformed;

/// A name without compression, as it was spelt.
pub(crate) type PlainName = SmallVec<[u8; 64]>;

pub(crate) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

pub(crate) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

/// A record's parts, as places in its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) section: Section,
    /// Where its owner begins.
    pub(crate) owner: usize,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    /// Where its TTL stands.
    pub(crate) ttl: usize,
    /// Its data: from here
    pub(crate) data: usize,
    /// to here, where the next record begins.
    pub(crate) end: usize,
}

/// The records of a message, from front to back; nothing more after an error.
pub(crate) struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: [u16; 3],
}

impl<'a> Records<'a> {
    /// Those that follow the question, which ends at `at`.
    pub(crate) fn new(message: &'a [u8], at: usize) -> Self {
        let count = |place| u16_at(message, place).unwrap_or(0);
        Self { message, at, left: [count(6), count(8), count(10)] }
    }

    fn step(&mut self, section: Section) -> Option<Record> {
        let owner = self.at;
        let fixed = skip_name(self.message, owner)?;
        let data = fixed + 10;
        let end = data + usize::from(u16_at(self.message, fixed + 8)?);
        self.message.get(data..end)?;
        self.at = end;
        Some(Record {
            section,
            owner,
            rtype: u16_at(self.message, fixed)?,
            class: u16_at(self.message, fixed + 2)?,
            ttl: fixed + 4,
            data,
            end,
        })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
        let place = self.left.iter().position(|left| *left > 0)?;
        self.left[place] -= 1;
        let record = self.step(SECTIONS[place]);
        if record.is_none() {
            self.left = [0; 3];
        }
        Some(record.ok_or(Malformed))
    }
}

/// The name at a place, without compression (RFC 1035 §4.1.4). Pointers lead strictly backwards, so they end.
pub(crate) fn read_name(message: &[u8], mut at: usize) -> Option<PlainName> {
    let mut name = PlainName::new();
    let mut start = at;
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => {
                name.push(0);
                return Some(name);
            }
            0xc0.. => {
                let to = (length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                if to >= start || to < HEADER {
                    return None;
                }
                (at, start) = (to, to);
            }
            1..=MAX_LABEL => {
                name.extend_from_slice(message.get(at..=at + length)?);
                at += 1 + length;
                // One octet is left for the root.
                if name.len() >= MAX_NAME {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// A record's data without compressed names, for another message. Only the types of RFC 1035 may hold compressed names
/// (RFC 3597 §4), and a few others that were once written so; the data of all others is copied.
pub(crate) fn plain_data(message: &[u8], record: &Record) -> Option<SmallVec<[u8; 64]>> {
    // Octets in front, and names behind them; what follows these is copied.
    let (before, names) = match record.rtype {
        // NS, MD, MF, CNAME, MB, MG, MR, PTR, DNAME
        2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 39 => (0, 1),
        // SOA, MINFO, RP
        6 | 14 | 17 => (0, 2),
        // MX, AFSDB, RT, KX
        15 | 18 | 21 | 36 => (2, 1),
        // PX
        26 => (2, 2),
        // SRV
        33 => (6, 1),
        _ => (0, 0),
    };
    let mut at = record.data + before;
    let mut data = SmallVec::from_slice(message.get(record.data..at)?);
    for _ in 0..names {
        data.extend_from_slice(&read_name(message, at)?);
        at = skip_name(message, at)?;
    }
    data.extend_from_slice(message.get(at..record.end)?);
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pointers_lead_backwards() {
        let mut message = vec![0; HEADER];
        message.extend_from_slice(b"\x03www\x07example\x00\x01a\xc0\x10\xc0\x1d\xc0\x1f");
        assert_eq!(read_name(&message, 12).unwrap().as_slice(), b"\x03www\x07example\x00");
        assert_eq!(read_name(&message, 25).unwrap().as_slice(), b"\x01a\x07example\x00");
        // To itself, and to what follows.
        assert_eq!(read_name(&message, 29), None);
        assert_eq!(read_name(&message, 31), None);
    }

    proptest! {
        #[test]
        fn nothing_is_read_outside(message in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..250) {
            if let Some(name) = read_name(&message, at) {
                prop_assert!(name.len() <= MAX_NAME);
            }
            for record in Records::new(&message, at).take(1000).flatten() {
                prop_assert!(record.end <= message.len());
                let _ = plain_data(&message, &record);
            }
        }
    }
}
