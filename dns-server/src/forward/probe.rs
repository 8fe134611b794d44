//! Puts an upstream's message through all that is done with one, for fuzzing and for properties.

use crate::encode::{QUESTION, Rcode, Reply};
use crate::forward::entry::{Age, Entry, Lifetimes, Origin, Room};
use crate::forward::key::Key;
use crate::forward::wire::{Records, read_name, u16_at};
use crate::message::{self, HEADER, Parsed};
use std::time::Duration;

/// Answers a question with a message that claims to be the answer to it; whether it was taken for one.
pub(crate) fn answers(raw: &[u8]) -> bool {
    let Some(name) = read_name(raw, HEADER) else { return false };
    let Some(qtype) = u16_at(raw, HEADER + name.len()) else { return false };
    let key = Key::new(&name.to_ascii_lowercase(), qtype, false, false);
    let lifetimes = Lifetimes { least: 0, most: 3600, most_negative: 300 };
    let Ok(entry) = Entry::read(raw, &key, lifetimes, 0) else { return false };
    let origin = Origin { upstream: "10.0.0.1:53".into(), took: Duration::from_millis(1) };
    let entry = entry.given_by(origin);
    // The query that it answers, with EDNS and without.
    let mut packet = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend(key.question());
    let mut with_edns = packet.clone();
    with_edns[11] = 1;
    with_edns.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    let mut out = Vec::new();
    for packet in [&packet, &with_edns] {
        let Parsed::Query(query) = message::parse(packet) else { continue };
        for limit in [512, 1232, 65_535] {
            for age in [Age::Fresh(0), Age::Fresh(100), Age::Stale(7)] {
                let room = Room { limit, payload: 1232 };
                let whole = entry.write(&mut out, packet, &query, age, &room, limit);
                assert!(out.len() <= limit.max(packet.len() + 11), "{} octets of {limit}", out.len());
                assert_eq!(out[..2], packet[..2]);
                assert!(whole == (out[2] & 0x02 == 0));
                let counted: usize = [6, 8, 10].iter().map(|at| usize::from(u16_at(&out, *at).unwrap_or(0))).sum();
                let records = Records::new(&out, HEADER + name.len() + 4);
                assert_eq!(records.flatten().count(), counted, "records are not what the header says");
            }
            let mut reply = Reply::new(&mut out, packet, &query, limit);
            reply.rcode = Rcode::NoError;
            let _ = entry.write_into(&mut reply, QUESTION, Age::Fresh(1));
            reply.finish(1232);
            assert!(out.len() <= limit.max(packet.len() + 11));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::entry::Unfit;
    use crate::forward::wire::u32_at;
    use proptest::prelude::*;

    /// An answer with A records of these TTLs at the name asked for.
    fn answer(key: &Key, ttls: &[u32]) -> Vec<u8> {
        let mut raw = vec![0, 0, 0x81, 0x80, 0, 1, 0, ttls.len() as u8, 0, 0, 0, 0];
        raw.extend(key.question());
        for ttl in ttls {
            raw.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            raw.extend_from_slice(&ttl.to_be_bytes());
            raw.extend_from_slice(&[0, 4, 192, 0, 2, 1]);
        }
        raw
    }

    fn key() -> Key {
        Key::new(b"\x01a\x07example\x00", 1, false, false)
    }

    proptest! {
        #[test]
        fn ttls_only_ever_shrink(
            ttls in proptest::collection::vec(any::<u32>(), 1..8),
            least in 0u32..100,
            most in 100u32..10_000,
            ages in proptest::collection::vec(0u64..20_000, 1..10),
        ) {
            let key = key();
            let lifetimes = Lifetimes { least, most, most_negative: 300 };
            let entry = Entry::read(&answer(&key, &ttls), &key, lifetimes, 1_000_000).unwrap();
            // The upper half of the range counts as 0 (RFC 2181 §8).
            let kept: Vec<u32> =
                ttls.iter().map(|ttl| if *ttl > i32::MAX as u32 { 0 } else { *ttl }.clamp(least, most)).collect();
            let lifetime = u64::from(*kept.iter().min().unwrap());
            prop_assert_eq!(entry.is_kept(), lifetime > 0);
            let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            packet.extend(key.question());
            let Parsed::Query(query) = message::parse(&packet) else { panic!("no query") };
            for age in ages {
                let now = 1_000_000 + age * 1000 + 999;
                let found = entry.age(now);
                prop_assert_eq!(found.is_some(), age < lifetime, "after {} of {}", age, lifetime);
                let Some(found) = found else { continue };
                let mut out = Vec::new();
                let room = Room { limit: 512, payload: 1232 };
                prop_assert!(entry.write(&mut out, &packet, &query, found, &room, 0));
                let told: Vec<u32> = Records::new(&out, HEADER + 11 + 4)
                    .flatten()
                    .map(|record| u32_at(&out, record.ttl).unwrap())
                    .collect();
                let expected: Vec<u32> = kept.iter().map(|ttl| ttl - age as u32).collect();
                prop_assert_eq!(&told, &expected);
                prop_assert!(told.iter().all(|ttl| *ttl > 0));
            }
        }

        #[test]
        fn any_message_is_survived(
            flags in any::<[u8; 2]>(),
            counts in proptest::collection::vec(0u8..4, 3),
            rest in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut raw = vec![0, 0, 0x80 | flags[0] & 0x01, flags[1] & 0xf3, 0, 1];
            raw.extend(counts.iter().flat_map(|count| [0, *count]));
            raw.extend(key().question());
            raw.extend_from_slice(&rest);
            answers(&raw);
        }

        #[test]
        fn changed_answers_are_survived(
            which in any::<proptest::sample::Index>(),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..4, any::<u8>(), 1usize..9), 0..8),
        ) {
            let mut raw = which.get(&real_answers()).clone();
            for (place, change, octet, length) in changes {
                if raw.is_empty() {
                    break;
                }
                let at = place.index(raw.len());
                let end = (at + length).min(raw.len());
                match change {
                    0 => raw[at] = octet,
                    1 => raw[at] ^= 1 << (octet % 8),
                    2 => drop(raw.drain(at..end)),
                    _ => {
                        let copy = raw[at..end].to_vec();
                        raw.splice(at..at, copy);
                    }
                }
            }
            answers(&raw);
        }

        #[test]
        fn damaged_answers_are_survived(
            ttls in proptest::collection::vec(any::<u32>(), 1..30),
            places in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut raw = answer(&key(), &ttls);
            for (place, octet) in places {
                let at = place.index(raw.len());
                raw[at] = octet;
            }
            answers(&raw);
        }
    }

    /// Answers as servers give them, with all that makes reading hard: compression, chains, negative ones, those with
    /// EDNS options, long and cut ones.
    fn real_answers() -> Vec<Vec<u8>> {
        use hickory_proto::op::{Edns, Message, Query, ResponseCode};
        use hickory_proto::rr::rdata::opt::EdnsOption;
        use hickory_proto::rr::rdata::{A, CNAME, MX, SOA, SRV, TXT};
        use hickory_proto::rr::{Name, RData, Record, RecordType};
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let record = |at: &str, data| Record::from_rdata(name(at), 60, data);
        let soa = SOA::new(name("ns.example."), name("admin.example."), 1, 2, 3, 4, 5);
        let soa = || record("example.", RData::SOA(soa.clone()));
        let address = || RData::A(A::new(192, 0, 2, 1));
        let make = |qtype, rcode, records: Vec<Record>, negative: bool| {
            let mut message = Message::response(7, hickory_proto::op::OpCode::Query);
            message.add_query(Query::query(name("www.example."), qtype));
            message.metadata.response_code = rcode;
            message.add_answers(records);
            if negative {
                message.add_authority(soa());
            }
            let mut edns = Edns::new();
            let option = |code: u8, text: &[u8]| EdnsOption::Unknown(15, [&[0, code], text].concat());
            edns.options_mut().insert(option(3, b"old"));
            edns.options_mut().insert(EdnsOption::Unknown(10, vec![7; 16]));
            edns.options_mut().insert(option(22, &[b'x'; 300]));
            message.set_edns(edns);
            message.to_vec().unwrap()
        };
        let chain = vec![
            record("www.example.", RData::CNAME(CNAME(name("a.b.example.")))),
            record("a.b.example.", RData::CNAME(CNAME(name("b.example.")))),
            record("b.example.", address()),
            record("b.example.", address()),
        ];
        let services = vec![
            record("www.example.", RData::SRV(SRV::new(1, 2, 3, name("b.example.")))),
            record("www.example.", RData::MX(MX::new(1, name("mail.example.")))),
        ];
        let texts = (0..40).map(|_| record("www.example.", RData::TXT(TXT::new(vec!["x".repeat(60)])))).collect();
        let mut cut = make(RecordType::A, ResponseCode::NoError, chain.clone(), false);
        cut[2] |= 0x02;
        cut.truncate(cut.len() - 350);
        vec![
            make(RecordType::A, ResponseCode::NoError, chain, false),
            make(RecordType::SRV, ResponseCode::NoError, services, true),
            make(RecordType::TXT, ResponseCode::NoError, texts, false),
            make(RecordType::A, ResponseCode::NXDomain, Vec::new(), true),
            make(RecordType::A, ResponseCode::NoError, Vec::new(), true),
            cut,
        ]
    }

    #[test]
    fn real_answers_are_taken() {
        for raw in real_answers() {
            assert!(answers(&raw), "{raw:02x?}");
        }
    }

    #[test]
    fn whose_answer_it_is() {
        let (key, lifetimes) = (key(), Lifetimes { least: 0, most: 3600, most_negative: 300 });
        let read = |raw: &[u8]| Entry::read(raw, &key, lifetimes, 0).map(|entry| entry.records());
        let good = answer(&key, &[60, 60]);
        assert_eq!(read(&good), Ok(2));
        let changed = |at: usize, octet: u8| {
            let mut raw = good.clone();
            raw[at] = octet;
            read(&raw).unwrap_err()
        };
        assert_eq!(changed(2, 0x01), Unfit::Foreign);
        assert_eq!(changed(13, b'b'), Unfit::Foreign);
        assert_eq!(changed(24, 28), Unfit::Foreign);
        assert_eq!(changed(26, 3), Unfit::Foreign);
        assert_eq!(changed(3, 0x85), Unfit::Rcode(5, Vec::new()));
        assert_eq!(changed(7, 3), Unfit::Malformed);
        assert_eq!(read(&good[..good.len() - 1]), Err(Unfit::Malformed));
        // One that was cut, in the midst of a record.
        let mut cut = good[..good.len() - 1].to_vec();
        cut[2] |= 0x02;
        assert_eq!(read(&cut), Ok(1));
        // A server that can't read the question, and says so.
        assert_eq!(read(&[0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Unfit::Rcode(1, Vec::new())));
    }
}
