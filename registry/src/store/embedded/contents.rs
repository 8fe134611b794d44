//! Handing out everything that the store holds, from one snapshot of the database, while commits go on.

use super::Shared;
use super::checkpoint::scan;
use super::disk::Trouble;
use super::index::KeyHasher;
use super::tables::{LOG, META, head_of, read_meta};
use crate::store::{Contents, ReadAt, StoreError, StoredRecord};
use fingerpost_catalog::{Key, Position, Record};
use redb::ReadTransaction;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

const BATCH: usize = 1000;
/// Batches that may wait for the caller.
const BATCHES: usize = 4;

/// Begins a read.
pub(super) fn read_all(shared: &Arc<Shared>, at: ReadAt, runtime: Handle) -> Result<Contents, StoreError> {
    if shared.stop.is_cancelled() {
        return Err(StoreError::Closed);
    }
    let unavailable = |trouble: Trouble| StoreError::Unavailable(trouble.to_string());
    let transaction = shared.read().map_err(unavailable)?;
    let snapshot = || {
        let meta = read_meta(&transaction.open_table(META)?)?
            .ok_or_else(|| Trouble::Corrupt("table `meta` is empty".to_owned()))?;
        let head = head_of(&transaction.open_table(LOG)?, &meta.base)?;
        Ok((meta, head))
    };
    let (meta, on_disk) = snapshot().map_err(unavailable)?;
    // Looked at after the snapshot was taken, so it is not behind the snapshot's base. The snapshot may hold a commit
    // that nobody can follow from yet, or lack relaxed ones that everybody has seen.
    let latest = shared.history.head();
    let head = latest.number.min(on_disk);
    let number = match at {
        ReadAt::Oldest => shared.history.oldest().max(meta.base.position).min(head),
        ReadAt::Latest => head,
    };

    let (sender, receiver) = mpsc::channel(BATCHES);
    let reader = Reader { shared: Arc::clone(shared), sender, runtime, batch: Vec::new(), unreadable: 0 };
    let spawned = std::thread::Builder::new()
        .name("store-read".to_owned())
        .spawn(move || reader.run(&transaction, &meta.base, number));
    let thread = spawned.map_err(|error| StoreError::Unavailable(format!("no thread for reading: {error}")))?;
    shared.keep_reader(thread);
    Ok(Contents { position: Position::new(latest.epoch, number), records: receiver })
}

struct Reader {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Result<Vec<StoredRecord>, StoreError>>,
    runtime: Handle,
    batch: Vec<StoredRecord>,
    unreadable: u64,
}

impl Reader {
    fn run(mut self, transaction: &ReadTransaction, base: &super::tables::Base, number: u64) {
        let hasher = KeyHasher::new();
        let mut open = true;
        let scanned = scan(transaction, base, number, &hasher, |record, _| {
            match decode(record.key, record.value) {
                Some((key, value)) => {
                    self.batch.push(StoredRecord { key, record: value, revision: record.revision });
                    if self.batch.len() == BATCH {
                        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
                        open = self.send(Ok(batch));
                    }
                }
                None => self.unreadable += 1,
            }
            open
        });
        if !open {
            return;
        }
        if self.unreadable > 0 {
            tracing::warn!(
                records = self.unreadable,
                "the store holds records that this version can't read: they are kept, but not served"
            );
        }
        let last = match scanned {
            Ok(()) if self.batch.is_empty() => return,
            Ok(()) => Ok(std::mem::take(&mut self.batch)),
            Err(trouble) => Err(StoreError::Unavailable(trouble.to_string())),
        };
        self.send(last);
    }

    /// Waits for room; false when nobody reads any more, or the store closes.
    fn send(&self, item: Result<Vec<StoredRecord>, StoreError>) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                sent = self.sender.send(item) => sent.is_ok(),
                () = self.shared.stop.cancelled() => false,
            }
        })
    }
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Key, Record)> {
    let key: Key = std::str::from_utf8(key).ok()?.parse().ok()?;
    let record = Record::decode(&key, value).ok()?;
    Some((key, record))
}
