//! Says why a name answers as it does: every step from the name to the records, and each instance with the reason why it
//! is in or out. For a client whose address is known, it also walks the names that the client's resolver makes of it.
//!
//! - `services`: names of services, their instances and ports; `pods`: names of pods; `instances`: why
//!   an instance is answered.
//! - `outside`: names that are in no zone of ours, forwarded or not.
//! - `search`: the search list of a pod's resolver; `path`: what is left of it, where the server walks it.
//! - `told`: what the server answers.

mod instances;
mod outside;
mod path;
mod pods;
mod search;
mod services;
mod told;

pub use instances::InstanceReason;
pub use outside::FORWARDED;
pub use search::{Candidate, NDOTS, Origin, Search};

use crate::config::Pods;
use crate::forward::{Explained, Forward};
use crate::index::Index;
use crate::name::{self, Name};
use crate::query;
use crate::zones::{Kind, Within};
use fingerpost_catalog::{InstanceView, NamespaceView, ServiceView, Source};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;
use told::{Told, tell};

/// Most instances that an explanation lists.
pub const MAX_INSTANCES: usize = 100;
/// Most records that an explanation lists.
pub const MAX_RECORDS: usize = 100;

/// Where the views come from: the catalog's replica.
pub trait Lookup {
    /// A namespace.
    fn namespace(&self, name: &str) -> Option<Arc<NamespaceView>>;
    /// A service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceView>>;
    /// A service's instances, those that are not answered, too.
    fn instances(&self, namespace: &str, service: &str) -> Vec<Arc<InstanceView>>;
    /// The instances that have an address, of services and of none.
    fn at(&self, address: IpAddr) -> Vec<Arc<InstanceView>>;
}

/// Why a name answers as it does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The name, as it was understood.
    pub name: String,
    /// The type asked for.
    #[serde(rename = "type")]
    pub qtype: String,
    /// Who asks, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// What their resolver makes of the name; none where the name is whole, or nobody in particular asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// What this server answers now; [`FORWARDED`] where it is for others to say, and not known yet.
    pub rcode: String,
    /// From the name to the answer. The first that is not `ok` is the reason for a negative answer.
    pub steps: Vec<Step>,
    /// The instances that the name is about, at most [`MAX_INSTANCES`].
    pub instances: Vec<InstanceReason>,
    /// How many there are.
    pub instances_total: usize,
    /// The records of the answer, at most [`MAX_RECORDS`].
    pub answer: Vec<String>,
    /// How many there are.
    pub answer_total: usize,
    /// Whom it asks, where the name is none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Explained>,
    /// The position that the answer includes; none before the first sync.
    pub position: Option<String>,
    /// How long ago the registry was last heard of.
    pub age_seconds: f64,
}

/// One step of an explanation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Whether it leads on.
    pub ok: bool,
    /// What is so.
    pub text: String,
}

/// Explains what the index answers to a question. With `from`, the name is taken as that client's resolver takes it: one
/// without a dot at its end goes through the search list, and what wins is explained. Of names of others it says whom
/// `forward` asks; nobody is asked for that.
pub fn explain(
    (index, forward): (&Arc<Index>, Option<&Arc<Forward>>),
    name: &str,
    qtype: &str,
    from: Option<IpAddr>,
    lookup: &dyn Lookup,
) -> Explanation {
    let mut explanation = Explanation {
        name: name.to_owned(),
        qtype: qtype.to_ascii_uppercase(),
        from: None,
        search: None,
        rcode: String::new(),
        steps: Vec::new(),
        instances: Vec::new(),
        instances_total: 0,
        answer: Vec::new(),
        answer_total: 0,
        forwarding: None,
        position: index.position().map(|position| position.to_string()),
        age_seconds: index.age().as_secs_f64(),
    };
    // The name itself must be one before anything is made of it.
    if let Err(text) = packet(name, qtype) {
        explanation.step(false, text);
        return explanation;
    }
    let mut name = name.to_owned();
    if let Some(from) = from {
        name = explanation.walk(index, forward, &name, from, lookup);
    }
    let (packet, wire) = match packet(&name, qtype) {
        Ok(question) => question,
        Err(text) => {
            explanation.step(false, text);
            return explanation;
        }
    };
    explanation.name = wire.to_string();
    if index.is_synced() {
        explanation.step(true, "This server knows the whole catalog.");
    } else {
        let text = "This server has not yet received the whole catalog; until then it answers SERVFAIL, not NXDOMAIN.";
        explanation.step(false, text);
    }
    if name.bytes().any(|c| c.is_ascii_uppercase()) {
        explanation.step(true, "Upper and lower case mean the same; the answer keeps the spelling of the question.");
    }
    let told = tell(index, forward, &packet, from).unwrap_or_default();
    let found = forward.and_then(|forward| forward.rewritten(wire.wire(), &index.zones));
    let rewritten = found.map(|found| {
        let target = Name::from_wire(&found.target);
        explanation.step(true, format!("It is looked up as `{target}`, by `--rewrite {}`.", found.rule));
        target
    });
    explanation.steps_to((index, forward), &wire, rewritten.as_ref(), from, (lookup, &told));
    if let (Some(forwarding), Some(target)) = (&mut explanation.forwarding, &rewritten)
        && forwarding.name == target.to_string()
    {
        forwarding.name = wire.to_string();
        forwarding.rewritten = Some(target.to_string());
    }
    let Told { rcode, lines, .. } = told;
    explanation.rcode = rcode;
    explanation.answer_total = lines.len();
    explanation.answer = lines.iter().take(MAX_RECORDS).map(ToString::to_string).collect();
    explanation
}

