//! Names of others: through the sockets of a real server, with upstreams that do what a test says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use fingerpost_dns::forward::{Config, Forward, ForwardError, Network, Policy, Target};
use fingerpost_dns::{Listen, Server};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use scripted::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const NAME: &str = "www.example.com.";

/// Answers every A with one address.
async fn plain(ttl: u32) -> Upstream {
    Upstream::start(move |seen| vec![with(seen, &[a(&seen.name, ttl, [192, 0, 2, 1])])]).await
}

fn ttl(message: &Message) -> u32 {
    message.answers[0].ttl
}

#[tokio::test]
async fn asks_once_and_counts_down() {
    let upstream = plain(300).await;
    let server = Forwarding::start(asking(&[&upstream]));
    let first = server.resolve("WwW.Example.com.", RecordType::A).await;
    assert_eq!((first.answers.len(), ttl(&first)), (1, 300));
    let flags = &first.metadata;
    assert!(flags.recursion_available && flags.recursion_desired && !flags.authoritative && !flags.truncation);
    // The question as it was spelt, the record under the same name.
    assert_eq!(first.queries[0].name().to_string(), "WwW.Example.com.");
    server.forward.advance(100 * SECOND);
    let second = server.resolve(NAME, RecordType::A).await;
    assert_eq!(ttl(&second), 200);
    assert_eq!(upstream.count(NAME), 1);
    server.forward.advance(201 * SECOND);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 300);
    assert_eq!(upstream.count(NAME), 2);
    assert_eq!(server.metric("fingerpost_forward_cache_total{result=\"hit\"}"), 1.0);
    assert_eq!(server.metric("fingerpost_forward_cache_total{result=\"miss\"}"), 2.0);
    server.stop().await;
}

#[tokio::test]
async fn without_upstreams_or_rights_it_refuses() {
    let server = Forwarding::start(Config::default());
    let reply = server.resolve(NAME, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    server.stop().await;
    let upstream = plain(300).await;
    let config = Config { allow: vec!["192.0.2.0/24".parse::<Network>().unwrap()], ..asking(&[&upstream]) };
    let server = Forwarding::start(config);
    for name in [NAME, "localhost."] {
        let reply = server.resolve(name, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        assert!(!reply.metadata.recursion_available);
    }
    assert_eq!(upstream.seen().len(), 0);
    assert_eq!(server.metric("fingerpost_forward_refused_total{reason=\"network\"}"), 2.0);
    server.stop().await;
}

#[tokio::test]
async fn equal_questions_are_asked_once() {
    let open = Arc::new(Semaphore::new(0));
    let gate = open.clone();
    let upstream = Upstream::start_async(move |seen| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            vec![with(&seen, &[a(&seen.name, 0, [192, 0, 2, 1])])]
        })
    })
    .await;
    let server = Arc::new(Forwarding::start(asking(&[&upstream])));
    let askers: Vec<_> = (0..50)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { server.addresses(NAME).await })
        })
        .collect();
    while server.metric("fingerpost_forward_waiting") < 50.0 {
        tokio::task::yield_now().await;
    }
    open.add_permits(1);
    for asker in askers {
        assert_eq!(asker.await.unwrap(), ["192.0.2.1"]);
    }
    assert_eq!(upstream.count(NAME), 1);
    assert_eq!(server.metric("fingerpost_forward_joined_total"), 49.0);
    // A TTL of 0 is not kept.
    open.add_permits(1);
    assert_eq!(server.addresses(NAME).await.len(), 1);
    assert_eq!(upstream.count(NAME), 2);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test]
