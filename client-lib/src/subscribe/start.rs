//! Beginning subscriptions: what is asked for, and one subscription for all who ask for the same.

use super::cache::{self, Cache};
use super::core::{Core, Spec};
use super::follower::{Follower, Shared};
use super::subscription::Subscription;
use super::view;
use super::wire::Wire;
use crate::endpoint::{Endpoints, Freshness};
use crate::target::Target;
use crate::{Error, Result};
use fingerpost_catalog::Selector;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the last instances of a service are kept when none is left, unless asked otherwise.
const KEEP_LAST: Duration = Duration::from_secs(60);

/// A subscription that is about to begin; made by [`Client::watch`](crate::Client::watch).
#[derive(Clone, Debug)]
#[must_use = "nothing is followed before `subscribe`"]
pub struct Watch {
    subscriptions: Arc<Subscriptions>,
    target: Result<Target>,
    selector: Option<String>,
    keep_last: Duration,
}

impl Watch {
    pub(crate) fn new(subscriptions: Arc<Subscriptions>, target: Result<Target>) -> Self {
        Self { subscriptions, target, selector: None, keep_last: KEEP_LAST }
    }

    /// Only instances whose labels match, in Kubernetes' grammar: `track=canary,zone in (a,b),!legacy`.
    pub fn selector(mut self, selector: impl Into<String>) -> Self {
        self.selector = Some(selector.into());
        self
    }

    /// How long the last instances are kept, marked [as such](Freshness::Kept), when the registry suddenly says that there
    /// is none: more often than not that is somebody's mistake, and old addresses are better than none. Default: 60 s.
    /// Zero believes it at once.
    pub fn keep_last(mut self, keep: Duration) -> Self {
        self.keep_last = keep;
        self
    }

    /// Begins. Returns at once, with what the [cache](crate::ClientBuilder::cache_dir) remembers, if anything; see
    /// [`Subscription::synced`].
    ///
    /// # Errors
    ///
    /// The name or the selector is none, or this is not called within a tokio runtime.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let web = client.watch("prod/web").keep_last(Duration::ZERO).subscribe()?;
    /// // At once, from the disk or empty; and then as the registry has it:
    /// println!("{}", web.current().len());
    /// web.synced().await?;
    /// println!("{}", web.current().len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(self) -> Result<Subscription> {
        let target = self.target?;
        let text = self.selector.as_deref().or_else(|| target.selector()).unwrap_or_default();
        let selector: Selector = text.parse().map_err(|error| Error::Invalid {
            status: 0,
            detail: format!("`{text}` is no selector: {error}"),
            pointer: None,
            parameter: Some("selector".to_owned()),
        })?;
        let spec = Spec {
            namespace: target.namespace().to_owned(),
            service: target.service().to_owned(),
            selector: selector.to_string(),
            keep_last: self.keep_last,
        };
        self.subscriptions.subscribe(spec, selector)
    }
}

/// All subscriptions of a client.
pub(crate) struct Subscriptions {
    wire: Arc<dyn Wire>,
    cache_dir: Option<PathBuf>,
    shared: Arc<Shared>,
    lifeline: Arc<Lifeline>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u32,
    cores: HashMap<Spec, Weak<Core>>,
    task: Option<JoinHandle<()>>,
}

/// The follower's task goes on for as long as somebody holds this.
pub(super) struct Lifeline(Arc<Shared>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Subscriptions {
    pub(crate) fn new(wire: Arc<dyn Wire>, cache_dir: Option<PathBuf>) -> Self {
        let shared = Arc::new(Shared::new());
        let lifeline = Arc::new(Lifeline(Arc::clone(&shared)));
        Self { wire, cache_dir, shared, lifeline, state: Mutex::default() }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn subscribe(&self, spec: Spec, selector: Selector) -> Result<Subscription> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow(&mut state, &runtime);
        if let Some(core) = state.cores.get(&spec).and_then(Weak::upgrade) {
            return Ok(Subscription::new(core, Arc::clone(&self.lifeline)));
        }
        let cache = self.cache_dir.as_ref().map(|folder| cache::path(folder, &spec));
        let remembered = cache.as_deref().and_then(cache::read);
        let empty =
            |endpoints, position| Endpoints::new(spec.namespace.as_str(), spec.service.as_str(), endpoints, position);
        let first = match &remembered {
            None => empty(Vec::new(), None),
            Some(remembered) => {
                let ports = remembered.objects.service.as_ref().map_or_else(Arc::default, |it| it.ports.clone().into());
                let endpoints = view::endpoints(&remembered.objects, &ports, &[]);
                let freshness = Freshness::Cached { as_of: remembered.as_of };
                empty(endpoints, remembered.position).with_freshness(freshness)
            }
        };
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        let core = Arc::new(Core::new(number, spec.clone(), selector, cache, first, Arc::clone(&self.shared)));
        // Those that ended are swept out when there may be as many of them as of the others.
        if state.cores.len() == state.cores.capacity() {
            state.cores.retain(|_, core| core.strong_count() > 0);
        }
        state.cores.insert(spec, Arc::downgrade(&core));
        drop(state);
        self.shared.begin(&core, remembered);
        Ok(Subscription::new(core, Arc::clone(&self.lifeline)))
    }

    /// Starts the follower, or starts it anew where the runtime that it ran on has ended.
    fn follow(&self, state: &mut State, runtime: &tokio::runtime::Handle) {
        if state.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        for core in state.cores.values().filter_map(Weak::upgrade) {
            self.shared.begin(&core, None);
        }
        let cache = self.cache_dir.is_some().then(Cache::start);
        let follower = Follower::new(Arc::clone(&self.wire), Arc::clone(&self.shared), cache);
        state.task = Some(runtime.spawn(follower.run()));
    }
}

impl std::fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriptions").field("cache_dir", &self.cache_dir).finish_non_exhaustive()
    }
}
