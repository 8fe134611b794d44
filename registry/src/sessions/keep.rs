//! The tasks that keep the sessions at home: one judges them and writes what came of it, the others follow the replicas,
//! bring back sessions that return, and notice when this process stood still.
//!
//! All that ends or holds sessions is written by one task, one judgement after the other. Every write holds only if the
//! session's record is as it was judged, and what a home alone may say, only while this replica is the home as far as it
//! knew; where that fails, the session is judged afresh.
//!
//! Renewals come meanwhile. While a session's expiry is being written, no renewal of it is answered, however long the store
//! takes. Where the store can't say what came of the write, it stays *open*: a renewal then is written, too, which
//! the open write can't outlive; see `returns`.

use super::book::Verdict;
use super::counts::Counts;
use super::{Engine, in_state, is_over, put};
use crate::store::{Commit, CommitError, Condition, Expect, MAX_OPERATIONS};
use fingerpost_catalog::{Key, SessionState};
use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What was judged must be on its way to the store in this time; later, it is judged afresh.
const VERDICT_HOLDS: Duration = Duration::from_secs(5);
/// What was written must be shown in this time; until then, renewals are written, too.
const SHOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Commits under way at the same time.
pub(super) const COMMITS: usize = 4;
/// While sessions are held, the other homes are asked this often how theirs do.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Longest pause after writes that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is written about a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
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
    /// What the other homes counted, and when they were asked.
    others: Option<(Instant, Counts)>,
}

impl Engine {
    /// Keeps the sessions that are at home here until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(mut returning) = self.to_return.lock().take() else { return };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = async {
                tokio::join!(
                    self.stay_awake(),
                    self.follow_members(),
                    self.judge_in_turn(),
                    self.bring_back_in_turn(&mut returning),
                    self.remove_in_turn(),
                );
            } => {}
        }
    }

    fn ticks(&self) -> Interval {
        let mut ticks = tokio::time::interval(self.options.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// Notes that this process runs, whatever its tasks wait for.
    async fn stay_awake(&self) {
        let mut ticks = self.ticks();
        loop {
            ticks.tick().await;
            self.wake(&mut self.book.lock(), Instant::now());
        }
    }

    async fn follow_members(&self) {
        let mut members = self.store.members();
        self.live.wait_loaded().await;
        loop {
            {
                let members = Arc::clone(&members.borrow_and_update());
                let replica = self.live.read();
                self.rehome(&replica, members, false);
            }
            if members.changed().await.is_err() {
                // The store is closed, and the process about to end.
                std::future::pending().await
            }
        }
    }

    async fn judge_in_turn(&self) {
        self.live.wait_loaded().await;
        let mut ticks = self.ticks();
        let mut pace = Pace::default();
        loop {
            ticks.tick().await;
            self.judge(&mut pace).await;
        }
    }

    async fn judge(&self, pace: &mut Pace) {
        let now = Instant::now();
        if pace.pause.is_some_and(|(until, _)| now < until) {
            return;
        }
        let survey = {
            let mut book = self.book.lock();
            self.wake(&mut book, now);
            book.survey(now)
        };
        let Some(survey) = survey else { return };
        let counts = survey.counts;
        let others = match pace.others {
            _ if counts.overdue == 0 && counts.held == 0 => Counts::default(),
            // What ends sessions is decided by what holds now.
            Some((asked, others)) if counts.overdue == 0 && asked.elapsed() < ASK_AGAIN => others,
            _ => {
                let others = self.ask_others(counts).await;
                pace.others = Some((Instant::now(), others));
                others
            }
        };
        let verdict = self.book.lock().decide(survey, counts.plus(others), &self.options.protection, Instant::now());
        self.report(&verdict, pace);
        let Verdict { hold, expire, release, revive, remove, counts: _ } = verdict;
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
                failing = verdict.counts.failing(),
                sessions = verdict.counts.total(),
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

    /// Writes new states, in commits of bounded size. Says whether the store took them; those whose record was not as
    /// judged are left for the next judgement.
    pub(super) async fn write(&self, steps: Vec<(Arc<str>, Step)>) -> bool {
        let judged = Instant::now();
        let chunks: Vec<Vec<(Arc<str>, Step)>> = steps.chunks(MAX_OPERATIONS).map(<[_]>::to_vec).collect();
        let written = stream::iter(chunks).map(|chunk| self.write_chunk(chunk, judged)).buffer_unordered(COMMITS);
        // To the end of all of them, whatever becomes of one.
        written.fold(true, |all, done| std::future::ready(all && done)).await
    }

    async fn write_chunk(&self, mut chunk: Vec<(Arc<str>, Step)>, judged: Instant) -> bool {
        let mut done = true;
        while !chunk.is_empty() {
            // How many fail at once may be another number by now.
            if judged.elapsed() > VERDICT_HOLDS {
                return false;
            }
            let (commit, included) = self.plan(&chunk);
            if included.is_empty() {
                break;
            }
            // Until the store itself says what came of it: it may be applied as long as that is open.
            let mut decided = true;
            let outcome = match self.writer.store_commit(commit).await {
                Ok(committed) => {
                    // The book follows the feed; the next judgement must not be made on what was before.
                    let shown = self.live.wait_for(committed.position, SHOWN_TIMEOUT).await;
                    if let Err(error) = shown {
                        warn!(position = %committed.position, %error, "a write about sessions is not shown");
                        decided = false;
                    }
                    self.count(&included);
                    chunk.clear();
                    Ok(())
                }
                Err(CommitError::Condition { key, actual }) => {
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
                Err(CommitError::Fenced) => {
                    // Who is at home for them is seen by now, or soon.
                    debug!(sessions = included.len(), "replicas have come or gone since the sessions were judged");
                    done = false;
                    Ok(())
                }
                Err(error) => {
                    decided = !matches!(error, CommitError::Unknown(_));
                    Err(error.to_string())
                }
            };
            let mut book = self.book.lock();
            for (id, step) in &included {
                if *step != Step::Revive {
                    book.finish_writing(id, decided);
                }
            }
            drop(book);
            self.decided.notify_one();
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
        self.wake(&mut book, now);
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