async fn another_upstream_is_asked() {
    let silent = Upstream::start(|_| vec![]).await;
    let lame = Upstream::start(|seen| vec![negative(seen, ResponseCode::ServFail, None)]).await;
    let refusing = Upstream::start(|seen| vec![negative(seen, ResponseCode::Refused, None)]).await;
    // Answers with a wrong id, to another question, with rubbish, and then well.
    let confused = Upstream::start(|seen| {
        let mut wrong_id = with(seen, &[a(&seen.name, 60, [192, 0, 2, 66])]);
        wrong_id[1] ^= 1;
        let mut other = seen.clone();
        other.message.queries[0].set_name("other.example.".parse().unwrap());
        let misled = with(&other, &[a("other.example.", 60, [192, 0, 2, 66])]);
        let cut = seen.message.to_vec().unwrap()[..11].to_vec();
        vec![wrong_id, misled, cut, with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])]
    })
    .await;
    let server = Forwarding::start(asking(&[&silent, &lame, &refusing, &confused]));
    assert_eq!(server.addresses(NAME).await, ["192.0.2.1"]);
    for upstream in [&silent, &lame, &refusing, &confused] {
        assert_eq!(upstream.count(NAME), 1);
    }
    server.stop().await;
    // A datagram that was lost is asked for again.
    let first = AtomicBool::new(true);
    let lossy = Upstream::start(move |seen| {
        if first.swap(false, SeqCst) { vec![] } else { vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])] }
    })
    .await;
    let server = Forwarding::start(asking(&[&lossy]));
    assert_eq!(server.addresses(NAME).await, ["192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn failures_are_servfail_and_soon_forgotten() {
    let upstream = Upstream::start(|seen| vec![negative(seen, ResponseCode::ServFail, None)]).await;
    let server = Forwarding::start(asking(&[&upstream]));
    for _ in 0..3 {
        let reply = server.resolve(NAME, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(upstream.count(NAME), 1);
    upstream.play(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])]);
    server.forward.advance(5 * SECOND);
    assert_eq!(server.addresses(NAME).await, ["192.0.2.1"]);
    server.stop().await;
    // Nobody listens: told at once, and not asked again for a second.
    let closed = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Forwarding::start(Config { upstreams: vec![Target::Udp(closed)], ..Config::default() });
    let reply = server.resolve(NAME, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let upstream = Upstream::start(|seen| {
        let records: Vec<_> = (0..200).map(|n| a(&seen.name, 60, [192, 0, 2, n])).collect();
        if seen.tcp {
            return vec![with(seen, &records)];
        }
        let mut cut = reply(seen);
        cut.metadata.truncation = true;
        vec![cut.to_vec().unwrap()]
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream]));
    let reply = server.resolve(NAME, RecordType::A).await;
    assert!(reply.metadata.truncation && reply.to_vec().unwrap().len() <= 512);
    assert_eq!(reply.answers.len(), (512 - 12 - NAME.len() - 1 - 4) / 16);
    let reply = server.ask(&edns(query(NAME, RecordType::A), 4096, false)).await;
    assert!(reply.metadata.truncation && reply.answers.len() == (1232 - 12 - NAME.len() - 1 - 4 - 11) / 16);
    assert_eq!(reply.edns.as_ref().unwrap().max_payload(), 1232);
    let whole = server.ask_tcp(&[query(NAME, RecordType::A)]).await;
    assert!(!whole[0].metadata.truncation && whole[0].answers.len() == 200);
    // Asked once over each, though three have asked.
    assert_eq!(upstream.seen().iter().map(|seen| seen.tcp).collect::<Vec<_>>(), [false, true]);
    server.stop().await;
}

#[tokio::test]
async fn addresses_take_turns() {
    let upstream = Upstream::start(|seen| {
        let records: Vec<_> = (1..=4).map(|n| a("target.example.", 60, [192, 0, 2, n])).collect();
        vec![with(seen, &[&[cname(&seen.name, 60, "target.example.")][..], &records].concat())]
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream]));
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let all = server.addresses(NAME).await;
        assert_eq!(all[0], "target.example.");
        let mut sorted = all[1..].to_vec();
        sorted.sort();
        assert_eq!(sorted, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        firsts.insert(all[1].clone());
    }
    assert_eq!(firsts.len(), 4);
    server.stop().await;
}

