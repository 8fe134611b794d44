//! One subscription as the follower has it: its view, and what of it is shown.

use super::cache::{Remembered, Snapshot};
use super::core::Core;
use super::view::{self, Objects, Outcome, View};
use super::wire::Wanted;
use crate::Error;
use crate::endpoint::{Endpoints, Freshness};
use crate::request::{Filter, WatchEvent};
use fingerpost_catalog::{Kind, Port, Position};
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// Which half of a subscription. With a selector the service has a subscription of its own, since the selector is about
/// the instances' labels, not the service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The instances and, without a selector, the service.
    Main,
    /// The service.
    Service,
}

/// What a subscription's half is called on the stream.
fn id(number: u32, part: Part) -> String {
    match part {
        Part::Main => number.to_string(),
        Part::Service => format!("{number}.service"),
    }
}

/// Reads it back.
pub(crate) fn subscription_id(id: &str) -> Option<(u32, Part)> {
    match id.strip_suffix(".service") {
        None => Some((id.parse().ok()?, Part::Main)),
        Some(number) => Some((number.parse().ok()?, Part::Service)),
    }
}

pub(crate) struct Entry {
    core: Weak<Core>,
    main: View,
    /// Where there is a selector.
    service: Option<View>,
    /// The service's ports as they are shown.
    ports: Arc<[Port]>,
    /// Until when the last instances are shown although there are none.
    kept_until: Option<Instant>,
    /// What a registry said, and not only the disk, has been shown.
    shown: bool,
}

impl Entry {
    /// None where its last handle is gone already.
    pub(crate) fn new(core: Weak<Core>, remembered: Option<Remembered>) -> Option<Self> {
        let strong = core.upgrade()?;
        let (main, service) = match (remembered, strong.spec.selector.is_empty()) {
            (None, true) => (View::default(), None),
            (None, false) => (View::default(), Some(View::default())),
            // Both halves begin with what was kept of the service, and each throws away what it does not follow.
            (Some(Remembered { objects, position, .. }), true) => (View::remembered(objects, position), None),
            (Some(Remembered { objects, position, .. }), false) => {
                let service = Objects { service: objects.service.clone(), ..Objects::default() };
                let main = Objects { service: None, ..objects };
                (View::remembered(main, position), Some(View::remembered(service, position)))
            }
        };
        let ports = ports(&main, service.as_ref());
        Some(Self { core, main, service, ports, kept_until: None, shown: false })
    }

    /// What it is called on the stream.
    pub(crate) fn ids(&self, number: u32) -> impl Iterator<Item = String> + use<> {
        let service = self.service.is_some().then(|| id(number, Part::Service));
        std::iter::once(id(number, Part::Main)).chain(service)
    }

    /// A new stream begins: what it is to be asked for.
    pub(crate) fn begin(&mut self, number: u32) -> Vec<Wanted> {
        let Some(core) = self.core.upgrade() else { return Vec::new() };
        let filter = Filter {
            namespace: Some(core.spec.namespace.clone()),
            service: Some(core.spec.service.clone()),
            ..Filter::default()
        };
        let kind = self.service.is_some().then_some(Kind::Instance);
        let selected = Filter { selector: core.selector.clone(), ..filter.clone() };
        let mut wanted =
            vec![Wanted { id: id(number, Part::Main), kind, filter: selected, position: self.main.begin() }];
        if let Some(service) = &mut self.service {
            let id = id(number, Part::Service);
            wanted.push(Wanted { id, kind: Some(Kind::Service), filter, position: service.begin() });
        }
        wanted
    }

    /// Takes in an event; whether there is something new to show.
    pub(crate) fn apply(&mut self, part: Part, event: WatchEvent) -> bool {
        let view = match part {
            Part::Main => &mut self.main,
            Part::Service => match &mut self.service {
                Some(view) => view,
                None => return false,
            },
        };
        if let WatchEvent::Reset { reason } = &event
            && let Some(core) = self.core.upgrade()
        {
            tracing::info!(namespace = core.spec.namespace, service = core.spec.service, reason, "resynchronising");
        }
        let outcome = view.apply(event);
        if outcome == Outcome::Restored
            && let Some(core) = self.core.upgrade()
        {
            let (namespace, service) = (&core.spec.namespace, &core.spec.service);
            tracing::warn!(namespace, service, "the registry has other data than before: it was restored or replaced");
        }
        outcome != Outcome::Same && self.is_whole()
    }

    /// Nothing has happened up to a position.
    pub(crate) fn bookmark(&mut self, position: Position) -> bool {
        let views = std::iter::once(&mut self.main).chain(&mut self.service);
        let changed = views.map(|view| view.apply(WatchEvent::Bookmark(position))).filter(|&o| o != Outcome::Same);
        changed.count() > 0 && self.is_whole()
    }

    /// Both halves are known.
    fn is_whole(&self) -> bool {
        self.main.is_synced() && self.service.as_ref().is_none_or(View::is_synced)
    }

    /// Until when an emptied set is not believed.
    pub(crate) fn kept_until(&self) -> Option<Instant> {
        self.kept_until
    }

    pub(crate) fn refuse(&self, error: &Error) {
        if let Some(core) = self.core.upgrade() {
            core.refuse(error);
        }
    }

    /// Makes what is known what is shown; returns what the disk is to remember of it.
    pub(crate) fn publish(&mut self) -> Option<Snapshot> {
        let core = self.core.upgrade()?;
        let current = core.current();
        let service_ports = ports(&self.main, self.service.as_ref());
        if service_ports != self.ports {
            self.ports = service_ports;
        }
        let objects = self.main.objects();
        let emptied = objects.instances.is_empty() && !current.is_empty();
        if emptied && !core.spec.keep_last.is_zero() {
            let until = *self.kept_until.get_or_insert_with(|| {
                tracing::warn!(
                    namespace = core.spec.namespace,
                    service = core.spec.service,
                    "the service has no instance left; the last ones are kept for {:?}",
                    core.spec.keep_last
                );
                Instant::now() + core.spec.keep_last
            });
            if Instant::now() < until {
                if current.freshness() != Freshness::Kept || !self.shown {
                    self.shown = true;
                    core.publish(Endpoints::clone(&current).with_freshness(Freshness::Kept), true);
                }
                return None;
            }
        }
        self.kept_until = None;
        let endpoints = view::endpoints(objects, &self.ports, current.as_slice());
        let same = self.shown
            && !current.is_stale()
            && endpoints.len() == current.len()
            && endpoints.iter().zip(current.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
        self.shown = true;
        let (namespace, service) = (current.namespace().to_owned(), current.service().to_owned());
        let position = self.main.position();
        if !same {
            core.publish(Endpoints::new(namespace, service, endpoints, position), true);
        }
        let path = core.cache.clone()?;
        let service = self.service.as_ref().unwrap_or(&self.main).objects().service.clone();
        Some(Snapshot { path, position, service, endpoints: objects.instances.values().cloned().collect() })
    }
}

fn ports(main: &View, service: Option<&View>) -> Arc<[Port]> {
    let service = service.unwrap_or(main).objects().service.as_ref();
    service.map_or_else(Arc::default, |service| service.ports.clone().into())
}
