//! Renewals, which may come to any replica.
//!
//! Those of sessions at home here are noted in the book. Others are passed to their homes. Where a home can't be
//! reached, the renewal is noted in the store instead: the home sees it there, and so does whoever is the home next.
//! Where that is not possible either, the caller is told so and asks another replica.
//!
//! `unknown` is a grave word, as the client then begins anew. A replica that does not know a session may only be behind
//! the one that made it; so unless it is the only one, it asks the store before it says so.

use super::{Engine, in_state, is_over, may_keep, put};
use crate::access::Caller;
use crate::members::{Member, Members};
use crate::sessions::book::Found;
use crate::store::{Commit, CommitError, Condition, Expect, MAX_OPERATIONS};
use crate::writes::is_session_id;
use fingerpost_catalog::document::{Renewal, RenewalState};
use fingerpost_catalog::{Key, Session, SessionState};
use futures_util::{StreamExt, future, stream};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A renewal that needs the store waits for it this long.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where another replica asks, which waits for the whole answer: the others in it are not to wait for long. It can
/// note in the store itself what it is not told in time.
const PEER_PATIENCE: Duration = Duration::from_millis(400);
/// A renewal must be noted in the store within this time.
const NOTE_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions to the store under way for one call.
const QUESTIONS: usize = 16;
/// A note in the store that loses to others this often gives up.
const ATTEMPTS: usize = 4;

/// What became of the renewal of a session at its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnRenewal {
    /// It was alive.
    Alive,
    /// It was held, and is not any more.
    Suspect,
    /// It had expired, and has come back.
    Restored,
    /// There is no such session.
    Unknown,
    /// It is at home elsewhere.
    Elsewhere,
    /// It has expired, or may have, and what comes of that could not be told in time.
    Failed,
}

/// A renewal could neither be brought to the session's home nor be noted in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the renewal could neither be brought to the replica that keeps the session nor be noted in the store; ask another replica"
)]
pub struct Unreached;

impl Engine {
    /// Renews sessions wherever they are at home; the outcomes are in the order asked.
    pub async fn renew(&self, caller: &Caller, ids: &[String]) -> Result<Vec<Renewal>, Unreached> {
        let renewed = self.renew_all(caller, ids).await;
        match &renewed {
            Ok(renewals) => renewals.iter().for_each(|renewal| self.metrics.renewed(renewal.state)),
            Err(Unreached) => self.metrics.unreached(),
        }
        renewed
    }

    async fn renew_all(&self, caller: &Caller, ids: &[String]) -> Result<Vec<Renewal>, Unreached> {
        let mut unseen: Vec<Arc<str>> = Vec::new();
        // The sessions that there are, with their TTLs.
        let mut wanted: HashMap<Arc<str>, u32> = HashMap::with_capacity(ids.len());
        {
            let replica = self.live.read();
            for id in ids {
                match replica.session_record(id) {
                    Some((session, _)) if may_keep(caller, session) => {
                        wanted.insert(id.as_str().into(), session.ttl_seconds);
                    }
                    Some(_) => {}
                    // What can't be an id, the store needn't be asked about.
                    None if is_session_id(id) => unseen.push(id.as_str().into()),
                    None => {}
                }
            }
        }
        unseen.sort_unstable();
        unseen.dedup();
        if unseen.len() > QUESTIONS && !self.members().are_alone() {
            // One question for all of them.
            self.writer.catch_up(NOTE_TIMEOUT).await.map_err(|_| Unreached)?;
            let replica = self.live.read();
            for id in unseen.drain(..) {
                if let Some((session, _)) = replica.session_record(&id)
                    && may_keep(caller, session)
                {
                    wanted.insert(Arc::clone(&id), session.ttl_seconds);
                }
            }
        }
        if !unseen.is_empty() {
            let mut asked = stream::iter(unseen)
                .map(|id| async move {
                    let session = self.confirm(&id).await;
                    (id, session)
                })
                .buffer_unordered(QUESTIONS);
            while let Some((id, session)) = asked.next().await {
                if let Some(session) = session?.filter(|session| may_keep(caller, session)) {
                    wanted.insert(id, session.ttl_seconds);
                }
            }
        }
        let states = self.renew_known(wanted.keys().cloned().collect()).await?;
        Ok(ids
            .iter()
            .map(|id| {
                let known = wanted.get(id.as_str()).zip(states.get(id.as_str()));
                let (state, ttl_seconds) = known.map_or((RenewalState::Unknown, 0), |(ttl, state)| (*state, *ttl));
                let ttl_seconds = if state == RenewalState::Unknown { 0 } else { ttl_seconds };
                Renewal { id: id.clone(), state, ttl_seconds }
            })
            .collect())
    }