#[tokio::test]
async fn what_does_not_exist_is_kept_as_its_soa_says() {
    let upstream = Upstream::start(|seen| {
        let answer = match seen.name.as_str() {
            "short.example." => negative(seen, ResponseCode::NXDomain, Some(soa("example.", 3600, 20))),
            "capped.example." => negative(seen, ResponseCode::NXDomain, Some(soa("example.", 86_400, 86_400))),
            "empty.example." => negative(seen, ResponseCode::NoError, Some(soa("example.", 10, 3600))),
            _ => negative(seen, ResponseCode::NXDomain, None),
        };
        vec![answer]
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream]));
    let ask = async |name: &str| {
        let reply = server.resolve(name, RecordType::A).await;
        (reply.metadata.response_code, reply.authorities.first().map(|soa| soa.ttl))
    };
    for (name, rcode, lifetime) in [
        ("short.example.", ResponseCode::NXDomain, 20),
        ("capped.example.", ResponseCode::NXDomain, 300),
        ("empty.example.", ResponseCode::NoError, 10),
    ] {
        assert_eq!(ask(name).await, (rcode, Some(lifetime)));
        // Not so near the end that it is asked for again behind the answer.
        let left = lifetime / 5;
        server.forward.advance((lifetime - left) * SECOND);
        assert_eq!(ask(name).await, (rcode, Some(left)));
        assert_eq!(upstream.count(name), 1, "{name}");
        server.forward.advance((left + 1) * SECOND);
        assert_eq!(ask(name).await, (rcode, Some(lifetime)));
        assert_eq!(upstream.count(name), 2, "{name}");
    }
    // Without SOA nobody says for how long (RFC 2308 §5).
    for count in 1..3 {
        assert_eq!(ask("bare.example.").await, (ResponseCode::NXDomain, None));
        assert_eq!(upstream.count("bare.example."), count);
    }
    server.stop().await;
}

#[tokio::test]
async fn stale_answers_bridge_an_outage() {
    let upstream = plain(60).await;
    let server = Forwarding::start(asking(&[&upstream]));
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 60);
    upstream.play(|_| vec![]);
    server.forward.advance(100 * SECOND);
    // After the client's patience, and then at once.
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 30);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 30);
    let asked = upstream.count(NAME);
    assert_eq!(server.metric("fingerpost_forward_cache_total{result=\"stale\"}"), 2.0);
    // After the recheck time it is asked for again, and is well.
    upstream.play(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 2])])]);
    server.forward.advance(40 * SECOND);
    assert_eq!(server.addresses(NAME).await, ["192.0.2.2"]);
    assert!(upstream.count(NAME) > asked);
    // One that is told to be broken is bridged without waiting, but not for ever.
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    server.forward.advance(100 * SECOND);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 30);
    server.forward.advance(3700 * SECOND);
    let reply = server.resolve(NAME, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
    let upstream = plain(60).await;
    let server = Forwarding::start(Config { serve_stale: Duration::ZERO, ..asking(&[&upstream]) });
    assert_eq!(server.addresses(NAME).await.len(), 1);
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    server.forward.advance(61 * SECOND);
    let reply = server.resolve(NAME, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn answers_in_use_are_renewed_before_their_end() {
    let upstream = plain(100).await;
    let server = Forwarding::start(asking(&[&upstream]));
    server.addresses(NAME).await;
    server.forward.advance(80 * SECOND);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 20);
    assert_eq!(upstream.count(NAME), 1);
    server.forward.advance(15 * SECOND);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 5);
    // Renewed behind the answer.
    while ttl(&server.resolve(NAME, RecordType::A).await) != 100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.count(NAME), 2);
    assert_eq!(server.metric("fingerpost_forward_prefetches_total"), 1.0);
    server.stop().await;
}

