//! Serves a catalog of many services, for load generators: `load_index [address] [services] [endpoints] [workers]`.
//!
//! Service `svc-<n>` of namespace `ns-<n % 100>`; every tenth is headless. Each has the named port `http`. Prints how long
//! compiling took and how much memory there is, then serves until it is interrupted.
//!
//! `load_index memory [services] [endpoints]` says what an instance costs in heap, changes and lookups instead, in several
//! shapes; the first is that of a cluster: `cargo run --release -p fingerpost-dns --example load_index -- memory`.

// The one place to count allocations is the allocator, and its trait is unsafe.
#![allow(unsafe_code, reason = "a counting global allocator")]

use fingerpost_catalog::{
    AllCritical, Effects, Epoch, Health, HealthParts, Instance, InstanceKey, InstanceView, Labels, NamespaceView, Port,
    Position, Protocol, ServiceType, ServiceView, Source, SourceKind, ViewChange,
};
use fingerpost_dns::{Answerer, Config, Counters, Index, Listen, Server, Transport, Verdict};
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        BLOCKS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        BLOCKS.fetch_sub(1, Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_add(size, Relaxed);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (services, endpoints) = (number(10_000)?, number(10)?);
    if first.as_deref() == Some("memory") {
        let cluster = World {
            services,
            endpoints,
            every_headless: 10,
            v6: false,
            labelled: false,
            own_port: true,
            source: "kubernetes/main".parse()?,
        };
        measure("Kubernetes, every tenth headless, v4", &cluster)?;
        for (what, headless, v6) in [
            ("headless, v4", true, false),
            ("headless, v4 and v6", true, true),
            ("ClusterIP, v4", false, false),
            ("ClusterIP, v4 and v6", false, true),
        ] {
            let every_headless = u32::from(headless);
            measure(what, &World { every_headless, v6, labelled: true, source: Source::api(), ..cluster })?;
        }
        return Ok(());
    }

    let address: SocketAddr = first.as_deref().unwrap_or("127.0.0.1:5399").parse()?;
    let workers = number(1)?;
    let index = Arc::new(Index::new(Config::default())?);
    let world = World {
        services,
        endpoints,
        every_headless: 10,
        v6: false,
        labelled: false,
        own_port: false,
        source: Source::api(),
    };
    let ids = world.ids();
    let began = Instant::now();
    world.fill(&index, &ids);
    index.set_synced(Position::new(Epoch(1), 1));
    eprintln!("compiled in {:?}: {:?}", began.elapsed(), index.stats());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmRSS")).for_each(|line| eprintln!("{line}"));
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let listen = Listen { workers: usize::try_from(workers)?, ..Listen::on(&[address]) };
        let server = Server::bind(index, listen, shutdown.clone())?;
        eprintln!("serving on {:?}", server.udp_addresses());
        let interrupted = tokio::spawn(async move {
            let _ = tokio::signal::ctrl_c().await;
            shutdown.cancel();
        });
        server.run().await?;
        interrupted.await?;
        Ok(())
    })
}

/// What is served or measured.
struct World {
    services: u32,
    endpoints: u32,
    /// Every how many-th service is headless; 0: none.
    every_headless: u32,
    /// Whether instances have a v6 address, too.
    v6: bool,
    /// Whether instances have ids that name them in DNS; else their dashed addresses do.
    labelled: bool,
    /// Whether instances have their port themselves; else their service has it.
    own_port: bool,
    /// Who declares all of it. From Kubernetes, ids are pods' names.
    source: Source,
}

fn at(base: [u8; 4], n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + n))
}

fn http() -> Vec<Port> {
    vec![Port { name: "http".to_owned(), port: 80, protocol: Protocol::Tcp, app_protocol: None }]
}

