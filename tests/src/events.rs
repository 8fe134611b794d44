//! A watch stream as tests read it: event by event, with its id.

use crate::Server;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
    /// Its id.
    pub id: Option<String>,
}

/// Puts events together from the bytes of a stream.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: String,
}

impl Parser {
    /// The events that these bytes complete.
    pub fn push(&mut self, chunk: &[u8]) -> Vec<Event> {
        self.buffer.push_str(std::str::from_utf8(chunk).expect("UTF-8"));
        let mut events = Vec::new();
        while let Some(end) = self.buffer.find("\n\n") {
            let text: String = self.buffer.drain(..end + 2).collect();
            let mut event = Event { name: "message".to_owned(), data: Value::Null, id: None };
            for line in text.lines() {
                match line.split_once(": ") {
                    Some(("event", name)) => event.name = name.to_owned(),
                    Some(("data", data)) => event.data = serde_json::from_str(data).expect("data is JSON"),
                    Some(("id", id)) => event.id = Some(id.to_owned()),
                    _ => {}
                }
            }
            events.push(event);
        }
        events
    }
}

/// An open stream.
pub struct Events {
    body: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    parser: Parser,
    ready: VecDeque<Event>,
}

impl Events {
    /// Opens a stream with GET.
    pub async fn open(server: &Server, query: &str, last_event_id: Option<&str>) -> Self {
        let mut request = reqwest::Client::new().get(format!("{}/v1/watch{query}", server.url));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        Self::new(request.send().await.expect("the API answers"))
    }

    /// Opens a stream of many subscriptions.
    pub async fn open_many(server: &Server, body: Value) -> Self {
        let request = reqwest::Client::new().post(format!("{}/v1/watch", server.url)).json(&body);
        Self::new(request.send().await.expect("the API answers"))
    }

    fn new(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.bytes_stream().map(|chunk| chunk.map(|chunk| chunk.to_vec())).boxed();
        Self { body, parser: Parser::default(), ready: VecDeque::new() }
    }

    /// The next event; none when the stream ends.
    pub async fn try_next(&mut self) -> Option<Event> {
        while self.ready.is_empty() {
            let chunk =
                tokio::time::timeout(Duration::from_secs(30), self.body.next()).await.expect("an event in 30 s")?;
            self.ready.extend(self.parser.push(&chunk.ok()?));
        }
        self.ready.pop_front()
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        self.try_next().await.expect("the stream goes on")
    }

    /// All events up to `synced`, and that one.
    pub async fn until_synced(&mut self) -> (Vec<Event>, Event) {
        let mut before = Vec::new();
        loop {
            let event = self.next().await;
            if event.name == "synced" {
                return (before, event);
            }
            before.push(event);
        }
    }
}
