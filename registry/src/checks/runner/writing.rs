//! Writing verdicts: those that changed, again where that fails, and as they are by then.

use super::Task;
use super::job::{Purpose, Timer, Wrote};
use super::running::ended;
use crate::checks::verdict::Outcome;
use crate::checks::{CheckKey, write};
use crate::store::CommitError;
use fingerpost_catalog::{CheckType, Health};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{debug, warn};

impl Task {
    /// Writes the verdict, where the results demand another one than stands.
    pub(super) fn judge(&mut self, key: &CheckKey, number: u64) {
        if !self.members.borrow().is_home(&key.to_string()) {
            return;
        }
        let standing = write::standing(&self.shared.live, key);
        let (writes, most) = (self.writes.len(), self.shared.limits.writes);
        let Some(job) = self.job(key, number) else { return };
        if job.writing || job.again.is_some() {
            return;
        }
        let Some(outcome) = job.streak.due(write::health_of(&standing), &job.check).cloned() else { return };
        if writes >= most {
            // Once more in a moment: nothing is lost, as it is judged anew then.
            return self.write_again(key, number, Duration::from_millis(100));
        }
        job.writing = true;
        let (store, live) = (Arc::clone(&self.shared.store), Arc::clone(&self.shared.live));
        let (key, to, fence) = (key.clone(), outcome.health, self.view.fence);
        self.writes.spawn(async move {
            let result = write::turn(store, live, key.clone(), standing, outcome, fence).await;
            Wrote { job: Some((key, number, to)), result }
        });
    }

    pub(super) fn write_again(&mut self, key: &CheckKey, number: u64, pause: Duration) {
        let at = Instant::now() + pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let Some(job) = self.job(key, number) else { return };
        job.again = Some(at);
        self.timers.push(Reverse(Timer { at, number, purpose: Purpose::Write, key: key.clone() }));
    }

    pub(super) fn wrote(&mut self, wrote: Result<Wrote, JoinError>) {
        let Some(Wrote { job: Some((key, number, to)), result }) = ended(wrote) else { return };
        if result.is_ok() {
            debug!(check = %key, %to, "verdict");
            self.shared.metrics.turned(to);
        }
        let failed = {
            let Some(job) = self.job(&key, number) else { return };
            job.writing = false;
            match &result {
                Ok(()) => job.failed = 0,
                // Another verdict was written, or the instance is gone: the next result is judged by what stands then.
                Err(CommitError::Condition { .. } | CommitError::Fenced) => {}
                Err(_) => job.failed += 1,
            }
            job.failed
        };
        match result {
            Ok(()) => self.reported_meanwhile(&key, number, to),
            Err(CommitError::Condition { .. }) => {}
            // Where the check is still at home here, it is judged anew.
            Err(CommitError::Fenced) => self.write_again(&key, number, Duration::from_millis(250)),
            Err(error) => {
                self.shared.metrics.write_failures.inc();
                if failed == 1 {
                    warn!(check = %key, %error, "a check's verdict can't be written; trying again");
                }
                let pause = Duration::from_millis(250).saturating_mul(1 << failed.min(7));
                self.write_again(&key, number, pause);
            }
        }
    }

    /// A report that came while its check was being written off as overdue was told that nothing had to be written.
    pub(super) fn reported_meanwhile(&mut self, key: &CheckKey, number: u64, to: Health) {
        let reported = self.shared.deadlines.reported_since(key);
        let standing = write::health_of(&write::standing(&self.shared.live, key));
        let Some(job) = self.job(key, number) else { return };
        if job.check.check_type == CheckType::Ttl
            && let Some(health) = reported.filter(|health| *health != to)
        {
            job.streak.force(standing, Outcome::new(health, "reported just in time"));
            self.judge(key, number);
        }
    }
}
