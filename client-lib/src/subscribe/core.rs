//! What a subscription's handles and the task that feeds them share.

use super::follower::Shared;
use crate::endpoint::Endpoints;
use arc_swap::ArcSwap;
use fingerpost_catalog::Selector;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// Who wants to see every snapshot before those who wait for it.
pub(crate) trait Observer: Send + Sync {
    /// Takes in the newest snapshot. Never called at the same time as itself.
    fn update(&self, endpoints: &Endpoints);
}

/// What is subscribed to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// The selector's text, in its normal form.
    pub(crate) selector: String,
    /// How long the last instances are kept when none is left; zero: not at all.
    pub(crate) keep_last: Duration,
}

/// One subscription, however many handles it has.
pub(crate) struct Core {
    pub(crate) number: u32,
    pub(crate) spec: Spec,
    pub(crate) selector: Selector,
    /// Where it is kept on disk.
    pub(crate) cache: Option<PathBuf>,
    snapshot: ArcSwap<Endpoints>,
    told: watch::Sender<Told>,
    observers: Mutex<Vec<Weak<dyn Observer>>>,
    shared: Arc<Shared>,
}

/// What handles wait for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Counts what was published.
    pub(crate) version: u64,
    /// The registry has told all of it.
    pub(crate) synced: bool,
    /// Why nothing more will come, or not before somebody acts.
    pub(crate) refused: Option<crate::Error>,
}

impl Core {
    pub(crate) fn new(
        number: u32,
        spec: Spec,
        selector: Selector,
        cache: Option<PathBuf>,
        first: Endpoints,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            number,
            spec,
            selector,
            cache,
            snapshot: ArcSwap::from_pointee(first),
            told: watch::Sender::new(Told::default()),
            observers: Mutex::new(Vec::new()),
            shared,
        }
    }

    pub(crate) fn current(&self) -> Arc<Endpoints> {
        self.snapshot.load_full()
    }

    pub(crate) fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// Makes a snapshot the current one. Observers see it before anybody is woken.
    pub(crate) fn publish(&self, endpoints: Endpoints, synced: bool) {
        let endpoints = Arc::new(endpoints);
        {
            let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
            self.snapshot.store(Arc::clone(&endpoints));
            observers.retain(|observer| match observer.upgrade() {
                Some(observer) => {
                    observer.update(&endpoints);
                    true
                }
                None => false,
            });
        }
        self.told.send_modify(|told| {
            told.version += 1;
            told.synced |= synced;
            told.refused = None;
        });
    }

    /// Says that the registry refuses, or that nobody follows it any more.
    pub(crate) fn refuse(&self, error: &crate::Error) {
        self.told.send_modify(|told| told.refused = Some(error.clone()));
    }

    /// Shows every snapshot to an observer from the present one on.
    pub(crate) fn observe(&self, observer: &Arc<dyn Observer>) {
        let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        observer.update(&self.snapshot.load());
        observers.push(Arc::downgrade(observer));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.end(self.number);
    }
}

impl Observer for crate::balance::Balancer {
    fn update(&self, endpoints: &Endpoints) {
        Self::update(self, endpoints);
    }
}
