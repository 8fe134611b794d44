//! Files that are followed: they are looked at now and then, which works for mounted ones, too, and costs nothing.

use crate::forward::Forward;
use crate::forward::clock::Moment;
use crate::forward::config::{Action, Config, Target};
use crate::forward::entry::Entry;
use crate::forward::hosts::{Hosts, HostsError};
use crate::forward::key::Key;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// The names of hosts as their files have them now.
#[derive(Debug)]
pub(crate) struct HostFiles {
    paths: Vec<PathBuf>,
    /// There is something; looked at for every question.
    set: AtomicBool,
    hosts: RwLock<Arc<Hosts>>,
}

impl HostFiles {
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, HostsError> {
        let hosts = Hosts::read(paths)?;
        Ok(Self { paths: paths.to_vec(), set: AtomicBool::new(!hosts.is_empty()), hosts: RwLock::new(Arc::new(hosts)) })
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Relaxed)
    }

    pub(crate) fn answer(&self, name: &[u8], qtype: u16, now: Moment) -> Option<Entry> {
        let hosts = Arc::clone(&self.hosts.read());
        hosts.answer(&Key::new(name, qtype, false, false), now)
    }

    /// See [`Hosts::describe`].
    pub(crate) fn describe(&self, name: &[u8]) -> Option<String> {
        self.hosts.read().describe(name)
    }

    fn reload(&self) {
        match Hosts::read(&self.paths) {
            Ok(hosts) => {
                tracing::info!(names = hosts.len(), files = ?self.paths, "the hosts have changed");
                self.set.store(!hosts.is_empty(), Relaxed);
                *self.hosts.write() = Arc::new(hosts);
            }
            Err(error) => tracing::warn!(%error, "the hosts stay as they are"),
        }
    }
}

/// What tells that a file has changed: a mounted one is often replaced by one of the same age.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// All files that a configuration names, as they were before they were read.
#[derive(Debug)]
pub(crate) struct Stamps(Mutex<HashMap<PathBuf, Stamp>>);

impl Stamps {
    pub(crate) fn of(config: &Config) -> Self {
        let of_zones = config.zones.iter().filter_map(|rule| match &rule.action {
            Action::Ask(targets) => Some(targets),
            _ => None,
        });
        let targets = of_zones.chain([&config.upstreams]).flatten();
        let files = targets.filter_map(|target| match target {
            Target::File(path) => Some(path),
            _ => None,
        });
        Self(Mutex::new(files.chain(&config.hosts).map(|path| (path.clone(), stamp(path))).collect()))
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Those that have changed since they were looked at.
    fn changed(&self) -> Vec<PathBuf> {
        let mut changed = Vec::new();
        for (path, held) in self.0.lock().iter_mut() {
            let now = stamp(path);
            // One that is gone for a moment is about to be replaced.
            if now.is_some() && now != *held {
                *held = now;
                changed.push(path.clone());
            }
        }
        changed
    }
}

impl Forward {
    /// Follows the files, until it is dropped.
    pub(crate) async fn keep(self: Arc<Self>) {
        self.look_for_loops(self.upstreams());
        let groups: Vec<_> = self.rules.groups().map(|(_, group)| Arc::clone(group)).collect();
        if self.stamps.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = self.look_now.notified() => {}
            }
            let changed = self.stamps.changed();
            if changed.is_empty() {
                continue;
            }
            if self.hosts.paths.iter().any(|path| changed.contains(path)) {
                self.hosts.reload();
            }
            for group in &groups {
                if !group.files().any(|path| changed.iter().any(|changed| changed == path)) {
                    continue;
                }
                match group.reload(self.own.get().map(Vec::as_slice).unwrap_or_default()) {
                    Ok(come) => {
                        let members = group.members();
                        let upstreams: Vec<_> = members.iter().map(|upstream| upstream.label()).collect();
                        tracing::info!(?upstreams, "the upstreams have changed");
                        self.look_for_loops(come);
                    }
                    Err(error) => tracing::warn!(%error, "the upstreams stay as they are"),
                }
            }
        }
    }
}
