//! From documents to records: what is refused, and in which words.
//!
//! Everything that reaches the store has passed here, whatever way it came. A refusal names the field by its JSON
//! pointer (RFC 6901) and says what would be right.

use crate::checks::declaration;
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{
    Instance, Labels, MAX_ADDRESSES, MAX_PORT_NAME, MAX_PORTS, MAX_TTL, NameError, Namespace, Port, Service,
    ServiceType, address_fault, validate_dns_label, validate_domain_name, validate_instance_id, validate_text,
};
use serde_json::Map;
use std::net::IpAddr;

/// Longest note on a health, in characters.
pub const MAX_NOTE: usize = 1024;

/// A field that can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct Invalid {
    /// The field, as a JSON pointer from the document's root.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

impl Invalid {
    /// A refusal of one field.
    pub fn new(pointer: impl Into<String>, detail: impl ToString) -> Self {
        Self { pointer: pointer.into(), detail: detail.to_string() }
    }

    /// The same refusal of a document that stands at `prefix` in a larger one.
    pub fn below(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

fn at(pointer: impl Into<String>) -> impl FnOnce(NameError) -> Invalid {
    let pointer = pointer.into();
    move |error| Invalid::new(pointer, error)
}

fn labels(labels: &Labels) -> Result<(), Invalid> {
    labels.validate().map_err(|error| Invalid::new("/labels", error))
}

/// Addresses that can be reached by others, each once.
fn addresses(field: &str, addresses: &[IpAddr]) -> Result<(), Invalid> {
    if addresses.len() > MAX_ADDRESSES {
        let detail = format!("{} addresses, and at most {MAX_ADDRESSES} are allowed", addresses.len());
        return Err(Invalid::new(field, detail));
    }
    for (n, address) in addresses.iter().enumerate() {
        let refuse = |why: &str| Err(Invalid::new(format!("{field}/{n}"), format!("`{address}` {why}")));
        if let Some(fault) = address_fault(*address) {
            return refuse(fault);
        }
        if addresses.iter().take(n).any(|earlier| earlier == address) {
            return refuse("is given twice");
        }
    }
    Ok(())
}

fn ports(ports: &[Port]) -> Result<(), Invalid> {
    if ports.len() > MAX_PORTS {
        return Err(Invalid::new("/ports", format!("{} ports, and at most {MAX_PORTS} are allowed", ports.len())));
    }
    for (n, port) in ports.iter().enumerate() {
        if port.port == 0 {
            return Err(Invalid::new(format!("/ports/{n}/port"), "port 0 can't be connected to; ports are 1 to 65535"));
        }
        if !port.name.is_empty() {
            validate_dns_label(&port.name).map_err(at(format!("/ports/{n}/name")))?;
            if port.name.len() > MAX_PORT_NAME {
                let error = NameError::TooLong { length: port.name.len(), limit: MAX_PORT_NAME };
                return Err(Invalid::new(format!("/ports/{n}/name"), error));
            }
        }
        if let Some(protocol) = &port.app_protocol {
            validate_text(protocol, 253).map_err(at(format!("/ports/{n}/appProtocol")))?;
        }
        if ports.iter().take(n).any(|earlier| earlier.name == port.name) {
            let detail = if port.name.is_empty() {
                "two ports have no name; name all of them where there are several".to_owned()
            } else {
                format!("two ports have the name `{}`", port.name)
            };
            return Err(Invalid::new(format!("/ports/{n}/name"), detail));
        }
    }
    Ok(())
}

/// A namespace's declaration.
pub fn namespace(document: &NamespaceDocument) -> Result<Namespace, Invalid> {
    labels(&document.labels)?;
    Ok(Namespace { labels: document.labels.clone(), unknown: Map::new() })
}

/// A service's declaration.
pub fn service(document: ServiceDocument) -> Result<Service, Invalid> {
    labels(&document.labels)?;
    ports(&document.ports)?;
    addresses("/clusterIPs", &document.cluster_ips)?;
    match document.service_type {
        ServiceType::ClusterIP if document.cluster_ips.is_empty() => {
            return Err(Invalid::new("/clusterIPs", "a service of type ClusterIP needs an address of its own"));
        }
        ServiceType::Headless | ServiceType::ExternalName if !document.cluster_ips.is_empty() => {
            return Err(Invalid::new("/clusterIPs", "only a service of type ClusterIP has addresses of its own"));
        }
        _ => {}
    }
    match (document.service_type, &document.external_name) {
        (ServiceType::ExternalName, None) => {
            return Err(Invalid::new("/externalName", "a service of type ExternalName needs the name it stands for"));
        }
        (ServiceType::ExternalName, Some(name)) => {
            validate_domain_name(name).map_err(at("/externalName"))?;
        }
        (_, Some(_)) => {
            return Err(Invalid::new("/externalName", "only a service of type ExternalName stands for another name"));
        }
        (_, None) => {}
    }
    if let Some(ttl) = document.ttl
        && ttl > MAX_TTL
    {
        return Err(Invalid::new("/ttl", format!("{ttl} seconds, and at most {MAX_TTL} (a day) are allowed")));
    }
    declaration::validate(&document.checks)?;
    Ok(Service {
        service_type: document.service_type,
        cluster_ips: document.cluster_ips,
        external_name: document.external_name,
        labels: document.labels,
        ports: document.ports,
        ttl: document.ttl,
        publish_not_ready: document.publish_not_ready,
        answer_unknown: document.answer_unknown,
        all_critical: document.all_critical,
        checks: document.checks,
        unknown: Map::new(),
    })
}

/// An instance's declaration; what it reports of its health is the caller's to keep or to set.
pub fn instance(document: InstanceDocument) -> Result<Instance, Invalid> {
    if document.addresses.is_empty() {
        return Err(Invalid::new("/addresses", "an instance needs at least one address"));
    }
    addresses("/addresses", &document.addresses)?;
    ports(&document.ports)?;
    labels(&document.labels)?;
    for (field, text) in [("/zone", &document.zone), ("/node", &document.node)] {
        if let Some(text) = text {
            validate_text(text, 253).map_err(at(field))?;
        }
    }
    if let Some(hostname) = &document.hostname {
        validate_dns_label(hostname).map_err(at("/hostname"))?;
    }
    if let Some(pod) = &document.pod {
        validate_domain_name(&pod.name).map_err(at("/pod/name"))?;
        validate_text(&pod.uid, 128).map_err(at("/pod/uid"))?;
    }
    if let Some(attachment) = &document.attachment {
        for (field, text) in [
            ("/attachment/network", &attachment.network),
            ("/attachment/containerId", &attachment.container_id),
            ("/attachment/interface", &attachment.interface),
        ] {
            if text.is_empty() {
                return Err(Invalid::new(field, NameError::Empty));
            }
            validate_text(text, 253).map_err(at(field))?;
        }
    }
    if let Some(session) = &document.session {
        validate_instance_id(session).map_err(at("/session"))?;
    }
    declaration::validate(&document.checks)?;
    Ok(Instance {
        addresses: document.addresses,
        ports: document.ports,
        labels: document.labels,
        weight: document.weight,
        zone: document.zone,
        node: document.node,
        hostname: document.hostname,
        conditions: document.conditions,
        pod: document.pod,
        attachment: document.attachment,
        session: document.session,
        checks: document.checks,
        report: None,
        unknown: Map::new(),
    })
}

/// A note on a health.
pub fn note(note: &str) -> Result<(), Invalid> {
    // Notes come from programs' output: line breaks and tabs are welcome.
    match note.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
        Some(found) => Err(Invalid::new("/note", format!("has the control character {found:?}"))),
        None => match note.chars().count() {
            length if length > MAX_NOTE => Err(Invalid::new("/note", NameError::TooLong { length, limit: MAX_NOTE })),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(document: serde_json::Value) -> Option<String> {
        let document: InstanceDocument = serde_json::from_value(document).unwrap();
        instance(document).err().map(|invalid| invalid.pointer)
    }

    #[test]
    fn instances_are_refused_by_field() {
        let cases = [
            (json!({}), "/addresses"),
            (json!({"addresses": ["0.0.0.0"]}), "/addresses/0"),
            (json!({"addresses": ["10.0.0.1", "224.0.0.1"]}), "/addresses/1"),
            (json!({"addresses": ["::ffff:10.0.0.1"]}), "/addresses/0"),
            (json!({"addresses": ["::"]}), "/addresses/0"),
            (json!({"addresses": ["10.0.0.1", "10.0.0.1"]}), "/addresses/1"),
            (json!({"addresses": ["10.0.0.1"], "ports": [{"port": 0}]}), "/ports/0/port"),
            (json!({"addresses": ["10.0.0.1"], "ports": [{"port": 1}, {"port": 2}]}), "/ports/1/name"),
            (json!({"addresses": ["10.0.0.1"], "ports": [{"port": 1, "name": "H"}]}), "/ports/0/name"),
            (json!({"addresses": ["10.0.0.1"], "hostname": "a.b"}), "/hostname"),
            (json!({"addresses": ["10.0.0.1"], "labels": {"a b": "c"}}), "/labels"),
        ];
        for (document, pointer) in cases {
            assert_eq!(refused(document.clone()).as_deref(), Some(pointer), "{document}");
        }
        assert_eq!(refused(json!({"addresses": ["10.0.0.1", "fd00::1"], "ports": [{"port": 80}]})), None);
    }

    #[test]
    fn services_fit_their_type() {
        let pointer = |document| {
            let document: ServiceDocument = serde_json::from_value(document).unwrap();
            service(document).err().map(|invalid| invalid.pointer)
        };
        assert_eq!(pointer(json!({"type": "ClusterIP"})).as_deref(), Some("/clusterIPs"));
        assert_eq!(pointer(json!({"clusterIPs": ["10.0.0.1"]})).as_deref(), Some("/clusterIPs"));
        assert_eq!(pointer(json!({"type": "ExternalName"})).as_deref(), Some("/externalName"));
        assert_eq!(pointer(json!({"type": "ExternalName", "externalName": "a b"})).as_deref(), Some("/externalName"));
        assert_eq!(pointer(json!({"externalName": "a.b"})).as_deref(), Some("/externalName"));
        assert_eq!(pointer(json!({"ttl": 86_401})).as_deref(), Some("/ttl"));
        assert_eq!(pointer(json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1"], "ttl": 0})), None);
    }
}
