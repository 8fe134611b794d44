//! One transaction of the writer: what waits for the disk, and some of what is due besides.

use super::disk::Trouble;
use super::tables::{BASE, LOG, meta, set_meta, sweep, switch_base};
use super::values::LogRow;
use super::writer::Writer;
use fingerpost_catalog::Epoch;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What a commit may at least carry along of a base, and what a transaction without a commit carries.
const BASE_BYTES: usize = 256 << 10;
const BASE_BYTES_IDLE: usize = 1 << 20;
/// The same for rows that are swept away.
const SWEEP_ROWS: usize = 64;
const SWEEP_ROWS_IDLE: usize = 1024;

/// What a transaction sets besides.
#[derive(Default)]
pub(super) struct Extra {
    pub(super) relaxed: Option<bool>,
    pub(super) epoch: Option<Epoch>,
    pub(super) floor: Option<u64>,
}

impl Writer {
    /// Writes everything that is pending, then these rows, in one transaction. After an error the database must be
    /// opened again before it is known whether that happened.
    pub(super) fn transact(&mut self, rows: &VecDeque<LogRow>, extra: &Extra) -> Result<(), Trouble> {
        let began = Instant::now();
        let bytes: usize = rows.iter().map(|row| row.bytes().len()).sum();
        // In step with the commits, so that a base is done before the log has doubled.
        let (base_bytes, sweep_rows) = if rows.is_empty() {
            (BASE_BYTES_IDLE, SWEEP_ROWS_IDLE)
        } else {
            (bytes.max(BASE_BYTES), SWEEP_ROWS + 4 * rows.len())
        };
        if let Some(checkpoint) = &mut self.checkpoint
            && let Err(trouble) = checkpoint.poll(base_bytes)
        {
            tracing::warn!(%trouble, "a new base could not be built; it will be tried again");
            self.abandon_checkpoint();
        }
        let new_base = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.finished());
        let more = match self.write(rows, extra, new_base.is_none(), sweep_rows) {
            Ok(more) => more,
            Err(trouble) => return Err(self.shared.disk.gauge.first_error().unwrap_or(trouble)),
        };

        for row in self.unsynced.iter().chain(rows) {
            self.segments.add(row.last(), row.bytes().len() as u64);
            self.persisted = row.last();
        }
        self.unsynced.clear();
        self.unsynced_bytes = 0;
        self.unsynced_since = None;
        self.sweeping &= more;
        if let Some(checkpoint) = &mut self.checkpoint {
            let generation = checkpoint.generation;
            for chunk in checkpoint.written() {
                for (hash, revision) in chunk.places {
                    self.index.place(hash, revision, generation, chunk.number);
                }
            }
        }
        if let Some(base) = new_base {
            tracing::debug!(position = base.position, records = base.records, bytes = base.bytes, "new base");
            self.base = base;
            self.segments.trim(base.position);
            self.checkpoint = None;
            self.sweeping = true;
        }
        if let Some(marked) = extra.relaxed {
            self.relaxed_marked = marked;
        }
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.shared.write_nanoseconds.store(took.max(1), Ordering::Relaxed);
        self.well();
        Ok(())
    }

    /// True if there may be more to sweep.
    fn write(&self, rows: &VecDeque<LogRow>, extra: &Extra, chunks: bool, sweep_rows: usize) -> Result<bool, Trouble> {
        let db = self.shared.db.read();
        let db = db.as_ref().ok_or_else(|| Trouble::Io("the database is not open".to_owned()))?;
        let transaction = db.begin_write()?;
        {
            let mut log = transaction.open_table(LOG)?;
            for row in self.unsynced.iter().chain(rows) {
                log.insert(row.first, row.bytes())?;
            }
        }
        if let Some(checkpoint) = &self.checkpoint {
            if chunks {
                let mut base = transaction.open_table(BASE)?;
                for chunk in checkpoint.ready() {
                    base.insert((checkpoint.generation, chunk.number), chunk.row.as_slice())?;
                }
            } else if let Some(base) = checkpoint.finished() {
                switch_base(&transaction, &base)?;
            }
        }
        let mut more = false;
        if self.sweeping && self.checkpoint.is_none() {
            more = sweep(&transaction, &self.base, sweep_rows)?;
        }
        if let Some(marked) = extra.relaxed {
            set_meta(&transaction, meta::RELAXED, u64::from(marked))?;
        }
        if let Some(epoch) = extra.epoch {
            set_meta(&transaction, meta::EPOCH, epoch.0)?;
        }
        if let Some(floor) = extra.floor {
            set_meta(&transaction, meta::FLOOR, floor)?;
        }
        transaction.commit()?;
        Ok(more)
    }
}
