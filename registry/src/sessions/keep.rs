//! The task that keeps the sessions at home: judges them, writes what came of it, and brings back those that return.
//!
//! All writes about a session's state are made here one after the other, so a judgement never races another. What does
//! race them is renewals: those that come while a session's expiry is being written wait until that is decided, and then
//! bring it back if need be. Every write holds only if the session's record is as it was judged, and what a home alone may
//! say, only while this replica is the home as far as it knew; where that fails, the session is judged afresh.

use super::book::Verdict;
use super::renew::OwnRenewal;
use super::{Engine, in_state, is_over, put};
use crate::store::{Commit, CommitError, Condition, Expect, MAX_OPERATIONS};
use fingerpost_catalog::{Key, SessionState};
use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// A write about sessions must be decided in this time; its outcome is seen in the feed in any case.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Commits under way at the same time.
const COMMITS: usize = 4;
/// Longest pause after writes that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A renewal that can only be answered after a write.
pub(super) struct Returning {
    pub(super) id: Arc<str>,
    pub(super) reply: oneshot::Sender<OwnRenewal>,
}

/// What is written about a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Hold,
    Expire,
    /// Expires although it would be held: it was, for long enough.
    Release,
    Revive,
}

/// What the task remembers from one judgement to the next.
#[derive(Default)]
struct Pace {
    /// No writing before this time.
    pause: Option<(Instant, Duration)>,
    /// Whether sessions at home here are held.
    holding: bool,
}

