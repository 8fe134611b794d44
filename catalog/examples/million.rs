//! What a replica of a million instances costs: heap per instance, changes per second, time per question.
//!
//! `cargo run --release -p fingerpost-catalog --example million [-- <instances> <services>]`

// The one place to count allocations is the allocator, and its trait is unsafe.
#![allow(unsafe_code, reason = "a counting global allocator")]
#![allow(clippy::unwrap_used, reason = "a measurement that goes wrong has to stop")]

mod heap;

use fingerpost_catalog::{
    Change, ChangeSet, Check, CheckResult, Conditions, Epoch, Health, HealthSet, Instance, InstanceKey, InstanceQuery,
    Key, Pod, Port, Position, Protocol, Record, Replica, Report, Selector, Service, Source,
};
use heap::Heap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMESPACES: u32 = 100;

/// The world that is measured.
struct World {
    instances: u32,
    services: u32,
    source: Source,
    /// With what pods have beyond the basics: a name, a UID and a reported health.
    pods: bool,
}

/// Well-mixed bits of a number, always the same.
fn mix(n: u32) -> u32 {
    let n = (n ^ (n >> 16)).wrapping_mul(0x7feb_352d);
    let n = (n ^ (n >> 15)).wrapping_mul(0x846c_a68b);
    n ^ (n >> 16)
}

impl World {
    fn service(&self, n: u32) -> (Arc<str>, Arc<str>) {
        (format!("team-{:03}", n % NAMESPACES).into(), format!("service-{n:05}").into())
    }

    fn key(&self, n: u32) -> InstanceKey {
        let (namespace, service) = self.service(n % self.services);
        let id = format!("service-{:05}-{:08x}-{:05}", n % self.services, mix(n % self.services), n / self.services);
        InstanceKey { namespace, service: Some(service), source: self.source.clone(), id: id.into() }
    }

    fn instance(&self, n: u32, ready: bool) -> Instance {
        let key = self.key(n);
        let service = n % self.services;
        let labels = [
            ("app.kubernetes.io/name", format!("app-{}", service % 500)),
            ("version", format!("v{}", service % 7)),
            ("topology.kubernetes.io/zone", format!("eu-west-1{}", ['a', 'b', 'c'][n as usize % 3])),
            ("pod-template-hash", format!("{:08x}", mix(service))),
            ("statefulset.kubernetes.io/pod-name", key.id.to_string()),
        ];
        Instance {
            addresses: vec![
                Ipv4Addr::from(0x0a00_0000 + n).into(),
                Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n)).into(),
            ],
            ports: vec![Port { name: "http".to_owned(), port: 8080, protocol: Protocol::Tcp, app_protocol: None }],
            labels: labels.into_iter().collect(),
            zone: Some(format!("eu-west-1{}", ['a', 'b', 'c'][n as usize % 3])),
            node: Some(format!("node-{}", mix(n) % 5000)),
            conditions: Conditions { ready: Some(ready), serving: Some(ready), terminating: Some(false) },
            pod: self.pods.then(|| Pod {
                name: key.id.to_string(),
                uid: format!("{:08x}-{:04x}-4000-8000-{:012x}", mix(n), n & 0xffff, mix(n + 1)),
            }),
            report: self.pods.then(Report::default),
            ..Instance::default()
        }
    }

    fn load(&self, replica: &mut Replica) {
        for n in 0..self.services {
            let (namespace, name) = self.service(n);
            let key = Key::Service { namespace, name, source: self.source.clone() };
            let check = Check { name: "http".to_owned(), ..Check::default() };
            let checks = if self.pods { Vec::new() } else { vec![check] };
            replica.load(&key, &Record::Service(Service { checks, ..Service::default() }), 1);
        }
        for n in 0..self.instances {
            let key = self.key(n);
            replica.load(&Key::Instance(key), &Record::Instance(self.instance(n, true)), u64::from(n));
        }
        replica.loaded(Position::new(Epoch(1), u64::from(self.instances)));
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or_default() * 1024
}

/// Loads a world and reports what it holds.
fn measure_memory(world: &World, what: &str) -> Replica {
    let mut replica = Replica::new("main");
    let (before, resident_before, start) = (Heap::now(), resident(), Instant::now());
    world.load(&mut replica);
    let elapsed = start.elapsed();
    println!(
        "{what}: {} of heap per instance, {:.0} resident; loaded in {elapsed:.1?}, records made meanwhile",
        (Heap::now() - before).each(world.instances),
        resident().saturating_sub(resident_before) as f64 / f64::from(world.instances),
    );
    replica
}

