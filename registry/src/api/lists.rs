//! Lists: pages of namespaces, services and instances, filtered by labels, health and source.

use super::described::{ByHealth, MinRevision, Page, ReadProblems};
use super::params::{self, Params, Path};
use super::problem::Problem;
use super::reading::{parse_token, token};
use super::{App, AppState};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use fingerpost_catalog::document::{InstanceDocument, ListDocument, NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{Epoch, InstanceQuery, Key, NamespaceQuery, Position, ServiceQuery, Source};
use http_body_util::BodyExt;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

/// Objects on a page where the request does not say.
const DEFAULT_LIMIT: usize = 500;
/// Most objects on a page: the replica is locked while it is read.
const MAX_LIMIT: usize = 1000;
/// Memory for rendered pages of single services, in bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// A rendered page: the items without their brackets, and the continue token.
#[derive(Clone)]
struct Rendered {
    /// The service's version and the epoch that the page was rendered at.
    version: (u64, Epoch),
    items: Bytes,
    next: Option<String>,
    panics: bool,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<String, Rendered> for ByBytes {
    fn weight(&self, key: &String, page: &Rendered) -> u64 {
        (key.len() + page.items.len() + 128) as u64
    }
}

/// Rendered pages of single services. Such a list is asked for far more often than its service changes; a page is good
/// for as long as the service's version stands.
pub(crate) struct ListCache(Cache<String, Rendered, ByBytes>);

impl ListCache {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(1024, CACHE_BYTES, ByBytes))
    }
}

pub(super) fn limit(given: &mut Params) -> Result<usize, Problem> {
    let limit = given.parse::<usize>("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::parameter("limit", format!("{limit} is not between 1 and {MAX_LIMIT}")));
    }
    Ok(limit)
}

pub(super) fn after(app: &App, given: &mut Params) -> Result<Option<String>, Problem> {
    given.take("continue").map(|text| parse_token(&app.api.live, &text)).transpose()
}

/// The reply in three pieces, so that a cached page is sent as it lies in memory.
fn respond(position: Position, items: Bytes, next: Option<&str>, panics: bool) -> Response {
    let mut head = BytesMut::with_capacity(80);
    let panics = if panics { "\"panic\":true," } else { "" };
    head.put_slice(format!("{{\"revision\":\"{position}\",{panics}\"items\":[").as_bytes());
    let tail = match next {
        None => Bytes::from_static(b"]}"),
        // Tokens are digits and dots.
        Some(next) => Bytes::from(format!("],\"continue\":\"{next}\"}}")),
    };
    let pieces = Pieces(VecDeque::from([head.freeze(), items, tail]));
    let mut response = axum::body::Body::new(pieces.map_err(|never: Infallible| match never {})).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body of a few pieces whose whole length is known.
struct Pieces(VecDeque<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        loop {
            match self.0.pop_front() {
                Some(piece) if piece.is_empty() => {}
                piece => return std::task::Poll::Ready(piece.map(|piece| Ok(hyper::body::Frame::data(piece)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

fn render<T, D: serde::Serialize>(items: &[T], document: impl Fn(&T) -> D) -> Bytes {
    let mut writer = BytesMut::with_capacity(items.len() * 320).writer();
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            writer.get_mut().put_u8(b',');
        }
        // Documents have string keys only, and writing to memory can't fail.
        let written = serde_json::to_writer(&mut writer, &document(item));
        debug_assert!(written.is_ok());
    }
    writer.into_inner().freeze()
}

/// List namespaces.
#[utoipa::path(get, path = "/v1/namespaces", tag = "namespaces",
    params(Page, MinRevision),
    responses((status = 200, description = "A page.", body = ListDocument<NamespaceDocument>), ReadProblems))]
pub(crate) async fn list_namespaces(State(app): AppState, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    let (selector, limit, after) = (given.selector()?, limit(&mut given)?, after(&app, &mut given)?);
    let source: Option<Source> = given.parse("source")?;
    let min_revision = given.min_revision()?;
    given.finish()?;
    params::shown(&app, min_revision).await?;
    let after: Option<Arc<str>> = after.map(Arc::from);
    let (position, page) = {
        let replica = app.api.live.read();
        let query = NamespaceQuery { selector: &selector, source: source.as_ref(), after: after.as_ref(), limit };
        (app.api.live.position(), replica.namespaces(&query))
    };
    let items = render(&page.items, |view| NamespaceDocument::from_view(view, position.epoch));
    Ok(respond(position, items, page.next.map(|key| token(position, &key)).as_deref(), false))
}

/// List services of all namespaces.
#[utoipa::path(get, path = "/v1/services", tag = "services",
    params(Page, MinRevision),
    responses((status = 200, description = "A page.", body = ListDocument<ServiceDocument>), ReadProblems))]
pub(crate) async fn list_all_services(State(app): AppState, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    services(&app, None, query).await
}

/// List a namespace's services.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services", tag = "services",
    params(("namespace" = String, Path, description = "The namespace."),
        Page, MinRevision),
    responses((status = 200, description = "A page.", body = ListDocument<ServiceDocument>), ReadProblems))]
