//! Names that lead from ours to those of others and back: aliases, hosts, rewrites, search paths.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use common::{at, cluster_ip, external, headless, namespace, port};
use fingerpost_dns::forward::{Config, Forward, ForwardError, Target};
use fingerpost_dns::{Config as ZoneConfig, Index, Listen, Server};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use scripted::*;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const NAME: &str = "www.example.com.";

/// A cluster with a namespace `prod`, a service `db` and an alias `mail` in it.
fn cluster() -> Arc<Index> {
    let index = Index::new(ZoneConfig::default()).unwrap();
    for name in ["prod", "empty"] {
        index.load_namespace(&namespace(name));
    }
    index.load_service(&cluster_ip("prod", "db", &["10.96.0.5"], &[]));
    index.load_service(&external("prod", "mail", "mx.example.com"));
    index.load_service(&external("prod", "here", "db.prod.svc.cluster.local"));
    index.set_synced(at(1));
    Arc::new(index)
}

/// Knows some names of others.
async fn outside() -> Upstream {
    Upstream::start(|seen| {
        let answer = match (seen.name.to_ascii_lowercase().as_str(), seen.qtype) {
            ("mx.example.com.", RecordType::A) => with(
                seen,
                &[
                    cname("MX.example.com.", 300, "host.mail.example.com."),
                    a("host.mail.example.com.", 300, [192, 0, 2, 25]),
                ],
            ),
            ("www.example.com.", RecordType::A) => with(seen, &[a(&seen.name, 300, [192, 0, 2, 80])]),
            ("www.example.com." | "mx.example.com.", _) => {
                negative(seen, ResponseCode::NoError, Some(soa("example.com.", 60, 60)))
            }
            ("wiki.corp.example.", RecordType::A) => with(seen, &[a(&seen.name, 300, [192, 0, 2, 90])]),
            ("broken.example.com.", _) => negative(seen, ResponseCode::ServFail, None),
            _ => negative(seen, ResponseCode::NXDomain, Some(soa(".", 60, 60))),
        };
        vec![answer]
    })
    .await
}

fn lines(message: &Message) -> Vec<String> {
    let line = |record: &hickory_proto::rr::Record| format!("{} {} {}", record.name, record.record_type(), record.data);
    message.answers.iter().map(line).collect()
}

