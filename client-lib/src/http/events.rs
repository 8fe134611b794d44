//! A connection on which the registry sends events, and what its events say.

use super::HttpRegistry;
use super::call::{Call, origin, root_cause};
use crate::request::WatchEvent;
use crate::sse::{SseEvent, SseParser};
use crate::{Error, Result};
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_catalog::{Kind, Position};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

/// An open stream of events.
pub(super) struct Events {
    response: Response,
    url: Url,
    endpoint: Url,
    parser: SseParser,
    /// How long it may be silent.
    idle: Duration,
}

/// What an event says.
#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "almost all are events; the other comes once for each stream")]
pub(super) enum Told {
    /// The stream's name, by which its subscriptions are changed.
    Stream(String),
    /// Something about one subscription; about all of them where it names none.
    Event { subscription: Option<String>, event: WatchEvent },
}

impl Events {
    /// Sends the call that opens a stream.
    pub(super) async fn open(registry: &HttpRegistry, call: Call) -> Result<Self> {
        let call = call.header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let (response, url, endpoint) = registry.open(&call).await?;
        if !response.status().is_success() {
            return Err(registry.refusal(response, &url).await);
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !content_type.starts_with("text/event-stream") {
            let detail = format!("a watch is no event stream but `{content_type}`");
            return Err(Error::Unexpected { url: url.to_string(), detail });
        }
        let options = &registry.inner.options;
        Ok(Self { response, url, endpoint, parser: SseParser::new(options.max_event), idle: options.silence() })
    }

    /// The endpoint that answers.
    pub(super) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// Waits for more of the stream.
    pub(super) async fn read(&mut self, ready: &mut VecDeque<SseEvent>) -> Result<()> {
        let broken = |reason: String| Error::Broken { url: origin(&self.url), reason };
        let chunk = match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(broken("the registry ended the stream".to_owned())),
            Ok(Err(error)) => return Err(broken(root_cause(&error))),
            Err(_) => return Err(broken(format!("nothing came for {} seconds", self.idle.as_secs()))),
        };
        let mut events = Vec::new();
        let parsed = self.parser.feed(&chunk, &mut events);
        ready.extend(events);
        // Events before the fault are good, but the stream as a whole can't be trusted any more.
        parsed.map_err(|error| Error::Unexpected { url: self.url.to_string(), detail: error.to_string() })
    }

    /// What an event says; nothing where a newer registry says what this version does not know.
    pub(super) fn interpret(&self, event: &SseEvent) -> Result<Option<Told>> {
        let odd = |detail: String| Error::Unexpected {
            url: self.url.to_string(),
            detail: format!("event `{}`: {detail}", event.event),
        };
        interpret(event).map_err(odd)
    }
}

#[derive(Deserialize)]
struct StreamData {
    stream: String,
}

#[derive(Deserialize)]
struct ObjectData<'a> {
    #[serde(borrow, default)]
    subscription: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct MarkData<'a> {
    #[serde(borrow, default)]
    subscription: Option<Cow<'a, str>>,
    revision: Position,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResetData<'a> {
    #[serde(borrow)]
    subscription: Option<Cow<'a, str>>,
    reason: String,
}

fn interpret(event: &SseEvent) -> Result<Option<Told>, String> {
    fn read<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, String> {
        serde_json::from_str(data).map_err(|error| error.to_string())
    }
    let owned = |subscription: Option<Cow<'_, str>>| subscription.map(Cow::into_owned);
    let position = event.id.as_deref().map(str::parse::<Position>).transpose().map_err(|error| error.to_string())?;
    let (subscription, event) = match event.event.as_str() {
        "stream" => return read::<StreamData>(&event.data).map(|data| Some(Told::Stream(data.stream))),
        change @ ("put" | "delete") => {
            let data = read::<ObjectData<'_>>(&event.data)?;
            let event = match (object(&data)?, change) {
                (Some(object), "put") => WatchEvent::Put { object, position },
                (Some(object), _) => WatchEvent::Delete { object, position },
                // Of no use here, but it may be what completes a position.
                (None, _) => match position {
                    Some(position) => WatchEvent::Bookmark(position),
                    None => return Ok(None),
                },
            };
            (owned(data.subscription), event)
        }
        mark @ ("synced" | "bookmark") => {
            let data = read::<MarkData<'_>>(&event.data)?;
            let event = match mark {
                "synced" => WatchEvent::Synced(data.revision),
                _ => WatchEvent::Bookmark(data.revision),
            };
            (owned(data.subscription), event)
        }
        "reset" => {
            let data = read::<ResetData<'_>>(&event.data)?;
            (owned(data.subscription), WatchEvent::Reset { reason: data.reason })
        }
        _ => return Ok(None),
    };
    Ok(Some(Told::Event { subscription, event }))
}

/// The object of an event; nothing for a kind that this version does not know.
fn object(data: &ObjectData<'_>) -> Result<Option<ObjectDocument>, String> {
    fn read<'a, T: Deserialize<'a>>(data: &'a RawValue) -> Result<T, String> {
        serde_json::from_str(data.get()).map_err(|error| error.to_string())
    }
    Ok(Some(match &*data.kind {
        "namespace" => ObjectDocument::Namespace(read(data.object)?),
        "service" => ObjectDocument::Service(read(data.object)?),
        "instance" => ObjectDocument::Instance(read(data.object)?),
        _ => return Ok(None),
    }))
}

/// A kind as the API spells it.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespace",
        Kind::Service => "service",
        Kind::Instance => "instance",
    }
}
