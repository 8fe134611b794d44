//! Reads a query.
//!
//! Queries are simple messages: a header, one question, and an OPT record (EDNS) at most. This parser takes in that much
//! and steps over the rest (RFC 1035 §4.1), without allocation, and never reads outside of the packet. A query's name
//! has nothing before it that a compression pointer could lead to, so a pointer there is an error.

use crate::name::{MAX_LABEL, MAX_NAME};

/// A message's header.
pub(crate) const HEADER: usize = 12;

/// The record types that are treated in their own way.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const HINFO: u16 = 13;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
}

/// The Internet's class.
pub(crate) const CLASS_IN: u16 = 1;

/// What a client says of itself in an OPT record (RFC 6891 §6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Edns {
    pub(crate) version: u8,
    /// The largest answer that it takes over UDP.
    pub(crate) payload: u16,
    pub(crate) dnssec_ok: bool,
}

/// A query of the kind that can be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    /// The name in wire form, as the client spelt it.
    pub(crate) name: &'a [u8],
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    pub(crate) edns: Option<Edns>,
}

/// What a packet is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parsed<'a> {
    /// Too short for a header, or itself an answer: to answer it could start a loop between two servers.
    Ignore,
    /// Can't be read (FORMERR).
    Malformed,
    /// Asks for something else than a lookup (NOTIMP).
    OtherOpcode,
    Query(Query<'a>),
}

/// Looks at a packet.
pub(crate) fn parse(packet: &[u8]) -> Parsed<'_> {
    let Some(header) = packet.get(..HEADER) else {
        return Parsed::Ignore;
    };
    if header[2] & 0x80 != 0 {
        return Parsed::Ignore;
    }
    if header[2] & 0x78 != 0 {
        return Parsed::OtherOpcode;
    }
    match query(packet) {
        Some(query) => Parsed::Query(query),
        None => Parsed::Malformed,
    }
}

/// The question of an answer of ours: name, type and class, as they stand there; none where it has none.
pub(crate) fn question_of(answer: &[u8]) -> Option<&[u8]> {
    if answer.get(4..6) != Some(&[0, 1]) {
        return None;
    }
    let end = skip_name(answer, HEADER)?;
    answer.get(HEADER..end + 4)
}

/// The OPT record of a message that is no good otherwise, so far as it can be read: the first one in the additional
/// section that has the root as its owner. What its options are does not matter.
pub(crate) fn edns_of(packet: &[u8]) -> Option<Edns> {
    let count = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let mut at = HEADER;
    for _ in 0..count(4)? {
        at = skip_name(packet, at)? + 4;
    }
    let before_additional = u32::from(count(6)?) + u32::from(count(8)?);
    // Each takes some octets of the packet, which ends this.
    for place in 0..before_additional + u32::from(count(10)?) {
        let (owner, after_owner) = (at, skip_name(packet, at)?);
        if place >= before_additional && packet.get(owner) == Some(&0) && count(after_owner)? == kind::OPT {
            return edns_at(packet, after_owner);
        }
        at = after_owner + 10 + usize::from(count(after_owner + 8)?);
    }
    None
}

/// What an OPT record says whose owner ends there.
fn edns_at(packet: &[u8], after_owner: usize) -> Option<Edns> {
    let fixed = packet.get(after_owner..after_owner + 10)?;
    Some(Edns { version: fixed[5], payload: u16::from_be_bytes([fixed[2], fixed[3]]), dnssec_ok: fixed[6] & 0x80 != 0 })
}

fn query(packet: &[u8]) -> Option<Query<'_>> {
    let count = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    // One question exactly (RFC 9619).
    if count(4)? != 1 {
        return None;
    }
    let mut at = HEADER;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1 + length;
        if length == 0 {
            break;
        }
        if length > MAX_LABEL {
            return None;
        }
    }
    let name = packet.get(HEADER..at)?;
    if name.len() > MAX_NAME {
        return None;
    }
    let (qtype, qclass) = (count(at)?, count(at + 2)?);
    at += 4;

    let mut edns = None;
    let before_additional = u32::from(count(6)?) + u32::from(count(8)?);
    for place in 0..before_additional + u32::from(count(10)?) {
        let (owner, after_owner) = (at, skip_name(packet, at)?);
        let rtype = count(after_owner)?;
        let length = usize::from(count(after_owner + 8)?);
        let data = packet.get(after_owner + 10..after_owner + 10 + length)?;
        if rtype == kind::OPT {
            // At most one, in the additional section, at the root (RFC 6891 §6.1.1, §6.1.2).
            if edns.is_some() || place < before_additional || packet.get(owner) != Some(&0) || !options_fit(data) {
                return None;
            }
            edns = Some(edns_at(packet, after_owner)?);
        }
        at = after_owner + 10 + length;
    }
    Some(Query { name, qtype, qclass, edns })
}

/// The place after a name, which may end in a compression pointer.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some(at + 1),
            // The rest stands elsewhere; where, is of no interest here.
            0xc0.. => return packet.get(at + 1).map(|_| at + 2),
            1..=MAX_LABEL => at += 1 + length,
            _ => return None,
        }
        if at - start > MAX_NAME {
            return None;
        }
    }
}

/// Whether the options fill their record exactly (RFC 6891 §6.1.2); which they are does not matter.
fn options_fit(mut data: &[u8]) -> bool {
    while let [_, _, high, low, rest @ ..] = data {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(next) => data = next,
            None => return false,
        }
    }
    data.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns as HickoryEdns, Message, Query as Question};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_hickory_writes(
            labels in proptest::collection::vec("[a-zA-Z0-9_][a-zA-Z0-9_-]{0,18}", 0..8),
            qtype: u16,
            edns in proptest::option::of((any::<u16>(), any::<u8>(), any::<bool>())),
        ) {
            let text = labels.join(".") + ".";
            let mut message = Message::query();
            message.add_query(Question::query(Name::from_ascii(&text).unwrap(), RecordType::from(qtype)));
            if let Some((payload, version, dnssec_ok)) = edns {
                let mut opt = HickoryEdns::new();
                opt.set_max_payload(payload).set_version(version).set_dnssec_ok(dnssec_ok);
                message.set_edns(opt);
            }
            let packet = message.to_vec().unwrap();
            let Parsed::Query(query) = parse(&packet) else { panic!("{packet:02x?}") };
            let name = crate::name::Name::from_text(&text).unwrap();
            prop_assert_eq!(&query.name.to_ascii_lowercase(), name.wire());
            prop_assert_eq!((query.qtype, query.qclass), (qtype, CLASS_IN));
            let written = message.edns.map(|opt| Edns {
                version: opt.version(),
                payload: opt.max_payload(),
                dnssec_ok: opt.flags().dnssec_ok,
            });
            prop_assert_eq!(query.edns, written);
        }

        #[test]
        fn what_it_takes_for_a_query_is_one_for_hickory(mut packet in proptest::collection::vec(0u8..70, 12..60)) {
            packet[2] = 0;
            packet[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            if let Parsed::Query(query) = parse(&packet) {
                let message = Message::from_vec(&packet).unwrap();
                prop_assert_eq!(message.queries.len(), 1);
                prop_assert_eq!(u16::from(message.queries[0].query_type()), query.qtype);
            }
        }
    }
}
