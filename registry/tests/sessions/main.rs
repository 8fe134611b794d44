//! Sessions over a store in memory, on a clock that stands still unless all wait: expiry and return, protection, homes,
//! and the ways of a renewal.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod behind;
mod homes;
mod lives;
mod protection;
#[path = "../store_double/mod.rs"]
mod store_double;
mod world;
