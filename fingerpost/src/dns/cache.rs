//! What a DNS server keeps on disk, for a start while the registry is away: all objects, with the position and the time at
//! which they were what the registry said.
//!
//! One file: a line that says what it is and of when, the objects as the API has them, one a line, and a line that says
//! how many they are and with which checksum. It is written beside the old one and takes its place in one step, so that a crash
//! leaves the one or the other. One that is anything else than whole is passed over with a warning: the registry has it all.
//!
//! It is read from the replica a page at a time, so that neither the feed nor answers wait for it. What changes meanwhile may
//! be in it or not; the position is that of the beginning, from which the stream tells it again.

use crate::whole;
use anyhow::{Context, Result, bail};
use fingerpost_catalog::Position;
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ObjectDocument, ServiceDocument};
use fingerpost_registry::live::LiveReplica;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the file is called.
pub(super) const FILE: &str = "catalog.ndjson";
/// The form of the file; another one is passed over.
const FORM: u32 = 1;
/// Objects read in one hold of the replica's lock.
const PAGE: usize = 500;
/// Longest line that is read.
const MAX_LINE: usize = 4 << 20;

/// What was kept.
pub(super) struct Kept {
    pub(super) position: Position,
    /// When the registry said so.
    pub(super) as_of: SystemTime,
    pub(super) objects: Vec<ObjectDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    fingerpost_catalog: u32,
    position: Position,
    /// Milliseconds since 1970.
    as_of: u64,
}

#[derive(Serialize, Deserialize)]
struct Foot {
    objects: u64,
    crc32: u32,
}

/// Reads what was kept; nothing where there is none, or no good one.
pub(super) fn read(path: &Path) -> Option<Kept> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what was kept can't be read");
            return None;
        }
    };
    match read_whole(file) {
        Ok(kept) => Some(kept),
        Err(error) => {
            tracing::warn!(path = %path.display(), error = format!("{error:#}"), "what was kept can't be used");
            None
        }
    }
}

fn read_whole(file: File) -> Result<Kept> {
    let mut file = BufReader::new(file);
    let mut crc = crc32fast::Hasher::new();
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| -> Result<()> {
        line.clear();
        std::io::Read::take(&mut file, MAX_LINE as u64).read_until(b'\n', line)?;
        if !line.ends_with(b"\n") {
            bail!("it is not whole");
        }
        Ok(())
    };
    next(&mut line)?;
    crc.update(&line);
    let head: Head = serde_json::from_slice(&line).context("its head is not of this form")?;
    if head.fingerpost_catalog != FORM {
        bail!("it has the form of another version");
    }
    let mut objects = Vec::new();
    loop {
        next(&mut line)?;
        if let Ok(foot) = serde_json::from_slice::<Foot>(&line) {
            if foot.objects != objects.len() as u64 || foot.crc32 != crc.finalize() {
                bail!("it is not whole");
            }
            let as_of = UNIX_EPOCH + Duration::from_millis(head.as_of);
            return Ok(Kept { position: head.position, as_of, objects });
        }
        crc.update(&line);
        objects.push(serde_json::from_slice(&line).with_context(|| format!("object {}", objects.len() + 1))?);
    }
}

/// Writes what a replica shows, which the registry said at `as_of`. False where its history changed meanwhile: then
/// nothing is written.
pub(super) fn write(path: &Path, live: &LiveReplica, as_of: SystemTime) -> Result<bool> {
    let beside = path.with_extension("new");
    let written = write_to(&beside, live, as_of).and_then(|whole| {
        if whole {
            std::fs::rename(&beside, path)?;
            // The name, too, is to outlive a power cut.
            File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()?;
        }
        Ok(whole)
    });
    if !matches!(written, Ok(true)) {
        // Whatever is left there is of no use, and may be what fills the disk.
        let _ = std::fs::remove_file(&beside);
    }
    written.with_context(|| format!("can't write {}", path.display()))
}

/// A file with the checksum of what was written.
struct Summed {
    file: BufWriter<File>,
    crc: crc32fast::Hasher,
    line: Vec<u8>,
    objects: u64,
}

impl Summed {
    fn put(&mut self, value: &impl Serialize) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, value)?;
        self.line.push(b'\n');
        self.crc.update(&self.line);
        self.file.write_all(&self.line)?;
        Ok(())
    }

    fn object(&mut self, object: ObjectDocument) -> Result<()> {
        self.objects += 1;
        self.put(&object)
    }
}

fn write_to(path: &Path, live: &LiveReplica, as_of: SystemTime) -> Result<bool> {
    let position = live.position();
    let epoch = position.epoch;
    let file = BufWriter::new(File::create(path)?);
    let mut out = Summed { file, crc: crc32fast::Hasher::new(), line: Vec::new(), objects: 0 };
    let as_of = as_of.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    out.put(&Head { fingerpost_catalog: FORM, position, as_of })?;

    for view in whole::namespaces(|| live.read(), PAGE).flatten() {
        out.object(ObjectDocument::Namespace(NamespaceDocument::from_view(&view, epoch)))?;
    }
    for view in whole::services(|| live.read(), PAGE).flatten() {
        out.object(ObjectDocument::Service(ServiceDocument::from_view(&view, epoch)))?;
    }
    for view in whole::instances(|| live.read(), PAGE).flatten() {
        out.object(ObjectDocument::Instance(Box::new(InstanceDocument::from_view(&view, epoch))))?;
    }
    let Summed { mut file, crc, objects, .. } = out;
    serde_json::to_writer(&mut file, &Foot { objects, crc32: crc.finalize() })?;
    file.write_all(b"\n")?;
    file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(live.epoch() == epoch)
}
