//! Reads of the registry of the same process.

use super::{not_found, refusal};
use fingerpost_catalog::document::{
    InstanceDocument, ListDocument, NamespaceDocument, ServiceDocument, SessionListDocument,
};
use fingerpost_catalog::{HealthSet, InstanceQuery, Key, NamespaceQuery, Position, ServiceQuery, SessionQuery};
use fingerpost_client::{Error, ListRequest, Result, SessionRequest};
use fingerpost_registry::api::reading::{self, parse_token, token};
use fingerpost_registry::live::LiveReplica;
use fingerpost_registry::sessions::Engine;
use std::sync::Arc;

/// Objects on a page where the request does not say, and at most; as over REST.
const LIMITS: (u32, u32) = (500, 1000);

fn limit(asked: Option<u32>) -> Result<usize> {
    let limit = asked.unwrap_or(LIMITS.0);
    if !(1..=LIMITS.1).contains(&limit) {
        return Err(wrong("limit", format!("{limit} is not between 1 and {}", LIMITS.1)));
    }
    Ok(limit as usize)
}

fn wrong(parameter: &str, detail: String) -> Error {
    Error::Invalid { status: 400, detail, pointer: None, parameter: Some(parameter.to_owned()) }
}

/// How every list begins: what it may show, how much of it, and the key after which the page begins.
async fn begin(live: &LiveReplica, request: &ListRequest) -> Result<(usize, Option<String>)> {
    reading::loaded(live).map_err(refusal)?;
    let limit = limit(request.limit)?;
    let after = request.continue_token.as_deref().map(|text| parse_token(live, text)).transpose().map_err(refusal)?;
    reading::shown(live, request.min_revision).await.map_err(refusal)?;
    Ok((limit, after))
}

fn healths(request: &ListRequest) -> Result<HealthSet> {
    let names: Vec<String> = request.filter.health.iter().map(ToString::to_string).collect();
    match names.is_empty() {
        true => Ok(HealthSet::default()),
        false => names.join(",").parse().map_err(|error| wrong("health", format!("{error}"))),
    }
}

fn page<T>(revision: Position, items: Vec<T>, next: Option<String>) -> ListDocument<T> {
    let continue_token = next.map(|key| token(revision, &key));
    ListDocument { revision, items, continue_token, panic: false }
}

pub(super) fn namespace(live: &LiveReplica, name: &str) -> Result<NamespaceDocument> {
    reading::loaded(live).map_err(refusal)?;
    let view = live.read().namespace(name).ok_or_else(|| not_found(format_args!("namespace `{name}`")))?;
    Ok(NamespaceDocument::from_view(&view, live.epoch()))
}

pub(super) fn service(live: &LiveReplica, namespace: &str, name: &str) -> Result<ServiceDocument> {
    reading::loaded(live).map_err(refusal)?;
    let view = live.read().service(namespace, name);
    let view = view.ok_or_else(|| not_found(format_args!("service `{namespace}/{name}`")))?;
    Ok(ServiceDocument::from_view(&view, live.epoch()))
}

pub(super) fn declarations(live: &LiveReplica, namespace: &str, name: &str) -> Result<ListDocument<ServiceDocument>> {
    reading::loaded(live).map_err(refusal)?;
    let replica = live.read();
    let revision = live.position();
    if replica.service(namespace, name).is_none() {
        return Err(not_found(format_args!("service `{namespace}/{name}`")));
    }
    let declarations = replica.service_declarations(namespace, name).into_iter();
    let items = declarations
        .map(|(source, declared, number)| {
            ServiceDocument::of(namespace, name, source, declared, Position::new(revision.epoch, number))
        })
        .collect();
    Ok(page(revision, items, None))
}

pub(super) async fn namespaces(live: &LiveReplica, request: ListRequest) -> Result<ListDocument<NamespaceDocument>> {
    let (limit, after) = begin(live, &request).await?;
    let after: Option<Arc<str>> = after.map(Arc::from);
    let filter = &request.filter;
    let replica = live.read();
    let revision = live.position();
    let query =
        NamespaceQuery { selector: &filter.selector, source: filter.source.as_ref(), after: after.as_ref(), limit };
    let found = replica.namespaces(&query);
    drop(replica);
    let items = found.items.iter().map(|view| NamespaceDocument::from_view(view, revision.epoch)).collect();
    Ok(page(revision, items, found.next.map(|key| key.to_string())))
}

pub(super) async fn services(live: &LiveReplica, request: ListRequest) -> Result<ListDocument<ServiceDocument>> {
    let (limit, after) = begin(live, &request).await?;
    let foreign = || wrong("continue", "not a token of this list".to_owned());
    let after: Option<(Arc<str>, Arc<str>)> = after
        .map(|key| match key.split_once('/') {
            Some((namespace, name)) => Ok((Arc::from(namespace), Arc::from(name))),
            None => Err(foreign()),
        })
        .transpose()?;
    let filter = &request.filter;
    let replica = live.read();
    let revision = live.position();
    let query = ServiceQuery {
        namespace: filter.namespace.as_deref(),
        source: filter.source.as_ref(),
        selector: &filter.selector,
        after: after.as_ref(),
        limit,
    };
    let found = replica.services(&query);
    drop(replica);
    let items = found.items.iter().map(|view| ServiceDocument::from_view(view, revision.epoch)).collect();
    Ok(page(revision, items, found.next.map(|(namespace, name)| format!("{namespace}/{name}"))))
}

pub(super) async fn instances(live: &LiveReplica, request: ListRequest) -> Result<ListDocument<InstanceDocument>> {
    let (limit, after) = begin(live, &request).await?;
    let foreign = || wrong("continue", "not a token of this list".to_owned());
    let after = after
        .map(|key| match key.parse() {
            Ok(Key::Instance(key)) => Ok(key),
            _ => Err(foreign()),
        })
        .transpose()?;
    let filter = &request.filter;
    let health = healths(&request)?;
    let replica = live.read();
    let revision = live.position();
    let (namespace, service) = (filter.namespace.as_deref(), filter.service.as_deref());
    let query = InstanceQuery {
        namespace,
        service: service.map(Some),
        source: filter.source.as_ref(),
        selector: &filter.selector,
        health,
        after: after.as_ref(),
        limit,
    };
    let found = replica.instances(&query);
    let panic = matches!((namespace, service), (Some(namespace), Some(service)) if replica.panics(namespace, service));
    drop(replica);
    let items = found.items.iter().map(|view| InstanceDocument::from_view(view, revision.epoch)).collect();
    let next = found.next.map(|key| Key::Instance(key).to_string());
    Ok(ListDocument { panic, ..page(revision, items, next) })
}

pub(super) fn sessions(live: &LiveReplica, engine: &Engine, request: SessionRequest) -> Result<SessionListDocument> {
    reading::loaded(live).map_err(refusal)?;
    let limit = limit(request.limit)?;
    let after = request.continue_token.as_deref().map(|text| parse_token(live, text)).transpose().map_err(refusal)?;
    let replica = live.read();
    let revision = live.position();
    let query = SessionQuery {
        name: request.name.as_deref(),
        source: request.source.as_ref(),
        state: request.state,
        after: after.as_deref(),
        limit,
    };
    let found = replica.sessions(&query);
    drop(replica);
    Ok(SessionListDocument {
        revision,
        protection: engine.protection(),
        items: found.items.iter().map(|view| engine.document(view)).collect(),
        continue_token: found.next.map(|id| token(revision, &id)),
    })
}
