//! Whose object is meant: identities given in paths and bodies, checked, and the keys that they make.

use super::WriteError;
use crate::access::Acting;
use crate::validate::Invalid;
use fingerpost_catalog::document::InstanceDocument;
use fingerpost_catalog::{InstanceKey, Key, Source, validate_dns_label, validate_instance_id};
use std::sync::Arc;

/// Checks an identity given in the path and perhaps again in the body.
pub(super) fn same(field: &'static str, path: &str, body: Option<&String>) -> Result<(), Invalid> {
    match body {
        Some(body) if body != path => Err(Invalid::new(field, format!("`{body}` differs from `{path}` in the path"))),
        _ => Ok(()),
    }
}

pub(super) fn same_source(acting: &Source, body: Option<&Source>) -> Result<(), Invalid> {
    match body {
        Some(body) if body != acting => Err(Invalid::new(
            "/source",
            format!("`{body}` differs from the acting source `{acting}`; act as it with `?source={body}`"),
        )),
        _ => Ok(()),
    }
}

/// The key of a namespace's declaration, from a checked name in which the caller may write.
pub fn namespace_key(acting: &Acting, name: &str) -> Result<Key, WriteError> {
    validate_dns_label(name).map_err(|error| Invalid::new("/name", error))?;
    acting.check_namespace(name)?;
    Ok(Key::Namespace { name: Arc::from(name), source: acting.source().clone() })
}

/// The key of a service's declaration, from checked names in a namespace in which the caller may write.
pub fn service_key(acting: &Acting, namespace: &str, name: &str) -> Result<Key, WriteError> {
    validate_dns_label(namespace).map_err(|error| Invalid::new("/namespace", error))?;
    validate_dns_label(name).map_err(|error| Invalid::new("/name", error))?;
    acting.check_namespace(namespace)?;
    Ok(Key::Service { namespace: Arc::from(namespace), name: Arc::from(name), source: acting.source().clone() })
}

/// The key of an instance, from checked names in a namespace in which the caller may write.
pub fn instance_key(
    acting: &Acting,
    namespace: &str,
    service: Option<&str>,
    id: &str,
) -> Result<InstanceKey, WriteError> {
    validate_dns_label(namespace).map_err(|error| Invalid::new("/namespace", error))?;
    if let Some(service) = service {
        validate_dns_label(service).map_err(|error| Invalid::new("/service", error))?;
    }
    validate_instance_id(id).map_err(|error| Invalid::new("/id", error))?;
    acting.check_namespace(namespace)?;
    Ok(InstanceKey {
        namespace: Arc::from(namespace),
        service: service.map(Arc::from),
        source: acting.source().clone(),
        id: Arc::from(id),
    })
}

pub(super) fn described(key: &Key) -> String {
    match key {
        Key::Namespace { name, source } => format!("namespace `{name}` of source `{source}`"),
        Key::Service { namespace, name, source } => format!("service `{namespace}/{name}` of source `{source}`"),
        Key::Instance(key) | Key::Drain(key) | Key::Check { instance: key, .. } => match &key.service {
            Some(service) => {
                format!("instance `{}` of `{}/{service}` and source `{}`", key.id, key.namespace, key.source)
            }
            None => format!("instance `{}` of namespace `{}` and source `{}`", key.id, key.namespace, key.source),
        },
        Key::Session { id } => format!("session `{id}`"),
        Key::Mark { source } => format!("the mark of source `{source}`"),
    }
}

/// Whether a session could have this id: 32 hexadecimal digits, lower-case.
pub(crate) fn is_session_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn required<'a>(field: &'static str, value: Option<&'a String>) -> Result<&'a str, Invalid> {
    value.map(String::as_str).ok_or_else(|| Invalid::new(field, "is needed here"))
}

pub(super) fn document_key(acting: &Acting, document: &InstanceDocument) -> Result<InstanceKey, WriteError> {
    same_source(acting.source(), document.source.as_ref())?;
    let namespace = required("/namespace", document.namespace.as_ref())?;
    let id = required("/id", document.id.as_ref())?;
    instance_key(acting, namespace, document.service.as_deref(), id)
}

pub(super) fn check_instance_identity(key: &InstanceKey, document: &InstanceDocument) -> Result<(), Invalid> {
    same("/namespace", &key.namespace, document.namespace.as_ref())?;
    match (&key.service, &document.service) {
        (Some(path), body) => same("/service", path, body.as_ref())?,
        (None, Some(body)) => {
            return Err(Invalid::new("/service", format!("the path is of an instance of no service, not of `{body}`")));
        }
        (None, None) => {}
    }
    same("/id", &key.id, document.id.as_ref())?;
    same_source(&key.source, document.source.as_ref())
}
