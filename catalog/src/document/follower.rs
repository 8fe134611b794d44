//! The documents of followers: who shows what the registry says, up to where, and whether a write is visible everywhere.

use crate::Position;
use serde::{Deserialize, Serialize};

/// What a follower says of itself: which position it shows. Said at once when that changes, and else every few seconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FollowerReport {
    /// What it is, as in `dns`: a DNS label.
    pub kind: String,
    /// The version that it runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Another one after each of its starts: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    pub run: String,
    /// Counts the reports of this run, so that one that was held up on its way is passed over.
    pub sequence: u64,
    /// The position that it shows; absent where it leaves, and shows nothing any more.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// The reply to a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FollowerReceipt {
    /// After so many seconds without news the next report is due.
    pub report_seconds: u64,
    /// A follower that has been silent for so many seconds has departed: nobody waits for it.
    pub silent_seconds: u64,
    /// At least so many milliseconds should lie between two reports, however fast positions come: the more followers there
    /// are, the more.
    pub spacing_milliseconds: u64,
}

/// A follower as the registry knows it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FollowerDocument {
    /// Its id.
    pub id: String,
    /// What it is: `dns`, or what it says of itself; of a replica of the registry, `replica`.
    pub kind: String,
    /// The version that it runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The position that it was last known to show; absent where that is not known.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Position>,
    /// How many positions it is behind; absent where it shows another history, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// How long ago it was heard, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<f64>,
    /// The replica that hears it; absent where that is the one that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// Whether it has been silent for so long that nobody waits for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub departed: bool,
    /// Why it can't be said what it shows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How far a write is visible; part of the reply to one that waited for that (`?wait=visible`).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VisibilityDocument {
    /// Whether all replicas and all followers that are there show it.
    pub visible: bool,
    /// Those that did not in time.
    pub lagging: Vec<FollowerDocument>,
    /// Those that fell silent within the last ten minutes, and that nobody waits for.
    pub departed: Vec<FollowerDocument>,
}
