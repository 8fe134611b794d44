//! What a record should be, by what the cluster says.

use super::compact::{CompactEndpoint, Slice, labels};
use super::declared::{Declared, ServiceKind};
use super::interner::Sym;
use super::members::{Member, Members, Place};
use super::{Index, Map, Record};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ObjectDocument, ServiceDocument};
use fingerpost_catalog::{Labels, Pod, Port, ServiceType};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

pub(super) fn endpoint(slices: &Map<Sym, Slice>, (slice, place): Place) -> Option<&CompactEndpoint> {
    slices.get(&slice)?.endpoints.get(place as usize)
}

/// The endpoints of a member, with the ports of their slices; those that are ready, where any is: an endpoint that is
/// there twice is answered if one of them may be.
fn endpoints<'a>(
    slices: &'a Map<Sym, Slice>,
    member: &Member,
    text: impl Fn(Sym) -> &'a str,
) -> Vec<(&'a Slice, &'a CompactEndpoint)> {
    let mut places = member.places.clone();
    if places.len() > 1 {
        places.sort_by_key(|(slice, place)| (text(*slice), *place));
    }
    let mut found: Vec<(&Slice, &CompactEndpoint)> = places
        .iter()
        .filter_map(|(slice, place)| {
            let slice = slices.get(slice)?;
            Some((slice, slice.endpoints.get(*place as usize)?))
        })
        .collect();
    if found.len() > 1 && found.iter().any(|(_, endpoint)| endpoint.is_ready()) {
        found.retain(|(_, endpoint)| endpoint.is_ready());
    }
    found
}

/// The least of a member's addresses, whatever their readiness: by this it goes where it can't go by a name.
pub(super) fn first_address(slices: &Map<Sym, Slice>, members: &Members, key: u64) -> String {
    let places = members.get(key).map(|member| &member.places[..]).unwrap_or_default();
    let addresses =
        places.iter().filter_map(|place| endpoint(slices, *place)).flat_map(|endpoint| endpoint.addresses.iter());
    addresses.min().map(|address| address.to_string()).unwrap_or_default()
}

impl Index {
    /// The document that a record should be written with; none where it should not be there.
    pub(crate) fn desired(&self, record: Record) -> Option<ObjectDocument> {
        match record {
            Record::Namespace(name) => {
                let declared = self.namespaces.get(&name)?.labels.as_ref()?;
                Some(ObjectDocument::Namespace(NamespaceDocument {
                    name: Some(self.strings.text(name).to_owned()),
                    labels: labels(&self.strings, declared),
                    ..NamespaceDocument::default()
                }))
            }
            Record::Service(namespace, name) => {
                let space = self.namespaces.get(&namespace)?;
                space.labels.as_ref()?;
                let declared = space.services.get(&name)?.declared.as_ref()?;
                Some(ObjectDocument::Service(self.service(namespace, name, declared)))
            }
            Record::Instance(namespace, service, id) if service.is_none() => {
                let space = self.namespaces.get(&namespace)?;
                space.labels.as_ref()?;
                let pod = space.pods.get(&id)?;
                Some(ObjectDocument::Instance(Box::new(InstanceDocument {
                    namespace: Some(self.strings.text(namespace).to_owned()),
                    id: Some(self.strings.text(id).to_owned()),
                    addresses: unique(pod.addresses.iter()),
                    hostname: self.strings.text_some(pod.hostname),
                    labels: labels(&self.strings, &pod.labels),
                    pod: Some(Pod { name: self.strings.text(id).to_owned(), uid: pod.uid.text(&self.strings) }),
                    ..InstanceDocument::default()
                })))
            }
            Record::Instance(namespace, service, id) => self.instance(namespace, service, id),
        }
    }

    /// What identifies a record, as a removal needs it.
    pub(crate) fn identity(&self, record: Record) -> ObjectDocument {
        let text = |sym: Sym| Some(self.strings.text(sym).to_owned());
        match record {
            Record::Namespace(name) => {
                ObjectDocument::Namespace(NamespaceDocument { name: text(name), ..NamespaceDocument::default() })
            }
            Record::Service(namespace, name) => ObjectDocument::Service(ServiceDocument {
                namespace: text(namespace),
                name: text(name),
                ..ServiceDocument::default()
            }),
            Record::Instance(namespace, service, id) => ObjectDocument::Instance(Box::new(InstanceDocument {
                namespace: text(namespace),
                service: self.strings.text_some(service),
                id: text(id),
                ..InstanceDocument::default()
            })),
        }
    }

    /// Whether a record should be there.
    pub(crate) fn shows(&self, record: Record) -> bool {
        let (Record::Namespace(namespace) | Record::Service(namespace, _) | Record::Instance(namespace, ..)) = record;
        let Some(space) = self.namespaces.get(&namespace).filter(|space| space.labels.is_some()) else { return false };
        match record {
            Record::Namespace(_) => true,
            Record::Service(_, name) => space.services.get(&name).is_some_and(|service| service.declared.is_some()),
            Record::Instance(_, service, id) if service.is_none() => space.pods.contains_key(&id),
            Record::Instance(_, service, id) => space
                .services
                .get(&service)
                .is_some_and(|service| service.has_instances() && service.members.by_id(id).is_some()),
        }
    }