#[tokio::test]
async fn aliases_lead_out_of_the_zone() {
    let upstream = outside().await;
    let server = Forwarding::with(asking(&[&upstream]), cluster(), "127.0.0.1:0");
    for _ in 0..2 {
        let reply = server.resolve("Mail.prod.svc.cluster.local.", RecordType::A).await;
        assert_eq!(
            lines(&reply),
            [
                "Mail.prod.svc.cluster.local. CNAME mx.example.com.",
                "mx.example.com. CNAME host.mail.example.com.",
                "host.mail.example.com. A 192.0.2.25",
            ]
        );
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    }
    assert_eq!(upstream.seen().len(), 1);
    let none = server.resolve("mail.prod.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(
        (none.metadata.response_code, none.answers.len(), none.authorities.len()),
        (ResponseCode::NoError, 1, 1)
    );
    // Whoever does not want it gets the alias alone.
    let mut own = query("mail.prod.svc.cluster.local.", RecordType::A);
    own.metadata.recursion_desired = false;
    assert_eq!(server.ask(&own).await.answers.len(), 1);
    assert_eq!(server.addresses("here.prod.svc.cluster.local.").await.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn hosts_come_first_and_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    std::fs::write(&file, "10.9.0.1 www.example.com\n10.9.0.1 second\n192.0.2.99 db.prod.svc.cluster.local\n").unwrap();
    let upstream = outside().await;
    let config = Config { hosts: vec![file.clone()], ..asking(&[&upstream]) };
    let server = Forwarding::with(config, cluster(), "127.0.0.1:0");
    assert_eq!(server.addresses("WWW.example.com.").await, ["10.9.0.1"]);
    // Whatever else is asked of a listed name, nobody else is.
    for qtype in [RecordType::AAAA, RecordType::HTTPS, RecordType::MX] {
        let reply = server.resolve("second.", qtype).await;
        let soa = (reply.authorities[0].name.to_string(), reply.authorities[0].ttl);
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(soa, ("second.".to_owned(), 30));
    }
    // Names of ours are ours.
    assert_eq!(server.addresses("db.prod.svc.cluster.local.").await, ["10.96.0.5"]);
    let reverse = server.resolve("1.0.9.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(lines(&reverse), ["1.0.9.10.in-addr.arpa. PTR www.example.com."]);
    assert_eq!(upstream.seen().len(), 0);
    std::fs::write(&file, "10.9.0.2 second\n").unwrap();
    while server.addresses(NAME).await != ["192.0.2.80"] {
        server.forward.look_at_files();
        tokio::task::yield_now().await;
    }
    assert_eq!(server.addresses("second.").await, ["10.9.0.2"]);
    server.stop().await;
    let missing = Config { hosts: vec!["/no/such/hosts".into()], ..Config::default() };
    let error = Forward::open(missing).unwrap_err();
    assert!(matches!(error, ForwardError::Hosts(_)) && error.to_string().contains("/no/such/hosts"));
}

#[tokio::test]
async fn names_are_looked_up_as_others() {
    let upstream = outside().await;
    let rules =
        ["db.example=db.prod.svc.cluster.local", "*.old.example=*.example.com", "gone.example=no.cluster.local"];
    let rewrites = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let server = Forwarding::with(Config { rewrites, ..asking(&[&upstream]) }, cluster(), "127.0.0.1:0");
    let reply = server.resolve("DB.example.", RecordType::A).await;
    assert_eq!(lines(&reply), ["DB.example. A 10.96.0.5"]);
    let none = server.resolve("db.example.", RecordType::TXT).await;
    assert_eq!(
        (none.metadata.response_code, none.authorities[0].name.to_string()),
        (ResponseCode::NoError, "cluster.local.".to_owned())
    );
    assert_eq!(server.resolve("gone.example.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
    let reply = server.resolve("www.old.example.", RecordType::A).await;
    assert_eq!(lines(&reply), ["www.old.example. A 192.0.2.80"]);
    let reply = server.resolve("mx.old.example.", RecordType::A).await;
    assert_eq!(lines(&reply), ["mx.old.example. CNAME host.mail.example.com.", "host.mail.example.com. A 192.0.2.25",]);
    let negative = server.resolve("no.old.example.", RecordType::A).await;
    assert_eq!((negative.metadata.response_code, negative.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(upstream.count("no.example.com."), 1);
    server.stop().await;
    // Into our zones they lead everybody, out of them those who may ask.
    let rewrites = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let config = Config { rewrites, allow: Vec::new(), ..asking(&[&upstream]) };
    let asked = upstream.seen().len();
    let server = Forwarding::with(config, cluster(), "127.0.0.1:0");
    let reply = server.resolve("db.example.", RecordType::A).await;
    assert_eq!(lines(&reply), ["db.example. A 10.96.0.5"]);
    assert!(!reply.metadata.recursion_available);
    for name in ["www.old.example.", NAME] {
        let reply = server.resolve(name, RecordType::A).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::Refused, 0), "{name}");
    }
    assert_eq!(upstream.seen().len(), asked);
    assert_eq!(server.metric("fingerpost_forward_refused_total{reason=\"network\"}"), 2.0);
    server.stop().await;
}

#[tokio::test]
async fn a_zone_within_ours_may_have_a_rule() {
    let other = Upstream::start(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 7])])]).await;
    let rule = |zone: &str| format!("{zone}={}", other.address).parse().unwrap();
    let zones =
        vec![rule("consul.cluster.local"), rule("prod.svc.cluster.local"), rule("consul.example.org"), rule("local")];
    let aliased = || ZoneConfig { aliases: vec!["example.org".parse().unwrap()], ..ZoneConfig::default() };
    let index = Index::new(aliased()).unwrap();
    index.load_namespace(&namespace("prod"));
    index.load_service(&cluster_ip("prod", "db", &["10.96.0.5"], &[]));
    index.set_synced(at(1));
    let server = Forwarding::with(Config { zones, ..asking(&[]) }, Arc::new(index), "127.0.0.1:0");
    for name in ["web.Consul.cluster.local.", "consul.cluster.local.", "a.consul.example.org.", "x.local."] {
        let reply = server.resolve(name, RecordType::A).await;
        assert_eq!(lines(&reply), [format!("{name} A 192.0.2.7")]);
        assert!(!reply.metadata.authoritative);
    }
    // What is known here goes first; of what is in no such zone, ours is the word.
    assert_eq!(server.addresses("db.prod.svc.cluster.local.").await, ["10.96.0.5"]);
    assert_eq!(server.addresses("other.prod.svc.cluster.local.").await, ["192.0.2.7"]);
    for name in ["other.cluster.local.", "xconsul.cluster.local.", "a.prod.svc.example.org."] {
        let reply = server.resolve(name, RecordType::A).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, 0), "{name}");
        assert!(reply.metadata.authoritative);
    }
    server.stop().await;
    // A rule for a zone that is ours could never apply.
    for zone in ["cluster.local", "Example.org"] {
        let forward = Forward::open(Config { zones: vec![rule(zone)], ..asking(&[]) }).unwrap();
        let index = Arc::new(Index::new(aliased()).unwrap());
        let listen = Listen { workers: 1, ..Listen::on(&["127.0.0.1:0".parse().unwrap()]) };
        let server = Server::bind(index, listen, CancellationToken::new()).unwrap();
        let error = server.forwarding(forward).unwrap_err();
        assert!(matches!(error, ForwardError::OwnZone(_)) && error.to_string().contains("speaks for"), "{error}");
    }
}

