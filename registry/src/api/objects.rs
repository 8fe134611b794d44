//! One namespace or service: read, write, remove.

use super::AppState;
use super::body::{self, MAX_BODY};
use super::described::{
    Acting, BodyProblems, IfMatch, IfNoneMatch, MinRevision, NotFound, ReadProblems, Waiting, WriteProblems,
};
use super::params::{self, Params, Path, Write};
use super::problem::Problem;
use crate::writes::{self, Written};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fingerpost_catalog::Position;
use fingerpost_catalog::document::{ListDocument, NamespaceDocument, ServiceDocument};
use serde::{Deserialize, Serialize};

/// The reply to a removal.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Removed {
    /// The position that the removal made.
    #[schema(value_type = String)]
    pub(super) revision: Position,
}

/// JSON with a status and, where there is one, an ETag.
pub(crate) fn reply(status: StatusCode, value: &impl Serialize, revision: Option<Position>) -> Response {
    let Ok(body) = serde_json::to_vec(value) else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the reply can't be written as JSON").into_response();
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(revision) = revision {
        headers.insert(header::ETAG, params::etag(revision));
    }
    response
}

pub(super) fn written(status: &Written) -> StatusCode {
    if status.created { StatusCode::CREATED } else { StatusCode::OK }
}

/// A write whose object is gone again before the reply: the position is still told.
pub(super) fn removed_meanwhile(written: Written) -> Response {
    reply(StatusCode::OK, &Removed { revision: written.position }, Some(written.position))
}

/// Read a namespace.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(("namespace" = String, Path, description = "The namespace."),
        ("view" = Option<String>, Query, description = "`sources`: each source's declaration, as a list."),
        MinRevision),
    responses((status = 200, description = "It exists; with `?view=sources`, a list.", body = NamespaceDocument),
        NotFound, ReadProblems))]
pub(crate) async fn get_namespace(
    State(app): AppState,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    let min_revision = given.min_revision()?;
    let by_source = by_source(&mut given)?;
    given.finish()?;
    params::shown(&app, min_revision).await?;
    let replica = app.api.live.read();
    // Under the lock: a later position could be one that the items below do not show.
    let revision = app.api.live.position();
    let epoch = revision.epoch;
    let view =
        replica.namespace(&namespace).ok_or_else(|| Problem::not_found(format_args!("namespace `{namespace}`")))?;
    if !by_source {
        let document = NamespaceDocument::from_view(&view, epoch);
        return Ok(reply(StatusCode::OK, &document, document.revision));
    }
    let items = replica.namespace_declarations(&namespace);
    let items = items
        .into_iter()
        .map(|(source, declared, revision)| NamespaceDocument {
            name: Some(namespace.clone()),
            labels: declared.labels,
            source: Some(source),
            sources: Vec::new(),
            revision: Some(Position::new(epoch, revision)),
        })
        .collect();
    drop(replica);
    let list = ListDocument { revision, items, continue_token: None, panic: false };
    Ok(reply(StatusCode::OK, &list, None))
}

/// Whether each source's word is asked for, and not what they come to.
pub(super) fn by_source(given: &mut Params) -> Result<bool, Problem> {
    match given.take("view").as_deref() {
        None | Some("merged") => Ok(false),
        Some("sources") => Ok(true),
        Some(_) => Err(Problem::parameter("view", "it is `merged` (the default) or `sources`")),
    }
}

/// Declare a namespace.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        Acting, Waiting, IfMatch, IfNoneMatch),
    request_body = NamespaceDocument,
    responses((status = 200, description = "It was there; as it is now.", body = NamespaceDocument),
        (status = 201, description = "It is new.", body = NamespaceDocument),
        WriteProblems, BodyProblems))]