/// A question as a packet, and its name; what is wrong with it, if it can't be asked.
fn packet(name: &str, qtype: &str) -> Result<(Vec<u8>, Name), String> {
    let (_, packet) = query::question(name, qtype).map_err(|error| error.to_string())?;
    let wire = Name::from_text(name).ok_or_else(|| format!("`{name}` is not a domain name"))?;
    Ok((packet, wire))
}

/// The labels of a name, first to last.
fn labels(wire: &[u8]) -> Vec<String> {
    let mut rest = wire;
    let mut labels = Vec::new();
    while let Some((&length, tail)) = rest.split_first() {
        let Some((label, next)) = tail.split_at_checked(usize::from(length)) else {
            break;
        };
        if length > 0 {
            labels.push(String::from_utf8_lossy(label).into_owned());
        }
        rest = next;
    }
    labels
}

/// Whether a name exists in the table, whatever it has.
fn exists(index: &Index, name: &str) -> bool {
    let Some(name) = Name::from_text(name) else { return false };
    index.table.read(name.wire(), |_| ()).is_some() || index.pod_address(name.wire()).is_some()
}

/// A zone's or a name's text as people write it.
fn bare(name: &Name) -> String {
    let text = name.to_string();
    text.strip_suffix('.').map_or_else(|| text.clone(), str::to_owned)
}

impl Explanation {
    fn step(&mut self, ok: bool, text: impl Into<String>) {
        self.steps.push(Step { ok, text: text.into() });
    }

    /// The steps to the answer, and to whom it asks for it.
    fn steps_to(
        &mut self,
        (index, forward): (&Arc<Index>, Option<&Arc<Forward>>),
        asked: &Name,
        rewritten: Option<&Name>,
        from: Option<IpAddr>,
        (lookup, told): (&dyn Lookup, &Told),
    ) {
        let name = rewritten.unwrap_or(asked);
        let within = index.zones.find(name.wire());
        // What a name is looked up as is not asked of the table outside of our zones.
        let outside = within.is_none() && (rewritten.is_some() || outside::is_outside(index, name));
        let Some(forward) = forward else { return self.describe(index, name, within, lookup, false) };
        if outside {
            return self.forwarded(forward, name, from);
        }
        let asks = from.is_none_or(|client| forward.allows(client));
        self.describe(index, name, within, lookup, asks);
        if let Some(within) = within.filter(|_| asks && rewritten.is_none()) {
            self.path(index, forward, name, within, told);
        }
        if let Some(key) = told.looked.last() {
            self.looked_for(forward, key, from);
        }
    }