#[tokio::test]
async fn a_renewal_in_vain_makes_nothing_last_longer() {
    let upstream = plain(100).await;
    let server = Forwarding::start(Config { serve_stale: Duration::ZERO, ..asking(&[&upstream]) });
    server.addresses(NAME).await;
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    server.forward.advance(92 * SECOND);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 8);
    while upstream.count(NAME) < 2 {
        tokio::task::yield_now().await;
    }
    // It is fresh still, and not asked for again with every query.
    for _ in 0..10 {
        assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 8);
    }
    assert_eq!(upstream.count(NAME), 2);
    server.forward.advance(9 * SECOND);
    let reply = server.resolve(NAME, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn a_renewal_is_tried_again() {
    let upstream = plain(1000).await;
    let server = Forwarding::start(asking(&[&upstream]));
    server.addresses(NAME).await;
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    server.forward.advance(910 * SECOND);
    assert_eq!(ttl(&server.resolve(NAME, RecordType::A).await), 90);
    while upstream.count(NAME) < 2 {
        tokio::task::yield_now().await;
    }
    upstream.play(|seen| vec![with(seen, &[a(&seen.name, 1000, [192, 0, 2, 1])])]);
    // After the recheck time.
    while ttl(&server.resolve(NAME, RecordType::A).await) < 500 {
        server.forward.advance(SECOND);
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.count(NAME), 3);
    assert_eq!(server.metric("fingerpost_forward_prefetches_total"), 2.0);
    server.stop().await;
}

#[tokio::test]
async fn bits_pass_both_ways() {
    let upstream = Upstream::start(|seen| {
        let mut message = reply(seen);
        message.metadata.authentic_data = true;
        message.add_answer(a(&seen.name, 60, [192, 0, 2, 1]));
        vec![message.to_vec().unwrap()]
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream]));
    let plain = server.resolve(NAME, RecordType::A).await;
    assert!(!plain.metadata.authentic_data && plain.edns.is_none());
    let mut aware = query(NAME, RecordType::A);
    aware.metadata.authentic_data = true;
    assert!(server.ask(&aware).await.metadata.authentic_data);
    let secure = server.ask(&edns(query(NAME, RecordType::A), 1232, true)).await;
    assert!(secure.metadata.authentic_data && secure.edns.unwrap().flags().dnssec_ok);
    let mut unchecked = query(NAME, RecordType::A);
    unchecked.metadata.checking_disabled = true;
    assert!(server.ask(&unchecked).await.metadata.checking_disabled);
    // Three different questions: plain, DO, CD.
    let seen = upstream.seen();
    let bits: Vec<_> = seen
        .iter()
        .map(|seen| (seen.message.edns.as_ref().unwrap().flags().dnssec_ok, seen.message.metadata.checking_disabled))
        .collect();
    assert_eq!(bits, [(false, false), (true, false), (false, true)]);
    assert!(seen.iter().all(|seen| seen.message.metadata.recursion_desired));
    // Options of the client stay here: its subnet, its cookie.
    let mut packet = edns(query("other.example.", RecordType::A), 1232, false).to_vec().unwrap();
    let length = packet.len();
    packet[length - 2..].copy_from_slice(&[0, 12]);
    packet.extend_from_slice(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let reply = server.ask(&Message::from_vec(&packet).unwrap()).await;
    assert!(reply.edns.unwrap().options().as_ref().is_empty());
    let seen = upstream.seen().pop().unwrap().message.edns.unwrap();
    assert!(seen.options().as_ref().is_empty() && seen.max_payload() == 1232);
    server.stop().await;
}

#[tokio::test]
async fn types_and_classes() {
    let upstream = plain(60).await;
    let server = Forwarding::start(asking(&[&upstream]));
    for qtype in [RecordType::ANY, RecordType::Unknown(65_280), RecordType::HTTPS, RecordType::DS] {
        assert_eq!(server.resolve(NAME, qtype).await.metadata.response_code, ResponseCode::NoError);
        assert_eq!(upstream.seen().pop().unwrap().qtype, qtype);
    }
    let asked = upstream.seen().len();
    for qtype in [RecordType::AXFR, RecordType::IXFR] {
        let reply = server.resolve(NAME, qtype).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(hickory_proto::rr::DNSClass::CH);
    assert_eq!(server.ask(&chaos).await.metadata.response_code, ResponseCode::Refused);
    // Without RD, what is known is told, and nobody is asked.
    let mut known = query(NAME, RecordType::ANY);
    known.metadata.recursion_desired = false;
    assert_eq!(server.ask(&known).await.metadata.response_code, ResponseCode::NoError);
    let mut unknown = query("unknown.example.", RecordType::A);
    unknown.metadata.recursion_desired = false;
    assert_eq!(server.ask(&unknown).await.metadata.response_code, ResponseCode::Refused);
    assert_eq!(upstream.seen().len(), asked);
    server.stop().await;
}

#[tokio::test]
async fn late_answers_come_from_the_address_that_was_asked() {
    let upstream = plain(60).await;
    let server = Forwarding::with(asking(&[&upstream]), empty_index(), "0.0.0.0:0");
    for (place, name) in ["a.example.", "b.example."].into_iter().enumerate() {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = format!("127.0.0.{}:{}", 2 + place, server.address.port());
        // A connected socket takes nothing from another address.
        socket.connect(&address).await.unwrap();
        socket.send(&query(name, RecordType::A).to_vec().unwrap()).await.unwrap();
        let mut packet = [0; 512];
        let length = tokio::time::timeout(20 * SECOND, socket.recv(&mut packet)).await.unwrap().unwrap();
        assert_eq!(Message::from_vec(&packet[..length]).unwrap().answers.len(), 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn tcp_answers_overtake_each_other() {
    let slow = Arc::new(Semaphore::new(0));
    let gate = slow.clone();
    let upstream = Upstream::start_async(move |seen| {
        let gate = gate.clone();
        Box::pin(async move {
            if seen.name == "slow.example." {
                gate.acquire().await.unwrap().forget();
            } else if seen.name == "last.example." {
                gate.add_permits(1);
            }
            vec![with(&seen, &[a(&seen.name, 60, [192, 0, 2, 1])])]
        })
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream]));
    let names = ["slow.example.", "quick.example.", "no.cluster.local.", "last.example."];
    let queries: Vec<_> = names.iter().map(|name| query(name, RecordType::A)).collect();
    let replies = server.ask_tcp(&queries).await;
    assert_eq!(replies.last().unwrap().queries[0].name().to_string(), "slow.example.");
    for query in &queries {
        assert!(replies.iter().any(|reply| reply.metadata.id == query.metadata.id));
    }
    // Many at once, more than may wait.
    let queries: Vec<_> = (0..300).map(|n| query(&format!("n{n}.example."), RecordType::A)).collect();
    let replies = server.ask_tcp(&queries).await;
    assert_eq!(replies.len(), 300);
    server.stop().await;
}

#[tokio::test]
async fn one_client_takes_its_share_only() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let upstream = Upstream::start_async(move |seen| {
        let held = held.clone();
        Box::pin(async move {
            held.acquire().await.unwrap().forget();
            vec![with(&seen, &[a(&seen.name, 60, [192, 0, 2, 1])])]
        })
    })
    .await;
    let config = Config { client_concurrency: 3, ..asking(&[&upstream]) };
    let server = Arc::new(Forwarding::start(config));
    let held: Vec<_> = (0..3)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move { server.addresses(&format!("n{n}.example.")).await })
        })
        .collect();
    while server.metric("fingerpost_forward_waiting") < 3.0 {
        tokio::task::yield_now().await;
    }
    let reply = server.resolve(NAME, RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.metric("fingerpost_forward_refused_total{reason=\"client-limit\"}"), 1.0);
    gate.add_permits(100);
    for task in held {
        assert_eq!(task.await.unwrap().len(), 1);
    }
    assert_eq!(server.addresses(NAME).await.len(), 1);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test]
