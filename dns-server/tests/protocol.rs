//! The protocol around the names: EDNS, truncation, spelling, refusals, and packets of all kinds.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::InstanceView;
use fingerpost_dns::Transport::{self, Tcp, Udp};
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use proptest::prelude::*;
use std::collections::BTreeSet;

const SET: &str = "db.prod.svc.cluster.local";

fn many(count: usize) -> Vec<InstanceView> {
    (0..count)
        .map(|n| instance("prod", "db", &format!("db-{n}"), &[&format!("10.1.{}.{}", n / 250, n % 250)]))
        .collect()
}

fn sized(count: usize) -> Dns {
    let dns = Dns::new();
    dns.load(&[headless("prod", "db", &[port("sql", 5432)])], &many(count));
    dns
}

fn edns(name: &str, qtype: RecordType, payload: u16) -> Message {
    let mut message = question(name, qtype);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

#[test]
fn what_does_not_fit_is_a_random_window() {
    let mut dns = sized(400);
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let reply = dns.send(&question(SET, RecordType::A), Udp);
        assert!(reply.message.metadata.truncation && reply.size <= 512);
        assert_eq!(reply.message.answers.len(), (512 - 12 - SET.len() - 6) / 16);
        assert_eq!(reply.data().len(), reply.message.answers.len());
        seen.extend(reply.data());
    }
    assert_eq!(seen.len(), 400);
    for (payload, limit) in [(0, 512), (100, 512), (900, 900), (1232, 1232), (4096, 1232), (65_535, 1232)] {
        let reply = dns.send(&edns(SET, RecordType::A, payload), Udp);
        assert!(reply.message.metadata.truncation);
        assert!(reply.size <= limit && reply.size > limit - 16, "{payload}: {}", reply.size);
        let own = reply.message.edns.as_ref().unwrap();
        assert_eq!((own.max_payload(), own.version()), (1232, 0));
    }
    let whole = dns.send(&question(SET, RecordType::A), Tcp);
    assert!(!whole.message.metadata.truncation);
    assert_eq!(whole.data().len(), 400);
}

#[test]
fn tcp_ends_at_64_kib_without_the_flag_for_it() {
    let mut dns = sized(10_000);
    let reply = dns.send(&edns(SET, RecordType::A, 1232), Tcp);
    assert!(!reply.message.metadata.truncation);
    assert!(reply.size <= 65_535 && reply.size > 65_535 - 16);
    assert_eq!(reply.data().len(), reply.message.answers.len());
    let srv = dns.send(&question(&format!("_sql._tcp.{SET}"), RecordType::SRV), Tcp);
    assert!(srv.size <= 65_535 && srv.message.answers.len() > 1000 && srv.message.additionals.is_empty());
}

#[test]
fn addresses_of_targets_are_left_out_silently() {
    let mut dns = sized(8);
    let name = format!("_sql._tcp.{SET}");
    let reply = dns.send(&question(&name, RecordType::SRV), Udp);
    assert!(!reply.message.metadata.truncation && reply.size <= 512);
    assert_eq!(reply.message.answers.len(), 8);
    assert!(reply.message.additionals.len() < 8);
    let reply = dns.send(&edns(&name, RecordType::SRV, 1232), Udp);
    assert_eq!((reply.message.answers.len(), reply.message.additionals.len()), (8, 8));
    for glue in &reply.message.additionals {
        assert_eq!(dns.data(&glue.name.to_string(), RecordType::A).1, set(&[&glue.data.to_string()]));
    }
}

#[test]
fn the_spelling_of_the_question_is_kept() {
    let mut dns = sized(1);
    let reply = dns.ask("dB.PrOd.sVc.ClUsTeR.lOcAl", RecordType::A);
    assert_eq!(reply.message.queries[0].name().to_string(), "dB.PrOd.sVc.ClUsTeR.lOcAl.");
    assert_eq!(reply.message.answers[0].name.to_string(), "dB.PrOd.sVc.ClUsTeR.lOcAl.");
    let reply = dns.ask("X.PrOd.sVc.ClUsTeR.lOcAl", RecordType::A);
    assert!(reply.is_negative(ResponseCode::NXDomain));
    assert_eq!(reply.message.authorities[0].name.to_string(), "ClUsTeR.lOcAl.");
    assert!(
        reply.message.authorities[0].data.to_string().starts_with("ns.dns.ClUsTeR.lOcAl. hostmaster.ClUsTeR.lOcAl.")
    );
}

#[test]
fn any_is_answered_minimally() {
    let mut dns = sized(3);
    assert_eq!(dns.ask(SET, RecordType::ANY).message.answers[0].record_type(), RecordType::HINFO);
    assert!(dns.ask("x.prod.svc.cluster.local", RecordType::ANY).is_negative(ResponseCode::NXDomain));
}

