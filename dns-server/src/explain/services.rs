//! Why a service's name, or one below it, answers or not.

use super::instances::{InstanceReason, reason};
use super::{Explanation, Lookup, MAX_INSTANCES, declared, join};
use crate::config::EndpointNames;
use crate::index::Index;
use crate::name::Name;
use fingerpost_catalog::{AllCritical, InstanceView, ServiceType, ServiceView};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Most labels or port names that a step lists.
const MAX_LISTED: usize = 20;

impl Explanation {
    pub(super) fn service(
        &mut self,
        index: &Index,
        namespace: &str,
        service: &str,
        below: &[&str],
        (lookup, asks): (&dyn Lookup, bool),
    ) {
        match lookup.namespace(namespace) {
            Some(view) => self.step(true, format!("Namespace `{namespace}` exists ({}).", declared(&view.sources))),
            None => return self.step(false, format!("Namespace `{namespace}` does not exist.")),
        }
        let Some(view) = lookup.service(namespace, service) else {
            return self.step(false, format!("Service `{service}` does not exist in it."));
        };
        let kind = match view.service_type {
            ServiceType::Headless => "Headless: its name answers with its instances' addresses",
            ServiceType::ClusterIP => "ClusterIP: its name answers with its own addresses, whatever its instances do",
            ServiceType::ExternalName => "ExternalName: its name is an alias",
        };
        self.step(true, format!("Service `{service}` exists ({}). {kind}.", declared(&view.sources)));
        if view.service_type == ServiceType::ExternalName {
            return self.external_name(index, &view, below, asks);
        }
        let instances = lookup.instances(namespace, service);
        let panics = view.all_critical == AllCritical::All
            && !instances.iter().any(|i| i.answerable && i.own_addresses().next().is_some());
        let names = index.config.endpoint_names;
        let mut about: Vec<InstanceReason> = instances.iter().map(|i| reason(i, &view, names, panics)).collect();
        match view.service_type {
            ServiceType::ClusterIP if below.len() != 1 => self.step(
                !view.cluster_ips.is_empty(),
                match view.cluster_ips.as_slice() {
                    [] => "It has no address of its own.".to_owned(),
                    ips => format!("Its addresses: {}.", join(ips)),
                },
            ),
            _ => self.count(&about, &view, panics),
        }
        match *below {
            [label] => self.label(label, &mut about, names),
            [port, proto] => self.port(port, proto, &view, &instances),
            _ => {}
        }
        // What is left out is what needs no explanation.
        about.sort_by_key(|instance| instance.answered);
        self.instances_total = about.len();
        about.truncate(MAX_INSTANCES);
        self.instances = about;
    }

    /// How many instances there are, and whose.
    fn count(&mut self, about: &[InstanceReason], view: &ServiceView, panics: bool) {
        let mut by_source: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for instance in about {
            let (answered, total) = by_source.entry(&instance.source).or_default();
            *answered += usize::from(instance.answered);
            *total += 1;
        }
        let (answered, total) = by_source.values().fold((0, 0), |(a, t), (answered, total)| (a + answered, t + total));
        let text = match (total, answered) {
            (0, _) => "It has no instance.".to_owned(),
            (_, 0) => {
                let rule = match view.all_critical {
                    AllCritical::None => "`allCritical: none`, the default, leaves it so",
                    AllCritical::All => "`allCritical: all` brings back none of the drained",
                };
                format!("None of its {total} instances can be answered, and {rule}: as if it did not exist.")
            }
            _ if panics => format!(
                "All of its instances are critical, and `allCritical: all` has {answered} of {total} answered all the \
                 same."
            ),
            _ => format!("{answered} of its {total} instances can be answered."),
        };
        let shares: Vec<String> = match by_source.len() {
            0 | 1 => Vec::new(),
            _ => by_source
                .iter()
                .map(|(source, (answered, total))| format!("{answered} of {total} of {source}"))
                .collect(),
        };
        let shares = if shares.is_empty() { String::new() } else { format!(" These are {}.", shares.join(", ")) };
        self.step(answered > 0, text + &shares);
    }

