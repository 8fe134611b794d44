//! The explanations where names of others are concerned: they say what the server does, before it has asked and after.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use common::{at, cluster_ip, external, instance, namespace};
use fingerpost_catalog::{InstanceView, NamespaceView, ServiceView};
use fingerpost_dns::explain::{Explanation, FORWARDED, Lookup, explain};
use fingerpost_dns::forward::Config;
use fingerpost_dns::{Config as ZoneConfig, Index};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use scripted::*;
use std::net::IpAddr;
use std::sync::Arc;

/// A namespace `prod` with a service `db`, an alias `mail`, and a client.
struct World;

impl World {
    fn services() -> [ServiceView; 2] {
        [cluster_ip("prod", "db", &["10.96.0.5"], &[]), external("prod", "mail", "www.example.com")]
    }
}

impl Lookup for World {
    fn namespace(&self, name: &str) -> Option<Arc<NamespaceView>> {
        (name == "prod").then(|| namespace(name).into())
    }

    fn service(&self, _: &str, name: &str) -> Option<Arc<ServiceView>> {
        Self::services().into_iter().find(|view| &*view.name == name).map(Arc::new)
    }

    fn instances(&self, _: &str, _: &str) -> Vec<Arc<InstanceView>> {
        Vec::new()
    }

    fn at(&self, address: IpAddr) -> Vec<Arc<InstanceView>> {
        let client = (address.to_string() == "10.1.0.9").then(|| instance("prod", "db", "client", &["10.1.0.9"]));
        client.into_iter().map(Arc::new).collect()
    }
}

fn cluster() -> Arc<Index> {
    let index = Index::new(ZoneConfig::default()).unwrap();
    index.load_namespace(&namespace("prod"));
    World::services().iter().for_each(|view| index.load_service(view));
    index.set_synced(at(1));
    Arc::new(index)
}

/// Knows `www.example.com` and everything backwards.
async fn outside() -> Upstream {
    Upstream::start(|seen| {
        let answer = match (seen.name.as_str(), seen.qtype) {
            ("www.example.com.", RecordType::A) => with(seen, &[a(&seen.name, 300, [192, 0, 2, 80])]),
            (name, RecordType::PTR) => {
                let host = Name::from_ascii("host.example.").unwrap();
                let record = Record::from_rdata(Name::from_ascii(name).unwrap(), 300, RData::PTR(PTR(host)));
                with(seen, &[record])
            }
            _ => negative(seen, ResponseCode::NXDomain, Some(soa(".", 60, 60))),
        };
        vec![answer]
    })
    .await
}

fn told(server: &Forwarding, name: &str, qtype: &str, from: Option<&str>) -> Explanation {
    let from = from.map(|text| text.parse().unwrap());
    explain((&server.index, Some(&server.forward)), name, qtype, from, &World)
}

fn has(explanation: &Explanation, words: &str) -> bool {
    explanation.steps.iter().any(|step| step.text.contains(words))
}

/// Explains a name, has the server answer it, and explains it again: both times as the server does.
async fn explains(server: &Forwarding, name: &str, qtype: RecordType) -> [Explanation; 2] {
    let misses = || server.metric("fingerpost_forward_cache_total{result=\"miss\"}");
    let before = (misses(), told(server, name, &qtype.to_string(), None));
    let reply = server.resolve(name, qtype).await;
    let asked = misses() > before.0;
    assert_eq!(before.1.rcode == FORWARDED, asked, "{name}: {:?}", before.1);
    let after = told(server, name, &qtype.to_string(), None);
    let lines: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(after.answer_total, lines.len(), "{name}: {after:?}");
    assert!(after.answer.iter().zip(&lines).all(|(told, line)| told.ends_with(line.as_str())), "{name}: {after:?}");
    let rcode = if reply.metadata.response_code == ResponseCode::NoError { "NOERROR" } else { "NXDOMAIN" };
    assert_eq!(after.rcode, rcode, "{name}");
    [before.1, after]
}

#[tokio::test]
async fn rewritten_names() {
    let upstream = outside().await;
    let rules = ["db.example=db.prod.svc.cluster.local", "db.cluster.local=db.prod.svc.cluster.local", "*.old=*.com"];
    let rewrites = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let server = Forwarding::with(Config { rewrites, ..asking(&[&upstream]) }, cluster(), "127.0.0.1:0");
    for name in ["db.example.", "db.cluster.local."] {
        let [explanation, _] = explains(&server, name, RecordType::A).await;
        assert!(has(&explanation, &format!("`--rewrite {}=db.prod.svc.cluster.local`", name.trim_end_matches('.'))));
        assert!(has(&explanation, "Service `db` exists") && explanation.forwarding.is_none(), "{explanation:?}");
        assert!(explanation.steps.iter().all(|step| step.ok));
    }
    let [before, after] = explains(&server, "www.example.old.", RecordType::A).await;
    let forwarding = before.forwarding.unwrap();
    assert_eq!(
        (forwarding.name.as_str(), forwarding.rewritten.as_deref()),
        ("www.example.old.", Some("www.example.com."))
    );
    assert!(forwarding.cached.is_none() && after.forwarding.unwrap().cached.is_some());
    server.stop().await;
}