#[test]
fn extended_dns() {
    let mut dns = sized(1);
    assert!(dns.ask(SET, RecordType::A).message.edns.is_none());
    let mut message = edns(SET, RecordType::A, 1232);
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    assert!(dns.send(&message, Udp).message.edns.unwrap().flags().dnssec_ok);
    message.edns.as_mut().unwrap().set_version(1);
    let reply = dns.send(&message, Udp);
    // hickory reads 16 as BADSIG, which it is in signed messages only.
    assert_eq!(u16::from(reply.rcode()), 16);
    assert_eq!(reply.message.edns.as_ref().unwrap().version(), 0);
    assert!(reply.message.answers.is_empty());

    let plain = edns(SET, RecordType::A, 1232).to_vec().unwrap();
    let opt = plain.len() - 11;
    let rcode = |dns: &mut Dns, packet: &[u8]| dns.raw(packet, Udp).map(|out| out[3] & 15);
    assert_eq!(rcode(&mut dns, &plain), Some(0));
    // Two of them.
    let mut twice = plain.clone();
    twice.extend_from_slice(&plain[opt..]);
    twice[11] = 2;
    assert_eq!(rcode(&mut dns, &twice), Some(1));
    // Not at the root.
    let mut named = plain.clone();
    named.splice(opt..opt + 1, *b"\x01a\x00");
    assert_eq!(rcode(&mut dns, &named), Some(1));
    // An unknown option is ignored; one that leaves its record is an error.
    for (length, expected) in [(2, 0), (3, 1), (1, 1)] {
        let mut option = plain.clone();
        let end = option.len();
        option[end - 1] = 6;
        option.extend_from_slice(&[0xfd, 0xe9, 0, length, 1, 2]);
        assert_eq!(rcode(&mut dns, &option), Some(expected), "{length}");
    }
    // In the answer section.
    let mut misplaced = plain;
    misplaced[7] = 1;
    misplaced[11] = 0;
    assert_eq!(rcode(&mut dns, &misplaced), Some(1));
}

#[test]
fn what_is_not_a_lookup_in_a_zone() {
    let mut dns = sized(1);
    for qtype in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(dns.data("cluster.local", qtype).0, ResponseCode::Refused);
    }
    let mut chaos = question("version.bind", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(dns.send(&chaos, Udp).rcode(), ResponseCode::Refused);
    for name in ["example.com", ".", "local", "xcluster.local", "in-addr.arpa", "8.8.8.8.in-addr.arpa"] {
        let reply = dns.ask(name, RecordType::A);
        assert_eq!(reply.rcode(), ResponseCode::Refused, "{name}");
        assert!(!reply.message.metadata.authoritative);
    }
    for op_code in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut message = question(SET, RecordType::A);
        message.metadata.op_code = op_code;
        let reply = dns.send(&message, Udp);
        assert_eq!((reply.rcode(), reply.message.metadata.op_code), (ResponseCode::NotImp, op_code));
    }
    let packet = question(SET, RecordType::A).to_vec().unwrap();
    for (count, expected) in [(0, 1), (2, 1), (1, 0)] {
        let mut counted = packet.clone();
        counted[5] = count;
        assert_eq!(dns.raw(&counted, Udp).map(|out| (out[3] & 15, out[2] & 0x80)), Some((expected, 0x80)));
    }
    // Answers, and what has no header, are left alone.
    let mut answer = packet.clone();
    answer[2] |= 0x80;
    assert_eq!(dns.raw(&answer, Udp), None);
    assert_eq!(dns.raw(&packet[..11], Udp), None);
    assert_eq!(dns.raw(&packet[..20], Udp).map(|out| out[3] & 15), Some(1));
    // A pointer in the question's name.
    let mut pointing = packet[..12].to_vec();
    pointing.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(dns.raw(&pointing, Udp).map(|out| out[3] & 15), Some(1));
}

#[test]
fn flags() {
    let mut dns = sized(1);
    for desired in [false, true] {
        let mut message = question(SET, RecordType::A);
        message.metadata.recursion_desired = desired;
        message.metadata.checking_disabled = true;
        let flags = dns.send(&message, Udp).message.metadata;
        assert_eq!(flags.recursion_desired, desired);
        assert!(flags.authoritative && !flags.checking_disabled);
    }
}

#[test]
fn a_change_costs_the_same_in_a_large_set() {
    let cost = |count: usize| {
        let mut dns = sized(count);
        let new = instance("prod", "db", "new", &["10.200.0.1"]);
        let before = dns.index.touches();
        dns.apply(vec![instance_change(None, Some(&new))]);
        dns.apply(vec![instance_change(Some(&new), None)]);
        dns.index.touches() - before
    };
    assert_eq!(cost(3), cost(10_000));
}

fn limit(packet: &[u8], transport: Transport) -> usize {
    match transport {
        Tcp => 65_535,
        // Without reading the packet again: whatever it offers, never more than ours.
        Udp => Message::from_vec(packet).map_or(1232, |message| match message.edns {
            Some(edns) => usize::from(edns.max_payload().clamp(512, 1232)),
            None => 512,
        }),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(packet in proptest::collection::vec(any::<u8>(), 0..600), tcp: bool) {
        let transport = if tcp { Tcp } else { Udp };
        let mut dns = sized(3);
        if let Some(out) = dns.raw(&packet, transport) {
            prop_assert!(out.len() <= 1232);
            prop_assert!(Message::from_vec(&out).is_ok() || packet[12] > 0);
        }
    }

    #[test]
    fn a_query_with_some_bytes_changed_is_survived(
        at in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
        payload: u16,
        cut in 12usize..100,
    ) {
        let mut packet = edns(SET, RecordType::SRV, payload).to_vec().unwrap();
        for (place, byte) in at {
            if let Some(old) = packet.get_mut(place) {
                *old = byte;
            }
        }
        packet.truncate(cut);
        let mut dns = sized(40);
        for transport in [Udp, Tcp] {
            if let Some(out) = dns.raw(&packet, transport) {
                prop_assert!(out.len() <= limit(&packet, transport).max(512));
                prop_assert_eq!(&out[..2], &packet[..2]);
                prop_assert_eq!(out[2] & 0x80, 0x80);
            }
        }
    }
}
