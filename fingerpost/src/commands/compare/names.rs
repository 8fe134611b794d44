//! All names of a cluster, from what the registry knows of it, and from the cluster itself: what got lost between the two
//! is what a comparison is to find.

use super::super::Context;
use super::super::names::reverse;
use anyhow::Context as _;
use fingerpost_catalog::document::{InstanceDocument, ServiceDocument};
use fingerpost_catalog::{Health, Port, ServiceType, Source};
use fingerpost_client::{DnsStatus, ListRequest, all_instances, all_namespaces, all_services};
use fingerpost_dns::compare::{About, Question};
use fingerpost_dns::{Endpoint, EndpointNames};
use fingerpost_listener::Survey;
use futures_util::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

/// What there are names for.
pub(super) struct Names {
    /// The source of the cluster that both servers are about.
    own: Source,
    endpoint_names: EndpointNames,
    /// Services of that source in the registry.
    own_services: usize,
    namespaces: BTreeSet<String>,
    services: BTreeMap<(String, String), Service>,
    /// Addresses of pods, by namespace.
    pods: BTreeSet<(String, IpAddr)>,
}

#[derive(Default)]
struct Service {
    service_type: ServiceType,
    addresses: Vec<IpAddr>,
    ports: BTreeSet<String>,
    endpoints: Vec<(String, IpAddr, Marks)>,
    /// Labels and addresses of those.
    known: HashSet<(String, IpAddr)>,
    marks: Marks,
}

impl Service {
    fn add_endpoint(&mut self, label: String, address: IpAddr, marks: Marks) {
        self.known.insert((label.clone(), address));
        self.endpoints.push((label, address, marks));
    }
}

/// See [`Question`].
#[derive(Clone, Copy, Default)]
struct Marks {
    registered: bool,
    held: bool,
    excluded: bool,
}

impl Marks {
    fn add(&mut self, other: Self) {
        self.registered |= other.registered;
        self.held |= other.held;
        self.excluded |= other.excluded;
    }
}

fn port_names(ports: &[Port]) -> impl Iterator<Item = String> + '_ {
    let named = ports.iter().filter(|port| !port.name.is_empty());
    named.map(|port| format!("_{}._{}", port.name, port.protocol.dns_label()))
}

/// Whether something beside the source's own conditions keeps it out of answers.
fn is_held(instance: &InstanceDocument) -> bool {
    let bad = instance.effective_health.is_some_and(|health| !matches!(health, Health::Passing | Health::Warning));
    let others = instance.health_parts.as_ref().is_some_and(|parts| {
        parts.drain.is_some() || parts.session.is_some() || parts.reported.is_some() || !parts.checks.is_empty()
    });
    bad && others
}

impl Names {
    pub(super) async fn read(context: &Context, status: &DnsStatus) -> anyhow::Result<Self> {
        let registry = &context.registry;
        let own = format!("kubernetes/{}", status.cluster);
        let mut names = Self {
            own: own.parse().with_context(|| format!("`{own}` is no source"))?,
            endpoint_names: match status.endpoint_names.as_str() {
                "pod" => EndpointNames::Pod,
                _ => EndpointNames::Address,
            },
            own_services: 0,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            pods: BTreeSet::new(),
        };
        let mut namespaces = all_namespaces(registry, ListRequest::default());
        while let Some(namespace) = namespaces.try_next().await? {
            names.namespaces.extend(namespace.name);
        }
        let mut services = all_services(registry, ListRequest::default());
        while let Some(service) = services.try_next().await? {
            names.add_service(service);
        }
        let mut instances = all_instances(registry, ListRequest::default());
        while let Some(instance) = instances.try_next().await? {
            names.add_instance(instance);
        }
        Ok(names)
    }

    /// The source of the cluster that both servers are about.
    pub(super) fn own(&self) -> &Source {
        &self.own
    }

    /// How many of the cluster's Services the registry has.
    pub(super) fn own_services(&self) -> usize {
        self.own_services
    }

    /// Whether it is none of the cluster's own: the other server does not know it.
    fn is_registered(&self, source: Option<&Source>) -> bool {
        source != Some(&self.own)
    }

