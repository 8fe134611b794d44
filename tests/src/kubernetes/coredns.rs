//! CoreDNS, following the same API server.

use crate::ports::free_address;
use crate::programs::{self, Running};
use fingerpost_dns::query::{self, Reply};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The version that `cargo xtask` builds.
const PEER: &str = "coredns-1.15.0";

/// What CoreDNS is told.
#[derive(Clone, Debug)]
pub struct Corefile {
    /// The zones of its `kubernetes` plugin.
    pub zones: Vec<String>,
    /// Lines of that plugin's block, besides the kubeconfig.
    pub kubernetes: Vec<String>,
    /// Lines of the server's block: other plugins.
    pub plugins: Vec<String>,
}

impl Default for Corefile {
    /// As clusters have it, with the plugin's own time to live, and nobody to forward to.
    fn default() -> Self {
        Self {
            zones: ["cluster.local", "in-addr.arpa", "ip6.arpa"].map(str::to_owned).to_vec(),
            kubernetes: vec!["pods insecure".to_owned()],
            plugins: Vec::new(),
        }
    }
}

impl Corefile {
    /// The default with another way with names of pods: `insecure`, `verified` or `disabled`.
    pub fn pods(mode: &str) -> Self {
        Self { kubernetes: vec![format!("pods {mode}")], ..Self::default() }
    }

    fn text(&self, dns: SocketAddr, ready: SocketAddr, kubeconfig: &Path) -> String {
        let mut lines = vec![format!(".:{} {{", dns.port()), format!("bind {}", dns.ip()), format!("ready {ready}")];
        lines.push(format!("kubernetes {} {{", self.zones.join(" ")));
        lines.push(format!("kubeconfig {}", kubeconfig.display()));
        lines.extend(self.kubernetes.iter().cloned());
        lines.push("}".to_owned());
        lines.extend(self.plugins.iter().cloned());
        lines.push("}\n".to_owned());
        lines.join("\n")
    }
}

/// A running CoreDNS.
pub struct CoreDns {
    process: Running,
    /// Where it answers.
    pub dns: SocketAddr,
    ready: SocketAddr,
    folder: TempDir,
}

impl CoreDns {
    /// Follows the API server that a kubeconfig names; has all of its objects.
    pub async fn start(kubeconfig: &Path, corefile: &Corefile) -> Self {
        for _ in 0..4 {
            let mut coredns = Self::launch(kubeconfig, corefile);
            if coredns.ready_within(Duration::from_secs(60)).await {
                return coredns;
            }
            assert!(coredns.process.ended(), "CoreDNS does not get ready:\n{}", coredns.log());
            eprintln!("CoreDNS ended, perhaps for a port that somebody took; once more:\n{}", coredns.log());
        }
        panic!("CoreDNS does not start");
    }

    /// The same, without waiting until it is ready.
    pub fn launch(kubeconfig: &Path, corefile: &Corefile) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (dns, ready) = (free_address(), free_address());
        let file = folder.path().join("Corefile");
        std::fs::write(&file, corefile.text(dns, ready, kubeconfig)).expect("Corefile");
        let mut command = Command::new(program());
        command.arg("-conf").arg(&file);
        let process = Running::start(&mut command, &folder.path().join("log"), folder.path());
        Self { process, dns, ready, folder }
    }

    async fn ready_within(&mut self, time: Duration) -> bool {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("client");
        let url = format!("http://{}/ready", self.ready);
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !self.process.ended() {
            let says_so = client.get(&url).send().await.is_ok_and(|reply| reply.status().is_success());
            // It says so before it has opened its port.
            if says_so && query::query(self.dns, "ready.invalid", "A", Duration::from_secs(2)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) {
        assert!(self.ready_within(Duration::from_secs(120)).await, "CoreDNS does not get ready:\n{}", self.log());
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Asks it.
    pub async fn ask(&self, name: &str, qtype: &str) -> Reply {
        query::query(self.dns, name, qtype, Duration::from_secs(10)).await.expect("CoreDNS answers")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn program() -> PathBuf {
    programs::program("COREDNS_BIN", PEER, "coredns")
}
