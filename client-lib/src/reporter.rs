//! A follower's side: tells the registry which position it shows, so that writes can wait for it.
//!
//! The first news is told at once. One report is under way at a time, and carries the position of the moment at which it is
//! sent: however fast positions come, reports are no faster than their replies, nor than the registry wants them, and the last
//! position is always told.

use crate::backoff::Backoff;
use crate::{Error, HttpRegistry, Result};
use fingerpost_catalog::Position;
use fingerpost_catalog::document::FollowerReport;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A report must be answered within this time.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Waits after reports that failed.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The wait where the registry refuses: it takes somebody's act to change that.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

/// Who reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follower {
    /// Its id, the same after each of its starts, and of nobody else: 1 to 253 of `A-Z a-z 0-9 . _ : -`.
    pub id: String,
    /// What it is, a DNS label; as in `dns`.
    pub kind: String,
    /// The version that it runs, at most 64 bytes; may be empty.
    pub version: String,
}

/// How a follower stands with its registry.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Reported {
    /// Nothing has been reported yet.
    #[default]
    Nothing,
    /// The registry knows that it shows this.
    At(Position),
    /// The last report failed. It goes on reporting.
    Failed(Error),
}

/// Reports what a follower shows, for as long as this lives. Dropped without [`leave`](Reporter::leave), the follower is
/// missed for some seconds.
#[derive(Debug)]
pub struct Reporter {
    shown: watch::Sender<Option<Position>>,
    reported: watch::Receiver<Reported>,
    leaving: CancellationToken,
    task: JoinHandle<()>,
}

impl HttpRegistry {
    /// Begins to report as a follower: of all that the registry says, or else writes wait for what it is never told.
    ///
    /// # Errors
    ///
    /// This is not called within a tokio runtime.
    ///
    /// ```no_run
    /// use fingerpost_client::{Follower, HttpRegistry, Registry, WatchEvent, WatchRequest};
    /// use futures_util::StreamExt;
    ///
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// # fn configure(_: &WatchEvent) {}
    /// let reporter = registry.report_as(Follower {
    ///     id: "proxy-1".to_owned(),
    ///     kind: "proxy".to_owned(),
    ///     version: String::new(),
    /// })?;
    /// let mut events = registry.watch(WatchRequest::new(None));
    /// while let Some(Ok(event)) = events.next().await {
    ///     configure(&event);
    ///     match event {
    ///         WatchEvent::Put { position: Some(position), .. }
    ///         | WatchEvent::Delete { position: Some(position), .. }
    ///         | WatchEvent::Synced(position)
    ///         | WatchEvent::Bookmark(position) => reporter.shows(position),
    ///         _ => {}
    ///     }
    /// }
    /// reporter.leave().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn report_as(&self, follower: Follower) -> Result<Reporter> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let shown = watch::Sender::new(None);
        let (state, reported) = watch::channel(Reported::Nothing);
        let leaving = CancellationToken::new();
        let task = Task {
            registry: self.clone(),
            follower,
            run: format!("{:016x}", rand::random::<u64>()),
            sequence: 0,
            shown: shown.subscribe(),
            state,
        };
        let task = runtime.spawn(task.run(leaving.clone()));
        Ok(Reporter { shown, reported, leaving, task })
    }
}

impl Reporter {
    /// Says that this position is shown from now on. Neither waits nor fails.
    pub fn shows(&self, position: Position) {
        self.shown.send_if_modified(|shown| shown.replace(position) != Some(position));
    }

    /// How it stands, now and whenever that changes.
    pub fn reported(&self) -> watch::Receiver<Reported> {
        self.reported.clone()
    }

    /// Tells the registry that this follower shows nothing any more, so that nobody waits for it; takes two seconds at most.
    pub async fn leave(mut self) {
        self.leaving.cancel();
        // It never panics of itself, and a runtime that ends takes it along.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How the registry wants reports.
struct Pace {
    /// Without news, after this time.
    every: Duration,
    /// With news, not before this time.
    spacing: Duration,
}

struct Task {
    registry: HttpRegistry,
    follower: Follower,
    run: String,
    sequence: u64,
    shown: watch::Receiver<Option<Position>>,
    state: watch::Sender<Reported>,
}

impl Task {
    async fn run(mut self, leaving: CancellationToken) {
        tokio::select! {
            () = self.report() => {}
            () = leaving.cancelled() => {}
        }
        if self.sequence > 0 {
            // Where it fails, silence says the same.
            let _ = self.tell(None).await;
        }
    }

    /// Reports until nobody says any more what is shown.
    async fn report(&mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let Ok(shown) = self.shown.wait_for(Option::is_some).await.map(|shown| *shown) else { return };
            let Some(position) = shown else { continue };
            let begun = Instant::now();
            match self.tell(Some(position)).await {
                Ok(Pace { every, spacing }) => {
                    backoff.reset();
                    self.state.send_replace(Reported::At(position));
                    // With news at once, else in time.
                    let news = tokio::time::timeout_at(begun + every, self.shown.changed()).await;
                    if matches!(news, Ok(Err(_))) {
                        return;
                    }
                    tokio::time::sleep_until(begun + spacing).await;
                }
                Err(error) => {
                    // Another caller's follower has this id until it has been silent for some seconds.
                    let passes = error.is_transient() || matches!(error, Error::Conflict { .. });
                    let wait = if passes { backoff.next() } else { REFUSED_WAIT };
                    if !matches!(*self.state.borrow(), Reported::Failed(_)) {
                        tracing::warn!(%error, "the registry can't be told what is shown here; going on");
                    }
                    self.state.send_replace(Reported::Failed(error));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Sends a report; returns when the next one is due.
    async fn tell(&mut self, position: Option<Position>) -> Result<Pace> {
        self.sequence += 1;
        let report = FollowerReport {
            kind: self.follower.kind.clone(),
            version: self.follower.version.clone(),
            run: self.run.clone(),
            sequence: self.sequence,
            position,
        };
        let receipt = self.registry.report_follower(&self.follower.id, &report, TIMEOUT).await?;
        Ok(Pace {
            every: Duration::from_secs(receipt.report_seconds.clamp(1, 60)),
            spacing: Duration::from_millis(receipt.spacing_milliseconds.min(1000)),
        })
    }
}
