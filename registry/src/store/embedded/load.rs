//! Reading the database when the store opens: the index from the base and the log, and the latest changes for followers
//! that come back.

use super::disk::Trouble;
use super::index::{Index, KeyHasher};
use super::segments::{Due, Segments};
use super::tables::{BASE, LOG, Meta, bad_chunk, bad_log_row, head_of, last_of};
use super::{EmbeddedOptions, codec};
use fingerpost_catalog::{Change, ChangeSet, Key, Position, Record};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use std::sync::Arc;

/// What was found.
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) segments: Segments,
    /// The latest changes, up to the head, with the bytes that each counts for.
    pub(super) sets: Vec<(Arc<ChangeSet>, usize)>,
    /// Records that this version can't read. They are kept.
    pub(super) unreadable: u64,
}

/// Reads everything once.
pub(super) fn load(
    transaction: &ReadTransaction,
    meta: &Meta,
    hasher: &KeyHasher,
    options: &EmbeddedOptions,
    due: &Due,
) -> Result<Loaded, Trouble> {
    let base = &meta.base;
    let log = transaction.open_table(LOG)?;
    let head = head_of(&log, base)?;
    let mut loaded = Loaded { index: Index::default(), segments: Segments::new(due), sets: Vec::new(), unreadable: 0 };

    loaded.index.reserve(usize::try_from(base.records).unwrap_or(0).min(1 << 24));
    let chunks = transaction.open_table(BASE)?;
    for row in ReadableTable::range(&chunks, (base.generation, 0)..=(base.generation, u32::MAX))? {
        let (place, row) = row?;
        let (generation, number) = place.value();
        codec::visit_chunk(row.value(), |record| {
            loaded.index.load(hasher.hash(record.key), record.revision, generation, number);
        })
        .map_err(|problem| bad_chunk(generation, number, problem.0))?;
    }

    let from = history_start(&log, meta, head, options)?;
    let mut expected = None;
    for row in ReadableTable::range::<u64>(&log, ..)? {
        let (first, row) = row?;
        let (first, row) = (first.value(), row.value());
        let last = last_of(first, row)?;
        if last <= base.position {
            // Superfluous since the last base, not yet swept away.
            continue;
        }
        let due_number = expected.unwrap_or_else(|| first.min(base.position + 1));
        if first != due_number {
            return Err(bad_log_row(first, &format!("the row with commit {due_number} is missing before it")));
        }
        expected = Some(last + 1);
        loaded.segments.add(last, row.len() as u64);
        loaded.row(first, row, from, meta, hasher)?;
    }
    Ok(loaded)
}

/// Most bytes of log whose changes are kept in memory when the store opens, so that it opens soon.
const HISTORY_LOG_BYTES: usize = 1 << 20;

/// The number after which changes are kept in memory.
fn history_start(
    log: &ReadOnlyTable<u64, &'static [u8]>,
    meta: &Meta,
    head: u64,
    options: &EmbeddedOptions,
) -> Result<u64, Trouble> {
    let floor = meta.base.position.max(meta.floor).min(head);
    let mut from = head;
    let mut bytes = 0;
    for row in ReadableTable::range::<u64>(log, ..)?.rev() {
        let (first, row) = row?;
        bytes += row.value().len();
        if bytes > HISTORY_LOG_BYTES && from < head {
            break;
        }
        from = first.value().saturating_sub(1);
        if from <= floor || head - from >= options.retain_changes {
            break;
        }
    }
    Ok(from.max(floor).max(head.saturating_sub(options.retain_changes)))
}

impl Loaded {
    fn row(&mut self, first: u64, row: &[u8], from: u64, meta: &Meta, hasher: &KeyHasher) -> Result<(), Trouble> {
        let mut operations = Vec::new();
        let count = codec::visit_log(row, first, |number, operation| operations.push((number, operation)))
            .map_err(|problem| bad_log_row(first, problem.0))?;
        let mut operations = operations.into_iter().peekable();
        for number in first..first + u64::from(count) {
            let mut changes = Vec::new();
            let mut bytes = 128;
            while let Some((_, operation)) = operations.next_if(|&(at, _)| at == number) {
                if number <= meta.base.position {
                    continue;
                }
                let hash = hasher.hash(operation.key);
                if number > from {
                    bytes += 128 + 3 * (operation.key.len() + operation.value.map_or(0, <[u8]>::len));
                    match change(operation.key, operation.value) {
                        Some(change) => changes.push(change),
                        None => self.unreadable += 1,
                    }
                }
                self.index.change(hash, operation.value.is_some(), number);
            }
            if number > from {
                let position = Position::new(meta.epoch, number);
                self.sets.push((Arc::new(ChangeSet { position, changes }), bytes));
            }
        }
        Ok(())
    }
}

/// A change from its bytes; none where this version can't read it.
fn change(key: &[u8], value: Option<&[u8]>) -> Option<Change> {
    let key: Key = std::str::from_utf8(key).ok()?.parse().ok()?;
    let record = match value {
        Some(value) => Some(Arc::new(Record::decode(&key, value).ok()?)),
        None => None,
    };
    Some(Change { key, record })
}
