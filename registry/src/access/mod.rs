//! Who calls, and what they may do.
//!
//! Every request has a [`Caller`] in its extensions: the anonymous administrator where the server runs without access
//! control (on loopback, or with `--insecure`), else whom its token or certificate names. The way there:
//!
//! - [`server`](crate::server) ends TLS ([`Tls`]) and notes who connected: the address, and the names in a client
//!   certificate that the client CA signed;
//! - one layer around all routes asks what the route [needs](routes::need), has the [`Authenticator`] name the caller, and
//!   refuses whom it does not suffice; what no rule names is for administrators alone;
//! - [`Acting`], without which no key of a record can be made, is only to be had from a caller who may act as that
//!   source, and says in which namespaces.
//!
//! Wrong tokens are answered ever more slowly ([`throttle`]). Tokens themselves are nowhere: the server knows their
//! hashes, and a request's token is gone before any handler sees the request.

pub mod grants;
pub(crate) mod layer;
pub mod reload;
pub mod routes;
pub mod subject;
pub mod throttle;
pub mod tls;
pub mod token;

pub use layer::{Access, Authenticator, Connection};
pub use tls::{Tls, TlsFiles};
pub use token::{Token, TokenHash};

use fingerpost_catalog::Source;
use std::fmt;
use std::sync::{Arc, LazyLock};

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

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reader => "reader",
            Self::Registrar { .. } => "registrar",
            Self::Admin => "admin",
            Self::Peer => "peer",
        })
    }
}

/// The caller may not do that. The message says what is missing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(String);

impl Caller {
    /// The caller where there is no access control.
    pub fn anonymous() -> Self {
        static ANONYMOUS: LazyLock<Arc<str>> = LazyLock::new(|| "anonymous".into());
        Self { name: Arc::clone(&ANONYMOUS), role: Role::Admin }
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

    /// The caller writing in the name of a source, if it may.
    pub fn act_as(&self, source: Source) -> Result<Acting, Forbidden> {
        if self.may_act_as(&source) {
            return Ok(Acting { source, caller: self.clone() });
        }
        Err(Forbidden(match &self.role {
            Role::Registrar { sources, .. } => format!(
                "`{}` may not act as `{source}`, only as {}; name the source with `?source=`",
                self.name,
                listed(sources)
            ),
            role => format!("`{}` has the role {role}, which may not write", self.name),
        }))
    }
}

fn listed(names: &[Box<str>]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A caller who writes in the name of a source that it may act as. Keys of records are made with it only, so that no
/// write can forget to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acting {
    source: Source,
    caller: Caller,
}

impl Acting {
    /// In whose name.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Who it is.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether it may write in a namespace.
    pub fn check_namespace(&self, namespace: &str) -> Result<(), Forbidden> {
        if self.caller.may_write_in(namespace) {
            return Ok(());
        }
        let Caller { name, role } = &self.caller;
        Err(Forbidden(match role {
            Role::Registrar { namespaces, .. } => {
                format!("`{name}` may not write in the namespace `{namespace}`, only in {}", listed(namespaces))
            }
            role => format!("`{name}` has the role {role}, which may not write"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registrar(sources: &[&str], namespaces: &[&str]) -> Caller {
        let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        Caller { name: "ci".into(), role: Role::Registrar { sources: boxed(sources), namespaces: boxed(namespaces) } }
    }

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn registrars_keep_to_their_sources() {
        let caller = registrar(&["api/ci", "cni/*"], &[]);
        for (text, may) in [
            ("api/ci", true),
            ("cni/node-1", true),
            ("api", false),
            ("api/ci2", false),
            ("api/c", false),
            ("kubernetes/default", false),
        ] {
            assert_eq!(caller.act_as(source(text)).is_ok(), may, "{text}");
        }
        let refusal = caller.act_as(Source::api()).unwrap_err().to_string();
        assert!(refusal.contains("`api/ci`, `cni/*`"), "{refusal}");
        let acting = caller.act_as(source("api/ci")).unwrap();
        assert!(acting.check_namespace("anything").is_ok(), "no namespaces named: all");
    }

    #[test]
    fn registrars_keep_to_their_namespaces() {
        let acting = registrar(&["api/ci"], &["prod", "test"]).act_as(source("api/ci")).unwrap();
        assert!(acting.check_namespace("prod").is_ok() && acting.check_namespace("test").is_ok());
        for other in ["", "pro", "prod2", "PROD"] {
            assert!(acting.check_namespace(other).is_err(), "{other}");
        }
    }

    #[test]
    fn readers_and_peers_never_write() {
        for role in [Role::Reader, Role::Peer] {
            let caller = Caller { name: "x".into(), role };
            assert!(caller.act_as(Source::api()).is_err() && !caller.may_write_in("default"));
        }
        assert!(Caller::anonymous().act_as(source("kubernetes/a")).is_ok());
    }
}
