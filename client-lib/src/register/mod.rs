//! Registration: an instance that is in the registry for as long as a process has it so.
//!
//! [`Register`] says what and how, [`Registration`] is the guard, and [`task`] does the work behind it: a session with
//! heartbeats (a [`Keeper`](crate::Keeper)), health from a callback, and at the end first a drain, so that no new
//! requests come, then a grace for those under way, then the end.

mod task;

use crate::{Error, KeeperOptions, Registry, Result};
use fingerpost_catalog::document::{HealthDocument, InstanceDocument, NewSession};
use fingerpost_catalog::{Health, InstanceKey, Source};
use futures_util::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use task::Task;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an instance says of its own health.
///
/// ```
/// use fingerpost_client::{HealthReport, catalog::Health};
///
/// let slow = HealthReport::new(Health::Warning, "the queue is half full");
/// assert_ne!(slow, HealthReport::passing());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport(HealthDocument);

impl HealthReport {
    /// All is well.
    pub fn passing() -> Self {
        Self::new(Health::Passing, "")
    }

    /// A verdict with its reason, of at most 1024 characters; what is more is cut.
    pub fn new(health: Health, note: impl Into<String>) -> Self {
        let mut note = note.into();
        if let Some((end, _)) = note.char_indices().nth(1024) {
            note.truncate(end);
        }
        Self(HealthDocument { health, note })
    }
}

type Callback = Arc<dyn Fn() -> BoxFuture<'static, HealthReport> + Send + Sync>;

/// A registration that is about to begin; made by [`Client::register`](crate::Client::register).
#[must_use = "nothing is registered before `start`"]
pub struct Register {
    registry: Arc<dyn Registry>,
    instance: InstanceDocument,
    options: KeeperOptions,
    health: Option<(Callback, Duration)>,
    grace: Duration,
    on_sigterm: bool,
}

impl Register {
    pub(crate) fn new(registry: Arc<dyn Registry>, instance: InstanceDocument) -> Self {
        Self {
            registry,
            instance,
            options: KeeperOptions::default(),
            health: None,
            grace: Duration::from_secs(5),
            on_sigterm: false,
        }
    }

    /// In whose name. Default: `api`.
    pub fn source(mut self, source: Source) -> Self {
        self.options.source = source;
        self
    }

    /// The session: its name, its TTL and its grace. Default: 15 s and 60 s. It is renewed about every third of the TTL.
    pub fn session(mut self, session: NewSession) -> Self {
        self.options.session = session;
        self
    }

