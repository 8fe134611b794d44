//! Subscriptions: a service's endpoints in this process, always one consistent snapshot, kept up to date by one stream
//! for all subscriptions of a client, and remembered on disk for a start without a registry.
//!
//! [`view`] knows what one subscription knows, [`entry`] what of it is shown, [`follower`] keeps the stream, [`wire`] is
//! what it needs of a registry, [`core`] what handles and follower share, [`subscription`] is the handle.

mod cache;
mod core;
mod entry;
mod follower;
mod start;
mod subscription;
#[cfg(test)]
mod tests;
mod view;
pub(crate) mod wire;

pub use follower::ConnectionState;
pub(crate) use start::Subscriptions;
pub use start::Watch;
pub use subscription::{Change, Changes, LiveBalancer, Subscription};
