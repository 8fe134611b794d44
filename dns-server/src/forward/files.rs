//! Files that are followed: they are looked at now and then, which works for mounted ones, too, and costs nothing.

use crate::forward::Forward;
use crate::forward::clock::Moment;
use crate::forward::entry::Entry;
use crate::forward::hosts::{Hosts, HostsError};
use crate::forward::key::Key;
use hashbrown::HashMap;
use parking_lot::RwLock;
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
fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

impl Forward {
    /// Follows the files, until it is dropped.
    pub(crate) async fn keep(self: Arc<Self>) {
        self.look_for_loops(self.rules.upstreams().into_iter().map(|(_, upstream)| upstream).collect());
        let groups: Vec<_> = self.rules.groups().map(|(_, group)| Arc::clone(group)).collect();
        let files = groups.iter().flat_map(|group| group.files().map(Path::to_owned));
        let files: Vec<PathBuf> = files.chain(self.hosts.paths.iter().cloned()).collect();
        let mut stamps: HashMap<_, _> = files.iter().map(|path| (path.clone(), stamp(path))).collect();
        loop {
            if files.is_empty() {
                return std::future::pending().await;
            }
            let waited = sleep(EVERY);
            tokio::select! {
                () = waited => {}
                () = self.look_now.notified() => {}
            }
            let changed: Vec<PathBuf> = files
                .iter()
                .filter(|path| {
                    let now = stamp(path);
                    // One that is gone for a moment is about to be replaced.
                    now.is_some() && stamps.insert((*path).clone(), now) != Some(now)
                })
                .cloned()
                .collect();
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
