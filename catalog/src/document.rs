//! The JSON documents of the REST API, shared by the server and its clients.
//!
//! One type serves both directions. What only replies carry (`revision`, `effectiveHealth`, `healthParts`, `shadowed`,
//! `sources`) is optional and ignored on writes, so that a reply can be edited and sent back. Identity may be left out
//! of a body where the path gives it.

mod follower;
mod session;

use crate::check::Check;
use crate::health::{Health, HealthParts};
use crate::labels::Labels;
use crate::object::{AllCritical, Attachment, Conditions, Instance, Pod, Port, Service, ServiceType};
use crate::record::{InstanceKey, Kind};
use crate::view::{InstanceView, NamespaceView, ServiceView};
use crate::{Epoch, Position, Source, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

pub use follower::{FollowerDocument, FollowerReceipt, FollowerReport, VisibilityDocument};
pub use session::{
    DEFAULT_SESSION_GRACE, DEFAULT_SESSION_TTL, NewSession, ProtectionDocument, RenewDocument, Renewal, RenewalState,
    RenewalsDocument, SessionDocument, SessionEndedDocument, SessionListDocument,
};

/// A namespace.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NamespaceDocument {
    /// Its name, a DNS label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What users select it by.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The acting source (in replies with `?view=sources`: whose declaration this is).
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Replies: who declares it, highest rank first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>, read_only))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Replies: the position of its declarations' last change; absent where nobody declares it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, read_only))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Position>,
}

/// A service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceDocument {
    /// Its namespace, a DNS label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name, a DNS label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it is reached; default `Headless`.
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    /// `ClusterIP` only: one address or more.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// `ExternalName` only: a domain name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// What users select it by.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// At most 100 ports, each with a name of its own (one may be unnamed where it is the only one).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// How long answers may be kept, in seconds, 0 to 86400; default: the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Answer instances that are not ready, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub publish_not_ready: bool,
    /// Answer instances whose health is `unknown`, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub answer_unknown: bool,
    /// What to answer while all instances are critical; default `none`.
    pub all_critical: AllCritical,
    /// At most 16 checks, which are run on each of its instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// The acting source (in replies with `?view=sources`: whose declaration this is).
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Replies: who declares it, highest rank first; empty where only its instances make it exist.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>, read_only))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Replies: the position of its declarations' last change; absent where nobody declares it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, read_only))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Position>,
}

/// An instance.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceDocument {
    /// Its namespace, a DNS label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its service, a DNS label; absent for an instance of no service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its id: 1 to 253 of `A-Z a-z 0-9 . _ : -`, unique among its source's instances of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Who declared it; on writes, the acting source.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// 1 to 16 addresses: v4 and v6 of one endpoint together.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its own ports; where empty, the service's apply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What users select it by.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its share of the load, 0 to 65535; absent: an equal share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The zone it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The node it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its label in DNS; absent: the id where that is a DNS label, else the dashed address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// On writes, what the writer reports; absent, the last report stays. In replies, the last report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Declared readiness.
    #[serde(skip_serializing_if = "Conditions::is_empty")]
    pub conditions: Conditions,
    /// The pod behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    /// The network attachment from which it comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// The session it hangs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// At most 16 checks, which are run beside its service's; one of the same name takes that one's place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Replies: the worst of `healthParts`.
    #[cfg_attr(feature = "openapi", schema(read_only))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_health: Option<Health>,
    /// Replies: what the effective health is derived from; absent where no part says anything.
    #[cfg_attr(feature = "openapi", schema(read_only))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_parts: Option<HealthParts>,
    /// Replies: addresses that a higher-ranked source speaks for.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>, read_only))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadowed: Vec<IpAddr>,
    /// Replies: the position of the last change of the instance or of a part of its health.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, read_only))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<Position>,
}

/// A source that holds something.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SourceDocument {
    /// Which source.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub source: Source,
    /// Namespaces that it declares.
    #[serde(default)]
    pub namespaces: u64,
    /// Services that it declares.
    #[serde(default)]
    pub services: u64,
    /// Its instances.
    #[serde(default)]
    pub instances: u64,
    /// Those of them that hang on no session.
    #[serde(default)]
    pub sessionless: u64,
    /// When it was last heard, to within an hour or so (RFC 3339); absent where that was never noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Whether it has been silent for so long that what it left counts as orphaned.
    #[serde(default)]
    pub orphaned: bool,
}

/// The body of `PUT …/health`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthDocument {
    /// What the source says of its instance.
    pub health: Health,
    /// Why; at most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Any object, told apart by `kind` beside it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "object", rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ObjectDocument {
    /// A namespace.
    Namespace(NamespaceDocument),
    /// A service.
    Service(ServiceDocument),
    /// An instance.
    Instance(Box<InstanceDocument>),
}