#[tokio::test]
async fn the_search_path_is_walked_here() {
    let upstream = outside().await;
    let config = Config { search: Some(vec!["corp.example".parse().unwrap()]), ..asking(&[&upstream]) };
    let server = Forwarding::with(config, cluster(), "127.0.0.1:0");
    let reply = server.resolve("www.Example.com.prod.svc.cluster.local.", RecordType::A).await;
    assert_eq!(
        lines(&reply),
        ["www.Example.com.prod.svc.cluster.local. CNAME www.example.com.", "www.example.com. A 192.0.2.80",]
    );
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    // The name exists, so its other types are told at the same name.
    let reply = server.resolve("www.example.com.prod.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(lines(&reply), ["www.example.com.prod.svc.cluster.local. CNAME www.example.com."]);
    assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NoError, 1));
    // A name in a search domain, and one of ours that is a step away.
    let reply = server.resolve("wiki.sub.prod.svc.cluster.local.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    let reply = server.resolve("db.prod.empty.svc.cluster.local.", RecordType::A).await;
    assert_eq!(lines(&reply)[1..], ["db.prod.svc.cluster.local. A 10.96.0.5"]);
    let reply = server.resolve("mail.prod.empty.svc.cluster.local.", RecordType::A).await;
    assert_eq!(reply.answers.len(), 4);
    // Nothing anywhere: our own word, and nobody's alias.
    let reply = server.resolve("no.such.prod.svc.cluster.local.", RecordType::A).await;
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, 0));
    assert_eq!(reply.authorities[0].name.to_string(), "cluster.local.");
    let reply = server.resolve("broken.example.com.prod.svc.cluster.local.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    // Not of a search path: one label, a service's own names, no such namespace.
    let asked = upstream.seen().len();
    for name in
        ["nothing.prod.svc.cluster.local.", "x.y.db.prod.svc.cluster.local.", "www.example.com.no.svc.cluster.local."]
    {
        let reply = server.resolve(name, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(upstream.seen().len(), asked);
    server.stop().await;
    // Off unless asked for.
    let server = Forwarding::with(asking(&[&upstream]), cluster(), "127.0.0.1:0");
    let reply = server.resolve("www.example.com.prod.svc.cluster.local.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    server.stop().await;
}

#[tokio::test]
async fn names_of_services_stay_here_whether_they_answer_or_not() {
    // Everything exists out there, as with a wildcard.
    let upstream = Upstream::start(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 66])])]).await;
    let config = Config { search: Some(vec!["corp.example".parse().unwrap()]), ..asking(&[&upstream]) };
    let index = cluster();
    index.load_service(&headless("prod", "web", &[port("http", 80)]));
    let server = Forwarding::with(config, index, "127.0.0.1:0");
    for name in [
        "web-0.web.prod.svc.cluster.local.",
        "a.b.web.prod.svc.cluster.local.",
        "web.prod.empty.svc.cluster.local.",
        "web-0.web.prod.empty.svc.cluster.local.",
        "_http._tcp.web.prod.svc.cluster.local.",
        "_http._tcp.gone.prod.svc.cluster.local.",
        "_ldap._tcp.example.com.prod.svc.cluster.local.",
    ] {
        let reply = server.resolve(name, RecordType::A).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, 0), "{name}");
    }
    assert_eq!(upstream.seen().len(), 0);
    assert_eq!(server.addresses("www.example.com.prod.svc.cluster.local.").await.len(), 2);
    server.stop().await;
}

