//! Registration with a heartbeat: a session that is renewed for as long as somebody wants it, with the instances that
//! hang on it.

use crate::backoff::Backoff;
use crate::{Error, Guard, Registry, Result};
use fingerpost_catalog::Source;
use fingerpost_catalog::document::{InstanceDocument, NewSession, RenewalState};
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Changes of the instances that wait for the keeper.
const QUEUE: usize = 64;
/// Time for an end in good order.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How to register.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeeperOptions {
    /// In whose name. Default: `api`.
    pub source: Source,
    /// The session, with its TTL and grace. It is renewed about every third of the TTL.
    pub session: NewSession,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self { source: Source::api(), session: NewSession::default() }
    }
}

/// How the registration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// The present session's id. Where the registry came to not know it any more, there is another one by now.
    pub session: String,
    /// How many sessions there have been, this one included.
    pub generation: u64,
    /// Why the last call failed; none while all is well. The keeper goes on trying.
    pub trouble: Option<String>,
}

/// Keeps a session and its instances in a registry until it is [ended](Keeper::end).
///
/// It renews the session in time through whichever endpoint answers, and begins again with a new session and all
/// instances where the registry has forgotten the old one. Nothing makes it give up: what goes wrong is told by
/// [`watch`](Keeper::watch). Dropped without an end, the session expires after its TTL, as it would in a crash.
///
/// ```no_run
/// use fingerpost_client::{HttpRegistry, Keeper, KeeperOptions};
/// use std::sync::Arc;
///
/// # async fn example() -> fingerpost_client::Result<()> {
/// # let web = fingerpost_client::catalog::document::InstanceDocument::default();
/// let registry = HttpRegistry::connect("http://127.0.0.1:8053")?;
/// let keeper = Keeper::start(Arc::new(registry), KeeperOptions::default()).await?;
/// keeper.put(web).await?;
/// // … and when it is time to go:
/// keeper.end().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Keeper {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<Keeping>,
    task: JoinHandle<()>,
}

enum Command {
    Put(Box<InstanceDocument>, oneshot::Sender<Result<InstanceDocument>>),
    Remove(Box<InstanceDocument>, oneshot::Sender<Result<()>>),
    End(oneshot::Sender<Result<()>>),
}

/// An instance's namespace, service and id.
type Identity = (Option<String>, Option<String>, Option<String>);

fn identity(instance: &InstanceDocument) -> Identity {
    (instance.namespace.clone(), instance.service.clone(), instance.id.clone())
}

fn stopped() -> Error {
    Error::Unavailable { detail: "the keeper has ended".to_owned(), retry_after: None }
}

impl Keeper {
    /// Begins a session, without instances yet. Fails where the registry can't be reached or refuses.
    pub async fn start(registry: Arc<dyn Registry>, options: KeeperOptions) -> Result<Self> {
        let session = registry.create_session(&options.source, &options.session).await?;
        let keeping = Keeping { session: session.id, generation: 1, trouble: None };
        let (state, watched) = watch::channel(keeping);
        let (commands, queue) = mpsc::channel(QUEUE);
        let task = Task {
            registry,
            options,
            instances: BTreeMap::new(),
            renew_at: Instant::now(),
            no_session: false,
            no_instances: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            state,
        };
        Ok(Self { commands, state: watched, task: tokio::spawn(task.run(queue)) })
    }

    /// Registers an instance, or changes one; it hangs on the session from now on.
    pub async fn put(&self, instance: InstanceDocument) -> Result<InstanceDocument> {
        self.ask(|reply| Command::Put(Box::new(instance), reply)).await
    }

    /// Takes an instance out again; only its identity counts.
    pub async fn remove(&self, instance: InstanceDocument) -> Result<()> {
        self.ask(|reply| Command::Remove(Box::new(instance), reply)).await
    }

    /// How the registration stands, now and whenever that changes.
    pub fn watch(&self) -> watch::Receiver<Keeping> {
        self.state.clone()
    }