impl ObjectDocument {
    /// The kind of object.
    pub fn kind(&self) -> Kind {
        match self {
            ObjectDocument::Namespace(_) => Kind::Namespace,
            ObjectDocument::Service(_) => Kind::Service,
            ObjectDocument::Instance(_) => Kind::Instance,
        }
    }
}

/// A page of a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListDocument<T> {
    /// The position at which the page was read.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub revision: Position,
    /// The objects, in the order of their names.
    pub items: Vec<T>,
    /// Present where there is more: pass it as `?continue=`.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub continue_token: Option<String>,
    /// Present in a list of a service's instances while all of them are critical and its `allCritical` is `all`: DNS
    /// answers all but the drained then. The list itself, and a filter by health, keep to what is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub panic: bool,
}

/// A change of an instance's effective health.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TransitionDocument {
    /// When: as the part that changed has it, else when it was seen here.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    /// What it was.
    pub from: Health,
    /// What it is from then on.
    pub to: Health,
    /// Which part of the health changed, and its note.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// The latest changes of an instance's effective health.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryDocument {
    /// At most 10, the latest first, as far as the replica that was asked has seen them since it started.
    pub items: Vec<TransitionDocument>,
}

/// The body of `PUT …/drain`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainDocument {
    /// Why; at most 1024 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// An error, as RFC 9457 has it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemDocument {
    /// Names the kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong here, and the way out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The offending field of the body, as a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// The offending query parameter or header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// `unknown` where it can't be known whether a write was applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// What exists only through its content was never changed itself.
fn declared_at(revision: u64, epoch: Epoch) -> Option<Position> {
    (revision > 0).then(|| Position::new(epoch, revision))
}

/// Checks without fields of a newer version, as all documents are: else a reply could not be sent back.
pub fn known(checks: &[Check]) -> Vec<Check> {
    checks.iter().map(|check| Check { unknown: serde_json::Map::new(), ..check.clone() }).collect()
}

impl NamespaceDocument {
    /// The reply for a view read in `epoch`.
    pub fn from_view(view: &NamespaceView, epoch: Epoch) -> Self {
        Self {
            name: Some(view.name.to_string()),
            labels: view.labels.clone(),
            source: None,
            sources: view.sources.clone(),
            revision: declared_at(view.revision, epoch),
        }
    }
}

impl ServiceDocument {
    /// The reply for a view read in `epoch`.
    pub fn from_view(view: &ServiceView, epoch: Epoch) -> Self {
        Self {
            namespace: Some(view.namespace.to_string()),
            name: Some(view.name.to_string()),
            service_type: view.service_type,
            cluster_ips: view.cluster_ips.clone(),
            external_name: view.external_name.clone(),
            labels: view.labels.clone(),
            ports: view.ports.clone(),
            ttl: view.ttl,
            publish_not_ready: view.publish_not_ready,
            answer_unknown: view.answer_unknown,
            all_critical: view.all_critical,
            checks: known(&view.checks),
            source: None,
            sources: view.sources.clone(),
            revision: declared_at(view.revision, epoch),
        }
    }
}

impl ServiceDocument {
    /// One source's declaration, last changed at `revision`.
    pub fn of(namespace: &str, name: &str, source: Source, declared: Service, revision: Position) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            service_type: declared.service_type,
            cluster_ips: declared.cluster_ips,
            external_name: declared.external_name,
            labels: declared.labels,
            ports: declared.ports,
            ttl: declared.ttl,
            publish_not_ready: declared.publish_not_ready,
            answer_unknown: declared.answer_unknown,
            all_critical: declared.all_critical,
            checks: known(&declared.checks),
            source: Some(source),
            sources: Vec::new(),
            revision: Some(revision),
        }
    }
}

impl InstanceDocument {
    /// The document that would make this declaration, but for what was reported of its health.
    pub fn of(key: &InstanceKey, instance: &Instance) -> Self {
        Self {
            namespace: Some(key.namespace.to_string()),
            service: key.service.as_deref().map(str::to_owned),
            id: Some(key.id.to_string()),
            source: Some(key.source.clone()),
            addresses: instance.addresses.clone(),
            ports: instance.ports.clone(),
            labels: instance.labels.clone(),
            weight: instance.weight,
            zone: instance.zone.clone(),
            node: instance.node.clone(),
            hostname: instance.hostname.clone(),
            conditions: instance.conditions,
            pod: instance.pod.clone(),
            attachment: instance.attachment.clone(),
            session: instance.session.clone(),
            checks: known(&instance.checks),
            ..Self::default()
        }
    }

    /// The reply for a view read in `epoch`.
    pub fn from_view(view: &InstanceView, epoch: Epoch) -> Self {
        Self {
            health: Some(view.reported),
            effective_health: Some(view.effective),
            health_parts: (view.parts != HealthParts::default()).then(|| view.parts.clone()),
            shadowed: view.shadowed.clone(),
            revision: Some(Position::new(epoch, view.revision)),
            ..Self::of(&view.key, &view.instance)
        }
    }
}
