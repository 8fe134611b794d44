//! Names that stay while what makes them exist changes never vanish in between, wherever the index keeps them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

mod common;

use common::*;
use fingerpost_catalog::{Effects, InstanceView, ViewChange};
use fingerpost_dns::{Answerer, Counters, Index, Transport, Verdict};
use hickory_proto::rr::RecordType;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const FLIPS: u64 = 5_000;

/// Asks for a name while the changes are applied again and again; each round ends as it began.
fn stays(index: &Arc<Index>, name: &str, qtype: RecordType, round: [ViewChange; 2]) {
    let packet = question(name, qtype).to_vec().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut answerer = Answerer::new(Arc::clone(index), Arc::new(Counters::default()));
            let mut out = Vec::new();
            while !done.load(Relaxed) {
                assert_eq!(answerer.answer(&packet, Transport::Tcp, &mut out), Verdict::Send);
                assert_eq!(out[3] & 0x0f, 0, "{name} is gone");
            }
        });
        let writer = scope.spawn(|| {
            for number in 0..FLIPS {
                for change in &round {
                    let changes = vec![change.clone()];
                    index.apply(&Effects { position: at(number + 2), changes, sessions: Vec::new() });
                }
            }
        });
        let written = writer.join();
        done.store(true, Relaxed);
        reader.join().unwrap();
        written.unwrap();
    });
}

#[test]
fn the_name_of_a_port_stays_when_its_service_changes_its_type() {
    let dns = Dns::new();
    let http = [port("http", 80)];
    let without = headless("prod", "web", &http);
    let with = cluster_ip("prod", "web", &["10.96.0.1"], &http);
    dns.load(std::slice::from_ref(&without), &[instance("prod", "web", "one", &["10.0.0.1"])]);
    for name in ["_http._tcp.web.prod.svc.cluster.local.", "_tcp.web.prod.svc.cluster.local."] {
        let round = [service_change(Some(&without), Some(&with)), service_change(Some(&with), Some(&without))];
        stays(&dns.index, name, RecordType::SRV, round);
    }
}

#[test]
fn the_name_of_an_endpoint_stays_when_a_hostname_makes_way_for_an_address() {
    let dns = Dns::new();
    let addressed = instance("prod", "web", "a.b", &["10.0.0.1"]);
    let mut named: InstanceView = instance("prod", "web", "a.b", &["10.0.0.2"]);
    named.instance.hostname = Some("10-0-0-1".to_owned());
    dns.load(&[headless("prod", "web", &[])], std::slice::from_ref(&addressed));
    let round = [instance_change(Some(&addressed), Some(&named)), instance_change(Some(&named), Some(&addressed))];
    stays(&dns.index, "10-0-0-1.web.prod.svc.cluster.local.", RecordType::A, round);
}
