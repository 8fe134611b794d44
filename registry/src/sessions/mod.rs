//! Sessions: who is alive, and what becomes of the instances of those who are not.
//!
//! A session is the liveness of a writer. Its record says where it stands, and moves all of its instances with one write;
//! its deadline is kept in the memory of one replica, its *home*. Renewals therefore cost no write. What is written is
//! only a session's beginning, its being held, its expiry, its return and its end.
//!
//! - `book`: what the home remembers of its sessions, and how it judges them. No I/O and no clock of its own.
//! - `counts`: what all homes together count, by which a mass of failures is told from a few.
//! - `keep`: the tasks that judge them again and again, and write what came of it.
//! - `renew`: renewals, which may come to any replica.
//! - `returns`: renewals that the home can only answer by the store.
//! - `remove`: the end: instances first, in commits of bounded size, then the record.
//!
//! Nothing here ends a session early. A home that is new, was restarted, lost touch with the store or stood still for a
//! while has missed renewals, so it grants every session a full TTL from then on. Where many sessions would expire at
//! once, it is more likely the network between them and us that failed, so they are held instead; see [`Protection`].

mod book;
mod counts;
mod keep;
mod metrics;
mod remove;
mod renew;
mod returns;

pub use counts::Counts;
pub use metrics::{SessionMetrics, register};
pub use renew::{OwnRenewal, Unreached};

use crate::access::{Caller, Role};
use crate::live::{LiveReplica, Observer};
use crate::members::Members;
use crate::peers::Peers;
use crate::store::{Action, Commit, CommitError, Condition, Expect, Operation, Store};
use crate::validate::Invalid;
use crate::writes::{WriteError, Writer};
use book::Book;
use fingerpost_catalog::document::{NewSession, ProtectionDocument, SessionDocument};
use fingerpost_catalog::{
    Effects, Key, Position, Record, Replica, Session, SessionState, SessionStats, SessionView, Source, Timestamp,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::warn;

/// TTLs that a session may have, in seconds.
pub const TTL_SECONDS: std::ops::RangeInclusive<u32> = 3..=86_400;
/// Graces that a session may have, in seconds.
pub const GRACE_SECONDS: std::ops::RangeInclusive<u32> = 0..=86_400;
/// Longest name of a session, in characters.
pub const MAX_NAME: usize = 253;
/// Most sessions renewed by one call.
pub const MAX_RENEWALS: usize = 1000;

/// Renewals that may wait for a write.
const RETURNING: usize = 16_384;

/// When expiring sessions are held: mass-expiry protection.
#[derive(Clone, Copy, Debug)]
pub struct Protection {
    /// Of all sessions, the share that must be overdue, late or just expired.
    pub share: f64,
    /// How many these must be at least, over all replicas.
    pub floor: usize,
    /// The longest that a session is held.
    pub longest: Duration,
}

impl Default for Protection {
    fn default() -> Self {
        Self { share: 0.15, floor: 10, longest: Duration::from_secs(600) }
    }
}

/// How sessions are kept.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// When expiring sessions are held.
    pub protection: Protection,
    /// How often the sessions are judged.
    pub tick: Duration,
    /// Who has not run for this long has stood still, and can't know who renewed meanwhile.
    pub standstill: Duration,
    /// Most sessions of one registrar, so that none fills every replica's memory, or has so many that what becomes of
    /// its own counts as a mass expiry.
    pub of_owner: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            protection: Protection::default(),
            tick: Duration::from_millis(250),
            standstill: Duration::from_millis(1500),
            of_owner: 10_000,
        }
    }
}

/// Keeps sessions: those at home here in memory, and all of them by way of the store and the other replicas.
pub struct Engine {
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    writer: Writer,
    peers: Arc<dyn Peers>,
    options: SessionOptions,
    book: Mutex<Book>,
    metrics: SessionMetrics,
    /// Renewals that need a write before they can be answered.
    returning: mpsc::Sender<returns::Returning>,
    /// The other end, until [`Engine::run`] takes it.
    to_return: Mutex<Option<mpsc::Receiver<returns::Returning>>>,
    /// A write that ended or held sessions has come to its end.
    decided: Notify,
    /// Sessions whose grace is over.
    removable: Mutex<Vec<Arc<str>>>,
    removals: Notify,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Why a session was not begun.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The caller has as many as anybody may have.
    #[error("`{owner}` has {most} sessions, the most for one registrar; end some, or wait until some have expired")]
    TooMany {
        /// Who.
        owner: Arc<str>,
        /// The bound.
        most: usize,
    },
    /// It can't be taken, or the store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a session was not ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// There is no such session.
    #[error("session `{0}` does not exist")]
    NotFound(String),
    /// It is somebody else's.
    #[error("session `{0}` belongs to somebody else")]
    Foreign(String),
    /// The store did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// How the sessions do, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// In the whole registry, by state.
    pub alive: usize,
    /// Overdue, but held.
    pub suspect: usize,
    /// Expired, in their grace.
    pub expired: usize,
    /// At home on this replica.
    pub home: usize,
    /// At home on this replica, and held.
    pub home_held: usize,
}

