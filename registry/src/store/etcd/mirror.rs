//! What this replica knows of etcd's content, brought by the watch.
//!
//! No keys and no values of records are kept, only hashes: enough to tell what an operation would change. The changes
//! themselves go into the history, from which followers read.

use super::decode;
use super::foreign::Foreign;
use super::keys::{Keys, Place};
use super::meta::{Meta, StoredEpoch, read_secret};
use crate::members::{Fence, Member, Members, Secret};
use crate::store::hashed::{HashedMap, KeyHash, KeyHasher};
use crate::store::history::History;
use etcd_client::EventType;
use fingerpost_catalog::{Change, ChangeSet, DecodeError, Epoch, Position};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What is known of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    /// The revision of its last change.
    pub(super) revision: u64,
    /// A hash of its value.
    pub(super) value: u128,
}

/// A key and what became of it.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub(super) key: &'a [u8],
    /// None where it was removed.
    pub(super) value: Option<&'a [u8]>,
    pub(super) revision: u64,
    /// The revision at which it came to be.
    pub(super) created: u64,
}

impl<'a> Event<'a> {
    /// As the watch tells it.
    pub(super) fn of(event: &'a etcd_client::Event) -> Option<Self> {
        let kv = event.kv()?;
        Some(Self {
            key: kv.key(),
            value: (event.event_type() == EventType::Put).then(|| kv.value()),
            revision: kv.mod_revision().unsigned_abs(),
            created: kv.create_revision().unsigned_abs(),
        })
    }
}

/// Who is alive, by id, each with the revision at which it took its place.
pub(super) type Live = BTreeMap<Arc<str>, (Member, u64)>;

fn listed(live: &Live) -> Vec<Member> {
    live.values().map(|(member, _)| member.clone()).collect()
}

fn fence(live: &Live, joins: u64, own: &str) -> Fence {
    Fence { place: live.get(own).map_or(0, |(_, since)| *since), joins }
}

/// Everything at one revision.
pub(super) struct Loaded {
    pub(super) revision: u64,
    pub(super) index: HashedMap<Entry>,
    pub(super) foreign: Foreign,
    pub(super) live: Live,
    /// When the latest replica joined.
    pub(super) joins: u64,
    pub(super) epoch: Option<(Epoch, u64)>,
    pub(super) schema: Option<u32>,
    pub(super) secret: Option<Secret>,
}

impl Loaded {
    pub(super) fn empty(revision: u64) -> Self {
        Self {
            revision,
            index: HashedMap::default(),
            foreign: Foreign::default(),
            live: Live::new(),
            joins: 0,
            epoch: None,
            schema: None,
            secret: None,
        }
    }
}

struct State {
    index: HashedMap<Entry>,
    foreign: Foreign,
    live: Live,
    joins: u64,
    epoch: Epoch,
    cluster: u64,
    schema: u32,
    secret: Secret,
}

pub(super) struct Mirror {
    pub(super) keys: Keys,
    pub(super) hasher: KeyHasher,
    pub(super) history: Arc<History>,
    state: RwLock<State>,
    /// The revision up to which everything is here.
    applied: watch::Sender<u64>,
    members: watch::Sender<Arc<Members>>,
    /// Somebody waits for a revision that may have come without a change of ours: the watch asks how far it is.
    pub(super) hurry: Notify,
    /// An answer of etcd does not fit what is known of it: the watch looks whether it is still the same store.
    pub(super) doubt: Notify,
}

