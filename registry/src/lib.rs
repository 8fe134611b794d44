//! The registry: every write goes to the [`store`] and comes back as a change; the [`live`] replica follows; [`api`]
//! serves reads from it, [`watch`] streams its changes, and [`writes`] turns documents into commits.

pub mod access;
pub mod api;
pub mod checks;
pub mod followers;
pub mod live;
pub mod members;
pub mod peers;
pub mod server;
pub mod sessions;
pub mod sources;
pub mod store;
pub mod validate;
pub mod watch;
pub mod writes;
