//! The chained CNI plugin `fingerpost-cni`, and what it shares with the node agent.
//!
//! A container runtime starts the plugin for every interface of every pod, after the plugins that made the interface. It
//! tells the node agent over a unix socket which addresses the pod got, and prints the result that it was given. All that
//! takes longer than a round trip over that socket is the agent's.
//!
//! The rules are those of the CNI specification 1.1.0 (`containernetworking/cni`, `SPEC.md`), whose sections are named
//! where they apply. An intent (what the runtime asked for) is [told to the agent](agent), or laid into the [`spool`]
//! where there is none.

pub mod addresses;
pub mod agent;
pub mod config;
pub mod environment;
pub mod error;
pub mod intent;
pub mod plugin;
pub mod result;
pub mod settings;
pub mod spool;
pub mod time;
pub mod version;
