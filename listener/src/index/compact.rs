//! Objects as the index keeps them: numbers for strings, no field without a use.

use super::interner::{Interner, Marks, Sym};
use crate::objects::{self, EndpointConditions, SERVICE_NAME};
use fingerpost_catalog::{Conditions, Labels, Port, Protocol, validate_instance_id};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};

/// When the change happened that a slice shows (Kubernetes' annotation for measuring latency).
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The label of a pod's record that says its subdomain, which a record has no field for.
const SUBDOMAIN: &str = "fingerpost.io/subdomain";

pub(crate) type Pairs = Box<[(Sym, Sym)]>;

pub(super) fn pairs<'a>(strings: &mut Interner, labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Pairs {
    labels.into_iter().map(|(key, value)| (strings.intern(key), strings.intern(value))).collect()
}

pub(super) fn labels(strings: &Interner, pairs: &Pairs) -> Labels {
    pairs.iter().map(|(key, value)| (strings.text(*key), strings.text(*value))).collect()
}

pub(super) fn mark_pairs(marks: &mut Marks, pairs: &Pairs) {
    for (key, value) in pairs {
        marks.mark(*key);
        marks.mark(*value);
    }
}

/// A UID: mostly a UUID, of which the text would take twice as much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Uid {
    None,
    Uuid([u8; 16]),
    Text(Sym),
}

impl Uid {
    fn new(strings: &mut Interner, text: &str) -> Self {
        match (text, uuid(text)) {
            ("", _) => Self::None,
            (_, Some(bytes)) => Self::Uuid(bytes),
            _ => Self::Text(strings.intern(text)),
        }
    }

    pub(super) fn text(self, strings: &Interner) -> String {
        match self {
            Self::None => String::new(),
            Self::Text(text) => strings.text(text).to_owned(),
            Self::Uuid(bytes) => {
                let mut text = String::with_capacity(36);
                for (n, byte) in bytes.iter().enumerate() {
                    if matches!(n, 4 | 6 | 8 | 10) {
                        text.push('-');
                    }
                    for digit in [byte >> 4, byte & 15] {
                        text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
                    }
                }
                text
            }
        }
    }

    fn mark(self, marks: &mut Marks) {
        if let Self::Text(text) = self {
            marks.mark(text);
        }
    }
}

/// The bytes of a UUID in its canonical text, lower-case; none of any other text.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let (mut bytes, mut digits) = ([0u8; 16], 0usize);
    for (at, byte) in text.iter().enumerate() {
        let digit = match (at, byte) {
            (8 | 13 | 18 | 23, b'-') => continue,
            (8 | 13 | 18 | 23, _) => return None,
            (_, b'0'..=b'9') => byte - b'0',
            (_, b'a'..=b'f') => byte - b'a' + 10,
            _ => return None,
        };
        let slot = bytes.get_mut(digits / 2)?;
        *slot = *slot << 4 | digit;
        digits += 1;
    }
    Some(bytes)
}

/// Addresses: mostly one of v4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Addresses {
    V4(Ipv4Addr),
    Many(Box<[IpAddr]>),
}

impl Addresses {
    /// From texts, of which those that are no addresses are left out.
    fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let addresses: Vec<IpAddr> =
            texts.filter_map(|text| text.parse().ok()).map(|address: IpAddr| address.to_canonical()).collect();
        match addresses[..] {
            [IpAddr::V4(address)] => Self::V4(address),
            _ => Self::Many(addresses.into()),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let (one, many) = match self {
            Self::V4(address) => (Some(IpAddr::V4(*address)), [].as_slice()),
            Self::Many(addresses) => (None, &**addresses),
        };
        one.into_iter().chain(many.iter().copied())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CompactPort {
    pub(super) name: Sym,
    pub(super) app: Sym,
    pub(super) number: u16,
    pub(super) protocol: Protocol,
}

impl CompactPort {
    pub(super) fn open(self, strings: &Interner) -> Port {
        Port {
            name: strings.text(self.name).to_owned(),
            port: self.number,
            protocol: self.protocol,
            app_protocol: strings.text_some(self.app),
        }
    }

    pub(super) fn mark(self, marks: &mut Marks) {
        marks.mark(self.name);
        marks.mark(self.app);
    }
}

pub(super) fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// One endpoint of a slice.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct CompactEndpoint {
    /// Whose it is: the hash of the pod's UID, of its name, or of the address.
    pub(super) key: u64,
    /// What it refers to by name; NONE where that can't be an id.
    pub(super) name: Sym,
    pub(super) is_pod: bool,
    pub(super) uid: Uid,
    pub(super) addresses: Addresses,
    pub(super) node: Sym,
    pub(super) zone: Sym,
    pub(super) hostname: Sym,
    pub(super) conditions: Conditions,
}

impl CompactEndpoint {
    /// Whether DNS would answer it by its own word.
    pub(super) fn is_ready(&self) -> bool {
        self.conditions.ready != Some(false)
    }

