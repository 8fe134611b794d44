//! The reasons that answers come with (RFC 8914), read by hickory: which, for whom, and that upstreams' are handed on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use common::{Dns, at, external, namespace, question};
use fingerpost_dns::Transport::{Tcp, Udp};
use fingerpost_dns::forward::{Config, Network, Target};
use fingerpost_dns::{Config as ZoneConfig, Index};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, RecordType};
use scripted::*;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "www.example.com.";
const EXTENDED: EdnsCode = EdnsCode::Unknown(15);

/// Codes and texts.
fn reasons(message: &Message) -> Vec<(u16, String)> {
    let Some(edns) = &message.edns else { return Vec::new() };
    let read = |option: &EdnsOption| match option {
        EdnsOption::Unknown(15, data) => {
            let (code, text) = data.split_first_chunk::<2>().unwrap();
            (u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap())
        }
        other => panic!("{other:?}"),
    };
    edns.options().get_all(EXTENDED).into_iter().map(read).collect()
}

fn codes(message: &Message) -> Vec<u16> {
    reasons(message).into_iter().map(|(code, _)| code).collect()
}

/// An upstream's answer with reasons.
fn because(raw: &[u8], given: &[(u16, &str)]) -> Vec<u8> {
    let mut message = Message::from_vec(raw).unwrap();
    for (code, text) in given {
        let data = [&code.to_be_bytes()[..], text.as_bytes()].concat();
        message.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(15, data));
    }
    message.to_vec().unwrap()
}

impl Forwarding {
    async fn ask_edns(&self, name: &str, qtype: RecordType) -> Message {
        self.ask(&edns(query(name, qtype), 1232, false)).await
    }
}