    /// Takes in what the cluster itself has. What is known already stays as it is known.
    pub(super) fn add_cluster(&mut self, survey: Survey) {
        self.namespaces.extend(survey.namespaces);
        self.pods.extend(survey.pods);
        for surveyed in survey.services {
            let service = self
                .services
                .entry((surveyed.namespace, surveyed.name))
                .or_insert_with(|| Service { service_type: surveyed.service_type, ..Service::default() });
            for address in surveyed.cluster_ips {
                if !service.addresses.contains(&address) {
                    service.addresses.push(address);
                }
            }
            service.ports.extend(surveyed.ports);
            service.marks.excluded |= surveyed.excluded;
        }
        for surveyed in survey.endpoints {
            if surveyed.pod.is_some() {
                self.pods.insert((surveyed.namespace.clone(), surveyed.address));
            }
            let Some(service) = self.services.get_mut(&(surveyed.namespace, surveyed.service)) else { continue };
            // The endpoints of an alias have no names, and so no reverse names.
            if service.service_type == ServiceType::ExternalName {
                continue;
            }
            let endpoint = Endpoint {
                source: &self.own,
                id: "",
                hostname: surveyed.hostname.as_deref(),
                pod: surveyed.pod.as_deref(),
            };
            let label = endpoint.label_of(surveyed.address, self.endpoint_names);
            // Asked for once, whoever knows of it.
            if !service.known.contains(&(label.clone(), surveyed.address)) {
                service.add_endpoint(label, surveyed.address, Marks::default());
            }
            if service.service_type == ServiceType::Headless {
                service.ports.extend(surveyed.ports);
            }
        }
    }

    fn add_service(&mut self, document: ServiceDocument) {
        let (Some(namespace), Some(name)) = (document.namespace, document.name) else { return };
        let registered = self.is_registered(document.sources.first());
        self.own_services += usize::from(document.sources.contains(&self.own));
        let service = self.services.entry((namespace, name)).or_default();
        service.service_type = document.service_type;
        service.addresses = document.cluster_ips;
        service.ports.extend(port_names(&document.ports));
        service.marks.registered |= registered;
    }

    fn add_instance(&mut self, document: InstanceDocument) {
        let registered = self.is_registered(document.source.as_ref());
        let marks = Marks { registered, held: is_held(&document), excluded: false };
        let InstanceDocument { namespace: Some(namespace), id: Some(id), source: Some(source), .. } = &document else {
            return;
        };
        if document.pod.is_some() && !marks.registered {
            self.pods.extend(document.addresses.iter().map(|&address| (namespace.clone(), address)));
        }
        let Some(service) = document.service.clone() else { return };
        let Some(service) = self.services.get_mut(&(namespace.clone(), service)) else { return };
        let pod = document.pod.as_ref().map(|pod| pod.name.as_str());
        let endpoint = Endpoint { source, id, hostname: document.hostname.as_deref(), pod };
        let own = document.addresses.iter().filter(|address| !document.shadowed.contains(address));
        for &address in own {
            // One that nobody answers must be missing from both.
            service.add_endpoint(endpoint.label_of(address, self.endpoint_names), address, marks);
        }
        if service.service_type == ServiceType::Headless {
            service.ports.extend(port_names(&document.ports));
        }
        service.marks.registered |= marks.registered;
        service.marks.held |= marks.held;
    }

    /// The questions about all of it, in each of the zones.
    pub(super) fn questions(&self, zones: &[String]) -> Vec<Question> {
        let mut list = List::default();
        for zone in zones {
            let zone = format!("{}.", zone.trim_end_matches('.').to_ascii_lowercase());
            list.zone(&zone);
            for namespace in &self.namespaces {
                list.namespace(namespace, &zone);
            }
            for (n, ((namespace, name), service)) in self.services.iter().enumerate() {
                let name = format!("{name}.{namespace}.svc.{zone}");
                list.service(&name, service);
                if n == 0 {
                    list.add(name.to_ascii_uppercase(), &["A"], about(service), service.marks);
                }
            }
            for (namespace, address) in &self.pods {
                let types: &[&str] = if address.is_ipv4() { &["A"] } else { &["AAAA"] };
                let label = fingerpost_dns::dashed(*address);
                list.add(format!("{label}.{namespace}.pod.{zone}"), types, About::Pod, Marks::default());
            }
        }
        // Addresses have one name whatever the zone.
        let mut pointers: BTreeMap<IpAddr, Marks> = BTreeMap::new();
        for service in self.services.values() {
            let own = service.addresses.iter().map(|&address| (address, service.marks));
            let excluded = service.marks.excluded;
            let endpoints = service.endpoints.iter().map(|&(_, address, marks)| (address, Marks { excluded, ..marks }));
            for (address, marks) in own.chain(endpoints) {
                pointers.entry(address).or_default().add(marks);
            }
        }
        for (address, marks) in pointers {
            list.add(reverse(address), &["PTR"], About::Pointer, marks);
        }
        list.0
    }
}

