//! Opening a store: what may stand in the way, and what must be settled before anybody reads or writes.

use super::disk::{Disk, Gauge, Medium, Trouble};
use super::folder::Folder;
use super::inbox::Inbox;
use super::index::KeyHasher;
use super::load::load;
use super::segments::Due;
use super::tables::{self, LOG, META, Meta, SCHEMA, head_of, initialize, meta, read_meta, set_meta};
use super::writer::Writer;
use super::{EmbeddedOptions, EmbeddedStore, Shared};
use crate::members::Members;
use crate::store::history::History;
use fingerpost_catalog::{Epoch, Position};
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, TableError};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why a store could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the folder.
    #[error("{} is in use by {holder}: stop that process first, or choose another data folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who holds it, in its own words.
        holder: String,
    },
    /// The folder or the database can't be read or written.
    #[error("{} can't be used: {problem}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// There is no room.
    #[error("the disk of {} is full: make room and start again", path.display())]
    Full {
        /// The folder.
        path: PathBuf,
    },
    /// The data make no sense.
    #[error("the database in {} is damaged: {problem}; restore it from a backup, or move it away to start empty",
        path.display())]
    Corrupt {
        /// The folder.
        path: PathBuf,
        /// What makes no sense, and where.
        problem: String,
    },
    /// The data were written by a newer version.
    #[error("the database in {} has schema {found}, but this version knows only up to {supported}: \
        use the version that wrote it, or a newer one", path.display())]
    SchemaTooNew {
        /// The folder.
        path: PathBuf,
        /// What was found.
        found: u64,
        /// What this version knows.
        supported: u64,
    },
}

impl OpenError {
    fn new(path: &Path, trouble: Trouble) -> Self {
        let path = path.to_owned();
        match trouble {
            Trouble::Full => OpenError::Full { path },
            Trouble::Io(problem) => OpenError::Io { path, problem },
            Trouble::Corrupt(problem) => OpenError::Corrupt { path, problem },
            Trouble::Held => OpenError::Locked { path, holder: "another process, as its database says".to_owned() },
        }
    }
}

/// Opens the database, settles its epoch, reads it and starts the writer.
pub(super) fn open(
    options: EmbeddedOptions,
    medium: Box<dyn Medium>,
    folder: Option<Folder>,
) -> Result<Arc<EmbeddedStore>, OpenError> {
    let gauge = Arc::new(Gauge::default());
    let disk = Disk { medium, cache_bytes: options.cache_bytes, gauge };
    let failed = |trouble| OpenError::new(&options.dir, trouble);

    let mut opened = disk.open();
    if matches!(opened, Err(Trouble::Full)) {
        disk.medium.free_reserve();
        opened = disk.open();
    }
    let db = opened.map_err(failed)?;
    let problem = |trouble: Trouble| failed(disk.explain(trouble));
    let (mut found, head) = settle(&db, folder.as_ref()).map_err(problem)?;
    if found.schema > SCHEMA {
        return Err(OpenError::SchemaTooNew { path: options.dir, found: found.schema, supported: SCHEMA });
    }
    if let Some(epoch) = renewal(&found, head, folder.as_ref()) {
        let renew = || -> Result<(), Trouble> {
            let transaction = db.begin_write()?;
            set_meta(&transaction, meta::EPOCH, epoch.0)?;
            set_meta(&transaction, meta::RELAXED, 0)?;
            set_meta(&transaction, meta::FLOOR, head)?;
            Ok(transaction.commit()?)
        };
        renew().map_err(problem)?;
        found = Meta { epoch, relaxed: false, floor: head, ..found };
    }
    let found = found;

    let hasher = KeyHasher::new();
    let due = Due {
        bytes: options.checkpoint_bytes,
        retain_changes: options.retain_changes,
        retain_bytes: options.retain_bytes,
    };
    let began = Instant::now();
    let read = || load(&db.begin_read()?, &found, &hasher, &options, &due);
    let loaded = read().map_err(problem)?;
    tracing::info!(
        folder = %options.dir.display(),
        position = %Position::new(found.epoch, head),
        records = loaded.index.len(),
        took = ?began.elapsed(),
        "store opened"
    );
    if loaded.unreadable > 0 {
        tracing::warn!(changes = loaded.unreadable, "some of the latest changes can't be read by this version");
    }

    let oldest = head - loaded.sets.len() as u64;
    let history = History::new(Position::new(found.epoch, oldest), options.history_changes, options.history_bytes);
    history.publish(loaded.sets);
    let shared = Arc::new(Shared {
        disk,
        folder,
        db: RwLock::new(Some(db)),
        history: Arc::new(history),
        inbox: Inbox::new(options.queue, options.group_commits, options.group_bytes),
        records: AtomicU64::new(loaded.index.len() as u64),
        write_nanoseconds: AtomicU64::new(0),
        write_error: Mutex::new(None),
        readers: Mutex::new(Vec::new()),
        stop: CancellationToken::new(),
        ended: CancellationToken::new(),
    });
    let dir = options.dir.clone();
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        options,
        hasher: hasher.clone(),
        due,
        epoch: found.epoch,
        head,
        persisted: head,
        index: loaded.index,
        base: found.base,
        segments: loaded.segments,
        unsynced: VecDeque::new(),
        unsynced_bytes: 0,
        unsynced_since: None,
        relaxed_marked: found.relaxed,
        relaxed_at: None,
        checkpoint: None,
        // An unfinished base may have been left behind.
        sweeping: true,
        failing: None,
        limbo: None,
        seen: None,
        reserved: false,
    };
    writer.reserve();
    writer.note_seen(false);
    let ended = shared.ended.clone().drop_guard();
    let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
        // However it ends, even by a panic, whoever waits for it is told.
        let _ended = ended;
        let _abandoned = Abandon(Arc::clone(&writer.shared));
        writer.run();
    });
    let thread = thread.map_err(|error| OpenError::Io { path: dir, problem: format!("no thread: {error}") })?;
    let members = watch::Sender::new(Arc::new(Members::alone()));
    Ok(Arc::new(EmbeddedStore { shared, hasher, writer: Mutex::new(Some(thread)), members }))
}

