//! From compact entries to records and views: the inverse of [`write`](super::write), and the derivation of health.

use super::Replica;
use super::entry::{Entry, Part, Parts};
use super::interner::NONE;
use crate::check::Check;
use crate::health::{HealthParts, PartState, SessionState};
use crate::labels::Labels;
use crate::object::Instance;
use crate::record::InstanceKey;
use crate::view::InstanceView;
use crate::{Health, Timestamp};

/// Whose labels a view shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelsOf {
    /// The instance's own, with those of the records that it shadows.
    Endpoint,
    /// Only what its source declares.
    Source,
}

impl Replica {
    pub(super) fn key_of(&self, handle: u32) -> InstanceKey {
        let entry = &self.entries[handle];
        let group = &self.groups[entry.group];
        InstanceKey {
            namespace: self.namespaces[group.namespace].name.clone(),
            service: group.name.clone(),
            source: self.sources.get(entry.source).source.clone(),
            id: entry.details.id().into(),
        }
    }

    pub(super) fn labels_of(&self, pairs: impl Iterator<Item = u32>) -> Labels {
        let mut labels = Labels::default();
        // Collecting would sort them first; they come in order already, but for what is taken over from others.
        for pair in pairs {
            labels.0.insert(self.labels.key_text(pair).to_owned(), self.labels.value(pair).to_owned());
        }
        labels
    }

    /// The instance exactly as it was put.
    pub(super) fn instance_of(&self, entry: &Entry) -> Instance {
        let mut instance = self.unlabelled(entry);
        instance.labels = self.labels_of(entry.labels().iter().copied());
        instance
    }

    fn unlabelled(&self, entry: &Entry) -> Instance {
        let text = |handle: u32| self.texts.get(handle).map(str::to_owned);
        let mut instance = Instance {
            addresses: entry.addresses().iter().map(|&handle| self.addresses.address(handle)).collect(),
            ports: self.ports.get(entry.ports).map(<[_]>::to_vec).unwrap_or_default(),
            zone: text(entry.zone),
            node: text(entry.node),
            conditions: entry.conditions.unpack(),
            session: (entry.session != NONE).then(|| self.sessions.get(entry.session).id.to_string()),
            ..Instance::default()
        };
        entry.details.unpack(&mut instance);
        if let Some(rare) = entry.rare() {
            rare.unpack(&mut instance);
        }
        instance
    }

    pub(super) fn instance_view(&self, handle: u32, labels: LabelsOf) -> InstanceView {
        let entry = &self.entries[handle];
        let mut instance = self.unlabelled(entry);
        let shadow = entry.shadow();
        let adopted = shadow.filter(|_| labels == LabelsOf::Endpoint).map_or(&[][..], |shadow| &shadow.adopted);
        instance.labels = self.labels_of(entry.labels().iter().chain(adopted).copied());
        let effective = self.effective_health(entry);
        let answer_unknown = self.groups[entry.group].answer_unknown;
        let report = instance.report.as_ref();
        InstanceView {
            key: self.key_of(handle),
            reported: report.map_or(Health::Passing, |report| report.health),
            instance,
            parts: self.health_parts(entry),
            effective,
            answerable: match effective {
                Health::Passing | Health::Warning => true,
                Health::Unknown => answer_unknown,
                Health::Critical => false,
            },
            panic_answerable: entry.parts().is_none_or(|parts| parts.drain.is_none()),
            shadowed: shadow
                .map(|shadow| shadow.addresses.iter().map(|&handle| self.addresses.address(handle)).collect())
                .unwrap_or_default(),
            revision: entry.revision.max(entry.parts().map_or(0, Parts::revision)),
        }
    }

    /// Whether the declared readiness makes it critical.
    fn is_held_back(&self, entry: &Entry) -> bool {
        entry.conditions.unpack().ready == Some(false) && !self.groups[entry.group].publish_not_ready
    }

    /// What the session says: none while it is alive, and where there is none.
    fn session_health(&self, entry: &Entry) -> Option<Health> {
        if entry.session == NONE {
            return None;
        }
        match self.sessions.get(entry.session).state() {
            Some(SessionState::Alive) => None,
            Some(SessionState::Suspect) => Some(Health::Warning),
            Some(SessionState::Expired) | None => Some(Health::Critical),
        }
    }

    /// The checks that are run on it: its service's but for those of which it has its own of the same name, and its own.
    pub(super) fn checks_of<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Check> {
        let own = own_checks(entry);
        let inherited = self.groups[entry.group].checks.as_deref().unwrap_or_default();
        inherited.iter().filter(|check| own.iter().all(|other| other.name != check.name)).chain(own)
    }

    /// The worst of its checks. Instances without any, nearly all in most registries, cost two looks.
    fn checks_health(&self, entry: &Entry) -> Option<Health> {
        let result = |check: &Check| {
            let parts = entry.parts()?;
            Some(parts.checks[parts.check(&check.name).ok()?].1.health)
        };
        self.checks_of(entry).map(|check| result(check).unwrap_or(Health::Unknown)).max()
    }

    /// The worst of all parts, without making them.
    pub(super) fn effective_health(&self, entry: &Entry) -> Health {
        let conditions = self.is_held_back(entry).then_some(Health::Critical);
        let drain = entry.parts().and_then(|parts| parts.drain.as_ref()).map(|drain| drain.health);
        conditions
            .max(self.session_health(entry))
            .max(entry.details.report().map(|(health, _)| health))
            .max(drain)
            .max(self.checks_health(entry))
            .unwrap_or_default()
    }

    fn health_parts(&self, entry: &Entry) -> HealthParts {
        let state = |health: Health, note: &str| PartState { health, note: note.to_owned(), since: None };
        let noted = |part: &Part| PartState { since: Timestamp::noted(part.since), ..state(part.health, &part.note) };
        let session = self.session_health(entry).map(|health| {
            let session = self.sessions.get(entry.session);
            match session.state() {
                Some(SessionState::Expired) => state(health, "session expired"),
                Some(_) => state(health, "session overdue, but held"),
                None => state(health, &format!("session {} is not known", session.id)),
            }
        });
        let mut made = HealthParts {
            conditions: self.is_held_back(entry).then(|| state(Health::Critical, "not ready")),
            session,
            ..HealthParts::default()
        };
        made.reported = entry.details.report().map(|(health, note)| state(health, note));
        let parts = entry.parts();
        made.drain = parts.and_then(|parts| parts.drain.as_deref()).map(noted);
        for check in self.checks_of(entry) {
            let result = parts.and_then(|parts| Some(&parts.checks[parts.check(&check.name).ok()?].1));
            let part = result.map_or_else(|| state(Health::Unknown, NOT_RUN), noted);
            made.checks.insert(check.name.clone(), part);
        }
        made
    }
}

/// What a declared check without a result says.
const NOT_RUN: &str = "has not run yet";

/// What it declares of its own.
pub(super) fn own_checks(entry: &Entry) -> &[Check] {
    entry.rare().map_or(&[], |rare| &rare.checks)
}
