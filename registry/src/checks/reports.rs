//! TTL checks: nobody asks, somebody has to say in time that all is well.
//!
//! A report that changes the verdict is written, by whichever replica it reaches. One that only repeats it has to reach
//! the check's home, which keeps the deadline in memory: by the [`Relay`] between replicas, or where that fails, by the
//! record itself, whose count of reports goes up. Where its note is a new one, that is written now and then.

use super::runner::Shared;
use super::verdict::Outcome;
use super::{CheckKey, write};
use crate::members::Member;
use crate::writes::{WriteError, Writer};
use fingerpost_catalog::{CheckResult, CheckType, Health, InstanceKey, Timestamp};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A new note on an unchanged verdict is written after this time at the soonest, in milliseconds: who has another one in
/// each of its reports would have each of them written.
const NOTE_EVERY: u64 = 60_000;
/// Reports that others overtake this often are given up.
const ATTEMPTS: usize = 8;

/// The report did not reach the replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the replica at home for the check can't be told: {0}")]
pub struct RelayError(pub String);

/// Tells another replica that a TTL check was reported as it stands.
pub trait Relay: Send + Sync {
    /// Returns once the home has noted it. It refuses what it is not at home for, or knows otherwise.
    fn heartbeat<'a>(
        &'a self,
        home: &'a Member,
        instance: &'a InstanceKey,
        check: &'a str,
        health: Health,
    ) -> BoxFuture<'a, Result<(), RelayError>>;
}

/// No way to other replicas.
pub struct NoRelay;

impl Relay for NoRelay {
    fn heartbeat<'a>(
        &'a self,
        _: &'a Member,
        _: &'a InstanceKey,
        _: &'a str,
        _: Health,
    ) -> BoxFuture<'a, Result<(), RelayError>> {
        Box::pin(async { Err(RelayError("this replica has no way to others".to_owned())) })
    }
}

/// When a TTL check is overdue.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    /// What was reported since it was last found overdue, or set up.
    reported: Option<Health>,
}

/// The deadlines of the TTL checks at this replica, as the runner set them up.
#[derive(Debug, Default)]
pub(super) struct Deadlines(Mutex<HashMap<CheckKey, Deadline>>);

impl Deadlines {
    /// Sets a deadline that is not earlier than the one that there may be.
    pub(super) fn extend(&self, key: &CheckKey, at: Instant) {
        let mut deadlines = self.0.lock();
        let known = deadlines.entry(key.clone()).or_insert(Deadline { at, reported: None });
        known.at = at.max(known.at);
    }

    /// The deadline, if it has not come yet; else, only what is reported from now on counts.
    pub(super) fn still_before(&self, key: &CheckKey, now: Instant) -> Option<Instant> {
        let mut deadlines = self.0.lock();
        let known = deadlines.get_mut(key)?;
        if known.at > now {
            return Some(known.at);
        }
        known.reported = None;
        None
    }

    /// What was reported since the check was found overdue.
    pub(super) fn reported_since(&self, key: &CheckKey) -> Option<Health> {
        self.0.lock().get(key)?.reported
    }

    pub(super) fn forget(&self, key: &CheckKey) {
        self.0.lock().remove(key);
    }

    fn has(&self, key: &CheckKey) -> bool {
        self.0.lock().contains_key(key)
    }

    /// Whether the check is at home here.
    fn touch(&self, key: &CheckKey, ttl: Duration, health: Health) -> bool {
        match self.0.lock().get_mut(key) {
            Some(deadline) => {
                *deadline = Deadline { at: Instant::now() + ttl, reported: Some(health) };
                true
            }
            None => false,
        }
    }
}

impl Shared {
    /// Another replica says that a TTL check was reported so. Returns whether it was noted: only where the check is at
    /// home here and its verdict is this one already.
    pub(super) fn heartbeat(&self, key: &CheckKey, health: Health) -> bool {
        let ttl = {
            let replica = self.live.read();
            let checked = replica.checked_instance(&key.instance);
            let declared =
                checked.and_then(|checked| checked.checks.into_iter().find(|check| *check.name == *key.check));
            declared.filter(|check| check.check_type == CheckType::Ttl).map(|check| check.ttl())
        };
        let same = write::health_of(&write::standing(&self.live, key)) == Some(health);
        let here = self.store.members().borrow().is_home(&key.to_string());
        match ttl {
            Some(ttl) if same && here => self.deadlines.touch(key, Duration::from_secs(ttl.into()), health),
            _ => false,
        }
    }

    /// Takes a report to a TTL check, of which the caller has seen that it is one.
    pub(super) async fn report(
        &self,
        writer: &Writer,
        instance: InstanceKey,
        check: Arc<str>,
        outcome: Outcome,
    ) -> Result<(), WriteError> {
        let key = CheckKey { instance, check };
        for _ in 0..ATTEMPTS {
            writer.require_ttl_check(&key.instance, &key.check)?;
            let standing = write::standing(&self.live, &key);
            let (result, expected) = match standing {
                Some((standing, revision)) if standing.health == outcome.health => {
                    let now = Timestamp::now().0;
                    // Clocks of others may be ahead.
                    let since_then = now.abs_diff(standing.since.max(standing.noted));
                    if standing.note != outcome.note && since_then >= NOTE_EVERY {
                        (CheckResult { note: outcome.note.clone(), noted: now, ..standing }, Some(revision))
                    } else if self.reaches_home(&key, outcome.health).await {
                        return Ok(());
                    } else {
                        (CheckResult { reports: standing.reports + 1, ..standing }, Some(revision))
                    }
                }
                other => {
                    let (before, revision) = other.map_or_else(Default::default, |(result, at)| (result, Some(at)));
                    let (health, note) = (outcome.health, outcome.note.clone());
                    self.metrics.turned(health);
                    (CheckResult { health, note, since: Timestamp::now().0, noted: 0, ..before }, revision)
                }
            };
            match writer.put_check_result(&key.instance, &key.check, result, expected).await {
                // Somebody was faster: the home, most likely, because the report is late.
                Err(WriteError::Contended(_)) => {}
                other => return other.map(|_| ()),
            }
        }
        Err(WriteError::Contended(format!("check `{}` of instance `{}`", key.check, key.instance.id)))
    }

    /// Lets the home know of a report that changes nothing.
    async fn reaches_home(&self, key: &CheckKey, health: Health) -> bool {
        let members = self.store.members().borrow().clone();
        let name = key.to_string();
        if members.is_home(&name) {
            // Where the runner has not come to it yet, it will grant a whole TTL when it does. Where the verdict has just
            // become another one, it has to be looked at again.
            return self.heartbeat(key, health) || !self.deadlines.has(key);
        }
        match members.home_of(&name) {
            Some(home) if members.in_touch => {
                self.relay.heartbeat(home, &key.instance, &key.check, health).await.is_ok()
            }
            _ => false,
        }
    }
}