pub(crate) async fn put_namespace(
    Path(namespace): Path<String>,
    Write { app, acting, guard }: Write,
    body: Body,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    let document = body::json(&body::read(body, MAX_BODY).await?)?;
    let done = app.api.writer.put_namespace(&acting, &namespace, document, guard).await?;
    let Some(view) = app.api.live.read().namespace(&namespace) else { return Ok(removed_meanwhile(done)) };
    let document = NamespaceDocument::from_view(&view, done.position.epoch);
    Ok(reply(written(&done), &document, document.revision))
}

/// Withdraw a namespace's declaration.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(("namespace" = String, Path, description = "The namespace."),
        Acting, Waiting, IfMatch),
    responses((status = 200, description = "It was removed.", body = Removed), NotFound, WriteProblems))]
pub(crate) async fn delete_namespace(
    Path(namespace): Path<String>,
    Write { app, acting, guard }: Write,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    let key = writes::namespace_key(&acting, &namespace)?;
    let done = app.api.writer.delete_declaration(key, guard).await?;
    Ok(reply(StatusCode::OK, &Removed { revision: done.position }, None))
}

/// Read a service, merged from all its declarations.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}", tag = "services",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("view" = Option<String>, Query, description = "`sources`: each source's declaration, as a list."),
        MinRevision),
    responses((status = 200, description = "It exists; with `?view=sources`, a list.", body = ServiceDocument),
        NotFound, ReadProblems))]
pub(crate) async fn get_service(
    State(app): AppState,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    let min_revision = given.min_revision()?;
    let by_source = by_source(&mut given)?;
    given.finish()?;
    params::shown(&app, min_revision).await?;
    let replica = app.api.live.read();
    // Under the lock: a later position could be one that the items below do not show.
    let revision = app.api.live.position();
    let epoch = revision.epoch;
    let view = replica
        .service(&namespace, &service)
        .ok_or_else(|| Problem::not_found(format_args!("service `{namespace}/{service}`")))?;
    if !by_source {
        let document = ServiceDocument::from_view(&view, epoch);
        return Ok(reply(StatusCode::OK, &document, document.revision));
    }
    let declarations = replica.service_declarations(&namespace, &service);
    drop(replica);
    let items = declarations
        .into_iter()
        .map(|(source, declared, revision)| {
            ServiceDocument::of(&namespace, &service, source, declared, Position::new(epoch, revision))
        })
        .collect();
    let list = ListDocument { revision, items, continue_token: None, panic: false };
    Ok(reply(StatusCode::OK, &list, None))
}

/// Declare a service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}", tag = "services",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("service" = String, Path, description = "The service, a DNS label."),
        Acting, Waiting, IfMatch, IfNoneMatch),
    request_body = ServiceDocument,
    responses((status = 200, description = "It was there; as it is now.", body = ServiceDocument),
        (status = 201, description = "It is new.", body = ServiceDocument),
        WriteProblems, BodyProblems))]
pub(crate) async fn put_service(
    Path((namespace, service)): Path<(String, String)>,
    Write { app, acting, guard }: Write,
    body: Body,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let document = body::json(&body::read(body, MAX_BODY).await?)?;
    let done = app.api.writer.put_service(&acting, &namespace, &service, document, guard).await?;
    let Some(view) = app.api.live.read().service(&namespace, &service) else { return Ok(removed_meanwhile(done)) };
    let document = ServiceDocument::from_view(&view, done.position.epoch);
    Ok(reply(written(&done), &document, document.revision))
}

/// Withdraw a service's declaration; its instances stay.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/services/{service}", tag = "services",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        Acting, Waiting, IfMatch),
    responses((status = 200, description = "It was removed.", body = Removed), NotFound, WriteProblems))]
pub(crate) async fn delete_service(
    Path((namespace, service)): Path<(String, String)>,
    Write { app, acting, guard }: Write,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let key = writes::service_key(&acting, &namespace, &service)?;
    let done = app.api.writer.delete_declaration(key, guard).await?;
    Ok(reply(StatusCode::OK, &Removed { revision: done.position }, None))
}
