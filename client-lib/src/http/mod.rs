//! The registry over REST.

mod admin;
mod call;
mod events;
mod many;
#[cfg(test)]
mod tests;
mod token;
mod transport;
mod typed;
mod visible;
mod watch;

use crate::{Error, Result};
use fingerpost_catalog::Position;
use reqwest::Url;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use transport::Transport;

pub use token::Token;

/// Limits and timeouts of an [`HttpRegistry`].
///
/// ```
/// use fingerpost_client::{Client, HttpOptions, Token};
/// use std::time::Duration;
///
/// let mut options = HttpOptions::default();
/// options.timeout = Duration::from_secs(5);
/// options.token = Some(Token::from_file("/var/run/secrets/fingerpost/token"));
/// let client = Client::builder().endpoint("https://registry.example").options(options).build();
/// # drop(client);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpOptions {
    /// How long to wait for a connection. Default: 2 s.
    pub connect_timeout: Duration,
    /// How long a call may take in all, repetitions included. Default: 15 s, well beyond the 5 s for which the registry
    /// itself waits for a position. Replacing a set and bulk writes may take 2 minutes, exports and imports as long as
    /// they move on.
    pub timeout: Duration,
    /// How long a renewal of sessions may take before the next endpoint is asked. Default: 2 s; a session's time is short.
    pub renewal_timeout: Duration,
    /// How long an export or an import may stand still before its connection counts as broken. Default: 60 s.
    pub idle_timeout: Duration,
    /// How often the registry is asked to say something on a watch on which nothing happens, in whole seconds from 1 to
    /// 60. Default: 3 s. A watch that is silent for three times that counts as broken.
    pub heartbeat: Duration,
    /// Most bytes of a reply. Default: 32 MiB.
    pub max_reply: usize,
    /// Most bytes of a watch event. Default: 4 MiB.
    pub max_event: usize,
    /// How often a call is tried, where repeating is safe. Default: 4.
    pub attempts: u32,
    /// What the client calls itself. Default: `fingerpost-client/<version>`.
    pub user_agent: String,
    /// What the client proves itself with. A token in a file is read again when the file changes, and when the registry
    /// refuses it. Default: none.
    pub token: Option<Token>,
    /// A PEM file with the CA that signed the registry's certificate; read again when it changes. Default: the CAs that
    /// the system trusts.
    pub ca: Option<PathBuf>,
    /// A PEM file with the client's own certificate; read again when it changes. Default: none.
    pub cert: Option<PathBuf>,
    /// A PEM file with the key of [`cert`](Self::cert).
    pub key: Option<PathBuf>,
    /// Send the token over plain HTTP to other machines, too. Default: no; such an endpoint is
    /// [refused](Error::ClearText).
    pub allow_insecure: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(15),
            renewal_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(3),
            max_reply: 32 << 20,
            max_event: 4 << 20,
            attempts: 4,
            user_agent: concat!("fingerpost-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            token: None,
            ca: None,
            cert: None,
            key: None,
            allow_insecure: false,
        }
    }
}

impl HttpOptions {
    fn heartbeat_seconds(&self) -> u64 {
        self.heartbeat.as_secs().clamp(1, 60)
    }

    /// How long a watch may be silent.
    fn silence(&self) -> Duration {
        Duration::from_secs(3 * self.heartbeat_seconds())
    }
}

/// A registry over its REST API. Cheap to clone; clones share connections.
///
/// Where several endpoints are given, they are replicas of one registry: calls go to one of them until it can't be
/// reached, then to the next.
///
/// Calls that change nothing are repeated when a connection fails or breaks, or the registry is unavailable for a
/// moment. Puts and deletes are repeated only where it is known that they were not applied: the connection was never
/// made, or the registry refused with 503 and named a time. Where a write was sent and no reply came, the error is
/// [`UnknownOutcome`](Error::UnknownOutcome).
///
/// ```no_run
/// use fingerpost_client::{HttpOptions, HttpRegistry, Registry};
///
/// # async fn example() -> fingerpost_client::Result<()> {
/// let registry = HttpRegistry::with_options(
///     &["https://registry-1.example:8053", "https://registry-2.example:8053"],
///     HttpOptions::default(),
/// )?;
/// let web = registry.get_service("prod", "web").await?;
/// println!("{} sources declare it", web.sources.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HttpRegistry {
    inner: Arc<Inner>,
    /// Writes wait until they are visible.
    waiting: Option<Arc<visible::Waiting>>,
    /// What reads must show.
    at_least: Option<Position>,
}

#[derive(Debug)]
struct Inner {
    transport: Transport,
    endpoints: Vec<Url>,
    /// Index (modulo their number) of the endpoint that was last good.
    current: AtomicUsize,
    options: HttpOptions,
}

impl HttpRegistry {
    /// The registry at an endpoint such as `http://127.0.0.1:8053` or `https://registry.example`, with default options. Does not connect yet.
    pub fn connect(endpoint: &str) -> Result<Self> {
        Self::with_options(&[endpoint], HttpOptions::default())
    }

    /// The registry whose replicas have these endpoints. Does not connect yet.
    pub fn with_options<S: AsRef<str>>(endpoints: &[S], options: HttpOptions) -> Result<Self> {
        let endpoints =
            endpoints.iter().map(|endpoint| parse_endpoint(endpoint.as_ref())).collect::<Result<Vec<_>>>()?;
        if endpoints.is_empty() {
            return Err(Error::Endpoint { endpoint: String::new(), detail: "none is given".to_owned() });
        }
        endpoints.iter().try_for_each(|endpoint| transport::check_endpoint(endpoint, &options))?;
        let transport = Transport::new(&options)?;
        let inner = Arc::new(Inner { transport, endpoints, current: AtomicUsize::new(0), options });
        Ok(Self { inner, waiting: None, at_least: None })
    }

    /// The host (a name or an address, without brackets) of the endpoint that is in use.
    pub fn host(&self) -> &str {
        let host = self.endpoint().host_str().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }
}

fn parse_endpoint(text: &str) -> Result<Url> {
    let error = |detail: &str| Error::Endpoint { endpoint: text.to_owned(), detail: detail.to_owned() };
    // `host:8053` would parse as a URL of the scheme `host`.
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme)
        .map_err(|cause| error(&format!("{cause}; write http://HOST:PORT or https://HOST:PORT")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(error("write http://HOST:PORT or https://HOST:PORT"));
    }
    // What stands there would be sent, and shown in messages.
    if !url.username().is_empty() || url.password().is_some() {
        let mut shown = url;
        let _ = (shown.set_username(""), shown.set_password(None));
        let detail = "names and passwords have no place in it; use a token".to_owned();
        return Err(Error::Endpoint { endpoint: shown.to_string(), detail });
    }
    if !url.has_host() || url.query().is_some() || url.fragment().is_some() {
        return Err(error("write http://HOST:PORT or https://HOST:PORT"));
    }
    Ok(url)
}
