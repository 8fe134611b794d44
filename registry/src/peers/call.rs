//! One call to another replica.

use super::{PeerError, authorization};
use crate::members::{Member, Secret};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Most bytes of a reply.
const MAX_REPLY: usize = 1 << 20;

/// Sends a body to a path of a peer, and reads its reply.
pub(super) async fn call<R: DeserializeOwned>(
    client: &reqwest::Client,
    peer: &Member,
    secret: &Secret,
    path: &str,
    body: &(impl Serialize + Sync),
) -> Result<R, PeerError> {
    let unreachable = |reason: String| PeerError::Unreachable(Arc::clone(&peer.id), reason);
    let refused = |reason: String| PeerError::Refused(Arc::clone(&peer.id), reason);
    let url = peer.url.as_deref().ok_or_else(|| unreachable("it says no address".to_owned()))?;
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let mut authorization =
        reqwest::header::HeaderValue::from_str(&authorization(secret)).map_err(|error| refused(error.to_string()))?;
    authorization.set_sensitive(true);
    let request = client.post(url).header(reqwest::header::AUTHORIZATION, authorization);
    let sent = request.json(body).send().await;
    let mut response = sent.map_err(|error| unreachable(cause(&error)))?;
    if !response.status().is_success() {
        return Err(refused(format!("status {}", response.status().as_u16())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(cause(&error)))? {
        if body.len() + chunk.len() > MAX_REPLY {
            return Err(refused("the reply is too large".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))
}

fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