pub(crate) async fn list_services(
    State(app): AppState,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    services(&app, Some(namespace), query).await
}

async fn services(app: &App, namespace: Option<String>, query: Option<String>) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(app)?;
    let (selector, limit, after) = (given.selector()?, limit(&mut given)?, after(app, &mut given)?);
    let source: Option<Source> = given.parse("source")?;
    let min_revision = given.min_revision()?;
    given.finish()?;
    params::shown(app, min_revision).await?;
    let after: Option<(Arc<str>, Arc<str>)> = after
        .map(|key| match key.split_once('/') {
            Some((namespace, name)) => Ok((Arc::from(namespace), Arc::from(name))),
            None => Err(Problem::parameter("continue", "not a token of this list")),
        })
        .transpose()?;
    let (position, page) = {
        let replica = app.api.live.read();
        let query = ServiceQuery {
            namespace: namespace.as_deref(),
            source: source.as_ref(),
            selector: &selector,
            after: after.as_ref(),
            limit,
        };
        (app.api.live.position(), replica.services(&query))
    };
    let items = render(&page.items, |view| ServiceDocument::from_view(view, position.epoch));
    let next = page.next.map(|(namespace, name)| token(position, &format!("{namespace}/{name}")));
    Ok(respond(position, items, next.as_deref(), false))
}

/// List instances of all namespaces.
#[utoipa::path(get, path = "/v1/instances", tag = "instances",
    params(Page, ByHealth, MinRevision),
    responses((status = 200, description = "A page.", body = ListDocument<InstanceDocument>), ReadProblems))]
pub(crate) async fn list_all_instances(State(app): AppState, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    instances(&app, None, None, query).await
}

/// List a namespace's instances, those of no service included.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/instances", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        Page, ByHealth, MinRevision),
    responses((status = 200, description = "A page.", body = ListDocument<InstanceDocument>), ReadProblems))]
pub(crate) async fn list_namespace_instances(
    State(app): AppState,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    instances(&app, Some(namespace), None, query).await
}

/// List a service's instances.
#[utoipa::path(get, path = "/v1/namespaces/{namespace}/services/{service}/instances", tag = "instances",
    params(("namespace" = String, Path, description = "The namespace."),
        ("service" = String, Path, description = "The service."),
        Page, ByHealth, MinRevision),
    responses((status = 200, description = "A page.", body = ListDocument<InstanceDocument>), ReadProblems))]
pub(crate) async fn list_service_instances(
    State(app): AppState,
    Path((namespace, service)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    params::namespace(&namespace)?;
    params::service(&service)?;
    instances(&app, Some(namespace), Some(service), query).await
}

async fn instances(
    app: &App,
    namespace: Option<String>,
    service: Option<String>,
    query: Option<String>,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(app)?;
    let (selector, health, limit) = (given.selector()?, given.health()?, limit(&mut given)?);
    let after = after(app, &mut given)?
        .map(|key| match key.parse() {
            Ok(Key::Instance(key)) => Ok(key),
            _ => Err(Problem::parameter("continue", "not a token of this list")),
        })
        .transpose()?;
    let source: Option<Source> = given.parse("source")?;
    let min_revision = given.min_revision()?;
    given.finish()?;
    params::shown(app, min_revision).await?;
    let query = InstanceQuery {
        namespace: namespace.as_deref(),
        service: service.as_deref().map(Some),
        source: source.as_ref(),
        selector: &selector,
        health,
        after: after.as_ref(),
        limit,
    };
    let cache_key = match (&namespace, &service) {
        (Some(namespace), Some(service)) => {
            Some(format!("{namespace}/{service}?{selector}&{health:?}&{source:?}&{limit}&{after:?}"))
        }
        _ => None,
    };
    let (position, version, page, panics) = {
        let replica = app.api.live.read();
        let position = app.api.live.position();
        let version = namespace
            .as_deref()
            .zip(service.as_deref())
            .and_then(|(namespace, service)| replica.service_version(namespace, Some(service)))
            .map(|version| (version, position.epoch));
        if let (Some(key), Some(version)) = (&cache_key, version)
            && let Some(cached) = app.lists.0.get(key)
            && cached.version == version
        {
            return Ok(respond(position, cached.items, cached.next.as_deref(), cached.panics));
        }
        let panics =
            matches!((&namespace, &service), (Some(namespace), Some(service)) if replica.panics(namespace, service));
        (position, version, replica.instances(&query), panics)
    };
    let items = render(&page.items, |view| InstanceDocument::from_view(view, position.epoch));
    let next = page.next.map(|key| token(position, &Key::Instance(key).to_string()));
    if let (Some(key), Some(version)) = (cache_key, version) {
        app.lists.0.insert(key, Rendered { version, items: items.clone(), next: next.clone(), panics });
    }
    Ok(respond(position, items, next.as_deref(), panics))
}
