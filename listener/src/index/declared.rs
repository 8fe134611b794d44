//! Services as they are declared, with what their annotations say.

use super::compact::{CompactPort, Pairs, mark_pairs, pairs, protocol};
use super::interner::{Interner, Marks, Sym};
use crate::objects::{self, EXCLUDE};
use fingerpost_catalog::AllCritical;
use std::net::IpAddr;

/// Annotations that say what a Service object can't, beside [`EXCLUDE`].
const TTL: &str = "fingerpost.io/ttl";
const ALL_CRITICAL: &str = "fingerpost.io/all-critical";
const COPY_LABELS: &str = "fingerpost.io/copy-labels";

/// A Service as it is declared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Declared {
    pub(super) kind: ServiceKind,
    pub(super) labels: Pairs,
    pub(super) ports: Box<[CompactPort]>,
    pub(super) ttl: Option<u32>,
    pub(super) publish_not_ready: bool,
    pub(super) all_critical: AllCritical,
    /// Which of the labels its instances get.
    pub(super) copied: Pairs,
    pub(super) selector: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ServiceKind {
    ClusterIp(Box<[IpAddr]>),
    Headless,
    ExternalName(Sym),
}

impl Declared {
    /// None where it has no address yet, asks not to be declared, or can't be. What can't be taken of it is left out and
    /// complained of: a Service that Kubernetes has taken is not worth less for an annotation that is mistyped.
    pub(super) fn new(
        strings: &mut Interner,
        service: &objects::Service,
        complaints: &mut Vec<String>,
    ) -> Option<Self> {
        let objects::Service { metadata, spec } = service;
        let annotation = |name: &str| metadata.annotations.get(name).map(|text| text.trim());
        match annotation(EXCLUDE) {
            Some("true") => return None,
            None | Some("false" | "") => {}
            Some(other) => {
                complaints
                    .push(format!("the annotation {EXCLUDE} is ignored: `{other}` is neither `true` nor `false`"));
            }
        }
        let kind = match spec.service_type.as_str() {
            // CoreDNS has no name for an alias of an address, either.
            "ExternalName" if spec.external_name.parse::<IpAddr>().is_ok() => {
                complaints.push(format!("left out: externalName `{}` is an address, no name", spec.external_name));
                return None;
            }
            "ExternalName" => ServiceKind::ExternalName(strings.intern(&spec.external_name)),
            _ if spec.cluster_ip == "None" => ServiceKind::Headless,
            _ => {
                let texts = match spec.cluster_ips.is_empty() {
                    true => std::slice::from_ref(&spec.cluster_ip),
                    false => &spec.cluster_ips[..],
                };
                let addresses: Box<[IpAddr]> = texts.iter().filter_map(|text| text.parse().ok()).collect();
                if addresses.is_empty() {
                    // It has none yet.
                    return None;
                }
                ServiceKind::ClusterIp(addresses)
            }
        };
        let ttl = annotation(TTL).and_then(|text| match text.parse::<u64>() {
            Ok(seconds) => Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            Err(_) => {
                complaints.push(format!("the annotation {TTL} is ignored: `{text}` is no number of seconds"));
                None
            }
        });
        let all_critical = match annotation(ALL_CRITICAL) {
            None | Some("none" | "") => AllCritical::None,
            Some("all") => AllCritical::All,
            Some(other) => {
                complaints
                    .push(format!("the annotation {ALL_CRITICAL} is ignored: `{other}` is neither `none` nor `all`"));
                AllCritical::None
            }
        };
        let mut ports = Vec::with_capacity(spec.ports.len());
        for port in &spec.ports {
            let (Ok(number), Some(protocol)) = (u16::try_from(port.port), protocol(&port.protocol)) else {
                complaints.push(format!("the port {}/{} is left out", port.port, port.protocol));
                continue;
            };
            let (name, app) = (strings.intern_some(Some(&port.name)), strings.intern_some(Some(&port.app_protocol)));
            ports.push(CompactPort { name, app, number, protocol });
        }
        let wanted: Vec<&str> = annotation(COPY_LABELS)
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .collect();
        let copied = metadata.labels.iter().filter(|(key, _)| wanted.contains(&key.as_str()));
        Some(Self {
            kind,
            copied: pairs(strings, copied),
            labels: pairs(strings, &metadata.labels),
            ports: ports.into(),
            ttl,
            publish_not_ready: spec.publish_not_ready_addresses,
            all_critical,
            selector: !spec.selector.is_empty(),
        })
    }

    pub(super) fn mark(&self, marks: &mut Marks) {
        mark_pairs(marks, &self.labels);
        mark_pairs(marks, &self.copied);
        self.ports.iter().for_each(|port| port.mark(marks));
        if let ServiceKind::ExternalName(name) = self.kind {
            marks.mark(name);
        }
    }
}
