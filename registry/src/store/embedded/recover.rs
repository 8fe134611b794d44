//! What the writer does when the disk fails.
//!
//! After an error the database refuses everything until it is opened again, and whether the last transaction happened
//! stands on the disk alone. So it is opened again at once and looked at: then each commit gets a true answer. Where even
//! that fails, the group stays in limbo, nothing else is taken, and the writer keeps trying.

use super::disk::Trouble;
use super::tables::{LOG, META, head_of, read_meta};
use super::writer::Writer;
use crate::store::CommitError;
use redb::ReadableDatabase;
use std::time::{Duration, Instant};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;

/// Writing fails.
pub(super) struct Failing {
    pub(super) trouble: Trouble,
    /// When it is tried again.
    pub(super) retry_at: Instant,
    delay: Duration,
}

impl Trouble {
    /// What a commit that was certainly not applied is told.
    pub(super) fn commit_error(&self) -> CommitError {
        match self {
            Trouble::Full => CommitError::Full,
            trouble => CommitError::Unavailable(trouble.to_string()),
        }
    }
}

impl Writer {
    /// Whether nothing at all can be taken now.
    pub(super) fn limbo_or_shut(&self) -> bool {
        self.limbo.is_some() || self.shared.db.read().is_none()
    }

    /// Writing succeeded.
    pub(super) fn well(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!("the store can be written again");
            *self.shared.write_error.lock() = None;
        }
    }

    fn failed(&mut self, trouble: Trouble) {
        let delay = match &self.failing {
            None => {
                tracing::error!(%trouble, "the store can't be written");
                FIRST_DELAY
            }
            Some(failing) => (failing.delay * 2).min(LAST_DELAY),
        };
        // The database is opened again after every attempt, which may take long: most of the time is for readers.
        *self.shared.write_error.lock() = Some(trouble.to_string());
        self.failing = Some(Failing { trouble, retry_at: Instant::now() + delay, delay });
    }

    /// Opens the database again after an error; the last number on disk, if that can be found out.
    pub(super) fn recover(&mut self, trouble: Trouble) -> Option<u64> {
        if matches!(trouble, Trouble::Full) {
            self.shared.disk.medium.free_reserve();
            self.reserved = false;
        }
        // Its snapshot ends with the database.
        self.abandon_checkpoint();
        self.failed(trouble);
        *self.shared.db.write() = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                if self.shared.inbox.closing() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5 << attempt));
            }
            if let Some(on_disk) = self.try_open() {
                return Some(on_disk);
            }
        }
        None
    }

    /// Opens the database after the last attempts failed, and settles what was in limbo.
    pub(super) fn reopen(&mut self) {
        if self.try_open().is_some() {
            return;
        }
        let trouble = self.shared.disk.gauge.first_error();
        let trouble = trouble.or_else(|| self.failing.as_ref().map(|failing| failing.trouble.clone()));
        self.failed(trouble.unwrap_or(Trouble::Full));
    }

    /// Tries whether writing succeeds again.
    pub(super) fn retry(&mut self) {
        if self.prepare_retry() {
            self.step();
        }
    }

    /// Whether it is worth trying to write again. On a full disk the room for the next repair must be there first: so
    /// most attempts don't touch the database.
    pub(super) fn prepare_retry(&mut self) -> bool {
        if self.limbo_or_shut() {
            self.reopen();
        }
        let open = !self.limbo_or_shut();
        if open && !self.reserve() {
            self.failed(Trouble::Full);
            return false;
        }
        open
    }

    /// Keeps room for a repair; false if the disk is too full.
    pub(super) fn reserve(&mut self) -> bool {
        if self.reserved {
            return true;
        }
        match self.shared.disk.medium.keep_reserve() {
            Ok(()) => self.reserved = true,
            Err(error) => {
                tracing::debug!(%error, "no room could be kept for repairs");
                return !matches!(Trouble::of(&error), Trouble::Full);
            }
        }
        true
    }

    fn try_open(&mut self) -> Option<u64> {
        let opened = self.shared.disk.open().and_then(|db| {
            let transaction = db.begin_read()?;
            let meta = read_meta(&transaction.open_table(META)?)?
                .ok_or_else(|| Trouble::Corrupt("table `meta` is empty".to_owned()))?;
            let head = head_of(&transaction.open_table(LOG)?, &meta.base)?;
            if head < self.persisted {
                return Err(Trouble::Corrupt(format!(
                    "the database came back with {head} commits where it had {}: the disk lost what it had \
                     acknowledged. Restart the store to go on from there, in a new epoch",
                    self.persisted
                )));
            }
            drop(transaction);
            Ok((db, meta, head))
        });
        let (db, meta, head) = match opened {
            Ok(opened) => opened,
            Err(trouble) => {
                tracing::warn!(%trouble, "the database can't be opened again");
                if let Some(failing) = &mut self.failing {
                    failing.trouble = trouble;
                }
                return None;
            }
        };
        self.settle(meta, head);
        // Only now: a reader must not see what followers can't.
        *self.shared.db.write() = Some(db);
        Some(head)
    }

    /// Brings the state in memory in line with what is on disk.
    fn settle(&mut self, meta: super::tables::Meta, head: u64) {
        // A failed transaction carries everything that was pending, or nothing.
        while let Some(row) = self.unsynced.front()
            && row.last() <= head
        {
            self.segments.add(row.last(), row.bytes().len() as u64);
            self.unsynced_bytes -= row.bytes().len();
            self.unsynced.pop_front();
        }
        if self.unsynced.is_empty() {
            self.unsynced_since = None;
        }
        self.persisted = head;
        if meta.epoch != self.epoch {
            self.epoch = meta.epoch;
            self.shared.history.renew(meta.epoch);
        }
        if meta.base != self.base {
            self.base = meta.base;
            self.segments.trim(meta.base.position);
            self.sweeping = true;
        }
        if let Some(mut group) = self.limbo.take() {
            if group.last().is_some_and(|last| last <= head) {
                tracing::info!(head, "a commit whose outcome was unknown was applied");
                self.account(&group);
                self.applied(group);
            } else {
                group.undo(&mut self.index);
            }
        }
    }
}
