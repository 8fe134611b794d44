//! Says why a name answers as it does: every step from the name to the records, and each instance with the reason why it
//! is in or out.

use crate::answer::{Answerer, Transport, Verdict};
use crate::index::Index;
use crate::metrics::Counters;
use crate::name::{self, Name, dashed};
use crate::query;
use fingerpost_catalog::{
    AllCritical, Health, InstanceView, NamespaceView, PartState, ServiceType, ServiceView, Source,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    /// What this server answers now.
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

/// An instance, and why it is in the answer or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceReason {
    /// Its id.
    pub id: String,
    /// Whose record it is.
    pub source: String,
    /// Its labels in DNS: one, or one for each address.
    pub labels: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its health.
    pub health: Health,
    /// Whether it is answered.
    pub answered: bool,
    /// Why.
    pub reason: String,
}

/// Explains what the index answers to a question.
pub fn explain(index: &Arc<Index>, name: &str, qtype: &str, lookup: &dyn Lookup) -> Explanation {
    let mut explanation = Explanation {
        name: name.to_owned(),
        qtype: qtype.to_ascii_uppercase(),
        rcode: String::new(),
        steps: Vec::new(),
        instances: Vec::new(),
        instances_total: 0,
        answer: Vec::new(),
        answer_total: 0,
        position: index.position().map(|position| position.to_string()),
        age_seconds: index.age().as_secs_f64(),
    };
    let question = query::question(name, qtype);
    let (Ok((_, packet)), Some(wire)) = (&question, Name::from_text(name)) else {
        let text = question.err().map_or_else(|| format!("`{name}` is not a domain name"), |e| e.to_string());
        explanation.step(false, text);
        return explanation;
    };
    explanation.name = wire.to_string();
    if index.is_synced() {
        explanation.step(true, "This server knows the whole catalog.".to_owned());
    } else {
        let text = "This server has not yet received the whole catalog; until then it answers SERVFAIL, not NXDOMAIN.";
        explanation.step(false, text.to_owned());
    }
    explanation.describe(index, &wire, lookup);
    explanation.ask(index, packet);
    explanation
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

impl Explanation {
    fn step(&mut self, ok: bool, text: String) {
        self.steps.push(Step { ok, text });
    }

    /// What the index says: the very code that serves.
    fn ask(&mut self, index: &Arc<Index>, packet: &[u8]) {
        let mut answerer = Answerer::new(index.clone(), Arc::new(Counters::default()));
        let mut out = Vec::new();
        // Over TCP nothing is cut.
        if answerer.answer(packet, Transport::Tcp, &mut out) == Verdict::Send
            && let Some((rcode, lines)) = query::read(&out)
        {
            self.rcode = rcode;
            self.answer_total = lines.len();
            self.answer = lines.iter().take(MAX_RECORDS).map(ToString::to_string).collect();
        }
    }

    fn describe(&mut self, index: &Arc<Index>, wire: &Name, lookup: &dyn Lookup) {
        let zone = &index.config.zone;
        let Some(within) = index.zones.find(wire.wire()) else {
            return self.outside(index, wire);
        };
        if !within.cluster {
            self.step(true, "It lies in a reverse zone that this server is authoritative for.".to_owned());
            return self.reverse(index, wire);
        }
        self.step(true, format!("It lies in the zone `{zone}`."));
        let labels = labels(&wire.wire()[..within.apex_at]);
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => self.step(true, "It is the zone's apex: it has SOA and NS.".to_owned()),
            ["dns-version"] => self.step(true, "It tells the version of the DNS specification (TXT).".to_owned()),
            ["ns", "dns"] => self.step(true, "It is the zone's name server.".to_owned()),
            ["dns" | "svc" | "pod"] => self.step(true, "It exists only for the names below it.".to_owned()),
            [namespace, "svc" | "pod"] => self.namespace(namespace, lookup),
            [service, namespace, "svc"] => self.service(namespace, service, &[], lookup),
            [label, service, namespace, "svc"] => self.service(namespace, service, &[label], lookup),
            [port, proto, service, namespace, "svc"] if port.starts_with('_') && proto.starts_with('_') => {
                self.service(namespace, service, &[port, proto], lookup);
            }
            [.., "pod"] => self.step(false, "This server has no names for pods by address.".to_owned()),
            _ => self.step(
                false,
                format!(
                    "No name of that form exists. There are `<service>.<namespace>.svc.{zone}`, \
                     `<instance>.<service>.<namespace>.svc.{zone}` and \
                     `_<port>._<protocol>.<service>.<namespace>.svc.{zone}`."
                ),
            ),
        }
    }

    fn outside(&mut self, index: &Index, wire: &Name) {
        if crate::zones::is_reverse(wire.wire()) {
            self.step(true, "It lies in no reverse zone of this server, which answers it only if known.".to_owned());
            return self.reverse(index, wire);
        }
        let zone = &index.config.zone;
        let mut text = format!("It lies in no zone of this server (`{zone}`, and reverse zones): refused.");
        let bare = wire.to_string();
        let bare = bare.trim_end_matches('.');
        // What a client's search list would have made of it.
        let completions = [format!("{bare}.{zone}"), format!("{bare}.svc.{zone}")];
        let known = completions
            .iter()
            .find(|text| Name::from_text(text).is_some_and(|name| index.table.read(name.wire(), |_| ()).is_some()));
        if let Some(known) = known {
            text.push_str(&format!(" `{known}` exists: a search list would have completed the name."));
        }
        self.step(false, text);
    }

    fn reverse(&mut self, index: &Index, wire: &Name) {
        match name::reverse_address(wire.wire()) {
            None => self.step(true, "It stands for no single address.".to_owned()),
            Some(address) => match index.table.read(wire.wire(), |_| ()) {
                Some(()) => self.step(true, format!("{address} belongs to a service or an answered instance.")),
                None => self.step(false, format!("{address} belongs to no service and no answered instance of one.")),
            },
        }
    }

    fn namespace(&mut self, namespace: &str, lookup: &dyn Lookup) {
        match lookup.namespace(namespace) {
            Some(view) => {
                let by = declared(&view.sources);
                self.step(true, format!("Namespace `{namespace}` exists ({by}); its name has no records of its own."));
            }
            None => self.step(false, format!("Namespace `{namespace}` does not exist.")),
        }
    }

    fn service(&mut self, namespace: &str, service: &str, below: &[&str], lookup: &dyn Lookup) {
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
            return self.external_name(&view, below);
        }
        let instances = lookup.instances(namespace, service);
        let panics = view.all_critical == AllCritical::All
            && !instances.iter().any(|i| i.answerable && i.own_addresses().next().is_some());
        let mut about: Vec<InstanceReason> = instances.iter().map(|i| reason(i, &view, panics)).collect();
        let answered = about.iter().filter(|instance| instance.answered).count();
        let total = about.len();
        match view.service_type {
            ServiceType::ClusterIP if below.len() != 1 => self.step(
                !view.cluster_ips.is_empty(),
                match view.cluster_ips.as_slice() {
                    [] => "It has no address of its own.".to_owned(),
                    ips => format!("Its addresses: {}.", join(ips)),
                },
            ),
            _ => self.step(
                answered > 0,
                match (total, answered) {
                    (0, _) => "It has no instance.".to_owned(),
                    (_, 0) => {
                        let rule = match view.all_critical {
                            AllCritical::None => "`allCritical: none`, the default, leaves it so",
                            AllCritical::All => "`allCritical: all` brings back none of the drained",
                        };
                        format!("None of its {total} instances can be answered, and {rule}: as if it did not exist.")
                    }
                    _ if panics => format!(
                        "All of its instances are critical, and `allCritical: all` has {answered} of {total} answered \
                         all the same."
                    ),
                    _ => format!("{answered} of its {total} instances can be answered."),
                },
            ),
        }
        match below {
            [label] => {
                about.retain(|instance| instance.labels.iter().any(|own| own == label));
                let found = about.iter().any(|instance| instance.answered);
                self.step(
                    found,
                    match (about.is_empty(), found) {
                        (_, true) => format!("`{label}` names an instance that is answered."),
                        (true, _) => format!("No instance has the label `{label}`."),
                        (false, _) => format!("The instance that `{label}` names is not answered."),
                    },
                );
            }
            [port, proto] => self.port(port, proto, &view, &instances),
            _ => {}
        }
        // What is left out is what needs no explanation.
        about.sort_by_key(|instance| instance.answered);
        self.instances_total = about.len();
        about.truncate(MAX_INSTANCES);
        self.instances = about;
    }

    fn port(&mut self, port: &str, proto: &str, view: &ServiceView, instances: &[Arc<InstanceView>]) {
        let headless = view.service_type == ServiceType::Headless;
        let own = instances.iter().filter(|_| headless).flat_map(|instance| &instance.instance.ports);
        let mut names: Vec<String> = view
            .ports
            .iter()
            .chain(own)
            .filter(|port| !port.name.is_empty())
            .map(|port| format!("_{}._{}", port.name, port.protocol.dns_label()))
            .collect();
        names.sort_unstable();
        names.dedup();
        let wanted = format!("{port}.{proto}");
        if names.contains(&wanted) {
            self.step(true, format!("`{wanted}` is one of its named ports."));
        } else if names.is_empty() {
            self.step(false, "It has no named port; only such have SRV names.".to_owned());
        } else {
            names.truncate(20);
            self.step(false, format!("`{wanted}` is none of its named ports: {}.", names.join(", ")));
        }
    }

    fn external_name(&mut self, view: &ServiceView, below: &[&str]) {
        if !below.is_empty() {
            return self.step(false, "Nothing exists below an alias.".to_owned());
        }
        match view.external_name.as_deref() {
            None | Some("") => self.step(false, "It says not of what.".to_owned()),
            Some(target) if target.parse::<std::net::IpAddr>().is_ok() => self.step(
                false,
                format!("`{target}` is an address, and an alias needs a name: declare a headless service instead."),
            ),
            Some(target) => self.step(true, format!("It is an alias of `{target}`.")),
        }
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn declared(sources: &[Source]) -> String {
    if sources.is_empty() {
        "by what is in it; nobody declares it".to_owned()
    } else {
        format!("declared by {}", join(sources))
    }
}

fn reason(view: &InstanceView, service: &ServiceView, panics: bool) -> InstanceReason {
    let own = view.own_addresses().next().is_some();
    let (answered, reason) = if view.instance.addresses.is_empty() {
        (false, "it has no address".to_owned())
    } else if !own {
        let text = "its addresses are another record's, whose source ranks higher; that record speaks for them";
        (false, text.to_owned())
    } else if view.answerable {
        (true, format!("its health is {}", view.effective))
    } else if panics && view.panic_answerable {
        (true, format!("{}, but so are all, and the service has `allCritical: all`", worst(view)))
    } else if view.effective == Health::Unknown && !service.answer_unknown {
        (false, format!("{}; the service does not answer such (`answerUnknown`)", worst(view)))
    } else {
        (false, worst(view))
    };
    let labels = match view.dns_label() {
        Some(label) => vec![label.to_ascii_lowercase()],
        None => view.own_addresses().map(dashed).collect(),
    };
    InstanceReason {
        id: view.key.id.to_string(),
        source: view.key.source.to_string(),
        labels,
        addresses: view.instance.addresses.iter().map(ToString::to_string).collect(),
        health: view.effective,
        answered,
        reason,
    }
}

/// The part that makes the health what it is, in words.
fn worst(view: &InstanceView) -> String {
    let parts = &view.parts;
    let fixed = [
        (&parts.drain, "it is drained"),
        (&parts.session, "its session has expired"),
        (&parts.conditions, "it is not ready"),
        (&parts.reported, "its source reports it so"),
    ];
    let is_worst = |part: &PartState| part.health == view.effective;
    let with_note = |text: String, part: &PartState| match part.note.as_str() {
        "" => text,
        note => format!("{text} ({note})"),
    };
    let found = fixed
        .into_iter()
        .find_map(|(part, text)| part.as_ref().filter(|part| is_worst(part)).map(|part| (text.to_owned(), part)))
        .or_else(|| {
            let check = parts.checks.iter().find(|(_, part)| is_worst(part));
            check.map(|(name, part)| match part.health {
                Health::Unknown => (format!("its check `{name}` has not run"), part),
                _ => (format!("its check `{name}` fails"), part),
            })
        });
    match found {
        Some((text, part)) => format!("{}: {}", view.effective, with_note(text, part)),
        None => view.effective.to_string(),
    }
}
