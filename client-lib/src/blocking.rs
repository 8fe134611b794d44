//! For programs without async: the same client, whose work is done by a thread of its own. Feature `blocking`.
//!
//! Not to be used within an async runtime, where waiting would hold a thread of it; use [`crate::Client`] there.
//!
//! ```no_run
//! use fingerpost_client::blocking::Client;
//! use std::time::Duration;
//!
//! let client = Client::new(fingerpost_client::Client::builder().endpoint("http://127.0.0.1:8053"))?;
//! let mut web = client.watch("prod/web", None)?;
//! web.synced(Duration::from_secs(5))?;
//! println!("{} endpoints", web.current().len());
//! # Ok::<(), fingerpost_client::Error>(())
//! ```

use crate::balance::Balancer;
use crate::{ClientBuilder, Endpoints, Error, HttpRegistry, LiveBalancer, Register, Result};
use fingerpost_catalog::document::InstanceDocument;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// A client of a registry that blocks. Cheap to clone. Its thread ends with the last of its clones, subscriptions and
/// registrations.
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<OwnRuntime>,
}

/// A runtime that may be dropped anywhere.
#[derive(Debug)]
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }

    /// Runs a future to its end, for so long at most.
    fn wait<T>(&self, timeout: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = self.0.as_ref().ok_or(Error::NoRuntime)?;
        let waited = runtime.block_on(async { tokio::time::timeout(timeout, future).await });
        waited.unwrap_or_else(|_| {
            let detail = format!("nothing came within {timeout:?}");
            Err(Error::Unavailable { detail, retry_after: None })
        })
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // To wait for its end is not allowed in every place where the last handle may be dropped.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// A client with these options. Does not connect yet.
    ///
    /// # Errors
    ///
    /// Those of [`ClientBuilder::build`], and where no thread can be started.
    pub fn new(options: ClientBuilder) -> Result<Self> {
        let client = options.build()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fingerpost-client")
            .enable_all()
            .build()
            .map_err(|error| Error::Unavailable {
                detail: format!("no thread can be started: {error}"),
                retry_after: None,
            })?;
        Ok(Self { client, runtime: Arc::new(OwnRuntime(Some(runtime))) })
    }

    /// A subscription to a service (`prod/web`), of those instances that the selector selects.
    pub fn watch(&self, target: &str, selector: Option<&str>) -> Result<Subscription> {
        let _entered = self.runtime.handle().ok_or(Error::NoRuntime)?.enter();
        let mut watch = self.client.watch(target);
        if let Some(selector) = selector {
            watch = watch.selector(selector);
        }
        Ok(Subscription { subscription: watch.subscribe()?, runtime: Arc::clone(&self.runtime) })
    }

    /// Registers an instance. `how` may change how that is done.
    ///
    /// ```no_run
    /// # use fingerpost_client::blocking::Client;
    /// # use std::time::Duration;
    /// # fn example() -> fingerpost_client::Result<()> {
    /// # let me = fingerpost_client::catalog::document::InstanceDocument::default();
    /// let client = Client::new(fingerpost_client::Client::builder().endpoint("http://127.0.0.1:8053"))?;
    /// let registration = client.register(me, |how| how.grace(Duration::from_secs(10)))?;
    /// // … serve, and then
    /// registration.end(Duration::from_secs(30))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn register(&self, instance: InstanceDocument, how: impl FnOnce(Register) -> Register) -> Result<Registration> {
        let _entered = self.runtime.handle().ok_or(Error::NoRuntime)?.enter();
        let registration = how(self.client.register(instance)).start()?;
        Ok(Registration { registration, runtime: Arc::clone(&self.runtime) })
    }

    /// Makes a call of the registry's API: `client.call(|registry| async move { registry.get_service("prod", "web").await })`.
    pub fn call<T, F>(&self, call: impl FnOnce(HttpRegistry) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        // Calls have timeouts of their own.
        self.runtime.wait(Duration::from_secs(3600), call(self.client.registry().clone()))
    }
}

/// A service's endpoints, kept up to date for as long as this lives.
#[derive(Clone, Debug)]
pub struct Subscription {
    subscription: crate::Subscription,
    runtime: Arc<OwnRuntime>,
}

impl Subscription {
    /// The endpoints as they are known now. Never waits.
    pub fn current(&self) -> Arc<Endpoints> {
        self.subscription.current()
    }

    /// Waits until the registry has told all of it; see [`crate::Subscription::synced`].
    pub fn synced(&self, timeout: Duration) -> Result<()> {
        self.runtime.wait(timeout, self.subscription.synced())
    }

    /// Waits for something new; see [`crate::Subscription::changed`]. [`Error::Unavailable`] where nothing came in time.
    pub fn changed(&mut self, timeout: Duration) -> Result<Arc<Endpoints>> {
        self.runtime.wait(timeout, self.subscription.changed())
    }

    /// A balancer that follows this subscription, and keeps it alive. Picking never waits. It must not outlive all of this
    /// client's handles: without its thread nothing new comes.
    pub fn balance(&self, balancer: Balancer) -> LiveBalancer {
        self.subscription.balance(balancer)
    }
}

/// The guard of a registration; see [`crate::Registration`]. End it by [`end`](Registration::end): dropped as the last handle of
/// its client, it takes along the thread that would drain the instance, which then leaves with its session's TTL.
#[derive(Debug)]
pub struct Registration {
    registration: crate::Registration,
    runtime: Arc<OwnRuntime>,
}

impl Registration {
    /// Waits until the registry has taken the instance.
    pub fn registered(&self, timeout: Duration) -> Result<()> {
        self.runtime.wait(timeout, self.registration.registered())
    }

    /// Drains the instance, waits for the grace, and takes it out.
    pub fn end(self, timeout: Duration) -> Result<()> {
        self.registration.end();
        self.runtime.wait(timeout, async {
            self.registration.ended().await;
            Ok(())
        })
    }
}
