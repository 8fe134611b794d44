//! The data folder: who holds it, the database file in it, and a note of how far it had come.
//!
//! - `LOCK` is held by the one process that uses the folder and says who that is.
//! - `store.redb` is the database.
//! - `SEEN` says which position the database had reached for certain. It lies beside the database so that a restored
//!   backup of the database alone gives itself away.
//! - `RESERVE` holds a little room. A full disk leaves the database in need of repair, and repair needs room.

use super::OpenError;
use super::disk::Medium;
use fingerpost_catalog::Position;
use parking_lot::Mutex;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const LOCK: &str = "LOCK";
const DATABASE: &str = "store.redb";
const SEEN: &str = "SEEN";
const RESERVE: &str = "RESERVE";
const RESERVE_BYTES: usize = 2 << 20;

/// A data folder that this process holds. Dropping it lets go.
pub(super) struct Folder {
    path: PathBuf,
    /// Holds the lock while it is open.
    lock: Mutex<Option<File>>,
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

impl Folder {
    /// Makes the folder if need be, and takes hold of it.
    pub(super) fn hold(path: &Path) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::Io { path: path.to_owned(), problem: error.to_string() };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(failed)?;

        let mut lock = private(OpenOptions::new().read(true).write(true).create(true).truncate(false))
            .open(path.join(LOCK))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is a help, not a need.
                let _ = lock.take(512).read_to_string(&mut holder);
                let holder = holder.trim();
                return Err(OpenError::Locked {
                    path: path.to_owned(),
                    holder: if holder.is_empty() { "an unknown process".to_owned() } else { holder.to_owned() },
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let program = std::env::args_os().next().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        lock.set_len(0).map_err(failed)?;
        writeln!(lock, "pid {}, {program}, since {}", std::process::id(), utc(since)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), lock: Mutex::new(Some(lock)) })
    }

    /// Lets go of the folder before the end.
    pub(super) fn release(&self) {
        *self.lock.lock() = None;
    }

    /// The database file.
    pub(super) fn medium(&self) -> Box<dyn Medium> {
        Box::new(Files { folder: self.path.clone() })
    }

    /// The position that the database had reached, as far as it was noted.
    pub(super) fn seen(&self) -> Option<Position> {
        let path = self.path.join(SEEN);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the note of the last position can't be read");
                return None;
            }
        };
        match text.trim().parse() {
            Ok(position) => Some(position),
            Err(_) => {
                tracing::warn!(path = %path.display(), "the note of the last position makes no sense and is ignored");
                None
            }
        }
    }

    /// Notes a position that is on disk for certain. The note need not be: one that is lost only says less.
    pub(super) fn note_seen(&self, position: Position, sync: bool) {
        let write = || {
            let draft = self.path.join("SEEN.new");
            let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&draft)?;
            writeln!(file, "{position}")?;
            if sync {
                file.sync_all()?;
            }
            fs::rename(&draft, self.path.join(SEEN))
        };
        let result: io::Result<()> = write();
        if let Err(error) = result {
            tracing::debug!(path = %self.path.display(), %error, "the last position could not be noted");
        }
    }
}

/// The database file, and some room beside it.
struct Files {
    folder: PathBuf,
}

impl Medium for Files {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let path = self.folder.join(DATABASE);
        let fresh = !path.exists();
        let file = private(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(&path)?;
        if fresh {
            // Otherwise the file's name may be lost in a crash, with everything in it.
            File::open(&self.folder)?.sync_all()?;
        }
        let backend = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Box::new(backend))
    }

    fn keep_reserve(&self) -> io::Result<()> {
        let path = self.folder.join(RESERVE);
        if fs::metadata(&path).is_ok_and(|found| found.len() == RESERVE_BYTES as u64) {
            return Ok(());
        }
        let write = || {
            let mut file = private(OpenOptions::new().write(true).create(true).truncate(true)).open(&path)?;
            // Not zeros, which some file systems would not keep room for.
            let block: Vec<u8> = (0..1u32 << 14).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
            for _ in 0..RESERVE_BYTES / block.len() {
                file.write_all(&block)?;
            }
            file.sync_all()
        };
        let result: io::Result<()> = write();
        if result.is_err() {
            self.free_reserve();
        }
        result
    }

    fn free_reserve(&self) {
        // It may be gone already; and if it can't be removed there is nothing else to try.
        let _ = fs::remove_file(self.folder.join(RESERVE));
    }
}

/// Seconds since 1970 as a date and time (days to civil date after Howard Hinnant).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(utc(1_767_225_599), "2025-12-31 23:59:59 UTC");
    }
}