    /// Ends the session: its instances leave the registry at once.
    pub async fn end(self) -> Result<()> {
        let ended = self.ask(Command::End);
        tokio::time::timeout(END_TIMEOUT, ended).await.unwrap_or_else(|_| {
            let detail = format!("the registry did not end the session within {} seconds", END_TIMEOUT.as_secs());
            Err(Error::UnknownOutcome { detail })
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    registry: Arc<dyn Registry>,
    options: KeeperOptions,
    /// What is to be registered, without the session.
    instances: BTreeMap<Identity, InstanceDocument>,
    renew_at: Instant,
    /// The registry does not know the session any more.
    no_session: bool,
    /// It may not know all instances of the present session.
    no_instances: bool,
    backoff: Backoff,
    state: watch::Sender<Keeping>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.renew_later();
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::End(reply)) => {
                        // Who ended it may not wait for the outcome.
                        let _ = reply.send(self.end().await);
                        return;
                    }
                    Some(Command::Put(instance, reply)) => drop(reply.send(self.put(*instance).await)),
                    Some(Command::Remove(instance, reply)) => drop(reply.send(self.remove(*instance).await)),
                },
                () = tokio::time::sleep_until(self.renew_at) => self.keep().await,
            }
        }
    }

    fn session(&self) -> String {
        self.state.borrow().session.clone()
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(u64::from(self.options.session.ttl_seconds))
    }

    /// A third of the TTL leaves time for two failures; the jitter spreads those that began together.
    fn renew_later(&mut self) {
        self.renew_at = Instant::now() + self.ttl().mul_f64(rand::rng().random_range(0.28..=0.36));
        self.backoff.reset();
        self.tell(None);
    }

    fn renew_soon(&mut self, error: &Error) {
        let wait = match error {
            Error::Unavailable { retry_after: Some(wait), .. } => self.backoff.next().max(*wait),
            _ => self.backoff.next(),
        };
        self.renew_at = Instant::now() + wait.min(self.ttl() / 6);
        tracing::debug!(%error, "the session can't be renewed; trying again in {wait:?}");
        self.tell(Some(error.to_string()));
    }

    fn tell(&self, trouble: Option<String>) {
        self.state.send_if_modified(|state| {
            let changed = state.trouble != trouble;
            state.trouble = trouble;
            changed
        });
    }

    async fn keep(&mut self) {
        match self.renew().await {
            Ok(()) => self.renew_later(),
            Err(error) => self.renew_soon(&error),
        }
    }

    /// Renews the session, and brings back what the registry has forgotten.
    async fn renew(&mut self) -> Result<()> {
        if !self.no_session {
            let renewals = self.registry.renew_sessions(&[self.session()]).await?;
            self.no_session = match renewals.first().map(|renewal| renewal.state) {
                Some(RenewalState::Alive | RenewalState::Suspect | RenewalState::Restored) => false,
                Some(RenewalState::Unknown) | None => true,
            };
        }
        if self.no_session {
            self.begin_again().await?;
        }
        if self.no_instances {
            self.register_all().await?;
        }
        Ok(())
    }

    /// A new session; its instances are to follow.
    async fn begin_again(&mut self) -> Result<()> {
        let session = self.registry.create_session(&self.options.source, &self.options.session).await?;
        tracing::info!(session = session.id, "the registry did not know the session any more; this is a new one");
        self.state.send_modify(|state| {
            state.session = session.id;
            state.generation += 1;
        });
        (self.no_session, self.no_instances) = (false, true);
        Ok(())
    }

    /// Registers all instances. One that is refused keeps none of the others out.
    async fn register_all(&mut self) -> Result<()> {
        let mut failed = None;
        for instance in self.instances.values() {
            if let Err(error) = self.write(instance).await {
                failed.get_or_insert(error);
            }
        }
        self.no_instances = failed.is_some();
        failed.map_or(Ok(()), Err)
    }

    async fn put(&mut self, instance: InstanceDocument) -> Result<InstanceDocument> {
        let written = match self.write(&instance).await {
            // The session has ended without our noticing: that is mended first.
            Err(Error::Invalid { pointer: Some(pointer), .. }) if pointer == "/session" => {
                self.renew().await?;
                self.renew_later();
                self.write(&instance).await?
            }
            other => other?,
        };
        self.instances.insert(identity(&instance), instance);
        Ok(written)
    }

    async fn write(&self, instance: &InstanceDocument) -> Result<InstanceDocument> {
        let instance = InstanceDocument { session: Some(self.session()), ..instance.clone() };
        let written = self.registry.put_instance(&self.options.source, &instance, Guard::None);
        // Whoever waits here does not renew.
        let written = tokio::time::timeout(self.ttl() / 3, written).await.map_err(|_| Error::UnknownOutcome {
            detail: "the registry did not answer within a third of the session's TTL".to_owned(),
        })?;
        Ok(written?.object)
    }

    async fn remove(&mut self, instance: InstanceDocument) -> Result<()> {
        let (Some(namespace), Some(id)) = (&instance.namespace, &instance.id) else {
            return Err(Error::field("", "an instance is named by its namespace and id"));
        };
        let key = fingerpost_catalog::InstanceKey {
            namespace: namespace.as_str().into(),
            service: instance.service.as_deref().map(Into::into),
            source: self.options.source.clone(),
            id: id.as_str().into(),
        };
        self.instances.remove(&identity(&instance));
        match self.registry.delete_instance(&key, Guard::None).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn end(&self) -> Result<()> {
        let session = self.session();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            match self.registry.end_session(&session).await {
                Ok(_) | Err(Error::NotFound { .. }) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => {
                    let wait = backoff.next();
                    if Instant::now() + wait > deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}
