//! Reading everything at one revision.
//!
//! Pages are large: for each, etcd counts all keys that follow, so many small ones would cost the square of their number.
//! While one page is on its way, the one before it is decoded on threads of its own.

use super::decode;
use super::endpoints::{Endpoints, MAX_MESSAGE, Pause};
use super::failure::Failure;
use super::keys::{Keys, Place, end_of};
use super::meta::{StoredEpoch, read_secret};
use super::mirror::{Entry, Loaded};
use crate::members::Member;
use crate::store::StoredRecord;
use crate::store::hashed::{KeyHash, KeyHasher};
use etcd_client::{GetOptions, KeyValue};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Keys in a page.
const PAGE: i64 = 10_000;
/// How long one page may take.
const PAGE_TIME: Duration = Duration::from_secs(20);

/// A page, decoded.
#[derive(Default)]
pub(super) struct Page {
    pub(super) records: Vec<StoredRecord>,
    entries: Vec<(KeyHash, Entry)>,
    live: Vec<(Member, u64)>,
    others: Vec<KeyValue>,
    foreign: Vec<(Vec<u8>, String)>,
    unreadable: Vec<Unreadable>,
}

/// A record whose value can't be read.
struct Unreadable {
    key: Vec<u8>,
    record: KeyHash,
    revision: u64,
    why: String,
}

/// Reads a range at a revision, page by page, in order.
pub(super) struct Pages<'a> {
    endpoints: &'a Endpoints,
    keys: &'a Keys,
    hasher: &'a KeyHasher,
    revision: u64,
    until: Instant,
    /// Most keys in a page.
    limit: i64,
    /// Where the next page begins; none after the last.
    from: Option<Vec<u8>>,
    end: Vec<u8>,
    /// The page before, being decoded while the next one comes.
    decoding: Option<JoinHandle<Page>>,
}

impl<'a> Pages<'a> {
    /// All that begins with `range`; takes until `until` at most.
    pub(super) fn new(
        endpoints: &'a Endpoints,
        keys: &'a Keys,
        hasher: &'a KeyHasher,
        range: &str,
        revision: u64,
        until: Instant,
    ) -> Self {
        let from = Some(range.as_bytes().to_vec());
        Self { endpoints, keys, hasher, revision, until, limit: PAGE, from, end: end_of(range), decoding: None }
    }

    /// The next page; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, Failure> {
        loop {
            let before = self.decoding.take();
            if let Some(from) = &self.from {
                let (page, more) = loop {
                    let range = (from.as_slice(), self.end.as_slice());
                    match fetch(self.endpoints, range, self.limit, self.revision, self.until).await {
                        // Its records are very large.
                        Err(failure) if failure.is_too_large() && self.limit > 1 => {
                            self.limit = (self.limit / 8).max(1)
                        }
                        page => break page?,
                    }
                };
                self.from = page.last().filter(|_| more).map(|last| [last.key(), b"\0"].concat());
                let (keys, hasher) = (self.keys.clone(), self.hasher.clone());
                self.decoding = Some(tokio::task::spawn_blocking(move || decode(page, &keys, &hasher)));
            }
            match before {
                Some(page) => return page.await.map(Some).map_err(|error| Failure::other(error.to_string())),
                None if self.decoding.is_none() => return Ok(None),
                None => {}
            }
        }
    }
}

async fn fetch(
    endpoints: &Endpoints,
    (from, end): (&[u8], &[u8]),
    limit: i64,
    revision: u64,
    until: Instant,
) -> Result<(Vec<KeyValue>, bool), Failure> {
    // What lies at a revision does not change, so any member may answer; one that is behind says so.
    let options = GetOptions::new()
        .with_range(end)
        .with_limit(limit)
        .with_revision(i64::try_from(revision).unwrap_or(i64::MAX))
        .with_serializable();
    let request = |client: etcd_client::Client| {
        let options = options.clone();
        async move { client.kv_client().max_decoding_message_size(MAX_MESSAGE).get(from, Some(options)).await }
    };
    let mut pause = Pause::new();
    loop {
        match endpoints.repeat(PAGE_TIME, until, request).await {
            Ok(mut page) => {
                let more = page.more();
                return Ok((page.take_kvs(), more));
            }
            Err(failure) if failure.text.contains("future revision") && Instant::now() < until => pause.wait().await,
            Err(failure) => return Err(failure),
        }
    }
}

fn decode(page: Vec<KeyValue>, keys: &Keys, hasher: &KeyHasher) -> Page {
    let mut decoded = Page::default();
    decoded.records.reserve(page.len());
    decoded.entries.reserve(page.len());
    for kv in page {
        match keys.place(kv.key()) {
            Place::Record(text) => {
                let (hash, revision) = (hasher.hash(text.as_bytes()), kv.mod_revision().unsigned_abs());
                match decode::record(text, kv.value(), hasher) {
                    Ok((key, record, value)) => {
                        decoded.entries.push((hash, Entry { revision, value }));
                        decoded.records.push(StoredRecord { key, record, revision });
                    }
                    Err(error) => decoded.unreadable.push(Unreadable {
                        key: kv.key().to_vec(),
                        record: hash,
                        revision,
                        why: error.to_string(),
                    }),
                }
            }
            Place::Replica(id) => match decode::member(id, kv.value()) {
                Some(member) => decoded.live.push((member, kv.create_revision().unsigned_abs())),
                None => decoded.foreign.push((kv.key().to_vec(), "not a replica of Fingerpost".to_owned())),
            },
            Place::Epoch | Place::Schema | Place::Secret | Place::Joins => decoded.others.push(kv),
            Place::Foreign => decoded.foreign.push((kv.key().to_vec(), "not a key of Fingerpost".to_owned())),
        }
    }
    decoded
}

impl Loaded {
    fn add(&mut self, page: &mut Page, keys: &Keys, hasher: &KeyHasher) {
        self.index.extend(page.entries.drain(..));
        self.live.extend(page.live.drain(..).map(|live| (live.0.id.clone(), live)));
        for (key, why) in page.foreign.drain(..) {
            self.foreign.note(&key, &why, hasher);
        }
        for Unreadable { key, record, revision, why } in page.unreadable.drain(..) {
            self.foreign.note_record(&key, record, revision, &why, hasher);
        }
        for kv in page.others.drain(..) {
            match keys.place(kv.key()) {
                Place::Epoch => self.epoch = StoredEpoch::read(kv.value()),
                Place::Schema => self.schema = serde_json::from_slice(kv.value()).ok(),
                Place::Joins => self.joins = kv.mod_revision().unsigned_abs(),
                _ => self.secret = read_secret(kv.value()),
            }
        }
    }
}

/// Everything under the prefix at one revision.
pub(super) async fn everything(
    endpoints: &Endpoints,
    keys: &Keys,
    hasher: &KeyHasher,
    revision: u64,
    until: Instant,
    mut staged: impl FnMut(Vec<StoredRecord>),
) -> Result<Loaded, Failure> {
    let mut loaded = Loaded::empty(revision);
    let mut pages = Pages::new(endpoints, keys, hasher, keys.watched(), revision, until);
    while let Some(mut page) = pages.next().await? {
        loaded.add(&mut page, keys, hasher);
        staged(page.records);
    }
    Ok(loaded)
}
