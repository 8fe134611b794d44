//! Trims documents to what a record holds.
//!
//! Kubernetes allows more than a registry does: hundreds of labels, names of ports that no SRV name can have, addresses
//! that nobody can reach. Refused whole, a Service would lose its own address for the sake of a label; so what does not fit
//! is left out, and the rest stays.

use fingerpost_catalog::document::ObjectDocument;
use fingerpost_catalog::{
    Labels, MAX_ADDRESSES, MAX_LABELS, MAX_PORT_NAME, MAX_PORTS, MAX_TTL, Port, address_fault, validate_dns_label,
    validate_domain_name, validate_text,
};
use std::net::IpAddr;

/// Longest zone, node and application protocol.
const MAX_TEXT: usize = 253;
/// Longest UID.
const MAX_UID: usize = 128;

/// Makes a document fit; says what was left out, where something was.
pub(crate) fn fit(document: &mut ObjectDocument) -> Option<String> {
    let mut lost = Vec::new();
    match document {
        ObjectDocument::Namespace(namespace) => labels(&mut namespace.labels, &mut lost),
        ObjectDocument::Service(service) => {
            labels(&mut service.labels, &mut lost);
            ports(&mut service.ports, &mut lost);
            addresses(&mut service.cluster_ips, &mut lost);
            if let Some(ttl) = service.ttl.filter(|ttl| *ttl > MAX_TTL) {
                service.ttl = Some(MAX_TTL);
                lost.push(format!("a TTL of {ttl} seconds, taken for {MAX_TTL}"));
            }
        }
        ObjectDocument::Instance(instance) => {
            labels(&mut instance.labels, &mut lost);
            ports(&mut instance.ports, &mut lost);
            addresses(&mut instance.addresses, &mut lost);
            for (what, text) in [("zone", &mut instance.zone), ("node", &mut instance.node)] {
                if let Some(odd) = text.take_if(|text| validate_text(text, MAX_TEXT).is_err()) {
                    lost.push(format!("the {what} `{}`", odd.escape_debug()));
                }
            }
            if let Some(odd) = instance.hostname.take_if(|hostname| validate_dns_label(hostname).is_err()) {
                lost.push(format!("the hostname `{}`", odd.escape_debug()));
            }
            let odd = instance
                .pod
                .take_if(|pod| validate_domain_name(&pod.name).is_err() || validate_text(&pod.uid, MAX_UID).is_err());
            if let Some(odd) = odd {
                lost.push(format!("the pod `{}`", odd.name.escape_debug()));
            }
        }
    }
    (!lost.is_empty()).then(|| lost.join(", "))
}

fn labels(labels: &mut Labels, lost: &mut Vec<String>) {
    if labels.validate().is_ok() {
        return;
    }
    let all = labels.0.len();
    labels.0.retain(|key, value| Labels::from_iter([(key.as_str(), value.as_str())]).validate().is_ok());
    if labels.0.len() < all {
        lost.push(format!("{} labels that no record can have", all - labels.0.len()));
    }
    let fit = labels.0.len();
    while labels.0.len() > MAX_LABELS {
        labels.0.pop_last();
    }
    if labels.0.len() < fit {
        lost.push(format!("{} labels beyond {MAX_LABELS}", fit - labels.0.len()));
    }
}

fn ports(ports: &mut Vec<Port>, lost: &mut Vec<String>) {
    ports.retain(|port| {
        let named = port.name.is_empty() || port.name.len() <= MAX_PORT_NAME && validate_dns_label(&port.name).is_ok();
        if !named {
            lost.push(format!("the port `{}`, whose name no SRV name can have", port.name.escape_debug()));
        }
        if port.port == 0 {
            lost.push("a port 0".to_owned());
        }
        named && port.port != 0
    });
    for port in ports.iter_mut() {
        if let Some(odd) = port.app_protocol.take_if(|text| validate_text(text, MAX_TEXT).is_err()) {
            lost.push(format!("the protocol `{}`", odd.escape_debug()));
        }
    }
    if ports.len() > MAX_PORTS {
        lost.push(format!("{} ports beyond {MAX_PORTS}", ports.len() - MAX_PORTS));
        ports.truncate(MAX_PORTS);
    }
}

fn addresses(addresses: &mut Vec<IpAddr>, lost: &mut Vec<String>) {
    addresses.iter_mut().for_each(|address| *address = address.to_canonical());
    addresses.retain(|address| {
        let fault = address_fault(*address);
        lost.extend(fault.map(|fault| format!("{address}, which {fault}")));
        fault.is_none()
    });
    if addresses.len() > MAX_ADDRESSES {
        lost.push(format!("{} addresses beyond {MAX_ADDRESSES}", addresses.len() - MAX_ADDRESSES));
        addresses.truncate(MAX_ADDRESSES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::Protocol;
    use fingerpost_catalog::document::{InstanceDocument, ServiceDocument};

    #[test]
    fn what_fits_stays_and_the_rest_is_named() {
        let port = |name: String| Port { name, port: 80, protocol: Protocol::Tcp, app_protocol: None };
        let mut document = ObjectDocument::Service(ServiceDocument {
            labels: (0..70).map(|n| (format!("k{n:02}"), "v")).chain([("a b".to_owned(), "v")]).collect(),
            ports: (0..101).map(|n| port(format!("p{n}"))).chain([port("x".repeat(63))]).collect(),
            ttl: Some(604_800),
            cluster_ips: vec!["10.96.0.1".parse().unwrap(), "0.0.0.0".parse().unwrap()],
            ..ServiceDocument::default()
        });
        let lost = fit(&mut document).unwrap();
        for part in ["1 labels that", "6 labels beyond", "xxx", "1 ports beyond", "0.0.0.0", "604800"] {
            assert!(lost.contains(part), "{part} in {lost}");
        }
        let ObjectDocument::Service(service) = &document else { panic!() };
        assert_eq!((service.labels.0.len(), service.ports.len(), service.ttl), (64, 100, Some(86_400)));
        assert_eq!(service.cluster_ips, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(fit(&mut document), None);
    }

    #[test]
    fn an_endpoint_of_many_addresses_keeps_the_first() {
        let mut document = ObjectDocument::Instance(Box::new(InstanceDocument {
            addresses: (1..=20).map(|n| IpAddr::from([10, 0, 0, n])).collect(),
            hostname: Some("Not-one".into()),
            ..InstanceDocument::default()
        }));
        assert!(fit(&mut document).is_some());
        let ObjectDocument::Instance(instance) = &document else { panic!() };
        assert_eq!((instance.addresses.len(), &instance.hostname), (16, &None));
        assert_eq!(instance.addresses[0], IpAddr::from([10, 0, 0, 1]));
    }
}
