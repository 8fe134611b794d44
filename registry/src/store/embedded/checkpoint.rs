//! Building the next base on a thread of its own, beside the writer.
//!
//! The builder reads one snapshot of the database: first the log backwards from the base's new position, where the first
//! mention of a key is its latest state, then the old base, without the keys that the log mentioned. It hands chunks to
//! the writer, which writes them along with commits, so that no commit ever waits for a base. Nothing counts until the
//! writer switches over; a base that does not get that far is swept away.

use super::Shared;
use super::codec::{self, RawRecord};
use super::disk::Trouble;
use super::index::{HashedSet, KeyHash, KeyHasher};
use super::tables::{BASE, Base, LOG, bad_chunk, bad_log_row};
use redb::{ReadTransaction, ReadableTable};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// Chunks are this large: reading one value back reads its chunk, and the database gives each a power of two of bytes.
const CHUNK_BYTES: usize = (8 << 10) - 128;
/// Chunks are handed over in batches of about this many bytes, and so many batches may wait.
const BATCH_BYTES: usize = 256 << 10;
const BATCHES: usize = 8;

/// A chunk of the next base.
pub(super) struct Chunk {
    pub(super) number: u32,
    pub(super) row: Vec<u8>,
    /// Whose records are in it, and of which revision.
    pub(super) places: Vec<(KeyHash, u64)>,
}

enum Message {
    Batch(Vec<Chunk>),
    Done(Base),
    Failed(Trouble),
}

/// A base being built, as the writer sees it.
pub(super) struct Checkpoint {
    pub(super) generation: u32,
    receiver: Option<Receiver<Message>>,
    thread: Option<JoinHandle<()>>,
    ready: Vec<Chunk>,
    ready_bytes: usize,
    done: Option<Base>,
}

impl Checkpoint {
    /// Starts building a base at a position.
    pub(super) fn start(shared: &Arc<Shared>, hasher: KeyHasher, base: Base, position: u64) -> Result<Self, Trouble> {
        let transaction = shared.read()?;
        let generation = base.generation.wrapping_add(1);
        let (sender, receiver) = sync_channel(BATCHES);
        let waker = Arc::clone(shared);
        let build = move || {
            let mut builder = Builder {
                hasher,
                sender,
                wake: &|| waker.inbox.nudge(),
                chunk: Chunk { number: 0, row: codec::begin_row(CHUNK_BYTES), places: Vec::new() },
                batch: Vec::new(),
                batch_bytes: 0,
                base: Base { generation, position, ..Base::default() },
            };
            let last = match builder.build(&transaction, &base) {
                Ok(Some(base)) => Message::Done(base),
                // The writer lost interest.
                Ok(None) => return,
                Err(trouble) => Message::Failed(trouble),
            };
            drop(transaction);
            builder.send(last);
        };
        let thread = std::thread::Builder::new()
            .name("store-base".to_owned())
            .spawn(build)
            .map_err(|error| Trouble::Io(format!("no thread for building a base: {error}")))?;
        Ok(Self {
            generation,
            receiver: Some(receiver),
            thread: Some(thread),
            ready: Vec::new(),
            ready_bytes: 0,
            done: None,
        })
    }

