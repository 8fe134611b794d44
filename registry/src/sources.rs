//! Which sources still speak, and what those that fell silent left behind.
//!
//! A source repairs its own drift by replacing its whole set; a source that never comes back (a cluster torn down, a node
//! gone for good) repairs nothing, and what it declared without a session would stay for ever. So whoever writes is
//! noted, and now and then a *mark* with the time goes to the store. A source whose mark is older than a stated age is
//! reported as orphaned. It is removed by an explicit call only, or, where an operator says so, after a stated time of
//! silence. The bare `api` source is never orphaned: what people declare by hand is meant to stay. Nor are services and
//! namespaces of `api/…` sources, which are declared once and said again by nobody; only what such a source registered
//! without a session is. A source with a session that has not expired is there, however little it writes.
//!
//! Clocks lie, and a replica whose clock is a day ahead must not take everybody for silent. Reports go by the time in the
//! mark; removal also asks that this replica itself, by a clock that only moves forward, has seen no sign of the source
//! for the whole of the stated time. A restart therefore begins that time anew.

use crate::live::LiveReplica;
use crate::members::Fence;
use crate::store::{Action, Commit, CommitError, Condition, Expect, MAX_OPERATIONS, Operation, Store};
use crate::writes::Writer;
use fingerpost_catalog::{
    HealthSet, InstanceQuery, Key, Mark, Position, Record, Selector, Session, SessionQuery, SessionState, Source,
    SourceStats, Timestamp,
};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// When sources count as orphaned, and what then.
#[derive(Clone, Copy, Debug)]
pub struct SourceOptions {
    /// Silence after which a source is reported as orphaned. Default: 24 hours.
    pub orphan_after: Duration,
    /// Silence after which what it declared is removed. Default: never.
    pub remove_after: Option<Duration>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { orphan_after: Duration::from_secs(24 * 3600), remove_after: None }
    }
}

/// A source and how it stands.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// Which source.
    pub source: Source,
    /// What it holds.
    pub stats: SourceStats,
    /// Whether it has been silent for so long that what it left is orphaned.
    pub orphaned: bool,
}

/// What removing a source's declarations did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RemovedSource {
    /// Instances.
    pub instances: usize,
    /// Declarations of services.
    pub services: usize,
    /// Declarations of namespaces.
    pub namespaces: usize,
}

/// What is to be removed of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// Everything: somebody said so.
    All,
    /// What it left, without the instances that hang on a session, which end with that: so found the replica that is at
    /// home for the source by this view of the replicas.
    Left(Fence),
}

/// Since when this replica has seen no sign of a source.
struct Silence {
    /// The mark's revision then: another one is a sign, from whichever replica.
    revision: Option<u64>,
    since: Instant,
}

/// Notes who speaks, and keeps the marks.
pub struct Sources {
    store: Arc<dyn Store>,
    live: Arc<LiveReplica>,
    options: SourceOptions,
    /// Those heard here since their mark was last looked at. Bounded: only sources that hold something, or write now.
    heard: Mutex<HashSet<Source>>,
}

/// Most sources that can be heard between two looks; what is beyond is heard the next time it speaks.
const MOST_HEARD: usize = 100_000;

/// Sessions whose end loses to others this often are left to whoever calls again.
const ATTEMPTS: usize = 16;

/// Whether a source, once it is silent, leaves behind what nothing else ends.
fn leaves_something(source: &Source, stats: &SourceStats) -> bool {
    let declares_again = !source.as_str().starts_with("api/");
    *source != Source::api() && (stats.sessionless > 0 || (declares_again && stats.services + stats.namespaces > 0))
}

impl Sources {
    /// Nobody has been heard yet.
    pub fn new(store: Arc<dyn Store>, live: Arc<LiveReplica>, options: SourceOptions) -> Arc<Self> {
        Arc::new(Self { store, live, options, heard: Mutex::new(HashSet::new()) })
    }

