//! Arbitrary change sets over few names, so that everything collides with everything.

use fingerpost_catalog::{
    AllCritical, Attachment, Change, ChangeSet, Check, CheckResult, CheckType, Conditions, Drain, Epoch, Health,
    Instance, InstanceKey, Key, Labels, Mark, Namespace, Pod, Port, Position, Protocol, Record, Report, Service,
    ServiceType, Session, SessionState, Source,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) const EPOCH: Epoch = Epoch(7);

fn name(names: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(names).prop_map(Arc::from)
}

pub(crate) const SOURCES: [&str; 6] = ["kubernetes/own", "kubernetes/far", "api", "api/x", "cni/n", "cni/m"];

pub(crate) fn source() -> impl Strategy<Value = Source> {
    select(&SOURCES[..]).prop_map(|text| text.parse().expect("a source"))
}

fn instance_key() -> impl Strategy<Value = InstanceKey> {
    (
        name(&["a", "b"]),
        prop_oneof![1 => Just(None), 5 => name(&["s", "t"]).prop_map(Some)],
        source(),
        name(&["1", "2", "3"]),
    )
        .prop_map(|(namespace, service, source, id)| InstanceKey { namespace, service, source, id })
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(
        select(&["app", "zone", "gen"][..]).prop_map(str::to_owned),
        select(&["", "1", "2", "x"][..]).prop_map(str::to_owned),
        0..3,
    )
    .prop_map(Labels)
}

fn unknown() -> impl Strategy<Value = serde_json::Map<String, serde_json::Value>> {
    prop_oneof![
        5 => Just(serde_json::Map::new()),
        1 => (0..3_u8).prop_map(|n| serde_json::Map::from_iter([("future".to_owned(), n.into())])),
    ]
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    prop::collection::vec(
        (select(&["", "http"][..]), 1..3_u16).prop_map(|(name, port)| Port {
            name: name.to_owned(),
            port,
            protocol: Protocol::Tcp,
            app_protocol: None,
        }),
        0..2,
    )
}

fn address() -> impl Strategy<Value = IpAddr> {
    select(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "::ffff:10.0.0.1"][..])
        .prop_map(|text| text.parse().expect("an address"))
}

fn text(texts: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    prop::option::of(select(texts).prop_map(str::to_owned))
}

/// Now and then some; names are few, so that the instance's and its service's meet, and are those of results.
fn checks() -> BoxedStrategy<Vec<Check>> {
    let made = |(which, interval_seconds, unknown): (usize, u32, serde_json::Map<_, _>)| {
        let names: &[&str] = [&[][..], &[], &[], &["c"], &["d", "c"], &["e"]][which];
        let check = |name: &&str| Check {
            name: (*name).to_owned(),
            check_type: CheckType::Tcp,
            interval_seconds: Some(interval_seconds),
            unknown: unknown.clone(),
            ..Check::default()
        };
        names.iter().map(check).collect()
    };
    (0..6_usize, 1..3_u32, unknown()).prop_map(made).boxed()
}

fn instance() -> BoxedStrategy<Record> {
    let place = (prop::collection::vec(address(), 0..4), ports(), labels());
    let run = (prop::option::of(0..3_u16), text(&["z1", "z2"]), text(&["n1"]), text(&["h"]));
    let rest = (prop::option::of(any::<bool>()), text(&["s1", "s2", "s3"]), 0..4_u8, unknown());
    (place, run, rest, checks())
        .prop_map(
            |((addresses, ports, labels), (weight, zone, node, hostname), (ready, session, rare, unknown), checks)| {
                Record::Instance(Instance {
                    addresses,
                    ports,
                    labels,
                    weight,
                    zone,
                    node,
                    hostname,
                    conditions: Conditions { ready, serving: None, terminating: ready },
                    pod: (rare == 1).then(|| Pod { name: "p".to_owned(), uid: String::new() }),
                    attachment: (rare == 2).then(|| Attachment { network: "net".to_owned(), ..Attachment::default() }),
                    session,
                    checks,
                    report: None,
                    unknown,
                })
            },
        )
        .boxed()
}

