//! What can go wrong in a call, in terms that a caller can act on.

use fingerpost_catalog::document::ProblemDocument;
use std::time::Duration;

/// Why a call failed. Each message says what was wrong and, where there is one, the way out.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object does not exist (404).
    #[error("{detail}")]
    NotFound {
        /// What does not exist.
        detail: String,
    },
    /// The registry does not know who calls: there is no token, or a wrong one (401).
    #[error("{detail}")]
    Unauthorized {
        /// The registry's words.
        detail: String,
    },
    /// The caller may not do that (403).
    #[error("{detail}")]
    Forbidden {
        /// What is missing.
        detail: String,
    },
    /// Something stands in the way of the write (409).
    #[error("{detail}")]
    Conflict {
        /// What stands in the way.
        detail: String,
    },
    /// The object is not in the state that the write's [`Guard`](crate::Guard) names (412). Read it again, then decide.
    #[error("{detail}")]
    PreconditionFailed {
        /// In which state it is.
        detail: String,
    },
    /// The request is wrong (any other 4xx, or found wrong before it was sent). Repeating it is no use.
    #[error("{detail}{}", place(.pointer.as_deref(), .parameter.as_deref()))]
    Invalid {
        /// The HTTP status; 0 where the request was not sent.
        status: u16,
        /// What is wrong.
        detail: String,
        /// The offending field of the body, as a JSON pointer.
        pointer: Option<String>,
        /// The offending query parameter or header.
        parameter: Option<String>,
    },
    /// The position or continue token is of a history that is no more, or too old (410). Start over from the present.
    #[error("{detail}")]
    Gone {
        /// What is gone.
        detail: String,
    },
    /// The registry did not reach the position asked for in time (504).
    #[error("{detail}")]
    Behind {
        /// How far it is.
        detail: String,
    },
    /// The registry can't do it now, and nothing was changed (429, 503). Try again later.
    #[error("{detail}")]
    Unavailable {
        /// Why not.
        detail: String,
        /// When to try again, where the registry says.
        retry_after: Option<Duration>,
    },
    /// The registry's disk is full (507). Nothing was changed; reads go on.
    #[error("{detail}")]
    StorageFull {
        /// The registry's words.
        detail: String,
    },
    /// The write may or may not have been applied. Read the object to find out, or write it again: PUT and DELETE may
    /// be repeated.
    #[error("it is unknown whether the write was applied: {detail}")]
    UnknownOutcome {
        /// What happened.
        detail: String,
    },
    /// No connection could be made, so nothing was sent.
    #[error("can't reach {url}: {reason}; is `fingerpost serve` running there?")]
    Unreachable {
        /// The endpoint that was tried last.
        url: String,
        /// The root cause.
        reason: String,
    },
    /// The registry's certificate can't be trusted, so nothing was sent.
    #[error(
        "can't trust {url}: {reason}; the CA of its certificate must be known, and the certificate be for that name"
    )]
    Untrusted {
        /// The endpoint that was tried last.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The connection broke or the reply did not come in time, during a call that changes nothing.
    #[error("no complete reply from {url}: {reason}")]
    Broken {
        /// The endpoint.
        url: String,
        /// The root cause.
        reason: String,
    },
    /// The registry failed (any other 5xx).
    #[error("the registry failed with status {status}: {detail}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// The registry's words.
        detail: String,
    },
    /// The reply is not what this version understands: it comes from something else than a Fingerpost registry, or from
    /// another version of it.
    #[error("{url} does not answer like a Fingerpost registry: {detail}")]
    Unexpected {
        /// What was asked.
        url: String,
        /// What is odd about the reply.
        detail: String,
    },
    /// The reply is larger than this client takes in ([`HttpOptions::max_reply`](crate::HttpOptions::max_reply)).
    #[error("the reply of {url} is larger than {limit} bytes: ask for less, for instance with a smaller page")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A token, certificate or key of the client's own can't be used.
    #[error("can't use {what}: {detail}")]
    Credentials {
        /// Which.
        what: String,
        /// What is wrong with it. Never the thing itself.
        detail: String,
    },
    /// The endpoint is not an address that this client can talk to.
    #[error("`{endpoint}` is not the address of a registry: {detail}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
    },
    /// It needs a tokio runtime, and was called without one.
    #[error("this needs a tokio runtime: call it in a task, or within `Runtime::enter`")]
    NoRuntime,
    /// The endpoint is another machine over plain HTTP, and everybody on the way could read the token.
    #[error("the token would go to `{endpoint}` in the clear; write https://")]
    ClearText {
        /// What was given.
        endpoint: String,
    },
}

/// Where in the request the fault is, for the message.
fn place(pointer: Option<&str>, parameter: Option<&str>) -> String {
    match (pointer, parameter) {
        (Some(pointer), _) if !pointer.is_empty() => format!(" (at {pointer})"),
        (_, Some(parameter)) => format!(" (parameter `{parameter}`)"),
        _ => String::new(),
    }
}

