//! Fingerpost's DNS server: authoritative for the cluster's zone and its reverse zones.
//!
//! Answers are compiled when the catalog changes ([`Index`]), not when a query comes: a query costs a parse, a lookup
//! and a copy ([`Answerer`]). Names of others are asked for where that is wanted ([`forward`]). [`Server`] puts that behind
//! UDP and TCP sockets. [`explain`] says why a name answers as it does, [`query`] asks any name server, for the command
//! line, and [`compare`] compares the answers of two.

mod answer;
mod client;
pub mod compare;
mod compile;
mod config;
mod dense;
mod encode;
pub mod explain;
mod extended;
pub mod forward;
mod index;
mod interfaces;
mod known;
mod label;
mod message;
mod metrics;
mod name;
mod node;
mod pods;
pub mod query;
mod querylog;
mod record;
mod server;
mod set;
mod table;
mod tcp;
mod udp;
mod view;
mod zones;

pub use answer::{Answerer, MAX_CHAIN, Transport, Verdict};
pub use config::{Config, ConfigError, EndpointNames, MAX_ALIASES, ParseZoneError, Pods, Zone};
pub use index::{Index, IndexStats};
pub use label::Endpoint;
pub use metrics::{Counters, Metrics};
pub use name::dashed;
pub use querylog::{LogTarget, QueryLog};
pub use server::{BindError, Limits, Listen, Server};