    /// Renews sessions that exist, as far as this replica knows.
    async fn renew_known(&self, ids: Vec<Arc<str>>) -> Result<HashMap<Arc<str>, RenewalState>, Unreached> {
        let mut states = HashMap::with_capacity(ids.len());
        let mut rest = ids;
        // Replicas may come and go meanwhile; then it is decided again where each session is at home.
        for _ in 0..2 {
            if rest.is_empty() {
                break;
            }
            let members = self.members();
            let mut here: Vec<Arc<str>> = Vec::new();
            let mut there: HashMap<Arc<str>, (&Member, Vec<Arc<str>>)> = HashMap::new();
            let mut nowhere = Vec::new();
            for id in rest.drain(..) {
                match members.home_of(&id) {
                    Some(_) if members.is_home(&id) => here.push(id),
                    Some(home) if home.id != members.own && home.url.is_some() => {
                        there.entry(Arc::clone(&home.id)).or_insert_with(|| (home, Vec::new())).1.push(id);
                    }
                    _ => nowhere.push(id),
                }
            }
            let (own, passed) = future::join(
                async {
                    if here.is_empty() {
                        Vec::new()
                    } else {
                        self.renew_here(&here, Instant::now() + RETURN_TIMEOUT).await
                    }
                },
                future::join_all(there.into_values().map(|(home, ids)| self.pass_on(&members, home, ids))),
            )
            .await;
            let (mut note, mut failed) = (nowhere, false);
            for (id, outcome) in here.into_iter().zip(own.into_iter().map(Some)).chain(passed.into_iter().flatten()) {
                match outcome {
                    Some(OwnRenewal::Alive) => drop(states.insert(id, RenewalState::Alive)),
                    Some(OwnRenewal::Suspect) => drop(states.insert(id, RenewalState::Suspect)),
                    Some(OwnRenewal::Restored) => drop(states.insert(id, RenewalState::Restored)),
                    Some(OwnRenewal::Unknown) => drop(states.insert(id, RenewalState::Unknown)),
                    Some(OwnRenewal::Elsewhere) => rest.push(id),
                    Some(OwnRenewal::Failed) => failed = true,
                    None => note.push(id),
                }
            }
            // Those of others are noted even so.
            states.extend(self.note_away(note).await?);
            if failed {
                return Err(Unreached);
            }
        }
        states.extend(self.note_away(rest).await?);
        Ok(states)
    }

    /// Brings renewals to the sessions' home; none where it gave no answer.
    async fn pass_on(
        &self,
        members: &Members,
        home: &Member,
        ids: Vec<Arc<str>>,
    ) -> Vec<(Arc<str>, Option<OwnRenewal>)> {
        match self.peers.renew(home, &members.secret, ids.clone()).await {
            Ok(outcomes) if outcomes.len() == ids.len() => {
                self.metrics.forwarded.inc_by(ids.len() as u64);
                // Its failure to write is no answer: perhaps this replica can.
                let answered = |outcome| Some(outcome).filter(|outcome| *outcome != OwnRenewal::Failed);
                ids.into_iter().zip(outcomes.into_iter().map(answered)).collect()
            }
            Ok(_) => ids.into_iter().map(|id| (id, None)).collect(),
            Err(error) => {
                tracing::debug!(home = %home.id, %error, "renewals can't be brought to the sessions' home");
                ids.into_iter().map(|id| (id, None)).collect()
            }
        }
    }

    /// Renews sessions that are at home here, for another replica; the outcomes are in the order asked. What takes long is
    /// [`OwnRenewal::Failed`], and keeps nobody else waiting.
    pub async fn renew_for_peer(&self, ids: &[Arc<str>]) -> Vec<OwnRenewal> {
        self.renew_here(ids, Instant::now() + PEER_PATIENCE).await
    }

    async fn renew_here(&self, ids: &[Arc<str>], deadline: Instant) -> Vec<OwnRenewal> {
        let mut outcomes = Vec::with_capacity(ids.len());
        let mut slow = Vec::new();
        for (n, (id, found)) in ids.iter().zip(self.note_in_book(ids)).enumerate() {
            outcomes.push(match found {
                Found::Alive => OwnRenewal::Alive,
                Found::Suspect => OwnRenewal::Suspect,
                Found::Over => OwnRenewal::Unknown,
                Found::Elsewhere => OwnRenewal::Elsewhere,
                Found::Written | Found::Missing => {
                    slow.push((n, id, found));
                    OwnRenewal::Failed
                }
            });
        }
        let questions = Semaphore::new(QUESTIONS);
        let answers = slow.into_iter().map(|(n, id, found)| {
            let answer = self.answer_later(id, found, deadline, &questions);
            async move { (n, tokio::time::timeout_at(deadline, answer).await.unwrap_or(OwnRenewal::Failed)) }
        });
        for (n, answer) in future::join_all(answers).await {
            if let Some(outcome) = outcomes.get_mut(n) {
                *outcome = answer;
            }
        }
        outcomes
    }

