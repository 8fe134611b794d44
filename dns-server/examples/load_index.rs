//! Serves a catalog of many services, for load generators: `load_index [address] [services] [endpoints] [workers]`.
//!
//! Service `svc-<n>` of namespace `ns-<n % 100>`; every tenth is headless. Each has the named port `http`. Prints how long
//! compiling took and how much memory there is, then serves until it is interrupted.

use fingerpost_catalog::{
    AllCritical, Epoch, Health, HealthParts, Instance, InstanceKey, InstanceView, Labels, NamespaceView, Port,
    Position, Protocol, ServiceType, ServiceView, Source,
};
use fingerpost_dns::{Config, Index, Listen, Server};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:5399").parse()?;
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (services, endpoints, workers) = (number(10_000)?, number(10)?, number(1)?);

    let index = Arc::new(Index::new(Config::default())?);
    let began = Instant::now();
    fill(&index, services, endpoints);
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

fn fill(index: &Index, services: u32, endpoints: u32) {
    for n in 0..100 {
        index.load_namespace(&NamespaceView {
            name: format!("ns-{n}").into(),
            labels: Labels::default(),
            sources: vec![Source::api()],
            revision: 1,
        });
    }
    let at = |base: [u8; 4], n: u32| IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + n));
    for n in 0..services {
        let headless = n % 10 == 0;
        let (namespace, name): (Arc<str>, Arc<str>) = (format!("ns-{}", n % 100).into(), format!("svc-{n}").into());
        index.load_service(&ServiceView {
            namespace: namespace.clone(),
            name: name.clone(),
            service_type: if headless { ServiceType::Headless } else { ServiceType::ClusterIP },
            cluster_ips: if headless { Vec::new() } else { vec![at([10, 96, 0, 0], n)] },
            external_name: None,
            labels: Labels::default(),
            ports: vec![Port { name: "http".to_owned(), port: 80, protocol: Protocol::Tcp, app_protocol: None }],
            ttl: None,
            publish_not_ready: false,
            answer_unknown: false,
            all_critical: AllCritical::None,
            sources: vec![Source::api()],
            revision: 1,
        });
        for e in 0..endpoints {
            let address = at([10, 128, 0, 0], n * endpoints + e);
            index.load_instance(Arc::new(InstanceView {
                key: InstanceKey {
                    namespace: namespace.clone(),
                    service: Some(name.clone()),
                    source: Source::api(),
                    id: address.to_string().into(),
                },
                instance: Instance { addresses: vec![address], ..Instance::default() },
                reported: Health::Passing,
                parts: HealthParts::default(),
                effective: Health::Passing,
                answerable: true,
                panic_answerable: true,
                shadowed: Vec::new(),
                revision: 1,
            }));
        }
    }
}
