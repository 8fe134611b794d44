//! What Fingerpost knows, and how it is kept in memory.
//!
//! This crate holds the domain: namespaces, services, instances and the separately written parts of an instance's
//! health; label selectors; the [`Record`]s that a store keeps and the [`ChangeSet`]s that it emits; and the
//! [`Replica`], which is built only from those changes and from which every reader is served. It does no I/O and knows
//! no async runtime, so that the registry, the DNS server, the node agent and the client library run the very same code.
//!
//! The way of the data: a store commits operations on records and emits change sets; [`Replica::apply`] takes one in
//! and returns the [`Effects`] on the merged view; observers (the DNS index, watch streams) follow the effects.

mod check;
pub mod document;
mod health;
mod labels;
mod limits;
mod name;
mod object;
mod position;
mod record;
mod replica;
mod selector;
mod source;
mod time;
mod view;

pub use check::{Check, CheckMethod, CheckPort, CheckTls, CheckType};
pub use health::{Health, HealthParts, PartState, SessionState};
pub use labels::{LabelError, Labels, MAX_LABELS};
pub use limits::{MAX_ADDRESSES, MAX_PORT_NAME, MAX_PORTS, MAX_TTL, address_fault};
pub use name::{NameError, validate_dns_label, validate_domain_name, validate_instance_id, validate_text};
pub use object::{
    AllCritical, Attachment, CheckResult, Conditions, Drain, Instance, Mark, Namespace, Pod, Port, Protocol, Report,
    Service, ServiceType, Session,
};
pub use position::{Epoch, ParsePositionError, Position};
pub use record::{Change, ChangeSet, DecodeError, InstanceKey, Key, Kind, Record};
pub use replica::{
    CheckedInstance, HealthSet, InstanceQuery, NamespaceQuery, Page, ParseHealthSetError, Replica, ReplicaStats,
    ServiceQuery, SessionQuery, SessionStats, SessionView, SourceStats,
};
pub use selector::{Operator, ParseSelectorError, Requirement, Selector};
pub use source::{ParseSourceError, Rank, Source, SourceKind};
pub use time::{ParseTimestampError, Timestamp};
pub use view::{Effects, InstanceView, NamespaceView, ServiceView, SessionChange, ViewChange};
