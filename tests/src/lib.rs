//! What whole-system tests share: the real binary in a folder of its own, and ways to talk to it.
//!
//! `cargo xtask test` builds the binary and names it in `FINGERPOST_BIN`; without that, the one in the target folder is
//! taken.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

pub mod differential;
pub mod etcd;
pub mod events;
pub mod kubernetes;
pub mod ports;
mod programs;
pub mod proxy;
pub mod replicas;
pub mod torture;
pub mod unbound;

use fingerpost_dns::query::{self, Reply};
use reqwest::Method;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FINGERPOST_BIN") {
        return PathBuf::from(path);
    }
    // Tests lie in target/<profile>/deps.
    let own = std::env::current_exe().expect("own path");
    let target = own.ancestors().nth(3).expect("target folder");
    let found =
        ["release", "debug"].map(|profile| target.join(profile).join("fingerpost")).into_iter().find(|p| p.is_file());
    found.expect("no binary: run `cargo xtask test`, or `cargo build` first")
}

/// A running server.
pub struct Server {
    child: Child,
    /// Where its API is, as a URL without a path.
    pub url: String,
    /// Where its API is.
    pub http: SocketAddr,
    /// Where its probes and metrics are, if they have a listener of their own.
    pub ops: Option<SocketAddr>,
    /// Where its DNS is.
    pub dns: SocketAddr,
    /// Where its data is.
    pub data: PathBuf,
    folder: Option<TempDir>,
    client: reqwest::Client,
}

/// A reply of the API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null where it is not JSON.
    pub json: Value,
    /// The body as text.
    pub text: String,
    /// The ETag, if any.
    pub etag: Option<String>,
    /// The content type.
    pub content_type: String,
}

impl Server {
    /// A server with new data.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with new data and further flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut server = Self::start_in(&folder.path().join("data"), flags);
        server.folder = Some(folder);
        server
    }

    /// A server whose data folder is a file system of its own of so many megabytes, in a mount namespace of its own, so that
    /// nothing of it is left behind. Needs `unshare` and the right to make user namespaces, or root.
    pub fn start_on_small_disk(megabytes: u32) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("data folder");
        let unshare = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--map-root-user", "sh", "-c", script, "sh"]).arg(&data);
            command
        };
        let mount = format!("mount -t tmpfs -o size={megabytes}m none \"$1\"");
        let allowed = unshare(&mount).status().is_ok_and(|status| status.success());
        assert!(allowed, "this test mounts a small file system: run it as root, or allow user namespaces");
        let inner = Self::command(&data, &[]);
        let mut command = unshare(&format!("{mount} && shift && exec \"$@\""));
        command.arg(inner.get_program()).args(inner.get_args()).env("FINGERPOST_LOG", "off").stderr(Stdio::null());
        let mut server = Self::start_command(command, &data);
        server.folder = Some(folder);
        server
    }

    /// A server on data that may be there already.
    pub fn start_in(data: &Path, flags: &[&str]) -> Self {
        Self::start_command(Self::command(data, flags), data)
    }

    /// The command that [`Server::start_in`] runs.
    pub fn command(data: &Path, flags: &[&str]) -> Command {
        let [http, dns] = [(); 2].map(|()| ports::free_address().to_string());
        let mut command = Command::new(binary());
        command
            .args(["serve", "--http-listen", &http, "--dns-listen", &dns, "--data-dir"])
            .arg(data)
            .args(flags)
            .env("FINGERPOST_LOG", "warn");
        command
    }

    /// A DNS server apart from the registry, which follows these replicas (with commas between them), on data that may be
    /// there already.
    pub fn start_dns(registry: &str, data: &Path, flags: &[&str]) -> Self {
        Self::start_command(Self::command_dns(registry, data, flags), data)
    }

    /// The command that [`Server::start_dns`] runs.
    pub fn command_dns(registry: &str, data: &Path, flags: &[&str]) -> Command {
        let [http, dns] = [(); 2].map(|()| ports::free_address().to_string());
        let mut command = Command::new(binary());
        command
            .args(["dns", "--registry", registry, "--http-listen", &http, "--dns-listen", &dns, "--data-dir"])
            .arg(data)
            .args(flags)
            .env("FINGERPOST_LOG", std::env::var("FINGERPOST_TEST_LOG").unwrap_or_else(|_| "error".to_owned()));
        command
    }

    /// Starts a prepared command and reads from it where it listens.
    pub fn start_command(mut command: Command, data: &Path) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start");
        let stdout = child.stdout.take().expect("stdout");
        let (mut url, mut ops, mut dns) = (None, None, None);
        let mut lines = BufReader::new(stdout).lines();
        while url.is_none() || dns.is_none() {
            let Some(line) = lines.next() else {
                let status = child.wait();
                panic!("the server ended before it was ready: {status:?}");
            };
            let line = line.expect("stdout");
            if let Some(address) = line.strip_prefix("http ") {
                url = Some(address.trim().to_owned());
            } else if let Some(address) = line.strip_prefix("ops  http://") {
                ops = address.trim().parse().ok();
            } else if let Some(address) = line.strip_prefix("dns ") {
                dns = address.trim().parse().ok();
            }
        }
        let url = url.expect("HTTP address");
        let http = url.split_once("://").and_then(|(_, address)| address.parse().ok()).expect("HTTP address");
        Self {
            child,
            url,
            http,
            ops,
            dns: dns.expect("DNS address"),
            data: data.to_owned(),
            folder: None,
            client: reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("client"),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal");
    }

    /// Stops it where it is: it neither runs nor knows it.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Ends it as an operator would.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().expect("wait")
    }

    /// Another server on the same data; this one must have ended.
    pub fn again(mut self) -> Self {
        let folder = self.folder.take();
        let data = self.data.clone();
        drop(self);
        let mut server = Self::start_in(&data, &[]);
        server.folder = folder;
        server
    }

    /// The same, at the same addresses.
    pub fn again_on_same_ports(mut self) -> Self {
        let folder = self.folder.take();
        let (data, http, dns) = (self.data.clone(), self.http.to_string(), self.dns.to_string());
        drop(self);
        let mut command = Command::new(binary());
        command.args(["serve", "--http-listen", &http, "--dns-listen", &dns, "--data-dir"]).arg(&data);
        command.env("FINGERPOST_LOG", "warn");
        let mut server = Self::start_command(command, &data);
        server.folder = folder;
        server
    }

    /// Calls the API with a body as it stands.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("the API answers");
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (status, etag, content_type) = (response.status().as_u16(), header("etag"), header("content-type"));
        let text = response.text().await.expect("body");
        Answer {
            status,
            json: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
            etag,
            content_type: content_type.unwrap_or_default(),
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// PATCH with a JSON merge patch.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", "application/merge-patch+json")], body.to_string()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Asks its DNS.
    pub async fn ask(&self, name: &str, qtype: &str) -> Reply {
        query::query(self.dns, name, qtype, Duration::from_secs(10)).await.expect("DNS answers")
    }

    /// Runs the command line against it; returns exit code, standard output and standard error.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(binary())
            .args(arguments)
            .env("FINGERPOST_SERVER", &self.url)
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .output()
            .expect("run");
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; returns what it printed. It must succeed.
pub fn output_of(command: &mut Command) -> String {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start");
    let mut text = String::new();
    child.stdout.take().expect("stdout").read_to_string(&mut text).expect("stdout");
    let status = child.wait().expect("wait");
    assert!(status.success(), "{command:?}: {status}\n{text}");
    text
}
