//! Following the registry of the same process. The hub renders each change once for all streams of one filter, as text; so
//! this reads the text that others are sent, and shares that work.

use super::LocalRegistry;
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_catalog::{HealthSet, Position};
use fingerpost_client::{Error, Result, SseEvent, SseParser, WatchEvent, WatchRequest};
use fingerpost_registry::watch::{Filter, Subscribe, WatchStream};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;

/// Longest event; the registry's objects are far smaller.
const MAX_EVENT: usize = 16 << 20;

/// A stream that ends when the process does.
pub(super) fn follow(local: &LocalRegistry, request: WatchRequest) -> BoxStream<'static, Result<WatchEvent>> {
    let opened = subscribe(&request).and_then(|subscribe| {
        let (hub, live, limits) = (&local.hub, &local.live, local.stream_limits);
        WatchStream::single(hub, live, limits, subscribe, local.shutdown.clone())
            .map_err(|error| Error::Unavailable { detail: error.to_string(), retry_after: None })
    });
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => return stream::once(async { Err(error) }).boxed(),
    };
    let state = (stream, SseParser::new(MAX_EVENT), VecDeque::<SseEvent>::new());
    stream::unfold(state, |(mut stream, mut parser, mut ready)| async move {
        loop {
            if let Some(event) = ready.pop_front() {
                match interpret(&event) {
                    Ok(None) => continue,
                    Ok(Some(told)) => return Some((Ok(told), (stream, parser, ready))),
                    Err(error) => return Some((Err(error), (stream, parser, ready))),
                }
            }
            let chunk = stream.next_chunk().await?;
            let mut events = Vec::new();
            let parsed = parser.feed(&chunk, &mut events);
            ready.extend(events);
            if let Err(error) = parsed {
                return Some((Err(odd(&error.to_string())), (stream, parser, ready)));
            }
        }
    })
    .boxed()
}

fn subscribe(request: &WatchRequest) -> Result<Subscribe> {
    let filter = &request.filter;
    let healths: Vec<String> = filter.health.iter().map(ToString::to_string).collect();
    let health = match healths.is_empty() {
        true => HealthSet::default(),
        false => healths.join(",").parse().map_err(|error| odd(&format!("{error}")))?,
    };
    let filter = Filter {
        kind: request.kind,
        namespace: filter.namespace.clone(),
        service: filter.service.clone(),
        selector: filter.selector.clone(),
        health,
        source: filter.source.clone(),
    };
    Ok(Subscribe { id: String::new(), filter, position: request.position })
}

fn odd(detail: &str) -> Error {
    Error::Unexpected { url: "this process".to_owned(), detail: detail.to_owned() }
}

fn read<T: DeserializeOwned>(event: &SseEvent) -> Result<T> {
    serde_json::from_str(&event.data).map_err(|error| odd(&format!("event `{}`: {error}", event.event)))
}

fn interpret(event: &SseEvent) -> Result<Option<WatchEvent>> {
    #[derive(Deserialize)]
    struct Revision {
        revision: Position,
    }
    #[derive(Deserialize)]
    struct Reset {
        reason: String,
    }
    let position = event.id.as_deref().map(str::parse).transpose().map_err(|_| odd("an id is no position"))?;
    Ok(Some(match event.event.as_str() {
        "put" => WatchEvent::Put { object: read::<ObjectDocument>(event)?, position },
        "delete" => WatchEvent::Delete { object: read::<ObjectDocument>(event)?, position },
        "synced" => WatchEvent::Synced(read::<Revision>(event)?.revision),
        "bookmark" => WatchEvent::Bookmark(read::<Revision>(event)?.revision),
        "reset" => WatchEvent::Reset { reason: read::<Reset>(event)?.reason },
        _ => return Ok(None),
    }))
}
