//! How much log lies where: what decides when a new base is due, and up to which position.

use std::collections::VecDeque;

/// The log since the base, in pieces.
#[derive(Default)]
pub(super) struct Segments {
    /// The last number of each piece, and its bytes.
    pieces: VecDeque<(u64, u64)>,
    total: u64,
    piece_bytes: u64,
}

/// When a new base is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    /// The least log that is worth it.
    pub(super) bytes: u64,
    /// Changes that stay in the log for followers that come back.
    pub(super) retain_changes: u64,
    /// But no more bytes of them than this.
    pub(super) retain_bytes: u64,
}

impl Segments {
    pub(super) fn new(due: &Due) -> Self {
        Self { piece_bytes: (due.bytes / 8).clamp(1, 256 << 10), ..Self::default() }
    }

    /// A row was added to the log.
    pub(super) fn add(&mut self, last: u64, bytes: u64) {
        self.total += bytes;
        match self.pieces.back_mut() {
            Some(piece) if piece.1 < self.piece_bytes => *piece = (last, piece.1 + bytes),
            _ => self.pieces.push_back((last, bytes)),
        }
    }

    /// The base took over everything up to a number.
    pub(super) fn trim(&mut self, position: u64) {
        while let Some(&(last, bytes)) = self.pieces.front()
            && last <= position
        {
            self.pieces.pop_front();
            self.total -= bytes;
        }
    }

    /// The position up to which a new base is due, if one is. A base as large as the log before it keeps the work of
    /// writing bases in proportion to the work of writing commits.
    pub(super) fn due(&self, due: &Due, base_bytes: u64) -> Option<u64> {
        let enough = due.bytes.max(base_bytes);
        if self.total < enough {
            return None;
        }
        let head = self.pieces.back()?.0;
        let mut kept = 0;
        for &(last, bytes) in self.pieces.iter().rev() {
            if head - last >= due.retain_changes || kept >= due.retain_bytes {
                return (self.total - kept >= enough).then_some(last);
            }
            kept += bytes;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_due_behind_what_is_retained() {
        let due = Due { bytes: 80, retain_changes: 5, retain_bytes: 1000 };
        let mut segments = Segments::new(&due);
        for number in 1..=12 {
            segments.add(number, 10);
        }
        assert_eq!(segments.due(&due, 0), None, "only 7 rows lie before the last 5");
        segments.add(13, 10);
        assert_eq!(segments.due(&due, 0), Some(8));
        assert_eq!(segments.due(&due, 90), None, "not before the log outgrows the base");
        assert_eq!(segments.due(&Due { retain_bytes: 20, ..due }, 90), Some(11));
        segments.trim(8);
        assert_eq!(segments.due(&due, 0), None);
    }
}
