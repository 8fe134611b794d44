//! Watches: the event stream of the registry, joined together again where connections break.

use super::HttpRegistry;
use super::call::{Call, origin, root_cause};
use super::typed::filtered;
use crate::backoff::Backoff;
use crate::request::{WatchEvent, WatchRequest};
use crate::sse::{SseEvent, SseParser};
use crate::{Error, Result};
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_catalog::{Kind, Position};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
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
    connection: Option<Connection>,
    ready: VecDeque<SseEvent>,
    /// Part of a state of the world has been given, and no position yet from which to resume.
    midway: bool,
    /// How long to wait before connecting again.
    wait: Option<Duration>,
    backoff: Backoff,
    ended: bool,
}

struct Connection {
    response: Response,
    url: Url,
    parser: SseParser,
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
                Some(connection) => connection.read(&self.registry, &mut self.ready).await?,
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

    async fn connect(&self) -> Result<Connection> {
        let (registry, filter) = (&self.registry, &self.request.filter);
        let kind = self.request.kind.map(|kind| match kind {
            Kind::Namespace => "namespace",
            Kind::Service => "service",
            Kind::Instance => "instance",
        });
        let call = Call::new(Method::GET, ["v1", "watch"])
            .query("kind", kind)
            .query("namespace", filter.namespace.as_ref())
            .query("service", filter.service.as_ref());
        let mut call = filtered(call, filter).header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(position) = self.position {
            let position = HeaderValue::from_str(&position.to_string());
            let position = position.map_err(|error| Error::field("", error.to_string()))?;
            call = call.header(HeaderName::from_static(LAST_EVENT_ID), position);
        }
        let (response, url) = registry.open(&call).await?;
        if !response.status().is_success() {
            return Err(registry.refusal(response, &url).await);
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !content_type.starts_with("text/event-stream") {
            let detail = format!("a watch is no event stream but `{content_type}`");
            return Err(Error::Unexpected { url: url.to_string(), detail });
        }
        let parser = SseParser::new(registry.inner.options.max_event);
        Ok(Connection { response, url, parser })
    }

    /// What an event says; nothing where a newer registry says what this version does not know.
    fn interpret(&mut self, event: SseEvent) -> Result<Option<WatchEvent>> {
        #[derive(Deserialize)]
        struct Revision {
            revision: Position,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Reset {
            reason: String,
        }
        let position = match &event.id {
            Some(id) => Some(id.parse::<Position>().map_err(|error| self.odd(&event, error.to_string()))?),
            None => None,
        };
        let told = match event.event.as_str() {
            "put" => WatchEvent::Put { object: self.read::<ObjectDocument>(&event)?, position },
            "delete" => WatchEvent::Delete { object: self.read::<ObjectDocument>(&event)?, position },
            "synced" => WatchEvent::Synced(self.read::<Revision>(&event)?.revision),
            "bookmark" => WatchEvent::Bookmark(self.read::<Revision>(&event)?.revision),
            "reset" => WatchEvent::Reset { reason: self.read::<Reset>(&event)?.reason },
            _ => return Ok(None),
        };
        match told {
            WatchEvent::Reset { .. } => {
                self.position = None;
                self.midway = false;
            }
            WatchEvent::Synced(position) | WatchEvent::Bookmark(position) => self.position = Some(position),
            WatchEvent::Put { .. } | WatchEvent::Delete { .. } => {
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

    fn read<T: DeserializeOwned>(&self, event: &SseEvent) -> Result<T> {
        serde_json::from_str(&event.data).map_err(|error| self.odd(event, error.to_string()))
    }

    fn odd(&self, event: &SseEvent, detail: String) -> Error {
        let url = self.connection.as_ref().map_or_else(String::new, |connection| connection.url.to_string());
        Error::Unexpected { url, detail: format!("event `{}`: {detail}", event.event) }
    }
}

impl Connection {
    /// Waits for more of the stream.
    async fn read(&mut self, registry: &HttpRegistry, ready: &mut VecDeque<SseEvent>) -> Result<()> {
        let broken = |reason: String| Error::Broken { url: origin(&self.url), reason };
        let idle = registry.inner.options.idle_timeout;
        let chunk = match tokio::time::timeout(idle, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(broken("the registry ended the stream".to_owned())),
            Ok(Err(error)) => return Err(broken(root_cause(&error))),
            Err(_) => return Err(broken(format!("nothing came for {} seconds", idle.as_secs()))),
        };
        let mut events = Vec::new();
        let parsed = self.parser.feed(&chunk, &mut events);
        ready.extend(events);
        // Events before the fault are good, but the stream as a whole can't be trusted any more.
        parsed.map_err(|error| Error::Unexpected { url: self.url.to_string(), detail: error.to_string() })
    }
}
