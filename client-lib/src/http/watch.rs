//! Watches: the event stream of the registry, joined together again where connections break.

use super::HttpRegistry;
use super::call::Call;
use super::events::{Events, Told, kind_name};
use super::typed::filtered;
use crate::backoff::Backoff;
use crate::request::{WatchEvent, WatchRequest};
use crate::sse::SseEvent;
use crate::{Error, Result};
use fingerpost_catalog::Position;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Not part of reqwest's list of header names.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) fn watch(registry: HttpRegistry, request: WatchRequest) -> BoxStream<'static, Result<WatchEvent>> {
    let watch = Watch {
        registry,
        position: request.position,
        request,
        connection: None,
        ready: VecDeque::new(),
        midway: false,
        wait: None,
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(15)),
        ended: false,
    };
    stream::unfold(watch, |mut watch| async move { watch.next().await.map(|event| (event, watch)) }).boxed()
}

struct Watch {
    registry: HttpRegistry,
    request: WatchRequest,
    /// The last position that was given whole: where to resume.
    position: Option<Position>,
    connection: Option<Events>,
    ready: VecDeque<SseEvent>,
    /// Part of a state of the world has been given, and no position yet from which to resume.
    midway: bool,
    /// How long to wait before connecting again.
    wait: Option<Duration>,
    backoff: Backoff,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchEvent>> {
        if self.ended {
            return None;
        }
        let result = self.step().await;
        if let Err(error) = &result {
            self.connection = None;
            self.ready.clear();
            // All replicas judge alike who may read.
            if !matches!(error, Error::Unauthorized { .. } | Error::Forbidden { .. }) {
                self.registry.inner.current.fetch_add(1, Ordering::Relaxed);
            }
            self.wait = Some(match error {
                Error::Unavailable { retry_after: Some(wait), .. } => self.backoff.next().max(*wait),
                _ => self.backoff.next(),
            });
            self.ended = !error.is_transient();
        }
        Some(result)
    }

    async fn step(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                match self.interpret(event)? {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            }
            match &mut self.connection {
                Some(connection) => connection.read(&mut self.ready).await?,
                None => {
                    if let Some(wait) = self.wait.take() {
                        tokio::time::sleep(wait).await;
                    }
                    match self.connect().await {
                        Ok(connection) => self.connection = Some(connection),
                        // The registry has another history by now, or has forgotten so much of this one.
                        Err(Error::Gone { detail }) if self.position.is_some() => {
                            self.position = None;
                            self.midway = false;
                            return Ok(WatchEvent::Reset { reason: detail });
                        }
                        Err(error) => return Err(error),
                    }
                    if std::mem::take(&mut self.midway) {
                        // The state comes once more from its beginning; what vanished in between is in neither half.
                        let reason = "the connection broke before the state was complete".to_owned();
                        return Ok(WatchEvent::Reset { reason });
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<Events> {
        let filter = &self.request.filter;
        let call = Call::new(Method::GET, ["v1", "watch"])
            .query("kind", self.request.kind.map(kind_name))
            .query("namespace", filter.namespace.as_ref())
            .query("service", filter.service.as_ref())
            .query("heartbeatSeconds", Some(self.registry.inner.options.heartbeat_seconds()));
        let mut call = filtered(call, filter);
        if let Some(position) = self.position {
            let position = HeaderValue::from_str(&position.to_string());
            let position = position.map_err(|error| Error::field("", error.to_string()))?;
            call = call.header(HeaderName::from_static(LAST_EVENT_ID), position);
        }
        Events::open(&self.registry, call).await
    }

    /// What an event says; nothing where a newer registry says what this version does not know.
    fn interpret(&mut self, event: SseEvent) -> Result<Option<WatchEvent>> {
        let Some(connection) = &self.connection else { return Ok(None) };
        let Some(Told::Event { event: told, .. }) = connection.interpret(&event)? else { return Ok(None) };
        match told {
            WatchEvent::Reset { .. } => {
                self.position = None;
                self.midway = false;
            }
            WatchEvent::Synced(position) | WatchEvent::Bookmark(position) => self.position = Some(position),
            WatchEvent::Put { position, .. } | WatchEvent::Delete { position, .. } => {
                self.position = position.or(self.position);
                self.midway = self.position.is_none();
            }
        }
        if self.position.is_some() {
            self.midway = false;
        }
        // Only what arrives shows that the registry is well again; a connection alone does not.
        self.backoff.reset();
        Ok(Some(told))
    }
}
