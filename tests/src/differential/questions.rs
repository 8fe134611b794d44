//! What is asked: the names of a world's objects, and names beside, above and below them.

use super::world::World;
use crate::kubernetes::objects;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The types that are asked for at every name.
pub const TYPES: [&str; 10] = ["A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "NS", "SOA", "HINFO", "MX"];

const ZONE: &str = "cluster.local";

/// The name under which an address is looked up, without the last dot.
pub fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// An address as a label has it.
pub fn dashed(address: &str) -> String {
    let label = address.replace(['.', ':'], "-");
    if label.ends_with('-') { label + "0" } else { label }
}

/// Names that are asked whatever else there is.
const ALWAYS: [&str; 36] = [
    ZONE,
    "svc.cluster.local",
    "pod.cluster.local",
    "SVC.Cluster.Local",
    "dns-version.cluster.local",
    "DNS-Version.CLUSTER.local",
    "x.dns-version.cluster.local",
    "dns-version.svc.cluster.local",
    "ns.dns.cluster.local",
    "dns.cluster.local",
    "x.ns.dns.cluster.local",
    "nothing.cluster.local",
    "any.svc.cluster.local",
    "any.any.svc.cluster.local",
    "*.default.svc.cluster.local",
    "kubernetes.default",
    "kubernetes.default.svc",
    "in-addr.arpa",
    "10.in-addr.arpa",
    "200.10.in-addr.arpa",
    "0.200.10.in-addr.arpa",
    "96.10.in-addr.arpa",
    "11.in-addr.arpa",
    "256.0.0.10.in-addr.arpa",
    "1.0.0.0.10.in-addr.arpa",
    "x.0.0.10.in-addr.arpa",
    "1.96.010.in-addr.arpa",
    "ip6.arpa",
    "0.0.d.f.ip6.arpa",
    "0.0.D.F.ip6.arpa",
    "g.0.d.f.ip6.arpa",
    "00.0.d.f.ip6.arpa",
    "arpa",
    "example.com",
    "local",
    "1.2.0.192.in-addr.arpa",
];

struct Names {
    all: BTreeSet<String>,
    rng: StdRng,
}

/// All names of a world that are worth a question: those of its objects, and those around them.
pub fn names(world: &World, seed: u64) -> BTreeSet<String> {
    let mut names = Names { all: BTreeSet::new(), rng: StdRng::seed_from_u64(seed) };
    for namespace in world.of_kind("Namespace") {
        names.namespace(objects::name(namespace));
    }
    for service in world.of_kind("Service") {
        names.service(service);
    }
    for slice in world.of_kind("EndpointSlice") {
        names.slice(slice);
    }
    for pod in world.of_kind("Pod") {
        names.pod(pod);
    }
    for object in world.past() {
        match object["kind"].as_str() {
            Some("Namespace") => names.namespace(objects::name(object)),
            Some("Service") => names.service(object),
            Some("EndpointSlice") => names.slice(object),
            _ => names.pod(object),
        }
    }
    names.all.into_iter().filter(|name| can_be_asked(name)).collect()
}

/// So many of them, by chance, in order, and those that are always asked.
pub fn sample(names: &BTreeSet<String>, seed: u64, most: usize) -> Vec<String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut chosen: Vec<String> = names.iter().cloned().collect::<Vec<_>>().sample(&mut rng, most).cloned().collect();
    chosen.extend(ALWAYS.map(str::to_owned));
    chosen.sort();
    chosen.dedup();
    chosen
}

fn can_be_asked(name: &str) -> bool {
    name.len() <= 250 && name.split('.').all(|label| (1..=63).contains(&label.len()))
}

impl Names {
    fn add(&mut self, name: String) {
        self.all.insert(name);
    }

    fn mixed_case(&mut self, name: &str) -> String {
        name.chars().map(|c| if self.rng.random() { c.to_ascii_uppercase() } else { c }).collect()
    }

    fn namespace(&mut self, namespace: &str) {
        for kind in ["svc", "pod"] {
            self.add(format!("{namespace}.{kind}.{ZONE}"));
            self.add(format!("{namespace}x.{kind}.{ZONE}"));
            self.add(format!("nobody.{namespace}.{kind}.{ZONE}"));
            self.add(format!("a.b.nobody.{namespace}.{kind}.{ZONE}"));
        }
        self.add(format!("{namespace}.{ZONE}"));
        let upper = namespace.to_uppercase();
        self.add(format!("{upper}.SVC.{ZONE}"));
        for pod in [
            "10-200-0-1",
            "1-2-3",
            "1-2-3-4-5",
            "300-1-1-1",
            "01-2-3-4",
            "1-2--3",
            "fd00--1",
            "FD00--1",
            "fd00-200--1-",
            "--1",
            "--",
            "0-0-0-0",
            "--ffff-1-2-3-4",
            "1-2-3-4-5-6-7-8",
            "10.200-0-1",
        ] {
            self.add(format!("{pod}.{namespace}.pod.{ZONE}"));
        }
        self.add(format!("x.10-200-0-1.{namespace}.pod.{ZONE}"));
        self.add(format!("_http._tcp.10-200-0-1.{namespace}.pod.{ZONE}"));
    }

