//! What a replica of a Kubernetes cluster costs: heap per service and per instance, and time to load it.
//!
//! `cargo run --release -p fingerpost-catalog --example cluster [-- <services> <instances of each>]`

// The one place to count allocations is the allocator, and its trait is unsafe.
#![allow(unsafe_code, reason = "a counting global allocator")]
#![allow(clippy::unwrap_used, reason = "a measurement that goes wrong has to stop")]

mod heap;

use fingerpost_catalog::{
    Conditions, Epoch, Instance, InstanceKey, Key, Labels, Namespace, Pod, Port, Position, Protocol, Record, Replica,
    Service, ServiceType, Source,
};
use heap::Heap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMESPACES: u32 = 100;

/// A cluster as the listener declares it.
struct Cluster {
    services: u32,
    /// Instances of each service.
    each: u32,
    /// With labels of services and UIDs of pods. A test's API server has neither.
    full: bool,
}

impl Cluster {
    /// As a key that was read from a store: nothing in it is shared with another one.
    fn names(n: u32) -> (Arc<str>, Arc<str>, Source) {
        let namespace = format!("ns-{}", n % NAMESPACES);
        (namespace.into(), format!("svc-{n}").into(), "kubernetes/main".parse().unwrap())
    }

    fn service(&self, n: u32) -> (Key, Record) {
        let (namespace, name, source) = Self::names(n);
        let headless = n.is_multiple_of(10);
        let labels = [
            ("app.kubernetes.io/name", format!("svc-{n}")),
            ("app.kubernetes.io/instance", format!("svc-{n}")),
            ("app.kubernetes.io/managed-by", "Helm".to_owned()),
        ];
        let address: IpAddr = Ipv4Addr::from(0x0a60_0000 + n).into();
        let service = Service {
            service_type: if headless { ServiceType::Headless } else { ServiceType::ClusterIP },
            cluster_ips: if headless { Vec::new() } else { vec![address] },
            labels: if self.full { labels.into_iter().collect() } else { Labels::default() },
            ports: vec![port(80)],
            ..Service::default()
        };
        (Key::Service { namespace, name, source }, Record::Service(service))
    }

    fn instance(&self, n: u32) -> (Key, Record) {
        let (namespace, name, source) = Self::names(n / self.each);
        let id = format!("{name}-7c9d8f6b5-{:05}", n % self.each);
        let uid = format!("{n:08x}-1c3f-4a5b-8c7d-{:012x}", u64::from(n) * 7919);
        let instance = Instance {
            addresses: vec![Ipv4Addr::from(0x0a01_0000 + n).into()],
            ports: vec![port(8080)],
            zone: Some(format!("eu-west-1{}", ['a', 'b', 'c'][n as usize % 3])),
            node: Some(format!("node-{}", n.wrapping_mul(2_654_435_761) % 1000)),
            conditions: Conditions { ready: Some(true), serving: Some(true), terminating: Some(false) },
            pod: Some(Pod { name: id.clone(), uid: if self.full { uid } else { String::new() } }),
            ..Instance::default()
        };
        let key = InstanceKey { namespace, service: Some(name), source, id: id.into() };
        (Key::Instance(key), Record::Instance(instance))
    }

    fn measure(&self, what: &str) {
        let start = Heap::now();
        let mut replica = Replica::new("main");
        for n in 0..NAMESPACES {
            let (name, _, source) = Self::names(n);
            replica.load(&Key::Namespace { name, source }, &Record::Namespace(Namespace::default()), 1);
        }
        let namespaces = Heap::now();
        let mut loading = Duration::ZERO;
        let mut load = |replica: &mut Replica, (key, record): (Key, Record), n: u32| {
            let start = Instant::now();
            replica.load(&key, &record, u64::from(n));
            loading += start.elapsed();
        };
        (0..self.services).for_each(|n| load(&mut replica, self.service(n), n));
        let services = Heap::now();
        let instances = self.services * self.each;
        (0..instances).for_each(|n| load(&mut replica, self.instance(n), n));
        let all = Heap::now();
        replica.loaded(Position::new(Epoch(1), u64::from(instances)));
        println!(
            "{what}: {} in all, {} a service, {} an instance; {:.0} ms in loading",
            all - start,
            (services - namespaces).each(self.services),
            (all - services).each(instances),
            loading.as_secs_f64() * 1000.0,
        );
    }
}

fn port(port: u16) -> Port {
    Port { name: "http".to_owned(), port, protocol: Protocol::Tcp, app_protocol: None }
}

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    let (services, each) = match numbers.as_slice() {
        [] => (10_000, 10),
        &[services, each] => (services, each),
        _ => panic!("usage: cluster [<services> <instances of each>]"),
    };
    for (full, what) in [(false, "neither labels nor UIDs"), (true, "services with labels, pods with UIDs")] {
        Cluster { services, each, full }.measure(what);
    }
}
