//! What a pod's resolver makes of a name.
//!
//! The kubelet writes a search list into each pod's `resolv.conf`: the services of its namespace, all services, and the
//! zone, with `ndots:5`. A name with fewer dots than that goes through the list first and is asked as it stands at the
//! end. glibc goes on after a name that exists without such records; musl stops there, and both stop at an answer.

use super::told::tell;
use super::{Explanation, FORWARDED, Lookup, bare, packet};
use crate::forward::Forward;
use crate::index::Index;
use crate::name::Name;
use fingerpost_catalog::InstanceView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The dots from which on a name is asked as it stands first: what the kubelet writes for `dnsPolicy: ClusterFirst`.
pub const NDOTS: usize = 5;

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The address.
    pub address: IpAddr,
    /// Its namespace; none where nobody in the catalog has the address.
    pub namespace: Option<String>,
    /// The pod, or else the instance.
    pub name: Option<String>,
    /// Who says so.
    pub sources: Vec<String>,
    /// Other namespaces in which the address is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_in: Vec<String>,
}

/// What a resolver makes of a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Search {
    /// What it was given.
    pub name: String,
    /// The search list.
    pub domains: Vec<String>,
    /// See [`NDOTS`].
    pub ndots: usize,
    /// The names in the order in which they are asked, until one wins.
    pub candidates: Vec<Candidate>,
    /// Which of them wins; none where all fail.
    pub winner: Option<usize>,
    /// Queries that this takes, for one record type; programs mostly ask for A and AAAA, which takes twice as many.
    pub queries: usize,
    /// How to do with less.
    pub hint: Option<String>,
}

/// A name that a resolver tries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The name, absolute.
    pub name: String,
    /// What this server answers.
    pub rcode: String,
    /// How many records it answers.
    pub records: usize,
    /// Whether it lies in no zone of this server.
    pub outside: bool,
}

impl Candidate {
    fn wins(&self) -> bool {
        self.rcode == "NOERROR" && self.records > 0
    }

    /// Whether it is a name of ours whose answer depends on others: an alias, or the rest of the search path. What they
    /// say decides whether the resolver goes on.
    fn depends(&self) -> bool {
        self.rcode == FORWARDED && !self.outside
    }

    fn ends(&self) -> bool {
        self.wins() || self.depends()
    }
}

impl Explanation {
    /// Finds out who asks, and what they ask for: the name to explain.
    pub(super) fn walk(
        &mut self,
        index: &Arc<Index>,
        forward: Option<&Arc<Forward>>,
        name: &str,
        from: IpAddr,
        lookup: &dyn Lookup,
    ) -> String {
        let origin = origin(from, &lookup.at(from));
        match &origin.namespace {
            Some(namespace) => {
                let name = origin.name.as_deref().unwrap_or_default();
                self.step(
                    true,
                    format!("{from} is `{name}` in namespace `{namespace}` ({}).", origin.sources.join(", ")),
                );
                if !origin.also_in.is_empty() {
                    self.step(
                        true,
                        format!(
                            "The address is known in other namespaces, too ({}). Pods in their node's network share its \
                             address, and use the node's resolver unless their `dnsPolicy` is `ClusterFirstWithHostNet`.",
                            origin.also_in.join(", ")
                        ),
                    );
                }
            }
            None => self.step(
                false,
                format!(
                    "Nobody in the catalog has the address {from}: which namespace its resolver searches is not known."
                ),
            ),
        }
        let namespace = origin.namespace.clone();
        self.from = Some(origin);
        if name.ends_with('.') {
            return name.to_owned();
        }
        let search = search((index, forward), name, (&self.qtype, from), namespace.as_deref());
        let explained = match search.winner {
            Some(winner) => search.candidates.get(winner),
            // What others say of it is what matters.
            None => search.candidates.iter().find(|candidate| candidate.rcode == FORWARDED),
        };
        let explained = explained.or_else(|| meant(&search, &bare(&index.zones.primary)));
        let explained = explained.map_or_else(|| name.to_owned(), |candidate| candidate.name.clone());
        self.search = Some(search);
        explained
    }
}