/// The cluster under three names.
fn cluster_of_many_names() -> Arc<Index> {
    let aliases = ["o", "a-zone-with-a-long-name.example"].map(|zone| zone.parse().unwrap()).to_vec();
    let index = Index::new(ZoneConfig { aliases, ..ZoneConfig::default() }).unwrap();
    for name in ["prod", "empty"] {
        index.load_namespace(&namespace(name));
    }
    index.load_service(&cluster_ip("prod", "db", &["10.96.0.5"], &[port("sql", 5432)]));
    index.load_service(&external("prod", "here", "db.prod.svc.cluster.local"));
    index.set_synced(at(1));
    Arc::new(index)
}

#[tokio::test]
async fn rewrites_and_search_paths_hold_in_all_zones() {
    let upstream = outside().await;
    let consul = Upstream::start(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 7])])]).await;
    let rules = [
        "short.cluster.local=db.prod.svc.cluster.local",
        "*.old.cluster.local=*.prod.svc.cluster.local",
        "out.cluster.local=www.example.com",
        "other.example=here.prod.svc.o",
        "stub.example=web.consul.o",
        "back.example=5.0.96.10.in-addr.arpa",
    ];
    let config = Config {
        rewrites: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        zones: vec![format!("consul.o={}", consul.address).parse().unwrap()],
        search: Some(vec!["corp.example".parse().unwrap()]),
        ..asking(&[&upstream])
    };
    let server = Forwarding::with(config, cluster_of_many_names(), "127.0.0.1:0");
    for zone in ["cluster.local", "o", "a-zone-with-a-long-name.example"] {
        let ask = |name: &str, qtype| {
            let name = format!("{name}.{zone}.");
            let server = &server;
            async move { server.resolve(&name, qtype).await }
        };
        let in_zone = |text: &str| text.replace('@', zone);
        assert_eq!(lines(&ask("Short", RecordType::A).await), [in_zone("Short.@. A 10.96.0.5")]);
        assert_eq!(lines(&ask("db.old", RecordType::A).await), [in_zone("db.old.@. A 10.96.0.5")]);
        assert_eq!(lines(&ask("out", RecordType::A).await), [in_zone("out.@. A 192.0.2.80")]);
        // What is said of other names is said in the words of the zone.
        let ports = ask("_sql._tcp.db.old", RecordType::SRV).await;
        assert_eq!(lines(&ports), [in_zone("_sql._tcp.db.old.@. SRV 0 100 5432 db.prod.svc.@.")]);
        assert_eq!(ports.additionals.len(), 1);
        let aliased = ask("here.old", RecordType::AAAA).await;
        assert_eq!(lines(&aliased), [in_zone("here.old.@. CNAME db.prod.svc.@.")]);
        let missing = ask("nothing.old", RecordType::A).await;
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        for negative in [aliased, missing, ask("short", RecordType::AAAA).await] {
            assert_eq!(negative.authorities[0].name.to_string(), format!("{zone}."));
        }
        // The search path of a pod whose resolver has this zone.
        let found = ask("www.example.com.prod.svc", RecordType::A).await;
        let alias = in_zone("www.example.com.prod.svc.@. CNAME www.example.com.");
        assert_eq!(lines(&found), [alias.as_str(), "www.example.com. A 192.0.2.80"]);
        let step = ask("db.prod.empty.svc", RecordType::A).await;
        let alias = in_zone("db.prod.empty.svc.@. CNAME db.prod.svc.@.");
        assert_eq!(lines(&step), [alias, in_zone("db.prod.svc.@. A 10.96.0.5")]);
        let none = ask("db.prod.empty.svc", RecordType::AAAA).await;
        assert_eq!((none.answers.len(), none.authorities[0].name.to_string()), (1, format!("{zone}.")));
        for name in ["no.such.prod.svc", "web-0.db.prod.svc", "nothing.prod.svc"] {
            let none = ask(name, RecordType::A).await;
            assert_eq!(none.metadata.response_code, ResponseCode::NXDomain, "{name}.{zone}");
            assert_eq!(none.authorities[0].name.to_string(), format!("{zone}."));
        }
    }
    let other = server.resolve("other.example.", RecordType::A).await;
    assert_eq!(lines(&other), ["other.example. CNAME db.prod.svc.o.", "db.prod.svc.o. A 10.96.0.5"]);
    let stub = server.resolve("stub.example.", RecordType::A).await;
    assert_eq!((lines(&stub), stub.metadata.authoritative), (vec!["stub.example. A 192.0.2.7".to_owned()], false));
    let back = server.resolve("back.example.", RecordType::PTR).await;
    assert_eq!(lines(&back), ["back.example. PTR db.prod.svc.cluster.local."]);
    server.stop().await;
}