    /// A record's name, for people.
    pub(crate) fn named(&self, record: Record) -> String {
        let text = |sym: Sym| self.strings.text(sym);
        match record {
            Record::Namespace(name) => format!("namespace {}", text(name)),
            Record::Service(namespace, name) => format!("service {}/{}", text(namespace), text(name)),
            Record::Instance(namespace, service, id) if service.is_none() => {
                format!("pod {}/{}", text(namespace), text(id))
            }
            Record::Instance(namespace, service, id) => {
                format!("instance {}/{}/{}", text(namespace), text(service), text(id))
            }
        }
    }

    fn service(&self, namespace: Sym, name: Sym, declared: &Declared) -> ServiceDocument {
        let (service_type, cluster_ips, external_name) = match &declared.kind {
            ServiceKind::ClusterIp(addresses) => (ServiceType::ClusterIP, addresses.to_vec(), None),
            ServiceKind::Headless => (ServiceType::Headless, Vec::new(), None),
            ServiceKind::ExternalName(name) => {
                (ServiceType::ExternalName, Vec::new(), Some(self.strings.text(*name).to_owned()))
            }
        };
        ServiceDocument {
            namespace: Some(self.strings.text(namespace).to_owned()),
            name: Some(self.strings.text(name).to_owned()),
            service_type,
            cluster_ips,
            external_name,
            labels: labels(&self.strings, &declared.labels),
            ports: declared.ports.iter().map(|port| port.open(&self.strings)).collect(),
            ttl: declared.ttl,
            publish_not_ready: declared.publish_not_ready,
            all_critical: declared.all_critical,
            ..ServiceDocument::default()
        }
    }

    fn instance(&self, namespace: Sym, service: Sym, id: Sym) -> Option<ObjectDocument> {
        let space = self.namespaces.get(&namespace)?;
        space.labels.as_ref()?;
        let service_name = service;
        let service = space.services.get(&service)?;
        let declared = service.declared.as_ref().filter(|_| service.has_instances())?;
        let member = service.members.by_id(id)?;
        let endpoints = endpoints(&space.slices, member, |sym| self.strings.text(sym));
        let (_, first) = endpoints.first()?;
        let some = |of: fn(&CompactEndpoint) -> Sym| {
            let sym = endpoints.iter().map(|(_, endpoint)| of(endpoint)).find(|sym| !sym.is_none());
            sym.and_then(|sym| self.strings.text_some(sym))
        };
        let mut ports: Vec<Port> = Vec::new();
        for port in endpoints.iter().flat_map(|(slice, _)| &slice.ports) {
            let port = port.open(&self.strings);
            if ports.iter().all(|other| other.name != port.name) {
                ports.push(port);
            }
        }
        let pod =
            endpoints.iter().map(|(_, endpoint)| endpoint).find(|endpoint| endpoint.is_pod && !endpoint.name.is_none());
        Some(ObjectDocument::Instance(Box::new(InstanceDocument {
            namespace: Some(self.strings.text(namespace).to_owned()),
            service: Some(self.strings.text(service_name).to_owned()),
            id: Some(self.strings.text(id).to_owned()),
            addresses: unique(endpoints.iter().flat_map(|(_, endpoint)| endpoint.addresses.iter())),
            ports,
            labels: labels(&self.strings, &declared.copied),
            zone: some(|endpoint| endpoint.zone),
            node: some(|endpoint| endpoint.node),
            hostname: some(|endpoint| endpoint.hostname),
            conditions: first.conditions,
            pod: pod.map(|endpoint| Pod {
                name: self.strings.text(endpoint.name).to_owned(),
                uid: endpoint.uid.text(&self.strings),
            }),
            ..InstanceDocument::default()
        })))
    }
}

fn unique(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut unique = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    unique
}

/// A number by which documents of one record can be told apart without keeping them. What only replies carry does not
/// count.
pub(crate) fn digest(document: &ObjectDocument) -> u64 {
    fn pairs(labels: &Labels, hasher: &mut DefaultHasher) {
        labels.0.hash(hasher);
    }
    let mut hasher = DefaultHasher::new();
    match document {
        ObjectDocument::Namespace(document) => pairs(&document.labels, &mut hasher),
        ObjectDocument::Service(document) => {
            pairs(&document.labels, &mut hasher);
            (document.service_type, &document.cluster_ips, &document.external_name, &document.ports).hash(&mut hasher);
            (document.ttl, document.publish_not_ready, document.answer_unknown).hash(&mut hasher);
            (document.all_critical, document.checks.len()).hash(&mut hasher);
        }
        ObjectDocument::Instance(document) => {
            pairs(&document.labels, &mut hasher);
            (&document.addresses, &document.ports, document.weight, &document.zone).hash(&mut hasher);
            (&document.node, &document.hostname, document.conditions, &document.session).hash(&mut hasher);
            document.pod.as_ref().map(|pod| (&pod.name, &pod.uid)).hash(&mut hasher);
            (document.attachment.is_some(), document.checks.len()).hash(&mut hasher);
        }
    }
    // 0 stands for what is not known.
    hasher.finish().max(1)
}
