//! One namespace, service or instance: read, write, remove.

use super::body::{self, MAX_BODY, MAX_LARGE_BODY};
use super::params::{self, Params};
use super::problem::Problem;
use super::{App, AppState};
use crate::writes::{self, Written};
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fingerpost_catalog::document::{
    HealthDocument, InstanceDocument, ListDocument, NamespaceDocument, ProblemDocument, ServiceDocument,
};
use fingerpost_catalog::{InstanceKey, InstanceView, Position, Report, Source};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The reply to a removal.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct Removed {
    /// The position that the removal made.
    #[schema(value_type = String)]
    revision: Position,
}

/// The body that replaces a source's instances of a service.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub(crate) struct ReplaceSet {
    /// All instances that the source is to have there, each with its `id`.
    items: Vec<InstanceDocument>,
}

/// What replacing a set did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SetReplaced {
    /// The position of the last commit.
    #[schema(value_type = String)]
    revision: Position,
    /// Instances that were not there.
    added: usize,
    /// Instances that were there and differ.
    updated: usize,
    /// Instances that are gone.
    removed: usize,
    /// Instances that stayed as they were.
    unchanged: usize,
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

fn written(status: &Written) -> StatusCode {
    if status.created { StatusCode::CREATED } else { StatusCode::OK }
}

/// A write whose object is gone again before the reply: the position is still told.
fn removed_meanwhile(written: Written) -> Response {
    reply(StatusCode::OK, &Removed { revision: written.position }, Some(written.position))
}

