//! Records: what a store keeps under which key, and the changes that it emits.

use crate::object::{CheckResult, Drain, Instance, Mark, Namespace, Service, Session};
use crate::{Position, Source, validate_dns_label, validate_instance_id};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The kinds of object that users see.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Kind {
    /// A namespace.
    Namespace,
    /// A service, merged from all its declarations.
    Service,
    /// An instance.
    Instance,
}

/// The identity of one source's instance.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InstanceKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its service; none for a pod that belongs to no service.
    pub service: Option<Arc<str>>,
    /// Who declared it.
    pub source: Source,
    /// Its id among that source's instances of the service.
    pub id: Arc<str>,
}

/// The key of a record.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Key {
    /// A source's declaration of a namespace.
    Namespace {
        /// The namespace.
        name: Arc<str>,
        /// Who declared it.
        source: Source,
    },
    /// A source's declaration of a service.
    Service {
        /// The service's namespace.
        namespace: Arc<str>,
        /// The service.
        name: Arc<str>,
        /// Who declared it.
        source: Source,
    },
    /// A source's instance.
    Instance(InstanceKey),
    /// The verdict of one check on an instance.
    Check {
        /// The instance.
        instance: InstanceKey,
        /// The check's name, a DNS label.
        check: Arc<str>,
    },
    /// A drain of an instance.
    Drain(InstanceKey),
    /// A session.
    Session {
        /// Its id.
        id: Arc<str>,
    },
    /// When a source was last heard.
    Mark {
        /// Which source.
        source: Source,
    },
}

impl Key {
    /// The instance that the record is, or is a part of.
    pub fn instance(&self) -> Option<&InstanceKey> {
        match self {
            Key::Instance(key) | Key::Drain(key) | Key::Check { instance: key, .. } => Some(key),
            Key::Namespace { .. } | Key::Service { .. } | Key::Session { .. } | Key::Mark { .. } => None,
        }
    }
}

/// Sources stand in keys with ':' for their '/', so that a key has a fixed number of segments.
struct InKey<'a>(&'a Source);

impl fmt::Display for InKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str().split_once('/') {
            None => f.write_str(self.0.as_str()),
            Some((kind, rest)) => write!(f, "{kind}:{rest}"),
        }
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // '-' is no DNS label, so it can't be mistaken for a service.
        let service = self.service.as_deref().unwrap_or("-");
        write!(f, "{}/{service}/{}/{}", self.namespace, InKey(&self.source), self.id)
    }
}

/// The form in which stores keep keys: `instances/<namespace>/<service or ->/<source>/<id>` and the like, always parsed
/// back by [`FromStr`].
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Namespace { name, source } => write!(f, "namespaces/{name}/{}", InKey(source)),
            Key::Service { namespace, name, source } => write!(f, "services/{namespace}/{name}/{}", InKey(source)),
            Key::Instance(instance) => write!(f, "instances/{instance}"),
            Key::Check { instance, check } => write!(f, "checks/{instance}/{check}"),
            Key::Drain(instance) => write!(f, "drains/{instance}"),
            Key::Session { id } => write!(f, "sessions/{id}"),
            Key::Mark { source } => write!(f, "marks/{}", InKey(source)),
        }
    }
}

/// A stored key or value that this version can't read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The key has none of the known forms.
    #[error("`{0}` is not the key of a Fingerpost record")]
    Key(String),
    /// The value is not what its key promises.
    #[error("the value of `{key}` can't be read")]
    Value {
        /// Whose value.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl FromStr for Key {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_key(text).ok_or_else(|| DecodeError::Key(text.chars().take(512).collect()))
    }
}

fn parse_key(text: &str) -> Option<Key> {
    fn label(text: &str) -> Option<Arc<str>> {
        validate_dns_label(text).ok().map(|()| Arc::from(text))
    }
    fn id(text: &str) -> Option<Arc<str>> {
        validate_instance_id(text).ok().map(|()| Arc::from(text))
    }
    fn source(text: &str) -> Option<Source> {
        match text.split_once(':') {
            None => text.parse().ok(),
            Some((kind, rest)) => format!("{kind}/{rest}").parse().ok(),
        }
    }
    fn instance(parts: &[&str]) -> Option<InstanceKey> {
        let &[namespace, service, from, name] = parts else { return None };
        Some(InstanceKey {
            namespace: label(namespace)?,
            service: if service == "-" { None } else { Some(label(service)?) },
            source: source(from)?,
            id: id(name)?,
        })
    }
    // Seven segments would be one too many for every form.
    let parts: smallvec::SmallVec<[&str; 8]> = text.splitn(7, '/').collect();
    Some(match parts.as_slice() {
        &["namespaces", name, from] => Key::Namespace { name: label(name)?, source: source(from)? },
        &["services", namespace, name, from] => {
            Key::Service { namespace: label(namespace)?, name: label(name)?, source: source(from)? }
        }
        ["instances", rest @ ..] => Key::Instance(instance(rest)?),
        ["drains", rest @ ..] => Key::Drain(instance(rest)?),
        ["checks", rest @ .., check] => Key::Check { instance: instance(rest)?, check: label(check)? },
        &["sessions", name] => Key::Session { id: id(name)? },
        &["marks", from] => Key::Mark { source: source(from)? },
        _ => return None,
    })
}

