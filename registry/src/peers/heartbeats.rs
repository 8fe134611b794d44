//! Reports to TTL checks that change nothing, passed to the replicas at which the checks are at home.

use super::HttpPeers;
use super::line::Call;
use crate::checks::{Relay, RelayError};
use crate::members::{Member, Members};
use fingerpost_catalog::{Health, InstanceKey, Key};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;

/// The path of the call.
pub const PATH: &str = "/v1/peer/heartbeats";
/// Most reports in one call.
pub const MAX_HEARTBEATS: usize = 1000;

/// A report to a TTL check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The key of the check's record.
    pub check: Arc<str>,
    /// As it was reported, and stands.
    pub health: Health,
}

/// The body of a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerHeartbeats {
    /// The reports, at most [`MAX_HEARTBEATS`].
    pub items: Vec<Heartbeat>,
}

impl From<Vec<Heartbeat>> for PeerHeartbeats {
    fn from(items: Vec<Heartbeat>) -> Self {
        Self { items }
    }
}

/// The reply to a call.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerHeard {
    /// Whether each was noted, in the order told.
    pub items: Vec<bool>,
}

impl From<PeerHeard> for Vec<bool> {
    fn from(heard: PeerHeard) -> Self {
        heard.items
    }
}

pub(super) struct Heartbeats;

impl Call for Heartbeats {
    const PATH: &'static str = PATH;
    const MOST: usize = MAX_HEARTBEATS;
    type Item = Heartbeat;
    type Outcome = bool;
    type Body = PeerHeartbeats;
    type Reply = PeerHeard;
}

/// Brings reports to other replicas, which it knows from the store.
#[derive(Debug)]
pub struct PeerRelay {
    peers: Arc<HttpPeers>,
    members: watch::Receiver<Arc<Members>>,
}

impl PeerRelay {
    /// A relay between the `members` of a store.
    pub fn new(peers: Arc<HttpPeers>, members: watch::Receiver<Arc<Members>>) -> Self {
        Self { peers, members }
    }
}

impl Relay for PeerRelay {
    fn heartbeat<'a>(
        &'a self,
        home: &'a Member,
        instance: &'a InstanceKey,
        check: &'a str,
        health: Health,
    ) -> BoxFuture<'a, Result<(), RelayError>> {
        async move {
            let secret = self.members.borrow().secret.clone();
            let key = Key::Check { instance: instance.clone(), check: check.into() };
            let told = vec![Heartbeat { check: key.to_string().into(), health }];
            match self.peers.heartbeats.tell(home, &secret, told).await {
                Ok(heard) if heard == [true] => Ok(()),
                Ok(_) => Err(RelayError(format!("replica {} is not at home for it, or knows otherwise", home.id))),
                Err(error) => Err(RelayError(error.to_string())),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Secret;
    use axum::{Json, Router, routing};

    #[tokio::test]
    async fn what_the_home_refuses_was_not_told() {
        // The home keeps the deadline of one check alone.
        let answer = async |Json(told): Json<PeerHeartbeats>| {
            let own = |told: &Heartbeat| &*told.check == "checks/prod/web/api/a/beat" && told.health == Health::Passing;
            Json(PeerHeard { items: told.items.iter().map(own).collect() })
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let router = Router::new().route(PATH, routing::post(answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let home = Member { id: "home".into(), url, version: String::new(), schema: 1 };
        let members = Members { secret: Secret(Arc::from(&[1][..])), ..Members::alone() };
        let (_sender, members) = watch::channel(Arc::new(members));
        let relay = PeerRelay::new(Arc::new(HttpPeers::open(None).unwrap()), members);
        let instance = |id: &str| InstanceKey {
            namespace: "prod".into(),
            service: Some("web".into()),
            source: fingerpost_catalog::Source::api(),
            id: id.into(),
        };
        let (a, b) = (instance("a"), instance("b"));
        let (own, worse, foreign) = tokio::join!(
            relay.heartbeat(&home, &a, "beat", Health::Passing),
            relay.heartbeat(&home, &a, "beat", Health::Warning),
            relay.heartbeat(&home, &b, "beat", Health::Passing),
        );
        assert!(own.is_ok() && worse.is_err() && foreign.is_err(), "{own:?} {worse:?} {foreign:?}");
    }
}
