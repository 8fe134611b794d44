//! One call: building it, sending it within its time, repeating it where that is safe, and reading the reply.

use super::HttpRegistry;
use crate::backoff::Backoff;
use crate::{Error, Guard, Result};
use bytes::{Bytes, BytesMut};
use fingerpost_catalog::Position;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A call, ready to be sent any number of times.
pub(super) struct Call {
    pub(super) method: Method,
    /// The path's segments, not yet encoded.
    segments: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Option<Bytes>,
    pub(super) timeout: Option<Duration>,
    /// Whether a reply of 503 means that nothing was applied.
    all_or_nothing: bool,
    /// Whether it may be repeated whatever became of it, although it is no GET.
    harmless: bool,
    /// Only this endpoint can take it.
    at: Option<Url>,
}

/// A complete reply of a status below 300.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    url: Url,
    etag: Option<Position>,
    body: Bytes,
}

impl Call {
    pub(super) fn new<'a>(method: Method, segments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            method,
            segments: segments.into_iter().map(str::to_owned).collect(),
            query: Vec::new(),
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]),
            body: None,
            timeout: None,
            all_or_nothing: true,
            harmless: false,
            at: None,
        }
    }

    /// Goes to this endpoint and no other.
    pub(super) fn at(mut self, endpoint: Url) -> Self {
        self.at = Some(endpoint);
        self
    }

    pub(super) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn guard(self, guard: Guard) -> Result<Self> {
        Ok(match guard {
            Guard::None => self,
            Guard::Present => self.header(IF_MATCH, HeaderValue::from_static("*")),
            Guard::Absent => self.header(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Guard::At(position) => {
                let etag = HeaderValue::from_str(&format!("\"{position}\""));
                self.header(IF_MATCH, etag.map_err(|error| Error::field("", error.to_string()))?)
            }
        })
    }

    pub(super) fn json<T: Serialize + ?Sized>(self, body: &T) -> Result<Self> {
        self.body_as("application/json", body)
    }

    pub(super) fn body_as<T: Serialize + ?Sized>(mut self, content_type: &'static str, body: &T) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(|error| Error::field("", error.to_string()))?;
        self.body = Some(body.into());
        Ok(self.header(CONTENT_TYPE, HeaderValue::from_static(content_type)))
    }

    /// A time of its own, for calls that may take longer than others.
    pub(super) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Repeating the call does no harm.
    pub(super) fn repeatable(mut self) -> Self {
        self.harmless = true;
        self
    }

    /// The registry applies the call in steps, so that a refusal says nothing of the steps before.
    pub(super) fn in_steps(mut self) -> Self {
        self.all_or_nothing = false;
        self
    }

    pub(super) fn url(&self, endpoint: &Url) -> Result<Url> {
        let mut url = endpoint.clone();
        {
            let bad_endpoint = || Error::Endpoint {
                endpoint: endpoint.to_string(),
                detail: "nothing can be appended to it".to_owned(),
            };
            let mut path = url.path_segments_mut().map_err(|()| bad_endpoint())?;
            path.pop_if_empty();
            for segment in &self.segments {
                // Every URL parser on the way would take these for "here" and "one up", encoded or not.
                if matches!(segment.as_str(), "" | "." | "..") {
                    return Err(Error::Invalid {
                        status: 0,
                        detail: format!("`{segment}` can't be used as a name or id"),
                        pointer: None,
                        parameter: None,
                    });
                }
                path.push(segment);
            }
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Ok(url)
    }

    /// Whether the call changes nothing, so that repeating it never does harm.
    fn reads(&self) -> bool {
        self.method == Method::GET || self.harmless
    }
}

impl Reply {
    /// The body as a document.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(error.to_string()))
    }

    /// The position that the reply names.
    pub(super) fn position(&self) -> Result<Position> {
        #[derive(serde::Deserialize)]
        struct Revision {
            revision: Position,
        }
        match self.etag {
            Some(position) => Ok(position),
            None => self.json::<Revision>().map(|body| body.revision),
        }
    }

    pub(super) fn unexpected(&self, detail: String) -> Error {
        Error::Unexpected { url: self.url.to_string(), detail }
    }
}

