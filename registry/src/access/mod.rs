//! Who calls, and what they may do.
//!
//! Every request has a [`Caller`] in its extensions: the anonymous administrator where the server runs without access
//! control (on loopback, or with `--insecure`), else whom its token or certificate names.

use fingerpost_catalog::Source;
use std::sync::Arc;

/// Who makes a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The token's or certificate's name; not secret.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
}

/// What a caller may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// Read everything.
    Reader,
    /// Read everything, and write as certain sources in certain namespaces.
    Registrar {
        /// The sources that it may act as; `api/*` and the like stand for all that begin so.
        sources: Arc<[Box<str>]>,
        /// The namespaces that it may write in; empty: all.
        namespaces: Arc<[Box<str>]>,
    },
    /// Everything, as any source.
    Admin,
    /// Another replica of this registry.
    Peer,
}

impl Caller {
    /// The caller where there is no access control.
    pub fn anonymous() -> Self {
        Self { name: "anonymous".into(), role: Role::Admin }
    }

    /// Whether it may write in the name of a source.
    pub fn may_act_as(&self, source: &Source) -> bool {
        match &self.role {
            Role::Reader | Role::Peer => false,
            Role::Admin => true,
            Role::Registrar { sources, .. } => sources.iter().any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => source.as_str().starts_with(prefix),
                None => source.as_str() == &**allowed,
            }),
        }
    }

    /// Whether it may write in a namespace.
    pub fn may_write_in(&self, namespace: &str) -> bool {
        match &self.role {
            Role::Reader | Role::Peer => false,
            Role::Admin => true,
            Role::Registrar { namespaces, .. } => {
                namespaces.is_empty() || namespaces.iter().any(|allowed| **allowed == *namespace)
            }
        }
    }
}
