//! One instance, of a service or of none, and all instances that a source has in a service.

use super::body::{self, MAX_BODY, MAX_LARGE_BODY};
use super::described::{
    Acting, BodyProblems, IfMatch, IfNoneMatch, MinRevision, NotFound, OnlyJson, ReadProblems, Waiting, WriteProblems,
};
use super::objects::{Removed, by_source, removed_meanwhile, reply, written};
use super::params::{self, Params, Path, Write};
use super::problem::Problem;
use super::visible::told;
use super::{App, AppState};
use crate::access::{self, Caller};
use crate::writes::{self, Written};
use axum::body::Body;
use axum::extract::{FromRequestParts, RawQuery, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fingerpost_catalog::document::{HealthDocument, InstanceDocument, ListDocument};
use fingerpost_catalog::{InstanceKey, InstanceView, Position, Report, Source};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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

/// Replace all instances that a source has in a service: additions first, then removals, in commits of at most 100. A
/// call that fails says how far it came; repeating it completes it.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("source" = String, Query, description = "Whose instances; not the bare `api`."),
        Waiting),
    request_body = ReplaceSet,
    responses((status = 200, description = "The source has these instances now.", body = SetReplaced),
        WriteProblems, BodyProblems))]
pub(crate) async fn replace_instances(
    State(app): AppState,
    caller: Caller,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting(&caller)?;
    given.finish()?;
    if *acting.source() == Source::api() {
        return Err(Problem::parameter(
            "source",
            "replacing a whole set needs a source of its own, so that it can't sweep away what others registered: \
             say `?source=api/<owner>`",
        ));
    }
    params::loaded(&app)?;
    let set: ReplaceSet = body::json(&body::read(body, MAX_LARGE_BODY).await?)?;
    let (replaced, revision) = app.api.writer.replace_instances(&acting, &namespace, &service, set.items).await?;
    let writes::Replaced { added, updated, removed, unchanged } = replaced;
    let replaced = SetReplaced { revision, added, updated, removed, unchanged };
    told(revision, app.api.writer.shown(revision).await, &replaced)
}

/// Where an instance stands in the path. Those of a service and of none are told apart by that alone; each way has a handler
/// of its own because each is described by itself.
#[derive(Deserialize)]
pub(crate) struct Place {
    namespace: String,
    service: Option<String>,
    id: String,
}

impl FromRequestParts<Arc<App>> for Place {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let Path(place) = Path::<Self>::from_request_parts(parts, app).await?;
        params::namespace(&place.namespace)?;
        if let Some(service) = &place.service {
            params::service(service)?;
        }
        params::id(&place.id)?;
        Ok(place)
    }
}

impl Place {
    pub(super) fn key(&self, acting: &access::Acting) -> Result<InstanceKey, Problem> {
        Ok(writes::instance_key(acting, &self.namespace, self.service.as_deref(), &self.id)?)
    }
}

fn instance_reply(app: &App, status: StatusCode, view: &InstanceView) -> Response {
    let document = InstanceDocument::from_view(view, app.api.live.epoch());
    reply(status, &document, document.revision)
}

/// The instance that a path and its query name. Where several sources have one of this id, the highest-ranked is meant.
pub(super) async fn get_view(app: &App, place: &Place, query: Option<&str>) -> Result<InstanceView, Problem> {
    let (_, mut views) = get_views(app, place, Params::new(query)?).await?;
    Ok(views.swap_remove(0))
}

/// All instances that a path and its query name: at least one, the highest-ranked source's first.
async fn get_views(app: &App, place: &Place, mut given: Params) -> Result<(Position, Vec<InstanceView>), Problem> {
    params::loaded(app)?;
    let min_revision = given.min_revision()?;
    let source: Option<Source> = given.parse("source")?;
    given.finish()?;
    params::shown(app, min_revision).await?;
    let replica = app.api.live.read();
    let revision = app.api.live.position();
    let mut views = replica.instances_named(&place.namespace, place.service.as_deref(), &place.id);
    drop(replica);
    views.retain(|view| source.as_ref().is_none_or(|source| view.key.source == *source));
    if views.is_empty() {
        return Err(Problem::not_found(format_args!("instance `{}`", place.id)));
    }
    Ok((revision, views))
}

pub(super) fn finish_instance(app: &App, key: &InstanceKey, done: Written) -> Result<Response, Problem> {
    let view = app.api.live.read().instance(key);
    Ok(match view {
        Some(view) => instance_reply(app, written(&done), &view),
        None => removed_meanwhile(done),
    })
}

/// Read an instance of a service.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        ("view" = Option<String>, Query, description = "`sources`: each source's instance of this id, as a list."),
        MinRevision),
    responses((status = 200, description = "It exists; with `?view=sources`, a list.", body = InstanceDocument),
        NotFound, ReadProblems))]
