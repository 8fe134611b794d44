//! A registry of one service with several replicas, which stop, lag, break connections and come back with older data.
//! It keeps to what real ones do on a stream: a state of the world read page by page while it changes, what has changed
//! since the first page, `synced`, changes, and `reset` where a position can't be continued.

use crate::request::WatchEvent;
use crate::subscribe::wire::{Changes, Connection, Told, Wanted, Wire};
use crate::{Error, Result};
use fingerpost_catalog::document::{InstanceDocument, ObjectDocument, ServiceDocument};
use fingerpost_catalog::{Epoch, Kind, Labels, Port, Position, Protocol};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Ids with their versions.
pub(super) type World = BTreeMap<String, u32>;

#[derive(Clone)]
pub(super) struct FakeRegistry {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    current: Arc<AtomicUsize>,
}

struct State {
    epoch: u64,
    /// What each commit did, beginning with position 1: an id with its version, or none where it is removed.
    history: Vec<Vec<(String, Option<u32>)>>,
    replicas: Vec<Replica>,
    refusal: Option<Error>,
    opened: usize,
    subscribed: BTreeSet<String>,
    connected: Option<usize>,
    /// Streams are cut after so many pieces.
    cut_after: Option<usize>,
    /// Positions before this one are not kept.
    oldest: u64,
}

struct Replica {
    running: bool,
    frozen: bool,
    applied: u64,
    /// Counts its lives.
    life: u64,
}

impl State {
    fn position(&self, number: u64) -> Position {
        Position::new(Epoch(self.epoch), number)
    }
}

