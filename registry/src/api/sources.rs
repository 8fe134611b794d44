//! Who declares things here, whether they still speak, and the removal of what a source left behind.

use super::AppState;
use super::described::{Always, ReadProblems, Waiting, WriteProblems};
use super::objects::reply;
use super::params::{self, Params, Path};
use super::problem::Problem;
use super::visible::told;
use crate::sources::{Removal, SourceState};
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use fingerpost_catalog::document::{ListDocument, SourceDocument};
use fingerpost_catalog::{Position, Source, Timestamp};
use serde::Serialize;

/// What the removal of a source's declarations did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SourceRemoved {
    /// Instances that are gone.
    instances: usize,
    /// Declarations of services that are gone.
    services: usize,
    /// Declarations of namespaces that are gone.
    namespaces: usize,
    /// The position at which all of it is gone.
    #[schema(value_type = String)]
    revision: Position,
}

pub(super) fn document(state: &SourceState) -> SourceDocument {
    SourceDocument {
        source: state.source.clone(),
        namespaces: state.stats.namespaces as u64,
        services: state.stats.services as u64,
        instances: state.stats.instances as u64,
        sessionless: state.stats.sessionless as u64,
        last_seen: state.stats.seen.map(|(seen, _)| Timestamp(seen).to_string()),
        orphaned: state.orphaned,
    }
}

/// List the sources that hold anything.
#[utoipa::path(get, path = "/v1/sources", tag = "sources",
    responses((status = 200, description = "All of them, by name.", body = ListDocument<SourceDocument>),
        ReadProblems))]
pub(crate) async fn list_sources(State(app): AppState, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    Params::new(query.as_deref())?.finish()?;
    params::loaded(&app)?;
    let revision = app.api.live.position();
    let items = app.api.sources.states().iter().map(document).collect();
    Ok(reply(
        StatusCode::OK,
        &ListDocument::<SourceDocument> { revision, items, continue_token: None, panic: false },
        None,
    ))
}

/// Remove all that a source declares: its instances, services and namespaces. For sources that never come back; one that
/// does declares its things again.
#[utoipa::path(delete, path = "/v1/sources/{source}", tag = "sources",
    params(("source" = String, Path, description = "The source, as in `kubernetes/old`; its `/` written `%2F`."), Waiting),
    responses((status = 200, description = "What was removed.", body = SourceRemoved), WriteProblems, Always))]
pub(crate) async fn delete_source(
    State(app): AppState,
    Path(source): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::new(query.as_deref())?.finish()?;
    params::loaded(&app)?;
    let source: Source = source.parse().map_err(|error| Problem::parameter("source", error))?;
    let known = app.api.live.read().knows_source(&source);
    if !known {
        return Err(Problem::not_found(format_args!("source `{source}`")));
    }
    let (removed, revision) = app.api.sources.remove(&app.api.writer, &source, Removal::All).await?;
    let removed = SourceRemoved {
        instances: removed.instances,
        services: removed.services,
        namespaces: removed.namespaces,
        revision,
    };
    told(revision, app.api.writer.shown(revision).await, &removed)
}
