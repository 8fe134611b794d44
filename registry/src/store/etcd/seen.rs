//! How far this machine has seen the store, noted beside it: so that a backup that was restored while no replica ran is
//! noticed when the first one starts.

use fingerpost_catalog::{Epoch, Position};
use std::io;
use std::path::{Path, PathBuf};

/// The file in which it is noted.
#[derive(Clone, Debug)]
pub(super) struct Seen(PathBuf);

impl Seen {
    /// In a data folder, which is made if need be. There is a file for each prefix, because one machine may run several
    /// replicas.
    pub(super) fn in_folder(dir: &Path, prefix: &str) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let name: String = prefix.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Ok(Self(dir.join(format!("etcd-seen{name}"))))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What was noted last; none where nothing was, or nothing that makes sense.
    pub(super) fn read(&self) -> Option<Position> {
        std::fs::read_to_string(&self.0).ok()?.trim().parse().ok()
    }

    /// Not synced: it is written every second, beside an etcd that may share the disk, and what a power failure takes from it
    /// matters only where a backup is restored at the same time.
    pub(super) fn write(&self, epoch: Epoch, revision: u64) -> io::Result<()> {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{}\n", Position::new(epoch, revision)))?;
        std::fs::rename(new, &self.0)
    }
}
