//! The task that follows the registry, shows what it says, keeps it on disk, and reports what is shown.
//!
//! **When what is missing is denied.** Names that are known are answered as soon as they are; what is not known is SERVFAIL
//! until all of it is: when the registry has said so, or, with what the disk has, when the registry can't be reached or
//! does not say so within [`PATIENCE`]. Before the first such answer the registry is told what is shown, so that a write
//! which waits for all followers never passes over one that answers.

use super::records::{changes, id_of, records};
use super::state::State;
use super::view::{Step, View};
use super::{cache, view::Objects};
use anyhow::Result;
use fingerpost_catalog::{ChangeSet, Key, Position, Record};
use fingerpost_client::{Error, HttpRegistry, Registry, Reported, Reporter, WatchEvent, WatchRequest};
use fingerpost_dns::Index;
use fingerpost_registry::live::{Display, LiveReplica};
use futures_util::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long the registry has to say what is, before what the disk has is taken for all there is.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the first answer waits for the registry to know of this follower.
const INTRODUCTION: Duration = Duration::from_secs(1);
/// The wait where the registry refuses to be followed: it takes somebody's act to change that.
const REFUSED: Duration = Duration::from_secs(30);
/// Changes are gathered for so long before they are kept.
const GATHER: Duration = Duration::from_secs(2);
/// What is kept is dated anew so often, also where nothing changes.
const DATE_EVERY: Duration = Duration::from_secs(600);
/// The least part of the time in which nothing is written to the cache: a large one is written less often.
const REST: u32 = 10;

pub(super) struct Follow {
    registry: HttpRegistry,
    display: Display,
    index: Arc<Index>,
    reporter: Reporter,
    state: Arc<State>,
    view: View,
    /// Something is shown, from the registry or from the disk.
    shows: bool,
    /// What is missing is denied.
    open: bool,
    keeper: Keeper,
}

impl Follow {
    pub(super) fn new(
        registry: HttpRegistry,
        display: Display,
        index: Arc<Index>,
        reporter: Reporter,
        state: Arc<State>,
        cache: PathBuf,
    ) -> Self {
        let keeper = Keeper { path: cache, due: None, dated: Instant::now(), writing: None };
        let view = View::new(None);
        Self { registry, display, index, reporter, state, view, shows: false, open: false, keeper }
    }

