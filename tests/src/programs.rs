//! Other people's programs, where `cargo xtask` has put them, and processes of them that end with the test.

use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The file of a program: what `variable` names, else the one in the cache folder, under `peer` (name and version).
pub(crate) fn program(variable: &str, peer: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return PathBuf::from(path);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .expect("neither XDG_CACHE_HOME nor HOME is set");
    let path = cache.join("fingerpost/peers").join(peer).join("bin").join(name);
    assert!(path.is_file(), "no {}: run `cargo xtask setup` first", path.display());
    path
}

/// The file of a program of Debian's packages. Servers live in sbin folders, which not every PATH has.
pub(crate) fn debian(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {name}: run `cargo xtask setup` first"))
}

/// A process, and a shell that waits for the end of this test process to end that one, too, however this one ends.
pub(crate) struct Running {
    process: Child,
    guard: Child,
    _until: ChildStdin,
}

impl Running {
    /// Starts a program that writes what it has to say to the end of `log`, and whose `folder` goes when the test has
    /// ended without removing it.
    pub(crate) fn start(command: &mut Command, log: &Path, folder: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("log");
        let out = log.try_clone().expect("log");
        let process = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn().expect("the program starts");
        let mut guard = Command::new("sh")
            .args(["-c", "read _; kill -9 \"$1\"; sleep 1; rm -rf \"$2\"", "sh", &process.id().to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let until = guard.stdin.take().expect("stdin");
        Self { process, guard, _until: until }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard first, or it would remove a folder that somebody else may have by then.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
