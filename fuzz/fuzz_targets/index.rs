//! An index with a little of everything, and an answerer for it.

use fingerpost_catalog::{
    AllCritical, Epoch, Health, HealthParts, Instance, InstanceKey, InstanceView, Labels, NamespaceView, Port, Position,
    Protocol, ServiceType, ServiceView, Source,
};
use fingerpost_dns::{Answerer, Config, Counters, Index};
use std::net::IpAddr;
use std::sync::Arc;

fn service(name: &str, service_type: ServiceType) -> ServiceView {
    ServiceView {
        namespace: "n".into(),
        name: name.into(),
        service_type,
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        external_name: Some("a.n.svc.cluster.local".to_owned()),
        labels: Labels::default(),
        ports: vec![Port { name: "p".to_owned(), port: 80, protocol: Protocol::Tcp, app_protocol: None }],
        ttl: None,
        publish_not_ready: false,
        answer_unknown: false,
        all_critical: AllCritical::None,
        checks: Vec::new(),
        sources: vec![Source::api()],
        revision: 1,
    }
}

/// `a` is a ClusterIP service, `b` headless with 300 instances, `c` an alias of `a`.
pub fn answerer() -> Answerer {
    let index = Index::new(Config::default()).expect("the default zone is short");
    index.load_namespace(&NamespaceView {
        name: "n".into(),
        labels: Labels::default(),
        sources: vec![Source::api()],
        revision: 1,
    });
    index.load_service(&service("a", ServiceType::ClusterIP));
    index.load_service(&service("b", ServiceType::Headless));
    index.load_service(&service("c", ServiceType::ExternalName));
    for n in 0..300u16 {
        let [high, low] = n.to_be_bytes();
        index.load_instance(Arc::new(InstanceView {
            key: InstanceKey {
                namespace: "n".into(),
                service: Some("b".into()),
                source: Source::api(),
                id: format!("i{n}").into(),
            },
            instance: Instance {
                addresses: vec![IpAddr::from([10, 0, high, low]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])],
                ..Instance::default()
            },
            reported: Health::Passing,
            parts: HealthParts::default(),
            effective: Health::Passing,
            answerable: true,
            panic_answerable: true,
            shadowed: Vec::new(),
            revision: 1,
        }));
    }
    index.set_synced(Position::new(Epoch(1), 1));
    Answerer::new(Arc::new(index), Arc::new(Counters::default()))
}
