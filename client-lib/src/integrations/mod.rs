//! Subscriptions and balancers in the terms of other libraries. Each is behind a feature of its own.

#[cfg(feature = "connect")]
pub mod connect;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "tower")]
pub mod tower;