/// The history is not what it was: the watch looks into it.
#[derive(Debug)]
pub(super) struct Broken(pub(super) &'static str);

impl Mirror {
    /// From everything at one revision. Its epoch is known to be there.
    pub(super) fn new(
        keys: Keys,
        hasher: KeyHasher,
        own: Arc<str>,
        loaded: Loaded,
        meta: &Meta,
        history: (usize, usize),
    ) -> Self {
        let (epoch, _) = meta.epoch.unwrap_or((Epoch(0), 0));
        let position = Position::new(epoch, loaded.revision);
        let secret = meta.secret.clone().unwrap_or_default();
        let members = Members {
            live: listed(&loaded.live),
            in_touch: false,
            secret: secret.clone(),
            fence: fence(&loaded.live, loaded.joins, &own),
            own,
        };
        Self {
            keys,
            hasher,
            history: Arc::new(History::new(position, history.0, history.1)),
            state: RwLock::new(State {
                index: loaded.index,
                foreign: loaded.foreign,
                live: loaded.live,
                joins: loaded.joins,
                epoch,
                cluster: meta.cluster,
                schema: meta.schema.unwrap_or(crate::store::SCHEMA),
                secret,
            }),
            applied: watch::Sender::new(loaded.revision),
            members: watch::Sender::new(Arc::new(members)),
            hurry: Notify::new(),
            doubt: Notify::new(),
        }
    }

    /// Starts over from everything at a later revision: followers have to, too.
    pub(super) fn reload(&self, loaded: Loaded, meta: &Meta) {
        let revision = loaded.revision;
        {
            let mut state = self.state.write();
            state.index = loaded.index;
            state.foreign = loaded.foreign;
            state.live = loaded.live;
            state.joins = loaded.joins;
            state.cluster = meta.cluster;
            if let Some((epoch, _)) = meta.epoch {
                state.epoch = epoch;
            }
            state.schema = meta.schema.unwrap_or(state.schema);
            if let Some(secret) = &meta.secret {
                state.secret = secret.clone();
            }
            self.history.restart(Position::new(state.epoch, loaded.revision));
        }
        self.tell_members();
        self.applied.send_replace(revision);
    }

    /// Applies what the watch brought, in its order.
    pub(super) fn apply<'a>(&self, events: impl Iterator<Item = Event<'a>>, revision: u64) -> Result<(), Broken> {
        // Decoded before anybody has to wait for it.
        let decoded: Vec<(Event<'a>, Decoded<'a>)> = events.map(|event| (event, Decoded::of(&event, self))).collect();
        let mut broken = Ok(());
        let mut members = false;
        let mut last = 0;
        {
            let mut state = self.state.write();
            let mut sets = Sets::default();
            for (event, decoded) in decoded {
                if event.revision != last {
                    sets.finish(state.epoch, last);
                    last = event.revision;
                }
                match decoded {
                    Decoded::Record(record) => sets.changes.extend(state.record(&event, record, &self.hasher)),
                    Decoded::Replica(id, member) => members |= state.member(&event, id, member, &self.hasher),
                    Decoded::Epoch(Some(epoch)) if epoch == state.epoch => {}
                    Decoded::Epoch(Some(epoch)) => {
                        tracing::warn!(%epoch, "another replica has begun a new history of the store");
                        sets.finish(state.epoch, last);
                        self.history.publish(sets.take());
                        state.epoch = epoch;
                        self.history.restart(Position::new(epoch, event.revision));
                    }
                    Decoded::Epoch(None) => broken = Err(Broken("its epoch was removed or can't be read")),
                    Decoded::Schema(Some(schema)) => state.schema = schema,
                    Decoded::Schema(None) => broken = Err(Broken("its schema was removed or can't be read")),
                    Decoded::Secret(Some(secret)) => {
                        state.secret = secret;
                        members = true;
                    }
                    Decoded::Secret(None) => broken = Err(Broken("its replicas' secret was removed or can't be read")),
                    Decoded::Joins => {
                        state.joins = event.value.map_or(0, |_| event.revision);
                        members = true;
                    }
                    Decoded::Foreign => match event.value {
                        Some(_) => state.foreign.note(event.key, "not a key of Fingerpost", &self.hasher),
                        None => state.foreign.forget(event.key, &self.hasher),
                    },
                }
            }
            sets.finish(state.epoch, last);
            self.history.publish(sets.take());
        }
        // Whoever sees how far this is also sees who is alive then.
        if members {
            self.tell_members();
        }
        self.reached(revision.max(last));
        broken
    }

    /// Everything up to a revision is here.
    pub(super) fn reached(&self, revision: u64) {
        self.history.know(revision);
        self.applied.send_if_modified(|applied| {
            let further = revision > *applied;
            *applied = revision.max(*applied);
            further
        });
    }

    /// Lets followers know how far the store is, though nothing of ours has changed: another replica may have given out a
    /// position that lies between two changes.
    pub(super) fn publish_progress(&self) {
        let state = self.state.read();
        let number = *self.applied.borrow();
        if number > self.history.head().number {
            let set = ChangeSet { position: Position::new(state.epoch, number), changes: Vec::new() };
            self.history.publish([(Arc::new(set), 128)]);
        }
    }

    pub(super) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until everything up to a revision is here, but not for ever.
    pub(super) async fn wait_for(&self, revision: u64, limit: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let until = tokio::time::Instant::now() + limit;
        let mut patience = Duration::from_millis(10);
        loop {
            let soon = until.min(tokio::time::Instant::now() + patience);
            // The sender lives in self.
            if let Ok(result) = tokio::time::timeout_at(soon, applied.wait_for(|applied| *applied >= revision)).await {
                return result.is_ok();
            }
            if soon == until {
                return false;
            }
            self.hurry.notify_one();
            patience = Duration::from_millis(50);
        }
    }

    /// Looks up what is known of records.
    pub(super) fn look<T>(&self, look: impl FnOnce(&HashedMap<Entry>, &Foreign) -> T) -> T {
        let state = self.state.read();
        look(&state.index, &state.foreign)
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.state.read().epoch
    }

    pub(super) fn cluster(&self) -> u64 {
        self.state.read().cluster
    }

    pub(super) fn schema(&self) -> u32 {
        self.state.read().schema
    }

    /// How many records, how many foreign keys, and some of those.
    pub(super) fn counts(&self) -> (u64, u64, Vec<String>) {
        let state = self.state.read();
        (state.index.len() as u64, state.foreign.count(), state.foreign.names())
    }

    /// The latest position.
    pub(super) fn head(&self) -> Position {
        self.history.head()
    }

    pub(super) fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.subscribe()
    }

    fn tell_members(&self) {
        let state = self.state.read();
        self.members.send_if_modified(|members| {
            let live = listed(&state.live);
            let fence = fence(&state.live, state.joins, &members.own);
            let changed = members.live != live || members.fence != fence || members.secret != state.secret;
            if changed {
                *members = Arc::new(Members { live, fence, secret: state.secret.clone(), ..Members::clone(members) });
            }
            changed
        });
    }

    /// Whether this replica can keep its place, as far as it knows.
    pub(super) fn set_in_touch(&self, in_touch: bool) {
        self.members.send_if_modified(|members| {
            let changed = members.in_touch != in_touch;
            if changed {
                *members = Arc::new(Members { in_touch, ..Members::clone(members) });
            }
            changed
        });
    }
}

