//! What readers see: objects merged over their sources, with derived health, and how a position changed them.

use crate::check::Check;
use crate::health::{Health, HealthParts};
use crate::labels::Labels;
use crate::object::{AllCritical, Instance, Port, ServiceType, Session};
use crate::record::{InstanceKey, Kind};
use crate::{Position, Source};
use std::net::IpAddr;
use std::sync::Arc;

/// A namespace, merged from its declarations. It exists while it has a declaration, a service or an instance.
#[derive(Clone, PartialEq, Debug)]
pub struct NamespaceView {
    /// Its name.
    pub name: Arc<str>,
    /// The declarations' labels; where two have the same key, the higher-ranked source's value.
    pub labels: Labels,
    /// Who declares it, highest rank first; empty where only its content makes it exist.
    pub sources: Vec<Source>,
    /// The last change of a declaration; 0 where there is none.
    pub revision: u64,
}

/// A service, merged from its declarations. It exists while it has a declaration or an instance.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// From the highest-ranked declaration. `Headless` where nothing but instances makes the service exist.
    pub service_type: ServiceType,
    /// From the highest-ranked declaration.
    pub cluster_ips: Vec<IpAddr>,
    /// From the highest-ranked declaration.
    pub external_name: Option<String>,
    /// The declarations' labels; where two have the same key, the higher-ranked source's value.
    pub labels: Labels,
    /// From the highest-ranked declaration.
    pub ports: Vec<Port>,
    /// From the highest-ranked declaration.
    pub ttl: Option<u32>,
    /// From the highest-ranked declaration.
    pub publish_not_ready: bool,
    /// From the highest-ranked declaration.
    pub answer_unknown: bool,
    /// From the highest-ranked declaration.
    pub all_critical: AllCritical,
    /// From the highest-ranked declaration.
    pub checks: Vec<Check>,
    /// Who declares it, highest rank first; empty where only its instances make it exist.
    pub sources: Vec<Source>,
    /// The last change of a declaration; 0 where there is none.
    pub revision: u64,
}

/// An instance with its derived health.
///
/// Where sources of several ranks know the same address in one service, the record of the highest rank speaks for the
/// endpoint; see [`InstanceView::shadowed`].
#[derive(Clone, PartialEq, Debug)]
pub struct InstanceView {
    /// Who and where.
    pub key: InstanceKey,
    /// What its source declared; `labels` here are merged with those of the records that this one shadows (its own
    /// values win).
    pub instance: Instance,
    /// What its source reported last; `passing` where it never did.
    pub reported: Health,
    /// The parts behind `effective`.
    pub parts: HealthParts,
    /// The worst of the parts.
    pub effective: Health,
    /// Whether DNS answers it, its service being what it is (before `allCritical` is considered): effective health
    /// `passing` or `warning`, or `unknown` where the service's `answerUnknown` says so.
    pub answerable: bool,
    /// Whether the service's `allCritical: all` may bring it back: all but drained instances.
    pub panic_answerable: bool,
    /// The addresses, in the order of `instance.addresses`, that a higher-ranked source's record of this service holds,
    /// too. That record decides about them; this one does not answer them.
    pub shadowed: Vec<IpAddr>,
    /// The last change of the instance's own record or of one of its parts (not of its session).
    pub revision: u64,
}

impl InstanceView {
    /// Whether all its addresses are another record's: merged lists and streams leave it out then.
    pub fn is_absorbed(&self) -> bool {
        !self.shadowed.is_empty() && self.shadowed.len() == self.instance.addresses.len()
    }

    /// The addresses that this record speaks for.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.instance.addresses.iter().copied().filter(|address| !self.shadowed.contains(address))
    }
}

/// How one position changed one object of the merged view. `before` and `after` are never both absent and never equal.
#[derive(Clone, PartialEq, Debug)]
pub enum ViewChange {
    /// A namespace.
    Namespace {
        /// As it was; none where it is new.
        before: Option<Arc<NamespaceView>>,
        /// As it is; none where it is gone.
        after: Option<Arc<NamespaceView>>,
    },
    /// A service.
    Service {
        /// As it was; none where it is new.
        before: Option<Arc<ServiceView>>,
        /// As it is; none where it is gone.
        after: Option<Arc<ServiceView>>,
    },
    /// An instance.
    Instance {
        /// As it was; none where it is new.
        before: Option<Arc<InstanceView>>,
        /// As it is; none where it is gone.
        after: Option<Arc<InstanceView>>,
    },
}

impl ViewChange {
    /// The kind of object that changed.
    pub fn kind(&self) -> Kind {
        match self {
            ViewChange::Namespace { .. } => Kind::Namespace,
            ViewChange::Service { .. } => Kind::Service,
            ViewChange::Instance { .. } => Kind::Instance,
        }
    }
}

/// How one position changed one session's record. `before` and `after` are never both absent and never equal.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionChange {
    /// Which session.
    pub id: Arc<str>,
    /// As it was; none where it is new.
    pub before: Option<Arc<Session>>,
    /// As it is; none where it is gone.
    pub after: Option<Arc<Session>>,
}

/// What a change set did to the merged view: namespaces and services before the instances in them, an object at most once.
#[derive(Clone, PartialEq, Debug)]
pub struct Effects {
    /// The position reached.
    pub position: Position,
    /// What changed; empty where the change set is invisible in the merged view.
    pub changes: Vec<ViewChange>,
    /// Which sessions changed. They are no part of the merged view: readers see them in the health of their instances.
    pub sessions: Vec<SessionChange>,
}