async fn at_the_end_nobody_is_left_without_a_word() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let upstream = Upstream::start_async(move |seen| {
        let held = held.clone();
        Box::pin(async move {
            if seen.name == NAME {
                held.acquire().await.unwrap().forget();
            }
            vec![with(&seen, &[a(&seen.name, 0, [192, 0, 2, 1])])]
        })
    })
    .await;
    let server = Arc::new(Forwarding::start(asking(&[&upstream])));
    let asked = server.clone();
    let waiting = tokio::spawn(async move { asked.addresses(NAME).await });
    while server.metric("fingerpost_forward_waiting") < 1.0 {
        tokio::task::yield_now().await;
    }
    server.shut_down();
    // Whoever was there before gets an answer, whoever comes after that there is none; both while the first one waits.
    for n in 0.. {
        let reply = server.resolve(&format!("n{n}.example."), RecordType::A).await;
        if reply.metadata.response_code == ResponseCode::ServFail {
            break;
        }
        assert!(n < 10_000, "it asks for ever");
    }
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), ["192.0.2.1"]);
    Arc::into_inner(server).unwrap().stop().await;
}

#[tokio::test]
async fn zones_have_rules_of_their_own() {
    let answer = |last: u8| move |seen: &Seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, last])])];
    let (rest, corp, inner) =
        (Upstream::start(answer(1)).await, Upstream::start(answer(2)).await, Upstream::start(answer(3)).await);
    let rule = |zone: &str, upstream: &Upstream| format!("{zone}={}", upstream.address).parse().unwrap();
    let config = Config {
        zones: vec![
            rule("corp.example", &corp),
            rule("inner.corp.example", &inner),
            "ads.example=none".parse().unwrap(),
            "secret.example=refuse".parse().unwrap(),
            rule("10.in-addr.arpa", &corp),
            rule("home.arpa", &inner),
        ],
        ..asking(&[&rest])
    };
    let server = Forwarding::start(config);
    for (name, last) in [
        ("www.example.", 1),
        ("xcorp.example.", 1),
        ("corp.example.", 2),
        ("a.CORP.example.", 2),
        ("a.b.inner.corp.example.", 3),
        ("printer.home.arpa.", 3),
    ] {
        assert_eq!(server.addresses(name).await, [format!("192.0.2.{last}")], "{name}");
    }
    let rcode = async |name: &str, qtype| server.resolve(name, qtype).await.metadata.response_code;
    assert_eq!(rcode("x.ads.example.", RecordType::A).await, ResponseCode::NXDomain);
    assert_eq!(rcode("ads.example.", RecordType::A).await, ResponseCode::NoError);
    // Nobody is to remember that for long: the rule may go.
    let denied = server.resolve("x.ads.example.", RecordType::A).await;
    let soa = &denied.authorities[0];
    assert!(soa.ttl == 30 && soa.data.to_string().ends_with(" 30"), "{soa}");
    assert_eq!(rcode("x.secret.example.", RecordType::A).await, ResponseCode::Refused);
    // A reverse zone of ours, for what we don't know.
    assert_eq!(rcode("1.0.0.10.in-addr.arpa.", RecordType::PTR).await, ResponseCode::NoError);
    assert_eq!(corp.count("1.0.0.10.in-addr.arpa."), 1);
    // Without a rule, private addresses and special names stay here.
    for name in ["1.0.168.192.in-addr.arpa.", "1.0.254.169.in-addr.arpa.", "x.onion.", "x.invalid."] {
        assert_eq!(rcode(name, RecordType::PTR).await, ResponseCode::NXDomain, "{name}");
        assert_eq!(rest.count(name), 0);
    }
    assert_eq!(server.addresses("localhost.").await, ["127.0.0.1"]);
    assert_eq!(rcode("8.8.8.8.in-addr.arpa.", RecordType::PTR).await, ResponseCode::NoError);
    assert_eq!(rest.count("8.8.8.8.in-addr.arpa."), 1);
    server.stop().await;
}

