//! Several registries over one etcd, each reached and reaching out through proxies that a test can cut.
//!
//! A replica's way to each etcd member and its peers' way to it are proxies of their own, so that one replica can be cut
//! off from etcd, or from the other replicas, while everybody else goes on. Clients reach it directly.

use crate::binary;
use crate::etcd::EtcdCluster;
use crate::ports::free_address;
use crate::proxy::Proxy;
use fingerpost_dns::query;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A registry process over etcd.
pub struct Replica {
    child: Option<Child>,
    http: SocketAddr,
    /// Where clients find its API, as a URL without a path.
    pub url: String,
    /// Where its DNS is.
    pub dns: SocketAddr,
    /// Its ways to the members of etcd.
    pub to_etcd: Vec<Proxy>,
    /// The other replicas' way to it.
    pub from_peers: Proxy,
    data: PathBuf,
    flags: Vec<String>,
    /// What is added to its clock, in a file that it reads again and again; none where it has the machine's clock.
    clock: Option<PathBuf>,
}

/// The library that lies about the time, where Debian's package `faketime` puts it.
fn faketime() -> PathBuf {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let found = folders.iter().map(|folder| Path::new(folder).join("faketime/libfaketime.so.1")).find(|p| p.is_file());
    found.expect("no libfaketime: run `cargo xtask setup` first")
}

impl Replica {
    /// Starts its process; it need not be able to reach etcd.
    pub fn start(&mut self) {
        let etcd: Vec<String> = self.to_etcd.iter().map(Proxy::url).collect();
        let mut command = Command::new(binary());
        command
            .args(["serve", "--store", "etcd", "--etcd-endpoints", &etcd.join(",")])
            .args(["--http-listen", &self.http.to_string(), "--dns-listen", &self.dns.to_string()])
            .args(["--advertise-url", &self.from_peers.url()])
            .arg("--data-dir")
            .arg(&self.data)
            .args(&self.flags)
            .env("FINGERPOST_LOG", std::env::var("FINGERPOST_TEST_LOG").unwrap_or_else(|_| "warn".to_owned()));
        if let Some(clock) = &self.clock {
            command
                .env("LD_PRELOAD", faketime())
                .env("FAKETIME_TIMESTAMP_FILE", clock)
                .env("FAKETIME_NO_CACHE", "1")
                // What is measured in seconds gone by is not what people set a clock for.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.data.with_extension("log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("log file")).spawn();
        self.child = Some(child.expect("start"));
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).expect("signal");
        }
    }

    /// Ends it as an operator would, and waits for that.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("wait");
        }
    }

    /// Stops it where it is: it neither runs nor knows it.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether its process runs; it may have ended by itself.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Cuts it off from etcd: connections break, and new ones are refused.
    pub fn cut_from_etcd(&self) {
        self.to_etcd.iter().for_each(Proxy::cut);
    }

    /// Cuts it off from etcd in silence: connections stay, and nothing passes.
    pub fn freeze_etcd(&self) {
        self.to_etcd.iter().for_each(Proxy::freeze);
    }

    /// Undoes all cuts.
    pub fn heal(&self) {
        self.to_etcd.iter().for_each(Proxy::heal);
        self.from_peers.heal();
    }

    /// Sets its clock so many seconds ahead (or back) of the machine's. Only where the replicas were started so.
    pub fn set_clock(&self, seconds: i64) {
        let file = self.clock.as_ref().expect("a replica with a clock of its own");
        std::fs::write(file, format!("{seconds:+}\n")).expect("clock file");
    }

    /// Asks until it is ready.
    pub async fn ready(&self) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("client");
        while !client.get(format!("{}/readyz", self.url)).send().await.is_ok_and(|reply| reply.status().is_success()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks its DNS.
    pub async fn ask(&self, name: &str, qtype: &str) -> Option<query::Reply> {
        query::query(self.dns, name, qtype, Duration::from_secs(2)).await.ok()
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An etcd cluster and the registries over it.
pub struct Replicas {
    /// The cluster.
    pub etcd: EtcdCluster,
    /// The registries.
    pub replicas: Vec<Replica>,
    folder: TempDir,
}

impl Replicas {
    /// So many registries over a cluster, all ready.
    pub async fn start(etcd: EtcdCluster, count: usize, flags: &[&str]) -> Self {
        Self::start_with(etcd, count, flags, false).await
    }

    /// The same; with `clocks`, each has a clock of its own.
    pub async fn start_with(etcd: EtcdCluster, count: usize, flags: &[&str], clocks: bool) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut all = Self { etcd, replicas: Vec::new(), folder };
        for _ in 0..count {
            all.add(flags, clocks).await;
        }
        for replica in &all.replicas {
            replica.ready().await;
        }
        all
    }

    /// Starts one more; its index.
    pub async fn add(&mut self, flags: &[&str], clock: bool) -> usize {
        let [http, dns] = [(); 2].map(|()| free_address());
        let n = self.replicas.len();
        let mut to_etcd = Vec::new();
        for member in 0..self.etcd.endpoints().len() {
            to_etcd.push(Proxy::start(self.etcd.address(member)).await);
        }
        let clock = clock.then(|| self.folder.path().join(format!("clock-{n}")));
        let mut replica = Replica {
            child: None,
            http,
            url: format!("http://{http}"),
            dns,
            to_etcd,
            from_peers: Proxy::start(http).await,
            data: self.folder.path().join(format!("replica-{n}")),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            clock,
        };
        if replica.clock.is_some() {
            replica.set_clock(0);
        }
        replica.start();
        self.replicas.push(replica);
        n
    }
}
