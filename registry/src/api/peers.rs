//! What replicas tell each other. Not for clients, and therefore not in the API's description; access control has seen
//! the replicas' secret.

use super::AppState;
use super::body::{self, MAX_BODY, MAX_LARGE_BODY};
use super::objects::reply;
use super::params;
use super::problem::Problem;
use crate::peers::heartbeats::{self, Heartbeat, MAX_HEARTBEATS, PeerHeard, PeerHeartbeats};
use crate::peers::renewals::{self, MAX_IDS, PeerRenew, PeerRenewed};
use crate::peers::visible::{self, AskedVisible};
use crate::validate::Invalid;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use fingerpost_catalog::Key;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn routes() -> Router<Arc<super::App>> {
    Router::new()
        .route(renewals::PATH, post(renew))
        .route(heartbeats::PATH, post(heartbeat))
        .route(renewals::COUNTS_PATH, post(count))
        .route(visible::PATH, post(visible))
}

fn bounded(pointer: &str, count: usize, most: usize) -> Result<(), Problem> {
    if count > most {
        return Err(Invalid::new(pointer, format!("more than {most}")).into());
    }
    Ok(())
}

/// Renewals of sessions that are at home here.
async fn renew(State(app): AppState, body: Body) -> Result<Response, Problem> {
    params::loaded(&app)?;
    let PeerRenew { ids } = body::json(&body::read(body, MAX_LARGE_BODY).await?)?;
    bounded("/ids", ids.len(), MAX_IDS)?;
    let items = app.api.sessions.renew_for_peer(&ids).await;
    Ok(reply(StatusCode::OK, &PeerRenewed { items }, None))
}

/// What the sessions count that are at home here.
async fn count(State(app): AppState) -> Result<Response, Problem> {
    params::loaded(&app)?;
    let out_of_touch = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this replica is out of touch with the store");
    let counts = app.api.sessions.counts().ok_or_else(out_of_touch)?;
    Ok(reply(StatusCode::OK, &counts, None))
}

/// Reports to TTL checks that are at home here.
async fn heartbeat(State(app): AppState, body: Body) -> Result<Response, Problem> {
    params::loaded(&app)?;
    let PeerHeartbeats { items } = body::json(&body::read(body, MAX_LARGE_BODY).await?)?;
    bounded("/items", items.len(), MAX_HEARTBEATS)?;
    let noted = |Heartbeat { check, health }: Heartbeat| match check.parse() {
        Ok(Key::Check { instance, check }) => app.api.checks.heartbeat(&instance, &check, health),
        _ => false,
    };
    let items = items.into_iter().map(noted).collect();
    Ok(reply(StatusCode::OK, &PeerHeard { items }, None))
}

/// Whether this replica shows a position, and what the followers show that it hears.
async fn visible(State(app): AppState, body: Body) -> Result<Response, Problem> {
    params::loaded(&app)?;
    let AskedVisible { position, within_milliseconds } = body::json(&body::read(body, MAX_BODY).await?)?;
    let answer = app.api.visibility.for_peer(position, Duration::from_millis(within_milliseconds)).await;
    Ok(reply(StatusCode::OK, &answer, None))
}
