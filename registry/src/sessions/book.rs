//! The home's book: what it remembers of the sessions that it keeps, and how it judges them.
//!
//! The time is always handed in, and nothing here waits, so that a renewal is a look-up and an assignment. Judging goes
//! through all entries, but only when something can be due: renewals only ever move deadlines away, so the earliest one
//! that was seen last is a bound.
//!
//! It is judged in two steps: [`Book::survey`] looks at what is here, and [`Book::decide`] says what is to be done, by what
//! all homes together count. Between the two these can be asked.

use super::Protection;
use super::counts::Counts;
use crate::members::{Fence, Members};
use fingerpost_catalog::{Session, SessionState};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Of its TTL, the part after which a session may be late.
const LATE_SHARE: f64 = 0.6;
/// A session is late when this many of its usual intervals have gone by without a renewal.
const LATE_INTERVALS: f64 = 1.5;

/// What the home remembers of a session.
#[derive(Debug)]
struct Entry {
    ttl: Duration,
    grace: Duration,
    state: SessionState,
    /// Its last renewal, or when it was granted a full TTL.
    renewed: Instant,
    /// Its last renewal that was really one, if that came here.
    heard: Option<Instant>,
    /// How long it usually takes until its next renewal; none before two renewals were seen.
    interval: Option<Duration>,
    /// Whether a renewal was seen at all, so that the next one shows an interval.
    met: bool,
    /// When it came to its state, as this replica has seen it.
    since: Instant,
    /// It is being removed.
    removing: bool,
    /// Not to be removed before this time, as the last attempt failed.
    retry_at: Option<Instant>,
}

impl Entry {
    fn new(session: &Session, now: Instant) -> Self {
        Self {
            ttl: seconds(session.ttl_seconds),
            grace: seconds(session.grace_seconds),
            state: session.state,
            renewed: now,
            heard: None,
            interval: None,
            met: false,
            since: now,
            removing: false,
            retry_at: None,
        }
    }

    /// A full TTL, and a full grace, from now on.
    fn grant(&mut self, now: Instant) {
        self.renewed = now;
        self.since = now;
        self.met = false;
    }

    fn renew(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.renewed);
        if std::mem::replace(&mut self.met, true) {
            // Who repeats a renewal at once, because the first got no reply, does not renew more often for that.
            self.interval = Some(self.interval.map_or(gap, |interval| gap.max(interval.mul_f64(0.75))));
        }
        self.renewed = now;
        self.heard = Some(now);
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.renewed)
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.age(now) >= self.ttl
    }

    /// Should have renewed by now, and has not.
    fn is_late(&self, now: Instant) -> bool {
        let age = self.age(now);
        age > self.ttl.mul_f64(LATE_SHARE)
            && self.interval.is_none_or(|interval| age > interval.mul_f64(LATE_INTERVALS))
    }

    /// Has renewed although it is taken for dead: its expiry was written when that could not be known any more.
    fn is_wronged(&self, now: Instant) -> bool {
        !self.grace.is_zero() && self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < self.ttl)
    }

    fn count(&self, counts: &mut Counts, now: Instant) {
        match self.state {
            SessionState::Expired => return,
            SessionState::Suspect => counts.held += usize::from(self.is_overdue(now)),
            SessionState::Alive if self.is_overdue(now) => counts.overdue += 1,
            SessionState::Alive if self.is_late(now) => counts.late += 1,
            SessionState::Alive => counts.timely += usize::from(self.met),
        }
        counts.live += 1;
    }

    fn removal_due(&self) -> Instant {
        let due = self.since + self.grace;
        self.retry_at.map_or(due, |retry| due.max(retry))
    }
}

/// What is known of the writes that end or hold a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Write {
    /// One is on its way.
    under_way: bool,
    /// An earlier one may have been applied, or may yet be: the store could not say. It can't be any more once the record has
    /// changed.
    open: bool,
}

/// What a renewal finds at home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// It was alive.
    Alive,
    /// It was held. The next judgement writes that it is alive.
    Suspect,
    /// It has expired, or may be about to: only the store can tell.
    Written,
    /// It has ended, or its removal has begun.
    Over,
    /// There is no such session here.
    Missing,
    /// It is at home elsewhere.
    Elsewhere,
}

