//! TCP: a connection can be made.

use super::connect;
use crate::checks::verdict::Outcome;
use fingerpost_catalog::Health;
use std::net::SocketAddr;

pub(super) async fn run(target: SocketAddr) -> Result<Outcome, String> {
    connect(target).await.map(|_| Outcome::new(Health::Passing, format!("connected to {target}")))
}
