//! Sessions over a store in memory, on a clock that stands still unless all wait: expiry and return, protection, homes,
//! and the ways of a renewal.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod homes;
mod lives;
mod memory;
mod protection;
mod world;
