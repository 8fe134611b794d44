//! Running what is due, as far as there is room.

use super::Task;
use super::job::{Job, Purpose, Ran, State, Timer};
use crate::checks::places::Waiting;
use crate::checks::verdict::Outcome;
use crate::checks::{CheckKey, write};
use fingerpost_catalog::CheckType;
use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

impl Task {
    /// Does what timers say is due.
    pub(super) fn fire(&mut self) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|Reverse(timer)| timer.at <= now) {
            let Some(Reverse(Timer { at, number, purpose, key })) = self.timers.pop() else { return };
            let Some(job) = self.job(&key, number) else { continue };
            match purpose {
                Purpose::Write if job.again == Some(at) => {
                    job.again = None;
                    self.judge(&key, number);
                }
                Purpose::Run if job.due == at && matches!(job.state, State::Waiting) => {
                    if job.check.check_type == CheckType::Ttl {
                        self.overdue(key, number, now);
                    } else {
                        job.state = State::Queued;
                        let address = job.target.as_ref().ok().map(SocketAddr::ip);
                        self.places.wait(Waiting { key, number, address });
                    }
                }
                // Another timer has taken its place.
                Purpose::Write | Purpose::Run => {}
            }
        }
    }

    /// The deadline of a TTL check has come, unless a report has put it off.
    pub(super) fn overdue(&mut self, key: CheckKey, number: u64, now: Instant) {
        let before = self.shared.deadlines.still_before(&key, now);
        let standing = write::health_of(&write::standing(&self.shared.live, &key));
        let Some(job) = self.job(&key, number) else { return };
        let ttl = job.check.ttl();
        job.due = before.unwrap_or_else(|| {
            job.streak.force(standing, Outcome::critical(format!("no report for {ttl} s")));
            now + Duration::from_secs(ttl.into())
        });
        let at = job.due;
        self.timers.push(Reverse(Timer { at, number, purpose: Purpose::Run, key: key.clone() }));
        if before.is_none() {
            self.judge(&key, number);
        }
    }

    /// Starts what waits, as far as there are places.
    pub(super) fn start(&mut self) {
        while let Some((Waiting { key, number, .. }, place)) = self.places.next() {
            let shared = Arc::clone(&self.shared);
            let job = self.jobs.get_mut(&key.instance).and_then(|jobs| jobs.get_mut(&key.check));
            let waits = |job: &&mut Job| job.number == number && matches!(job.state, State::Queued);
            let Some(job) = job.filter(waits) else {
                self.places.free(place);
                continue;
            };
            let interval = Duration::from_secs(job.check.interval().into());
            if Instant::now() > job.due + (interval / 10).max(Duration::from_secs(1)) {
                shared.metrics.late.inc();
            }
            let (check, target) = (Arc::clone(&job.check), job.target.clone());
            let probe = self.probes.spawn(async move {
                let begun = Instant::now();
                let outcome = match target {
                    Err(refusal) => Outcome::critical(refusal),
                    Ok(target) => {
                        let timeout = Duration::from_secs(check.timeout().into());
                        let running = shared.probe.run(Arc::clone(&check), target);
                        tokio::time::timeout(timeout, running)
                            .await
                            .unwrap_or_else(|_| Outcome::critical(format!("no answer within {} s", check.timeout())))
                    }
                };
                shared.metrics.ran(check.check_type, outcome.health, begun.elapsed());
                Ran { key, number, outcome }
            });
            self.taken.insert(probe.id(), place);
            job.state = State::Running(probe);
        }
    }

    pub(super) fn ran(&mut self, ran: Result<(Id, Ran), JoinError>) {
        let id = ran.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        if let Some(place) = self.taken.remove(&id) {
            self.places.free(place);
        }
        let Some((_, Ran { key, number, outcome })) = ended(ran) else { return };
        let now = Instant::now();
        let standing = write::health_of(&write::standing(&self.shared.live, &key));
        let job = self.jobs.get_mut(&key.instance).and_then(|jobs| jobs.get_mut(&key.check));
        let Some(job) = job.filter(|job| job.number == number) else { return };
        job.state = State::Waiting;
        let interval = Duration::from_secs(job.check.interval().into());
        job.due = self.schedule.after(job.due, now, interval, &key.to_string());
        job.streak.add(standing, outcome);
        let at = job.due;
        self.timers.push(Reverse(Timer { at, number, purpose: Purpose::Run, key: key.clone() }));
        self.judge(&key, number);
    }
}

/// What a task came to; none where it was given up. A panic goes on.
pub(super) fn ended<T>(joined: Result<T, JoinError>) -> Option<T> {
    match joined {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}