    /// Follows until `stop`; then nobody waits for this follower any more, and what it knows is on disk.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        self.recall().await?;
        let request =
            WatchRequest { position: self.shows.then(|| self.display.live().position()), ..WatchRequest::new(None) };
        let mut events = self.registry.watch(request.clone());
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event).await,
                    Some(Err(error)) => {
                        if self.state.lost(&error) {
                            warn!(%error, "the registry can't be followed; what is known stays");
                        }
                        self.view.broken();
                        // A replica that can be reached, and has trouble, may have its answer in a moment, or another replica.
                        if matches!(error, Error::Unreachable { .. }) {
                            self.answer_what_is_kept().await;
                        }
                    }
                    // It was refused, and may not be for ever.
                    None => {
                        tokio::select! {
                            () = tokio::time::sleep(REFUSED.mul_f64(1.0 + rand::random::<f64>() / 2.0)) => {}
                            () = stop.cancelled() => break,
                        }
                        let position = self.shows.then(|| self.display.live().position());
                        self.view = View::new(position);
                        events = self.registry.watch(WatchRequest { position, ..request.clone() });
                    }
                },
                () = &mut patience, if !self.open && !patience.is_elapsed() => self.answer_what_is_kept().await,
                () = self.keeper.step(self.display.live(), &self.state) => {}
                () = stop.cancelled() => break,
            }
        }
        self.reporter.leave().await;
        self.keeper.finish(self.display.live(), &self.state).await;
        Ok(())
    }

    /// Shows what the disk has, if anything.
    async fn recall(&mut self) -> Result<()> {
        let path = self.keeper.path.clone();
        let Some(kept) = tokio::task::spawn_blocking(move || cache::read(&path)).await? else { return Ok(()) };
        let objects: Objects = kept.objects.into_iter().filter_map(|object| Some((id_of(&object)?, object))).collect();
        info!(objects = objects.len(), position = %kept.position, "this was kept on disk; now for what is new");
        self.state.kept(kept.as_of);
        self.show_first(kept.position, objects);
        self.reporter.shows(kept.position);
        self.view = View::new(Some(kept.position));
        Ok(())
    }

    fn show_first(&mut self, position: Position, objects: Objects) {
        let records: Vec<(Key, Record, u64)> = objects.iter().flat_map(|(id, object)| records(id, object)).collect();
        self.display.load(records.iter().map(|(key, record, revision)| (key, record, *revision)));
        self.display.loaded(position);
        self.display.ready();
        self.shows = true;
    }

    async fn take(&mut self, event: WatchEvent) {
        if let WatchEvent::Reset { reason } = &event {
            info!(reason, "the registry tells everything anew");
        }
        let Some((position, step)) = self.view.take(event) else {
            self.state.heard(false);
            return;
        };
        match step {
            Step::State(objects) if !self.shows => self.show_first(position, objects),
            Step::State(objects) => {
                let records: Vec<_> = objects.iter().flat_map(|(id, object)| records(id, object)).collect();
                self.display.reload(position, records);
                self.keeper.changed();
            }
            Step::Changes(objects) => {
                let changes = {
                    let replica = self.display.live().read();
                    objects.iter().flat_map(|(id, object)| changes(id, object.as_ref(), &replica)).collect()
                };
                self.display.apply(&ChangeSet { position, changes }, || None);
                if !objects.is_empty() {
                    self.keeper.changed();
                }
            }
        }
        self.state.heard(true);
        self.reporter.shows(position);
        if !self.open {
            self.introduce(position).await;
            self.index.set_synced(position);
            self.open = true;
            self.keeper.changed();
            info!(%position, "in sync with the registry");
        }
        let trouble = match &*self.reporter.reported().borrow() {
            Reported::Failed(error) => Some(error.to_string()),
            _ => None,
        };
        self.state.reported(trouble);
    }

    /// Waits a moment until the registry knows what is shown. One that does not want to know is no reason not to answer.
    async fn introduce(&self, position: Position) {
        let mut reported = self.reporter.reported();
        let told = reported.wait_for(|reported| match reported {
            Reported::At(at) => at.includes(&position),
            Reported::Failed(_) => true,
            _ => false,
        });
        let _ = tokio::time::timeout(INTRODUCTION, told).await;
    }

    /// Where the disk had something, it is all there is for now.
    async fn answer_what_is_kept(&mut self) {
        if self.shows && !self.open {
            let position = self.display.live().position();
            self.introduce(position).await;
            warn!(%position, age = ?self.state.age(), "answering from what was kept on disk");
            self.index.set_synced(position);
            self.open = true;
        }
    }
}

/// Writes what is shown to the disk, now and then.
struct Keeper {
    path: PathBuf,
    /// When to write next; none where nothing has changed.
    due: Option<Instant>,
    /// When it was written last.
    dated: Instant,
    writing: Option<(Instant, JoinHandle<Result<bool>>)>,
}

impl Keeper {
    fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn begin(&mut self, live: &Arc<LiveReplica>, state: &State) {
        self.due = None;
        // What was not heard of yet is not worth keeping.
        let Some(as_of) = state.as_of() else { return };
        let (path, live) = (self.path.clone(), Arc::clone(live));
        let task = tokio::task::spawn_blocking(move || cache::write(&path, &live, as_of));
        self.writing = Some((Instant::now(), task));
    }

    /// Does what is next to be done, once it is time. May be dropped and called again.
    async fn step(&mut self, live: &Arc<LiveReplica>, state: &State) {
        match &mut self.writing {
            Some((begun, task)) => {
                let begun = *begun;
                let written = task.await;
                self.writing = None;
                self.written(begun, written);
            }
            None => {
                let due = self.due.unwrap_or(self.dated + DATE_EVERY);
                tokio::time::sleep_until(due).await;
                self.dated = Instant::now();
                self.begin(live, state);
            }
        }
    }

    fn written(&mut self, begun: Instant, written: Result<Result<bool>, tokio::task::JoinError>) {
        let again = match written {
            Ok(Ok(whole)) => !whole,
            Ok(Err(error)) => {
                warn!(error = format!("{error:#}"), "what is known can't be kept on disk; trying again");
                true
            }
            Err(error) => {
                warn!(%error, "what is known can't be kept on disk; trying again");
                true
            }
        };
        let rest = Instant::now() + begun.elapsed() * REST;
        if again {
            self.changed();
        }
        self.due = self.due.map(|due| due.max(rest));
    }

    /// Writes what has changed, and ends.
    async fn finish(mut self, live: &Arc<LiveReplica>, state: &State) {
        if let Some((begun, task)) = self.writing.take() {
            let written = task.await;
            self.written(begun, written);
        }
        self.begin(live, state);
        if let Some((begun, task)) = self.writing.take() {
            let written = task.await;
            self.written(begun, written);
        }
    }
}