    async fn answer_later(&self, id: &Arc<str>, found: Found, deadline: Instant, questions: &Semaphore) -> OwnRenewal {
        let found = if found == Found::Missing {
            // It may only not have come here yet.
            let _place = questions.acquire().await;
            match self.confirm(id).await {
                Ok(Some(_)) => self.note_in_book(std::slice::from_ref(id)).pop().unwrap_or(Found::Elsewhere),
                Ok(None) => Found::Over,
                Err(Unreached) => Found::Elsewhere,
            }
        } else {
            found
        };
        match found {
            Found::Alive => OwnRenewal::Alive,
            Found::Suspect => OwnRenewal::Suspect,
            Found::Written => self.return_by_store(id, deadline).await,
            Found::Over => OwnRenewal::Unknown,
            Found::Missing | Found::Elsewhere => OwnRenewal::Elsewhere,
        }
    }

    fn note_in_book(&self, ids: &[Arc<str>]) -> Vec<Found> {
        let now = Instant::now();
        let mut book = self.book.lock();
        ids.iter().map(|id| book.renew(id, now)).collect()
    }

    /// A session as this replica knows it; where it does not, the store is asked whether there is one after all.
    pub(super) async fn confirm(&self, id: &str) -> Result<Option<Arc<Session>>, Unreached> {
        let known = || self.live.read().session_record(id).map(|(session, _)| Arc::clone(session));
        if let Some(session) = known() {
            return Ok(Some(session));
        }
        // What only this process writes, it shows before it says so.
        if self.members().are_alone() {
            return Ok(None);
        }
        let key = Key::Session { id: id.into() };
        let question = Commit { conditions: vec![Condition { key, expect: Expect::Present }], ..Commit::default() };
        match tokio::time::timeout(NOTE_TIMEOUT, self.writer.store_commit(question)).await {
            Ok(Ok(committed)) => {
                let shown = self.live.wait_for(committed.position, NOTE_TIMEOUT).await;
                // Gone again, or not yet here: only the former is known to be so.
                match known() {
                    None if shown.is_err() => Err(Unreached),
                    session => Ok(session),
                }
            }
            Ok(Err(CommitError::Condition { .. })) => Ok(None),
            Ok(Err(_)) | Err(_) => Err(Unreached),
        }
    }

    /// Notes renewals in the store, as there is no way to the sessions' home.
    async fn note_away(&self, ids: Vec<Arc<str>>) -> Result<HashMap<Arc<str>, RenewalState>, Unreached> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let noted = self.note(ids).await?;
        let count = |wanted: fn(RenewalState) -> bool| noted.values().filter(|state| wanted(**state)).count() as u64;
        self.metrics.noted.inc_by(count(|state| state != RenewalState::Unknown));
        self.metrics.restorations.inc_by(count(|state| state == RenewalState::Restored));
        Ok(noted)
    }

    /// Notes renewals in the store.
    pub(super) async fn note(&self, ids: Vec<Arc<str>>) -> Result<HashMap<Arc<str>, RenewalState>, Unreached> {
        let chunks = ids.chunks(MAX_OPERATIONS).map(<[_]>::to_vec);
        let noted = future::join_all(chunks.map(|chunk| self.note_chunk(chunk)));
        let noted = tokio::time::timeout(NOTE_TIMEOUT, noted).await.map_err(|_| Unreached)?;
        let mut states = HashMap::with_capacity(ids.len());
        for chunk in noted {
            states.extend(chunk?);
        }
        Ok(states)
    }

    async fn note_chunk(&self, ids: Vec<Arc<str>>) -> Result<Vec<(Arc<str>, RenewalState)>, Unreached> {
        let mut states: Vec<(Arc<str>, RenewalState)> = Vec::with_capacity(ids.len());
        for _ in 0..ATTEMPTS {
            let mut commit = Commit::default();
            states.clear();
            {
                let replica = self.live.read();
                for id in &ids {
                    let Some((session, revision)) = replica.session_record(id) else {
                        states.push((Arc::clone(id), RenewalState::Unknown));
                        continue;
                    };
                    let (state, renewed) = match session.state {
                        _ if is_over(session) => {
                            states.push((Arc::clone(id), RenewalState::Unknown));
                            continue;
                        }
                        SessionState::Alive => (RenewalState::Alive, (**session).clone()),
                        SessionState::Suspect => (RenewalState::Suspect, in_state(session, SessionState::Alive)),
                        SessionState::Expired => (RenewalState::Restored, in_state(session, SessionState::Alive)),
                    };
                    let key = Key::Session { id: Arc::clone(id) };
                    let renewed = Session { renewals: session.renewals.wrapping_add(1), ..renewed };
                    commit.operations.push(put(&key, renewed));
                    commit.conditions.push(Condition { key, expect: Expect::At(revision) });
                    states.push((Arc::clone(id), state));
                }
            }
            if commit.operations.is_empty() {
                return Ok(states);
            }
            match self.writer.store_commit(commit).await {
                Ok(_) => return Ok(states),
                Err(CommitError::Condition { actual, .. }) => self.writer.wait_for_change(actual).await,
                Err(_) => return Err(Unreached),
            }
        }
        Err(Unreached)
    }
}