/// Applies single-instance changes and reports how many a second; making and the observer's dropping are counted apart.
fn measure_changes(replica: &mut Replica, number: &mut u64, what: &str, change: impl Fn(u32) -> (Key, Option<Record>)) {
    const ROUNDS: u32 = 10;
    const CHANGES: u32 = 50_000;
    let (mut applying, mut dropping, mut effects_seen, mut slowest) =
        (Duration::ZERO, Duration::ZERO, 0, Duration::ZERO);
    for round in 0..ROUNDS {
        let sets: Vec<ChangeSet> = (0..CHANGES)
            .map(|n| {
                *number += 1;
                let (key, record) = change(round * CHANGES + n);
                let change = Change { key, record: record.map(Arc::new) };
                ChangeSet { position: Position::new(Epoch(1), *number), changes: vec![change] }
            })
            .collect();
        for set in &sets {
            let start = Instant::now();
            let effects = replica.apply(set);
            let applied = start.elapsed();
            effects_seen += effects.changes.len();
            drop(effects);
            dropping += start.elapsed() - applied;
            applying += applied;
            slowest = slowest.max(applied);
        }
    }
    let changes = f64::from(ROUNDS * CHANGES);
    println!(
        "{what}: {:.0} changes/s ({:.0}/s with the effects dropped), slowest {slowest:.1?}, {effects_seen} effects",
        changes / applying.as_secs_f64(),
        changes / (applying + dropping).as_secs_f64(),
    );
}

fn measure_query(
    replica: &Replica,
    what: &str,
    namespace: Option<&str>,
    selector: &str,
    health: HealthSet,
    limit: usize,
) {
    let selector: Selector = selector.parse().unwrap();
    let query = InstanceQuery { namespace, health, limit, ..InstanceQuery::new(&selector) };
    let (mut times, mut found) = (Vec::new(), 0);
    for _ in 0..51 {
        let start = Instant::now();
        found = replica.instances(&query).items.len();
        times.push(start.elapsed());
    }
    times.sort();
    println!("{what}: {:.1?} (median of {}), {found} found", times[times.len() / 2], times.len());
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    let (instances, services) = match numbers.as_slice() {
        [] => (1_000_000, 10_000),
        &[instances, services] => (instances, services),
        _ => panic!("usage: million [<instances> <services>]"),
    };
    let source: Source = "kubernetes/main".parse().unwrap();
    let mut world = World { instances, services, source, pods: true };
    drop(measure_memory(&world, "with pod, UID and report"));
    world.pods = false;
    let mut replica = measure_memory(&world, "5 labels, 2 addresses, zone, node, port");
    println!("{:?}", replica.stats());

    let mut number = u64::from(instances);
    measure_changes(&mut replica, &mut number, "readiness flips", |n| {
        let n = mix(n) % instances;
        (Key::Instance(world.key(n)), Some(Record::Instance(world.instance(n, n.is_multiple_of(2)))))
    });
    measure_changes(&mut replica, &mut number, "check verdicts", |n| {
        let key = Key::Check { instance: world.key(mix(n) % instances), check: "http".into() };
        (key, Some(Record::Check(CheckResult { health: Health::Warning, ..CheckResult::default() })))
    });
    measure_changes(&mut replica, &mut number, "instances added", |n| {
        (Key::Instance(world.key(instances + n)), Some(Record::Instance(world.instance(instances + n, true))))
    });
    measure_changes(&mut replica, &mut number, "instances removed", |n| {
        (Key::Instance(world.key(instances + n)), None)
    });

    let unique = format!("statefulset.kubernetes.io/pod-name={}", world.key(instances / 2).id);
    let hash = format!("pod-template-hash={:08x}", mix(7));
    let (all, critical) = (HealthSet::ALL, HealthSet::EMPTY.with(Health::Critical));
    let shared = "version=v3,topology.kubernetes.io/zone=eu-west-1b";
    let most = usize::MAX;
    measure_query(&replica, "unique label, everywhere", None, &unique, all, most);
    measure_query(&replica, "label of one service, everywhere", None, &hash, all, most);
    measure_query(&replica, "label of one service, in its namespace", Some("team-007"), &hash, all, most);
    measure_query(&replica, "shared label, in a namespace, 100 a page", Some("team-007"), "version=v3", all, 100);
    measure_query(&replica, "shared label, everywhere, 100 a page", None, "version=v3", all, 100);
    measure_query(&replica, "two shared labels, everywhere, 100 a page", None, shared, all, 100);
    measure_query(&replica, "two shared labels, in a namespace, all", Some("team-007"), shared, all, most);
    measure_query(&replica, "critical ones of a label, 100 a page", None, "version=v3", critical, 100);
    measure_query(&replica, "negation, 100 a page", None, "version!=v3", all, 100);
}
