//! `cargo xtask`: everything that is done with this repository besides building it.
//!
//! The same commands serve a developer, CI and a fresh machine, so each installs what it needs first.

mod checks;
mod crates;
mod peers;
mod run;

use crate::run::Checked;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, tests, lints and benchmarks of Fingerpost")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install or build what tests and lints need (and, with --bench, what benchmarks compare with).
    Setup {
        /// Also the peers of the benchmarks: r-nacos, CoreDNS, Knot, dnsperf.
        #[arg(long)]
        bench: bool,
    },
    /// Run all tests: units, properties, the store's suite, whole-system tests of the release binary.
    Test {
        /// Passed on to `cargo test` (a filter, `-- --nocapture`, …).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Formatting, clippy, documentation, each crate alone, dependencies.
    Lint,
    /// What CI runs: lints, then tests.
    Ci,
    /// Run a benchmark beside its peers: registry, watch, client, catalog, dns, forward, etcd, visible,
    /// sessions, kubernetes, or all.
    Bench {
        /// Which one.
        name: String,
        /// Passed on to the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a Kubernetes API server with a few objects, to try Fingerpost with; its kubeconfig is target/kubeconfig.
    Cluster,
    /// Kill, stop, cut and compact under load, and judge what clients saw.
    Torture {
        /// For how many minutes.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Where all chance comes from; a run says its own.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Whether the client library still keeps what a released version promised (builds cargo-semver-checks, if need be).
    Semver {
        /// The released version to compare with: a tag or commit.
        #[arg(long)]
        since: String,
    },
    /// Run a fuzz target for a while (needs a nightly toolchain and cargo-fuzz).
    Fuzz {
        /// The target in fuzz/.
        target: String,
        /// For how many seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Task::Setup { bench } => {
            peers::for_tests()?;
            if bench {
                peers::for_benchmark("all")?;
            }
            Ok(())
        }
        Task::Test { arguments } => checks::test(&arguments),
        Task::Lint => checks::lint(),
        Task::Ci => {
            checks::lint()?;
            checks::test(&[])
        }
        Task::Bench { name, arguments } => bench(&name, &arguments),
        Task::Cluster => run::command("cargo")
            .args(["run", "--quiet", "--package", "fingerpost-tests", "--example", "cluster"])
            .envs(peers::for_tests()?.environment())
            .checked(),
        Task::Torture { minutes, seed } => checks::torture(minutes, seed),
        Task::Semver { since } => checks::semver(&since),
        Task::Fuzz { target, seconds } => run::command("cargo")
            .args(["+nightly", "fuzz", "run", &target, "--"])
            .arg(format!("-max_total_time={seconds}"))
            .checked(),
    }
}

fn bench(name: &str, arguments: &[String]) -> anyhow::Result<()> {
    if matches!(name, "catalog" | "all") {
        // It counts allocations, so it is a program of its own.
        run::command("cargo")
            .args(["run", "--release", "--package", "fingerpost-catalog", "--example", "million", "--"])
            .args(arguments.iter().filter(|_| name == "catalog"))
            .checked()?;
    }
    if matches!(name, "client" | "all") {
        // It counts allocations, too.
        run::cargo(["run", "--release", "--package", "fingerpost-client", "--example", "pick_speed"])?;
    }
    if name == "catalog" {
        return Ok(());
    }
    let peers = peers::for_benchmark(name)?;
    run::cargo(["build", "--release", "--package", "fingerpost", "--package", "fingerpost-bench"])?;
    run::command(run::root().join("target/release/fingerpost-bench"))
        .arg(name)
        .args(arguments)
        .envs(peers.environment())
        .checked()
}
