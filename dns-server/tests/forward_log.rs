//! What the query log and the metrics say of names of others: where an answer came from, whose it is, how long that took.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;
mod scripted;

use common::{at, cluster_ip, external, namespace};
use fingerpost_dns::forward::Config;
use fingerpost_dns::{Config as ZoneConfig, Index, LogTarget, QueryLog};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use scripted::*;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "www.example.com.";

fn cluster() -> Arc<Index> {
    let index = Index::new(ZoneConfig::default()).unwrap();
    index.load_namespace(&namespace("prod"));
    index.load_service(&cluster_ip("prod", "db", &["10.96.0.5"], &[]));
    index.load_service(&external("prod", "mail", "www.example.com"));
    index.set_synced(at(1));
    Arc::new(index)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a line says of others.
fn others(line: &Value) -> [Option<&str>; 3] {
    ["name", "rcode", "from"].map(|field| line[field].as_str())
}

#[tokio::test]
async fn each_line_says_where_the_answer_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries");
    let log = Arc::new(QueryLog::open(LogTarget::File(path.clone()), 1).unwrap());
    let upstream = Upstream::start(|seen| vec![with(seen, &[a(&seen.name, 60, [192, 0, 2, 1])])]).await;
    let rules = ["ads.example=none", "secret.example=refuse"];
    let zones = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let config = Config { zones, ..asking(&[&upstream]) };
    let server = Forwarding::logging(config, cluster(), "127.0.0.1:0", Some(log));
    let own = "db.prod.svc.cluster.local.";
    for name in [own, NAME, NAME, "mail.prod.svc.cluster.local.", "x.ads.example.", "x.secret.example."] {
        server.resolve(name, RecordType::A).await;
    }
    upstream.play(|seen| vec![negative(seen, ResponseCode::ServFail, None)]);
    server.forward.advance(Duration::from_secs(100));
    for name in [NAME, "broken.example.", "broken.example."] {
        server.resolve(name, RecordType::A).await;
    }
    let address = upstream.address.to_string();
    let answered = format!("fingerpost_forward_upstream_duration_seconds_count{{upstream=\"{address}\"}}");
    // The probe for loops may be among them.
    assert!(server.metric(&answered) >= 3.0);
    server.stop().await;

    let lines = lines(&path);
    let alias = "mail.prod.svc.cluster.local.";
    let expected = [
        (own, "NOERROR", None),
        (NAME, "NOERROR", Some("upstream")),
        (NAME, "NOERROR", Some("cache")),
        (alias, "NOERROR", Some("cache")),
        ("x.ads.example.", "NXDOMAIN", Some("local")),
        ("x.secret.example.", "REFUSED", None),
        (NAME, "NOERROR", Some("stale")),
        ("broken.example.", "SERVFAIL", Some("failed")),
        ("broken.example.", "SERVFAIL", Some("cache")),
    ];
    let told: Vec<_> = lines.iter().map(others).collect();
    assert_eq!(told, expected.map(|(name, rcode, from)| [Some(name), Some(rcode), from]));
    for line in &lines {
        let asked = line["from"] == "upstream";
        assert_eq!(
            line["upstream"] == address.as_str(),
            matches!(line["from"].as_str(), Some("upstream" | "cache" | "stale")) && line["rcode"] != "SERVFAIL",
            "{line}"
        );
        match line["upstreamMicroseconds"].as_f64() {
            Some(took) => assert!(asked && took > 0.0 && took <= line["microseconds"].as_f64().unwrap(), "{line}"),
            None => assert!(!asked, "{line}"),
        }
    }
    let reason = |at: usize| lines[at]["reason"].as_str().unwrap_or_default();
    assert!(reason(4).contains("--forward-zone") && reason(6).contains("40 s past its TTL"), "{lines:?}");
    assert_eq!(reason(7), format!("{address}: the server answered with SERVFAIL"));
    assert_eq!(reason(1), "");
}
