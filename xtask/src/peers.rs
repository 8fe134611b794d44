//! Other people's programs that tests and benchmarks run against, at pinned versions.
//!
//! What is built from source is kept outside `target/`, in the user's cache folder by name and version, so that a second
//! clone does not build it again. Debian's packages are installed with `apt-get` where that is possible.

use crate::run::{self, Checked};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const COREDNS: &str = "1.15.0";
const RNACOS: &str = "0.8.8";
const CARGO_DENY: &str = "0.20.2";

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

fn go(program: &'static str, module: &str, version: &str) -> Result<PathBuf> {
    let folder = cache(program, version)?.join("bin");
    let path = folder.join(program);
    if !path.is_file() {
        run::command("go").args(["install", &format!("{module}@v{version}")]).env("GOBIN", &folder).checked()?;
    }
    Ok(path)
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

/// What tests run against.
pub(crate) fn for_tests() -> Result<Peers> {
    debian("dig", "bind9-dnsutils")?;
    debian("curl", "curl")?;
    Ok(Peers::default())
}

/// What benchmarks compare with.
pub(crate) fn for_benchmarks() -> Result<Peers> {
    debian("dnsperf", "dnsperf")?;
    debian("knotd", "knot")?;
    Ok(Peers(vec![
        ("RNACOS_BIN", crates_io("rnacos", RNACOS)?),
        ("COREDNS_BIN", go("coredns", "github.com/coredns/coredns", COREDNS)?),
    ]))
}
