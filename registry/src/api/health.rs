//! Parts of an instance's health that are written apart from it: drains and the results of TTL checks; and the history
//! of what became of it.

use super::AppState;
use super::body::{self, MAX_BODY};
use super::described::{Acting, BodyProblems, IfMatch, NotFound, ReadProblems, Waiting, WriteProblems};
use super::instances::{Place, finish_instance, get_view};
use super::objects::reply;
use super::params::{Path, Write};
use super::problem::Problem;
use crate::checks::Outcome;
use crate::validate;
use crate::writes::Written;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use fingerpost_catalog::document::{DrainDocument, HealthDocument, HistoryDocument, InstanceDocument};
use fingerpost_catalog::{Health, validate_dns_label};
use serde::Deserialize;

/// The check in a path.
#[derive(Deserialize)]
pub(crate) struct CheckName {
    check: String,
}

/// Drain an instance of a service: take it out of answers, and keep it listed. Registering it again does not undo this.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    request_body = Option<DrainDocument>,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn drain_instance(
    place: Place,
    Write { app, acting, guard }: Write,
    body: Body,
) -> Result<Response, Problem> {
    let body = body::read(body, MAX_BODY).await?;
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let DrainDocument { note } = if empty { DrainDocument::default() } else { body::json(&body)? };
    let key = place.key(&acting)?;
    let done = app.api.writer.drain(key.clone(), &note, guard).await?;
    // What is created is the drain; the reply is about the instance.
    finish_instance(&app, &key, Written { created: false, ..done })
}

/// End the drain of an instance of a service; where there is none, nothing is changed.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    responses((status = 200, description = "As it is now.", body = InstanceDocument), NotFound, WriteProblems))]
pub(crate) async fn undrain_instance(place: Place, Write { app, acting, guard }: Write) -> Result<Response, Problem> {
    let key = place.key(&acting)?;
    let done = app.api.writer.undrain(key.clone(), guard).await?;
    finish_instance(&app, &key, done)
}

/// Report to a TTL check of an instance of a service. Reports have to come more often than the check's `ttlSeconds`.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/checks/{check}",
    tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("check" = String, Path, description = "The check's name."),
        Acting, Waiting),
    request_body = HealthDocument,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn report_check(
    place: Place,
    Path(CheckName { check }): Path<CheckName>,
    Write { app, acting, .. }: Write,
    body: Body,
) -> Result<Response, Problem> {
    validate_dns_label(&check).map_err(|error| Problem::parameter("check", error))?;
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

/// The latest changes of the health of an instance of a service, as far as this replica has seen them.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/history", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        super::described::MinRevision),
    responses((status = 200, description = "The latest first.", body = HistoryDocument), NotFound, ReadProblems))]
pub(crate) async fn get_history(
    place: Place,
    State(app): AppState,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let view = get_view(&app, &place, query.as_deref()).await?;
    Ok(reply(StatusCode::OK, &HistoryDocument { items: app.api.history.of(&view.key) }, None))
}

/// Drain an instance of no service: mark it as on its way out.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    request_body = Option<DrainDocument>,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn drain_bare_instance(place: Place, write: Write, body: Body) -> Result<Response, Problem> {
    drain_instance(place, write, body).await
}

/// End the drain of an instance of no service; where there is none, nothing is changed.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/instances/{id}/drain", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    responses((status = 200, description = "As it is now.", body = InstanceDocument), NotFound, WriteProblems))]
pub(crate) async fn undrain_bare_instance(place: Place, write: Write) -> Result<Response, Problem> {
    undrain_instance(place, write).await
}

/// Report to a TTL check of an instance of no service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}/checks/{check}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("check" = String, Path, description = "The check's name."),
        Acting, Waiting),
    request_body = HealthDocument,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn report_bare_check(
    place: Place,
    Path(name): Path<CheckName>,
    write: Write,
    body: Body,
) -> Result<Response, Problem> {
    report_check(place, Path(name), write, body).await
}

/// The latest changes of the health of an instance of no service, as far as this replica has seen them.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/instances/{id}/history", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        super::described::MinRevision),
    responses((status = 200, description = "The latest first.", body = HistoryDocument), NotFound, ReadProblems))]
pub(crate) async fn get_bare_history(place: Place, State(app): AppState, query: RawQuery) -> Result<Response, Problem> {
    get_history(place, State(app), query).await
}