    fn service(&mut self, service: &Value) {
        let (name, namespace) = (objects::name(service), objects::namespace_of(service));
        let full = format!("{name}.{namespace}.svc.{ZONE}");
        for beside in [
            full.to_uppercase(),
            self.mixed_case(&full),
            format!("nobody.{full}"),
            format!("{name}x.{namespace}.svc.{ZONE}"),
            format!("{name}.{namespace}.pod.{ZONE}"),
            format!("{name}.{namespace}.{ZONE}"),
            format!("{name}.svc.{ZONE}"),
            format!("{name}.{ZONE}"),
            format!("{name}.{namespace}.svc.svc.{ZONE}"),
            format!("_tcp.{full}"),
            format!("_udp.{full}"),
            format!("tcp.{full}"),
            format!("_none._tcp.{full}"),
            format!("_http._tcp.{full}"),
            format!("http.tcp.{full}"),
            format!("_http._TCP.{full}"),
            format!("a.b.c.{full}"),
        ] {
            self.add(beside);
        }
        self.add(full.clone());
        self.ports(&service["spec"]["ports"], &full);
        for address in service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.address(address);
            self.add(format!("{}.{full}", dashed(address)));
        }
    }

    fn ports(&mut self, ports: &Value, full: &str) {
        for port in ports.as_array().into_iter().flatten() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            let name = port["name"].as_str().unwrap_or_default();
            if !name.is_empty() {
                self.add(format!("_{name}._{protocol}.{full}"));
                self.add(format!("_{}._{protocol}.{full}", name.to_uppercase()));
                self.add(format!("_{name}._other.{full}"));
                self.add(format!("x._{name}._{protocol}.{full}"));
            }
            self.add(format!("_{protocol}.{full}"));
            if let Some(number) = port["port"].as_u64() {
                self.add(format!("_{number}._{protocol}.{full}"));
            }
        }
    }

    fn slice(&mut self, slice: &Value) {
        let namespace = objects::namespace_of(slice);
        let Some(service) = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() else { return };
        let full = format!("{service}.{namespace}.svc.{ZONE}");
        self.add(full.clone());
        self.ports(&slice["ports"], &full);
        let endpoints = slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        for address in endpoints.iter().filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()) {
            self.add(reverse(address));
        }
        // Of many, a few.
        let step = 1 + endpoints.len() / 6;
        for endpoint in endpoints.iter().step_by(step) {
            let label = endpoint["hostname"].as_str().map(str::to_owned);
            let pod = endpoint["targetRef"]["name"].as_str().map(str::to_owned);
            let addresses = endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for address in addresses.clone() {
                self.address(address);
            }
            for label in label.into_iter().chain(pod).chain(addresses.map(dashed)) {
                let name = format!("{label}.{full}");
                self.add(format!("x.{name}"));
                self.add(format!("_http._tcp.{name}"));
                self.add(name.to_uppercase());
                self.add(name);
            }
        }
    }

    fn pod(&mut self, pod: &Value) {
        let namespace = objects::namespace_of(pod);
        self.add(format!("{}.{namespace}.pod.{ZONE}", objects::name(pod)));
        for address in pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str()) {
            self.address(address);
            self.add(format!("{}.{namespace}.pod.{ZONE}", dashed(address)));
            self.add(format!("{}.{namespace}.pod.{ZONE}", dashed(address).to_uppercase()));
            self.add(format!("{}.default.pod.{ZONE}", dashed(address)));
        }
    }

    /// The reverse name of an address, and those around it.
    fn address(&mut self, address: &str) {
        let Ok(address) = address.parse() else { return };
        let name = reverse(address);
        self.add(format!("x.{name}"));
        if self.rng.random_range(0..4) == 0 {
            self.add(name.to_uppercase());
            let mut above = name.as_str();
            while let Some((_, rest)) = above.split_once('.') {
                self.add(rest.to_owned());
                above = rest;
            }
        }
        self.add(name);
    }
}
