//! The objects that sources declare, as they are stored: without identity (that is the record's [`Key`](crate::Key))
//! and without anything derived.

use crate::check::Check;
use crate::health::{Health, SessionState};
use crate::labels::Labels;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// A source's declaration of a namespace.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespace {
    /// What users select it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// How a service is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServiceType {
    /// Its name answers with the addresses of its instances.
    #[default]
    Headless,
    /// Its name answers with its own addresses, whatever its instances do.
    ClusterIP,
    /// Its name is an alias (CNAME) of a name elsewhere.
    ExternalName,
}

/// A port's transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The label that stands for it in SRV names, without the underscore.
    pub const fn dns_label(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A port of a service or of an instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Port {
    /// A DNS label; empty for the unnamed port, which has no SRV name of its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// 1 to 65535.
    pub port: u16,
    /// Default: TCP.
    #[serde(default)]
    pub protocol: Protocol,
    /// What is spoken there (`http`, `kubernetes.io/h2c`); services only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// What DNS and lists do while every instance of a service is critical.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AllCritical {
    /// Answer none of them.
    #[default]
    None,
    /// Answer all of them (but the drained): more likely the check is wrong than everything is down.
    All,
}

/// A source's declaration of a service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// How it is reached.
    #[serde(rename = "type", default)]
    pub service_type: ServiceType,
    /// `ClusterIP` only: its own addresses.
    #[serde(rename = "clusterIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// `ExternalName` only: the name that it is an alias of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// What users select it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its ports. For a headless service they are what instances without ports of their own have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// How long answers may be kept, in seconds; absent: the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Instances that are not ready are answered, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publish_not_ready: bool,
    /// Instances whose health is `unknown` are answered, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answer_unknown: bool,
    /// What to do while all instances are critical.
    #[serde(default)]
    pub all_critical: AllCritical,
    /// What is run on each of its instances, whoever declared them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The readiness that a source declares, with the meaning of Kubernetes' endpoint conditions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Conditions {
    /// Can take requests. Absent means yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Would be ready, were it not terminating.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Is on its way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

impl Conditions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The pod behind an instance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pod {
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The network attachment from which a CNI record comes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attachment {
    /// The CNI network's name.
    pub network: String,
    /// The sandbox's id.
    pub container_id: String,
    /// The interface in the sandbox.
    pub interface: String,
}

/// A source's declaration of an instance.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Where it is reached: v4 and v6 of one endpoint together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its own ports; where empty, the service's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What users select it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its share of the load, beside its siblings'. Absent: an equal share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The zone it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its label in DNS; absent: the id where that is a DNS label, else the dashed address. Where Kubernetes or a CNI
    /// plugin declares it, never the id, but the pod's name where DNS is set to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Declared readiness.
    #[serde(default, skip_serializing_if = "Conditions::is_empty")]
    pub conditions: Conditions,
    /// The pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The attachment it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The session it hangs on: when that ends, so does the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What is run on it beside its service's checks, of which those of the same name are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// What its source reported of its health last; absent, it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The health that an instance's source reported last. It has the same writer as the instance's declaration, so it is
/// kept in the same record.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it said.
    pub health: Health,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The verdict of one check on an instance; only transitions are stored. It counts while the check is declared.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// The verdict; `unknown` until the check has run.
    pub health: Health,
    /// What the check saw when it came to its verdict, or has seen since.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// When it came to it, in milliseconds since 1970 (UTC); 0 where that was not noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// Counts reports to a TTL check that were noted in the store because the replica that keeps its deadline could not
    /// be reached.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reports: u64,
    /// When the note was written, in milliseconds since 1970 (UTC), where that was later than the verdict.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub noted: u64,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A drain: while it stands, the instance is listed but not answered.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Since when, in milliseconds since 1970 (UTC); 0 where that was not noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The liveness of a writer, on which any number of instances hang.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// What its owner calls it.
    #[serde(default)]
    pub name: String,
    /// The source that made it; instances of no other may hang on it.
    pub source: crate::Source,
    /// Who made it, by the name of its token; only they (and administrators) may renew and end it. Absent: made where
    /// there was no access control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Seconds without a renewal after which it is overdue.
    pub ttl_seconds: u32,
    /// Seconds after expiry until its instances are removed.
    pub grace_seconds: u32,
    /// Where it stands.
    pub state: SessionState,
    /// When it came to that state, in milliseconds since 1970 (UTC); 0 where that was not noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// Counts renewals that were noted in the store because the replica that keeps the deadline could not be reached.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub renewals: u64,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// When a source was last heard, so that what it declared can be told for orphaned if it never comes back. Written now
/// and then, not at every word.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// In milliseconds since 1970 (UTC), by the clock of the replica that heard it.
    pub seen: u64,
    /// Since when all that it has is here, by the same clock: what is missing since then does not exist. 0 where that was
    /// never said.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub complete: u64,
    /// Of what that is all, in the source's own words: one that is to say more, or other things, is not complete with that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub complete_of: String,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}
