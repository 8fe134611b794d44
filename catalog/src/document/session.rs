//! The documents of sessions.

use crate::replica::SessionView;
use crate::{Epoch, Position, SessionState, Source};
use serde::{Deserialize, Serialize};

/// The TTL of a session that names none, in seconds.
pub const DEFAULT_SESSION_TTL: u32 = 15;
/// The grace of a session that names none, in seconds.
pub const DEFAULT_SESSION_GRACE: u32 = 60;

/// A session that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewSession {
    /// What its owner calls it; at most 253 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Seconds without a renewal after which it is overdue, 3 to 86400; default 15. Renew about every third of it.
    pub ttl_seconds: u32,
    /// Seconds after its expiry until its instances are removed, 0 to 86400; default 60. 0: at once.
    pub grace_seconds: u32,
}

impl Default for NewSession {
    fn default() -> Self {
        Self { name: String::new(), ttl_seconds: DEFAULT_SESSION_TTL, grace_seconds: DEFAULT_SESSION_GRACE }
    }
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionDocument {
    /// Its id, which instances name in their `session`.
    pub id: String,
    /// What its owner calls it.
    #[serde(default)]
    pub name: String,
    /// The source that made it; only its instances may hang on it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub source: Source,
    /// Who made it, where there is access control; only they and administrators may renew and end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Where it stands.
    pub state: SessionState,
    /// Since when, as RFC 3339 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Seconds without a renewal after which it is overdue.
    pub ttl_seconds: u32,
    /// Seconds after its expiry until its instances are removed.
    pub grace_seconds: u32,
    /// How many instances hang on it.
    #[serde(default)]
    pub instances: u64,
    /// The replica that keeps its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The position of its record's last change. Renewals change nothing.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub revision: Position,
}

impl SessionDocument {
    /// The reply for a view read in `epoch`.
    pub fn from_view(view: &SessionView, epoch: Epoch, since: Option<String>, home: Option<String>) -> Self {
        let session = &view.session;
        Self {
            id: view.id.to_string(),
            name: session.name.clone(),
            source: session.source.clone(),
            owner: session.owner.clone(),
            state: session.state,
            since,
            ttl_seconds: session.ttl_seconds,
            grace_seconds: session.grace_seconds,
            instances: view.instances as u64,
            home,
            revision: Position::new(epoch, view.revision),
        }
    }
}

/// The body of `POST /v1/sessions/renew`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewDocument {
    /// The sessions to renew, 1 to 1000.
    pub ids: Vec<String>,
}

/// What a renewal found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RenewalState {
    /// It was renewed in time.
    Alive,
    /// It was overdue and held; this renewal ends that.
    Suspect,
    /// It had expired; this renewal heals its instances.
    Restored,
    /// There is no such session of the caller's, or not any more: make a new one.
    Unknown,
}

/// What became of one session's renewal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Renewal {
    /// Which session.
    pub id: String,
    /// What the renewal found.
    pub state: RenewalState,
    /// Its TTL; 0 where it is unknown.
    #[serde(default)]
    pub ttl_seconds: u32,
}

/// The reply to `POST /v1/sessions/renew`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RenewalsDocument {
    /// In the order asked.
    pub items: Vec<Renewal>,
}

/// Whether sessions are being held that would have expired: so many at once that the fault is more likely the network's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProtectionDocument {
    /// Whether any is held.
    pub active: bool,
    /// How many are.
    pub held: u64,
    /// For how long, as the replica that replies has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
}

/// A page of the sessions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionListDocument {
    /// The position at which the page was read.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub revision: Position,
    /// Whether sessions are being held.
    #[serde(default)]
    pub protection: ProtectionDocument,
    /// The sessions, in the order of their ids.
    pub items: Vec<SessionDocument>,
    /// Present where there is more: pass it as `?continue=`.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub continue_token: Option<String>,
}

/// The reply to `DELETE /v1/sessions/{id}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionEndedDocument {
    /// How many instances went with it.
    pub instances: u64,
    /// The position after the last removal.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub revision: Position,
}