/// Read a namespace.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(("namespace" = String, Path, description = "The namespace."),
        ("view" = Option<String>, Query, description = "`sources`: each source's declaration, as a list."),
        ("minRevision" = Option<String>, Query, description = "Wait until this position is shown, at most 5 s.")),
    responses((status = 200, body = NamespaceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn get_namespace(
    State(app): AppState,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    params::min_revision(&app, &mut given).await?;
    let by_source = by_source(&mut given)?;
    given.finish()?;
    let epoch = app.api.live.epoch();
    let replica = app.api.live.read();
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
    let list = ListDocument { revision: app.api.live.position(), items, continue_token: None };
    Ok(reply(StatusCode::OK, &list, None))
}

fn by_source(given: &mut Params) -> Result<bool, Problem> {
    match given.take("view").as_deref() {
        None | Some("merged") => Ok(false),
        Some("sources") => Ok(true),
        Some(_) => Err(Problem::parameter("view", "it is `merged` (the default) or `sources`")),
    }
}

/// Declare a namespace.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    request_body = NamespaceDocument,
    responses((status = 200, body = NamespaceDocument), (status = 201, body = NamespaceDocument),
        (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn put_namespace(
    State(app): AppState,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    let guard = params::guard(&headers)?;
    params::loaded(&app)?;
    let document = body::json(&body::read(body, MAX_BODY).await?)?;
    let done = app.writer.put_namespace(&acting, &namespace, document, guard).await?;
    let Some(view) = app.api.live.read().namespace(&namespace) else { return Ok(removed_meanwhile(done)) };
    let document = NamespaceDocument::from_view(&view, done.position.epoch);
    Ok(reply(written(&done), &document, document.revision))
}

/// Withdraw a namespace's declaration.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}", tag = "namespaces",
    params(("namespace" = String, Path, description = "The namespace."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    responses((status = 200, body = Removed), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn delete_namespace(
    State(app): AppState,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    params::loaded(&app)?;
    let key = writes::namespace_key(&acting, &namespace)?;
    let done = app.writer.delete_declaration(key, params::guard(&headers)?).await?;
    Ok(reply(StatusCode::OK, &Removed { revision: done.position }, None))
}

/// Read a service, merged from all its declarations.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}", tag = "services",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("view" = Option<String>, Query, description = "`sources`: each source's declaration, as a list."),
        ("minRevision" = Option<String>, Query, description = "Wait until this position is shown, at most 5 s.")),
    responses((status = 200, body = ServiceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn get_service(
    State(app): AppState,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    params::min_revision(&app, &mut given).await?;
    let by_source = by_source(&mut given)?;
    given.finish()?;
    let epoch = app.api.live.epoch();
    let replica = app.api.live.read();
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
        .map(|(source, declared, revision)| ServiceDocument {
            namespace: Some(namespace.clone()),
            name: Some(service.clone()),
            service_type: declared.service_type,
            cluster_ips: declared.cluster_ips,
            external_name: declared.external_name,
            labels: declared.labels,
            ports: declared.ports,
            ttl: declared.ttl,
            publish_not_ready: declared.publish_not_ready,
            answer_unknown: declared.answer_unknown,
            all_critical: declared.all_critical,
            source: Some(source),
            sources: Vec::new(),
            revision: Some(Position::new(epoch, revision)),
        })
        .collect();
    let list = ListDocument { revision: app.api.live.position(), items, continue_token: None };
    Ok(reply(StatusCode::OK, &list, None))
}

/// Declare a service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}", tag = "services",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("service" = String, Path, description = "The service, a DNS label."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`."),
        ("If-Match" = Option<String>, Header, description = "`*` or the ETag that the declaration must have.")),
    request_body = ServiceDocument,
    responses((status = 200, body = ServiceDocument), (status = 201, body = ServiceDocument),
        (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn put_service(
    State(app): AppState,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    let guard = params::guard(&headers)?;
    params::loaded(&app)?;
    let document = body::json(&body::read(body, MAX_BODY).await?)?;
    let done = app.writer.put_service(&acting, &namespace, &service, document, guard).await?;
    let Some(view) = app.api.live.read().service(&namespace, &service) else { return Ok(removed_meanwhile(done)) };
    let document = ServiceDocument::from_view(&view, done.position.epoch);
    Ok(reply(written(&done), &document, document.revision))
}

/// Withdraw a service's declaration; its instances stay.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/services/{service}", tag = "services",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    responses((status = 200, body = Removed), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn delete_service(
    State(app): AppState,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    params::loaded(&app)?;
    let key = writes::service_key(&acting, &namespace, &service)?;
    let done = app.writer.delete_declaration(key, params::guard(&headers)?).await?;
    Ok(reply(StatusCode::OK, &Removed { revision: done.position }, None))
}

/// Replace all instances that a source has in a service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("source" = String, Query, description = "Whose instances; not the bare `api`.")),
    request_body = ReplaceSet,
    responses((status = 200, body = SetReplaced), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn replace_instances(
    State(app): AppState,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    if acting == Source::api() {
        return Err(Problem::parameter(
            "source",
            "replacing a whole set needs a source of its own, so that it can't sweep away what others registered: \
             say `?source=api/<owner>`",
        ));
    }
    params::loaded(&app)?;
    let set: ReplaceSet = body::json(&body::read(body, MAX_LARGE_BODY).await?)?;
    let (replaced, revision) = app.writer.replace_instances(&acting, &namespace, &service, set.items).await?;
    let writes::Replaced { added, updated, removed, unchanged } = replaced;
    Ok(reply(StatusCode::OK, &SetReplaced { revision, added, updated, removed, unchanged }, None))
}

/// Where an instance stands in the path.
struct Place {
    namespace: String,
    service: Option<String>,
    id: String,
}

impl Place {
    fn of_service((namespace, service, id): (String, String, String)) -> Result<Self, Problem> {
        params::service(&service)?;
        Self { namespace, service: Some(service), id }.checked()
    }

    fn of_none((namespace, id): (String, String)) -> Result<Self, Problem> {
        Self { namespace, service: None, id }.checked()
    }

    fn checked(self) -> Result<Self, Problem> {
        params::namespace(&self.namespace)?;
        params::id(&self.id)?;
        Ok(self)
    }

    fn key(&self, acting: &Source) -> Result<InstanceKey, Problem> {
        Ok(writes::instance_key(acting, &self.namespace, self.service.as_deref(), &self.id)?)
    }
}

fn instance_reply(app: &App, status: StatusCode, view: &InstanceView) -> Response {
    let document = InstanceDocument::from_view(view, app.api.live.epoch());
    reply(status, &document, document.revision)
}

async fn get_at(app: Arc<App>, place: Place, query: Option<String>) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    params::min_revision(&app, &mut given).await?;
    let source: Option<Source> = given.parse("source")?;
    given.finish()?;
    let views = app.api.live.read().instances_named(&place.namespace, place.service.as_deref(), &place.id);
    // Where several sources have an instance of this id, the highest-ranked one is meant.
    let found = views.into_iter().find(|view| source.as_ref().is_none_or(|source| view.key.source == *source));
    let view = found.ok_or_else(|| Problem::not_found(format_args!("instance `{}`", place.id)))?;
    Ok(instance_reply(&app, StatusCode::OK, &view))
}

async fn put_at(
    app: Arc<App>,
    place: Place,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    let guard = params::guard(&headers)?;
    params::loaded(&app)?;
    let document = body::json(&body::read(body, MAX_BODY).await?)?;
    let key = place.key(&acting)?;
    let done = app.writer.put_instance(key.clone(), document, guard).await?;
    finish_instance(&app, &key, done)
}

fn finish_instance(app: &App, key: &InstanceKey, done: Written) -> Result<Response, Problem> {
    let view = app.api.live.read().instance(key);
    Ok(match view {
        Some(view) => instance_reply(app, written(&done), &view),
        None => removed_meanwhile(done),
    })
}

async fn patch_at(
    app: Arc<App>,
    place: Place,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    let guard = params::guard(&headers)?;
    params::loaded(&app)?;
    body::require_json(&headers)?;
    let patch: serde_json::Value = body::json(&body::read(body, MAX_BODY).await?)?;
    let key = place.key(&acting)?;
    let done = app.writer.patch_instance(key.clone(), &patch, guard).await?;
    finish_instance(&app, &key, done)
}

async fn delete_at(
    app: Arc<App>,
    place: Place,
    query: Option<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    params::loaded(&app)?;
    let done = app.writer.delete_instance(place.key(&acting)?, params::guard(&headers)?).await?;
    Ok(reply(StatusCode::OK, &Removed { revision: done.position }, None))
}

async fn health_at(
    app: Arc<App>,
    place: Place,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    given.finish()?;
    let guard = params::guard(&headers)?;
    params::loaded(&app)?;
    let HealthDocument { health, note } = body::json(&body::read(body, MAX_BODY).await?)?;
    let key = place.key(&acting)?;
    let done =
        app.writer.report_health(key.clone(), Report { health, note, unknown: serde_json::Map::new() }, guard).await?;
    finish_instance(&app, &key, done)
}

/// Read an instance of a service.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        ("minRevision" = Option<String>, Query, description = "Wait until this position is shown, at most 5 s.")),
    responses((status = 200, body = InstanceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn get_instance(
    State(app): AppState,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    get_at(app, Place::of_service(path)?, query).await
}

/// Register an instance of a service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("service" = String, Path, description = "The service, a DNS label; it need not be declared."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`."),
        ("If-Match" = Option<String>, Header, description = "`*` or the ETag that the instance must have."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if it does not exist.")),
    request_body = InstanceDocument,
    responses((status = 200, body = InstanceDocument), (status = 201, body = InstanceDocument),
        (status = "4XX", body = ProblemDocument), (status = 507, body = ProblemDocument)))]
pub(crate) async fn put_instance(
    State(app): AppState,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    put_at(app, Place::of_service(path)?, query, headers, body).await
}

/// Change an instance of a service by a JSON merge patch (RFC 7396).
#[utoipa::path(patch, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    request_body(content = InstanceDocument, content_type = "application/merge-patch+json"),
    responses((status = 200, body = InstanceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn patch_instance(
    State(app): AppState,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    patch_at(app, Place::of_service(path)?, query, headers, body).await
}

/// Deregister an instance of a service.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    responses((status = 200, body = Removed), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn delete_instance(
    State(app): AppState,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    delete_at(app, Place::of_service(path)?, query, headers).await
}

/// Report an instance's health.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/health", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    request_body = HealthDocument,
    responses((status = 200, body = InstanceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn put_instance_health(
    State(app): AppState,
    Path(path): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    health_at(app, Place::of_service(path)?, query, headers, body).await
}

/// Read an instance of no service.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id.")),
    responses((status = 200, body = InstanceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn get_bare_instance(
    State(app): AppState,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    get_at(app, Place::of_none(path)?, query).await
}

/// Register an instance of no service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    request_body = InstanceDocument,
    responses((status = 200, body = InstanceDocument), (status = 201, body = InstanceDocument),
        (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn put_bare_instance(
    State(app): AppState,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    put_at(app, Place::of_none(path)?, query, headers, body).await
}

/// Change an instance of no service by a JSON merge patch (RFC 7396).
#[utoipa::path(patch, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    request_body(content = InstanceDocument, content_type = "application/merge-patch+json"),
    responses((status = 200, body = InstanceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn patch_bare_instance(
    State(app): AppState,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    patch_at(app, Place::of_none(path)?, query, headers, body).await
}

/// Deregister an instance of no service.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    responses((status = 200, body = Removed), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn delete_bare_instance(
    State(app): AppState,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    delete_at(app, Place::of_none(path)?, query, headers).await
}

/// Report the health of an instance of no service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}/health", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "The acting source; default `api`.")),
    request_body = HealthDocument,
    responses((status = 200, body = InstanceDocument), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn put_bare_instance_health(
    State(app): AppState,
    Path(path): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    health_at(app, Place::of_none(path)?, query, headers, body).await
}
