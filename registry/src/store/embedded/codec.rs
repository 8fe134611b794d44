//! How commits and records are laid out in the rows of the database.
//!
//! A row of the log holds whole commits with consecutive numbers; the first one's number is the row's key, so no number
//! is stored. A chunk of the base holds records with the number of their last change. Keys and values are the bytes that
//! the catalog makes of them: nothing here parses them, so a record of a kind that this version does not know survives.
//! Rows are not checksummed here, the database does that; but no row, however broken, makes the decoder panic.

/// The first byte of every row.
const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
/// Version and count.
pub(super) const HEADER: usize = 5;

/// A row that can't be decoded.
#[derive(Debug)]
pub(super) struct BadRow(pub(super) &'static str);

/// One operation as it stands in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RawOperation<'a> {
    pub(super) key: &'a [u8],
    /// None where the record is removed.
    pub(super) value: Option<&'a [u8]>,
}

/// One record as it stands in a chunk of the base.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RawRecord<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) revision: u64,
}

/// Appends an operation.
pub(super) fn put_operation(out: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    out.push(if value.is_some() { PUT } else { DELETE });
    // Keys are shorter than 64 KiB: `prepare` refuses longer ones.
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    if let Some(value) = value {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// Begins the encoding of a commit's operations.
pub(super) fn put_commit(out: &mut Vec<u8>, operations: u16) {
    out.extend_from_slice(&operations.to_le_bytes());
}

/// How many bytes a record takes in a chunk.
pub(super) fn record_size(record: &RawRecord<'_>) -> usize {
    8 + 2 + record.key.len() + 4 + record.value.len()
}

/// Appends a record to a chunk.
pub(super) fn put_record(out: &mut Vec<u8>, record: &RawRecord<'_>) {
    out.extend_from_slice(&record.revision.to_le_bytes());
    out.extend_from_slice(&(record.key.len() as u16).to_le_bytes());
    out.extend_from_slice(record.key);
    out.extend_from_slice(&(record.value.len() as u32).to_le_bytes());
    out.extend_from_slice(record.value);
}

/// A row that is being filled; its header is written when it is finished.
pub(super) fn begin_row(capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    out
}

/// Sets the number of commits or records of a row made by [`begin_row`].
pub(super) fn finish_row(row: &mut [u8], count: u32) {
    if let Some(place) = row.get_mut(1..HEADER) {
        place.copy_from_slice(&count.to_le_bytes());
    }
}

/// Reads bytes from the front of a slice.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadRow> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(BadRow("it ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRow> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(BadRow("it ends too early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn short(&mut self) -> Result<usize, BadRow> {
        Ok(usize::from(u16::from_le_bytes(self.array()?)))
    }

    fn long(&mut self) -> Result<usize, BadRow> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn header(&mut self) -> Result<u32, BadRow> {
        let [version] = self.array()?;
        if version != VERSION {
            return Err(BadRow("it has an unknown version"));
        }
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn end(&self) -> Result<(), BadRow> {
        if self.0.is_empty() { Ok(()) } else { Err(BadRow("it is longer than it should be")) }
    }
}

/// How many commits or records a row holds.
pub(super) fn row_count(row: &[u8]) -> Result<u32, BadRow> {
    Bytes(row).header()
}

/// Calls `visit` with every operation of a row of the log, in order, and with the number of its commit.
pub(super) fn visit_log<'a>(
    row: &'a [u8],
    first: u64,
    mut visit: impl FnMut(u64, RawOperation<'a>),
) -> Result<u32, BadRow> {
    let mut bytes = Bytes(row);
    let count = bytes.header()?;
    for commit in 0..count {
        let number = first.checked_add(u64::from(commit)).ok_or(BadRow("its numbers are too high"))?;
        for _ in 0..bytes.short()? {
            let [kind] = bytes.array()?;
            let length = bytes.short()?;
            let key = bytes.take(length)?;
            let value = match kind {
                PUT => {
                    let length = bytes.long()?;
                    Some(bytes.take(length)?)
                }
                DELETE => None,
                _ => return Err(BadRow("it has an unknown operation")),
            };
            visit(number, RawOperation { key, value });
        }
    }
    bytes.end()?;
    Ok(count)
}

/// Calls `visit` with every record of a chunk of the base.
pub(super) fn visit_chunk<'a>(row: &'a [u8], mut visit: impl FnMut(RawRecord<'a>)) -> Result<u32, BadRow> {
    let mut bytes = Bytes(row);
    let count = bytes.header()?;
    for _ in 0..count {
        let revision = u64::from_le_bytes(bytes.array()?);
        let length = bytes.short()?;
        let key = bytes.take(length)?;
        let length = bytes.long()?;
        visit(RawRecord { key, value: bytes.take(length)?, revision });
    }
    bytes.end()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log_row() -> Vec<u8> {
        let mut row = begin_row(64);
        put_commit(&mut row, 2);
        put_operation(&mut row, "a", Some(b"{}"));
        put_operation(&mut row, "b", None);
        put_commit(&mut row, 1);
        put_operation(&mut row, "c", Some(b""));
        finish_row(&mut row, 2);
        row
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let row = log_row();
        let mut seen = Vec::new();
        assert_eq!(visit_log(&row, 7, |number, op| seen.push((number, op))).unwrap(), 2);
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[1], (7, RawOperation { key: b"b", value: None }));
        assert_eq!(seen[2], (8, RawOperation { key: b"c", value: Some(b"") }));
    }

    proptest! {
        #[test]
        fn broken_rows_do_not_panic(cut in 0usize..60, flip in 0usize..60, noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut row = log_row();
            let length = row.len();
            row[flip % length] ^= 0x5a;
            row.truncate(cut);
            let _ = visit_log(&row, 1, |_, _| ());
            let _ = visit_chunk(&row, |_| ());
            let _ = visit_log(&noise, u64::MAX, |_, _| ());
            let _ = visit_chunk(&noise, |_| ());
        }
    }
}
