//! Reading a single value back from where the index says that it lies.

use super::codec;
use super::disk::Trouble;
use super::index::Entry;
use super::tables::{BASE, Base, LOG, bad_chunk, bad_log_row};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use std::collections::VecDeque;

/// A row of the log that is filled commit by commit. It can be read and written at any time.
pub(super) struct LogRow {
    pub(super) first: u64,
    count: u32,
    bytes: Vec<u8>,
}

/// Rows are no larger than this, but for a single commit that is: reading one value back reads its row.
const ROW_BYTES: usize = (16 << 10) - 128;

impl LogRow {
    /// The number of the last commit in it.
    pub(super) fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// The encoding.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Finds the value that a commit in it gave a key.
    fn value(&self, number: u64, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        find_in_log(&self.bytes, self.first, number, key)
    }
}

/// Appends a commit, given as its operations' encoding, to the last row or a new one.
pub(super) fn append(rows: &mut VecDeque<LogRow>, number: u64, commit: &[u8]) {
    let last = rows.back_mut().filter(|row| row.last() + 1 == number && row.bytes.len() + commit.len() <= ROW_BYTES);
    match last {
        Some(row) => {
            row.bytes.extend_from_slice(commit);
            row.count += 1;
            codec::finish_row(&mut row.bytes, row.count);
        }
        None => {
            let mut bytes = codec::begin_row(codec::HEADER + commit.len());
            bytes.extend_from_slice(commit);
            codec::finish_row(&mut bytes, 1);
            rows.push_back(LogRow { first: number, count: 1, bytes });
        }
    }
}

/// Looks for a value among rows that are not on disk yet; none where no row has that commit.
pub(super) fn find_in_rows(
    rows: &VecDeque<LogRow>,
    number: u64,
    key: &[u8],
) -> Option<Result<Option<Vec<u8>>, Trouble>> {
    let place = rows.partition_point(|row| row.first <= number).checked_sub(1)?;
    let row = rows.get(place).filter(|row| number <= row.last())?;
    Some(row.value(number, key))
}

fn find_in_log(row: &[u8], first: u64, number: u64, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
    let mut found = None;
    codec::visit_log(row, first, |at, operation| {
        if at == number && operation.key == key {
            found = operation.value;
        }
    })
    .map_err(|problem| bad_log_row(first, problem.0))?;
    Ok(found.map(<[u8]>::to_vec))
}

/// The values on disk, as one read transaction sees them.
pub(super) struct Values {
    log: ReadOnlyTable<u64, &'static [u8]>,
    base: ReadOnlyTable<(u32, u32), &'static [u8]>,
}

impl Values {
    pub(super) fn new(transaction: &ReadTransaction) -> Result<Self, Trouble> {
        Ok(Self { log: transaction.open_table(LOG)?, base: transaction.open_table(BASE)? })
    }

    /// The value of a record; none where it is not where it should be.
    pub(super) fn get(&self, entry: &Entry, key: &[u8], base: &Base) -> Result<Option<Vec<u8>>, Trouble> {
        if entry.revision > base.position {
            return match ReadableTable::range(&self.log, ..=entry.revision)?.next_back() {
                Some(row) => {
                    let (first, row) = row?;
                    find_in_log(row.value(), first.value(), entry.revision, key)
                }
                None => Ok(None),
            };
        }
        let chunk = entry.chunk_in(base.generation);
        let Some(row) = ReadableTable::get(&self.base, (base.generation, chunk))? else {
            return Ok(None);
        };
        let mut found = None;
        codec::visit_chunk(row.value(), |record| {
            if record.key == key {
                found = Some(record.value);
            }
        })
        .map_err(|problem| bad_chunk(base.generation, chunk, problem.0))?;
        Ok(found.map(<[u8]>::to_vec))
    }
}