impl World {
    /// The instances' ids, which the catalog's replica shares with its views.
    fn ids(&self) -> Vec<Arc<str>> {
        let id = |n: u32| match self.labelled || self.source.kind() == SourceKind::Kubernetes {
            true => format!("svc-{}-{:08x}-{n:05}", n / self.endpoints, (n / self.endpoints).wrapping_mul(0x9e37_79b9)),
            false => self.address(n).to_string(),
        };
        (0..self.services * self.endpoints).map(|n| id(n).into()).collect()
    }

    /// An instance's address. As clusters give them out, neighbours in a service are neighbours here.
    fn address(&self, n: u32) -> IpAddr {
        let (service, own) = (n / self.endpoints, n % self.endpoints);
        match self.endpoints <= 16 {
            true => at([10, 1, 0, 0], (service << 4) + own),
            false => at([10, 128, 0, 0], n),
        }
    }

    /// The label under which DNS has an instance.
    fn label(&self, n: u32, ids: &[Arc<str>]) -> String {
        match self.labelled {
            true => ids[n as usize].to_string(),
            false => fingerpost_dns::dashed(self.address(n)),
        }
    }

    fn instance(&self, n: u32, ids: &[Arc<str>]) -> InstanceView {
        let service = n / self.endpoints;
        let v6 = Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n));
        InstanceView {
            key: InstanceKey {
                namespace: format!("ns-{}", service % 100).into(),
                service: Some(format!("svc-{service}").into()),
                source: self.source.clone(),
                id: ids[n as usize].clone(),
            },
            instance: Instance {
                addresses: [self.address(n)].into_iter().chain(self.v6.then_some(v6.into())).collect(),
                ports: if self.own_port { http() } else { Vec::new() },
                ..Instance::default()
            },
            reported: Health::Passing,
            parts: HealthParts::default(),
            effective: Health::Passing,
            answerable: true,
            panic_answerable: true,
            shadowed: Vec::new(),
            revision: 1,
        }
    }

    fn fill(&self, index: &Index, ids: &[Arc<str>]) {
        self.fill_namespaces(index);
        for n in 0..self.services {
            index.load_service(&self.service(n));
            self.fill_instances(index, n, ids);
        }
    }

    fn fill_namespaces(&self, index: &Index) {
        for n in 0..100 {
            index.load_namespace(&NamespaceView {
                name: format!("ns-{n}").into(),
                labels: Labels::default(),
                sources: vec![self.source.clone()],
                revision: 1,
            });
        }
    }

    fn fill_instances(&self, index: &Index, service: u32, ids: &[Arc<str>]) {
        for e in 0..self.endpoints {
            index.load_instance(Arc::new(self.instance(service * self.endpoints + e, ids)));
        }
    }

    fn service(&self, n: u32) -> ServiceView {
        let headless = self.every_headless > 0 && n.is_multiple_of(self.every_headless);
        ServiceView {
            namespace: format!("ns-{}", n % 100).into(),
            name: format!("svc-{n}").into(),
            service_type: if headless { ServiceType::Headless } else { ServiceType::ClusterIP },
            cluster_ips: if headless { Vec::new() } else { vec![at([10, 96, 0, 0], n)] },
            external_name: None,
            labels: Labels::default(),
            ports: http(),
            ttl: None,
            publish_not_ready: false,
            answer_unknown: false,
            all_critical: AllCritical::None,
            checks: Vec::new(),
            sources: vec![self.source.clone()],
            revision: 1,
        }
    }
}

