//! Many subscriptions on one stream, over REST.

use super::HttpRegistry;
use super::call::Call;
use super::events::{Events, Told as Event, kind_name};
use crate::Result;
use crate::subscribe::wire::{Changes, Connection, Told, Wanted, Wire};
use fingerpost_catalog::Position;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use reqwest::{Method, Url};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// A subscription as the API takes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubscriptionBody<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

impl<'a> From<&'a Wanted> for SubscriptionBody<'a> {
    fn from(wanted: &'a Wanted) -> Self {
        Self {
            id: &wanted.id,
            kind: wanted.kind.map(kind_name),
            namespace: wanted.filter.namespace.as_deref(),
            service: wanted.filter.service.as_deref(),
            selector: wanted.filter.selector.to_string(),
            source: wanted.filter.source.as_ref().map(ToString::to_string),
            position: wanted.position,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OpenBody<'a> {
    subscriptions: Vec<SubscriptionBody<'a>>,
    heartbeat_seconds: u64,
}

#[derive(Serialize)]
struct ChangeBody<'a> {
    add: Vec<SubscriptionBody<'a>>,
    remove: &'a [String],
}

impl Wire for HttpRegistry {
    fn open(&self, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Connection>> {
        let registry = self.clone();
        Box::pin(async move {
            let body = OpenBody {
                subscriptions: wanted.iter().map(SubscriptionBody::from).collect(),
                heartbeat_seconds: registry.inner.options.heartbeat_seconds(),
            };
            let call = Call::new(Method::POST, ["v1", "watch"]).json(&body)?;
            let events = Events::open(&registry, call).await?;
            let endpoint = events.endpoint().clone();
            let told = stream::unfold(Some(events), |events| async move {
                let mut events = events?;
                match read(&mut events).await {
                    Ok(told) => Some((Ok(told), Some(events))),
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(Connection {
                endpoint: super::call::origin(&endpoint),
                told: told.boxed(),
                changes: Box::new(At { registry, endpoint }),
            })
        })
    }

    fn next_endpoint(&self) {
        self.inner.current.fetch_add(1, Ordering::Relaxed);
    }
}

async fn read(events: &mut Events) -> Result<Vec<Told>> {
    let mut ready = VecDeque::new();
    let outcome = events.read(&mut ready).await;
    let mut told = Vec::with_capacity(ready.len());
    for event in &ready {
        told.extend(events.interpret(event)?.map(|event| match event {
            Event::Stream(stream) => Told::Stream(stream),
            Event::Event { subscription, event } => Told::Event { subscription, event },
        }));
    }
    // What came whole before the end is not lost: it comes again after the resumption.
    outcome.map(|()| told)
}

/// The replica that has the stream.
struct At {
    registry: HttpRegistry,
    endpoint: Url,
}

impl Changes for At {
    fn change(&self, stream: String, add: Vec<Wanted>, remove: Vec<String>) -> BoxFuture<'static, Result<()>> {
        let (registry, endpoint) = (self.registry.clone(), self.endpoint.clone());
        Box::pin(async move {
            let body = ChangeBody { add: add.iter().map(SubscriptionBody::from).collect(), remove: &remove };
            let call = Call::new(Method::PATCH, ["v1", "watch", stream.as_str()]).json(&body)?;
            registry.send(call.at(endpoint)).await.map(drop)
        })
    }
}
