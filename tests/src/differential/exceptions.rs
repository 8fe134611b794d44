//! Where we differ from CoreDNS, and mean to.
//!
//! An exception recognises its cases by the question, by both answers, and by what CoreDNS says to other questions; what we
//! say is never evidence for us.

use super::{Answer, Case, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// A difference that we want.
pub struct Exception {
    /// What it is called in reports.
    pub name: &'static str,
    /// What CoreDNS does, what we do, and by which rule.
    pub why: &'static str,
    /// Whether a case is one of it. Only cases that differ are asked about.
    pub is: fn(&Case, &Known) -> bool,
}

/// What CoreDNS has said over all questions of a round, and what there is in the cluster.
#[derive(Default)]
pub struct Known {
    /// Names at which CoreDNS has records of their own type, whatever was asked.
    at: BTreeSet<String>,
    /// Names below which it has some.
    above: BTreeSet<String>,
    /// Targets of aliases, by name.
    aliases: BTreeMap<String, String>,
    /// Addresses at names, by type.
    addresses: BTreeMap<(String, String), BTreeSet<String>>,
    /// Where reverse names lead.
    pointers: BTreeMap<String, BTreeSet<String>>,
    /// Names that CoreDNS says do not exist, when it is asked for their addresses.
    missing: BTreeSet<String>,
    /// Services some of whose slices name no ports, as `name.namespace`.
    portless: BTreeSet<String>,
    /// Addresses of pods and where they are.
    pods: BTreeSet<(IpAddr, String)>,
    /// Addresses of endpoints that are said to be pods, and where they are.
    endpoints: BTreeSet<(IpAddr, String)>,
}

impl Known {
    /// What there is in a cluster.
    pub fn new(world: &super::world::World) -> Self {
        let mut known = Self::default();
        for slice in world.of_kind("EndpointSlice") {
            let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str();
            let has_ports = slice["ports"].as_array().is_some_and(|ports| !ports.is_empty());
            if let Some(service) = service.filter(|_| !has_ports) {
                let namespace = crate::kubernetes::objects::namespace_of(slice);
                known.portless.insert(format!("{service}.{namespace}"));
            }
        }
        for slice in world.of_kind("EndpointSlice") {
            let namespace = crate::kubernetes::objects::namespace_of(slice).to_owned();
            let endpoints = slice["endpoints"].as_array().into_iter().flatten();
            for endpoint in endpoints.filter(|endpoint| endpoint["targetRef"]["kind"] == "Pod") {
                let address = endpoint["addresses"][0].as_str().and_then(|address| address.parse().ok());
                known.endpoints.extend(address.map(|address| (address, namespace.clone())));
            }
        }
        for pod in world.of_kind("Pod") {
            let namespace = crate::kubernetes::objects::namespace_of(pod);
            let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
            let addresses = addresses.filter_map(|address| address["ip"].as_str()?.parse().ok());
            known.pods.extend(addresses.map(|address| (address, namespace.to_owned())));
        }
        known
    }

    /// Takes in what CoreDNS says.
    pub fn learn(&mut self, cases: &[Case]) {
        for case in cases {
            let name = case.name.to_lowercase();
            if case.theirs.is_nxdomain() && matches!(case.qtype, "A" | "AAAA") {
                self.missing.insert(name.clone());
            }
            let made_up = is_made_up(&name);
            if case.theirs.is_nodata() && matches!(case.qtype, "A" | "AAAA") && !made_up {
                self.add(&name);
            }
            for record in case.theirs.records.iter().filter(|record| owner(record) == name) {
                match record.record_type.as_str() {
                    "CNAME" => drop(self.aliases.insert(name.clone(), target(record))),
                    "PTR" => drop(self.pointers.entry(name.clone()).or_default().insert(target(record))),
                    "A" | "AAAA" => {
                        let key = (name.clone(), record.record_type.clone());
                        self.addresses.entry(key).or_default().insert(record.data.clone());
                    }
                    _ => {}
                }
                // Pointers say that a name is there only if they lead somewhere.
                if record.record_type != "PTR" && !made_up {
                    self.add(&name);
                }
            }
        }
    }

    fn add(&mut self, name: &str) {
        if self.at.insert(name.to_owned()) {
            let mut above = name;
            while let Some((_, rest)) = above.split_once('.') {
                self.above.insert(rest.to_owned());
                above = rest;
            }
        }
    }

    /// Whether there are records at the name, or below it.
    pub(super) fn exists(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let below = format!(".{name}");
        let leads = |targets: &BTreeSet<String>| targets.iter().any(|target| self.at.contains(target));
        let reverse = || {
            let mut pointers = self.pointers.iter().filter(|(at, _)| **at == name || at.ends_with(&below));
            pointers.any(|(at, targets)| !is_odd_reverse(at) && leads(targets))
        };
        self.at.contains(&name) || self.above.contains(&name) || is_reverse(&name) && reverse()
    }

    /// Whether aliases lead from the name in a circle.
    fn goes_round(&self, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut name = name.to_lowercase();
        while let Some(next) = self.aliases.get(&name) {
            if !seen.insert(name.clone()) {
                return true;
            }
            name.clone_from(next);
        }
        false
    }
}

fn owner(record: &Record) -> &str {
    record.name.trim_end_matches('.')
}

fn target(record: &Record) -> String {
    record.data.trim_end_matches('.').to_owned()
}

fn is_reverse(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with("in-addr.arpa") || name.ends_with("ip6.arpa")
}

/// Whether a name lies where reverse names are, and is not that of an address.
fn is_odd_reverse(name: &str) -> bool {
    let name = name.to_lowercase();
    let v4 = name.strip_suffix(".in-addr.arpa").map(|name| name.split('.').count() == 4);
    let v6 = name.strip_suffix(".ip6.arpa").map(|name| name.split('.').count() == 32 && name.len() == 63);
    v4 == Some(false) || v6 == Some(false)
}

/// Whether CoreDNS takes a name for another, and so says nothing of it when it answers.
fn is_made_up(name: &str) -> bool {
    let below_pod = name.strip_suffix(".pod.cluster.local").is_some_and(|rest| rest.split('.').count() > 2);
    let port = port_labels(name).is_some_and(|ports| ports != (true, true));
    below_pod || port || is_odd_reverse(name)
}

fn negative(answer: &Answer) -> bool {
    answer.is_nodata() || answer.is_nxdomain()
}

/// Whether a name is that of a port: `_http._tcp.…`, or, without underscores, what CoreDNS takes for one.
fn port_labels(name: &str) -> Option<(bool, bool)> {
    let labels: Vec<&str> = name.strip_suffix(".svc.cluster.local")?.split('.').collect();
    let [port, protocol, _, _] = labels[..] else { return None };
    Some((port.starts_with('_'), protocol.starts_with('_')))
}

/// The label and the namespace of a pod's name.
fn pod_label(name: &str) -> Option<(String, String)> {
    let name = name.to_lowercase();
    let (label, namespace) = name.strip_suffix(".pod.cluster.local")?.split_once('.')?;
    Some((label.to_owned(), namespace.to_owned()))
}

/// The address that a label says, in whatever spelling, and the namespace of a pod's name.
fn pod_address(name: &str) -> Option<(IpAddr, String)> {
    let (label, namespace) = pod_label(name)?;
    let address = label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok()?;
    Some((address, namespace))
}

/// Records as they are but for the weight of SRV records.
fn without_weights(answer: &Answer) -> BTreeSet<(String, String, String, u32)> {
    let data = |record: &Record| {
        let fields = record.data.split(' ').enumerate().filter(|(n, _)| *n != 1 || record.record_type != "SRV");
        fields.map(|(_, field)| field).collect::<Vec<_>>().join(" ")
    };
    answer.records.iter().map(|r| (r.name.clone(), r.record_type.clone(), data(r), r.ttl)).collect()
}

/// Those that need names of pods to be verified.
pub const OF_VERIFIED_PODS: [&str; 2] = ["pods that are endpoints", "other spellings of a pod's address"];

/// All of them, the particular before the general.
pub const ALL: &[Exception] = &[
    Exception {
        name: "the zone's name servers",
        why: "CoreDNS names the Services that lead to its own address, or an address of its host; we name ns.dns, which \
              exists for all types alike and has the addresses that we are told, and so does dns above it (RFC 8020)",
        is: |case, _| {
            let name = case.name.to_lowercase();
            let apex = !name.contains(".svc")
                && !name.contains(".pod")
                && case.qtype == "NS"
                && case.ours.of_type("NS").count() == 1;
            apex || name == "ns.dns.cluster.local" || name == "dns.cluster.local"
        },
    },
    Exception {
        name: "aliases that go round",
        why: "CoreDNS drops all aliases of a circle and says NODATA; they are an error (RFC 1034 §3.6.2)",
        is: |case, known| {
            case.ours.rcode == "SERVFAIL"
                && (case.qtype == "CNAME" || case.theirs.records.is_empty())
                && known.goes_round(&case.name)
        },
    },
    Exception {
        name: "an alias for every type",
        why: "CoreDNS leaves a CNAME out where its target does not exist or lacks the type, and for types other than A and \
              AAAA; a name with a CNAME answers with it whatever is asked, with the response code of the last name \
              (RFC 1034 §3.6.2, RFC 6604 §3)",
        is: |case, known| {
            let name = case.name.to_lowercase();
            let stays = case.ours.of_type("CNAME").any(|record| {
                owner(record) == name && known.aliases.get(&name).is_some_and(|alias| *alias == target(record))
            });
            stays && case.qtype != "CNAME" && negative(&case.theirs)
        },
    },
    Exception {
        name: "addresses at the name of a port",
        why: "CoreDNS answers the addresses of the service, or endpoints, with SRV records at that name; the Kubernetes DNS \
              specification has SRV records there and nothing else (§2.3.2, §2.4.2)",
        is: |case, _| {
            let address = matches!(case.qtype, "A" | "AAAA") && !case.theirs.records.is_empty();
            address && port_labels(&case.name) == Some((true, true)) && case.ours.is_nodata()
        },
    },
    Exception {
        name: "names of ports without underscores",
        why: "CoreDNS takes http.tcp for _http._tcp, and any mixture; such names are not of services' ports (RFC 2782, and the \
              Kubernetes DNS specification §2.3.2)",
        is: |case, _| port_labels(&case.name).is_some_and(|ports| ports != (true, true)) && case.ours.is_nxdomain(),
    },
    Exception {
        name: "addresses of endpoints that have no name",
        why: "CoreDNS answers the reverse name of an endpoint whose Service does not exist, or is an ExternalName, with a name \
              of which it says itself that it does not exist; a PTR leads to a name (RFC 1035 §3.3.12)",
        is: |case, known| {
            let (nowhere, somewhere): (Vec<_>, Vec<_>) =
                case.theirs.of_type("PTR").partition(|record| known.missing.contains(&target(record)));
            is_reverse(&case.name) && !nowhere.is_empty() && case.ours.records.iter().eq(somewhere)
        },
    },
    Exception {
        name: "reverse names of no address",
        why: "CoreDNS takes other names for reverse names, as with a label too many; such a name is not that of an address \
              (RFC 1035 §3.5, RFC 3596 §2.5)",
        is: |case, _| {
            let refused = case.ours.is_nxdomain() || case.ours.rcode == "REFUSED";
            is_odd_reverse(&case.name) && refused && case.theirs.of_type("PTR").count() > 0
        },
    },
    Exception {
        name: "services' names under pod",
        why: "CoreDNS takes labels before the name of a pod for those of a port or an endpoint and leaves them out, and makes SRV \
              records of the address that the name says; neither is in any specification",
        is: |case, _| {
            let name = case.name.to_lowercase();
            let Some(labels) = name.strip_suffix(".pod.cluster.local").map(|rest| rest.split('.').count()) else {
                return false;
            };
            match labels {
                2 => case.qtype == "SRV" && case.ours.is_nodata() && case.theirs.of_type("SRV").count() == 1,
                _ => labels > 2 && case.ours.is_nxdomain() && case.theirs.rcode == "NOERROR",
            }
        },
    },
    Exception {
        name: "SRV at an endpoint's name",
        why: "CoreDNS answers with an endpoint's ports at its own name, leading to itself; neither the Kubernetes DNS \
              specification nor RFC 2782 has SRV records there",
        is: |case, _| {
            let name = case.name.to_lowercase();
            let labels = name.strip_suffix(".svc.cluster.local").map(|rest| rest.split('.').count());
            let itself = case
                .theirs
                .of_type("SRV")
                .all(|record| record.data.ends_with(&format!(" {}.", record.name.trim_end_matches('.'))));
            case.qtype == "SRV"
                && labels == Some(3)
                && case.ours.is_nodata()
                && case.theirs.of_type("SRV").count() > 0
                && itself
        },
    },
    Exception {
        name: "ports of endpoints whose slice names none",
        why: "CoreDNS has no SRV records for them; to us the Service's ports are theirs, an addition",
        is: |case, known| {
            let name = case.name.to_lowercase();
            let Some(rest) = name.strip_suffix(".svc.cluster.local") else { return false };
            let labels: Vec<&str> = rest.split('.').collect();
            let service = labels[labels.len().saturating_sub(2)..].join(".");
            let fewer = without_weights(&case.theirs).is_subset(&without_weights(&case.ours));
            known.portless.contains(&service) && case.ours.rcode == "NOERROR" && fewer
        },
    },
    Exception {
        name: "names outside of the zones",
        why: "CoreDNS fails where no plugin takes a question; we refuse what is not ours (RFC 1035 §4.1.1)",
        is: |case, _| case.ours.rcode == "REFUSED" && case.theirs.rcode == "SERVFAIL",
    },
    Exception {
        name: "weights",
        why: "CoreDNS counts a target once for each of its addresses and ports; weights are shares of targets (RFC 2782)",
        is: |case, _| {
            case.qtype == "SRV"
                && case.ours.rcode == case.theirs.rcode
                && without_weights(&case.ours) == without_weights(&case.theirs)
        },
    },
    Exception {
        name: "pods that are endpoints",
        why: "CoreDNS verifies names of pods by Pod objects alone; an endpoint that an EndpointSlice says to be a pod is one to \
              us as well, an addition",
        is: |case, known| {
            case.theirs.is_nxdomain() && pod_address(&case.name).is_some_and(|pod| known.endpoints.contains(&pod))
        },
    },
    Exception {
        name: "other spellings of a pod's address",
        why: "CoreDNS compares addresses of pods as texts; all spellings of one are the same address (RFC 4291 §2.2)",
        is: |case, known| {
            let Some((label, namespace)) = pod_label(&case.name) else { return false };
            let Ok(address) = label.replace('-', ":").parse::<Ipv6Addr>() else { return false };
            let other = address.to_string().replace(':', "-") != label;
            case.theirs.is_nxdomain() && other && known.pods.contains(&(IpAddr::V6(address), namespace))
        },
    },
    Exception {
        name: "who speaks for a reverse zone",
        why: "CoreDNS names ns.dns and hostmaster of the reverse zone itself, which do not exist; ours are those of the cluster's \
              zone (RFC 1035 §3.3.13)",
        is: |case, _| {
            let one = case.ours.of_type("SOA").count() == 1 && case.theirs.of_type("SOA").count() == 1;
            is_reverse(&case.name) && case.qtype == "SOA" && one
        },
    },
    Exception {
        name: "known addresses outside of our reverse zones",
        why: "CoreDNS is authoritative for the reverse zones that it is given and refuses others; we also answer for single \
              addresses that we know, an addition",
        is: |case, _| {
            is_reverse(&case.name)
                && ["REFUSED", "SERVFAIL"].contains(&case.theirs.rcode.as_str())
                && case.ours.rcode == "NOERROR"
        },
    },
    Exception {
        name: "NODATA for SOA at a name that does not exist",
        why: "CoreDNS says NODATA for SOA at every name; one that does not exist is NXDOMAIN for all types (RFC 2308 §2.1)",
        is: |case, known| {
            case.qtype == "SOA" && case.theirs.is_nodata() && case.ours.is_nxdomain() && !known.exists(&case.name)
        },
    },
    Exception {
        name: "NXDOMAIN at a name that exists",
        why: "CoreDNS says NXDOMAIN at names that have names below them, or records of another type only; \
              NXDOMAIN is about the name and all below it (RFC 8020 §2, RFC 2308 §2.1), so we say NODATA",
        is: |case, known| case.theirs.is_nxdomain() && case.ours.is_nodata() && known.exists(&case.name),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, qtype: &'static str, rcode: &str, records: &[(&str, &str)]) -> Case {
        let record = |(record_type, data): &(&str, &str)| Record {
            name: format!("{name}."),
            record_type: (*record_type).to_owned(),
            data: (*data).to_owned(),
            ttl: 5,
        };
        let theirs = Answer {
            rcode: rcode.to_owned(),
            authoritative: true,
            records: records.iter().map(record).collect(),
            soa: None,
        };
        let ours = Answer { rcode: "NOERROR".to_owned(), records: BTreeSet::new(), ..theirs.clone() };
        Case { name: name.to_owned(), qtype, ours, theirs, note: String::new() }
    }

    #[test]
    fn what_exists_follows_from_answers() {
        let mut known = Known::default();
        let address = "1.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.d.f.ip6.arpa";
        let above = &address[2..];
        let target = "web-1.dns.ns.svc.cluster.local";
        known.learn(&[case(address, "A", "NXDOMAIN", &[]), case(above, "PTR", "NXDOMAIN", &[])]);
        assert!(!known.exists(above));
        known.learn(&[case(address, "PTR", "NOERROR", &[("PTR", "web-1.dns.ns.svc.cluster.local.")])]);
        assert!(!known.exists(above), "the pointer may lead nowhere");
        known.learn(&[case(target, "A", "NOERROR", &[])]);
        assert!(known.exists(above) && known.exists(address));
        known.learn(&[case("_a._tcp.web.ns.svc.cluster.local", "SRV", "NOERROR", &[("SRV", "0 1 1 x.")])]);
        assert!(known.exists("_tcp.WEB.ns.svc.cluster.local"));
        known.learn(&[case("a.udp.web.ns.svc.cluster.local", "SRV", "NOERROR", &[("SRV", "0 1 1 x.")])]);
        assert!(!known.exists("udp.web.ns.svc.cluster.local"));
    }
}
