//! The question whether another replica shows a position, and what it knows of followers.

use super::call::call;
use super::{HttpPeers, NoPeers, PeerError};
use crate::followers::PeerVisible;
use crate::members::{Member, Secret};
use fingerpost_catalog::Position;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The path of the call.
pub const PATH: &str = "/v1/peer/visible";

/// The body of a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedVisible {
    /// The position; absent: none, the answer comes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// How long the question may stand open.
    pub within_milliseconds: u64,
}

/// The way to ask other replicas what they show.
pub trait AskVisible: Send + Sync {
    /// Asks whether a replica shows a position, or, without one, only for the followers that it hears.
    fn visible<'a>(
        &'a self,
        peer: &'a Member,
        secret: &'a Secret,
        position: Option<Position>,
        within: Duration,
    ) -> BoxFuture<'a, Result<PeerVisible, PeerError>>;
}

impl AskVisible for NoPeers {
    fn visible<'a>(
        &'a self,
        peer: &'a Member,
        _: &'a Secret,
        _: Option<Position>,
        _: Duration,
    ) -> BoxFuture<'a, Result<PeerVisible, PeerError>> {
        let error = PeerError::Unreachable(Arc::clone(&peer.id), "there is no way to other replicas".to_owned());
        futures_util::future::ready(Err(error)).boxed()
    }
}

impl AskVisible for HttpPeers {
    fn visible<'a>(
        &'a self,
        peer: &'a Member,
        secret: &'a Secret,
        position: Option<Position>,
        within: Duration,
    ) -> BoxFuture<'a, Result<PeerVisible, PeerError>> {
        let asked = AskedVisible { position, within_milliseconds: within.as_millis() as u64 };
        async move { call(&self.client, peer, secret, PATH, &asked).await }.boxed()
    }
}