fn origin(address: IpAddr, holders: &[Arc<InstanceView>]) -> Origin {
    // A pod says most about who asks; else any instance that has the address.
    let pods: Vec<&Arc<InstanceView>> =
        holders.iter().filter(|view| !crate::pods::addresses(view).is_empty()).collect();
    let who: Vec<&Arc<InstanceView>> = if pods.is_empty() { holders.iter().collect() } else { pods };
    let namespaces: BTreeSet<&str> = who.iter().map(|view| &*view.key.namespace).collect();
    let mut namespaces = namespaces.into_iter().map(str::to_owned);
    let namespace = namespaces.next();
    let first = who.iter().find(|view| Some(&*view.key.namespace) == namespace.as_deref());
    let name =
        first.map(|view| view.instance.pod.as_ref().map_or_else(|| view.key.id.to_string(), |pod| pod.name.clone()));
    let sources: BTreeSet<String> = who.iter().map(|view| view.key.source.to_string()).collect();
    Origin { address, namespace, name, sources: sources.into_iter().collect(), also_in: namespaces.collect() }
}

fn search(
    (index, forward): (&Arc<Index>, Option<&Arc<Forward>>),
    name: &str,
    (qtype, from): (&str, IpAddr),
    namespace: Option<&str>,
) -> Search {
    let zone = bare(&index.zones.primary);
    let own = namespace.map(|namespace| format!("{namespace}.svc.{zone}"));
    // Those of the node follow, as far as they are known.
    let further = forward.and_then(|forward| forward.config.search.as_ref()).into_iter().flatten();
    let domains: Vec<String> =
        own.into_iter().chain([format!("svc.{zone}"), zone]).chain(further.map(ToString::to_string)).collect();
    let absolute = std::iter::once(format!("{name}."));
    let searched = domains.iter().map(|domain| format!("{name}.{domain}."));
    let names: Vec<String> = if name.matches('.').count() < NDOTS {
        searched.chain(absolute).collect()
    } else {
        absolute.chain(searched).collect()
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    for name in names {
        // What is too long with a domain at its end is left out.
        let Ok((packet, wire)) = packet(&name, qtype) else { continue };
        let told = tell(index, forward, &packet, Some(from)).unwrap_or_default();
        let outside = index.zones.find(wire.wire()).is_none();
        candidates.push(Candidate { name, rcode: told.rcode, records: told.lines.len(), outside });
        if candidates.last().is_some_and(Candidate::ends) {
            break;
        }
    }
    let winner = candidates.iter().position(Candidate::wins);
    let queries = candidates.len();
    let hint = match winner {
        Some(place) if place > 0 => candidates.get(place).map(|candidate| {
            format!("`{}`, with the dot at its end, takes one query instead of {queries}", candidate.name)
        }),
        None if Name::from_text(name).is_some_and(|wire| index.zones.find(wire.wire()).is_none()) && queries > 1 => {
            Some(format!(
                "if it is a name of the outside, `{name}.`, with the dot at its end, takes one query instead of {queries}"
            ))
        }
        _ => None,
    };
    Search { name: name.to_owned(), domains, ndots: NDOTS, candidates, winner, queries, hint }
}

/// The candidate that was most likely meant where none wins: one label is a service of the own namespace, one that ends
/// in `svc` or `pod` lacks the zone, and one in a zone of ours is whole.
fn meant<'a>(search: &'a Search, zone: &str) -> Option<&'a Candidate> {
    let labels: Vec<&str> = search.name.split('.').skip_while(|label| label.starts_with('_')).collect();
    let domain = match *labels.as_slice() {
        [_] => search.domains.first().cloned(),
        [.., "svc" | "pod"] => Some(zone.to_owned()),
        _ => Some(format!("svc.{zone}")),
    };
    let whole = || search.candidates.iter().find(|candidate| candidate.name == format!("{}.", search.name));
    let in_domain = |domain: &String| format!("{}.{domain}.", search.name);
    let completed = || {
        let wanted = domain.as_ref().map(in_domain)?;
        search.candidates.iter().find(|candidate| candidate.name == wanted)
    };
    whole().filter(|candidate| !candidate.outside).or_else(completed).or_else(whole)
}