#[test]
fn of_this_server() {
    let mut dns = Dns::unsynced();
    let asked = |name: &str, qtype| edns(question(name, qtype), 1232, false);
    // Before the catalog is known nothing is denied, addresses outside of the reverse zones neither.
    for name in ["web.prod.svc.cluster.local", "8.8.8.8.in-addr.arpa"] {
        let reply = dns.send(&asked(name, RecordType::A), Udp);
        assert_eq!((reply.rcode(), codes(&reply.message)), (ResponseCode::ServFail, vec![14]));
    }
    // To whom does not speak EDNS nothing is told.
    let plain = dns.send(&question("web.prod.svc.cluster.local", RecordType::A), Udp).message;
    assert!(plain.metadata.response_code == ResponseCode::ServFail && plain.edns.is_none());
    dns.index.set_synced(at(1));
    for name in ["example.com", "8.8.8.8.in-addr.arpa"] {
        let reply = dns.send(&asked(name, RecordType::A), Udp);
        assert_eq!((reply.rcode(), codes(&reply.message)), (ResponseCode::Refused, vec![20]));
    }
    let reply = dns.send(&asked("cluster.local", RecordType::AXFR), Tcp);
    assert_eq!((reply.rcode(), codes(&reply.message)), (ResponseCode::Refused, vec![21]));
    let mut chaos = asked("version.bind", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(codes(&dns.send(&chaos, Udp).message), [21]);
    // What is as it should be needs no reason.
    for name in ["cluster.local", "nothing.cluster.local"] {
        assert!(codes(&dns.send(&asked(name, RecordType::A), Udp).message).is_empty());
    }
}

#[test]
fn aliases_in_circles() {
    let mut dns = Dns::new();
    let zone = "prod.svc.cluster.local";
    dns.load(
        &[
            external("prod", "self", &format!("self.{zone}")),
            external("prod", "one", &format!("two.{zone}")),
            external("prod", "two", &format!("one.{zone}")),
        ],
        &[],
    );
    for name in ["self", "one", "two"] {
        let reply = dns.send(&edns(question(&format!("{name}.{zone}"), RecordType::A), 1232, false), Udp);
        // An error, and nothing that could be taken for an answer.
        assert_eq!((reply.rcode(), codes(&reply.message)), (ResponseCode::ServFail, vec![0]));
        let message = &reply.message;
        assert!(message.answers.is_empty() && message.authorities.is_empty() && !message.metadata.authoritative);
        // The alias itself is there for whoever asks for it.
        assert_eq!(dns.ask(&format!("{name}.{zone}"), RecordType::CNAME).message.answers.len(), 1);
    }
}

#[test]
fn what_cannot_be_read_is_answered_with_edns_to_whom_speaks_it() {
    let mut dns = Dns::new();
    let plain = question("web.prod.svc.cluster.local", RecordType::A).to_vec().unwrap();
    let spoken = edns(question("web.prod.svc.cluster.local", RecordType::A), 1232, true).to_vec().unwrap();
    let with = |packet: &[u8], change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        change(&mut packet);
        packet
    };
    let update = |packet: &mut Vec<u8>| packet[2] = u8::from(OpCode::Update) << 3;
    let two_questions = |packet: &mut Vec<u8>| {
        let question = packet[12..plain.len()].to_vec();
        packet[5] = 2;
        packet.splice(plain.len()..plain.len(), question);
    };
    // An option that says that it is longer than its record (RFC 6891 §7).
    let bad_option = |packet: &mut Vec<u8>| {
        let end = packet.len();
        packet[end - 1] = 6;
        packet.extend_from_slice(&[0xfd, 0xe9, 0, 9, 1, 2]);
    };
    let twice = |packet: &mut Vec<u8>| {
        let opt = packet[plain.len()..].to_vec();
        packet.extend_from_slice(&opt);
        packet[11] = 2;
    };
    for (packet, rcode, answered) in [
        (with(&spoken, &update), ResponseCode::NotImp, true),
        (with(&plain, &update), ResponseCode::NotImp, false),
        (with(&spoken, &two_questions), ResponseCode::FormErr, true),
        (with(&spoken, &bad_option), ResponseCode::FormErr, true),
        (with(&spoken, &twice), ResponseCode::FormErr, true),
        // Nothing to be read behind a question that is cut, or that is none.
        (spoken[..30].to_vec(), ResponseCode::FormErr, false),
        (with(&spoken, &|packet| packet[12] = 0xff), ResponseCode::FormErr, false),
        // An OPT record that is cut.
        (spoken[..spoken.len() - 2].to_vec(), ResponseCode::FormErr, false),
    ] {
        let message = Message::from_vec(&dns.raw(&packet, Udp).unwrap()).unwrap();
        assert_eq!(message.metadata.response_code, rcode, "{packet:02x?}");
        let told = message.edns.map(|edns| (edns.version(), edns.max_payload(), edns.flags().dnssec_ok));
        assert_eq!(told, answered.then_some((0, 1232, true)), "{packet:02x?}");
    }
}

#[tokio::test]
async fn of_refusals() {
    let upstream = Upstream::start(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])]).await;
    let zones = vec!["secret.example=refuse".parse().unwrap(), "ads.example=none".parse().unwrap()];
    let server = Forwarding::start(Config { zones, ..asking(&[&upstream]) });
    let refused = server.ask_edns("a.secret.example.", RecordType::A).await;
    assert_eq!((refused.metadata.response_code, codes(&refused)), (ResponseCode::Refused, vec![15]));
    let nothing = server.ask_edns("www.ads.example.", RecordType::A).await;
    assert_eq!((nothing.metadata.response_code, codes(&nothing)), (ResponseCode::NXDomain, vec![15]));
    let mut own = edns(query(NAME, RecordType::A), 1232, false);
    own.metadata.recursion_desired = false;
    let unknown = server.ask(&own).await;
    assert_eq!((unknown.metadata.response_code, codes(&unknown)), (ResponseCode::Refused, vec![20]));
    assert!(codes(&server.ask_edns(NAME, RecordType::A).await).is_empty());
    server.stop().await;

    let nobody = Forwarding::start(asking(&[]));
    assert_eq!(codes(&nobody.ask_edns(NAME, RecordType::A).await), [20]);
    nobody.stop().await;

    let allow = vec!["192.0.2.0/24".parse::<Network>().unwrap()];
    let closed = Forwarding::start(Config { allow, ..asking(&[&upstream]) });
    let reply = closed.ask_edns(NAME, RecordType::A).await;
    assert_eq!((reply.metadata.response_code, codes(&reply)), (ResponseCode::Refused, vec![18]));
    closed.stop().await;
}