/// What is to be done about the sessions.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// To be held.
    pub(super) hold: Vec<Arc<str>>,
    /// To expire.
    pub(super) expire: Vec<Arc<str>>,
    /// To expire after having been held for long enough.
    pub(super) release: Vec<Arc<str>>,
    /// Held, but renewed since.
    pub(super) revive: Vec<Arc<str>>,
    /// Whose grace is over.
    pub(super) remove: Vec<Arc<str>>,
    /// What the judgement was made upon.
    pub(super) counts: Counts,
}

/// What a look at all sessions has found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// What it has counted.
    pub(super) counts: Counts,
    overdue: Vec<Arc<str>>,
    /// With when they came to be held, and their TTLs.
    held: Vec<(Arc<str>, Instant, Duration)>,
    revive: Vec<Arc<str>>,
    remove: Vec<Arc<str>>,
}

/// The book.
#[derive(Debug)]
pub(super) struct Book {
    members: Arc<Members>,
    entries: HashMap<Arc<str>, Entry>,
    /// Sessions that expired, each until its TTL has gone by once more. Without those that had been held: what was
    /// judged to be dead at leisure is no sign of a fault.
    ended: HashMap<Arc<str>, Instant>,
    /// No entry needs anything before this time.
    due: Option<Instant>,
    /// Since when the sessions that are not held have been renewing as they should.
    normal_since: Option<Instant>,
    /// The sessions that are held in the whole registry, and since when there are any.
    held: HashSet<Arc<str>>,
    held_since: Option<Instant>,
    /// Sessions that a call to this replica is ending.
    ending: HashSet<Arc<str>>,
    /// Writes that end or hold sessions.
    writes: HashMap<Arc<str>, Write>,
    /// When this process was last seen to run.
    awake: Option<Instant>,
}

impl Book {
    pub(super) fn new(members: Arc<Members>) -> Self {
        Self {
            members,
            entries: HashMap::new(),
            ended: HashMap::new(),
            due: None,
            normal_since: None,
            held: HashSet::new(),
            held_since: None,
            ending: HashSet::new(),
            writes: HashMap::new(),
            awake: None,
        }
    }

    /// How many sessions are at home here.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many sessions are held in the whole registry, and since when.
    pub(super) fn held(&self) -> (usize, Option<Instant>) {
        (self.held.len(), self.held_since)
    }

    /// How many of the sessions at home here are held.
    pub(super) fn held_here(&self) -> usize {
        self.held.iter().filter(|id| self.entries.contains_key(*id)).count()
    }