impl Error {
    /// A request that is wrong before it is sent: the field at `pointer` must be different.
    pub(crate) fn field(pointer: &str, detail: impl Into<String>) -> Self {
        Self::Invalid { status: 0, detail: detail.into(), pointer: Some(pointer.to_owned()), parameter: None }
    }

    /// Whether the same call may well succeed later, without anybody changing anything.
    ///
    /// ```
    /// use fingerpost_client::Error;
    ///
    /// let refused = Error::Forbidden { detail: "the token may not write there".to_owned() };
    /// assert!(!refused.is_transient());
    /// let busy = Error::Unavailable { detail: "a moment".to_owned(), retry_after: None };
    /// assert!(busy.is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Behind { .. }
            | Self::Unavailable { .. }
            | Self::StorageFull { .. }
            | Self::UnknownOutcome { .. }
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Broken { .. }
            | Self::Server { .. } => true,
            Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::PreconditionFailed { .. }
            | Self::Invalid { .. }
            | Self::Gone { .. }
            | Self::Unexpected { .. }
            | Self::TooLarge { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Credentials { .. }
            | Self::Endpoint { .. }
            | Self::NoRuntime
            | Self::ClearText { .. } => false,
        }
    }

    /// The error that a problem document stands for. `status` decides where the document's own differs.
    pub fn from_problem(status: u16, problem: ProblemDocument, retry_after: Option<Duration>) -> Self {
        let ProblemDocument { title, detail, pointer, parameter, outcome, .. } = problem;
        let detail = match (detail.is_empty(), title.is_empty()) {
            (false, _) => detail,
            (true, false) => title,
            (true, true) => format!("the registry answered with status {status} and no reason"),
        };
        match status {
            _ if outcome.as_deref() == Some("unknown") => Self::UnknownOutcome { detail },
            401 => Self::Unauthorized { detail },
            403 => Self::Forbidden { detail },
            404 => Self::NotFound { detail },
            409 => Self::Conflict { detail },
            410 => Self::Gone { detail },
            412 => Self::PreconditionFailed { detail },
            429 | 503 => Self::Unavailable { detail, retry_after },
            504 => Self::Behind { detail },
            507 => Self::StorageFull { detail },
            400..=499 => Self::Invalid { status, detail, pointer, parameter },
            _ => Self::Server { status, detail },
        }
    }

    /// The error that a reply's body stands for, be it a problem document or something else's error page.
    pub(crate) fn from_reply(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let problem = serde_json::from_slice::<ProblemDocument>(body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
            let detail = if text.is_empty() { text } else { format!("status {status}: {text}") };
            ProblemDocument { detail, ..ProblemDocument::default() }
        });
        Self::from_problem(status, problem, retry_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(detail: &str) -> ProblemDocument {
        ProblemDocument { detail: detail.to_owned(), ..ProblemDocument::default() }
    }

    #[test]
    fn statuses_become_kinds() {
        let of = |status| Error::from_problem(status, problem("so"), None);
        assert!(matches!(of(401), Error::Unauthorized { detail } if detail == "so"));
        assert!(matches!(of(403), Error::Forbidden { detail } if detail == "so"));
        assert!(!of(401).is_transient() && !of(403).is_transient());
        assert!(matches!(of(404), Error::NotFound { detail } if detail == "so"));
        assert!(matches!(of(409), Error::Conflict { .. }));
        assert!(matches!(of(410), Error::Gone { .. }));
        assert!(matches!(of(412), Error::PreconditionFailed { .. }));
        assert!(matches!(of(422), Error::Invalid { status: 422, .. }));
        assert!(matches!(of(503), Error::Unavailable { .. }));
        assert!(matches!(of(504), Error::Behind { .. }));
        assert!(matches!(of(507), Error::StorageFull { .. }));
        assert!(matches!(of(500), Error::Server { status: 500, .. }));
    }

    #[test]
    fn an_unknown_outcome_is_told_apart_from_a_late_position() {
        let late = ProblemDocument { outcome: Some("unknown".into()), ..problem("no word from the store") };
        assert!(matches!(Error::from_problem(504, late, None), Error::UnknownOutcome { .. }));
    }

    #[test]
    fn messages_show_the_place() {
        let wrong = ProblemDocument { pointer: Some("/ports/0/port".into()), ..problem("port 0 can't be used") };
        let error = Error::from_problem(422, wrong, None);
        assert_eq!(error.to_string(), "port 0 can't be used (at /ports/0/port)");
        let wrong = ProblemDocument { parameter: Some("selector".into()), ..problem("expected a key") };
        assert_eq!(Error::from_problem(400, wrong, None).to_string(), "expected a key (parameter `selector`)");
    }

    #[test]
    fn replies_that_are_no_problem_documents_are_quoted() {
        let error = Error::from_reply(502, b"<h1>Bad gateway</h1>", None);
        assert!(error.to_string().contains("Bad gateway"), "{error}");
        let error = Error::from_reply(404, b"", None);
        assert!(error.to_string().contains("404"), "{error}");
    }
}
