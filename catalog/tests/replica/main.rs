//! The replica against a model that does everything the slow and obvious way, over arbitrary histories.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

mod generate;
mod histories;
mod lists;
mod model;
mod reading;
mod semantics;