    fn new(strings: &mut Interner, namespace: &str, endpoint: &objects::Endpoint) -> Option<Self> {
        let addresses = Addresses::new(endpoint.addresses.iter().map(String::as_str));
        let first = addresses.iter().next()?;
        let target = endpoint.target_ref.clone().unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        match (target.uid.as_str(), target.name.as_str()) {
            ("", "") => (0, first).hash(&mut hasher),
            ("", name) => {
                let space = if target.namespace.is_empty() { namespace } else { &target.namespace };
                (1, &target.kind, space, name).hash(&mut hasher);
            }
            (uid, _) => (2, uid).hash(&mut hasher),
        }
        // A name that reads like an address could be taken for the id of an endpoint without one.
        let usable = target.name.parse::<IpAddr>().is_err() && validate_instance_id(&target.name).is_ok();
        let EndpointConditions { ready, serving, terminating } = endpoint.conditions;
        Some(Self {
            key: hasher.finish(),
            name: strings.intern_some(Some(&target.name).filter(|_| usable).map(String::as_str)),
            is_pod: target.kind == "Pod",
            uid: Uid::new(strings, &target.uid),
            addresses,
            node: strings.intern_some(endpoint.node_name.as_deref()),
            zone: strings.intern_some(endpoint.zone.as_deref()),
            hostname: strings.intern_some(endpoint.hostname.as_deref()),
            conditions: Conditions { ready, serving, terminating },
        })
    }

    fn mark(&self, marks: &mut Marks) {
        for sym in [self.name, self.node, self.zone, self.hostname] {
            marks.mark(sym);
        }
        self.uid.mark(marks);
    }
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Slice {
    /// Whose endpoints these are; NONE where it does not say.
    pub(super) service: Sym,
    pub(super) endpoints: Box<[CompactEndpoint]>,
    pub(super) ports: Box<[CompactPort]>,
    /// When the change happened that led to it, in milliseconds since 1970; 0 where it does not say.
    pub(super) trigger: i64,
}

impl Slice {
    /// None for one of names instead of addresses.
    pub(super) fn new(strings: &mut Interner, slice: &objects::EndpointSlice) -> Option<Self> {
        if slice.address_type == "FQDN" {
            return None;
        }
        let meta = &slice.metadata;
        let service = meta.labels.get(SERVICE_NAME).map(String::as_str);
        let endpoints =
            slice.endpoints.iter().filter_map(|endpoint| CompactEndpoint::new(strings, &meta.namespace, endpoint));
        let endpoints = endpoints.collect();
        let mut ports: Vec<CompactPort> = Vec::with_capacity(slice.ports.len());
        for port in &slice.ports {
            let number = port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
            let (Some(number), Some(protocol)) = (number, protocol(&port.protocol)) else { continue };
            let (name, app) = (strings.intern_some(Some(&port.name)), strings.intern_some(Some(&port.app_protocol)));
            ports.push(CompactPort { name, app, number, protocol });
        }
        Some(Self {
            service: strings.intern_some(service),
            endpoints,
            ports: ports.into(),
            trigger: meta.annotations.get(TRIGGER).and_then(|text| milliseconds(text)).unwrap_or_default(),
        })
    }

    pub(super) fn mark(&self, marks: &mut Marks) {
        marks.mark(self.service);
        self.endpoints.iter().for_each(|endpoint| endpoint.mark(marks));
        self.ports.iter().for_each(|port| port.mark(marks));
    }
}

fn milliseconds(text: &str) -> Option<i64> {
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    Some(time.as_millisecond())
}

/// A pod, for its own name.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct CompactPod {
    pub(super) uid: Uid,
    pub(super) addresses: Addresses,
    pub(super) hostname: Sym,
    pub(super) labels: Pairs,
}

impl CompactPod {
    /// None where it has ended, or has no address yet.
    pub(super) fn new(strings: &mut Interner, pod: &objects::Pod) -> Option<Self> {
        let status = &pod.status;
        if matches!(status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let addresses = match status.pod_ips.is_empty() {
            true => Addresses::new(std::iter::once(status.pod_ip.as_str())),
            false => Addresses::new(status.pod_ips.iter().map(|address| address.ip.as_str())),
        };
        addresses.iter().next()?;
        let objects::PodSpec { hostname, subdomain } = &pod.spec;
        let mut labels = pod.metadata.labels.clone();
        if !subdomain.is_empty() {
            labels.insert(SUBDOMAIN.to_owned(), subdomain.clone());
        }
        Some(Self {
            uid: Uid::new(strings, &pod.metadata.uid),
            addresses,
            hostname: strings.intern_some(Some(hostname)),
            labels: pairs(strings, &labels),
        })
    }

    pub(super) fn mark(&self, marks: &mut Marks) {
        self.uid.mark(marks);
        marks.mark(self.hostname);
        mark_pairs(marks, &self.labels);
    }
}

/// A namespace's labels.
pub(super) fn namespace_labels(strings: &mut Interner, labels: &BTreeMap<String, String>) -> Pairs {
    pairs(strings, labels)
}

pub(super) fn mark_labels(marks: &mut Marks, labels: &Pairs) {
    mark_pairs(marks, labels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_come_back_as_they_were() {
        let mut strings = Interner::new();
        for text in ["", "0f8fad5b-d9cb-469f-a165-70867728950e", "0F8FAD5B-D9CB-469F-A165-70867728950E", "mirror", "é"]
        {
            let uid = Uid::new(&mut strings, text);
            assert_eq!(uid.text(&strings), text);
        }
        assert_eq!(strings.len(), 3);
    }

    #[test]
    fn triggers_are_read() {
        assert_eq!(milliseconds("1970-01-01T00:00:01.5Z"), Some(1500));
        assert_eq!(milliseconds("2026-01-01T00:00:00+01:00").map(|time| time % 1000), Some(0));
        assert_eq!(milliseconds("yesterday"), None);
    }
}
