//! How upstreams fare: what counts against one, and what does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use scripted::*;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};

/// Answers every A with this address, but names below `silent.example`.
async fn resolver(last: u8) -> Upstream {
    Upstream::start(move |seen| {
        if seen.name.ends_with("silent.example.") {
            return vec![];
        }
        vec![with(seen, &[a(&seen.name, 0, [192, 0, 2, last])])]
    })
    .await
}

/// Until the first upstream is healthy, or is not.
async fn until_healthy(server: &Forwarding, healthy: bool) {
    while server.forward.states()[0].healthy != healthy {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn names_without_an_answer_take_nobody_down() {
    let (inside, public) = (resolver(1).await, resolver(2).await);
    let server = Forwarding::start(asking(&[&inside, &public]));
    let silent = async |n: usize| {
        let reply = server.resolve(&format!("n{n}.silent.example."), RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    };
    tokio::join!(silent(0), silent(1), silent(2), silent(3));
    assert!(server.forward.states().iter().all(|state| state.healthy && state.failures >= 4));
    // So the first is asked first as before.
    assert_eq!(server.addresses("www.example.").await, ["192.0.2.1"]);
    assert_eq!(public.count("www.example."), 0);
    server.stop().await;
}

#[tokio::test]
async fn an_upstream_is_down_until_it_answers_probes() {
    let (down, up) = (resolver(1).await, resolver(2).await);
    let server = Forwarding::start(asking(&[&down, &up]));
    down.silence(true);
    assert_eq!(server.addresses("a.example.").await, ["192.0.2.2"]);
    until_healthy(&server, false).await;
    // It is not waited for any more, and asked again once it is back.
    assert_eq!(server.addresses("b.example.").await, ["192.0.2.2"]);
    assert_eq!(down.count("b.example."), 0);
    down.silence(false);
    until_healthy(&server, true).await;
    assert_eq!(server.addresses("c.example.").await, ["192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn one_in_several_rules_is_one() {
    let (down, up) = (resolver(1).await, resolver(2).await);
    let zones = ["corp.example", "in.corp.example"].map(|zone| format!("{zone}={},{}", down.address, up.address));
    let zones = zones.iter().map(|rule| rule.parse().unwrap()).collect();
    let server = Forwarding::start(fingerpost_dns::forward::Config { zones, ..asking(&[&down, &up]) });
    assert_eq!(server.forward.states().len(), 2);
    let state =
        || server.forward.states().into_iter().find(|state| state.upstream == down.address.to_string()).unwrap();
    down.silence(true);
    assert_eq!(server.addresses("a.corp.example.").await, ["192.0.2.2"]);
    while state().healthy {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What one rule has found out, the others know.
    let asked = down.seen().len();
    for name in ["b.in.corp.example.", "www.example.", "c.corp.example."] {
        assert_eq!(server.addresses(name).await, ["192.0.2.2"]);
    }
    assert_eq!(down.seen().len(), asked);
    server.stop().await;
}

#[tokio::test]
async fn who_speaks_for_a_zone_is_asked_for_that() {
    // Whatever is outside of its zone gets no answer.
    let corp = Upstream::start(|seen| match seen.name.ends_with("corp.example.") {
        true => vec![with(seen, &[a(&seen.name, 0, [192, 0, 2, 1])])],
        false => vec![],
    })
    .await;
    corp.play_probes();
    let rule = format!("corp.example={}", corp.address).parse().unwrap();
    let server = Forwarding::start(fingerpost_dns::forward::Config { zones: vec![rule], ..asking(&[]) });
    assert_eq!(server.addresses("a.corp.example.").await, ["192.0.2.1"]);
    corp.silence(true);
    assert_eq!(server.addresses("b.corp.example.").await.len(), 0);
    until_healthy(&server, false).await;
    corp.silence(false);
    until_healthy(&server, true).await;
    assert_eq!(server.addresses("c.corp.example.").await, ["192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_is_noticed_at_once() {
    let up = resolver(2).await;
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = asking(&[&up]);
    config.upstreams.insert(0, fingerpost_dns::forward::Target::Udp(gone));
    let server = Forwarding::start(config);
    assert_eq!(server.addresses("a.example.").await, ["192.0.2.2"]);
    until_healthy(&server, false).await;
    server.stop().await;
}

#[tokio::test]
async fn a_cut_answer_beats_none() {
    // The port is closed for TCP.
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    drop(tcp);
    let address = udp.local_addr().unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::on(udp, elsewhere, |seen| {
        Box::pin(async move {
            let mut cut = reply(&seen);
            cut.add_answer(a(&seen.name, 60, [192, 0, 2, 1]));
            cut.metadata.truncation = seen.name == "large.example.";
            vec![cut.to_vec().unwrap()]
        })
    });
    assert_eq!(upstream.address, address);
    let server = Forwarding::start(asking(&[&upstream]));
    for n in 0..4 {
        let reply = server.resolve("large.example.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{n}");
        assert!(reply.metadata.truncation && reply.answers.len() == 1);
        server.forward.advance(6 * SECOND);
    }
    let state = &server.forward.states()[0];
    assert!(state.healthy && state.failures == 0);
    assert_eq!(server.addresses("small.example.").await, ["192.0.2.1"]);
    server.stop().await;
    // Another that has the whole of it is asked first.
    let whole = Upstream::start(|seen| {
        let records: Vec<_> = (0..200).map(|n| a(&seen.name, 60, [192, 0, 2, n])).collect();
        vec![with(seen, if seen.tcp { &records } else { &records[..1] })]
    })
    .await;
    let server = Forwarding::start(asking(&[&upstream, &whole]));
    let reply = server.resolve("large.example.", RecordType::A).await;
    assert!(!reply.metadata.truncation);
    server.stop().await;
}
