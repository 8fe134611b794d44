//! What goes wrong between this listener and the API server, in words that say the way out.

use crate::objects::Resources;
use kube::runtime::watcher;
use std::fmt;
use std::time::Duration;

/// Why a kind of object can't be followed at the moment, in one word; the label of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// No connection.
    Unreachable,
    /// A connection, but not to whom it should be: certificates.
    Untrusted,
    /// The server does not know the caller (401).
    Unauthorized,
    /// The caller may not (403).
    Forbidden,
    /// There is no such resource (404): the server is too old, or no Kubernetes.
    NotFound,
    /// What was asked for is no longer kept (410): everything is listed again.
    Gone,
    /// The server is asked too much, or fails (429, 5xx).
    Server,
    /// An answer that can't be read.
    Unreadable,
    /// Nothing came for so long that the connection is taken for dead.
    Silent,
    /// Anything else.
    Other,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Untrusted,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::Gone,
        Self::Server,
        Self::Unreadable,
        Self::Silent,
        Self::Other,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Server => "server",
            Self::Unreadable => "unreadable",
            Self::Silent => "silent",
            Self::Other => "other",
        })
    }
}

/// A fault, with a reason for machines and a message for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Trouble {
    /// In one word.
    pub reason: Reason,
    /// In a sentence.
    pub message: String,
}

impl Trouble {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A fault of a stream of objects.
    pub(crate) fn of_watch(resources: Resources, error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error) => Self::of_call(resources, "list", error),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::of_call(resources, "watch", error)
            }
            watcher::Error::WatchError(status) => Self::of_status(resources, "watch", status.code, &status.message),
            watcher::Error::NoResourceVersion => {
                Self::new(Reason::Unreadable, format!("the list of {} says no version", resources.plural()))
            }
        }
    }

    /// A streamed list that ended before it was complete.
    pub(crate) fn broken_off(resources: Resources) -> Self {
        let plural = resources.plural();
        Self::new(Reason::Silent, format!("the list of {plural} ends before it is complete; it is asked for in pages"))
    }

    /// A list that was to confirm what another one said, and did not come.
    pub(crate) fn unconfirmed(resources: Resources, within: Duration) -> Self {
        let (plural, within) = (resources.plural(), within.as_secs_f32());
        let message = format!(
            "the list of {plural} that is to confirm removals did not come within {within} s; until one does, nothing is removed"
        );
        Self::new(Reason::Silent, message)
    }

    /// A fault of one call.
    pub(crate) fn of_call(resources: Resources, verb: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(resources, verb, status.code, &status.message),
            kube::Error::SerdeError(error) => Self::new(
                Reason::Unreadable,
                format!("what the API server says of {} can't be read: {error}", resources.plural()),
            ),
            kube::Error::Auth(error) => {
                Self::new(Reason::Unauthorized, format!("the credentials for the API server can't be used: {error}"))
            }
            other => {
                let root = root_cause(other);
                let said = root.to_ascii_lowercase();
                let reason = match () {
                    () if said.contains("certificate") || said.contains("unknownissuer") => Reason::Untrusted,
                    () if said.contains("timed out") || said.contains("deadline") => Reason::Silent,
                    () => Reason::Unreachable,
                };
                let message = match reason {
                    Reason::Untrusted => format!(
                        "the API server's certificate can't be trusted: {root}; its CA is the one in the kubeconfig, or in \
                         the service account's ca.crt"
                    ),
                    Reason::Silent => format!("the API server says nothing: {root}"),
                    _ => format!("can't reach the API server: {root}"),
                };
                Self::new(reason, message)
            }
        }
    }

    fn of_status(resources: Resources, verb: &str, code: u16, message: &str) -> Self {
        let (plural, group) = (resources.plural(), resources.group());
        match code {
            401 => Self::new(
                Reason::Unauthorized,
                format!("the API server does not know who calls ({message}); look at the token or certificate"),
            ),
            403 => Self::new(
                Reason::Forbidden,
                format!(
                    "may not {verb} {plural}: a ClusterRole bound to this account needs the rule {{apiGroups: [\"{group}\"], \
                     resources: [\"{plural}\"], verbs: [\"list\", \"watch\"]}} (the API server says: {message})"
                ),
            ),
            404 => Self::new(
                Reason::NotFound,
                format!("the API server has no {plural} of {}: {message}", if group.is_empty() { "v1" } else { group }),
            ),
            410 => Self::new(Reason::Gone, format!("the version of {plural} is no longer kept; they are listed again")),
            429 | 500.. => Self::new(Reason::Server, format!("the API server fails with {code}: {message}")),
            _ => Self::new(Reason::Other, format!("can't {verb} {plural}: {code} {message}")),
        }
    }
}

/// The innermost cause that says anything: the outer ones only say that a call failed.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    let mut said = error.to_string();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !text.is_empty() {
            said = text;
        }
        cause = inner.source();
    }
    said
}

/// Whether a server can't stream its lists, by what it says to such a request: it has no `WatchList`, or has it off.
pub(crate) fn cannot_stream_lists(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 400 | 422) || status.message.contains("sendInitialEvents")
        }
        watcher::Error::WatchError(status) => status.message.contains("sendInitialEvents"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_rule() {
        let trouble = Trouble::of_status(Resources::EndpointSlices, "watch", 403, "forbidden");
        assert_eq!(trouble.reason, Reason::Forbidden);
        for part in ["endpointslices", "watch", "discovery.k8s.io", "ClusterRole"] {
            assert!(trouble.message.contains(part), "{part} in {trouble}");
        }
    }
}