    /// A source has written, be it that nothing changed.
    pub fn heard(&self, source: &Source) {
        let mut heard = self.heard.lock();
        if !heard.contains(source) && heard.len() < MOST_HEARD {
            heard.insert(source.clone());
        }
    }

    /// Every source that holds anything, in the order of their names.
    pub fn states(&self) -> Vec<SourceState> {
        let (now, age) = (Timestamp::now().0, self.options.orphan_after.as_millis() as u64);
        let stats = self.live.read().source_stats();
        let held = stats.into_iter().filter(|(_, stats)| stats.holds_objects());
        held.map(|(source, stats)| {
            let silent = stats.sessions == 0 && stats.seen.is_some_and(|(seen, _)| now.saturating_sub(seen) >= age);
            SourceState { orphaned: silent && leaves_something(&source, &stats), source, stats }
        })
        .collect()
    }

    /// How often a source that goes on speaking is marked.
    fn mark_every(&self) -> Duration {
        let shortest =
            self.options.remove_after.map_or(self.options.orphan_after, |t| t.min(self.options.orphan_after));
        (shortest / 8).clamp(Duration::from_millis(100), Duration::from_secs(3600))
    }

    /// Marks those that speak, and removes those that are to be removed, until `shutdown`.
    pub async fn run(self: Arc<Self>, writer: Writer, shutdown: CancellationToken) {
        tokio::select! {
            () = self.live.wait_loaded() => {}
            () = shutdown.cancelled() => return,
        }
        let pause = (self.mark_every() / 4).clamp(Duration::from_millis(50), Duration::from_secs(60));
        let mut silences: HashMap<Source, Silence> = HashMap::new();
        loop {
            let look = async {
                self.mark().await;
                self.remove_silent(&writer, &mut silences).await;
                tokio::time::sleep(pause.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
            };
            tokio::select! {
                () = look => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Writes the marks that are due, of those that were heard or have a session. Whoever holds something and has no mark
    /// gets one, so that its time begins. Marks of those that hold nothing any more go in the end.
    async fn mark(&self) {
        let members = Arc::clone(&self.store.members().borrow());
        let heard: Vec<Source> = self.heard.lock().iter().cloned().collect();
        let stats = self.live.read().source_stats();
        let (now, every) = (Timestamp::now().0, self.mark_every().as_millis() as u64);
        let due = |source: &Source| match stats.get(source).and_then(|stats| stats.seen) {
            // A mark from the future is that of a clock that was wrong.
            Some((seen, _)) => now.saturating_sub(seen) >= every || seen > now + every,
            None => true,
        };
        // Who holds nothing and has no mark needs none. Who does not hold anything yet, but soon, is marked then.
        let spoke = heard.iter().filter(|source| stats.contains_key(source) && due(source));
        let here = |source: &Source| members.is_home(&format!("source:{source}"));
        let others = stats.iter().filter(|(source, stats)| {
            let due = if stats.sessions > 0 { due(source) } else { stats.seen.is_none() && stats.holds_objects() };
            due && here(source)
        });
        let mut marked: Vec<Source> = spoke.chain(others.map(|(source, _)| source)).cloned().collect();
        marked.sort_unstable();
        marked.dedup();
        // The bare source is never orphaned, so nobody needs its mark.
        marked.retain(|source| *source != Source::api());
        // Should one of these write at the same time, it is marked anew by the next look.
        let age = self.options.orphan_after.as_millis() as u64;
        let forgotten = stats.iter().filter(|(source, stats)| {
            !stats.holds_objects()
                && stats.sessions == 0
                && stats.seen.is_some_and(|(seen, _)| now.saturating_sub(seen) >= age)
                && !heard.contains(source)
                && here(source)
        });
        // Meanwhile another one may say that the source is complete, which must not be lost: so each mark is written in the
        // place of the one that was read.
        let marked = marked.into_iter().map(|source| {
            let (before, expect) = self.mark_of(&source);
            let mark = Mark { seen: now, ..before };
            (source, Some(expect), Action::Put(Arc::new(Record::Mark(mark))))
        });
        let forgotten = forgotten.map(|(source, _)| (source.clone(), None, Action::Delete));
        let changes: Vec<_> = marked.chain(forgotten).collect();
        for some in changes.chunks(MAX_OPERATIONS) {
            let mut commit = Commit::default();
            for (source, expect, action) in some {
                let key = Key::Mark { source: source.clone() };
                commit.conditions.extend(expect.map(|expect| Condition { key: key.clone(), expect }));
                commit.operations.push(Operation { key, action: action.clone() });
            }
            match tokio::time::timeout(Duration::from_secs(10), self.store.commit(commit)).await {
                Ok(Ok(_)) => {}
                // They stay heard, and the next look tries again.
                Ok(Err(CommitError::Condition { .. })) => return,
                Ok(Err(error)) => return warn!(%error, "can't note which sources were heard"),
                Err(_) => return warn!("the store did not take the note of which sources were heard in time"),
            }
        }
        let mut still = self.heard.lock();
        heard.iter().for_each(|source| {
            still.remove(source);
        });
    }

    /// A source's mark, an empty one where it has none, and the condition that it is still that.
    fn mark_of(&self, source: &Source) -> (Mark, Expect) {
        match self.live.read().record(&Key::Mark { source: source.clone() }) {
            Some((Record::Mark(mark), revision)) => (mark, Expect::At(revision)),
            _ => (Mark::default(), Expect::Absent),
        }
    }

    /// Whether all that a source has is here, where that is all of `what`.
    pub fn is_complete(&self, source: &Source, what: &str) -> bool {
        let (mark, _) = self.mark_of(source);
        mark.complete > 0 && mark.complete_of == what
    }

    /// Notes that all that a source has is here, durably, and with it all that was written before; and of what it is all.
    pub async fn complete(&self, source: &Source, what: &str) -> Result<(), CommitError> {
        let now = Timestamp::now().0;
        let mark = Mark { seen: now, complete: now, complete_of: what.to_owned(), ..self.mark_of(source).0 };
        let action = Action::Put(Arc::new(Record::Mark(mark)));
        let operation = Operation { key: Key::Mark { source: source.clone() }, action };
        self.store.commit(Commit { operations: vec![operation], ..Commit::default() }).await.map(|_| ())
    }

    async fn remove_silent(&self, writer: &Writer, silences: &mut HashMap<Source, Silence>) {
        let Some(remove_after) = self.options.remove_after else { return };
        let members = Arc::clone(&self.store.members().borrow());
        if !members.in_touch {
            // Marks that others write would not be seen.
            return silences.clear();
        }
        let stats = self.live.read().source_stats();
        silences.retain(|source, _| stats.contains_key(source));
        for (source, stats) in &stats {
            let revision = stats.seen.map(|(_, revision)| revision);
            let silence = silences.entry(source.clone()).or_insert_with(|| Silence { revision, since: Instant::now() });
            if silence.revision != revision || stats.sessions > 0 || self.heard.lock().contains(source) {
                *silence = Silence { revision, since: Instant::now() };
            }
            let long = silence.since.elapsed() >= remove_after
                && stats.seen.is_some_and(|(seen, _)| {
                    Timestamp::now().0.saturating_sub(seen) >= remove_after.as_millis() as u64
                });
            if !long || !leaves_something(source, stats) || !members.is_home(&format!("source:{source}")) {
                continue;
            }
            match self.remove(writer, source, Removal::Left(members.fence)).await {
                Ok((removed, _)) => info!(
                    %source, removed.instances, removed.services, removed.namespaces,
                    "removed what a source left that has been silent for long"
                ),
                Err(error) => warn!(%source, %error, "can't remove what a silent source left; trying again later"),
            }
        }
    }

    /// Removes what a source declared, its sessions, and its mark. What it [left](Removal::Left) is without the sessions and
    /// what hangs on them, which ends with them. Broken off in the middle, it can be repeated. Whether this process shows it
    /// in the end, is for [`Writer::shown`] to tell.
    pub async fn remove(
        &self,
        writer: &Writer,
        source: &Source,
        what: Removal,
    ) -> Result<(RemovedSource, Position), CommitError> {
        let fence = match what {
            Removal::All => None,
            Removal::Left(fence) => Some(fence),
        };
        let mut removed = RemovedSource::default();
        let mut position = self.live.position();
        let selector = Selector::default();
        let mut after = None;
        loop {
            let page = self.live.read().instances(&InstanceQuery {
                namespace: None,
                service: None,
                source: Some(source),
                selector: &selector,
                health: HealthSet::default(),
                after: after.as_ref(),
                limit: 500,
            });
            let views = page.items.into_iter().filter(|view| fence.is_none() || view.instance.session.is_none());
            let keys: Vec<_> = views.map(|view| view.key).collect();
            if let Some(made) = writer.remove_instances(&keys, fence).await? {
                position = made;
                removed.instances += keys.len();
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        if fence.is_none() {
            // Else whoever renews them would go on, and not know that what hung on them is gone.
            position = self.end_sessions(writer, source).await?.unwrap_or(position);
        }
        let keys = self.live.read().declarations_of(source);
        for some in keys.chunks(MAX_OPERATIONS) {
            position = writer.remove_records(some.to_vec(), fence).await?;
            removed.services += some.iter().filter(|key| matches!(key, Key::Service { .. })).count();
            removed.namespaces += some.iter().filter(|key| matches!(key, Key::Namespace { .. })).count();
        }
        if self.live.read().revision_of(&Key::Mark { source: source.clone() }).is_some() {
            position = writer.remove_records(vec![Key::Mark { source: source.clone() }], fence).await?;
        }
        self.heard.lock().remove(source);
        Ok((removed, position))
    }

    /// Ends the sessions of a source for good: whoever renews one is told that it is unknown, and begins anew. Their homes
    /// remove the records, with what came to hang on them meanwhile.
    async fn end_sessions(&self, writer: &Writer, source: &Source) -> Result<Option<Position>, CommitError> {
        let mut last = None;
        let (mut after, mut attempts): (Option<Arc<str>>, _) = (None, 0);
        loop {
            let page = self.live.read().sessions(&SessionQuery {
                name: None,
                source: Some(source),
                state: None,
                after: after.as_deref(),
                limit: MAX_OPERATIONS,
            });
            let mut commit = Commit::default();
            for view in page.items {
                let session = &view.session;
                if session.state == SessionState::Expired && session.grace_seconds == 0 {
                    continue;
                }
                let since = if session.state == SessionState::Expired { session.since } else { Timestamp::now().0 };
                let ended =
                    Session { state: SessionState::Expired, grace_seconds: 0, since, ..Session::clone(session) };
                let key = Key::Session { id: view.id };
                commit.conditions.push(Condition { key: key.clone(), expect: Expect::At(view.revision) });
                commit.operations.push(Operation { key, action: Action::Put(Arc::new(Record::Session(ended))) });
            }
            if !commit.operations.is_empty() {
                match writer.store_commit(commit).await {
                    Ok(committed) => last = Some(committed.position),
                    // One was renewed by a write, or ended by itself: the page is read again.
                    Err(CommitError::Condition { actual, .. }) if attempts < ATTEMPTS => {
                        attempts += 1;
                        writer.wait_for_change(actual).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            attempts = 0;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(last),
            }
        }
    }
}

/// What is removed together, as a commit.
pub(crate) fn removal(keys: Vec<Key>, fence: Option<Fence>) -> Commit {
    let operations = keys.into_iter().map(|key| Operation { key, action: Action::Delete }).collect();
    Commit { operations, fence, ..Commit::default() }
}