impl FakeRegistry {
    pub(super) fn new(replicas: usize) -> Self {
        let replicas = (0..replicas).map(|_| Replica { running: true, frozen: false, applied: 0, life: 0 }).collect();
        let state = State {
            epoch: 1,
            history: Vec::new(),
            replicas,
            refusal: None,
            opened: 0,
            subscribed: BTreeSet::new(),
            connected: None,
            cut_after: None,
            oldest: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(0), current: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let out = act(&mut self.state.lock().unwrap());
        self.changed.send_modify(|count| *count += 1);
        out
    }

    /// Commits what is written as `a1` (id and version) and `-a`.
    pub(super) fn commit(&self, changes: &[&str]) {
        let changes = changes.iter().map(|change| match change.strip_prefix('-') {
            Some(id) => (id.to_owned(), None),
            None => {
                let at = change.find(|c: char| c.is_ascii_digit()).unwrap();
                (change[..at].to_owned(), Some(change[at..].parse().unwrap()))
            }
        });
        self.commit_all(changes.collect());
    }

    pub(super) fn commit_all(&self, changes: Vec<(String, Option<u32>)>) {
        self.act(|state| {
            state.history.push(changes);
            let newest = state.history.len() as u64;
            for replica in state.replicas.iter_mut().filter(|replica| !replica.frozen) {
                replica.applied = newest;
            }
        });
    }

    /// What there is at a position of the present epoch; none of another one.
    pub(super) fn world(&self, position: Position) -> Option<World> {
        let state = self.state.lock().unwrap();
        (position.epoch == Epoch(state.epoch)).then(|| world(&state, position.number))
    }

    pub(super) fn newest(&self) -> World {
        let state = self.state.lock().unwrap();
        world(&state, state.history.len() as u64)
    }

    pub(super) fn stop(&self, replica: usize) {
        self.act(|state| {
            state.replicas[replica].running = false;
            state.replicas[replica].life += 1;
        });
    }

    pub(super) fn start(&self, replica: usize) {
        self.act(|state| state.replicas[replica].running = true);
    }

    /// A replica learns nothing any more.
    pub(super) fn freeze(&self, replica: usize) {
        self.act(|state| state.replicas[replica].frozen = true);
    }

    pub(super) fn thaw(&self, replica: usize) {
        self.act(|state| {
            let newest = state.history.len() as u64;
            state.replicas[replica].frozen = false;
            state.replicas[replica].applied = newest;
        });
    }

    /// Comes back with what was there at a position, under another epoch.
    pub(super) fn restore(&self, number: u64) {
        self.act(|state| {
            state.epoch += 1;
            state.history.truncate(number as usize);
            state.oldest = state.oldest.min(number);
            let newest = state.history.len() as u64;
            for replica in &mut state.replicas {
                replica.applied = newest;
                replica.life += 1;
            }
        });
    }

    /// Forgets the changes before the present.
    pub(super) fn compact(&self) {
        self.act(|state| state.oldest = state.history.len() as u64);
    }

    /// Every stream that is opened from now on breaks after so many pieces.
    pub(super) fn cut_after(&self, pieces: Option<usize>) {
        self.act(|state| state.cut_after = pieces);
    }

    pub(super) fn refuse(&self, error: Option<Error>) {
        self.act(|state| state.refusal = error);
    }

    /// How often a stream was asked for.
    pub(super) fn opened(&self) -> usize {
        self.state.lock().unwrap().opened
    }

    /// The ids of what is subscribed to on the stream.
    pub(super) fn subscribed(&self) -> Vec<String> {
        self.state.lock().unwrap().subscribed.iter().cloned().collect()
    }

    pub(super) async fn until_subscribed(&self, wanted: &[&str]) {
        let mut changed = self.changed.subscribe();
        while self.subscribed() != wanted {
            changed.changed().await.unwrap();
        }
    }

    pub(super) async fn until_connected_to(&self, replica: usize) {
        let mut changed = self.changed.subscribe();
        while self.state.lock().unwrap().connected != Some(replica) {
            changed.changed().await.unwrap();
        }
    }
}

fn world(state: &State, number: u64) -> World {
    let mut world = World::new();
    for (id, version) in state.history[..number as usize].iter().flatten() {
        match version {
            Some(version) => drop(world.insert(id.clone(), *version)),
            None => drop(world.remove(id)),
        }
    }
    world
}

fn instance(id: &str, version: u32) -> ObjectDocument {
    ObjectDocument::Instance(Box::new(InstanceDocument {
        namespace: Some("prod".to_owned()),
        service: Some("web".to_owned()),
        id: Some(id.to_owned()),
        addresses: vec![[10, 0, 0, 1].into()],
        labels: Labels(BTreeMap::from([("version".to_owned(), version.to_string())])),
        ..InstanceDocument::default()
    }))
}

fn service() -> ObjectDocument {
    let port = Port { name: "http".to_owned(), port: 8080, protocol: Protocol::Tcp, app_protocol: None };
    ObjectDocument::Service(ServiceDocument { ports: vec![port], ..ServiceDocument::default() })
}

fn wants(wanted: &Wanted, kind: Kind) -> bool {
    wanted.kind.is_none_or(|only| only == kind)
}

fn matches(wanted: &Wanted, version: u32) -> bool {
    let labels = BTreeMap::from([("version".to_owned(), version.to_string())]);
    wanted.filter.selector.matches_with(|key| labels.get(key).map(String::as_str))
}

impl Wire for FakeRegistry {
    fn open(&self, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Connection>> {
        let registry = self.clone();
        Box::pin(async move {
            let (replica, life, cut_after) = registry.act(|state| {
                state.opened += 1;
                if let Some(error) = &state.refusal {
                    return Err(error.clone());
                }
                let replica = registry.current.load(Ordering::Relaxed) % state.replicas.len();
                if !state.replicas[replica].running {
                    let (url, reason) = (format!("fake {replica}"), "nobody listens".to_owned());
                    return Err(Error::Unreachable { url, reason });
                }
                state.connected = Some(replica);
                state.subscribed = wanted.iter().map(|wanted| wanted.id.clone()).collect();
                Ok((replica, state.replicas[replica].life, state.cut_after))
            })?;
            let (sender, receiver) = mpsc::channel(1);
            let (changes, asked) = mpsc::channel(8);
            let stream = Stream { registry: registry.clone(), replica, life, cut_after, pieces: 0, sender, asked };
            tokio::spawn(stream.run(wanted));
            let told = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
            Ok(Connection {
                endpoint: format!("fake {replica}"),
                told: told.boxed(),
                changes: Box::new(Changer(changes)),
            })
        })
    }

    fn next_endpoint(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}

type Ask = (Vec<Wanted>, Vec<String>, Arc<Notify>);

struct Changer(mpsc::Sender<Ask>);

impl Changes for Changer {
    fn change(&self, _: String, add: Vec<Wanted>, remove: Vec<String>) -> BoxFuture<'static, Result<()>> {
        let sender = self.0.clone();
        Box::pin(async move {
            let done = Arc::new(Notify::new());
            let gone = || Error::NotFound { detail: "there is no such stream".to_owned() };
            sender.send((add, remove, Arc::clone(&done))).await.map_err(|_| gone())?;
            done.notified().await;
            Ok(())
        })
    }
}

struct Stream {
    registry: FakeRegistry,
    replica: usize,
    life: u64,
    cut_after: Option<usize>,
    pieces: usize,
    sender: mpsc::Sender<Result<Vec<Told>>>,
    asked: mpsc::Receiver<Ask>,
}

/// The stream has ended.
struct Ended;

impl Stream {
    async fn run(mut self, wanted: Vec<Wanted>) {
        let outcome = self.serve(wanted).await;
        if outcome.is_err() {
            let (url, reason) = (format!("fake {}", self.replica), "cut".to_owned());
            let _ = self.sender.send(Err(Error::Broken { url, reason })).await;
        }
    }

    /// The replica's position, while this life of it lasts.
    fn applied(&self) -> Result<u64, Ended> {
        let state = self.registry.lock();
        let replica = &state.replicas[self.replica];
        if replica.running && replica.life == self.life { Ok(replica.applied) } else { Err(Ended) }
    }