    /// Takes what the builder has finished, as far as the budget needs it.
    pub(super) fn poll(&mut self, budget: usize) -> Result<(), Trouble> {
        while self.ready_bytes < budget && self.done.is_none() {
            let Some(receiver) = &self.receiver else { break };
            match receiver.try_recv() {
                Ok(Message::Batch(chunks)) => {
                    self.ready_bytes += chunks.iter().map(|chunk| chunk.row.len()).sum::<usize>();
                    self.ready.extend(chunks);
                }
                Ok(Message::Done(base)) => self.done = Some(base),
                Ok(Message::Failed(trouble)) => return Err(trouble),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return Err(Trouble::Io("the thread that built a base ended early".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// What is to be written next.
    pub(super) fn ready(&self) -> &[Chunk] {
        &self.ready
    }

    /// The chunks that were ready have been written.
    pub(super) fn written(&mut self) -> Vec<Chunk> {
        self.ready_bytes = 0;
        std::mem::take(&mut self.ready)
    }

    /// The base, once all of it is written.
    pub(super) fn finished(&self) -> Option<Base> {
        self.done.filter(|_| self.ready.is_empty())
    }

    /// Whether the writer has something to do for it.
    pub(super) fn wants_writing(&self) -> bool {
        !self.ready.is_empty() || self.done.is_some()
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // A builder that waits for room ends when nobody receives any more.
        self.receiver = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that builds bases panicked");
        }
    }
}

struct Builder<'a> {
    hasher: KeyHasher,
    sender: SyncSender<Message>,
    wake: &'a dyn Fn(),
    chunk: Chunk,
    batch: Vec<Chunk>,
    batch_bytes: usize,
    base: Base,
}

impl Builder<'_> {
    /// None when the writer does not listen any more.
    fn build(&mut self, transaction: &ReadTransaction, old: &Base) -> Result<Option<Base>, Trouble> {
        let position = self.base.position;
        let hasher = self.hasher.clone();
        let mut open = true;
        scan(transaction, old, position, &hasher, |record, hash| {
            open = open && self.add(&record, hash);
            open
        })?;
        if !open || !self.end_chunk() || !self.end_batch() {
            return Ok(None);
        }
        Ok(Some(self.base))
    }

    fn add(&mut self, record: &RawRecord<'_>, hash: KeyHash) -> bool {
        let full = !self.chunk.places.is_empty() && self.chunk.row.len() + codec::record_size(record) > CHUNK_BYTES;
        if full && !self.end_chunk() {
            return false;
        }
        codec::put_record(&mut self.chunk.row, record);
        self.chunk.places.push((hash, record.revision));
        self.base.records += 1;
        true
    }

    fn end_chunk(&mut self) -> bool {
        if self.chunk.places.is_empty() {
            return true;
        }
        let next = Chunk {
            number: self.chunk.number + 1,
            row: codec::begin_row(CHUNK_BYTES),
            places: Vec::with_capacity(self.chunk.places.len()),
        };
        let mut chunk = std::mem::replace(&mut self.chunk, next);
        codec::finish_row(&mut chunk.row, chunk.places.len() as u32);
        self.base.bytes += chunk.row.len() as u64;
        self.batch_bytes += chunk.row.len();
        self.batch.push(chunk);
        self.batch_bytes < BATCH_BYTES || self.end_batch()
    }

    fn end_batch(&mut self) -> bool {
        if self.batch.is_empty() {
            return true;
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.send(Message::Batch(batch))
    }

    fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        (self.wake)();
        sent
    }
}

/// Calls `visit` with every record as it was at a position not before the base's, in no order, each once, until it
/// returns false.
pub(super) fn scan(
    transaction: &ReadTransaction,
    base: &Base,
    position: u64,
    hasher: &KeyHasher,
    mut visit: impl FnMut(RawRecord<'_>, KeyHash) -> bool,
) -> Result<(), Trouble> {
    let log = transaction.open_table(LOG)?;
    // Only what the log mentions is remembered; the base has each key once.
    let mut seen = HashedSet::default();
    for row in ReadableTable::range(&log, ..=position)?.rev() {
        let (first, row) = row?;
        let first = first.value();
        let mut operations = Vec::new();
        let mut last = first;
        codec::visit_log(row.value(), first, |number, operation| {
            last = number;
            if number > base.position && number <= position {
                operations.push((number, operation));
            }
        })
        .map_err(|problem| bad_log_row(first, problem.0))?;
        for &(revision, operation) in operations.iter().rev() {
            let hash = hasher.hash(operation.key);
            if seen.insert(hash)
                && let Some(value) = operation.value
                && !visit(RawRecord { key: operation.key, value, revision }, hash)
            {
                return Ok(());
            }
        }
        if last <= base.position {
            break;
        }
    }
    let chunks = transaction.open_table(BASE)?;
    for row in ReadableTable::range(&chunks, (base.generation, 0)..=(base.generation, u32::MAX))? {
        let (place, row) = row?;
        let mut go_on = true;
        codec::visit_chunk(row.value(), |record| {
            if go_on {
                let hash = hasher.hash(record.key);
                go_on = seen.contains(&hash) || visit(record, hash);
            }
        })
        .map_err(|problem| bad_chunk(base.generation, place.value().1, problem.0))?;
        if !go_on {
            break;
        }
    }
    Ok(())
}