/// The value of a record.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all records are instances, the largest of them")]
pub enum Record {
    /// A source's declaration of a namespace.
    Namespace(Namespace),
    /// A source's declaration of a service.
    Service(Service),
    /// A source's instance.
    Instance(Instance),
    /// The verdict of one check.
    Check(CheckResult),
    /// A drain.
    Drain(Drain),
    /// A session.
    Session(Session),
    /// When a source was last heard.
    Mark(Mark),
}

impl Record {
    /// Whether this value may stand under that key.
    pub fn fits(&self, key: &Key) -> bool {
        matches!(
            (self, key),
            (Record::Namespace(_), Key::Namespace { .. })
                | (Record::Service(_), Key::Service { .. })
                | (Record::Instance(_), Key::Instance(_))
                | (Record::Check(_), Key::Check { .. })
                | (Record::Drain(_), Key::Drain(_))
                | (Record::Session(_), Key::Session { .. })
                | (Record::Mark(_), Key::Mark { .. })
        )
    }

    /// The value as stores keep it: JSON, in which a newer version's additional fields survive.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        // Writing to a Vec can't fail, and none of the types has a map with keys that are not strings.
        let written = match self {
            Record::Namespace(value) => serde_json::to_writer(&mut out, value),
            Record::Service(value) => serde_json::to_writer(&mut out, value),
            Record::Instance(value) => serde_json::to_writer(&mut out, value),
            Record::Check(value) => serde_json::to_writer(&mut out, value),
            Record::Drain(value) => serde_json::to_writer(&mut out, value),
            Record::Session(value) => serde_json::to_writer(&mut out, value),
            Record::Mark(value) => serde_json::to_writer(&mut out, value),
        };
        debug_assert!(written.is_ok());
        out
    }

    /// Reads a stored value; its type follows from the key.
    pub fn decode(key: &Key, value: &[u8]) -> Result<Self, DecodeError> {
        let decoded = match key {
            Key::Namespace { .. } => serde_json::from_slice(value).map(Record::Namespace),
            Key::Service { .. } => serde_json::from_slice(value).map(Record::Service),
            Key::Instance(_) => serde_json::from_slice(value).map(Record::Instance),
            Key::Check { .. } => serde_json::from_slice(value).map(Record::Check),
            Key::Drain(_) => serde_json::from_slice(value).map(Record::Drain),
            Key::Session { .. } => serde_json::from_slice(value).map(Record::Session),
            Key::Mark { .. } => serde_json::from_slice(value).map(Record::Mark),
        };
        decoded.map_err(|source| DecodeError::Value { key: key.to_string(), source })
    }
}

/// One record put or removed.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Which record.
    pub key: Key,
    /// Its value now; none where it was removed. It fits the key.
    pub record: Option<Arc<Record>>,
}

/// All that one commit changed. Readers apply it whole or not at all.
#[derive(Clone, PartialEq, Debug)]
pub struct ChangeSet {
    /// The position that the commit made.
    pub position: Position,
    /// What changed, a key at most once.
    pub changes: Vec<Change>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_print_and_parse() {
        for text in [
            "namespaces/prod/api",
            "services/prod/web/kubernetes:main",
            "instances/prod/web/api:team/web-1",
            "instances/prod/-/cni:node-1/net:abc:eth0",
            "instances/prod/web/api/10.0.0.1:80",
            "checks/prod/web/api/web-1/http",
            "drains/prod/web/api/web-1",
            "sessions/0f3c",
            "marks/kubernetes:main",
        ] {
            assert_eq!(text.parse::<Key>().map(|key| key.to_string()).ok().as_deref(), Some(text));
        }
        for bad in [
            "",
            "x",
            "namespaces/Prod/api",
            "instances/a/b/c/d",
            "instances/a/b/api/d/e",
            "checks/a/b/api/d",
            "sessions/a/b",
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_survive() {
        let key: Key = "instances/prod/web/api/web-1".parse().unwrap();
        let stored = br#"{"addresses":["10.0.0.1"],"fromTheFuture":{"a":1}}"#;
        let record = Record::decode(&key, stored).unwrap();
        assert!(record.fits(&key));
        assert_eq!(record.encode(), stored);
    }
}
