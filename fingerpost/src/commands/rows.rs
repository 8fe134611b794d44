//! How objects look in tables, and what lists of each kind have in common.

use crate::output::{Cell, Style};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ObjectDocument, ServiceDocument};
use fingerpost_catalog::{Health, Kind, Labels, Port, Protocol, ServiceType};
use fingerpost_client::{HttpRegistry, ListRequest, Result, all_instances, all_namespaces, all_services};
use futures_util::stream::BoxStream;
use serde::Serialize;

/// A kind of object that can be listed.
pub(super) trait Listed: Serialize + Clone + PartialEq + Send + 'static {
    const KIND: Kind;

    fn headers(wide: bool) -> Vec<&'static str>;

    fn row(&self, wide: bool) -> Vec<Cell>;

    /// What tells it apart from others of its kind.
    fn key(&self) -> String;

    fn from_object(object: ObjectDocument) -> Option<Self>;

    fn list(registry: &HttpRegistry, request: ListRequest) -> BoxStream<'_, Result<Self>>;
}

/// An object with its kind beside its fields, so that what is printed can be applied again.
#[derive(Serialize)]
pub(super) struct Tagged<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    object: &'a T,
}

pub(super) fn tagged<T: Listed>(object: &T) -> Tagged<'_, T> {
    Tagged { kind: kind_name(T::KIND), object }
}

pub(super) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespace",
        Kind::Service => "service",
        Kind::Instance => "instance",
    }
}

impl Listed for NamespaceDocument {
    const KIND: Kind = Kind::Namespace;

    fn headers(wide: bool) -> Vec<&'static str> {
        let mut headers = vec!["NAME", "SOURCES", "LABELS"];
        headers.extend(wide.then_some("REVISION"));
        headers
    }

    fn row(&self, wide: bool) -> Vec<Cell> {
        let mut row = vec![Cell::option(self.name.as_ref()), Cell::list(&self.sources), labels(&self.labels)];
        row.extend(wide.then(|| Cell::option(self.revision)));
        row
    }

    fn key(&self) -> String {
        self.name.clone().unwrap_or_default()
    }

    fn from_object(object: ObjectDocument) -> Option<Self> {
        match object {
            ObjectDocument::Namespace(namespace) => Some(namespace),
            _ => None,
        }
    }

    fn list(registry: &HttpRegistry, request: ListRequest) -> BoxStream<'_, Result<Self>> {
        all_namespaces(registry, request)
    }
}

impl Listed for ServiceDocument {
    const KIND: Kind = Kind::Service;

    fn headers(wide: bool) -> Vec<&'static str> {
        let mut headers = vec!["NAMESPACE", "NAME", "TYPE", "ADDRESS", "PORTS", "SOURCES"];
        headers.extend(["TTL", "LABELS", "REVISION"].into_iter().filter(|_| wide));
        headers
    }

    fn row(&self, wide: bool) -> Vec<Cell> {
        let mut row = vec![
            Cell::option(self.namespace.as_ref()),
            Cell::option(self.name.as_ref()),
            Cell::new(service_type(self.service_type)),
            match &self.external_name {
                Some(name) => Cell::new(name),
                None => Cell::list(&self.cluster_ips),
            },
            ports(&self.ports),
            Cell::list(&self.sources),
        ];
        if wide {
            row.extend([Cell::option(self.ttl), labels(&self.labels), Cell::option(self.revision)]);
        }
        row
    }

    fn key(&self) -> String {
        format!("{}/{}", self.namespace.as_deref().unwrap_or("-"), self.name.as_deref().unwrap_or("-"))
    }

    fn from_object(object: ObjectDocument) -> Option<Self> {
        match object {
            ObjectDocument::Service(service) => Some(service),
            _ => None,
        }
    }

    fn list(registry: &HttpRegistry, request: ListRequest) -> BoxStream<'_, Result<Self>> {
        all_services(registry, request)
    }
}

impl Listed for InstanceDocument {
    const KIND: Kind = Kind::Instance;

