//! Where intents wait while no agent takes them: a folder beside its socket, with a file for each.
//!
//! A file is written under another name and renamed, so it is whole or not there. It is not forced onto the disk: it must
//! outlive whoever wrote it, not the kernel. When a machine has been started anew its containers are gone, and an agent
//! that finds intents of another run of it throws them away. So the plugin never waits for a disk.

use crate::intent::Intent;
use crate::time;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files that a spool may hold. Beyond them nobody has drained it for a long time.
pub const MAX_FILES: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Entry {
    /// Which run of the machine.
    boot: String,
    intent: Intent,
}

/// Lays an intent into the spool. `at` is when it came, in nanoseconds since the machine's start.
///
/// # Errors
///
/// The file can't be written, or the spool is full.
pub fn put(folder: &Path, at: u64, intent: &Intent) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if fs::read_dir(folder)?.count() >= MAX_FILES {
        let detail = format!("{} holds {MAX_FILES} intents already", folder.display());
        return Err(io::Error::new(io::ErrorKind::StorageFull, detail));
    }
    let entry = serde_json::to_vec(&Entry { boot: time::boot_id(), intent: intent.clone() })?;
    // By name in the order of time.
    let name = format!("{at:020}-{}", std::process::id());
    let (aside, place) = (folder.join(format!(".{name}")), folder.join(format!("{name}.json")));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(&entry)?;
        fs::rename(&aside, &place)
    })();
    if written.is_err() {
        // What is left of it must not take up room; where it can't be removed, it has no name that is read.
        let _ = fs::remove_file(&aside);
    }
    written
}

/// What a file of the spool holds.
#[derive(Debug)]
pub enum Found {
    /// An intent of this run of the machine.
    Intent(Box<Intent>),
    /// One of an earlier run, whose containers are gone.
    Stale,
    /// Nothing that can be read.
    Unreadable(String),
}

/// The names of the files, oldest intent first. A spool that is not there is empty.
///
/// # Errors
///
/// The folder can't be read.
pub fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| !name.starts_with('.') && name.ends_with(".json")) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Reads a file of the spool.
///
/// # Errors
///
/// The file can't be read.
pub fn read(path: &Path, boot: &str) -> io::Result<Found> {
    use std::io::Read;
    let mut text = Vec::new();
    let limit = crate::intent::MAX_FRAME as u64 * 2;
    let file = fs::OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)?;
    file.take(limit).read_to_end(&mut text)?;
    Ok(match serde_json::from_slice::<Entry>(&text) {
        Err(error) => Found::Unreadable(error.to_string()),
        Ok(entry) if entry.boot != boot => Found::Stale,
        Ok(entry) => Found::Intent(Box::new(entry.intent)),
    })
}

/// The path of a file of the spool.
pub fn path(folder: &Path, name: &OsString) -> PathBuf {
    folder.join(name)
}
