//! What calls are sent with: the connections, trust in the registry's certificate, and what the client proves itself
//! with. Files may change while the client lives; they are looked at again now and then.

use super::{HttpOptions, Token};
use crate::{Error, Result};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Identity, Url};
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often files are looked at, at most.
const EVERY: Duration = Duration::from_secs(1);
/// Largest file of certificates.
const MAX_FILE: u64 = 1 << 20;

/// Connections and credentials.
#[derive(Debug)]
pub(super) struct Transport {
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    client: reqwest::Client,
    authorization: Option<HeaderValue>,
    looked: Instant,
    token_seen: Seen,
    tls_seen: [Seen; 3],
}

/// How a file was when it was read.
type Seen = Option<(SystemTime, u64)>;

fn seen(path: Option<&Path>) -> Seen {
    let metadata = std::fs::metadata(path?).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The whole content of a file that is not too large.
pub(super) fn read_file(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(content)
}

impl Transport {
    pub(super) fn new(options: &HttpOptions) -> Result<Self> {
        let state = State {
            tls_seen: tls_seen(options),
            token_seen: seen(options.token.as_ref().and_then(Token::file)),
            client: client(options)?,
            authorization: options.token.as_ref().map(Token::read).transpose()?,
            looked: Instant::now(),
        };
        Ok(Self { state: Mutex::new(state) })
    }

    /// What to send a call with. Files that can't be read any more change nothing.
    pub(super) fn current(&self, options: &HttpOptions) -> (reqwest::Client, Option<HeaderValue>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= EVERY {
            state.looked = Instant::now();
            let token_seen = seen(options.token.as_ref().and_then(Token::file));
            if token_seen != state.token_seen {
                state.token_seen = token_seen;
                state.read_token(options);
            }
            let tls_seen = tls_seen(options);
            if tls_seen != state.tls_seen {
                state.tls_seen = tls_seen;
                match client(options) {
                    Ok(client) => state.client = client,
                    Err(error) => tracing::warn!(%error, "changed, but can't be used; what was read before stays"),
                }
            }
        }
        (state.client.clone(), state.authorization.clone())
    }

    /// Reads the token again, after the registry refused it; whether there is another now.
    pub(super) fn renew(&self, options: &HttpOptions, refused: Option<&HeaderValue>) -> bool {
        if options.token.as_ref().and_then(Token::file).is_none() {
            return false;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.read_token(options);
        state.authorization.as_ref() != refused
    }
}

impl State {
    fn read_token(&mut self, options: &HttpOptions) {
        match options.token.as_ref().map(Token::read).transpose() {
            Ok(authorization) => self.authorization = authorization,
            Err(error) => tracing::warn!(%error, "what was read before stays"),
        }
    }
}

fn tls_seen(options: &HttpOptions) -> [Seen; 3] {
    [&options.ca, &options.cert, &options.key].map(|path| seen(path.as_deref()))
}

fn client(options: &HttpOptions) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(&options.user_agent)
        .connect_timeout(options.connect_timeout)
        // Notices a peer that vanished without a word, under watches that are quiet.
        .tcp_keepalive(Duration::from_secs(15))
        // The API never redirects, and a proxy from the environment is for the way out, not for one's own registry.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    let wrong = |path: &Path, detail: String| Error::Credentials { what: path.display().to_string(), detail };
    let read = |path: &Path| read_file(path, MAX_FILE).map_err(|error| wrong(path, error.to_string()));
    if let Some(path) = &options.ca {
        let authorities = Certificate::from_pem_bundle(&read(path)?);
        let authorities = authorities.map_err(|_| wrong(path, "it holds no certificates as PEM".to_owned()))?;
        if authorities.is_empty() {
            return Err(wrong(path, "it holds no certificate as PEM".to_owned()));
        }
        // Who names a CA does not mean all those of the system as well.
        builder = builder.tls_certs_only(authorities);
    }
    match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let mut pem = read(cert)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            let identity = Identity::from_pem(&pem);
            let identity = identity.map_err(|_| {
                wrong(cert, format!("with {} it makes no client certificate and key as PEM", key.display()))
            })?;
            builder = builder.identity(identity);
        }
        (None, None) => {}
        (Some(path), None) => return Err(wrong(path, "a client certificate needs its key, too".to_owned())),
        (None, Some(path)) => return Err(wrong(path, "a client's key needs its certificate, too".to_owned())),
    }
    builder.build().map_err(|error| {
        let path = options.cert.as_deref().or(options.ca.as_deref()).unwrap_or_else(|| Path::new("TLS"));
        wrong(path, super::call::root_cause(&error))
    })
}

/// Refuses what would show the token to everybody on the way.
pub(super) fn check_endpoint(endpoint: &Url, options: &HttpOptions) -> Result<()> {
    if endpoint.scheme() == "https" || options.allow_insecure || options.token.is_none() || is_loopback(endpoint) {
        return Ok(());
    }
    Err(Error::ClearText { endpoint: super::call::origin(endpoint) })
}

fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}
