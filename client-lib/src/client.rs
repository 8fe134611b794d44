//! The entry: where the registry is, and what can be had of it.

use crate::http::{HttpOptions, HttpRegistry, Token};
use crate::register::Register;
use crate::subscribe::{ConnectionState, Subscriptions, Watch};
use crate::{Result, Target};
use fingerpost_catalog::document::InstanceDocument;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// A client of a registry. Cheap to clone; clones share connections and subscriptions.
///
/// ```no_run
/// # async fn example() -> fingerpost_client::Result<()> {
/// let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
/// let web = client.watch("prod/web").subscribe()?;
/// web.synced().await?;
/// println!("{} endpoints", web.current().len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    registry: HttpRegistry,
    subscriptions: Arc<Subscriptions>,
}

impl Client {
    /// A client of the registry at an endpoint such as `https://registry.example`, with default options. Does not connect
    /// yet.
    pub fn connect(endpoint: &str) -> Result<Self> {
        Self::builder().endpoint(endpoint).build()
    }

    /// A client with options.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The registry itself: every call of its API, typed.
    ///
    /// ```no_run
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let status = client.registry().status().await?;
    /// println!("version {}", status.version);
    /// # Ok(())
    /// # }
    /// ```
    pub fn registry(&self) -> &HttpRegistry {
        &self.registry
    }

    /// A subscription to a service: `prod/web`, or a [`Target`] as text. It begins with
    /// [`subscribe`](Watch::subscribe).
    ///
    /// ```no_run
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let canaries = client.watch("prod/web?selector=track=canary").subscribe()?;
    /// let same = client.watch("prod/web").selector("track=canary").subscribe()?;
    /// # let _ = (canaries, same);
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self, target: &str) -> Watch {
        Watch::new(Arc::clone(&self.subscriptions), target.parse::<Target>())
    }

    /// Registers an instance for as long as the guard lives; it begins with [`start`](Register::start).
    ///
    /// ```no_run
    /// # use fingerpost_client::catalog::document::InstanceDocument;
    /// # use std::time::Duration;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let me = InstanceDocument {
    ///     namespace: Some("prod".into()),
    ///     service: Some("web".into()),
    ///     id: Some("web-1".into()),
    ///     addresses: vec![[10, 0, 0, 1].into()],
    ///     ..Default::default()
    /// };
    /// let registration = client.register(me).grace(Duration::from_secs(10)).start()?;
    /// registration.registered().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn register(&self, instance: InstanceDocument) -> Register {
        Register::new(Arc::new(self.registry.clone()), instance)
    }

    /// How the client stands with the registry, now and whenever that changes. Only subscriptions keep a connection.
    ///
    /// ```no_run
    /// # use fingerpost_client::ConnectionState;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let mut connection = client.connection();
    /// while connection.changed().await.is_ok() {
    ///     if let ConnectionState::Lost { error, .. } = &*connection.borrow_and_update() {
    ///         eprintln!("the registry is away: {error}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.subscriptions.shared().connection.subscribe()
    }
}

/// Options of a [`Client`].
///
/// ```
/// use fingerpost_client::{Client, Token};
///
/// let client = Client::builder()
///     .endpoint("https://registry-1.example:8053")
///     .endpoint("https://registry-2.example:8053")
///     .token(Token::from_file("/var/run/secrets/fingerpost/token"))
///     .cache_dir("/var/cache/my-service")
///     .build();
/// # drop(client);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    options: HttpOptions,
    cache_dir: Option<PathBuf>,
}

impl ClientBuilder {
    /// A replica of the registry; may be said several times. Calls go to one of them until it can't be reached.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// What the client proves itself with. Default: nothing.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.options.token = Some(token);
        self
    }

    /// The CA that signed the registry's certificate, a PEM file. Default: the CAs that the system trusts.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.options.ca = Some(file.into());
        self
    }

    /// The client's own certificate and its key, PEM files.
    #[must_use]
    pub fn certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.options.cert, self.options.key) = (Some(cert.into()), Some(key.into()));
        self
    }

    /// A folder in which subscriptions are remembered, for a start while the registry is away. Made where it does not
    /// exist; processes may share it. Default: none, nothing is remembered.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// Timeouts, limits and all else. What was said before of token, CA and certificate is overwritten.
    #[must_use]
    pub fn options(mut self, options: HttpOptions) -> Self {
        self.options = options;
        self
    }

    /// The client. Does not connect yet.
    ///
    /// # Errors
    ///
    /// There is no endpoint, or one that is none; a token, certificate or CA can't be read; the token would go over the
    /// network in the clear.
    pub fn build(self) -> Result<Client> {
        let registry = HttpRegistry::with_options(&self.endpoints, self.options)?;
        let subscriptions = Arc::new(Subscriptions::new(Arc::new(registry.clone()), self.cache_dir));
        Ok(Client { registry, subscriptions })
    }
}