pub(crate) async fn get_instance(
    place: Place,
    State(app): AppState,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let by_source = by_source(&mut given)?;
    let (revision, views) = get_views(&app, &place, given).await?;
    if !by_source {
        return Ok(instance_reply(&app, StatusCode::OK, &views[0]));
    }
    let items = views.iter().map(|view| InstanceDocument::from_view(view, revision.epoch)).collect();
    Ok(reply(StatusCode::OK, &ListDocument { revision, items, continue_token: None, panic: false }, None))
}

/// Register an instance of a service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("service" = String, Path, description = "The service, a DNS label; it need not be declared."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch, IfNoneMatch),
    request_body = InstanceDocument,
    responses((status = 200, description = "It was there; as it is now.", body = InstanceDocument),
        (status = 201, description = "It is new.", body = InstanceDocument),
        WriteProblems, BodyProblems))]
pub(crate) async fn put_instance(
    place: Place,
    Write { app, acting, guard }: Write,
    body: Body,
) -> Result<Response, Problem> {
    let document = body::json(&body::read(body, MAX_BODY).await?)?;
    let key = place.key(&acting)?;
    let done = app.api.writer.put_instance(&acting, key.clone(), document, guard).await?;
    finish_instance(&app, &key, done)
}

/// Change an instance of a service by a JSON merge patch (RFC 7396).
#[utoipa::path(patch, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    request_body(content = InstanceDocument, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems, OnlyJson))]
pub(crate) async fn patch_instance(
    place: Place,
    Write { app, acting, guard }: Write,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    body::require_json(&headers)?;
    let patch: serde_json::Value = body::json(&body::read(body, MAX_BODY).await?)?;
    let key = place.key(&acting)?;
    let done = app.api.writer.patch_instance(&acting, key.clone(), &patch, guard).await?;
    finish_instance(&app, &key, done)
}

/// Deregister an instance of a service.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    responses((status = 200, description = "It was removed.", body = Removed), NotFound, WriteProblems))]
pub(crate) async fn delete_instance(place: Place, Write { app, acting, guard }: Write) -> Result<Response, Problem> {
    let done = app.api.writer.delete_instance(place.key(&acting)?, guard).await?;
    Ok(reply(StatusCode::OK, &Removed { revision: done.position }, None))
}

/// Report an instance's health.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/services/{service}/instances/{id}/health", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    request_body = HealthDocument,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn put_instance_health(
    place: Place,
    Write { app, acting, guard }: Write,
    body: Body,
) -> Result<Response, Problem> {
    let HealthDocument { health, note } = body::json(&body::read(body, MAX_BODY).await?)?;
    let key = place.key(&acting)?;
    let done = app
        .api
        .writer
        .report_health(&acting, key.clone(), Report { health, note, unknown: serde_json::Map::new() }, guard)
        .await?;
    finish_instance(&app, &key, done)
}

/// Read an instance of no service.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        ("source" = Option<String>, Query, description = "Whose; default: the highest-ranked source that has the id."),
        ("view" = Option<String>, Query, description = "`sources`: each source's instance of this id, as a list."),
        MinRevision),
    responses((status = 200, description = "It exists; with `?view=sources`, a list.", body = InstanceDocument),
        NotFound, ReadProblems))]
pub(crate) async fn get_bare_instance(
    place: Place,
    State(app): AppState,
    query: RawQuery,
) -> Result<Response, Problem> {
    get_instance(place, State(app), query).await
}

/// Register an instance of no service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace, a DNS label."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch, IfNoneMatch),
    request_body = InstanceDocument,
    responses((status = 200, description = "It was there; as it is now.", body = InstanceDocument),
        (status = 201, description = "It is new.", body = InstanceDocument),
        WriteProblems, BodyProblems))]
pub(crate) async fn put_bare_instance(place: Place, write: Write, body: Body) -> Result<Response, Problem> {
    put_instance(place, write, body).await
}

/// Change an instance of no service by a JSON merge patch (RFC 7396).
#[utoipa::path(patch, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    request_body(content = InstanceDocument, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems, OnlyJson))]
pub(crate) async fn patch_bare_instance(
    place: Place,
    write: Write,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    patch_instance(place, write, headers, body).await
}

/// Deregister an instance of no service.
#[utoipa::path(delete, path = "/v1/namespaces/{namespace}/instances/{id}", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    responses((status = 200, description = "It was removed.", body = Removed), NotFound, WriteProblems))]
pub(crate) async fn delete_bare_instance(place: Place, write: Write) -> Result<Response, Problem> {
    delete_instance(place, write).await
}

/// Report the health of an instance of no service.
#[utoipa::path(put, path = "/v1/namespaces/{namespace}/instances/{id}/health", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("id" = String, Path, description = "The instance's id."),
        Acting, Waiting, IfMatch),
    request_body = HealthDocument,
    responses((status = 200, description = "As it is now.", body = InstanceDocument),
        NotFound, WriteProblems, BodyProblems))]
pub(crate) async fn put_bare_instance_health(place: Place, write: Write, body: Body) -> Result<Response, Problem> {
    put_instance_health(place, write, body).await
}
