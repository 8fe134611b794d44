//! What users write on the command line to name services, instances, ports and labels.

use fingerpost_catalog::{Port, Protocol, validate_dns_label, validate_instance_id};
use std::net::IpAddr;
use std::str::FromStr;

/// The namespace of names that say none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// `[NAMESPACE/]SERVICE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServiceName {
    pub(crate) namespace: String,
    pub(crate) service: String,
}

impl ServiceName {
    /// Parses a name; `namespace` is the one given apart, if any.
    pub(crate) fn parse(text: &str, namespace: Option<&str>) -> Result<Self, String> {
        let (inline, service) = match text.split_once('/') {
            Some((inline, service)) => (Some(inline), service),
            None => (None, text),
        };
        if service.contains('/') {
            return Err(format!("`{text}` names no service: write [NAMESPACE/]SERVICE"));
        }
        let namespace = one_namespace(inline, namespace)?;
        label("service", service)?;
        Ok(Self { namespace, service: service.to_owned() })
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, None)
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

/// `[NAMESPACE/]SERVICE/ID`, with `-` for no service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InstanceName {
    pub(crate) namespace: String,
    pub(crate) service: Option<String>,
    pub(crate) id: String,
}

impl InstanceName {
    /// Parses a name; `namespace` is the one given apart, if any.
    pub(crate) fn parse(text: &str, namespace: Option<&str>) -> Result<Self, String> {
        let (inline, service, id) = match text.split('/').collect::<Vec<_>>()[..] {
            [service, id] => (None, service, id),
            [namespace, service, id] => (Some(namespace), service, id),
            _ => {
                return Err(format!(
                    "`{text}` names no instance: write [NAMESPACE/]SERVICE/ID, with `-` for an instance of no service"
                ));
            }
        };
        let namespace = one_namespace(inline, namespace)?;
        if service != "-" {
            label("service", service)?;
        }
        validate_instance_id(id).map_err(|error| format!("instance id `{id}` {error}"))?;
        let service = (service != "-").then(|| service.to_owned());
        Ok(Self { namespace, service, id: id.to_owned() })
    }
}

impl FromStr for InstanceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, None)
    }
}

impl std::fmt::Display for InstanceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.service.as_deref().unwrap_or("-"), self.id)
    }
}

fn one_namespace(inline: Option<&str>, apart: Option<&str>) -> Result<String, String> {
    let namespace = match (inline, apart) {
        (Some(inline), Some(apart)) if inline != apart => {
            return Err(format!("two namespaces, `{inline}` and `{apart}`: name one of them"));
        }
        (Some(namespace), _) | (None, Some(namespace)) => namespace,
        (None, None) => DEFAULT_NAMESPACE,
    };
    namespace_name(namespace)?;
    Ok(namespace.to_owned())
}

/// Checks the name of a namespace.
pub(crate) fn namespace_name(text: &str) -> Result<(), String> {
    label("namespace", text)
}

fn label(what: &str, text: &str) -> Result<(), String> {
    validate_dns_label(text).map_err(|error| format!("{what} `{text}` {error}"))
}

/// `[NAME:]PORT[/PROTOCOL]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortArg(pub(crate) Port);

impl FromStr for PortArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.split_once('/') {
            Some((rest, protocol)) => (rest, protocol_of(protocol)?),
            None => (text, Protocol::Tcp),
        };
        let (name, number) = rest.split_once(':').unwrap_or(("", rest));
        if rest.contains(':') {
            label("port name", name)?;
        }
        match number.parse() {
            Ok(port) if port != 0 => Ok(Self(Port { name: name.to_owned(), port, protocol, app_protocol: None })),
            _ => Err(format!("`{number}` is not a port: write a number from 1 to 65535")),
        }
    }
}

fn protocol_of(text: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.dns_label().eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("`{text}` is not a protocol: write `tcp`, `udp` or `sctp`"))
}

/// `KEY=VALUE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LabelArg(pub(crate) String, pub(crate) String);

impl FromStr for LabelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err("write KEY=VALUE".to_owned()),
        }
    }
}

/// The id of an instance that was given none: its first address and port. It stays the same when the same instance is
/// registered again, so that this is a change and no second instance.
pub(crate) fn default_id(addresses: &[IpAddr], ports: &[PortArg]) -> Option<String> {
    let address = addresses.first()?;
    Some(match (address, ports.first()) {
        (_, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{}", port.0.port),
        // `fd00::1:80` would be another address, and an id has no brackets.
        (IpAddr::V6(address), Some(port)) => format!("{address}-{}", port.0.port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_instances() {
        let service = |text: &str, namespace| ServiceName::parse(text, namespace).map(|name| name.to_string());
        assert_eq!(service("web", None).as_deref(), Ok("default/web"));
        assert_eq!(service("prod/web", None).as_deref(), Ok("prod/web"));
        assert_eq!(service("web", Some("prod")).as_deref(), Ok("prod/web"));
        assert_eq!(service("prod/web", Some("prod")).as_deref(), Ok("prod/web"));
        assert!(service("prod/web", Some("test")).unwrap_err().contains("two namespaces"));
        assert!(service("Web", None).unwrap_err().contains("service `Web`"));
        assert!(service("a/b/c", None).unwrap_err().contains("[NAMESPACE/]SERVICE") && service("", None).is_err());

        let name = InstanceName::parse("prod/web/fd00::1-80", None).unwrap();
        assert_eq!((name.service.as_deref(), name.id.as_str()), (Some("web"), "fd00::1-80"));
        assert_eq!(InstanceName::parse("-/pod-1", None).unwrap().service, None);
        assert!(InstanceName::parse("web", None).unwrap_err().contains("SERVICE/ID"));
    }

    #[test]
    fn ports() {
        let port = |text: &str| text.parse::<PortArg>().map(|port| (port.0.name, port.0.port, port.0.protocol));
        assert_eq!(port("8080"), Ok((String::new(), 8080, Protocol::Tcp)));
        assert_eq!(port("http:80"), Ok(("http".into(), 80, Protocol::Tcp)));
        assert_eq!(port("dns:53/udp"), Ok(("dns".into(), 53, Protocol::Udp)));
        assert_eq!(port("9/SCTP"), Ok((String::new(), 9, Protocol::Sctp)));
        for bad in ["", "0", "65536", "http", "http:", ":80", "80/icmp", "Http:80", "80/", "a:b:80", "-1"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        assert_eq!("a=b=c".parse(), Ok(LabelArg("a".into(), "b=c".into())));
        assert_eq!("a=".parse(), Ok(LabelArg("a".into(), String::new())));
        assert!("a".parse::<LabelArg>().is_err() && "=b".parse::<LabelArg>().is_err());
    }

    #[test]
    fn ids_are_derived_from_address_and_port() {
        let id = |address: &str, port: Option<&str>| {
            let ports: Vec<PortArg> = port.into_iter().map(|port| port.parse().unwrap()).collect();
            let id = default_id(&[address.parse().unwrap()], &ports).unwrap();
            validate_instance_id(&id).unwrap();
            id
        };
        assert_eq!(id("10.0.0.1", Some("http:8080")), "10.0.0.1:8080");
        assert_eq!(id("10.0.0.1", None), "10.0.0.1");
        assert_eq!(id("fd00::1", Some("80")), "fd00::1-80");
        assert_eq!(id("fd00::1", None), "fd00::1");
        assert_eq!(default_id(&[], &[]), None);
    }
}
