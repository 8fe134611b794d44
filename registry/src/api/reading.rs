//! What every read begins and ends with, over HTTP or in the same process: the catalog must be loaded, show what the caller
//! has seen elsewhere, and a page says where the next one begins.

use super::problem::Problem;
use crate::live::{LiveReplica, WaitError};
use axum::http::StatusCode;
use fingerpost_catalog::Position;
use std::time::Duration;

/// How long a read may wait for a position.
const MIN_REVISION_WAIT: Duration = Duration::from_secs(5);

/// Refuses reads before the store's contents are loaded, when an empty list would be a lie.
pub fn loaded(live: &LiveReplica) -> Result<(), Problem> {
    if live.is_loaded() {
        return Ok(());
    }
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the catalog is still being loaded").retry_after(1))
}

/// Waits until a position is shown, where one is asked for. Everything else is looked at before: nobody should wait for a
/// refusal.
pub async fn shown(live: &LiveReplica, min_revision: Option<Position>) -> Result<(), Problem> {
    let Some(position) = min_revision else { return Ok(()) };
    live.wait_for(position, MIN_REVISION_WAIT).await.map_err(|error| match error {
        WaitError::Timeout => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("this server is at {} and did not reach {position} within 5 seconds", live.position()),
        ),
        WaitError::Foreign => Problem::new(
            StatusCode::GONE,
            format!("{position} belongs to another history of this registry, which is at {} now", live.position()),
        ),
    })
}

/// Continue tokens are the key of the last object on the page, in hexadecimal so that nobody builds upon their form,
/// after the position at which the page was read.
pub fn token(position: Position, key: &str) -> String {
    let mut out = format!("{position}.");
    for byte in key.bytes() {
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// The key in a continue token. One of another epoch is refused: its list began in another history.
pub fn parse_token(live: &LiveReplica, text: &str) -> Result<String, Problem> {
    let bad = || Problem::parameter("continue", "not a continue token; take it whole from the page before");
    let (position, hex) = text.split_once('.').ok_or_else(bad)?;
    let position: Position = position.parse().map_err(|_| bad())?;
    if position.epoch != live.epoch() {
        return Err(Problem::new(
            StatusCode::GONE,
            "the list was begun in another history of this registry; begin it again",
        ));
    }
    if hex.len() % 2 != 0 || !hex.is_ascii() {
        return Err(bad());
    }
    let bytes: Option<Vec<u8>> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)
}