#[tokio::test]
async fn of_failures() {
    // Nobody listens there.
    let closed = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Forwarding::start(Config { upstreams: vec![Target::Udp(closed)], ..Config::default() });
    let reply = server.ask_edns(NAME, RecordType::A).await;
    let told = reasons(&reply);
    assert_eq!((reply.metadata.response_code, told.len(), told[0].0), (ResponseCode::ServFail, 1, 23));
    assert!(told[0].1.starts_with(&format!("{closed}: ")), "{told:?}");
    server.stop().await;

    let upstream = Upstream::start(|_| vec![]).await;
    let server = Forwarding::start(asking(&[&upstream]));
    let told = reasons(&server.ask_edns("silent.example.", RecordType::A).await);
    assert_eq!(told[0].0, 22);
    assert!(told[0].1.starts_with(&format!("{}: no answer within", upstream.address)), "{told:?}");
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    let told = reasons(&server.ask_edns("broken.example.", RecordType::A).await);
    assert_eq!(told, [(23, format!("{}: the server answered with SERVFAIL", upstream.address))]);
    server.stop().await;
}

#[tokio::test]
async fn of_upstreams_are_handed_on() {
    let upstream = Upstream::start(|seen| {
        vec![match seen.name.as_str() {
            "bogus.example." => {
                because(&negative(seen, ResponseCode::ServFail, None), &[(6, "signature expired\n"), (9, "")])
            }
            "old.example." => because(&with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])]), &[(3, "")]),
            _ => {
                let many: Vec<_> = (0..10).map(|_| (4, "because of this and that, and so on")).collect();
                because(&with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])]), &many)
            }
        }]
    })
    .await;
    let index = Index::new(ZoneConfig::default()).unwrap();
    index.load_namespace(&namespace("prod"));
    index.load_service(&external("prod", "bogus", "bogus.example"));
    index.set_synced(at(1));
    let server = Forwarding::with(asking(&[&upstream]), Arc::new(index), "127.0.0.1:0");
    let by = |text: &str| format!("{}{text}", upstream.address);
    // Now, from the cache, and where an alias of ours leads there: then without half of the chain.
    for name in ["bogus.example.", "bogus.example.", "bogus.prod.svc.cluster.local."] {
        let reply = server.ask_edns(name, RecordType::A).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::ServFail, 0));
        assert_eq!(reasons(&reply), [(6, by(": signature expired ")), (9, by(""))]);
    }
    assert_eq!(reasons(&server.ask_edns("old.example.", RecordType::A).await), [(3, by(""))]);
    assert_eq!(server.resolve("old.example.", RecordType::A).await.edns, None);
    let many = server.ask_edns("many.example.", RecordType::A).await;
    assert_eq!((many.answers.len(), reasons(&many).len()), (1, 3));
    server.stop().await;
}

#[tokio::test]
async fn of_old_answers() {
    let upstream = Upstream::start(|seen| match seen.name.as_str() {
        NAME => vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])],
        _ => vec![negative(seen, ResponseCode::NXDomain, Some(soa("example.com.", 60, 60)))],
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream]));
    for name in [NAME, "no.example.com."] {
        assert!(codes(&server.ask_edns(name, RecordType::A).await).is_empty());
    }
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    server.forward.advance(Duration::from_secs(100));
    for (name, code) in [(NAME, 3), ("no.example.com.", 19)] {
        let told = reasons(&server.ask_edns(name, RecordType::A).await);
        assert_eq!((told.len(), told[0].0), (1, code));
        assert!(told[0].1.contains("40 s past its TTL"), "{told:?}");
    }
    server.stop().await;
}
