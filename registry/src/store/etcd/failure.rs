//! What an error of etcd means for the one who called.
//!
//! The question is always the same: was the request carried out? Errors that etcd answers with are clear about it;
//! those of the connection are not, except where there was no connection to begin with.

use etcd_client::Error;
use std::time::Duration;
use tonic::Code;

/// What came of a request that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// There was no connection, so nothing was sent.
    NotSent,
    /// It may have been carried out, or may still be.
    Unknown,
    /// The database is full. etcd also answers so to the one request that filled it, which *was* carried out.
    NoSpace,
    /// The revision asked for is compacted.
    Compacted,
    /// Name, password or rights are not enough.
    Denied,
    /// The two sides don't accept each other's certificates.
    Certificate,
    /// Refused for what it is; nothing was done.
    Refused,
}

/// A request that failed, and why.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) outcome: Outcome,
    pub(super) text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    /// There was no answer in time.
    pub(super) fn timeout(time: Duration) -> Self {
        Self { outcome: Outcome::Unknown, text: format!("no answer within {} ms", time.as_millis()) }
    }

    /// A fault that etcd did not report by itself.
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self { outcome: Outcome::Unknown, text: text.into() }
    }

    /// The answer is larger than this side takes; it would be each time.
    pub(super) fn is_too_large(&self) -> bool {
        self.text.contains("message length too large")
    }

    /// The same for whoever asked for a write, and may not know what it was for.
    pub(super) fn reason(&self) -> String {
        let text = &self.text;
        match self.outcome {
            Outcome::NotSent => format!("etcd can't be reached: {text}"),
            Outcome::Unknown => format!("etcd gave no clear answer: {text}"),
            _ => format!("etcd refused: {text}"),
        }
    }

    /// Whether trying again, perhaps elsewhere, may help.
    pub(super) fn passes(&self) -> bool {
        matches!(self.outcome, Outcome::NotSent | Outcome::Unknown)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = chain(&error);
        let outcome = match &error {
            Error::GRpcStatus(status) => of_status(status, &text),
            Error::TransportError(source) if is_connect(source) => Outcome::NotSent,
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::Utf8Error(_) | Error::InvalidMetadataValue(_) => {
                Outcome::Refused
            }
            _ => Outcome::Unknown,
        };
        let connection = matches!(outcome, Outcome::NotSent | Outcome::Unknown);
        let outcome = if connection && tells_of_certificates(&text) { Outcome::Certificate } else { outcome };
        Self { outcome, text }
    }
}

fn of_status(status: &tonic::Status, text: &str) -> Outcome {
    if is_connect(status) {
        return Outcome::NotSent;
    }
    match status.code() {
        Code::ResourceExhausted if text.contains("space exceeded") => Outcome::NoSpace,
        Code::OutOfRange if text.contains("compacted") => Outcome::Compacted,
        // A token made before users or roles were changed; the next connection fetches another.
        Code::InvalidArgument if text.contains("auth store is old") => Outcome::NotSent,
        Code::Unauthenticated => Outcome::Denied,
        Code::PermissionDenied => Outcome::Denied,
        Code::InvalidArgument if text.contains("authentication failed") || text.contains("user name is empty") => {
            Outcome::Denied
        }
        Code::FailedPrecondition if text.contains("authentication is not enabled") => Outcome::Denied,
        // Too many requests at a time: they were not even begun.
        Code::ResourceExhausted if text.contains("too many requests") => Outcome::NotSent,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::NotFound
        | Code::Unimplemented => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

fn is_connect(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}

/// rustls names what is wrong with the other side's certificate, and an alert from the other side what is wrong with ours.
fn tells_of_certificates(text: &str) -> bool {
    text.contains("ertificate") || text.contains("received fatal alert")
}

/// An error with its causes; etcd-client hides the cause of a failed connection behind "transport error".
fn chain(error: &Error) -> String {
    let inner: &(dyn std::error::Error + 'static) = match error {
        Error::GRpcStatus(status) => status,
        Error::TransportError(source) => source,
        other => return other.to_string(),
    };
    let first = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        _ => inner.to_string(),
    };
    let mut text = first;
    for cause in std::iter::successors(inner.source(), |error| error.source()) {
        let cause = cause.to_string();
        if !cause.is_empty() && !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
