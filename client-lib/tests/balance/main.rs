//! The balancer through its public interface, with a clock and random numbers that the tests hold.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to clippy")]

mod ejection;
mod fairness;
mod hashing;
mod latency;
mod panic;
mod properties;
mod slow_start;
mod threads;
mod world;
mod zones;