fn service() -> BoxedStrategy<Record> {
    let flags = (any::<bool>(), any::<bool>());
    (labels(), ports(), flags, checks(), unknown())
        .prop_map(|(labels, ports, (ready, answer), checks, unknown)| {
            Record::Service(Service {
                service_type: if ready { ServiceType::ClusterIP } else { ServiceType::Headless },
                labels,
                ports,
                publish_not_ready: ready,
                answer_unknown: answer,
                all_critical: AllCritical::All,
                checks,
                unknown,
                ..Service::default()
            })
        })
        .boxed()
}

fn health() -> impl Strategy<Value = Health> {
    select(&Health::ALL[..])
}

fn session() -> impl Strategy<Value = Record> {
    let state = select(&[SessionState::Alive, SessionState::Suspect, SessionState::Expired][..]);
    let owner = select(&[None, Some("ci"), Some("other")][..]);
    (source(), owner, state, 1..3_u32).prop_map(|(source, owner, state, ttl_seconds)| {
        Record::Session(Session {
            name: String::new(),
            source,
            owner: owner.map(str::to_owned),
            ttl_seconds,
            grace_seconds: 1,
            state,
            since: 0,
            renewals: 0,
            unknown: serde_json::Map::new(),
        })
    })
}

fn key_and_record() -> BoxedStrategy<(Key, Record)> {
    let note = || select(&["", "why"][..]).prop_map(str::to_owned);
    let report = (health(), note(), unknown()).prop_map(|(health, note, unknown)| Report { health, note, unknown });
    prop_oneof![
        1 => (name(&["a", "b"]), source(), labels(), unknown()).prop_map(|(name, source, labels, unknown)| {
            (Key::Namespace { name, source }, Record::Namespace(Namespace { labels, unknown }))
        }),
        3 => (name(&["a", "b"]), name(&["s", "t"]), source(), service()).prop_map(|(namespace, name, source, service)| {
            (Key::Service { namespace, name, source }, service)
        }),
        12 => (instance_key(), instance(), prop::option::weighted(0.2, report)).prop_map(|(key, mut instance, report)| {
            if let Record::Instance(instance) = &mut instance {
                instance.report = report;
            }
            (Key::Instance(key), instance)
        }),
        3 => (instance_key(), name(&["c", "d"]), health(), note(), 0..2_u64, unknown()).prop_map(
            |(instance, check, health, note, since, unknown)| {
                let result = CheckResult { health, note, since, reports: since, noted: since, unknown };
                (Key::Check { instance, check }, Record::Check(result))
            },
        ),
        1 => (instance_key(), note(), 0..2_u64, unknown()).prop_map(|(key, note, since, unknown)| {
            (Key::Drain(key), Record::Drain(Drain { note, since, unknown }))
        }),
        2 => (name(&["s1", "s2", "s3"]), session()).prop_map(|(id, session)| (Key::Session { id }, session)),
        1 => (source(), 1..9_u64, 0..2_u64, unknown()).prop_map(|(source, seen, complete, unknown)| {
            (Key::Mark { source }, Record::Mark(Mark { seen, complete, complete_of: String::new(), unknown }))
        }),
    ]
    .boxed()
}

fn change() -> impl Strategy<Value = Change> {
    let put = key_and_record().prop_map(|(key, record)| (key, Some(record)));
    let delete = key_and_record().prop_map(|(key, _)| (key, None));
    let mismatch = (key_and_record(), key_and_record()).prop_map(|((key, _), (_, record))| (key, Some(record)));
    prop_oneof![60 => put, 25 => delete, 1 => mismatch.prop_filter("fits", |(key, record)| {
        record.as_ref().is_some_and(|record| !record.fits(key))
    })]
    .prop_map(|(key, record)| Change { key, record: record.map(Arc::new) })
}

/// Consecutive change sets; a key may come more than once even in one set, which stores don't do.
pub(crate) fn history(most: usize) -> impl Strategy<Value = Vec<ChangeSet>> {
    let sets = prop::collection::vec((1..4_u64, prop::collection::vec(change(), 0..7)), 0..most);
    sets.prop_map(|sets| {
        let mut number = 0;
        let positioned = sets.into_iter().map(|(step, changes)| {
            number += step;
            ChangeSet { position: Position::new(EPOCH, number), changes }
        });
        positioned.collect()
    })
}