/// Lets go of the callers that wait when the writer is gone.
struct Abandon(Arc<Shared>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.inbox.abandon();
    }
}

/// Reads the database's own account of itself, after making it if it is new.
fn settle(db: &Database, folder: Option<&Folder>) -> Result<(Meta, u64), Trouble> {
    let read = || -> Result<Option<(Meta, u64)>, Trouble> {
        let transaction = db.begin_read()?;
        let table = match transaction.open_table(META) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(meta) = read_meta(&table)? else {
            return Ok(None);
        };
        if meta.schema > SCHEMA {
            // What else is in there, this version can't say.
            return Ok(Some((meta, 0)));
        }
        Ok(Some((meta, head_of(&transaction.open_table(LOG)?, &meta.base)?)))
    };
    if let Some(found) = read()? {
        return Ok(found);
    }
    if folder.and_then(Folder::seen).is_some() {
        tracing::warn!("the data folder was in use before, but its database is gone: beginning with an empty one");
    }
    let epoch = Epoch(rand::random());
    let transaction = db.begin_write()?;
    initialize(&transaction, epoch)?;
    transaction.commit()?;
    if let Some(folder) = folder {
        folder.note_seen(Position::new(epoch, 0), false);
    }
    read()?.ok_or_else(|| Trouble::Corrupt(format!("table `{}` is empty", redb::TableHandle::name(&tables::META))))
}

/// Another epoch, if numbers may have gone backwards.
fn renewal(found: &Meta, head: u64, folder: Option<&Folder>) -> Option<Epoch> {
    if found.relaxed {
        tracing::warn!(
            "the store was not shut down cleanly and may have lost relaxed commits: it goes on in a new epoch"
        );
        return Some(Epoch(rand::random()));
    }
    let seen = folder?.seen()?;
    if Position::new(found.epoch, head).includes(&seen) {
        return None;
    }
    tracing::warn!(
        had = %seen,
        has = %Position::new(found.epoch, head),
        "the database is older than what it was before, as after restoring a backup: it goes on in a new epoch"
    );
    Some(Epoch(rand::random()))
}