impl Engine {
    /// Keeps the sessions that are at home here until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(mut returning) = self.to_return.lock().take() else { return };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = async { tokio::join!(self.keep(&mut returning), self.remove_in_turn()); } => {}
        }
    }

    async fn keep(&self, returning: &mut mpsc::Receiver<Returning>) {
        self.live.wait_loaded().await;
        let mut members = self.store.members();
        let mut ticks = tokio::time::interval(self.options.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = Pace::default();
        let mut awake = Instant::now();
        self.take_in_members(&mut members);
        loop {
            tokio::select! {
                biased;
                changed = members.changed() => match changed {
                    Ok(()) => self.take_in_members(&mut members),
                    // The store is closed, and the process about to end.
                    Err(_) => std::future::pending().await,
                },
                Some(first) = returning.recv() => {
                    let mut all = vec![first];
                    while all.len() < MAX_OPERATIONS * COMMITS
                        && let Ok(next) = returning.try_recv()
                    {
                        all.push(next);
                    }
                    self.bring_back(all).await;
                    awake = Instant::now();
                }
                _ = ticks.tick() => {
                    let asleep = awake.elapsed();
                    if asleep > self.options.tick + self.options.standstill {
                        warn!(
                            seconds = asleep.as_secs_f64(),
                            "this process stood still and may have missed renewals; every session gets its full TTL"
                        );
                        self.book.lock().grant_all(Instant::now());
                    }
                    self.tick(&mut pace).await;
                    awake = Instant::now();
                }
            }
        }
    }

    fn take_in_members(&self, members: &mut tokio::sync::watch::Receiver<Arc<crate::members::Members>>) {
        let members = Arc::clone(&members.borrow_and_update());
        let replica = self.live.read();
        self.rehome(&replica, members, false);
    }

    async fn tick(&self, pace: &mut Pace) {
        let now = Instant::now();
        if pace.pause.is_some_and(|(until, _)| now < until) {
            return;
        }
        let verdict = self.book.lock().judge(&self.options.protection, now);
        self.report(&verdict, pace);
        let Verdict { hold, expire, release, revive, remove, numbers: _ } = verdict;
        if !remove.is_empty() {
            self.removable.lock().extend(remove);
            self.removals.notify_one();
        }
        let steps = |ids: Vec<Arc<str>>, step| ids.into_iter().map(move |id| (id, step));
        // What makes instances critical, or spares them, first.
        let all: Vec<(Arc<str>, Step)> = steps(expire, Step::Expire)
            .chain(steps(release, Step::Release))
            .chain(steps(hold, Step::Hold))
            .chain(steps(revive, Step::Revive))
            .collect();
        if all.is_empty() {
            return;
        }
        if self.write(all).await {
            pace.pause = None;
        } else {
            let length = pace.pause.map_or(self.options.tick, |(_, length)| (length * 2).min(LONGEST_PAUSE));
            let jittered = length.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            pace.pause = Some((Instant::now() + jittered, length));
        }
    }

    fn report(&self, verdict: &Verdict, pace: &mut Pace) {
        let held = self.book.lock().held_here();
        let holding = held > 0 || !verdict.hold.is_empty();
        if holding && !pace.holding {
            warn!(
                held = verdict.hold.len(),
                failing = verdict.numbers.candidates,
                sessions = verdict.numbers.total,
                "so many sessions stopped renewing at once that the fault is more likely ours: they are held, and their \
                 instances answered"
            );
        }
        if !holding && pace.holding {
            warn!("no session is held any more");
        }
        pace.holding = holding;
        if !verdict.release.is_empty() {
            warn!(sessions = verdict.release.len(), "sessions that were held did not come back, and expire");
        }
    }

    /// Renewals of sessions that had expired, or whose expiry was being written.
    async fn bring_back(&self, returning: Vec<Returning>) {
        let mut answers = Vec::with_capacity(returning.len());
        let mut expired: Vec<(Arc<str>, Step)> = Vec::new();
        {
            let replica = self.live.read();
            for Returning { id, reply } in returning {
                let found = match replica.session_record(&id) {
                    None => OwnRenewal::Unknown,
                    Some((session, _)) if is_over(session) => OwnRenewal::Unknown,
                    Some((session, _)) => match session.state {
                        SessionState::Alive => OwnRenewal::Alive,
                        // The next judgement finds that it has renewed.
                        SessionState::Suspect => OwnRenewal::Suspect,
                        SessionState::Expired => {
                            expired.push((Arc::clone(&id), Step::Revive));
                            OwnRenewal::Restored
                        }
                    },
                };
                answers.push((id, found, reply));
            }
        }
        expired.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        expired.dedup_by(|(a, _), (b, _)| a == b);
        if !expired.is_empty() {
            self.write(expired).await;
        }
        for (id, found, reply) in answers {
            let found = match found {
                // Only what is there to see is told.
                OwnRenewal::Restored => match self.live.read().session_record(&id) {
                    Some((session, _)) if session.state != SessionState::Expired => OwnRenewal::Restored,
                    Some((session, _)) if is_over(session) => OwnRenewal::Unknown,
                    Some(_) => OwnRenewal::Failed,
                    None => OwnRenewal::Unknown,
                },
                found => found,
            };
            // Who renewed may have gone.
            let _ = reply.send(found);
        }
    }

    /// Writes new states, in commits of bounded size. Says whether the store took them; those whose record was not as
    /// judged are left for the next judgement.
    async fn write(&self, steps: Vec<(Arc<str>, Step)>) -> bool {
        let judged = Instant::now();
        let chunks: Vec<Vec<(Arc<str>, Step)>> = steps.chunks(MAX_OPERATIONS).map(<[_]>::to_vec).collect();
        let written = stream::iter(chunks).map(|chunk| self.write_chunk(chunk, judged)).buffer_unordered(COMMITS);
        // To the end of all of them, whatever becomes of one.
        written.fold(true, |all, done| std::future::ready(all && done)).await
    }

    async fn write_chunk(&self, mut chunk: Vec<(Arc<str>, Step)>, judged: Instant) -> bool {
        let mut done = true;
        while !chunk.is_empty() {
            // A process that was stopped in between can't know who has renewed, or who is at home here by now.
            if judged.elapsed() > WRITE_TIMEOUT {
                return false;
            }
            let (commit, included) = self.plan(&chunk);
            if included.is_empty() {
                break;
            }
            let outcome = tokio::time::timeout(WRITE_TIMEOUT, self.writer.store_commit(commit)).await;
            let outcome = match outcome {
                Ok(Ok(committed)) => {
                    // The book follows the feed; the next judgement must not be made on what was before.
                    let shown = self.live.wait_for(committed.position, WRITE_TIMEOUT).await;
                    if let Err(error) = shown {
                        warn!(position = %committed.position, %error, "a write about sessions is not shown");
                    }
                    self.count(&included);
                    chunk.clear();
                    Ok(())
                }
                Ok(Err(CommitError::Condition { key, actual })) => {
                    self.writer.wait_for_change(actual).await;
                    // The others need not suffer for it.
                    let before = chunk.len();
                    chunk.retain(|(id, _)| !matches!(&key, Key::Session { id: failed } if failed == id));
                    if chunk.len() == before {
                        Err("a condition failed on no session of the commit".to_owned())
                    } else {
                        Ok(())
                    }
                }
                Ok(Err(CommitError::Fenced)) => {
                    // Who is at home for them is seen by now, or soon.
                    debug!(sessions = included.len(), "replicas have come or gone since the sessions were judged");
                    done = false;
                    Ok(())
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the store did not answer in time".to_owned()),
            };
            let mut book = self.book.lock();
            for (id, _) in &included {
                book.finish_writing(id);
            }
            drop(book);
            if let Err(error) = outcome {
                warn!(sessions = included.len(), %error, "the sessions' states can't be written; trying again");
                self.metrics.failed_writes.inc();
                done = false;
            }
            if !done {
                break;
            }
        }
        done
    }

    /// The commit for what is still to be written of a chunk, and that.
    fn plan(&self, chunk: &[(Arc<str>, Step)]) -> (Commit, Vec<(Arc<str>, Step)>) {
        let mut included = Vec::with_capacity(chunk.len());
        let mut seen = HashSet::new();
        let replica = self.live.read();
        let mut book = self.book.lock();
        let now = Instant::now();
        // Whoever hears a renewal may bring a session back.
        let home_alone = chunk.iter().any(|(_, step)| *step != Step::Revive);
        let mut commit = Commit { fence: home_alone.then(|| book.fence()), ..Commit::default() };
        for (id, step) in chunk {
            let Some((session, revision)) = replica.session_record(id) else { continue };
            let (wanted, state) = match step {
                Step::Hold => (session.state == SessionState::Alive, SessionState::Suspect),
                Step::Expire => (session.state == SessionState::Alive, SessionState::Expired),
                Step::Release => (session.state == SessionState::Suspect, SessionState::Expired),
                Step::Revive => (session.state != SessionState::Alive && !is_over(session), SessionState::Alive),
            };
            // A renewal that came after the judgement wins; one that comes from now on waits for the outcome.
            if !wanted || !seen.insert(id) || (*step != Step::Revive && !book.begin_writing(id, now)) {
                continue;
            }
            let key = Key::Session { id: Arc::clone(id) };
            commit.operations.push(put(&key, in_state(session, state)));
            commit.conditions.push(Condition { key, expect: Expect::At(revision) });
            included.push((Arc::clone(id), *step));
        }
        (commit, included)
    }

    fn count(&self, written: &[(Arc<str>, Step)]) {
        let now = Instant::now();
        let mut book = self.book.lock();
        let mut counts = [0u64; 3];
        for (id, step) in written {
            match step {
                Step::Hold => counts[0] += 1,
                Step::Expire => {
                    counts[1] += 1;
                    book.note_ended(id, now);
                }
                Step::Release => counts[1] += 1,
                Step::Revive => counts[2] += 1,
            }
        }
        drop(book);
        let [held, expired, revived] = counts;
        self.metrics.holds.inc_by(held);
        self.metrics.expirations.inc_by(expired);
        if expired > 0 {
            info!(sessions = expired, "sessions expired; their instances are critical");
        }
        if revived > 0 {
            info!(sessions = revived, "sessions came back");
        }
    }
}
