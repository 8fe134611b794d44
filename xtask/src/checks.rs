//! Lints and tests.

use crate::run::{self, Checked};
use crate::{crates, peers};
use anyhow::Result;

/// Everything that can be said about the code without running it.
pub(crate) fn lint() -> Result<()> {
    run::cargo(["fmt", "--all", "--check"])?;
    run::cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    for package in crates::ALL {
        run::cargo(["check", "--package", package, "--locked"])?;
    }
    run::command("cargo")
        .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .checked()?;
    // The fuzz targets are a workspace of their own; they must not rot.
    run::cargo(["check", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz", "--locked"])?;
    let deny = peers::cargo_deny()?;
    // The advisories need a database from the internet; bans, licences and sources do not.
    run::command(deny).args(["--workspace", "check", "bans", "licenses", "sources"]).checked()
}

/// All tests. The whole-system tests drive the release binary, so it is built first.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    let peers = peers::for_tests()?;
    run::cargo(["build", "--release", "--package", "fingerpost", "--locked"])?;
    run::command("cargo")
        .args(["test", "--workspace", "--locked"])
        .args(arguments)
        .envs(peers.environment())
        .env("FINGERPOST_BIN", run::root().join("target/release/fingerpost"))
        .checked()
}

/// The torture for longer than the tests have it.
pub(crate) fn torture(minutes: u64, seed: Option<u64>) -> Result<()> {
    let peers = peers::for_tests()?;
    run::cargo(["build", "--release", "--package", "fingerpost", "--locked"])?;
    let mut command = run::command("cargo");
    command
        .args(["test", "--package", "fingerpost-tests", "--test", "torture", "--locked", "--", "--nocapture"])
        .envs(peers.environment())
        .env("FINGERPOST_BIN", run::root().join("target/release/fingerpost"))
        .env("FINGERPOST_TORTURE_SECONDS", (minutes * 60).to_string());
    if let Some(seed) = seed {
        command.env("FINGERPOST_TORTURE_SEED", seed.to_string());
    }
    command.checked()
}

/// What the client library promises is what its users build on; a break of it needs another major version.
pub(crate) fn semver(since: &str) -> Result<()> {
    let program = peers::cargo_semver_checks()?;
    run::command(program)
        .args(["semver-checks", "--package", "fingerpost-client", "--all-features", "--baseline-rev", since])
        .checked()
}