    /// The replicas have changed: keeps what stays at home, drops what has left, and grants a full TTL to what has come;
    /// with `grant`, to all.
    pub(super) fn rehome<'a>(
        &mut self,
        members: Arc<Members>,
        sessions: impl Iterator<Item = (&'a Arc<str>, &'a Arc<Session>)>,
        grant: bool,
        now: Instant,
    ) {
        // Who lost its place and took another one in between has missed renewals, whether it saw itself gone or not.
        let grant = grant || members.fence.place != self.members.fence.place;
        let mut former = std::mem::take(&mut self.entries);
        let mut open = std::mem::take(&mut self.writes);
        self.held.clear();
        for (id, session) in sessions {
            // Where somebody else has become the home, the store refuses what was left open. Who was only out of touch for a
            // while has left it open still.
            if let Some(write) = open.remove(id)
                && (write.under_way || members.home_of(id).is_some_and(|home| home.id == members.own))
            {
                self.writes.insert(Arc::clone(id), write);
            }
            if session.state == SessionState::Suspect {
                self.held.insert(Arc::clone(id));
            }
            if members.is_home(id) {
                let known = former.remove(id).filter(|_| !grant);
                self.entries.insert(Arc::clone(id), known.unwrap_or_else(|| Entry::new(session, now)));
            }
        }
        self.members = members;
        self.ended.retain(|id, _| self.members.is_home(id));
        self.due = Some(now);
        self.note_held(now);
    }

    /// This process runs. Where it did not for longer than `limit`, it has missed renewals, and everybody gets a full TTL;
    /// returns for how long. What follows from a deadline has to ask this first: after a standstill, nobody knows which of
    /// the tasks comes first.
    pub(super) fn wake(&mut self, limit: Duration, now: Instant) -> Option<Duration> {
        let asleep = now.saturating_duration_since(self.awake.replace(now)?);
        if asleep <= limit {
            return None;
        }
        self.grant_all(now);
        Some(asleep)
    }

    /// Everybody gets a full TTL: renewals may have been missed.
    pub(super) fn grant_all(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.grant(now);
        }
        self.normal_since = None;
        self.due = Some(now);
    }

    /// A session's record has changed.
    pub(super) fn change(&mut self, id: &Arc<str>, before: Option<&Session>, after: Option<&Session>, now: Instant) {
        match after {
            Some(session) if session.state == SessionState::Suspect => self.held.insert(Arc::clone(id)),
            _ => self.held.remove(id),
        };
        self.note_held(now);
        if let Some(write) = self.writes.get_mut(id) {
            write.open = false;
            if !write.under_way {
                self.writes.remove(id);
            }
        }
        let Some(session) = after else {
            self.entries.remove(id);
            return;
        };
        if !self.members.is_home(id) {
            return;
        }
        let entry = self.entries.entry(Arc::clone(id)).or_insert_with(|| Entry::new(session, now));
        // Another replica has taken a renewal.
        if before.is_some_and(|before| before.renewals != session.renewals) {
            entry.renew(now);
        }
        let state = std::mem::replace(&mut entry.state, session.state);
        if state != session.state {
            entry.since = now;
            entry.retry_at = None;
            // A removal on its way holds for what it was.
            entry.removing = false;
            if session.state == SessionState::Alive {
                entry.renewed = now;
                self.ended.remove(id);
            }
        }
        entry.ttl = seconds(session.ttl_seconds);
        entry.grace = seconds(session.grace_seconds);
        let due = match session.state {
            SessionState::Alive => entry.renewed + entry.ttl,
            SessionState::Suspect => now,
            SessionState::Expired if entry.is_wronged(now) => now,
            SessionState::Expired => entry.removal_due(),
        };
        self.due = Some(self.due.map_or(due, |earliest| earliest.min(due)));
    }

    fn note_held(&mut self, now: Instant) {
        self.held_since = match self.held.is_empty() {
            true => None,
            false => self.held_since.or(Some(now)),
        };
    }

    /// A session renews.
    pub(super) fn renew(&mut self, id: &str, now: Instant) -> Found {
        let Some(entry) = self.entries.get_mut(id) else {
            return if self.members.is_home(id) { Found::Missing } else { Found::Elsewhere };
        };
        if entry.removing || (entry.state == SessionState::Expired && entry.grace.is_zero()) {
            return Found::Over;
        }
        entry.renew(now);
        let decided = !self.writes.contains_key(id);
        match entry.state {
            SessionState::Alive if decided => Found::Alive,
            SessionState::Suspect if decided => {
                self.due = Some(now);
                Found::Suspect
            }
            _ => {
                self.due = Some(now);
                Found::Written
            }
        }
    }

    /// Counts the sessions at home.
    pub(super) fn counts(&self, now: Instant) -> Counts {
        let mut counts =
            Counts { ended: self.ended.values().filter(|until| now < **until).count(), ..Counts::default() };
        self.entries.values().for_each(|entry| entry.count(&mut counts, now));
        counts
    }

    /// Looks at all sessions; none while nothing can be due.
    pub(super) fn survey(&mut self, now: Instant) -> Option<Survey> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.ended.retain(|_, until| now < *until);
        let mut survey = Survey::default();
        survey.counts.ended = self.ended.len();
        let mut due: Option<Instant> = None;
        let mut at = |time: Instant| due = Some(due.map_or(time, |earliest| earliest.min(time)));
        for (id, entry) in &mut self.entries {
            entry.count(&mut survey.counts, now);
            match entry.state {
                SessionState::Expired => {
                    if entry.removing || self.ending.contains(id) {
                        continue;
                    }
                    if entry.is_wronged(now) {
                        survey.revive.push(Arc::clone(id));
                        at(now);
                    } else if entry.removal_due() <= now {
                        entry.removing = true;
                        survey.remove.push(Arc::clone(id));
                    } else {
                        at(entry.removal_due());
                    }
                }
                SessionState::Alive if entry.is_overdue(now) => {
                    survey.overdue.push(Arc::clone(id));
                    at(now);
                }
                SessionState::Alive => at(entry.renewed + entry.ttl),
                SessionState::Suspect => {
                    at(now);
                    match entry.is_overdue(now) {
                        true => survey.held.push((Arc::clone(id), entry.since, entry.ttl)),
                        false => survey.revive.push(Arc::clone(id)),
                    }
                }
            }
        }
        self.due = due;
        Some(survey)
    }

    /// Says what is to be done, given what all homes together count.
    pub(super) fn decide(&mut self, survey: Survey, all: Counts, protection: &Protection, now: Instant) -> Verdict {
        let Survey { counts: _, overdue, held, revive, remove } = survey;
        let mut verdict = Verdict { revive, remove, counts: all, ..Verdict::default() };
        let normal = !held.is_empty() && all.is_normal(protection);
        self.normal_since = if normal { self.normal_since.or(Some(now)) } else { None };
        for (id, since, ttl) in held {
            let normal_for = self.normal_since.map(|normal| now.saturating_duration_since(normal.max(since)));
            if normal_for.is_some_and(|time| time >= ttl * 2)
                || now.saturating_duration_since(since) >= protection.longest
            {
                verdict.release.push(id);
            }
        }
        match all.is_mass(protection) {
            true => verdict.hold = overdue,
            false => verdict.expire = overdue,
        }
        verdict
    }

    /// Whether the session is overdue still; if so, it is being written about, and renewals wait for what comes of it.
    pub(super) fn begin_writing(&mut self, id: &Arc<str>, now: Instant) -> bool {
        let overdue = self.entries.get(id).is_some_and(|entry| entry.is_overdue(now));
        if overdue {
            self.writes.entry(Arc::clone(id)).or_default().under_way = true;
        }
        overdue
    }

    /// What was written about the session has come to its end; `decided` if it is known to which, and seen here.
    pub(super) fn finish_writing(&mut self, id: &str, decided: bool) {
        let Some(write) = self.writes.get_mut(id) else { return };
        write.under_way = false;
        // What an earlier one may yet do is not undone by this one's end.
        write.open |= !decided;
        if !write.open {
            self.writes.remove(id);
        }
    }

    /// Whether what is written about the session is on its way still.
    pub(super) fn is_writing(&self, id: &str) -> bool {
        self.writes.get(id).is_some_and(|write| write.under_way)
    }

    /// Whether what was written about the session may yet be applied, or has been, unseen.
    pub(super) fn is_open(&self, id: &str) -> bool {
        self.writes.get(id).is_some_and(|write| write.open && !write.under_way)
    }

    /// The session expired without having been held.
    pub(super) fn note_ended(&mut self, id: &Arc<str>, now: Instant) {
        if let Some(entry) = self.entries.get(id) {
            self.ended.insert(Arc::clone(id), now + entry.ttl);
        }
    }

    /// The view of the replicas by which it judges.
    pub(super) fn fence(&self) -> Fence {
        self.members.fence
    }

    /// Those of the sessions found to be removed that still are, and by which view of the replicas.
    pub(super) fn still_removing(&self, mut ids: Vec<Arc<str>>) -> (Vec<Arc<str>>, Fence) {
        ids.retain(|id| self.entries.get(id).is_some_and(|entry| entry.removing));
        (ids, self.fence())
    }

    /// Its removal has come to an end, but it is there still: to be tried again at a later time.
    pub(super) fn removal_ended(&mut self, id: &str, retry_at: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.removing = false;
            entry.retry_at = Some(retry_at);
            self.due = Some(self.due.map_or(retry_at, |earliest| earliest.min(retry_at)));
        }
    }

    pub(super) fn begin_ending(&mut self, id: &Arc<str>) {
        self.ending.insert(Arc::clone(id));
    }

    pub(super) fn finish_ending(&mut self, id: &Arc<str>, now: Instant) {
        self.ending.remove(id);
        // Should it not have come to its end, the home completes it.
        self.due = Some(now);
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}