/// A failed attempt, and whether another is safe.
struct Failure {
    error: Error,
    again: bool,
    /// Another endpoint may do better.
    elsewhere: bool,
    /// The token was refused, and there is another by now.
    renewed: bool,
}

impl HttpRegistry {
    /// Sends a call until it succeeds, fails for good, or its time is up.
    pub(super) async fn send(&self, call: Call) -> Result<Reply> {
        match self.waiting.as_deref().filter(|_| !call.reads()) {
            None => self.send_as_is(call).await,
            Some(waiting) => {
                let reply = self.send_as_is(waiting.apply(call, self.inner.options.timeout)).await?;
                waiting.note(&reply)?;
                Ok(reply)
            }
        }
    }

    async fn send_as_is(&self, call: Call) -> Result<Reply> {
        let options = &self.inner.options;
        let deadline = Instant::now() + call.timeout.unwrap_or(options.timeout);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let failure = match self.attempt(&call, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            // Refused before anything was done, so the call may be made again with the token of now.
            if failure.renewed && !renewed {
                renewed = true;
                continue;
            }
            if failure.elsewhere {
                self.inner.current.fetch_add(1, Ordering::Relaxed);
            }
            if !failure.again || attempt >= options.attempts {
                return Err(failure.error);
            }
            let wait = match failure.error {
                Error::Unavailable { retry_after: Some(wait), .. } => wait.max(backoff.next()),
                _ => backoff.next(),
            };
            // An attempt that can't even connect in the time that is left would only hide the reason.
            if Instant::now() + wait + options.connect_timeout > deadline {
                return Err(failure.error);
            }
            tracing::debug!(attempt, error = %failure.error, "trying again in {wait:?}");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, call: &Call, deadline: Instant) -> Result<Reply, Failure> {
        let fatal = |error| Failure { error, again: false, elsewhere: false, renewed: false };
        let url = call.url(call.at.as_ref().unwrap_or_else(|| self.endpoint())).map_err(fatal)?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let (client, authorization) = self.transport();
        let mut request =
            client.request(call.method.clone(), url.clone()).headers(call.headers.clone()).timeout(timeout);
        if let Some(authorization) = &authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let response = request.send().await.map_err(|error| self.failure(call, &url, &error))?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).and_then(parse_etag);
        let body = match self.read(response, &url).await {
            Ok(body) => body,
            Err(BodyError::Http(error)) => return Err(self.failure(call, &url, &error)),
            Err(BodyError::TooLarge(error)) => return Err(fatal(error)),
        };
        if status.is_success() {
            return Ok(Reply { status, url, etag, body });
        }
        if status.is_redirection() {
            let detail = format!("it redirects (status {status})");
            return Err(fatal(Error::Unexpected { url: url.to_string(), detail }));
        }
        let error = match Error::from_reply(status.as_u16(), &body, retry_after) {
            // Something on the way, or the registry itself, broke down after it may have taken the write.
            Error::Behind { detail } | Error::Server { status: 500 | 502, detail } if !call.reads() => {
                Error::UnknownOutcome { detail }
            }
            error => error,
        };
        let refused = matches!(error, Error::Unavailable { .. });
        let again = refused && (call.reads() || (call.all_or_nothing && retry_after.is_some()));
        let renewed = matches!(error, Error::Unauthorized { .. }) && self.renewed(authorization.as_ref());
        Err(Failure { error, again, elsewhere: refused, renewed })
    }

    /// What a failure of the connection means for the call.
    fn failure(&self, call: &Call, url: &Url, error: &reqwest::Error) -> Failure {
        let (endpoint, reason) = (origin(url), root_cause(error));
        if error.is_builder() {
            let error = Error::Endpoint { endpoint, detail: reason };
            Failure { error, again: false, elsewhere: false, renewed: false }
        } else if error.is_connect() {
            let error = unreachable(endpoint, error);
            Failure { error, again: true, elsewhere: true, renewed: false }
        } else if call.reads() {
            // A timeout is the end of the call's own time.
            let again = !error.is_timeout();
            Failure { error: Error::Broken { url: endpoint, reason }, again, elsewhere: true, renewed: false }
        } else {
            let detail = format!("no complete reply from {endpoint}: {reason}");
            Failure { error: Error::UnknownOutcome { detail }, again: false, elsewhere: true, renewed: false }
        }
    }

