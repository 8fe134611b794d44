//! reg
pub mod store;
