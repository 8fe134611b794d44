//! What subscriptions remember on disk, so that a process can start while the registry is away.
//!
//! One file for each subscription: a line that says what it is, of when, how long and with which checksum, then JSON. It
//! is written anew beside the old one and takes its place in one step, so a crash leaves the one or the other. A file
//! that is anything else than whole is passed over with a warning: it is only a memory.

use super::core::Spec;
use super::view::Objects;
use crate::endpoint::{Endpoint, EndpointKey};
use fingerpost_catalog::Position;
use fingerpost_catalog::document::{InstanceDocument, ServiceDocument};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The form of the files; another one is passed over.
const FORM: u32 = 1;
/// Changes are gathered for so long before they are written.
const GATHER: Duration = Duration::from_secs(1);
/// Largest file that is read.
const MAX_FILE: u64 = 256 << 20;

/// What a file holds of a subscription.
pub(crate) struct Snapshot {
    pub(crate) path: PathBuf,
    pub(crate) position: Option<Position>,
    pub(crate) service: Option<Arc<ServiceDocument>>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// What was read back.
pub(crate) struct Remembered {
    pub(crate) objects: Objects,
    pub(crate) position: Option<Position>,
    pub(crate) as_of: SystemTime,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    fingerpost_cache: u32,
    /// Seconds since 1970.
    written: u64,
    bytes: usize,
    crc32: u32,
}

#[derive(Serialize)]
struct Body<'a> {
    position: Option<Position>,
    service: Option<&'a ServiceDocument>,
    instances: Vec<&'a InstanceDocument>,
}

#[derive(Deserialize)]
struct ReadBody {
    position: Option<Position>,
    service: Option<ServiceDocument>,
    instances: Vec<InstanceDocument>,
}

/// Where a subscription is kept in a folder. Names and selectors are made of characters that files may have, but for a
/// selector's, and that may be long: a checksum stands for it, and what is in the file is not trusted to be of it by
/// more than that, since it only selects.
pub(crate) fn path(folder: &Path, spec: &Spec) -> PathBuf {
    let selector = match spec.selector.as_str() {
        "" => String::new(),
        text => format!(".{:08x}{:04x}", crc32fast::hash(text.as_bytes()), text.len()),
    };
    folder.join(format!("{}.{}{selector}.json", spec.namespace, spec.service))
}

/// What a file remembers; nothing where there is none, or no good one.
pub(crate) fn read(path: &Path) -> Option<Remembered> {
    match read_whole(path) {
        Ok(remembered) => Some(remembered),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what was remembered can't be used");
            None
        }
    }
}

fn read_whole(path: &Path) -> io::Result<Remembered> {
    let odd = |detail: &str| io::Error::new(io::ErrorKind::InvalidData, detail.to_owned());
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    let end = content.iter().position(|byte| *byte == b'\n').ok_or_else(|| odd("it has no head"))?;
    let (head, body) = content.split_at(end + 1);
    let head: Head = serde_json::from_slice(head).map_err(|_| odd("its head is not of this form"))?;
    if head.fingerpost_cache != FORM {
        return Err(odd("it has the form of another version"));
    }
    if head.bytes != body.len() || head.crc32 != crc32fast::hash(body) {
        return Err(odd("it is not whole"));
    }
    let body: ReadBody = serde_json::from_slice(body)?;
    let instances: BTreeMap<EndpointKey, Arc<Endpoint>> = body
        .instances
        .into_iter()
        .map(|document| {
            let endpoint = Endpoint::new(document);
            (endpoint.key().clone(), Arc::new(endpoint))
        })
        .collect();
    Ok(Remembered {
        objects: Objects { service: body.service.map(Arc::new), instances },
        position: body.position,
        as_of: UNIX_EPOCH + Duration::from_secs(head.written),
    })
}

fn write(snapshot: &Snapshot) -> io::Result<()> {
    let body = serde_json::to_vec(&Body {
        position: snapshot.position,
        service: snapshot.service.as_deref(),
        instances: snapshot.endpoints.iter().map(|endpoint| &**endpoint.document()).collect(),
    })?;
    let head = Head {
        fingerpost_cache: FORM,
        written: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        bytes: body.len(),
        crc32: crc32fast::hash(&body),
    };
    let folder = snapshot.path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    // Of this write alone, since several processes, and clients of one, may share a folder.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let name = snapshot.path.file_name().unwrap_or_default().to_string_lossy();
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!(".{name}.{}.{write}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&beside)?;
        serde_json::to_writer(&mut file, &head)?;
        file.write_all(b"\n")?;
        file.write_all(&body)?;
        file.sync_data()?;
        std::fs::rename(&beside, &snapshot.path)
    })();
    if written.is_err() {
        // Whatever is left there is of no use, and may be what fills the disk.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Writes snapshots, behind the back of who makes them.
pub(crate) struct Cache {
    waiting: Arc<Waiting>,
    ending: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Waiting {
    /// The newest for each file: bounded by the number of subscriptions.
    newest: Mutex<HashMap<PathBuf, Snapshot>>,
    arrived: Notify,
}

impl Cache {
    /// Must be called within a tokio runtime.
    pub(crate) fn start() -> Self {
        let waiting = Arc::new(Waiting::default());
        let ending = CancellationToken::new();
        let task = tokio::spawn(write_all(Arc::clone(&waiting), ending.clone()));
        Self { waiting, ending, task }
    }

    /// Has a snapshot written within the next second or so, unless a newer one comes.
    pub(crate) fn keep(&mut self, snapshot: Snapshot) {
        let mut newest = self.waiting.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.insert(snapshot.path.clone(), snapshot);
        self.waiting.arrived.notify_one();
    }

    /// Writes what waits, and ends.
    pub(crate) async fn finish(mut self) {
        self.ending.cancel();
        // It never panics of itself, and a runtime that ends takes it along.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_all(waiting: Arc<Waiting>, ending: CancellationToken) {
    loop {
        tokio::select! {
            () = waiting.arrived.notified() => {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = ending.cancelled() => {}
                }
            }
            () = ending.cancelled() => {}
        }
        let last = ending.is_cancelled();
        let newest = std::mem::take(&mut *waiting.newest.lock().unwrap_or_else(PoisonError::into_inner));
        let written = tokio::task::spawn_blocking(move || {
            for snapshot in newest.values() {
                if let Err(error) = write(snapshot) {
                    let path = snapshot.path.display();
                    tracing::warn!(%path, %error, "can't remember a subscription on disk; the next change tries again");
                }
            }
        });
        if written.await.is_err() || last {
            return;
        }
    }
}