    /// What to send a call with, as it is now.
    pub(super) fn transport(&self) -> (reqwest::Client, Option<HeaderValue>) {
        self.inner.transport.current(&self.inner.options)
    }

    /// Whether there is another token than the one that was refused.
    fn renewed(&self, refused: Option<&HeaderValue>) -> bool {
        self.inner.transport.renew(&self.inner.options, refused)
    }

    pub(super) fn endpoint(&self) -> &Url {
        let endpoints = &self.inner.endpoints;
        &endpoints[self.inner.current.load(Ordering::Relaxed) % endpoints.len()]
    }

    /// Reads a body up to the limit.
    async fn read(&self, mut response: Response, url: &Url) -> Result<Bytes, BodyError> {
        let limit = self.inner.options.max_reply;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(BodyError::Http)? {
            if body.len() + chunk.len() > limit {
                return Err(BodyError::TooLarge(Error::TooLarge { url: url.to_string(), limit }));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The error that a reply of a stream stands for.
    pub(super) async fn refusal(&self, response: Response, url: &Url) -> Error {
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        // Streams have no timeout of their own, and the status alone says enough.
        let body = tokio::time::timeout(self.inner.options.timeout, self.read(response, url)).await;
        match body {
            Ok(Ok(body)) => Error::from_reply(status.as_u16(), &body, retry_after),
            Ok(Err(BodyError::TooLarge(error))) => error,
            Ok(Err(BodyError::Http(_))) | Err(_) => Error::from_reply(status.as_u16(), b"", retry_after),
        }
    }
}

impl HttpRegistry {
    /// Opens a stream: asks the endpoints in turn until one can be reached. What it replies is the caller's to judge.
    /// Returns which endpoint it is, too.
    pub(super) async fn open(&self, call: &Call) -> Result<(Response, Url, Url)> {
        let mut others = self.inner.endpoints.len() - 1;
        let mut renewed = false;
        loop {
            let endpoint = self.endpoint().clone();
            let url = call.url(&endpoint)?;
            let (client, authorization) = self.transport();
            let mut request = client.request(call.method.clone(), url.clone()).headers(call.headers.clone());
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            if let Some(body) = &call.body {
                request = request.body(body.clone());
            }
            let broken = |reason| Error::Broken { url: origin(&url), reason };
            match tokio::time::timeout(self.inner.options.timeout, request.send()).await {
                Ok(Ok(response))
                    if response.status() == StatusCode::UNAUTHORIZED
                        && !renewed
                        && self.renewed(authorization.as_ref()) =>
                {
                    renewed = true;
                }
                Ok(Ok(response)) => return Ok((response, url, endpoint)),
                Ok(Err(error)) if error.is_connect() && others > 0 => {
                    others -= 1;
                    self.inner.current.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Err(error)) if error.is_connect() => return Err(unreachable(origin(&url), &error)),
                Ok(Err(error)) => return Err(broken(root_cause(&error))),
                Err(_) => return Err(broken("it did not answer in time".to_owned())),
            }
        }
    }
}

enum BodyError {
    Http(reqwest::Error),
    TooLarge(Error),
}

/// An endpoint as users write it.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Why no connection could be made.
pub(super) fn unreachable(url: String, error: &reqwest::Error) -> Error {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => Error::Untrusted { url, reason: reason.to_string() },
        _ => Error::Unreachable { url, reason: root_cause(error) },
    }
}

/// The TLS error among the reasons of an error. The source of an I/O error is not what it holds, but the source of that.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
        None => error.source(),
    };
    error.downcast_ref().or_else(|| tls_error(inner?))
}

/// The innermost reason: the outer ones only repeat the URL.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn parse_etag(text: &str) -> Option<Position> {
    text.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// Seconds only: the registry never sends a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
