//! Health: four states, and the parts from which an instance's effective health is derived.
//!
//! Health is never stored as one field. What the source declared or reported, each check's result, a drain and the
//! session's state are separate records with separate writers; the replica takes the worst of them. So registering
//! again does not undo a check's verdict, and a check does not undo a drain.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of an instance, or of one part of it; greater is worse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Health {
    /// Works. Answered by DNS.
    #[default]
    Passing,
    /// Works, with something to look at. Answered by DNS.
    Warning,
    /// Nobody has said yet. Answered by DNS only where the service's `answerUnknown` says so.
    Unknown,
    /// Does not work. Not answered.
    Critical,
}

impl Health {
    /// All states, best first.
    pub const ALL: [Health; 4] = [Health::Passing, Health::Warning, Health::Unknown, Health::Critical];

    /// The state's name in requests and replies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Health::Passing => "passing",
            Health::Warning => "warning",
            Health::Unknown => "unknown",
            Health::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not a health state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a health: write `passing`, `warning`, `unknown` or `critical`")]
pub struct ParseHealthError(String);

impl std::str::FromStr for Health {
    type Err = ParseHealthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|health| health.as_str() == text)
            .ok_or_else(|| ParseHealthError(text.chars().take(32).collect()))
    }
}

/// The state of a session, as far as its instances are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SessionState {
    /// Renewed in time.
    Alive,
    /// Overdue, but held: so many are overdue at once that the fault is likely ours. Still answered.
    Suspect,
    /// Overdue; its instances are critical until it comes back or its grace ends.
    Expired,
}

/// What one part says, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartState {
    /// The part's own verdict.
    pub health: Health,
    /// Why, in the words of whoever wrote the part; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Since when, of checks and drains, where that was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub since: Option<Timestamp>,
}

/// The parts behind an instance's effective health. Absent parts say nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthParts {
    /// From the instance's conditions: `critical` while `ready` is false and the service does not publish such instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<PartState>,
    /// What the source reported last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<PartState>,
    /// Each declared check's last verdict, by the check's name; `unknown` until it has run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, PartState>,
    /// Present while the instance is drained (`critical`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<PartState>,
    /// From the session that the instance hangs on: `critical` once it has expired, `warning` while it is held as suspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<PartState>,
}

impl HealthParts {
    /// The worst of all parts; `passing` where none says anything.
    pub fn effective(&self) -> Health {
        [&self.conditions, &self.reported, &self.drain, &self.session]
            .into_iter()
            .flatten()
            .chain(self.checks.values())
            .map(|part| part.health)
            .max()
            .unwrap_or_default()
    }
}