impl Engine {
    /// An engine over `store`. It must be an observer of the feed of `live`, and [`run`](Self::run).
    pub fn new(
        store: Arc<dyn Store>,
        live: Arc<LiveReplica>,
        peers: Arc<dyn Peers>,
        options: SessionOptions,
    ) -> Arc<Self> {
        let (returning, to_return) = mpsc::channel(RETURNING);
        let members = Arc::clone(&store.members().borrow());
        Arc::new(Self {
            writer: Writer::new(Arc::clone(&store), Arc::clone(&live)),
            book: Mutex::new(Book::new(members)),
            metrics: SessionMetrics::default(),
            store,
            live,
            peers,
            options,
            returning,
            to_return: Mutex::new(Some(to_return)),
            decided: Notify::new(),
            removable: Mutex::new(Vec::new()),
            removals: Notify::new(),
        })
    }

    /// What it counts.
    pub fn metrics(&self) -> &SessionMetrics {
        &self.metrics
    }

    /// The live replicas of the registry, as the store says now.
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.store.members().borrow())
    }

    /// Begins a session.
    pub async fn create(&self, caller: &Caller, source: &Source, new: NewSession) -> Result<SessionView, CreateError> {
        validate(&new).map_err(WriteError::from)?;
        let most = self.options.of_owner;
        // What others begin at the same moment is not seen yet; it is a bound, and need not be exact.
        if matches!(caller.role, Role::Registrar { .. }) && self.live.read().sessions_of_owner(&caller.name) >= most {
            return Err(CreateError::TooMany { owner: Arc::clone(&caller.name), most });
        }
        let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let session = Session {
            name: new.name,
            source: source.clone(),
            owner: (*caller != Caller::anonymous()).then(|| caller.name.to_string()),
            ttl_seconds: new.ttl_seconds,
            grace_seconds: new.grace_seconds,
            state: SessionState::Alive,
            since: Timestamp::now().0,
            renewals: 0,
            unknown: serde_json::Map::new(),
        };
        let view =
            |revision| SessionView { id: Arc::clone(&id), session: Arc::new(session.clone()), instances: 0, revision };
        let key = Key::Session { id: Arc::clone(&id) };
        let commit = Commit {
            operations: vec![put(&key, session.clone())],
            conditions: vec![Condition { key, expect: Expect::Absent }],
            ..Commit::default()
        };
        let committed = self.writer.commit(commit).await?;
        let known = self.live.read().session(&id);
        Ok(known.unwrap_or_else(|| view(committed.position.number)))
    }

    /// Ends a session gracefully: all its instances are critical at once by one write, then they are removed, then the
    /// session. Broken off in the middle, its home completes it.
    pub async fn end(&self, caller: &Caller, id: &str) -> Result<(usize, Position), EndError> {
        let not_found = || EndError::NotFound(id.to_owned());
        // Whether it was known here or only to the store: it is asked whose it is.
        match self.confirm(id).await.map_err(|_| store_away())? {
            None => return Err(not_found()),
            Some(session) if !may_keep(caller, &session) => return Err(EndError::Foreign(id.to_owned())),
            Some(_) => {}
        }
        let id: Arc<str> = id.into();
        // The home leaves it to this call for as long as this runs.
        let _ending = Ending::new(self, &id);
        match self.end_for_good(&id, None).await {
            Ok(Some(revision)) => Ok(self.remove_ended(&id, revision).await?),
            Ok(None) => Err(not_found()),
            // It has ended, and for all to see. What hangs on it is not all seen here yet, though: its home removes that.
            Err(WriteError::NotVisible { position, .. }) => {
                Ok((self.live.read().instance_keys_of_session(&id).len(), position))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A session as callers see it.
    pub fn document(&self, view: &SessionView) -> SessionDocument {
        let since = Timestamp::noted(view.session.since).map(|since| since.to_string());
        let home = self.members().home_of(&view.id).map(|home| home.id.to_string());
        SessionDocument::from_view(view, self.live.epoch(), since, home)
    }

    /// Whether sessions are held anywhere in the registry.
    pub fn protection(&self) -> ProtectionDocument {
        let book = self.book.lock();
        let (held, since) = book.held();
        ProtectionDocument {
            active: held > 0,
            held: held as u64,
            since_seconds: since.map(|since| since.elapsed().as_secs()),
        }
    }

    /// How the sessions do.
    pub fn summary(&self) -> Summary {
        let SessionStats { alive, suspect, expired } = self.live.read().session_stats();
        let book = self.book.lock();
        Summary { alive, suspect, expired, home: book.len(), home_held: book.held_here() }
    }

    /// Notes that this process runs; see [`Book::wake`].
    fn wake(&self, book: &mut Book, now: Instant) {
        if let Some(asleep) = book.wake(self.options.tick + self.options.standstill, now) {
            warn!(
                seconds = asleep.as_secs_f64(),
                "this process stood still and may have missed renewals; every session gets its full TTL"
            );
        }
    }

    /// Takes in what the whole replica says.
    fn rehome(&self, replica: &Replica, members: Arc<Members>, grant: bool) {
        let mut book = self.book.lock();
        book.rehome(members, replica.all_sessions(), grant, Instant::now());
    }
}

/// While it stands, this replica is ending the session.
struct Ending<'a> {
    engine: &'a Engine,
    id: &'a Arc<str>,
}

impl<'a> Ending<'a> {
    fn new(engine: &'a Engine, id: &'a Arc<str>) -> Self {
        engine.book.lock().begin_ending(id);
        Self { engine, id }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.engine.book.lock().finish_ending(self.id, Instant::now());
    }
}

impl Observer for Engine {
    fn load(&self, replica: &Replica) {
        let members = self.members();
        self.rehome(replica, members, true);
    }

    fn ready(&self, _: Position) {
        // From now on they can renew here.
        self.book.lock().grant_all(Instant::now());
    }

    fn apply(&self, effects: &Effects, reset: bool) {
        if effects.sessions.is_empty() && !reset {
            return;
        }
        let now = Instant::now();
        let mut book = self.book.lock();
        for change in &effects.sessions {
            book.change(&change.id, change.before.as_deref(), change.after.as_deref(), now);
        }
        if reset {
            // Whatever was missed may have been renewals.
            book.grant_all(now);
        }
    }
}

fn validate(new: &NewSession) -> Result<(), Invalid> {
    if new.name.chars().count() > MAX_NAME {
        return Err(Invalid::new("/name", format!("more than {MAX_NAME} characters")));
    }
    if new.name.contains(char::is_control) {
        return Err(Invalid::new("/name", "control characters are not allowed"));
    }
    for (pointer, seconds, range) in
        [("/ttlSeconds", new.ttl_seconds, TTL_SECONDS), ("/graceSeconds", new.grace_seconds, GRACE_SECONDS)]
    {
        if !range.contains(&seconds) {
            let detail = format!("{seconds} is not between {} and {}", range.start(), range.end());
            return Err(Invalid::new(pointer, detail));
        }
    }
    Ok(())
}

/// Whether somebody may renew and end a session: who made it, as long as they may act as its source. A name alone is not
/// enough, as a token's name may be given to another one later, with other rights.
fn may_keep(caller: &Caller, session: &Session) -> bool {
    match (&caller.role, &session.owner) {
        (Role::Admin, _) => true,
        (Role::Reader | Role::Peer, _) => false,
        (Role::Registrar { .. }, Some(owner)) => **owner == *caller.name && caller.may_act_as(&session.source),
        // Made before there was access control.
        (Role::Registrar { .. }, None) => caller.may_act_as(&session.source),
    }
}

/// A session that has expired and has no grace, or has been ended: nothing brings it back.
fn is_over(session: &Session) -> bool {
    session.state == SessionState::Expired && session.grace_seconds == 0
}

fn put(key: &Key, session: Session) -> Operation {
    Operation { key: key.clone(), action: Action::Put(Arc::new(Record::Session(session))) }
}

/// The session in another state, from now on.
fn in_state(session: &Session, state: SessionState) -> Session {
    Session { state, since: Timestamp::now().0, ..session.clone() }
}

fn store_away() -> WriteError {
    WriteError::Commit(CommitError::Unavailable("it can't be reached".to_owned()))
}