#[tokio::test]
async fn search_domains_come_before_the_name_itself() {
    let upstream = Upstream::start(|seen| match seen.name.as_str() {
        "a.b.corp.example." => vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])],
        "a.b." => vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 2])])],
        _ => vec![negative(seen, ResponseCode::NXDomain, Some(soa(".", 60, 60)))],
    })
    .await;
    let config = Config { search: Some(vec!["corp.example".parse().unwrap()]), ..asking(&[&upstream]) };
    let server = Forwarding::with(config, cluster(), "127.0.0.1:0");
    let addresses = server.addresses("a.b.prod.svc.cluster.local.").await;
    assert_eq!(addresses, ["a.b.corp.example.", "192.0.2.1"]);
    server.stop().await;
}

#[tokio::test]
async fn resolv_conf_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let error = Forward::open(Config { upstreams: vec![Target::File(file.clone())], ..Config::default() }).unwrap_err();
    assert!(error.to_string().contains("resolv.conf"), "{error}");
    std::fs::write(&file, "search example\n").unwrap();
    let error = Forward::open(Config { upstreams: vec![Target::File(file.clone())], ..Config::default() }).unwrap_err();
    assert!(error.to_string().contains("nameserver"), "{error}");
    std::fs::write(&file, "nameserver 127.0.0.91\nnameserver 127.0.0.92\n").unwrap();
    let config = Config { upstreams: vec![Target::File(file.clone())], ..Config::default() };
    let server = Forwarding::start(config);
    let names = || server.forward.states().into_iter().map(|state| state.upstream).collect::<Vec<_>>();
    assert_eq!(names(), ["127.0.0.91:53", "127.0.0.92:53"]);
    std::fs::write(&file, "nameserver 127.0.0.92\nnameserver 127.0.0.93\n").unwrap();
    while names() != ["127.0.0.92:53", "127.0.0.93:53"] {
        server.forward.look_at_files();
        tokio::task::yield_now().await;
    }
    // What can't be used leaves things as they are.
    std::fs::write(&file, "\n").unwrap();
    server.forward.look_at_files();
    tokio::task::yield_now().await;
    assert_eq!(names().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn what_becomes_of_a_question_is_told() {
    let upstream = outside().await;
    let config = Config { zones: vec!["ads.example=none".parse().unwrap()], ..asking(&[&upstream]) };
    let server = Forwarding::start(config);
    let before = server.forward.explain(NAME, 1, Some("10.0.0.1".parse().unwrap())).unwrap();
    assert_eq!((before.allowed, before.cached.is_none(), before.upstreams.len()), (Some(true), true, 1));
    assert!(before.upstreams[0].healthy && !before.upstreams[0].looping);
    server.addresses(NAME).await;
    let after = server.forward.explain(NAME, 1, Some("8.8.8.8".parse().unwrap())).unwrap();
    let cached = after.cached.unwrap();
    assert_eq!(
        (after.allowed, cached.rcode.as_str(), cached.records, cached.stale),
        (Some(false), "NOERROR", 1, false)
    );
    assert!(cached.seconds.unwrap() > 290.0);
    server.forward.advance(301 * SECOND);
    let old = server.forward.explain(NAME, 1, None).unwrap().cached.unwrap();
    assert!(old.seconds.is_none() && old.stale);
    assert!(server.forward.explain("x.ads.example", 1, None).unwrap().rule.contains("ads.example."));
    assert!(server.forward.explain("x.onion", 1, None).unwrap().rule.contains("special-use"));
    assert!(server.forward.explain("a..b", 1, None).is_none());
    server.stop().await;
}