/// An event, decoded.
enum Decoded<'a> {
    Record(DecodedRecord<'a>),
    Replica(&'a str, Option<Option<Member>>),
    Epoch(Option<Epoch>),
    Schema(Option<u32>),
    Secret(Option<Secret>),
    Joins,
    Foreign,
}

/// What an event says of a record.
struct DecodedRecord<'a> {
    text: &'a str,
    hash: KeyHash,
    /// None where it was removed; the change and the value's hash otherwise.
    value: Option<Result<(Change, u128), DecodeError>>,
}

impl<'a> Decoded<'a> {
    fn of(event: &Event<'a>, mirror: &Mirror) -> Self {
        match mirror.keys.place(event.key) {
            Place::Record(text) => {
                let read = |value| {
                    let (key, record, hash) = decode::record(text, value, &mirror.hasher)?;
                    Ok((Change { key, record: Some(Arc::new(record)) }, hash))
                };
                let value = event.value.map(read);
                Decoded::Record(DecodedRecord { text, hash: mirror.hasher.hash(text.as_bytes()), value })
            }
            Place::Replica(id) => Decoded::Replica(id, event.value.map(|value| decode::member(id, value))),
            Place::Epoch => Decoded::Epoch(event.value.and_then(StoredEpoch::read).map(|(epoch, _)| epoch)),
            Place::Schema => Decoded::Schema(event.value.and_then(|value| serde_json::from_slice(value).ok())),
            Place::Secret => Decoded::Secret(event.value.and_then(read_secret)),
            Place::Joins => Decoded::Joins,
            Place::Foreign => Decoded::Foreign,
        }
    }
}

/// The change sets of one message, and the changes of the one in the making, each with the bytes that it counts for.
#[derive(Default)]
struct Sets {
    done: Vec<(Arc<ChangeSet>, usize)>,
    changes: Vec<(Change, usize)>,
}

impl Sets {
    /// The changes so far were made at a revision.
    fn finish(&mut self, epoch: Epoch, revision: u64) {
        if self.changes.is_empty() {
            return;
        }
        let bytes = 128 + self.changes.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let changes = self.changes.drain(..).map(|(change, _)| change).collect();
        self.done.push((Arc::new(ChangeSet { position: Position::new(epoch, revision), changes }), bytes));
    }

    fn take(&mut self) -> Vec<(Arc<ChangeSet>, usize)> {
        std::mem::take(&mut self.done)
    }
}

impl State {
    fn record(&mut self, event: &Event<'_>, record: DecodedRecord<'_>, hasher: &KeyHasher) -> Option<(Change, usize)> {
        let DecodedRecord { text, hash, value } = record;
        match value {
            Some(Ok((change, value))) => {
                self.foreign.forget_record(event.key, hash, hasher);
                self.index.insert(hash, Entry { revision: event.revision, value });
                // In memory it takes about three times its encoding.
                let size = 128 + 3 * (text.len() + event.value.map_or(0, <[u8]>::len));
                return Some((change, size));
            }
            // Removed, or overwritten with what can't be read: what it was is no longer true, so it is gone from here.
            None => self.foreign.forget_record(event.key, hash, hasher),
            Some(Err(error)) => self.foreign.note_record(event.key, hash, event.revision, &error.to_string(), hasher),
        }
        self.index.remove(&hash)?;
        let key = text.parse().ok()?;
        Some((Change { key, record: None }, 128 + 3 * text.len()))
    }

    fn member(&mut self, event: &Event<'_>, id: &str, member: Option<Option<Member>>, hasher: &KeyHasher) -> bool {
        match member {
            Some(Some(member)) => {
                self.foreign.forget(event.key, hasher);
                self.live.insert(member.id.clone(), (member, event.created));
                true
            }
            Some(None) => {
                self.foreign.note(event.key, "not a replica of Fingerpost", hasher);
                self.live.remove(id).is_some()
            }
            None => {
                self.foreign.forget(event.key, hasher);
                self.live.remove(id).is_some()
            }
        }
    }
}
