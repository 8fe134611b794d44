//! Calls between the replicas of one registry.
//!
//! Two kinds of news have to reach the replica that is at home for what they are about, and cost no write there: renewals
//! of sessions ([`renewals`]), and reports to TTL checks that change nothing ([`heartbeats`]). Replicas prove themselves
//! by a secret that is kept in the store ([`Members::secret`](crate::members::Members::secret)).
//!
//! To each replica there is one call of each kind at a time, which carries all that has come to wait meanwhile (`line`):
//! so the number of calls follows their speed, not that of the news. Besides, homes ask each other what their sessions
//! count ([`Peers::counts`]), before they end any; and replicas ask each other what they and their followers show
//! ([`visible`]), for writes that wait for that.

mod call;
pub mod heartbeats;
mod line;
pub mod renewals;
pub mod visible;

pub use renewals::{NoPeers, Peers};

use crate::members::Secret;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A connection must stand within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A call must be answered within this time.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Who waits for a call in a line waits no longer than this, the call included.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Why a peer gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// It can't be reached, or was not a moment ago.
    #[error("replica {0} can't be reached: {1}")]
    Unreachable(Arc<str>, String),
    /// It refused, or answered what is no answer.
    #[error("replica {0} refused: {1}")]
    Refused(Arc<str>, String),
    /// Too much waits for it.
    #[error("too much waits for replica {0}")]
    Overloaded(Arc<str>),
}

/// The value of the `Authorization` header by which replicas prove themselves.
pub fn authorization(secret: &Secret) -> String {
    let mut value = String::with_capacity(5 + secret.0.len() * 2);
    value.push_str("Peer ");
    for byte in secret.0.iter() {
        // Writing to a string can't fail.
        let _ = write!(value, "{byte:02x}");
    }
    value
}

/// The other replicas can't be called with this.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the CA of other replicas' certificates, `{}`, can't be used: {detail}", path.display())]
pub struct PeersError {
    path: PathBuf,
    detail: String,
}

/// Peers over HTTP.
pub struct HttpPeers {
    client: reqwest::Client,
    renewals: line::Lines<renewals::Renewals>,
    heartbeats: line::Lines<heartbeats::Heartbeats>,
}

impl std::fmt::Debug for HttpPeers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpPeers").finish_non_exhaustive()
    }
}

impl HttpPeers {
    /// Peers over HTTP; over HTTPS, their certificates must be signed by the CA in the PEM file `ca`, without one by any
    /// that the system trusts.
    pub fn open(ca: Option<&Path>) -> Result<Self, PeersError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("fingerpost/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(path) = ca {
            let wrong = |detail: String| PeersError { path: path.to_owned(), detail };
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if authorities.is_empty() {
                return Err(wrong("it holds no certificate as PEM".to_owned()));
            }
            builder = builder.tls_certs_only(authorities);
        }
        let client = builder.build().map_err(|error| PeersError {
            path: ca.map(Path::to_owned).unwrap_or_default(),
            detail: error.to_string(),
        })?;
        Ok(Self::new(client, PATIENCE))
    }

    /// Peers that are called by this client. Who waits for a call that is shared waits no longer than `patience`.
    pub fn new(client: reqwest::Client, patience: Duration) -> Self {
        Self {
            renewals: line::Lines::new(client.clone(), patience),
            heartbeats: line::Lines::new(client.clone(), patience),
            client,
        }
    }
}
