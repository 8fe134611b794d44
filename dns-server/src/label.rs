//! What an instance is called below its service's name.
//!
//! Whoever registers an instance chooses its id, so that may be its name. What Kubernetes and CNI plugins declare has ids
//! made by machines: such an endpoint is called by its hostname, else by its address with dashes, as Kubernetes' users
//! know it (or by its pod's name, where the server is set to it). Both kinds of source follow one rule, so that a pod's
//! name stays when Kubernetes takes over what a CNI plugin was first to know.

use crate::config::EndpointNames;
use crate::name::dashed;
use fingerpost_catalog::{InstanceView, Source, SourceKind, validate_dns_label};
use std::net::IpAddr;

/// What an instance's label is made from.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Who declares it.
    pub source: &'a Source,
    /// Its id.
    pub id: &'a str,
    /// Its hostname.
    pub hostname: Option<&'a str>,
    /// Its pod's name.
    pub pod: Option<&'a str>,
}

impl<'a> Endpoint<'a> {
    pub(crate) fn of(view: &'a InstanceView) -> Self {
        Self {
            source: &view.key.source,
            id: &view.key.id,
            hostname: view.instance.hostname.as_deref(),
            pod: view.instance.pod.as_ref().map(|pod| pod.name.as_str()),
        }
    }

    /// The label that all its addresses share; none where each has its own.
    pub(crate) fn label(self, names: EndpointNames) -> Option<&'a str> {
        let fits = |text: &&str| validate_dns_label(text).is_ok();
        self.hostname.or_else(|| match (self.source.kind(), names) {
            (SourceKind::Api, _) => Some(self.id).filter(fits),
            (_, EndpointNames::Address) => None,
            (_, EndpointNames::Pod) => self.pod.filter(fits),
        })
    }

    /// The label of one of its addresses, in lower case.
    pub fn label_of(self, address: IpAddr, names: EndpointNames) -> String {
        self.label(names).map_or_else(|| dashed(address), str::to_ascii_lowercase)
    }
}
