//! Talking to a Fingerpost registry from Rust.
//!
//! [`Registry`] is what writers and readers of the registry are written against: it speaks of the catalog's own types
//! and knows nothing of HTTP or JSON, so that a part which runs inside the registry's process and one which runs on
//! another machine are the same code. [`HttpRegistry`] is the implementation for the latter: a typed client of the REST
//! API with a timeout on every call, retries where repeating is safe, bounded replies, and watches that resume where
//! they were cut.
//!
//! ```no_run
//! use fingerpost_client::{Guard, HttpRegistry, Registry, catalog::{Source, document::InstanceDocument}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = HttpRegistry::connect("http://127.0.0.1:8053")?;
//! let instance = InstanceDocument {
//!     namespace: Some("prod".into()),
//!     service: Some("web".into()),
//!     id: Some("web-1".into()),
//!     addresses: vec!["10.0.0.1".parse()?],
//!     ..Default::default()
//! };
//! let written = registry.put_instance(&Source::api(), &instance, Guard::None).await?;
//! println!("registered at {}", written.revision);
//! # Ok(())
//! # }
//! ```

mod backoff;
pub mod balance;
#[cfg(feature = "blocking")]
pub mod blocking;
mod client;
mod endpoint;
mod error;
mod http;
mod integrations;
mod keeper;
mod paging;
mod register;
mod registry;
mod reporter;
mod request;
mod sse;
mod status;
mod subscribe;
mod target;

pub use client::{Client, ClientBuilder};
pub use endpoint::{Endpoint, EndpointKey, Endpoints, Freshness};
pub use error::Error;
pub use fingerpost_catalog as catalog;
pub use http::{HttpOptions, HttpRegistry, Token};
#[cfg(feature = "connect")]
pub use integrations::connect;
#[cfg(feature = "grpc")]
pub use integrations::grpc;
#[cfg(feature = "tower")]
pub use integrations::tower;
pub use keeper::{Keeper, KeeperOptions, Keeping};
pub use paging::{all_instances, all_namespaces, all_services};
pub use register::{HealthReport, Register, Registration, RegistrationState};
pub use registry::Registry;
pub use reporter::{Follower, Reported, Reporter};
pub use request::{
    BatchReply, Filter, Guard, ListRequest, Operation, ReplaceReply, SessionRequest, WatchEvent, WatchRequest, Written,
};
pub use sse::{SseError, SseEvent, SseParser};
pub use status::{
    AccessStatus, CatalogStatus, CheckStatus, DnsStatus, FollowingStatus, HealthCounts, ImportReply,
    KubernetesKindStatus, KubernetesStatus, MigrateReply, RemovedSource, ReplicaStatus, SessionsStatus, StatusDocument,
    StoreStatus, VersionDocument, WatchStatus,
};

pub use subscribe::{Change, Changes, ConnectionState, LiveBalancer, Subscription, Watch};
pub use target::Target;

/// What calls of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