fn about(service: &Service) -> About {
    match service.service_type {
        ServiceType::ExternalName => About::Alias,
        ServiceType::Headless | ServiceType::ClusterIP => About::Service,
    }
}

#[derive(Default)]
struct List(Vec<Question>);

impl List {
    fn add(&mut self, name: String, types: &[&'static str], about: About, marks: Marks) {
        let Marks { registered, held, excluded } = marks;
        let question =
            |&qtype: &&'static str| Question { name: name.clone(), qtype, about, registered, held, excluded };
        self.0.extend(types.iter().map(question));
    }

    fn zone(&mut self, zone: &str) {
        let none = Marks::default();
        self.add(zone.to_owned(), &["SOA", "NS", "A"], About::Apex, none);
        self.add(format!("dns-version.{zone}"), &["TXT", "A"], About::Fixed, none);
        self.add(format!("svc.{zone}"), &["A"], About::Between, none);
        self.add(format!("no-such-name.{zone}"), &["A", "AAAA"], About::Missing, none);
        self.add(format!("no-such-service.no-such-namespace.svc.{zone}"), &["A", "SRV"], About::Missing, none);
        self.add(format!("10-0-0-1.no-such-namespace.pod.{zone}"), &["A"], About::Missing, none);
    }

    fn namespace(&mut self, namespace: &str, zone: &str) {
        let none = Marks::default();
        self.add(format!("{namespace}.svc.{zone}"), &["A"], About::Between, none);
        self.add(format!("{namespace}.pod.{zone}"), &["A"], About::Between, none);
        self.add(format!("no-such-service.{namespace}.svc.{zone}"), &["A"], About::Missing, none);
        self.add(format!("no-such-pod.{namespace}.pod.{zone}"), &["A"], About::Missing, none);
    }

    fn service(&mut self, name: &str, service: &Service) {
        let Service { marks, .. } = *service;
        if service.service_type == ServiceType::ExternalName {
            self.add(name.to_owned(), &["A", "AAAA", "CNAME", "SRV"], About::Alias, marks);
            return self.add(format!("no-such-endpoint.{name}"), &["A"], About::Missing, marks);
        }
        self.add(name.to_owned(), &["A", "AAAA", "SRV", "TXT"], About::Service, marks);
        for (n, port) in service.ports.iter().enumerate() {
            self.add(format!("{port}.{name}"), if n == 0 { &["SRV", "A"] } else { &["SRV"] }, About::Port, marks);
        }
        if let Some((_, protocol)) = service.ports.first().and_then(|port| port.split_once('.')) {
            self.add(format!("{protocol}.{name}"), &["SRV"], About::Between, marks);
        }
        self.add(format!("_no-such-port._tcp.{name}"), &["SRV"], About::Missing, marks);
        self.add(format!("no-such-endpoint.{name}"), &["A"], About::Missing, marks);
        // Several endpoints may share a label; what stands there is asked for once.
        let mut labels: BTreeMap<&str, Marks> = BTreeMap::new();
        for (label, _, marks) in &service.endpoints {
            let registered = marks.registered || is_foreign(service);
            labels.entry(label).or_default().add(Marks { registered, excluded: service.marks.excluded, ..*marks });
        }
        for (label, marks) in labels {
            self.add(format!("{label}.{name}"), &["A", "AAAA"], About::Endpoint, marks);
        }
    }
}

/// Whether the service itself is one that Kubernetes does not know.
fn is_foreign(service: &Service) -> bool {
    service.marks.registered && service.endpoints.iter().all(|(_, _, marks)| marks.registered)
}
