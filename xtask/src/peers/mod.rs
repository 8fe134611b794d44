//! Other people's programs that tests and benchmarks run against, at pinned versions.
//!
//! What is built from source is kept outside `target/`, in the user's cache folder by name and version, so that a second
//! clone does not build it again. Debian's packages are installed with `apt-get` where that is possible.

mod go;

use crate::run::{self, Checked};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const RNACOS: &str = "0.8.8";
const CARGO_DENY: &str = "0.20.2";
const CARGO_SEMVER_CHECKS: &str = "0.46.0";

/// Where the peers are, by the environment variable that tells tests and benchmarks.
#[derive(Default)]
pub(crate) struct Peers(Vec<(&'static str, PathBuf)>);

impl Peers {
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        self.0.iter().map(|(name, path)| (*name, path))
    }
}

fn cache(name: &str, version: &str) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set, so there is no place for built peers")?;
    Ok(base.join("fingerpost/peers").join(format!("{name}-{version}")))
}

/// A program from Debian's packages.
fn debian(program: &str, package: &str) -> Result<()> {
    // Servers live in sbin folders, which not every PATH has.
    if run::has(program) || ["/usr/sbin", "/sbin"].iter().any(|folder| PathBuf::from(folder).join(program).is_file()) {
        return Ok(());
    }
    if !run::has("apt-get") {
        bail!("`{program}` is missing: install it (Debian calls the package `{package}`) and try again");
    }
    let apt =
        |arguments: &[&str]| run::command("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").checked();
    let installed = apt(&["install", "-y", "-qq", package]).or_else(|_| {
        apt(&["update", "-qq"])?;
        apt(&["install", "-y", "-qq", package])
    });
    installed
        .with_context(|| format!("`{program}` is missing and can't be installed; `apt-get install {package}` as root"))
}

fn crates_io(program: &'static str, version: &str) -> Result<PathBuf> {
    let folder = cache(program, version)?;
    let path = folder.join("bin").join(program);
    if !path.is_file() {
        run::command("cargo")
            .args(["install", program, "--locked", "--version", version, "--root"])
            .arg(&folder)
            // A build of its own: this workspace's settings are not its author's.
            .current_dir(std::env::temp_dir())
            .checked()?;
    }
    Ok(path)
}

/// The dependency checker of the lints.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    crates_io("cargo-deny", CARGO_DENY)
}

/// Finds what breaks users of a library.
pub(crate) fn cargo_semver_checks() -> Result<PathBuf> {
    crates_io("cargo-semver-checks", CARGO_SEMVER_CHECKS)
}

/// What tests run against.
pub(crate) fn for_tests() -> Result<Peers> {
    debian("dig", "bind9-dnsutils")?;
    debian("curl", "curl")?;
    debian("faketime", "faketime")?;
    debian("ldns-signzone", "ldnsutils")?;
    debian("python3", "python3")?;
    debian("unbound", "unbound")?;
    let (etcd, etcdctl) = go::etcd()?;
    Ok(Peers(vec![
        ("ETCD_BIN", etcd),
        ("ETCDCTL_BIN", etcdctl),
        ("KUBE_APISERVER_BIN", go::kube_apiserver()?),
        ("COREDNS_BIN", go::coredns()?),
    ]))
}

/// What a benchmark compares with, or needs; `all` for all of them.
pub(crate) fn for_benchmark(name: &str) -> Result<Peers> {
    let wanted = |names: &[&str]| name == "all" || names.contains(&name);
    let mut peers = Vec::new();
    if wanted(&["dns", "forward"]) {
        debian("dnsperf", "dnsperf")?;
        debian("knotd", "knot")?;
    }
    if wanted(&["dns", "forward", "kubernetes"]) {
        peers.push(("COREDNS_BIN", go::coredns()?));
    }
    if wanted(&["etcd", "visible", "sessions", "kubernetes"]) {
        let (etcd, etcdctl) = go::etcd()?;
        peers.extend([("ETCD_BIN", etcd), ("ETCDCTL_BIN", etcdctl)]);
    }
    if wanted(&["kubernetes"]) {
        peers.push(("KUBE_APISERVER_BIN", go::kube_apiserver()?));
    }
    if wanted(&["registry"]) {
        peers.push(("RNACOS_BIN", crates_io("rnacos", RNACOS)?));
    }
    Ok(Peers(peers))
}
