//! The tables of the database.
//!
//! `log` holds what was committed since the base; `base` holds everything as it was at one position. A base is never
//! changed: the next generation is written beside it, and one small transaction switches over. What does not belong to
//! the current base, and the part of the log that it makes superfluous, is swept away in small steps.

use super::codec;
use super::disk::Trouble;
use fingerpost_catalog::Epoch;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

/// The form of the data that this version writes. Additive changes don't raise it.
pub(super) const SCHEMA: u64 = 1;

/// The number of a row's first commit, and the row.
pub(super) const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");
/// Generation and number of a chunk, and the chunk.
pub(super) const BASE: TableDefinition<'static, (u32, u32), &'static [u8]> = TableDefinition::new("base");
/// Everything else, by name.
pub(super) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// The rows of `META`.
pub(super) mod meta {
    pub(in super::super) const SCHEMA: &str = "schema";
    pub(in super::super) const EPOCH: &str = "epoch";
    /// The generation of the current base, its position, and its size.
    pub(in super::super) const GENERATION: &str = "generation";
    pub(in super::super) const POSITION: &str = "position";
    pub(in super::super) const BYTES: &str = "bytes";
    pub(in super::super) const RECORDS: &str = "records";
    /// 1 while commits may be visible that are not on disk.
    pub(in super::super) const RELAXED: &str = "relaxed";
    /// Nobody may resume from before it.
    pub(in super::super) const FLOOR: &str = "floor";
}

/// The base that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Base {
    pub(super) generation: u32,
    /// Everything up to this number is in it.
    pub(super) position: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
}

/// What `META` holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) schema: u64,
    pub(super) epoch: Epoch,
    pub(super) base: Base,
    pub(super) relaxed: bool,
    pub(super) floor: u64,
}

/// Reads `META`; none in a new database.
pub(super) fn read_meta(table: &impl ReadableTable<&'static str, u64>) -> Result<Option<Meta>, Trouble> {
    let get = |name: &str| -> Result<Option<u64>, Trouble> { Ok(table.get(name)?.map(|value| value.value())) };
    let Some(schema) = get(meta::SCHEMA)? else {
        return Ok(None);
    };
    let need = |name: &str| get(name)?.ok_or_else(|| Trouble::Corrupt(format!("`{name}` is missing in table `meta`")));
    Ok(Some(Meta {
        schema,
        epoch: Epoch(need(meta::EPOCH)?),
        base: Base {
            generation: u32::try_from(need(meta::GENERATION)?)
                .map_err(|_| Trouble::Corrupt("`generation` in table `meta` is too high".to_owned()))?,
            position: need(meta::POSITION)?,
            bytes: get(meta::BYTES)?.unwrap_or(0),
            records: get(meta::RECORDS)?.unwrap_or(0),
        },
        relaxed: get(meta::RELAXED)?.unwrap_or(0) != 0,
        floor: get(meta::FLOOR)?.unwrap_or(0),
    }))
}

/// Sets a row of `META`.
pub(super) fn set_meta(transaction: &WriteTransaction, name: &'static str, value: u64) -> Result<(), Trouble> {
    transaction.open_table(META)?.insert(name, value)?;
    Ok(())
}

/// Makes another base the one that counts.
pub(super) fn switch_base(transaction: &WriteTransaction, base: &Base) -> Result<(), Trouble> {
    let mut table = transaction.open_table(META)?;
    table.insert(meta::GENERATION, u64::from(base.generation))?;
    table.insert(meta::POSITION, base.position)?;
    table.insert(meta::BYTES, base.bytes)?;
    table.insert(meta::RECORDS, base.records)?;
    Ok(())
}

/// Makes the tables of a new database.
pub(super) fn initialize(transaction: &WriteTransaction, epoch: Epoch) -> Result<(), Trouble> {
    transaction.open_table(LOG)?;
    transaction.open_table(BASE)?;
    switch_base(transaction, &Base::default())?;
    set_meta(transaction, meta::EPOCH, epoch.0)?;
    set_meta(transaction, meta::SCHEMA, SCHEMA)
}

/// The number of the last commit of a row.
pub(super) fn last_of(first: u64, row: &[u8]) -> Result<u64, Trouble> {
    match codec::row_count(row) {
        Ok(count) if count > 0 => Ok(first.saturating_add(u64::from(count) - 1)),
        Ok(_) => Err(bad_log_row(first, "it is empty")),
        Err(codec::BadRow(problem)) => Err(bad_log_row(first, problem)),
    }
}

/// The number of the last commit on disk.
pub(super) fn head_of(log: &impl ReadableTable<u64, &'static [u8]>, base: &Base) -> Result<u64, Trouble> {
    match log.last()? {
        Some((first, row)) => Ok(last_of(first.value(), row.value())?.max(base.position)),
        None => Ok(base.position),
    }
}

/// A row of the log that can't be decoded.
pub(super) fn bad_log_row(first: u64, problem: &str) -> Trouble {
    Trouble::Corrupt(format!("row {first} of table `log` can't be read: {problem}"))
}

/// A chunk of the base that can't be decoded.
pub(super) fn bad_chunk(generation: u32, chunk: u32, problem: &str) -> Trouble {
    Trouble::Corrupt(format!("row {generation}/{chunk} of table `base` can't be read: {problem}"))
}

/// Removes at most so many rows that the base makes superfluous; true if more may be left.
pub(super) fn sweep(transaction: &WriteTransaction, base: &Base, budget: usize) -> Result<bool, Trouble> {
    let mut left = budget;
    {
        let mut table = transaction.open_table(LOG)?;
        while left > 0 {
            let superfluous = match table.first()? {
                Some((first, row)) if first.value() <= base.position => {
                    last_of(first.value(), row.value())? <= base.position
                }
                _ => false,
            };
            if !superfluous {
                break;
            }
            table.pop_first()?;
            left -= 1;
        }
    }
    let mut table = transaction.open_table(BASE)?;
    for older in [true, false] {
        let mut keys = Vec::new();
        let range = if older {
            table.range((0, 0)..(base.generation, 0))?
        } else {
            match base.generation.checked_add(1) {
                Some(next) => table.range((next, 0)..)?,
                None => continue,
            }
        };
        for row in range.take(left) {
            keys.push(row?.0.value());
        }
        left -= keys.len();
        for key in keys {
            table.remove(key)?;
        }
    }
    Ok(left == 0)
}
