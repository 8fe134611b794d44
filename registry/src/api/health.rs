//! Parts of an instance's health that are written apart from it: drains and the results of TTL checks; and the history
//! of what became of it.

use super::body::{self, MAX_BODY};
use super::described::{Acting, BodyProblems, IfMatch, NotFound, ReadProblems, WriteProblems};
use super::instances::{Place, finish_instance, get_view};
use super::objects::reply;
use super::params::{self, Params, Path};
use super::problem::Problem;
use super::{App, AppState};
use crate::access::Caller;
use crate::checks::Outcome;
use crate::validate;
use crate::writes::Written;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fingerpost_catalog::document::{DrainDocument, HealthDocument, HistoryDocument, InstanceDocument};
use fingerpost_catalog::{Health, validate_dns_label};
use std::sync::Arc;

async fn drain_at(
    app: Arc<App>,
    caller: Caller,
    place: Place,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting(&caller)?;
    given.finish()?;
    let guard = params::guard(&headers)?;
    params::loaded(&app)?;
    let body = body::read(body, MAX_BODY).await?;
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let DrainDocument { note } = if empty { DrainDocument::default() } else { body::json(&body)? };
    let key = place.key(&acting)?;
    let done = app.api.writer.drain(key.clone(), &note, guard).await?;
    // What is created is the drain; the reply is about the instance.
    finish_instance(&app, &key, Written { created: false, ..done })
}

async fn undrain_at(
    app: Arc<App>,
    caller: Caller,
    place: Place,
    query: Option<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting(&caller)?;
    given.finish()?;
    params::loaded(&app)?;
    let key = place.key(&acting)?;
    let done = app.api.writer.undrain(key.clone(), params::guard(&headers)?).await?;
    finish_instance(&app, &key, done)
}

async fn check_at(
    app: Arc<App>,
    caller: Caller,
    place: Place,
    check: String,
    query: Option<String>,
    body: Body,
) -> Result<Response, Problem> {
    validate_dns_label(&check).map_err(|error| Problem::parameter("check", error))?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting(&caller)?;
    given.finish()?;
    params::loaded(&app)?;
    let HealthDocument { health, note } = body::json(&body::read(body, MAX_BODY).await?)?;
    validate::note(&note)?;
    if health == Health::Unknown {
        let detail = "a report says `passing`, `warning` or `critical`; who knows nothing reports nothing";
        return Err(validate::Invalid::new("/health", detail).into());
    }
    let key = place.key(&acting)?;
    app.api.checks.report(&app.api.writer, key.clone(), &check, Outcome::new(health, note)).await?;
    finish_instance(&app, &key, Written { position: app.api.live.position(), created: false, changed: true })
}

async fn history_at(app: Arc<App>, place: Place, query: Option<String>) -> Result<Response, Problem> {
    let view = get_view(&app, &place, query.as_deref()).await?;
    Ok(reply(StatusCode::OK, &HistoryDocument { items: app.api.history.of(&view.key) }, None))
}

/// Drain an instance of a service: take it out of answers, and keep it listed. Registering it again does not undo this.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, IfMatch),
    request_body = Option<DrainDocument>,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn drain_instance(
    State(app): AppState,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    drain_at(app, caller, Place::of_service(path)?, query, headers, body).await
}

/// End the drain of an instance of a service; where there is none, nothing is changed.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, IfMatch),
    responses((status = 200, description = "As it is now.", body = InstanceDocument), NotFound, WriteProblems))]
pub(crate) async fn undrain_instance(
    State(app): AppState,
    caller: Caller,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    undrain_at(app, caller, Place::of_service(path)?, query, headers).await
}

/// Report to a TTL check of an instance of a service. Reports have to come more often than the check's `ttlSeconds`.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/checks/{check}",
    tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("check" = String, Path, description = "The check's name."),
        Acting),
    request_body = HealthDocument,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn report_check(
    State(app): AppState,
    caller: Caller,
    Path((namespace, service, id, check)): Path<(String, String, String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    check_at(app, caller, Place::of_service((namespace, service, id))?, check, query, body).await
}

/// The latest changes of the health of an instance of a service, as far as this replica has seen them.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/history", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        super::described::MinRevision),
    responses((status = 200, description = "The latest first.", body = HistoryDocument), NotFound, ReadProblems))]
pub(crate) async fn get_history(
    State(app): AppState,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    history_at(app, Place::of_service(path)?, query).await
}

/// Drain an instance of no service: mark it as on its way out.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, IfMatch),
    request_body = Option<DrainDocument>,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn drain_bare_instance(
    State(app): AppState,
    caller: Caller,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    drain_at(app, caller, Place::of_none(path)?, query, headers, body).await
}

/// End the drain of an instance of no service; where there is none, nothing is changed.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, IfMatch),
    responses((status = 200, description = "As it is now.", body = InstanceDocument), NotFound, WriteProblems))]
pub(crate) async fn undrain_bare_instance(
    State(app): AppState,
    caller: Caller,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    undrain_at(app, caller, Place::of_none(path)?, query, headers).await
}

/// Report to a TTL check of an instance of no service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}/checks/{check}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("check" = String, Path, description = "The check's name."),
        Acting),
    request_body = HealthDocument,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn report_bare_check(
    State(app): AppState,
    caller: Caller,
    Path((namespace, id, check)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    check_at(app, caller, Place::of_none((namespace, id))?, check, query, body).await
}

/// The latest changes of the health of an instance of no service, as far as this replica has seen them.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/instances/{id}/history", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        super::described::MinRevision),
    responses((status = 200, description = "The latest first.", body = HistoryDocument), NotFound, ReadProblems))]
pub(crate) async fn get_bare_history(
    State(app): AppState,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    history_at(app, Place::of_none(path)?, query).await
}
