//! Which objects a subscription is about, and what a change means to it.

use fingerpost_catalog::{HealthSet, InstanceView, Kind, NamespaceView, Selector, ServiceView, Source, ViewChange};

/// A subscription's filter; everything absent matches all.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    /// Only objects of this kind.
    pub kind: Option<Kind>,
    /// Only this namespace and what is in it.
    pub namespace: Option<String>,
    /// Only this service and its instances.
    pub service: Option<String>,
    /// Only objects whose labels match.
    pub selector: Selector,
    /// Only instances of these healths; objects without health do not match unless all healths are asked for.
    pub health: HealthSet,
    /// Only what this source declares.
    pub source: Option<Source>,
}

/// What a change is to a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Turn {
    /// The object matches now.
    Put,
    /// The object matched before and does no more.
    Delete,
}

impl Filter {
    /// Whether objects of a kind can match at all.
    pub fn wants(&self, kind: Kind) -> bool {
        if self.kind.is_some_and(|wanted| wanted != kind) {
            return false;
        }
        match kind {
            Kind::Namespace => self.service.is_none() && self.health == HealthSet::default(),
            Kind::Service => self.health == HealthSet::default(),
            Kind::Instance => true,
        }
    }

    fn in_namespace(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    }

    /// Whether a namespace matches.
    pub fn namespace(&self, view: &NamespaceView) -> bool {
        self.in_namespace(&view.name)
            && self.source.as_ref().is_none_or(|source| view.sources.contains(source))
            && self.selector.matches(&view.labels)
    }

    /// Whether a service matches.
    pub fn service(&self, view: &ServiceView) -> bool {
        self.in_namespace(&view.namespace)
            && self.service.as_deref().is_none_or(|wanted| wanted == &*view.name)
            && self.source.as_ref().is_none_or(|source| view.sources.contains(source))
            && self.selector.matches(&view.labels)
    }

    fn instance(&self, view: &InstanceView) -> bool {
        self.in_namespace(&view.key.namespace)
            && self.service.as_deref().is_none_or(|wanted| view.key.service.as_deref() == Some(wanted))
            && match &self.source {
                // Who asks for one source's records gets them even where another's speaks for the endpoint.
                Some(source) => *source == view.key.source,
                None => !view.is_absorbed(),
            }
            && self.health.contains(view.effective)
            && self.selector.matches(&view.instance.labels)
    }

    /// What a change is to this subscription, if anything.
    pub fn turn(&self, change: &ViewChange) -> Option<Turn> {
        if !self.wants(change.kind()) {
            return None;
        }
        let (before, after) = match change {
            ViewChange::Namespace { before, after } => (
                before.as_ref().is_some_and(|view| self.namespace(view)),
                after.as_ref().is_some_and(|view| self.namespace(view)),
            ),
            ViewChange::Service { before, after } => (
                before.as_ref().is_some_and(|view| self.service(view)),
                after.as_ref().is_some_and(|view| self.service(view)),
            ),
            ViewChange::Instance { before, after } => (
                before.as_ref().is_some_and(|view| self.instance(view)),
                after.as_ref().is_some_and(|view| self.instance(view)),
            ),
        };
        match (before, after) {
            (_, true) => Some(Turn::Put),
            (true, false) => Some(Turn::Delete),
            (false, false) => None,
        }
    }

    /// The one service that all matching changes belong to, if the filter says so.
    pub fn topic(&self) -> Option<(&str, &str)> {
        Some((self.namespace.as_deref()?, self.service.as_deref()?))
    }
}