/// Prints what an instance costs: heap after the load, changes per second, and time per answer.
fn measure(what: &str, world: &World) -> Result<(), Box<dyn std::error::Error>> {
    let ids = world.ids();
    let instances = world.services * world.endpoints;
    let part = |what: &str, each: u32, fill: &dyn Fn(&Index)| -> Result<(), Box<dyn std::error::Error>> {
        let index = Index::new(Config::default())?;
        let empty = HELD.load(Relaxed);
        fill(&index);
        let bytes = HELD.load(Relaxed) - empty;
        println!("  {what}: {:.1} MB, {} bytes each", bytes as f64 / 1e6, bytes / each as usize);
        Ok(())
    };
    println!("{what}:");
    let services = || 0..world.services;
    // Instances without their services have no records, so what remains is what is known of them.
    part("services without instances", world.services, &|index| {
        services().for_each(|n| index.load_service(&world.service(n)));
    })?;
    part("instances without services", instances, &|index| {
        services().for_each(|n| world.fill_instances(index, n, &ids));
    })?;
    let (held, blocks) = (HELD.load(Relaxed), BLOCKS.load(Relaxed));
    let index = Arc::new(Index::new(Config::default())?);
    let began = Instant::now();
    world.fill(&index, &ids);
    let took = began.elapsed();
    index.set_synced(Position::new(Epoch(1), 1));
    let each = |now: &AtomicUsize, before: usize| (now.load(Relaxed) - before) as f64 / f64::from(instances);
    println!(
        "  all: {:.1} MB, {:.0} bytes in {:.1} blocks per instance, filled in {took:?} by one thread, {:?}",
        (HELD.load(Relaxed) - held) as f64 / 1e6,
        each(&HELD, held),
        each(&BLOCKS, blocks),
        index.stats()
    );

    let mut number = 1;
    let mut apply = |before: Option<InstanceView>, after: Option<InstanceView>| {
        number += 1;
        let changes = vec![ViewChange::Instance { before: before.map(Arc::new), after: after.map(Arc::new) }];
        Effects { position: Position::new(Epoch(1), number), changes, sessions: Vec::new() }
    };
    let flips: Vec<Effects> = (0..50_000)
        .map(|n| (n * 7919) % instances)
        .flat_map(|n| {
            let good = world.instance(n, &ids);
            let bad = InstanceView { answerable: false, ..good.clone() };
            [apply(Some(good.clone()), Some(bad.clone())), apply(Some(bad), Some(good))]
        })
        .collect();
    let began = Instant::now();
    flips.iter().for_each(|effects| index.apply(effects));
    println!("  {:.0} changes of health a second", flips.len() as f64 / began.elapsed().as_secs_f64());
    drop(flips);
    println!("  {:.0} bytes per instance afterwards", each(&HELD, held));

    let mut answerer = Answerer::new(index, Arc::new(Counters::default()));
    for (what, qtype) in [
        ("service A", 1),
        ("service SRV", 33),
        ("port SRV", 33),
        ("endpoint A", 1),
        ("address PTR", 12),
        ("missing A", 1),
    ] {
        let packets: Vec<Vec<u8>> = (0..50_000)
            .map(|n| (n * 7919) % instances)
            .map(|n| {
                let service = n / world.endpoints;
                let name = format!("svc-{service}.ns-{}.svc.cluster.local", service % 100);
                match what {
                    "endpoint A" => format!("{}.{name}", world.label(n, &ids)),
                    "address PTR" => match world.address(n) {
                        IpAddr::V4(v4) => {
                            let [a, b, c, d] = v4.octets();
                            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
                        }
                        IpAddr::V6(_) => name,
                    },
                    "port SRV" => format!("_http._tcp.{name}"),
                    "missing A" => format!("missing.{name}"),
                    _ => name,
                }
            })
            .map(|name| packet(&name, qtype))
            .collect();
        let mut out = Vec::new();
        let mut best = f64::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            for packet in &packets {
                assert_eq!(answerer.answer(packet, Transport::Tcp, &mut out), Verdict::Send);
            }
            best = best.min(began.elapsed().as_secs_f64() * 1e9 / packets.len() as f64);
        }
        println!("  {what}: {best:.0} ns, {} octets", out.len());
    }
    Ok(())
}

/// A query in wire form (RFC 1035 §4.1).
fn packet(name: &str, qtype: u8) -> Vec<u8> {
    let mut packet = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, qtype, 0, 1]);
    packet
}