    /// The label of an instance.
    fn label(&mut self, label: &str, about: &mut Vec<InstanceReason>, names: EndpointNames) {
        if label.starts_with('_') {
            about.clear();
            return self.step(true, format!("`{label}` is part of the names of ports, and has no records of its own."));
        }
        let named: Vec<&InstanceReason> =
            about.iter().filter(|instance| instance.labels.iter().any(|own| own == label)).collect();
        if let Some(instance) = named.iter().find(|instance| instance.answered) {
            self.step(true, format!("`{label}` names an instance that is answered (`{}`).", instance.id));
        } else if !named.is_empty() {
            self.step(false, format!("The instance that `{label}` names is not answered."));
        } else {
            let mut text = format!("No instance has the label `{label}`.");
            let meant = about.iter().find(|instance| {
                instance.id.eq_ignore_ascii_case(label)
                    || instance.pod.as_deref() == Some(label)
                    || instance.addresses.iter().any(|address| {
                        address.parse().is_ok_and(|address: IpAddr| crate::name::dashed(address) == label)
                    })
            });
            if let Some(instance) = meant {
                let rule = match names {
                    EndpointNames::Address => "hostname, else address (`--endpoint-names address`)",
                    EndpointNames::Pod => "hostname, else pod, else address (`--endpoint-names pod`)",
                };
                let own = instance.labels.join(", ");
                text.push_str(&format!(" `{}` of {} is called {own}: {rule}.", instance.id, instance.source));
            } else {
                let mut labels: Vec<&str> = about.iter().flat_map(|i| &i.labels).map(String::as_str).collect();
                labels.sort_unstable();
                labels.dedup();
                if !labels.is_empty() {
                    let more = if labels.len() > MAX_LISTED { " …" } else { "" };
                    labels.truncate(MAX_LISTED);
                    text.push_str(&format!(" There are {}{more}.", labels.join(", ")));
                }
            }
            self.step(false, text);
        }
        about.retain(|instance| instance.labels.iter().any(|own| own == label));
    }

    fn port(&mut self, port: &str, proto: &str, view: &ServiceView, instances: &[Arc<InstanceView>]) {
        let headless = view.service_type == ServiceType::Headless;
        let own = instances.iter().filter(|_| headless).flat_map(|instance| &instance.instance.ports);
        let mut names: Vec<String> = view
            .ports
            .iter()
            .chain(own)
            .filter(|port| !port.name.is_empty())
            .map(|port| format!("_{}._{}", port.name.to_ascii_lowercase(), port.protocol.dns_label()))
            .collect();
        names.sort_unstable();
        names.dedup();
        let wanted = format!("{port}.{proto}");
        let meant = format!("_{}._{}", port.trim_start_matches('_'), proto.trim_start_matches('_'));
        if names.contains(&wanted) {
            self.step(true, format!("`{wanted}` is one of its named ports."));
        } else if names.contains(&meant) {
            self.step(false, format!("Ports' names begin with underscores (RFC 2782): `{meant}`."));
        } else if names.is_empty() {
            self.step(false, "It has no named port; only such have SRV names.");
        } else {
            names.truncate(MAX_LISTED);
            self.step(false, format!("`{wanted}` is none of its named ports: {}.", names.join(", ")));
        }
    }

    fn external_name(&mut self, index: &Index, view: &ServiceView, below: &[&str], asks: bool) {
        if !below.is_empty() {
            return self.step(false, "Nothing exists below an alias.");
        }
        let target = match view.external_name.as_deref() {
            None | Some("") => return self.step(false, "It says not of what."),
            Some(target) if target.parse::<IpAddr>().is_ok() => {
                let text = "is an address, and an alias needs a name: declare a headless service instead.";
                return self.step(false, format!("`{target}` {text}"));
            }
            Some(target) => target,
        };
        let Some(name) = Name::from_text(target) else {
            return self.step(false, format!("`{target}`, which it should be an alias of, is not a domain name."));
        };
        self.step(true, format!("It is an alias of `{target}`."));
        match index.zones.find(name.wire()).filter(|within| within.is_cluster()) {
            None if asks => self.step(true, "That is no name of this server's zones: it adds what others say of it."),
            None => self.step(true, "That is no name of this server's zones: the client asks for it on its own."),
            Some(_) => self
                .step(true, format!("That is a name of this server, which adds its records; see `explain {target}.`.")),
        }
    }
}
