//! A source's declaration of a service, packed: what it says in one piece, opened when somebody reads it.

use super::entry::Unknown;
use super::packing::{Packer, Unpacker};
use crate::check::Check;
use crate::labels::Labels;
use crate::object::{AllCritical, Port, Protocol, Service, ServiceType};

#[derive(Debug)]
pub(super) struct PackedService {
    /// The flags, the labels, then the rest.
    packed: Box<[u8]>,
    rare: Option<Box<Rare>>,
}

/// The fields that few services have.
#[derive(PartialEq, Debug, Default)]
struct Rare {
    checks: Box<[Check]>,
    unknown: Unknown,
}

/// The lowest two bits are the type.
const TYPE: u8 = 3;
const PUBLISH_NOT_READY: u8 = 4;
const ANSWER_UNKNOWN: u8 = 8;
const ALL_CRITICAL: u8 = 16;
const TTL: u8 = 32;
const EXTERNAL_NAME: u8 = 64;

impl PackedService {
    pub(super) fn pack(service: &Service) -> Self {
        let flag = |flag: u8, set: bool| if set { flag } else { 0 };
        let mut packer = Packer::default();
        packer.byte(
            match service.service_type {
                ServiceType::Headless => 0,
                ServiceType::ClusterIP => 1,
                ServiceType::ExternalName => 2,
            } | flag(PUBLISH_NOT_READY, service.publish_not_ready)
                | flag(ANSWER_UNKNOWN, service.answer_unknown)
                | flag(ALL_CRITICAL, service.all_critical == AllCritical::All)
                | flag(TTL, service.ttl.is_some())
                | flag(EXTERNAL_NAME, service.external_name.is_some()),
        );
        packer.number(service.labels.0.len() as u64);
        for (key, value) in service.labels.iter() {
            packer.text(key);
            packer.text(value);
        }
        packer.number(service.ports.len() as u64);
        service.ports.iter().for_each(|port| pack_port(&mut packer, port));
        packer.number(service.cluster_ips.len() as u64);
        service.cluster_ips.iter().for_each(|&address| packer.address(address));
        if let Some(ttl) = service.ttl {
            packer.octets(&ttl.to_be_bytes());
        }
        if let Some(name) = &service.external_name {
            packer.text(name);
        }
        let rare = Rare { checks: service.checks.as_slice().into(), unknown: Unknown::pack(&service.unknown) };
        Self { packed: packer.finish().as_slice().into(), rare: (rare != Rare::default()).then(|| Box::new(rare)) }
    }

    pub(super) fn unpack(&self) -> Service {
        let mut unpacker = Unpacker::new(&self.packed);
        let flags = unpacker.byte();
        let labels = unpack_labels(&mut unpacker);
        let ports = (0..unpacker.number()).map(|_| unpack_port(&mut unpacker)).collect();
        let cluster_ips = (0..unpacker.number()).map(|_| unpacker.address()).collect();
        let rare = self.rare.as_deref();
        Service {
            service_type: match flags & TYPE {
                0 => ServiceType::Headless,
                1 => ServiceType::ClusterIP,
                _ => ServiceType::ExternalName,
            },
            cluster_ips,
            labels,
            ports,
            ttl: (flags & TTL != 0).then(|| u32::from_be_bytes(unpacker.octets())),
            external_name: (flags & EXTERNAL_NAME != 0).then(|| unpacker.text().to_owned()),
            publish_not_ready: self.publish_not_ready(),
            answer_unknown: self.answer_unknown(),
            all_critical: self.all_critical(),
            checks: self.checks().to_vec(),
            unknown: rare.map(|rare| rare.unknown.unpack()).unwrap_or_default(),
        }
    }

    pub(super) fn labels(&self) -> Labels {
        let mut unpacker = Unpacker::new(&self.packed);
        unpacker.byte();
        unpack_labels(&mut unpacker)
    }

    pub(super) fn publish_not_ready(&self) -> bool {
        self.flags() & PUBLISH_NOT_READY != 0
    }

    pub(super) fn answer_unknown(&self) -> bool {
        self.flags() & ANSWER_UNKNOWN != 0
    }

    pub(super) fn all_critical(&self) -> AllCritical {
        if self.flags() & ALL_CRITICAL == 0 { AllCritical::None } else { AllCritical::All }
    }

    pub(super) fn checks(&self) -> &[Check] {
        self.rare.as_deref().map_or(&[], |rare| &rare.checks)
    }

    fn flags(&self) -> u8 {
        Unpacker::new(&self.packed).byte()
    }
}

fn unpack_labels(unpacker: &mut Unpacker<'_>) -> Labels {
    let mut labels = Labels::default();
    // Collecting would sort them first; they are in order already.
    for _ in 0..unpacker.number() {
        let key = unpacker.text().to_owned();
        labels.0.insert(key, unpacker.text().to_owned());
    }
    labels
}

fn pack_port(packer: &mut Packer, port: &Port) {
    let protocol = match port.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    };
    packer.text(&port.name);
    packer.octets(&port.port.to_be_bytes());
    packer.byte(protocol | u8::from(port.app_protocol.is_some()) << 2);
    if let Some(app_protocol) = &port.app_protocol {
        packer.text(app_protocol);
    }
}

fn unpack_port(unpacker: &mut Unpacker<'_>) -> Port {
    let name = unpacker.text().to_owned();
    let port = u16::from_be_bytes(unpacker.octets());
    let flags = unpacker.byte();
    Port {
        name,
        port,
        protocol: match flags & 3 {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => Protocol::Sctp,
        },
        app_protocol: (flags & 4 != 0).then(|| unpacker.text().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_survive_packing() {
        let port = |name: &str, protocol, app_protocol: Option<&str>| Port {
            name: name.to_owned(),
            port: 60_000,
            protocol,
            app_protocol: app_protocol.map(str::to_owned),
        };
        let full = Service {
            service_type: ServiceType::ExternalName,
            cluster_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            external_name: Some("example.com".to_owned()),
            labels: [("a", "1".to_owned()), ("b", String::new()), ("c", "é".repeat(300))].into_iter().collect(),
            ports: vec![
                port("", Protocol::Tcp, None),
                port("dns", Protocol::Udp, Some("")),
                port("x", Protocol::Sctp, Some("kubernetes.io/h2c")),
            ],
            ttl: Some(u32::MAX),
            publish_not_ready: true,
            answer_unknown: true,
            all_critical: AllCritical::All,
            checks: vec![Check::default()],
            unknown: [("future".to_owned(), 1.into())].into_iter().collect(),
        };
        let plain = Service { service_type: ServiceType::ClusterIP, ttl: Some(0), ..Service::default() };
        for service in [full, plain, Service::default()] {
            let packed = PackedService::pack(&service);
            assert_eq!(packed.unpack(), service);
            assert_eq!(packed.labels(), service.labels);
        }
    }
}
