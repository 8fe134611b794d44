//! Peers written in Go. What `go install` takes is had that way; what it refuses for its replace lines is built from a
//! module of a few lines that requires it.

use super::cache;
use crate::run::{self, Checked};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

const COREDNS: &str = "1.15.0";
const ETCD: &str = "3.6.8";
/// Kubernetes' minor and patch release; its programs are 1.x.y, and its libraries, of which they consist, 0.x.y.
const KUBERNETES: &str = "36.3";

/// CoreDNS, with the plugins that it has by default.
pub(super) fn coredns() -> Result<PathBuf> {
    let folder = cache("coredns", COREDNS)?.join("bin");
    let path = folder.join("coredns");
    if !path.is_file() {
        let module = format!("github.com/coredns/coredns@v{COREDNS}");
        run::command("go").args(["install", &module]).env("GOBIN", &folder).checked()?;
    }
    Ok(path)
}

/// etcd, server and client.
pub(super) fn etcd() -> Result<(PathBuf, PathBuf)> {
    let folder = cache("etcd", ETCD)?;
    let program = |name: &'static str, module: &str, package: &str, call: &str| {
        let os = if call.contains("os.") { "import \"os\"\n" } else { "" };
        Program {
            name,
            main: format!("package main\n\nimport \"{module}/{package}\"\n{os}\nfunc main() {{ {call} }}\n"),
            requirements: format!("require {module} v{ETCD}\n"),
            variables: String::new(),
        }
    };
    let server = program("etcd", "go.etcd.io/etcd/server/v3", "etcdmain", "etcdmain.Main(os.Args)");
    let client = program("etcdctl", "go.etcd.io/etcd/etcdctl/v3", "ctlv3", "ctlv3.MustStart()");
    Ok((server.built_in(&folder)?, client.built_in(&folder)?))
}

/// Kubernetes' API server.
pub(super) fn kube_apiserver() -> Result<PathBuf> {
    let folder = cache("kubernetes", &format!("1.{KUBERNETES}"))?;
    let path = folder.join("bin/kube-apiserver");
    if path.is_file() {
        return Ok(path);
    }
    let main = "package main\n\nimport (\n\t\"os\"\n\n\t\"k8s.io/component-base/cli\"\n\
                \t\"k8s.io/kubernetes/cmd/kube-apiserver/app\"\n)\n\n\
                func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }\n";
    let release = format!("v1.{KUBERNETES}");
    let mut requirements = format!("require k8s.io/kubernetes {release}\n");
    for library in kubernetes_libraries(&release)? {
        requirements.push_str(&format!("replace {library} => {library} v0.{KUBERNETES}\n"));
    }
    let minor = KUBERNETES.split('.').next().unwrap_or_default();
    let variables = [("gitVersion", release.as_str()), ("gitMajor", "1"), ("gitMinor", minor)]
        .map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"))
        .join(" ");
    Program { name: "kube-apiserver", main: main.to_owned(), requirements, variables }.built_in(&folder)
}

/// The libraries that live in Kubernetes' own tree, where its go.mod finds them by their folders. Elsewhere they are
/// modules with a release of their own, which must be told one by one.
fn kubernetes_libraries(release: &str) -> Result<Vec<String>> {
    let module = format!("k8s.io/kubernetes@{release}");
    let file = run::command("go")
        .args(["list", "-m", "-f", "{{.GoMod}}", &module])
        // Outside of any module.
        .current_dir(std::env::temp_dir())
        .text()?;
    let text = std::fs::read_to_string(file.trim()).with_context(|| format!("can't read the go.mod of {module}"))?;
    let libraries: Vec<String> = text
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("replace ").split_once(" => ./staging/src/"))
        .map(|(library, _)| library.trim().to_owned())
        .collect();
    if libraries.is_empty() {
        bail!("the go.mod of {module} replaces nothing with ./staging/src/…: its form has changed");
    }
    Ok(libraries)
}

/// A program of a few lines that calls somebody's main package.
struct Program {
    name: &'static str,
    main: String,
    /// The lines of its go.mod that say what it consists of.
    requirements: String,
    /// Variables that the linker sets.
    variables: String,
}

impl Program {
    /// Builds it into `folder`, unless it is there.
    fn built_in(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("bin").join(self.name);
        if path.is_file() {
            return Ok(path);
        }
        let source = folder.join("src").join(self.name);
        std::fs::create_dir_all(&source).with_context(|| format!("can't make {}", source.display()))?;
        std::fs::write(source.join("main.go"), &self.main)?;
        let module = format!("module {}\n\ngo 1.24\n\n{}", self.name, self.requirements);
        std::fs::write(source.join("go.mod"), module)?;
        let go = |arguments: &[&str]| run::command("go").current_dir(&source).args(arguments).checked();
        go(&["mod", "tidy"])?;
        // Under another name first, one for each that builds at the same time: what is there is whole.
        let building = folder.join("bin").join(format!("{}.new-{}", self.name, std::process::id()));
        let output = building.display().to_string();
        let linker = format!("-s -w {}", self.variables);
        go(&["build", "-trimpath", "-ldflags", linker.trim(), "-o", &output, "."])?;
        std::fs::rename(&building, &path)?;
        Ok(path)
    }
}
