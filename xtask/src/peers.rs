//! Other people's programs that tests and benchmarks run against, at pinned versions.
//!
//! What is built from source is kept outside `target/`, in the user's cache folder by name and version, so that a second
//! clone does not build it again. Debian's packages are installed with `apt-get` where that is possible.

use crate::run::{self, Checked};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

const COREDNS: &str = "1.15.0";
const ETCD: &str = "3.6.8";
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

/// etcd, server and client. `go install` refuses its modules for their replace lines, so each is built from a module of
/// a few lines that requires them.
fn etcd() -> Result<(PathBuf, PathBuf)> {
    let folder = cache("etcd", ETCD)?;
    let server = etcd_program(&folder, "etcd", "go.etcd.io/etcd/server/v3", "etcdmain", "etcdmain.Main(os.Args)")?;
    let client = etcd_program(&folder, "etcdctl", "go.etcd.io/etcd/etcdctl/v3", "ctlv3", "ctlv3.MustStart()")?;
    Ok((server, client))
}

fn etcd_program(folder: &Path, program: &str, module: &str, package: &str, call: &str) -> Result<PathBuf> {
    let path = folder.join("bin").join(program);
    if path.is_file() {
        return Ok(path);
    }
    let source = folder.join("src").join(program);
    std::fs::create_dir_all(&source).with_context(|| format!("can't make {}", source.display()))?;
    let os = if call.contains("os.") { "import \"os\"\n" } else { "" };
    let main = format!("package main\n\nimport \"{module}/{package}\"\n{os}\nfunc main() {{ {call} }}\n");
    std::fs::write(source.join("main.go"), main)?;
    std::fs::write(source.join("go.mod"), format!("module {program}\n\ngo 1.24\n\nrequire {module} v{ETCD}\n"))?;
    let go = |arguments: &[&str]| run::command("go").current_dir(&source).args(arguments).checked();
    go(&["mod", "tidy"])?;
    // Under another name first: what is there is whole.
    let building = folder.join("bin").join(format!("{program}.new"));
    let output = building.display().to_string();
    go(&["build", "-trimpath", "-ldflags", "-s -w", "-o", &output, "."])?;
    std::fs::rename(&building, &path)?;
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
    debian("faketime", "faketime")?;
    let (etcd, etcdctl) = etcd()?;
    Ok(Peers(vec![("ETCD_BIN", etcd), ("ETCDCTL_BIN", etcdctl)]))
}

/// What a benchmark compares with, or needs; `all` for all of them.
pub(crate) fn for_benchmark(name: &str) -> Result<Peers> {
    let wanted = |names: &[&str]| name == "all" || names.contains(&name);
    let mut peers = Vec::new();
    if wanted(&["dns", "forward"]) {
        debian("dnsperf", "dnsperf")?;
        debian("knotd", "knot")?;
        peers.push(("COREDNS_BIN", go("coredns", "github.com/coredns/coredns", COREDNS)?));
    }
    if wanted(&["etcd", "sessions"]) {
        let (etcd, etcdctl) = etcd()?;
        peers.extend([("ETCD_BIN", etcd), ("ETCDCTL_BIN", etcdctl)]);
    }
    if wanted(&["registry"]) {
        peers.push(("RNACOS_BIN", crates_io("rnacos", RNACOS)?));
    }
    Ok(Peers(peers))
}
