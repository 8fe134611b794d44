//! Names of others with a real resolver behind: Unbound, which validates, cuts what is too long, ends and comes back.

use fingerpost_tests::unbound::{BIG, Unbound};
use fingerpost_tests::{Server, output_of};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;

/// A name whose TTL is a second.
const SHORT: &str = "short.plain. 1 IN A 192.0.2.90";

/// What `dig` shows of an answer, without TTLs and in order.
#[derive(PartialEq, Eq, Debug)]
struct Dug {
    status: String,
    flags: Vec<String>,
    answer: Vec<String>,
    authority: Vec<String>,
    /// Codes and texts of extended errors.
    reasons: Vec<String>,
}

impl Dug {
    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }
}

fn dig(server: SocketAddr, arguments: &[&str]) -> Dug {
    let (host, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut command = Command::new("dig");
    command.args([host.as_str(), "-p", &port, "+tries=1", "+timeout=10", "+nottlid"]).args(arguments);
    let text = output_of(&mut command);
    let field = |begin: &str, end: char| {
        let rest = text.split_once(begin).unwrap_or_else(|| panic!("no {begin}:\n{text}")).1;
        rest.split(end).next().unwrap_or_default().trim().to_owned()
    };
    let section = |name: &str| {
        let lines = text.lines().skip_while(|line| !line.ends_with(&format!(" {name} SECTION:"))).skip(1);
        let mut lines: Vec<String> = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        lines
    };
    Dug {
        status: field("status: ", ','),
        flags: field("flags: ", ';').split_whitespace().map(str::to_owned).collect(),
        answer: section("ANSWER"),
        authority: section("AUTHORITY"),
        reasons: text.lines().filter_map(|line| line.strip_prefix("; EDE: ")).map(str::to_owned).collect(),
    }
}

fn forwarding_to(unbound: &Unbound) -> Server {
    Server::start_with(&["--forward", &unbound.dns.to_string()])
}

#[tokio::test]
async fn answers_are_those_of_the_resolver() {
    let unbound = Unbound::start("").await;
    let server = forwarding_to(&unbound);
    for (name, qtype) in [
        ("www.signed.example", "A"),
        ("alias.signed.example", "AAAA"),
        ("mx.signed.example", "MX"),
        ("signed.example", "DNSKEY"),
        ("x.wild.signed.example", "A"),
        ("bogus.signed.example", "A"),
        ("no.signed.example", "A"),
        ("www.signed.example", "MX"),
        ("no.such.zone", "A"),
    ] {
        for bits in [&["+nodnssec"][..], &["+dnssec"], &["+dnssec", "+cdflag"], &["+noadflag"], &["+noedns"]] {
            let question = [&[name, qtype][..], bits].concat();
            let direct = dig(unbound.dns, &question);
            // What an upstream gives as its reason is handed on with its name.
            let reason = |reason: &String| match reason.split_once(": (") {
                Some((code, text)) => format!("{code}: ({}: {text}", unbound.dns),
                None => format!("{reason}: ({})", unbound.dns),
            };
            let direct = Dug { reasons: direct.reasons.iter().map(reason).collect(), ..direct };
            // Once asked, once from the cache.
            for _ in 0..2 {
                assert_eq!(dig(server.dns, &question), direct, "{question:?}");
            }
        }
    }
    let signed = dig(server.dns, &["www.signed.example", "A", "+dnssec"]);
    assert!(signed.has("ad") && signed.answer.iter().any(|line| line.contains(" RRSIG ")), "{signed:?}");
    let bogus = dig(server.dns, &["bogus.signed.example", "A"]);
    assert_eq!(bogus.status, "SERVFAIL");
    assert!(bogus.reasons[0].starts_with("6 (DNSSEC Bogus)"), "{bogus:?}");
    let unchecked = dig(server.dns, &["bogus.signed.example", "A", "+cdflag"]);
    assert_eq!((unchecked.status.as_str(), unchecked.answer.len()), ("NOERROR", 1));
}

#[tokio::test]
async fn what_is_cut_is_asked_for_over_tcp() {
    let unbound = Unbound::start("").await;
    let server = forwarding_to(&unbound);
    let big = ["big.signed.example", "TXT"];
    assert!(dig(unbound.dns, &[&big[..], &["+ignore"]].concat()).has("tc"));
    // The whole of it is here at once; a client's datagram has room for a part, and says so.
    let datagram = dig(server.dns, &[&big[..], &["+ignore"]].concat());
    assert!(datagram.has("tc") && datagram.answer.len() < BIG, "{datagram:?}");
    for way in [&["+tcp"][..], &[]] {
        let whole = dig(server.dns, &[&big[..], way].concat());
        assert_eq!((whole.has("tc"), whole.answer.len()), (false, BIG));
    }
}

async fn upstream(server: &Server) -> Value {
    server.get("/v1/status").await.json["dns"]["upstreams"][0].clone()
}

#[tokio::test]
async fn an_outage_is_bridged_and_its_end_noticed() {
    let unbound = Unbound::start(SHORT).await;
    let server = forwarding_to(&unbound);
    let address = unbound.dns;
    assert_eq!(dig(server.dns, &["short.plain", "A"]).answer, ["short.plain. IN A 192.0.2.90"]);
    assert_eq!(upstream(&server).await["healthy"], true);
    let stopped = unbound.kill();
    loop {
        let held = dig(server.dns, &["short.plain", "A"]);
        assert_eq!((held.status.as_str(), held.answer.len()), ("NOERROR", 1), "{held:?}");
        if held.reasons.first().is_some_and(|reason| reason.starts_with("3 (Stale Answer)")) {
            break;
        }
    }
    // What is not known can't be bridged.
    let unknown = dig(server.dns, &["other.plain", "A"]);
    assert_eq!(unknown.status, "SERVFAIL");
    assert!(unknown.reasons[0].contains(&format!("({address}: ")), "{unknown:?}");
    while upstream(&server).await["healthy"] == true {
        tokio::task::yield_now().await;
    }
    let _unbound = stopped.again("other.plain. IN A 192.0.2.91").await;
    loop {
        let other = dig(server.dns, &["other.plain", "A"]);
        if other.status == "NOERROR" {
            assert_eq!(other.answer, ["other.plain. IN A 192.0.2.91"]);
            break;
        }
        assert_eq!(other.status, "SERVFAIL", "{other:?}");
    }
    assert_eq!(upstream(&server).await["healthy"], true);
}