    async fn say(&mut self, told: Vec<Told>) -> Result<(), Ended> {
        self.applied()?;
        self.pieces += 1;
        if self.cut_after.is_some_and(|most| self.pieces > most) {
            return Err(Ended);
        }
        self.sender.send(Ok(told)).await.map_err(|_| Ended)
    }

    async fn serve(&mut self, wanted: Vec<Wanted>) -> Result<(), Ended> {
        self.say(vec![Told::Stream("s".to_owned())]).await?;
        let mut live: Vec<(Wanted, u64)> = Vec::new();
        for wanted in wanted {
            let at = self.catch_up(&wanted).await?;
            live.push((wanted, at));
        }
        let mut changed = self.registry.changed.subscribe();
        loop {
            let applied = self.applied()?;
            for (wanted, from) in &mut live {
                self.changes(wanted, *from, applied).await?;
                *from = applied;
            }
            tokio::select! {
                _ = changed.changed() => {}
                Some((add, remove, done)) = self.asked.recv() => {
                    live.retain(|(wanted, _)| !remove.contains(&wanted.id));
                    for wanted in add {
                        let at = self.catch_up(&wanted).await?;
                        live.push((wanted, at));
                    }
                    let ids: BTreeSet<String> = live.iter().map(|(wanted, _)| wanted.id.clone()).collect();
                    self.registry.act(|state| state.subscribed = ids);
                    done.notify_one();
                }
                () = self.sender.closed() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(3)) => {
                    let bookmark = {
                        let state = self.registry.lock();
                        WatchEvent::Bookmark(state.position(applied))
                    };
                    self.say(vec![Told::Event { subscription: None, event: bookmark }]).await?;
                }
            }
        }
    }

    /// From where the subscriber is to where the replica is.
    async fn catch_up(&mut self, wanted: &Wanted) -> Result<u64, Ended> {
        let told = |event| Told::Event { subscription: Some(wanted.id.clone()), event };
        let mut from = None;
        if let Some(position) = wanted.position {
            let known = {
                let state = self.registry.lock();
                position.epoch == Epoch(state.epoch) && position.number >= state.oldest
            };
            if known && position.number > self.applied()? {
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            if known && position.number <= self.applied()? {
                from = Some(position.number);
            } else {
                self.say(vec![told(WatchEvent::Reset { reason: "no".to_owned() })]).await?;
            }
        }
        let from = match from {
            Some(from) => from,
            None => {
                let since = self.applied()?;
                if wants(wanted, Kind::Service) {
                    let event = told(WatchEvent::Put { object: service(), position: None });
                    self.say(vec![event]).await?;
                }
                // A page at a time, and the world moves on between them.
                let mut after = String::new();
                loop {
                    let applied = self.applied()?;
                    let page: Vec<(String, u32)> = {
                        let state = self.registry.lock();
                        world(&state, applied).into_iter().filter(|(id, _)| *id > after).take(2).collect()
                    };
                    let Some((last, _)) = page.last() else { break };
                    after.clone_from(last);
                    let matching = page.iter().filter(|(_, version)| matches(wanted, *version));
                    let puts = matching
                        .filter(|_| wants(wanted, Kind::Instance))
                        .map(|(id, version)| told(WatchEvent::Put { object: instance(id, *version), position: None }))
                        .collect();
                    self.say(puts).await?;
                    tokio::task::yield_now().await;
                }
                since
            }
        };
        let applied = self.applied()?;
        self.changes(wanted, from, applied).await?;
        let synced = {
            let state = self.registry.lock();
            WatchEvent::Synced(state.position(applied))
        };
        self.say(vec![told(synced)]).await?;
        Ok(applied)
    }

    /// The changes between two positions; each may come in several pieces.
    async fn changes(&mut self, wanted: &Wanted, from: u64, to: u64) -> Result<(), Ended> {
        if !wants(wanted, Kind::Instance) {
            return Ok(());
        }
        for number in from + 1..=to {
            let mut events = Vec::new();
            {
                let state = self.registry.lock();
                let Some(changes) = state.history.get(number as usize - 1) else { return Err(Ended) };
                let position = state.position(number);
                // Of one object in a commit only the last word counts.
                let changes: BTreeMap<&String, Option<u32>> = changes.iter().map(|(id, to)| (id, *to)).collect();
                let before = world(&state, number - 1);
                for (id, to) in changes {
                    let matched = before.get(id).is_some_and(|version| matches(wanted, *version));
                    events.push(match to.filter(|version| matches(wanted, *version)) {
                        Some(version) => WatchEvent::Put { object: instance(id, version), position: None },
                        None if matched => WatchEvent::Delete { object: instance(id, 0), position: None },
                        None => continue,
                    });
                }
                if let Some(WatchEvent::Put { position: last, .. } | WatchEvent::Delete { position: last, .. }) =
                    events.last_mut()
                {
                    *last = Some(position);
                }
            }
            for event in events {
                self.say(vec![Told::Event { subscription: Some(wanted.id.clone()), event }]).await?;
            }
        }
        Ok(())
    }
}
