//! What a registration does behind its guard.

use super::{Callback, HealthReport, Register, RegistrationState};
use crate::backoff::Backoff;
use crate::{Error, Keeper, Result};
use fingerpost_catalog::document::InstanceDocument;
use fingerpost_catalog::{Health, InstanceKey};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Waits between attempts to register.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Wait after a refusal, which somebody has to mend first.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// Longest time for a health callback, and for telling the registry at the end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an attempt to register may go on when the end has come: where it succeeds, the instance leaves in order.
const LAST_ATTEMPT: Duration = Duration::from_secs(2);
/// By this a drain of ours is told from one that a person asked for.
const NOTE: &str = "the instance is shutting down";

pub(super) struct Task {
    pub(super) how: Register,
    pub(super) key: InstanceKey,
    pub(super) state: watch::Sender<RegistrationState>,
    pub(super) ending: CancellationToken,
}

impl Task {
    pub(super) async fn run(self) {
        let registration = async {
            let Some(keeper) = self.begin().await else { return };
            tokio::select! {
                () = self.keep(&keeper) => {}
                () = self.ending.cancelled() => {}
            }
            self.leave(keeper).await;
        };
        let signal = async {
            terminated(self.how.on_sigterm).await;
            self.ending.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = registration => {}
            () = signal => {}
        }
        self.state.send_replace(RegistrationState::Ended);
    }

    /// Registers, however long that takes; none where the end comes first. An attempt is not broken off at once then: the
    /// registry may have taken the instance already, and would answer with it until the session expires.
    async fn begin(&self) -> Option<Keeper> {
        let late = async {
            self.ending.cancelled().await;
            tokio::time::sleep(LAST_ATTEMPT).await;
        };
        tokio::pin!(late);
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let tried = tokio::select! {
                tried = self.try_begin() => tried,
                () = &mut late => return None,
            };
            let error = match tried {
                Ok(keeper) => return Some(keeper),
                Err(error) => error,
            };
            let wait = match &error {
                Error::Unavailable { retry_after: Some(wait), .. } => backoff.next().max(*wait),
                error if error.is_transient() => backoff.next(),
                _ => backoff.next() + REFUSED_WAIT,
            };
            tracing::warn!(instance = %self.key.id, %error, "can't register; trying again in {wait:?}");
            self.state.send_replace(RegistrationState::Beginning { trouble: Some(error) });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.ending.cancelled() => return None,
            }
        }
    }

    async fn try_begin(&self) -> Result<Keeper> {
        let keeper = Keeper::start(self.how.registry.clone(), self.how.options.clone()).await?;
        let registered = match keeper.put(self.how.instance.clone()).await {
            Ok(registered) => registered,
            Err(error) => {
                // A session without anything on it: it would expire by itself, but why leave it there.
                let _ = tokio::time::timeout(PATIENCE, keeper.end()).await;
                return Err(error);
            }
        };
        if drained_by_us(&registered) {
            // A former life of this instance was on its way out. It is not any more.
            self.how.registry.undrain(&self.key).await?;
        }
        Ok(keeper)
    }

    /// Reports health, and how things stand.
    async fn keep(&self, keeper: &Keeper) {
        let mut keeping = keeper.watch();
        let mut reported: Option<(HealthReport, u64)> = None;
        let mut due = Instant::now();
        loop {
            let (session, generation, trouble) = {
                let now = keeping.borrow_and_update();
                (now.session.clone(), now.generation, now.trouble.clone())
            };
            self.state.send_replace(RegistrationState::Registered { session, trouble });
            if let Some((callback, every)) = &self.how.health
                && Instant::now() >= due
            {
                let report = ask(callback, *every).await;
                due = Instant::now() + *every;
                // A session that began anew has brought the instance back as its document says.
                if reported.as_ref() != Some(&(report.clone(), generation)) {
                    match self.how.registry.report_health(&self.key, &report.0).await {
                        Ok(_) => reported = Some((report, generation)),
                        Err(error) => tracing::warn!(instance = %self.key.id, %error, "can't report health"),
                    }
                }
            }
            let next = self.how.health.is_some().then_some(due);
            tokio::select! {
                changed = keeping.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// No new requests, then time for those under way, then the end.
    async fn leave(&self, keeper: Keeper) {
        self.state.send_replace(RegistrationState::Draining);
        let grace = Instant::now() + self.how.grace;
        match tokio::time::timeout(PATIENCE, self.how.registry.drain(&self.key, NOTE)).await {
            Ok(Ok(_)) => tokio::time::sleep_until(grace).await,
            Ok(Err(error)) => tracing::warn!(instance = %self.key.id, %error, "can't drain"),
            Err(_) => tracing::warn!(instance = %self.key.id, "can't drain: the registry does not answer"),
        }
        if let Err(error) = keeper.end().await {
            tracing::warn!(instance = %self.key.id, %error, "can't deregister; the session will expire");
        }
    }
}

/// Whether an instance is drained because a process like this one was shutting down.
fn drained_by_us(instance: &InstanceDocument) -> bool {
    let drain = instance.health_parts.as_ref().and_then(|parts| parts.drain.as_ref());
    drain.is_some_and(|drain| drain.note == NOTE)
}

async fn ask(callback: &Callback, every: Duration) -> HealthReport {
    let critical = |why: &str| HealthReport::new(Health::Critical, why);
    // The callback itself may panic, and so may its future.
    let asked = AssertUnwindSafe(async { callback().await }).catch_unwind();
    match tokio::time::timeout(every.min(PATIENCE), asked).await {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => critical("the health callback panicked"),
        Err(_) => critical("the health callback did not answer in time"),
    }
}

/// Waits for SIGTERM, where it is asked for.
async fn terminated(wanted: bool) {
    #[cfg(unix)]
    if wanted {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
                return;
            }
            Err(error) => tracing::warn!(%error, "SIGTERM can't be waited for"),
        }
    }
    let _ = wanted;
    std::future::pending().await
}

pub(super) fn ended() -> Error {
    Error::Unavailable { detail: "the registration has ended".to_owned(), retry_after: None }
}
