//! The way to the disk: opens the database, knows its size, and remembers the first error since it was opened.
//!
//! The database answers every call after an I/O error with "previous error", and sometimes fails where the operating
//! system's error is out of reach. So what went wrong is noted below it, where the error still is what it was.
//!
//! A failed sync is worse than it looks: the operating system may count the pages as written from then on, show them to
//! whoever reads, and never write them. So what was written since the last sync that succeeded is remembered, and written
//! once more before the database is opened again: what it shows then is what is on disk.

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the bytes of a store lie.
pub trait Medium: Send + Sync {
    /// A fresh way to the same bytes, each time that the database is opened: after an I/O error it must be opened again.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Keeps some room for later, unless it is kept already. A full disk leaves the database in need of repair, and
    /// repair needs room; nothing is written while none can be kept.
    fn keep_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    /// Gives that room back to the disk.
    fn free_reserve(&self) {}
}

/// What went wrong.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// There is no room.
    Full,
    /// The disk can't be read or written.
    Io(String),
    /// What is there makes no sense.
    Corrupt(String),
    /// Another process holds the database.
    Held,
}

impl Trouble {
    /// An error of the operating system.
    pub(super) fn of(error: &io::Error) -> Self {
        if is_full(error) { Trouble::Full } else { Trouble::Io(error.to_string()) }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Full => f.write_str("the disk is full"),
            Trouble::Io(text) | Trouble::Corrupt(text) => f.write_str(text),
            Trouble::Held => f.write_str("another process holds the database"),
        }
    }
}

impl From<redb::Error> for Trouble {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if is_full(&error) => Trouble::Full,
            redb::Error::Corrupted(text) => Trouble::Corrupt(text),
            redb::Error::DatabaseAlreadyOpen => Trouble::Held,
            error @ (redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }) => Trouble::Corrupt(error.to_string()),
            error => Trouble::Io(error.to_string()),
        }
    }
}

macro_rules! from_database {
    ($($error:ty),*) => { $(
        impl From<$error> for Trouble {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )* };
}
from_database!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::DatabaseError);

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// What is noted about the disk; outlives reopening.
#[derive(Default)]
pub(super) struct Gauge {
    length: AtomicU64,
    /// Offset and length of what was written since the last sync that succeeded.
    dirty: Mutex<Vec<(u64, usize)>>,
    first: Mutex<Option<Trouble>>,
}

impl Gauge {
    /// The size of the database.
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// The first error since the database was opened.
    pub(super) fn first_error(&self) -> Option<Trouble> {
        self.first.lock().clone()
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let mut first = self.first.lock();
            if first.is_none() {
                *first = Some(Trouble::of(error));
            }
        }
        result
    }
}

/// A backend that is watched.
#[derive(Debug)]
struct Watched {
    inner: Box<dyn StorageBackend>,
    gauge: Arc<Gauge>,
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("length", &self.length()).finish_non_exhaustive()
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        let length = self.gauge.note(self.inner.len())?;
        self.gauge.length.store(length, Ordering::Relaxed);
        Ok(length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.gauge.note(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gauge.note(self.inner.set_len(len))?;
        self.gauge.length.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gauge.note(self.inner.sync_data())?;
        self.gauge.dirty.lock().clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.gauge.dirty.lock().push((offset, data.len()));
        self.gauge.note(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// Where the database lies, and how it is opened.
pub(super) struct Disk {
    pub(super) medium: Box<dyn Medium>,
    pub(super) cache_bytes: usize,
    pub(super) gauge: Arc<Gauge>,
}

impl Disk {
    /// Opens the database, makes it if need be, and repairs it after an unclean end.
    pub(super) fn open(&self) -> Result<redb::Database, Trouble> {
        *self.gauge.first.lock() = None;
        let failed = |error: io::Error| Trouble::of(&error);
        let inner = self.medium.open().map_err(failed)?;
        self.rewrite(&*inner).map_err(failed)?;
        let watched = Watched { inner, gauge: Arc::clone(&self.gauge) };
        let opened = redb::Builder::new().set_cache_size(self.cache_bytes).create_with_backend(watched);
        opened.map_err(|error| self.explain(error))
    }

    /// Writes what an earlier sync may have left in the operating system's memory.
    fn rewrite(&self, inner: &dyn StorageBackend) -> io::Result<()> {
        let mut dirty = self.gauge.dirty.lock();
        if dirty.is_empty() {
            return Ok(());
        }
        let end = inner.len()?;
        let mut buffer = Vec::new();
        for &(offset, length) in dirty.iter() {
            let length = length.min(usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX));
            buffer.resize(length, 0);
            inner.read(offset, &mut buffer)?;
            inner.write(offset, &buffer)?;
        }
        inner.sync_data()?;
        dirty.clear();
        Ok(())
    }

    /// What an error of the database comes from: the first one that the disk gave, if it gave one.
    pub(super) fn explain(&self, error: impl Into<Trouble>) -> Trouble {
        self.gauge.first_error().unwrap_or_else(|| error.into())
    }
}