#[tokio::test]
async fn itself_is_no_upstream() {
    let index = empty_index();
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let listen = Listen { workers: 1, ..Listen::on(&[listen.parse().unwrap()]) };
        let server = Server::bind(index.clone(), listen, CancellationToken::new()).unwrap();
        let port = server.udp_addresses()[0].port();
        let upstreams = vec![format!("127.0.0.1:{port}").parse().unwrap()];
        let forward = Forward::open(Config { upstreams, ..Config::default() }).unwrap();
        let error = server.forwarding(forward).unwrap_err();
        assert!(matches!(error, ForwardError::Own { .. }) && error.to_string().contains("--forward"), "{error}");
    }
}

/// Passes everything on to where it is told to.
async fn relay(
    to: Arc<parking_lot::Mutex<Option<std::net::SocketAddr>>>,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut packet = vec![0; 4096];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut packet).await else { continue };
            let (to, socket, packet) = (*to.lock(), socket.clone(), packet[..length].to_vec());
            tokio::spawn(async move {
                let Some(to) = to else { return };
                let way = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                way.send_to(&packet, to).await.unwrap();
                let mut answer = vec![0; 4096];
                let length = way.recv(&mut answer).await.unwrap();
                socket.send_to(&answer[..length], client).await.unwrap();
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_loop_through_others_is_noticed() {
    let good = plain(0).await;
    let to = Arc::new(parking_lot::Mutex::new(None));
    let (address, task) = relay(to.clone()).await;
    let config = Config {
        upstreams: vec![Target::Udp(address), Target::Udp(good.address)],
        policy: Policy::Sequential,
        ..Config::default()
    };
    // The relay has to know our port before we look for loops.
    let shutdown = CancellationToken::new();
    let forward = Forward::open(config).unwrap();
    let listen = Listen { workers: 1, ..Listen::on(&["127.0.0.1:0".parse().unwrap()]) };
    let server = Server::bind(empty_index(), listen, shutdown.clone()).unwrap().forwarding(forward.clone()).unwrap();
    *to.lock() = Some(server.udp_addresses()[0]);
    let running = tokio::spawn(server.run());
    while !forward.states().iter().any(|state| state.looping) {
        tokio::task::yield_now().await;
    }
    let states = forward.states();
    assert!(states[0].looping && !states[0].healthy && !states[1].looping && states[1].healthy);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    task.abort();
}

#[tokio::test]
async fn policies() {
    let upstreams = [plain(0).await, plain(0).await, plain(0).await];
    let all: Vec<_> = upstreams.iter().collect();
    for (policy, least) in [(Policy::RoundRobin, 20), (Policy::Random, 5), (Policy::Sequential, 0)] {
        let server = Forwarding::start(Config { policy, ..asking(&all) });
        let name = format!("{policy:?}.example.");
        for _ in 0..60 {
            server.addresses(&name).await;
        }
        for upstream in &upstreams {
            assert!(upstream.count(&name) >= least, "{policy:?}: {}", upstream.count(&name));
        }
        if policy == Policy::Sequential {
            assert_eq!(upstreams[0].count(&name), 60);
        }
        server.stop().await;
    }
    let slow = Upstream::start_async(|seen| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            vec![with(&seen, &[a(&seen.name, 0, [192, 0, 2, 1])])]
        })
    })
    .await;
    let server = Forwarding::start(Config { policy: Policy::Fastest, ..asking(&[&slow, &upstreams[0]]) });
    for _ in 0..100 {
        server.addresses("fastest.example.").await;
    }
    assert!(upstreams[0].count("fastest.example.") > 60);
    server.stop().await;
}
