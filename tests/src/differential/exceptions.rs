//! Where we differ from CoreDNS, and mean to.
//!
//! An exception recognises its cases by the question, by both answers, and by what CoreDNS says to other questions; what we
//! say is never evidence for us.

use super::{Answer, Case, Record, questions};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Services that there are, as `name.namespace`.
    services: BTreeSet<String>,
    /// Further addresses of pods that have one of another family before it, as `address namespace`.
    second_addresses: BTreeSet<(String, String)>,
}

impl Known {
    /// What there is in a cluster.
    pub fn new(world: &super::world::World) -> Self {
        let mut known = Self::default();
        for service in world.of_kind("Service") {
            let (name, namespace) = crate::kubernetes::objects::identity(service);
            known.services.insert(format!("{name}.{namespace}"));
        }
        for pod in world.of_kind("Pod") {
            let namespace = crate::kubernetes::objects::namespace_of(pod).to_owned();
            let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten().skip(1);
            for address in addresses.filter_map(|address| address["ip"].as_str()) {
                known.second_addresses.insert((questions::dashed(address), namespace.clone()));
            }
        }
        known
    }

    /// Takes in what CoreDNS says.
    pub fn learn(&mut self, cases: &[Case]) {
        for case in cases {
            let name = case.name.to_lowercase();
            for record in case.theirs.records.iter().filter(|record| owner(record) == name) {
                match record.record_type.as_str() {
                    "CNAME" => drop(self.aliases.insert(name.clone(), target(record))),
                    "A" | "AAAA" => {
                        let key = (name.clone(), record.record_type.clone());
                        self.addresses.entry(key).or_default().insert(record.data.clone());
                    }
                    // It has the zone's at every name.
                    "SOA" if case.theirs.records.len() == 1 => {}
                    _ => {}
                }
                if self.at.insert(name.clone()) {
                    let mut above = name.as_str();
                    while let Some((_, rest)) = above.split_once('.') {
                        self.above.insert(rest.to_owned());
                        above = rest;
                    }
                }
            }
        }
    }

    /// Whether there are records at the name, or below it.
    fn exists(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.at.contains(&name) || self.above.contains(&name)
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

fn negative(answer: &Answer) -> bool {
    answer.is_nodata() || answer.is_nxdomain()
}

/// Whether a name is that of a port: `_http._tcp.…`, or, without underscores, what CoreDNS takes for one.
fn port_labels(name: &str) -> Option<(bool, bool)> {
    let labels: Vec<&str> = name.strip_suffix(".svc.cluster.local")?.split('.').collect();
    let [port, protocol, _, _] = labels[..] else { return None };
    Some((port.starts_with('_'), protocol.starts_with('_')))
}

/// Records as they are but for the weight of SRV records.
fn without_weights(answer: &Answer) -> BTreeSet<(String, String, String, u32)> {
    let data = |record: &Record| {
        let fields = record.data.split(' ').enumerate().filter(|(n, _)| *n != 1 || record.record_type != "SRV");
        fields.map(|(_, field)| field).collect::<Vec<_>>().join(" ")
    };
    answer.records.iter().map(|r| (r.name.clone(), r.record_type.clone(), data(r), r.ttl)).collect()
}

/// All of them, the particular before the general.
pub const ALL: &[Exception] = &[
    Exception {
        name: "the zone's SOA as an answer elsewhere",
        why: "CoreDNS answers a question for the SOA of any name in the zone, existing or not, with the zone's, as if it \
              were that name's; it belongs into the authority section then (RFC 2308 §2)",
        is: |case, _| {
            let theirs = case.theirs.records.iter().all(|record| owner(record) != case.name.to_lowercase());
            case.qtype == "SOA"
                && theirs
                && case.theirs.of_type("SOA").count() == 1
                && case.ours.of_type("SOA").count() == 0
        },
    },
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
        name: "an alias for every type",
        why: "CoreDNS leaves a CNAME out where its target does not exist or lacks the type, and for types other than A and \
              AAAA; a name with a CNAME answers with it whatever is asked, with the response code of the last name \
              (RFC 1034 §3.6.2, RFC 6604 §3)",
        is: |case, known| {
            let name = case.name.to_lowercase();
            let stays = case.ours.of_type("CNAME").any(|record| {
                owner(record) == name && known.aliases.get(&name).is_some_and(|alias| *alias == target(record))
            });
            stays && case.qtype != "CNAME" && (negative(&case.theirs) || case.theirs.of_type("SOA").count() == 1)
        },
    },
    Exception {
        name: "aliases that go round",
        why: "CoreDNS drops all aliases of a circle and says NODATA; they are an error (RFC 1034 §3.6.2)",
        is: |case, known| {
            case.ours.rcode == "SERVFAIL" && case.theirs.records.is_empty() && known.goes_round(&case.name)
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
        name: "addresses behind slices without a Service",
        why: "CoreDNS answers the reverse name of an endpoint whose Service does not exist with a name that does not exist \
              either; a PTR leads to a name (RFC 1035 §3.3.12)",
        is: |case, known| {
            let leads_nowhere = |record: &Record| {
                let name = target(record);
                let service = name.strip_suffix(".svc.cluster.local").and_then(|name| name.split_once('.'));
                service.is_none_or(|(_, service)| !known.services.contains(service))
            };
            let (nowhere, somewhere): (Vec<_>, Vec<_>) = case.theirs.of_type("PTR").partition(|r| leads_nowhere(r));
            is_reverse(&case.name) && !nowhere.is_empty() && case.ours.records.iter().eq(somewhere)
        },
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
        name: "a pod's second address",
        why: "CoreDNS verifies names of pods by status.podIP alone; we know all of status.podIPs, an addition",
        is: |case, known| {
            let Some((label, rest)) = case.name.split_once('.') else { return false };
            let Some(namespace) = rest.to_lowercase().strip_suffix(".pod.cluster.local").map(str::to_owned) else {
                return false;
            };
            known.second_addresses.contains(&(label.to_lowercase(), namespace)) && case.theirs.is_nxdomain()
        },
    },
    Exception {
        name: "known addresses outside of our reverse zones",
        why: "CoreDNS is authoritative for the reverse zones that it is given and refuses others; we also answer for single \
              addresses that we know, an addition",
        is: |case, _| is_reverse(&case.name) && case.theirs.rcode == "REFUSED" && case.ours.rcode != "NXDOMAIN",
    },
    Exception {
        name: "NODATA for TXT at a name that does not exist",
        why: "CoreDNS says NODATA for TXT at every name; one that does not exist is NXDOMAIN for all types (RFC 2308 §2.1)",
        is: |case, known| {
            case.qtype == "TXT" && case.theirs.is_nodata() && case.ours.is_nxdomain() && !known.exists(&case.name)
        },
    },
    Exception {
        name: "NXDOMAIN at a name that exists",
        why: "CoreDNS says NXDOMAIN at names that have names below them, or records of another type only; \
              NXDOMAIN is about the name and all below it (RFC 8020 §2, RFC 2308 §2.1), so we say NODATA",
        is: |case, known| case.theirs.is_nxdomain() && case.ours.is_nodata() && known.exists(&case.name),
    },
];
