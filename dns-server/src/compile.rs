//! From the catalog's objects to records: what a namespace, a service and an instance contribute to which names.
//!
//! These are pure functions. The index computes the contributions of an object as it was and as it is, and adds and
//! removes accordingly, so that it never has to remember which records came from where. The forms of the names are those
//! of the Kubernetes DNS specification 1.1.0 (§2.3 to §2.5), and CoreDNS' where that is silent.

use crate::config::{Config, Pods};
use crate::known::Known;
use crate::name::{self, Name};
use crate::record::{Contribution, Data, NamedPort, Place, Role, Srv, Target};
use fingerpost_catalog::{AllCritical, Protocol, ServiceType, ServiceView};
use std::net::IpAddr;

/// The part of a port that makes records.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Port {
    name: Box<str>,
    port: u16,
    protocol: Protocol,
}

impl Port {
    pub(crate) fn list(ports: &[fingerpost_catalog::Port]) -> Box<[Self]> {
        let port = |port: &fingerpost_catalog::Port| Self {
            name: port.name.as_str().into(),
            port: port.port,
            protocol: port.protocol,
        };
        ports.iter().map(port).collect()
    }

    /// The name that it has below its service's; none where it has none itself, or where it does not fit.
    fn name_at(&self, service: &Name) -> Option<Name> {
        let labels = [format!("_{}", self.name), format!("_{}", self.protocol.dns_label())];
        let name = service.below(&[labels[0].as_bytes(), labels[1].as_bytes()]);
        name.filter(|_| !self.name.is_empty())
    }
}

/// The part of a service that shapes the records of its instances and its own.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Shape {
    pub(crate) service_type: ServiceType,
    cluster_ips: Box<[IpAddr]>,
    external_name: Option<Box<str>>,
    ports: Box<[Port]>,
    ttl: Option<u32>,
    pub(crate) all_critical: AllCritical,
}

impl Shape {
    pub(crate) fn of(view: &ServiceView) -> Self {
        Self {
            service_type: view.service_type,
            cluster_ips: view.cluster_ips.as_slice().into(),
            external_name: view.external_name.as_deref().map(Box::from),
            ports: Port::list(&view.ports),
            ttl: view.ttl,
            all_critical: view.all_critical,
        }
    }
}

/// The names that the compiler builds on.
#[derive(Debug)]
pub(crate) struct Compiler {
    services: Name,
    pods: Name,
    pod_names: Pods,
    ttl: u32,
}

/// Where the contributions of one object gather.
pub(crate) type Contributions = Vec<Contribution>;

impl Compiler {
    /// None where the zone leaves no room for `svc.<zone>`; a parsed [`Zone`](crate::Zone) does.
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let zone = &config.zone.0;
        let (services, pods) = (zone.child(b"svc")?, zone.child(b"pod")?);
        Some(Self { services, pods, pod_names: config.pods, ttl: config.ttl })
    }

    pub(crate) fn services(&self) -> &Name {
        &self.services
    }

    pub(crate) fn pods(&self) -> &Name {
        &self.pods
    }

    /// A service's name; none where it does not fit (a zone of unusual length).
    pub(crate) fn service_name(&self, namespace: &str, service: &str) -> Option<Name> {
        self.services.below(&[service.as_bytes(), namespace.as_bytes()])
    }

    /// A namespace exists without having records, below `svc` and, unless pods have no names, below `pod`.
    pub(crate) fn namespace(&self, namespace: &str) -> Contributions {
        let pods = (self.pod_names != Pods::Disabled).then_some(&self.pods);
        std::iter::once(&self.services)
            .chain(pods)
            .filter_map(|above| above.child(namespace.as_bytes()))
            .map(|name| Contribution { place: Place::Name(name), ttl: self.ttl, data: Data::Pin })
            .collect()
    }

    /// What a service contributes whatever its instances do.
    pub(crate) fn service(&self, name: &Name, shape: &Shape) -> Contributions {
        let mut out = Out { ttl: shape.ttl.unwrap_or(self.ttl), list: Vec::new() };
        match shape.service_type {
            // Without an instance that can be answered, it is as if the service did not exist (§2.4.1).
            ServiceType::Headless => {}
            ServiceType::ClusterIP => {
                out.add(name, Data::Pin);
                for &address in &*shape.cluster_ips {
                    out.add(name, Data::from(address));
                    out.add(address, Data::Ptr(Role::Service, name.clone()));
                }
                if !shape.cluster_ips.is_empty() {
                    out.own_ports(name, &shape.ports);
                }
            }
            ServiceType::ExternalName => {
                // An alias needs a name: with an address in its place (which Kubernetes permits) the service exists, but
                // has no records. CoreDNS does the same.
                out.add(name, Data::Pin);
                let target = shape.external_name.as_deref().filter(|text| text.parse::<IpAddr>().is_err());
                if let Some(target) = target.and_then(Name::from_text) {
                    out.add(name, Data::Cname(target));
                }
            }
        }
        out.list
    }

    /// What an instance that is to be answered contributes.
    pub(crate) fn instance(&self, service: &Name, shape: &Shape, known: &Known) -> Contributions {
        let mut out = Out { ttl: shape.ttl.unwrap_or(self.ttl), list: Vec::new() };
        let headless = match shape.service_type {
            ServiceType::Headless => true,
            ServiceType::ClusterIP => false,
            // Nothing can stand below an alias that leads elsewhere.
            ServiceType::ExternalName => return out.list,
        };
        let ports = if known.ports().is_empty() { &*shape.ports } else { known.ports() };
        let below = |label: &name::Label| Target::below(service, label);
        let labelled = known.label().and_then(|label| below(&name::label(label.as_bytes())?));
        let mut served = false;
        for address in known.addresses() {
            // With a label of its own the instance is one target; else each of its addresses is.
            let Some(endpoint) = labelled.clone().or_else(|| below(&name::dashed_label(address))) else {
                continue;
            };
            if endpoint.says(address) {
                out.add(address, Data::Ptr(Role::Dashed, service.clone()));
            } else if let Some(name) = endpoint.name() {
                out.add(&name, Data::from(address));
                out.add(address, Data::Ptr(Role::Endpoint, name));
            }
            if headless {
                out.add(service, Data::from(address));
                if labelled.is_none() || !served {
                    out.ports(service, ports, known.weight(), &endpoint);
                }
                served = true;
            }
        }
        out.list
    }
}

struct Out {
    ttl: u32,
    list: Contributions,
}

impl Out {
    fn add(&mut self, place: impl Into<Place>, data: Data) {
        self.list.push(Contribution { place: place.into(), ttl: self.ttl, data });
    }

    /// SRV records of instances: under `_<port>._<protocol>` for named ports (§2.3.2, §2.4.2), and all of them at the
    /// service's own name, as CoreDNS has them.
    fn ports(&mut self, service: &Name, ports: &[Port], weight: Option<u16>, target: &Target) {
        for port in ports {
            let srv = Data::Srv(Srv { weight, port: port.port, target: target.clone() });
            if let Some(name) = port.name_at(service) {
                self.add(&name, srv.clone());
            }
            self.add(service, srv);
        }
    }

    /// The same for a service's own ports. Each is one record, so that its name can be read off it.
    fn own_ports(&mut self, service: &Name, ports: &[Port]) {
        for port in ports {
            let target = Target::Whole(service.clone());
            self.add(service, Data::Srv(Srv { weight: None, port: port.port, target }));
            if port.name_at(service).is_some() {
                let (name, protocol) = (port.name.clone(), port.protocol);
                self.add(service, Data::Port(NamedPort { name, protocol, port: port.port }));
            }
        }
    }
}
