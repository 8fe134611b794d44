//! From the objects that a watch tells to the records of a replica which shows the same.
//!
//! A watch tells what readers see: services merged over their sources, instances with the health that was derived. The
//! replica of a follower gets records that come to just that again. A merged service is declared alike by each of its
//! sources. An instance reports the health that it was found to have; the checks and the session behind that stay
//! where they are known.

use fingerpost_catalog::document::{InstanceDocument, ObjectDocument, ServiceDocument};
use fingerpost_catalog::{
    Change, Drain, Health, Instance, InstanceKey, Key, Namespace, Position, Record, Replica, Report, Service, Source,
};
use std::sync::Arc;

/// Which object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum ObjectId {
    Namespace(Arc<str>),
    Service(Arc<str>, Arc<str>),
    Instance(InstanceKey),
}

/// The identity that a document names; none where it names none.
pub(super) fn id_of(object: &ObjectDocument) -> Option<ObjectId> {
    let text = |text: &Option<String>| text.as_deref().map(Arc::<str>::from);
    Some(match object {
        ObjectDocument::Namespace(namespace) => ObjectId::Namespace(text(&namespace.name)?),
        ObjectDocument::Service(service) => ObjectId::Service(text(&service.namespace)?, text(&service.name)?),
        ObjectDocument::Instance(instance) => ObjectId::Instance(InstanceKey {
            namespace: text(&instance.namespace)?,
            service: text(&instance.service),
            source: instance.source.clone()?,
            id: text(&instance.id)?,
        }),
    })
}

/// The records that an object is made of, each with the revision of the object.
pub(super) fn records(id: &ObjectId, object: &ObjectDocument) -> Vec<(Key, Record, u64)> {
    let number = |revision: &Option<Position>| revision.map_or(0, |revision| revision.number);
    match (id, object) {
        (ObjectId::Namespace(_), ObjectDocument::Namespace(document)) => {
            let record = Record::Namespace(Namespace { labels: document.labels.clone(), ..Namespace::default() });
            let keys = document.sources.iter().map(|source| declaration(id, source));
            keys.flatten().map(|key| (key, record.clone(), number(&document.revision))).collect()
        }
        (ObjectId::Service(..), ObjectDocument::Service(document)) => {
            let record = Record::Service(service(document));
            let keys = document.sources.iter().map(|source| declaration(id, source));
            keys.flatten().map(|key| (key, record.clone(), number(&document.revision))).collect()
        }
        (ObjectId::Instance(key), ObjectDocument::Instance(document)) => {
            let revision = number(&document.revision);
            let own = (Key::Instance(key.clone()), Record::Instance(instance(document)), revision);
            let drain = document.health_parts.as_ref().and_then(|parts| parts.drain.as_ref()).map(|drain| {
                let record = Drain {
                    note: drain.note.clone(),
                    since: drain.since.map_or(0, |since| since.0),
                    ..Drain::default()
                };
                (Key::Drain(key.clone()), Record::Drain(record), revision)
            });
            std::iter::once(own).chain(drain).collect()
        }
        _ => Vec::new(),
    }
}

/// What has to be done to the records of `replica`, so that the object is as it is told; none where it is gone.
pub(super) fn changes(id: &ObjectId, object: Option<&ObjectDocument>, replica: &Replica) -> Vec<Change> {
    let now = object.map(|object| records(id, object)).unwrap_or_default();
    let before: Vec<Key> = match id {
        ObjectId::Namespace(name) => {
            let declared = replica.namespace_declarations(name);
            declared.iter().filter_map(|(source, ..)| declaration(id, source)).collect()
        }
        ObjectId::Service(namespace, name) => {
            let declared = replica.service_declarations(namespace, name);
            declared.iter().filter_map(|(source, ..)| declaration(id, source)).collect()
        }
        ObjectId::Instance(key) => vec![Key::Instance(key.clone()), Key::Drain(key.clone())],
    };
    let gone = before.into_iter().filter(|key| now.iter().all(|(kept, ..)| kept != key));
    let gone: Vec<Change> = gone.map(|key| Change { key, record: None }).collect();
    let put = now.into_iter().map(|(key, record, _)| Change { key, record: Some(Arc::new(record)) });
    put.chain(gone).collect()
}

fn declaration(id: &ObjectId, source: &Source) -> Option<Key> {
    let source = source.clone();
    match id {
        ObjectId::Namespace(name) => Some(Key::Namespace { name: Arc::clone(name), source }),
        ObjectId::Service(namespace, name) => {
            Some(Key::Service { namespace: Arc::clone(namespace), name: Arc::clone(name), source })
        }
        ObjectId::Instance(_) => None,
    }
}

fn service(document: &ServiceDocument) -> Service {
    Service {
        service_type: document.service_type,
        cluster_ips: document.cluster_ips.clone(),
        external_name: document.external_name.clone(),
        labels: document.labels.clone(),
        ports: document.ports.clone(),
        ttl: document.ttl,
        publish_not_ready: document.publish_not_ready,
        answer_unknown: document.answer_unknown,
        all_critical: document.all_critical,
        ..Service::default()
    }
}

fn instance(document: &InstanceDocument) -> Instance {
    let health = document.effective_health.unwrap_or_default();
    let reported =
        (health != Health::Passing).then(|| Report { health, note: reason(document, health), ..Report::default() });
    Instance {
        addresses: document.addresses.clone(),
        ports: document.ports.clone(),
        labels: document.labels.clone(),
        weight: document.weight,
        zone: document.zone.clone(),
        node: document.node.clone(),
        hostname: document.hostname.clone(),
        conditions: document.conditions,
        pod: document.pod.clone(),
        attachment: document.attachment.clone(),
        report: reported,
        ..Instance::default()
    }
}

/// Why an instance has its health: the parts that say so.
fn reason(document: &InstanceDocument, health: Health) -> String {
    let Some(parts) = &document.health_parts else { return String::new() };
    let named = [("conditions", &parts.conditions), ("reported", &parts.reported), ("session", &parts.session)];
    let named = named.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part.as_ref()?)));
    let checks = parts.checks.iter().map(|(name, part)| (format!("check {name}"), part));
    let said = named
        .chain(checks)
        .filter(|(_, part)| part.health == health)
        .map(|(name, part)| if part.note.is_empty() { name } else { format!("{name}: {}", part.note) });
    said.collect::<Vec<_>>().join("; ")
}
