//! Why an instance is answered, or not.

use crate::config::EndpointNames;
use crate::label::Endpoint;
use crate::name::dashed;
use fingerpost_catalog::{Conditions, Health, InstanceView, PartState, ServiceView};
use serde::{Deserialize, Serialize};

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
    /// The pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

pub(super) fn reason(view: &InstanceView, service: &ServiceView, names: EndpointNames, panics: bool) -> InstanceReason {
    let own = view.own_addresses().next().is_some();
    let (answered, reason) = if view.instance.addresses.is_empty() {
        (false, "it has no address".to_owned())
    } else if !own {
        let text = "its addresses are another record's, whose source ranks higher; that record speaks for them";
        (false, text.to_owned())
    } else if view.answerable {
        let published = if view.instance.conditions.ready == Some(false) && service.publish_not_ready {
            let state = state(view.instance.conditions);
            format!("; it is {state}, and the service publishes such (`publishNotReady`)")
        } else {
            String::new()
        };
        (true, format!("its health is {}{published}", view.effective))
    } else if panics && view.panic_answerable {
        (true, format!("{}, but so are all, and the service has `allCritical: all`", worst(view)))
    } else if view.effective == Health::Unknown && !service.answer_unknown {
        (false, format!("{}; the service does not answer such (`answerUnknown`)", worst(view)))
    } else {
        (false, worst(view))
    };
    let labels = match Endpoint::of(view).label(names) {
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
        pod: view.instance.pod.as_ref().map(|pod| pod.name.clone()),
    }
}

/// What a source says of an instance that is not ready.
fn state(conditions: Conditions) -> String {
    let mut words = vec!["not ready"];
    match (conditions.terminating, conditions.serving) {
        (Some(true), Some(true)) => words.push("terminating, and serving still"),
        (Some(true), Some(false)) => words.push("terminating, and no longer serving"),
        (Some(true), None) => words.push("terminating"),
        (_, Some(true)) => words.push("though serving"),
        _ => {}
    }
    words.join(", ")
}

/// The part that makes the health what it is, in words.
fn worst(view: &InstanceView) -> String {
    let parts = &view.parts;
    let conditions = format!("it is {}", state(view.instance.conditions));
    let fixed = [
        (&parts.drain, "it is drained"),
        (&parts.session, "its session has expired"),
        (&parts.conditions, conditions.as_str()),
        (&parts.reported, "its source reports it so"),
    ];
    let is_worst = |part: &PartState| part.health == view.effective;
    let with_note = |text: String, part: &PartState| match part.note.as_str() {
        "" | "not ready" => text,
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