    fn describe(&mut self, index: &Arc<Index>, wire: &Name, within: Option<Within>, lookup: &dyn Lookup, asks: bool) {
        let Some(within) = within else {
            return self.outside(index, wire, lookup);
        };
        let primary = bare(&index.zones.primary);
        let zone = index.zones.name(within.kind).map(bare).unwrap_or_default();
        match within.kind {
            Kind::Reverse => {
                self.step(true, "It lies in a reverse zone that this server is authoritative for.");
                return self.reverse(index, wire, lookup);
            }
            Kind::Primary => self.step(true, format!("It lies in the zone `{zone}`.")),
            Kind::Alias(_) => self.step(true, format!("It lies in the zone `{zone}`, another name of `{primary}`.")),
        }
        let labels = labels(&wire.wire()[..within.apex_at]);
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match *labels.as_slice() {
            [] => self.step(true, "It is the zone's apex: it has SOA and NS."),
            ["dns-version"] => self.step(true, "It tells the version of the DNS specification (TXT)."),
            ["ns", "dns"] => self.step(true, "It is the zone's name server."),
            ["dns" | "svc" | "pod"] => self.step(true, "It exists only for the names below it."),
            [namespace, kind @ ("svc" | "pod")] => self.namespace(index, namespace, kind, &zone, lookup),
            [label, namespace, "pod"] => self.pod(index, label, namespace, lookup),
            [.., "pod"] => self.step(
                false,
                format!(
                    "A pod's name is its address with dashes, in its namespace: `10-1-2-3.<namespace>.pod.{zone}`."
                ),
            ),
            [ref below @ .., service, namespace, "svc"] if below.len() <= 2 => {
                self.service(index, namespace, service, below, (lookup, asks));
            }
            _ => self.no_form(index, &labels, &zone, &primary),
        }
    }

    /// A name in our zone that has no form that a name can have.
    fn no_form(&mut self, index: &Index, labels: &[&str], zone: &str, primary: &str) {
        let joined = labels.join(".");
        let mut text = match labels {
            [.., service, namespace, "svc"] => format!(
                "There {} too many: before `{service}.{namespace}.svc` stand at most an instance, or a port \
                 and its protocol.",
                match labels.len().saturating_sub(5) {
                    1 => "is 1 label".to_owned(),
                    n => format!("are {n} labels"),
                }
            ),
            _ => "No name of that form exists.".to_owned(),
        };
        text.push_str(&format!(
            " There are `<service>.<namespace>.svc.{zone}`, `<instance>.<service>.<namespace>.svc.{zone}` and \
             `_<port>._<protocol>.<service>.<namespace>.svc.{zone}`."
        ));
        if labels.last() != Some(&"svc") && exists(index, &format!("{joined}.svc.{primary}")) {
            text.push_str(&format!(" `{joined}.svc.{zone}` exists: the label `svc` is missing."));
        }
        self.step(false, text);
    }

    fn reverse(&mut self, index: &Index, wire: &Name, lookup: &dyn Lookup) {
        let Some(address) = name::reverse_address(wire.wire()) else {
            return self.step(true, "It stands for no single address.");
        };
        if index.table.read(wire.wire(), |_| ()).is_some() {
            return self.step(true, format!("{address} belongs to a service or an answered instance."));
        }
        let holders: Vec<String> = lookup.at(address).iter().take(5).map(|view| view.key.to_string()).collect();
        let mut text = format!("{address} belongs to no service and no answered instance of one.");
        if !holders.is_empty() {
            text.push_str(&format!(" What has it: {}; only services' instances have names.", holders.join(", ")));
        }
        self.step(false, text);
    }

    fn namespace(&mut self, index: &Index, namespace: &str, kind: &str, zone: &str, lookup: &dyn Lookup) {
        match lookup.namespace(namespace) {
            Some(_) if kind == "pod" && index.config.pods == Pods::Disabled => {
                self.step(false, "This server answers no names of pods (`--pods disabled`).");
            }
            Some(view) => {
                let by = declared(&view.sources);
                self.step(true, format!("Namespace `{namespace}` exists ({by}); its name has no records of its own."));
            }
            None => {
                let text = format!("Namespace `{namespace}` does not exist.");
                let form = format!("A service's name has its namespace in it: `<service>.<namespace>.svc.{zone}`.");
                self.step(false, if kind == "svc" { format!("{text} {form}") } else { text });
            }
        }
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn declared(sources: &[Source]) -> String {
    match sources {
        [] => "by what is in it; nobody declares it".to_owned(),
        [one] => format!("declared by {one}"),
        [first, rest @ ..] => format!("declared by {first}, whose word counts, and by {}", join(rest)),
    }
}