#[tokio::test]
async fn addresses_that_others_know() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "# Printers\n10.9.0.1 printer.example\n").unwrap();
    let upstream = outside().await;
    let rule = format!("2.10.in-addr.arpa={}", upstream.address).parse().unwrap();
    let config = Config { zones: vec![rule, "ads.example=none".parse().unwrap()], hosts: vec![hosts], ..asking(&[]) };
    let server = Forwarding::with(config, cluster(), "127.0.0.1:0");
    let [before, _] = explains(&server, "1.0.2.10.in-addr.arpa.", RecordType::PTR).await;
    assert!(has(&before, "the rule for 2.10.in-addr.arpa. says whom to ask"), "{before:?}");
    // What needs nobody to be asked is told at once.
    for (name, qtype, words) in [
        ("1.0.9.10.in-addr.arpa.", RecordType::PTR, "hosts` lists it in line 2, as printer.example."),
        ("printer.example.", RecordType::A, "hosts` lists it in line 2, as 10.9.0.1"),
        ("www.ads.example.", RecordType::A, "there is nothing in ads.example. (`--forward-zone ads.example=none`)"),
        ("localhost.", RecordType::A, "special-use"),
    ] {
        let [before, _] = explains(&server, name, qtype).await;
        assert!(before.rcode != FORWARDED && has(&before, words), "{name}: {before:?}");
        assert!(!has(&before, "has it asked for"));
    }
    let refused = told(&server, "printer.example.", "A", Some("8.8.8.8"));
    assert_eq!((refused.rcode.as_str(), refused.answer_total), ("REFUSED", 0));
    server.stop().await;
}

#[tokio::test]
async fn search_paths() {
    let upstream = outside().await;
    let config = Config { search: Some(vec!["corp.example".parse().unwrap()]), ..asking(&[&upstream]) };
    let server = Forwarding::with(config, cluster(), "127.0.0.1:0");
    let walk = |name| told(&server, name, "A", Some("10.1.0.9"));
    let first = "www.example.com.prod.svc.cluster.local.";
    let before = walk("www.example.com");
    let search = before.search.clone().unwrap();
    assert_eq!(search.domains, ["prod.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
    assert_eq!((before.name.as_str(), search.queries, search.winner), (first, 1, None));
    let wanted = "www.example.com.corp.example.";
    assert_eq!((before.rcode.as_str(), before.forwarding.clone().unwrap().name.as_str()), (FORWARDED, wanted));
    assert!(has(&before, "`--search-path`") && has(&before, "has to be asked for"), "{before:?}");
    explains(&server, first, RecordType::A).await;
    let after = walk("www.example.com");
    let search = after.search.clone().unwrap();
    assert_eq!((search.queries, search.winner, after.answer_total), (1, Some(0), 2));
    assert!(has(&after, "`www.example.com.` is the first that exists"), "{after:?}");
    // Nothing anywhere.
    explains(&server, "no.such.prod.svc.cluster.local.", RecordType::A).await;
    let none = told(&server, "no.such.prod.svc.cluster.local.", "A", None);
    assert!(has(&none, "None of them exists"));
    // For whom others are not asked, nothing is walked.
    let stranger = told(&server, first, "A", Some("8.8.8.8"));
    assert!(stranger.rcode == "NXDOMAIN" && !has(&stranger, "--search-path"));
    server.stop().await;
}

#[tokio::test]
async fn aliases_to_names_of_others() {
    let upstream = outside().await;
    let server = Forwarding::with(asking(&[&upstream]), cluster(), "127.0.0.1:0");
    let name = "mail.prod.svc.cluster.local.";
    let [before, after] = explains(&server, name, RecordType::A).await;
    assert!(has(&before, "it adds what others say of it") && before.forwarding.unwrap().name == "www.example.com.");
    assert_eq!(after.answer_total, 2);
    let stranger = told(&server, name, "A", Some("8.8.8.8"));
    assert!(stranger.answer_total == 1 && has(&stranger, "asks for it on its own"));
    server.stop().await;
}

#[tokio::test]
async fn answers_for_clients_with_wishes() {
    let upstream = outside().await;
    let server = Forwarding::start(asking(&[&upstream]));
    server.ask(&edns(query("www.example.com.", RecordType::A), 1232, true)).await;
    let explanation = told(&server, "www.example.com.", "A", None);
    assert!(explanation.rcode == FORWARDED && has(&explanation, "(NOERROR), fresh"), "{explanation:?}");
    assert!(has(&explanation, "for clients that ask for DNSSEC"));
    let forwarding = explanation.forwarding.unwrap();
    assert!(forwarding.cached.is_none() && forwarding.cached_otherwise[0].dnssec_ok);
    server.stop().await;
}