    fn headers(wide: bool) -> Vec<&'static str> {
        let mut headers = vec!["NAMESPACE", "SERVICE", "ID", "ADDRESSES", "PORTS", "HEALTH", "SOURCE"];
        headers.extend(["NODE", "ZONE", "WEIGHT", "HOSTNAME", "LABELS", "REVISION"].into_iter().filter(|_| wide));
        headers
    }

    fn row(&self, wide: bool) -> Vec<Cell> {
        let mut row = vec![
            Cell::option(self.namespace.as_ref()),
            Cell::option(self.service.as_ref()),
            Cell::option(self.id.as_ref()),
            Cell::list(&self.addresses),
            ports(&self.ports),
            self.effective_health.or(self.health).map_or_else(|| Cell::new("-"), health),
            Cell::option(self.source.as_ref()),
        ];
        if wide {
            row.extend([
                Cell::option(self.node.as_ref()),
                Cell::option(self.zone.as_ref()),
                Cell::option(self.weight),
                Cell::option(self.hostname.as_ref()),
                labels(&self.labels),
                Cell::option(self.revision),
            ]);
        }
        row
    }

    fn key(&self) -> String {
        let source = self.source.as_ref().map_or("", |source| source.as_str());
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
        format!("{}/{}/{}/{source}", part(&self.namespace), part(&self.service), part(&self.id))
    }

    fn from_object(object: ObjectDocument) -> Option<Self> {
        match object {
            ObjectDocument::Instance(instance) => Some(*instance),
            _ => None,
        }
    }

    fn list(registry: &HttpRegistry, request: ListRequest) -> BoxStream<'_, Result<Self>> {
        all_instances(registry, request)
    }
}

pub(super) const fn service_type(service_type: ServiceType) -> &'static str {
    match service_type {
        ServiceType::Headless => "Headless",
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::ExternalName => "ExternalName",
    }
}

pub(super) fn health(health: Health) -> Cell {
    let style = match health {
        Health::Passing => Style::Good,
        Health::Warning | Health::Unknown => Style::Warn,
        Health::Critical => Style::Bad,
    };
    Cell::styled(health.as_str(), style)
}

pub(super) fn labels(labels: &Labels) -> Cell {
    Cell::list(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

/// Ports as `register` takes them.
pub(super) fn ports(ports: &[Port]) -> Cell {
    Cell::list(ports.iter().map(|port| {
        let name = if port.name.is_empty() { String::new() } else { format!("{}:", port.name) };
        let protocol = match port.protocol {
            Protocol::Tcp => String::new(),
            other => format!("/{}", other.dns_label()),
        };
        format!("{name}{}{protocol}", port.port)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Table;

    fn instance() -> InstanceDocument {
        let json = r#"{"namespace":"prod","service":"web","id":"10.0.0.1:80","source":"api",
            "addresses":["10.0.0.1","fd00::1"],"ports":[{"name":"http","port":80},{"port":53,"protocol":"UDP"}],
            "labels":{"a":"b"},"health":"passing","effectiveHealth":"critical"}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rows_fit_their_headers() {
        for wide in [false, true] {
            assert_eq!(NamespaceDocument::headers(wide).len(), NamespaceDocument::default().row(wide).len());
            assert_eq!(ServiceDocument::headers(wide).len(), ServiceDocument::default().row(wide).len());
            assert_eq!(InstanceDocument::headers(wide).len(), instance().row(wide).len());
        }
    }

    #[test]
    fn an_instance_in_a_table() {
        let mut table = Table::new(InstanceDocument::headers(false));
        table.push(instance().row(false));
        assert_eq!(
            table.render(false),
            "NAMESPACE   SERVICE   ID            ADDRESSES          PORTS            HEALTH     SOURCE\n\
             prod        web       10.0.0.1:80   10.0.0.1,fd00::1   http:80,53/udp   critical   api\n"
        );
    }

    #[test]
    fn tagged_objects_begin_with_their_kind() {
        let text = serde_json::to_string(&tagged(&instance())).unwrap();
        assert!(text.starts_with(r#"{"kind":"instance","namespace":"prod""#), "{text}");
    }
}
