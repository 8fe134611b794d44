//! Positions in the history of a store.

use std::fmt;
use std::str::FromStr;

/// The identity of one unbroken history. Numbers of different epochs can't be compared.
///
/// It is random, kept with the data, and renewed whenever numbers may have gone backwards: after an unclean end that may
/// have lost a relaxed tail, and when a store comes back with less than it had.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A point in a store's history, `<epoch>-<number>`. Opaque to users; every reply, event id, ETag and continue token
/// carries one.
///
/// The number is the store's own (etcd's `mod_revision`, the embedded store's commit number). Within an epoch it only grows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The history that `number` counts in.
    pub epoch: Epoch,
    /// The store's number of the commit.
    pub number: u64,
}

impl Position {
    /// A position from its parts.
    pub const fn new(epoch: Epoch, number: u64) -> Self {
        Self { epoch, number }
    }

    /// Whether all that `other` showed is included here. False across epochs.
    pub fn includes(&self, other: &Position) -> bool {
        self.epoch == other.epoch && self.number >= other.number
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position: take it whole from an earlier reply (it looks like `00c0ffee00c0ffee-42`)")]
pub struct ParsePositionError(String);

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePositionError(text.chars().take(64).collect());
        let (epoch, number) = text.split_once('-').ok_or_else(error)?;
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if epoch.len() != 16 || !epoch.bytes().all(hex) || !number.bytes().all(|c| c.is_ascii_digit()) {
            return Err(error());
        }
        Ok(Self {
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| error())?),
            number: number.parse().map_err(|_| error())?,
        })
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let position = Position::new(Epoch(0xbeef), 42);
        assert_eq!(position.to_string(), "000000000000beef-42");
        assert_eq!("000000000000beef-42".parse(), Ok(position));
        for bad in [
            "",
            "42",
            "beef-42",
            "000000000000BEEF-1",
            "000000000000beef--1",
            "000000000000beef-+1",
            "000000000000beef-",
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_do_not_compare() {
        let (a, b) = (Position::new(Epoch(1), 9), Position::new(Epoch(2), 3));
        assert!(a.includes(&Position::new(Epoch(1), 9)));
        assert!(!a.includes(&Position::new(Epoch(1), 10)));
        assert!(!a.includes(&b) && !b.includes(&a));
    }
}
