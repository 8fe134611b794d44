//! Going back: from everything at the latest revision to what it was a little before, with the changes since.
//!
//! A replica that was restarted has no history, and whoever resumes from before it would start over. So a replica begins in
//! the past and applies the latest changes one by one. That is done only as far as these are few, because taking in a change
//! costs several times as much as loading a record, and some may be large: after a mass registration, a thousand revisions are
//! a whole registry. How many they are is known only when everything has been loaded, which is why it is loaded at the latest
//! revision: a watch brings the changes with the values before them, and those replace what is newer.

use super::decode;
use super::endpoints::{Endpoints, MAX_MESSAGE, REQUEST};
use super::failure::Failure;
use super::keys::{Keys, Place};
use super::mirror::{Entry, Event, Loaded, Mirror};
use crate::store::StoredRecord;
use crate::store::hashed::{HashedSet, KeyHasher};
use etcd_client::{EventType, KeyValue, WatchOptions, WatchResponse};

/// The changes between a revision and a later one, in order.
pub(super) struct Past {
    changes: Vec<WatchResponse>,
    /// Up to where they are whole.
    until: u64,
}

/// How far to go back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// The revision at which the epoch began.
    pub(super) epoch_since: u64,
    /// Most revisions.
    pub(super) revisions: u64,
    /// Most records that changed in them, as far as it can be seen.
    pub(super) changes: usize,
}

impl Past {
    /// Takes `loaded` and its records back, if that can be done soon; what can't be undone leaves everything as it is.
    pub(super) async fn go_back(
        endpoints: &Endpoints,
        keys: &Keys,
        hasher: &KeyHasher,
        reach: Reach,
        loaded: &mut Loaded,
        pages: &mut Vec<Vec<StoredRecord>>,
    ) -> Option<Self> {
        let latest = loaded.revision;
        // Positions before the epoch's beginning are none of this history.
        let mut goal = latest.saturating_sub(reach.revisions).max(reach.epoch_since);
        let mut recent: Vec<u64> =
            pages.iter().flatten().map(|record| record.revision).filter(|revision| *revision > goal).collect();
        if recent.len() > reach.changes {
            let (_, first_too_many, _) = recent.select_nth_unstable_by(reach.changes, |a, b| b.cmp(a));
            goal = *first_too_many;
        }
        for _ in 0..2 {
            if goal >= latest {
                return None;
            }
            let most = 4 * reach.changes.max(recent.len().min(reach.changes));
            match tokio::time::timeout(REQUEST, changes(endpoints, keys, goal, latest, most)).await {
                Ok(Ok(Changes::All(changes))) => {
                    let past = Self { changes, until: latest };
                    return past.undo(keys, hasher, goal, loaded, pages).then_some(past);
                }
                // At that revision itself, everything is still there.
                Ok(Ok(Changes::Compacted(revision))) => goal = revision,
                Ok(Ok(Changes::TooMany)) => return None,
                Ok(Err(failure)) => {
                    tracing::debug!(%failure, "the latest changes can't be read");
                    return None;
                }
                Err(_) => return None,
            }
        }
        None
    }

    fn events(&self) -> impl Iterator<Item = (&etcd_client::Event, &KeyValue)> {
        let events = self.changes.iter().flat_map(WatchResponse::events);
        events.filter_map(|event| event.kv().map(|kv| (event, kv))).filter(|(_, kv)| revision(kv) <= self.until)
    }

    fn undo(
        &self,
        keys: &Keys,
        hasher: &KeyHasher,
        goal: u64,
        loaded: &mut Loaded,
        pages: &mut Vec<Vec<StoredRecord>>,
    ) -> bool {
        let mut touched = HashedSet::default();
        let (mut records, mut entries) = (Vec::new(), Vec::new());
        for (event, kv) in self.events() {
            let text = match keys.place(kv.key()) {
                Place::Record(text) => text,
                // It has been replaced just now.
                Place::Epoch => return false,
                // What is known of the rest is the same after the changes have been applied again.
                _ => continue,
            };
            let created = event.event_type() == EventType::Put && kv.version() == 1;
            // A compaction in between takes what was before.
            if !created && event.prev_kv().is_none() {
                return false;
            }
            let hash = hasher.hash(text.as_bytes());
            if !touched.insert(hash) {
                continue;
            }
            let Some(before) = event.prev_kv() else { continue };
            // What couldn't be read was no record.
            if let Ok((key, record, value)) = decode::record(text, before.value(), hasher) {
                let revision = revision(before);
                entries.push((hash, Entry { revision, value }));
                records.push(StoredRecord { key, record, revision });
            }
        }
        for page in pages.iter_mut() {
            page.retain(|record| record.revision <= goal);
        }
        pages.push(records);
        loaded.index.retain(|hash, _| !touched.contains(hash));
        loaded.index.extend(entries);
        loaded.revision = goal;
        true
    }

    /// Applies the changes again.
    pub(super) fn replay(&self, mirror: &Mirror) {
        let events = self.events().filter_map(|(event, _)| Event::of(event));
        if let Err(broken) = mirror.apply(events, self.until) {
            // The watch looks into it.
            tracing::debug!(?broken, "among the latest changes");
        }
    }
}

fn revision(kv: &KeyValue) -> u64 {
    kv.mod_revision().unsigned_abs()
}

enum Changes {
    All(Vec<WatchResponse>),
    TooMany,
    /// etcd has forgotten them up to there.
    Compacted(u64),
}

/// The changes after a revision, up to another one.
async fn changes(endpoints: &Endpoints, keys: &Keys, after: u64, until: u64, most: usize) -> Result<Changes, Failure> {
    let way = endpoints.own_way().await?;
    let start = i64::try_from(after + 1).unwrap_or(i64::MAX);
    let options = WatchOptions::new().with_prefix().with_start_revision(start).with_prev_key();
    let mut client = way.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let mut stream = client.watch(keys.watched(), Some(options)).await?;
    let (mut changes, mut count) = (Vec::new(), 0);
    // When nothing of ours has changed of late, only an answer about the progress tells that all has come.
    let mut ask = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        let message = tokio::select! {
            message = stream.message() => message?.ok_or_else(|| Failure::other("the watch ended"))?,
            _ = ask.tick() => {
                stream.request_progress().await?;
                continue;
            }
        };
        if message.compact_revision() > 0 {
            return Ok(Changes::Compacted(message.compact_revision().unsigned_abs()));
        }
        if message.canceled() {
            return Err(Failure::other(message.cancel_reason()));
        }
        let last = message.events().last().and_then(|event| event.kv()).map(revision);
        let progress = message.header().filter(|_| last.is_none() && !message.created());
        let reached = last.or_else(|| progress.map(|header| header.revision().unsigned_abs())).unwrap_or(0);
        count += message.events().len();
        if count > most {
            return Ok(Changes::TooMany);
        }
        changes.push(message);
        if reached >= until {
            return Ok(Changes::All(changes));
        }
    }
}
