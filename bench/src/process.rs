//! Programs under measurement: started in a folder of their own, timed and weighed from outside.

use crate::http;
use anyhow::{Context, Result, bail};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running program, ended when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) name: &'static str,
}

impl Process {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let shown = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("can't start {name} ({shown})"))?;
        Ok(Self { child, name })
    }

    /// Waits until something listens at `address`.
    pub(crate) fn wait_listening(&mut self, address: SocketAddr) -> Result<()> {
        let begun = Instant::now();
        loop {
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it listened: {status}", self.name);
            }
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("{} does not listen at {address} after 30 s", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads so far, user and system.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu(self.pid()).with_context(|| format!("{} is gone", self.name))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident(self.pid()).with_context(|| format!("{} is gone", self.name))
    }

    /// Ends it as an operator would.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > limit {
                bail!("{} does not end within {limit:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn proc_file(pid: u32, file: &str) -> Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
}

/// CPU time of all threads of a process so far, user and system.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = proc_file(pid, "stat")?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts in hundredths of a second whatever the kernel's own tick is.
    Ok(Duration::from_millis(ticks * 10))
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most that it has had, in bytes.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, line: &str) -> Result<u64> {
    let status = proc_file(pid, "status")?;
    let kilobytes = status
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .with_context(|| format!("no {line}"))?;
    Ok(kilobytes * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A peer's program, from the variable that `cargo xtask bench` sets.
pub(crate) fn peer(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file())
}

/// Fingerpost's release binary, beside this one.
fn own_binary() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("fingerpost");
    if !path.is_file() {
        bail!("{} is missing: run `cargo xtask bench`, which builds it", path.display());
    }
    Ok(path)
}

/// A Fingerpost of its own.
pub(crate) struct Fingerpost {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) dns: SocketAddr,
}

impl Fingerpost {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        Self::start_with(folder, &[])
    }

    /// With further flags.
    pub(crate) fn start_with(folder: &Path, flags: &[&str]) -> Result<Self> {
        Self::start_at(folder, SocketAddr::from(([127, 0, 0, 1], free_port()?)), flags)
    }

    /// One that other replicas know how to reach.
    pub(crate) fn start_peer(folder: &Path, flags: &[&str]) -> Result<Self> {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let url = format!("http://{http}");
        Self::start_at(folder, http, &[flags, &["--advertise-url", &url]].concat())
    }

    /// At an address of the caller's.
    pub(crate) fn start_at(folder: &Path, http: SocketAddr, flags: &[&str]) -> Result<Self> {
        let dns = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut process = Process::start(
            "fingerpost",
            Command::new(own_binary()?)
                .arg("serve")
                .arg("--data-dir")
                .arg(folder)
                .args(["--http-listen", &http.to_string(), "--dns-listen", &dns.to_string()])
                .args(flags)
                .env("FINGERPOST_LOG", "warn"),
        )?;
        process.wait_listening(http)?;
        Ok(Self { process, http, dns })
    }

    /// Waits until it answers truthfully.
    pub(crate) async fn wait_ready(&self) -> Result<()> {
        wait_ready(self.http).await
    }
}

/// A DNS server of Fingerpost's that follows a registry.
pub(crate) struct Dns {
    pub(crate) process: Process,
}

impl Dns {
    /// Starts one, and waits until it answers truthfully.
    pub(crate) async fn start(folder: &Path, registry: SocketAddr) -> Result<Self> {
        let [http, dns] = [free_port()?, free_port()?].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut process = Process::start(
            "fingerpost dns",
            Command::new(own_binary()?)
                .args(["dns", "--registry", &format!("http://{registry}"), "--data-dir"])
                .arg(folder)
                .args(["--http-listen", &http.to_string(), "--dns-listen", &dns.to_string()])
                .env("FINGERPOST_LOG", "warn"),
        )?;
        process.wait_listening(http)?;
        wait_ready(http).await?;
        Ok(Self { process })
    }
}

async fn wait_ready(http: SocketAddr) -> Result<()> {
    let begun = Instant::now();
    let request = http::request("GET", "/readyz", "", "");
    loop {
        if http::Connection::open(http).await?.call(&request, false).await?.status == 200 {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("{http} is not ready after a minute");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
