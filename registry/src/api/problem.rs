//! Errors as clients see them: RFC 9457 problem documents that name the offending field.

use crate::live::WaitError;
use crate::sessions::{CreateError, EndError};
use crate::store::{CommitError, StoreError};
use crate::validate::Invalid;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fingerpost_catalog::Position;
use fingerpost_catalog::document::ProblemDocument;
use serde::Serialize;

/// Stands on a reply which says as an error that a write was committed, and is not shown here yet.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) position: Position,
    /// What is told of it where that is no error: a JSON object.
    pub(crate) reply: Bytes,
}

/// A refused or failed request.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    pointer: Option<String>,
    parameter: Option<&'static str>,
    outcome_unknown: bool,
    retry_after: Option<u32>,
    committed: Option<Box<Committed>>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl ToString) -> Self {
        Self {
            status,
            detail: detail.to_string(),
            pointer: None,
            parameter: None,
            outcome_unknown: false,
            retry_after: None,
            committed: None,
        }
    }

    /// A part of the path, a query parameter or a header that can't be taken.
    pub(crate) fn parameter(name: &'static str, detail: impl ToString) -> Self {
        Self { parameter: Some(name), ..Self::new(StatusCode::BAD_REQUEST, detail) }
    }

    /// A body that can't be read at `pointer`.
    pub(crate) fn body(pointer: impl Into<String>, detail: impl ToString) -> Self {
        Self { pointer: Some(pointer.into()), ..Self::new(StatusCode::BAD_REQUEST, detail) }
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} does not exist"))
    }

    /// The same problem in other words.
    pub(crate) fn detail(mut self, detail: impl ToString) -> Self {
        self.detail = detail.to_string();
        self
    }

    /// The same problem, at a place in the body.
    pub(crate) fn at(mut self, pointer: Option<String>) -> Self {
        self.pointer = pointer;
        self
    }

    /// Says more about how far it came.
    pub(crate) fn and(mut self, more: impl std::fmt::Display) -> Self {
        self.detail = format!("{}; {more}", self.detail);
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// After how many seconds it is worth trying again, where that is known.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.retry_after
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The document that clients get.
    pub fn document(&self) -> ProblemDocument {
        ProblemDocument {
            problem_type: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
            pointer: self.pointer.clone(),
            parameter: self.parameter.map(str::to_owned),
            outcome: self.outcome_unknown.then(|| "unknown".to_owned()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(committed) = self.committed {
            response.extensions_mut().insert(*committed);
        }
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self { pointer: Some(invalid.pointer), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, invalid.detail) }
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        match &error {
            CommitError::Condition { .. } => Self::new(StatusCode::PRECONDITION_FAILED, &error),
            CommitError::Malformed(_) | CommitError::TooLarge { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, &error)
            }
            CommitError::Full => Self::new(StatusCode::INSUFFICIENT_STORAGE, &error).retry_after(5),
            CommitError::Unavailable(_) | CommitError::Fenced => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, &error).retry_after(1)
            }
            CommitError::Unknown(_) => Self { outcome_unknown: true, ..Self::new(StatusCode::GATEWAY_TIMEOUT, &error) },
        }
    }
}

impl From<CreateError> for Problem {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::TooMany { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, error),
            CreateError::Write(error) => error.into(),
        }
    }
}

impl From<EndError> for Problem {
    fn from(error: EndError) -> Self {
        let cut = |id: &str| id.chars().take(64).collect::<String>();
        match error {
            EndError::NotFound(id) => Self::not_found(format_args!("session `{}`", cut(&id))),
            EndError::Foreign(id) => {
                Self::new(StatusCode::FORBIDDEN, format!("session `{}` belongs to somebody else", cut(&id)))
            }
            EndError::Write(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1)
    }
}

impl Problem {
    /// A write was committed whole at `position`, but this process did not come to show it in time. `reply` is what else
    /// would be told of it.
    pub(crate) fn not_visible(position: Position, error: WaitError, reply: &impl Serialize) -> Self {
        let detail = format!("the write was committed at {position}, but this server does not show it yet: {error}");
        let reply = serde_json::to_vec(reply).unwrap_or_default().into();
        Self {
            committed: Some(Box::new(Committed { position, reply })),
            ..Self::new(StatusCode::GATEWAY_TIMEOUT, detail)
        }
    }
}