    /// Asks for the instance's health this often, and reports it where it changes. A callback that takes longer than the
    /// interval (10 s at most), or panics, counts as critical. Default: the instance is what its document says.
    ///
    /// ```no_run
    /// # use fingerpost_client::{HealthReport, catalog::Health};
    /// # use std::time::Duration;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// # let me = fingerpost_client::catalog::document::InstanceDocument::default();
    /// # async fn queue_length() -> usize { 0 }
    /// let health = || async {
    ///     match queue_length().await {
    ///         0..1000 => HealthReport::passing(),
    ///         _ => HealthReport::new(Health::Critical, "the queue is full"),
    ///     }
    /// };
    /// let registration = client.register(me).health(Duration::from_secs(1), health).start()?;
    /// # drop(registration);
    /// # Ok(())
    /// # }
    /// ```
    pub fn health<F>(mut self, every: Duration, callback: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = HealthReport> + Send + 'static,
    {
        let callback: Callback = Arc::new(move || Box::pin(callback()));
        self.health = Some((callback, every.max(Duration::from_millis(100))));
        self
    }

    /// How long, at the end, the instance is drained before it leaves: clients learn of it within milliseconds, resolvers
    /// within a TTL, and requests under way may end. Default: 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Ends the registration when the process gets SIGTERM. The process then goes on, since the signal is taken: wait for
    /// [`ended`](Registration::ended), then stop serving. Unix only; elsewhere it does nothing.
    pub fn on_sigterm(mut self) -> Self {
        self.on_sigterm = true;
        self
    }

    /// Begins, and returns at once: the registry may well be away. See [`Registration::registered`].
    ///
    /// # Errors
    ///
    /// The document names no namespace, service or id, or this is not called within a tokio runtime.
    pub fn start(self) -> Result<Registration> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let named = |field: &Option<String>, pointer: &str| {
            field.as_deref().map(Into::into).ok_or_else(|| Error::field(pointer, "it must be named"))
        };
        let key = InstanceKey {
            namespace: named(&self.instance.namespace, "/namespace")?,
            service: self.instance.service.as_deref().map(Into::into),
            source: self.options.source.clone(),
            id: named(&self.instance.id, "/id")?,
        };
        let (state, watched) = watch::channel(RegistrationState::Beginning { trouble: None });
        let ending = CancellationToken::new();
        let task = Task { how: self, key, state, ending: ending.clone() };
        runtime.spawn(task.run());
        Ok(Registration { state: watched, ending })
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register")
            .field("instance", &self.instance)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// How a registration stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The registry has not taken the instance yet.
    Beginning {
        /// Why the last attempt failed.
        trouble: Option<Error>,
    },
    /// The registry has it, as far as is known.
    Registered {
        /// The session that it hangs on.
        session: String,
        /// Why the registry can't be told at present; the instance stays as it was until its session expires.
        trouble: Option<String>,
    },
    /// It is being drained.
    Draining,
    /// It has left, or its session will expire by itself where the registry could not be told.
    Ended,
}

/// The guard of an instance's registration. Dropped, it ends the registration behind the back of who drops it: a drain, the
/// [grace](Register::grace), the end. Where the runtime ends before that is done, the session expires by its TTL.
///
/// ```no_run
/// use fingerpost_client::{Client, catalog::document::InstanceDocument};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("http://127.0.0.1:8053")?;
/// let me = InstanceDocument {
///     namespace: Some("prod".into()),
///     service: Some("web".into()),
///     id: Some("web-1".into()),
///     addresses: vec!["10.0.0.1".parse()?],
///     ..Default::default()
/// };
/// let registration = client.register(me).on_sigterm().start()?;
/// registration.registered().await?;
/// // … serve, and stop serving only once nobody is sent here any more:
/// registration.ended().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Registration {
    state: watch::Receiver<RegistrationState>,
    ending: CancellationToken,
}

impl Registration {
    /// How it stands, now and whenever that changes.
    ///
    /// ```no_run
    /// # use fingerpost_client::RegistrationState;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// # let me = fingerpost_client::catalog::document::InstanceDocument::default();
    /// let registration = client.register(me).start()?;
    /// let mut state = registration.state();
    /// while state.changed().await.is_ok() {
    ///     if let RegistrationState::Registered { trouble: Some(why), .. } = &*state.borrow_and_update() {
    ///         eprintln!("the registry is away: {why}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Waits until the registry has taken the instance. Fails where it refuses; it is tried again all the same, every minute
    /// or so, and this may be called again. Put a timeout around it where the registry may be away.
    pub async fn registered(&self) -> Result<()> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                RegistrationState::Registered { .. } => return Ok(()),
                RegistrationState::Beginning { trouble: Some(error) } if !error.is_transient() => {
                    return Err(error.clone());
                }
                RegistrationState::Beginning { .. } => {}
                RegistrationState::Draining | RegistrationState::Ended => return Err(task::ended()),
            }
            state.changed().await.map_err(|_| task::ended())?;
        }
    }

    /// Begins the end: the instance is drained now, and leaves after the grace. Returns at once.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Waits until the instance has left: after [`end`](Self::end), after SIGTERM, or because the runtime ends.
    pub async fn ended(&self) {
        let mut state = self.state.clone();
        // An error means that the task is gone, which is an end, too.
        let _ = state.wait_for(|state| matches!(state, RegistrationState::Ended)).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}
