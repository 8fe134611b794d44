//! The probes: one look at an instance each. They are tiny clients of their protocols, made to ask one question of an
//! address that was chosen by others: no redirects, no names to resolve, no connections kept, and little read of what
//! comes back, which is not to be trusted.

mod dns;
mod grpc;
mod http;
mod tcp;
mod tls;

pub(super) use dns::record_type;
pub use tls::{CheckCaError, Tls};

use super::verdict::Outcome;
use fingerpost_catalog::{Check, CheckType};
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Whatever can look at an instance.
pub trait Probe: Send + Sync {
    /// Runs the check at an address. Whoever calls it keeps to the check's timeout, by dropping the future.
    fn run(&self, check: Arc<Check>, target: SocketAddr) -> BoxFuture<'static, Outcome>;
}

/// The probes over the network.
pub struct NetworkProbe {
    tls: Arc<Tls>,
}

impl NetworkProbe {
    /// Probes that identify their peers over TLS as `tls` says.
    pub fn new(tls: Tls) -> Self {
        Self { tls: Arc::new(tls) }
    }
}

impl Probe for NetworkProbe {
    fn run(&self, check: Arc<Check>, target: SocketAddr) -> BoxFuture<'static, Outcome> {
        let tls = Arc::clone(&self.tls);
        Box::pin(async move {
            let ended = match check.check_type {
                CheckType::Http => http::run(&check, target, None).await,
                CheckType::Https => http::run(&check, target, Some(&tls)).await,
                CheckType::Tcp => tcp::run(target).await,
                CheckType::Grpc => grpc::run(&check, target, &tls).await,
                CheckType::Dns => dns::run(&check, target).await,
                CheckType::Ttl => Err("nobody asks for the result of a TTL check".to_owned()),
            };
            ended.unwrap_or_else(Outcome::critical)
        })
    }
}

/// Connects, or says why not.
async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(target).await.map_err(|error| format!("can't connect to {target}: {}", reason(&error)))
}

/// What the system says, without its number.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// The innermost cause: what hides it says only that something failed.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => reason(error),
        None => cause.to_string(),
    }
}
