//! Where we differ from CoreDNS, and mean to.

use super::{Answer, Case};
use std::collections::BTreeSet;

/// A difference that we want.
pub struct Exception {
    /// What it is called in reports.
    pub name: &'static str,
    /// What CoreDNS does, what we do, and by which rule.
    pub why: &'static str,
    /// Whether a case is one of it. Only cases that differ are asked about.
    pub is: fn(&Case, &Known) -> bool,
}

/// What CoreDNS has said about names, over all questions of a run: what it answers without an error for one type exists,
/// and so does everything above it.
#[derive(Default)]
pub struct Known {
    /// Names at which CoreDNS has records.
    at: BTreeSet<String>,
    /// Names below which it has some.
    above: BTreeSet<String>,
}

impl Known {
    /// Takes in what CoreDNS says.
    pub fn learn(&mut self, cases: &[Case]) {
        for case in cases {
            let name = case.name.to_lowercase();
            let owned = case.theirs.records.iter().any(|record| record.name.trim_end_matches('.') == name);
            if owned && self.at.insert(name.clone()) {
                let mut above = name.as_str();
                while let Some((_, rest)) = above.split_once('.') {
                    self.above.insert(rest.to_owned());
                    above = rest;
                }
            }
        }
    }

    /// Forgets everything: the cluster has changed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn exists(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.at.contains(&name) || self.above.contains(&name)
    }
}

fn is_reverse(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with("in-addr.arpa") || name.ends_with("ip6.arpa")
}

fn negative(answer: &Answer) -> bool {
    answer.is_nodata() || answer.is_nxdomain()
}

/// All of them, the particular before the general.
pub const ALL: &[Exception] = &[
    Exception {
        name: "NXDOMAIN at a name that exists",
        why: "CoreDNS says NXDOMAIN at names that have names below them, or records of another type only; \
              NXDOMAIN is about the name and all below it (RFC 8020 §2, RFC 2308 §2.1), so we say NODATA",
        is: |case, known| case.theirs.is_nxdomain() && case.ours.is_nodata() && known.exists(&case.name),
    },
    Exception {
        name: "NODATA for TXT at a name that does not exist",
        why: "CoreDNS says NODATA for TXT at every name; a name that does not exist is NXDOMAIN for all types (RFC 2308 §2.1)",
        is: |case, known| {
            case.qtype == "TXT" && case.theirs.is_nodata() && case.ours.is_nxdomain() && !known.exists(&case.name)
        },
    },
    Exception {
        name: "the zone's SOA as an answer elsewhere",
        why: "CoreDNS answers a question for the SOA of any name in the zone, existing or not, with the zone's, as if it \
              were that name's; it belongs into the authority section then (RFC 2308 §2)",
        is: |case, _| case.qtype == "SOA" && negative(&case.ours) && case.theirs.of_type("SOA").count() == 1,
    },
    Exception {
        name: "the apex' name servers",
        why: "CoreDNS names the Services that lead to its own address, or an address of its host; we name ns.dns and its \
              addresses as configured",
        is: |case, _| {
            let name = case.name.to_lowercase();
            (case.qtype == "NS" && ["cluster.local", "in-addr.arpa", "ip6.arpa"].contains(&name.as_str()))
                || name == "ns.dns.cluster.local"
                || name == "dns.cluster.local"
        },
    },
];

#[allow(dead_code, reason = "used by exceptions to come")]
fn unused() -> fn(&str) -> bool {
    is_reverse
}
