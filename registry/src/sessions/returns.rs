//! Renewals that the home can only answer by the store: of sessions that had expired, or are being written about.
//!
//! `alive` is a promise: the session has its whole TTL from then on. So as long as its expiry is on its way, or may be,
//! nothing is promised. Who renews then waits until that is decided, and is told what the record says afterwards. Where it
//! can't be decided, the renewal is noted in the record, on the condition that this is as it was: then the
//! expiry, which has the same condition, either was before it, or never will be.

use super::keep::{COMMITS, Step};
use super::renew::OwnRenewal;
use super::{Engine, RETURNING, is_over};
use crate::store::MAX_OPERATIONS;
use fingerpost_catalog::SessionState;
use fingerpost_catalog::document::RenewalState;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Such renewals that are handled together.
const MOST: usize = MAX_OPERATIONS * COMMITS;

/// A renewal that can only be answered by the store.
pub(super) struct Returning {
    pub(super) id: Arc<str>,
    pub(super) reply: oneshot::Sender<OwnRenewal>,
}

impl Engine {
    /// Waits for what comes of such a renewal; [`OwnRenewal::Failed`] where that can't be told before the deadline.
    pub(super) async fn return_by_store(&self, id: &Arc<str>, deadline: Instant) -> OwnRenewal {
        let (reply, answer) = oneshot::channel();
        if self.returning.try_send(Returning { id: Arc::clone(id), reply }).is_err() {
            return OwnRenewal::Failed;
        }
        let answered = tokio::time::timeout_at(deadline, answer).await;
        let outcome = answered.ok().and_then(Result::ok).unwrap_or(OwnRenewal::Failed);
        if outcome == OwnRenewal::Restored {
            self.metrics.restorations.inc();
        }
        outcome
    }

    /// Answers them as they come; those of a session that is being written about, when that is decided. The others don't
    /// wait for that.
    pub(super) async fn bring_back_in_turn(&self, returning: &mut mpsc::Receiver<Returning>) {
        let mut waiting: Vec<Returning> = Vec::new();
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(first) = returning.recv(), if waiting.len() < RETURNING => {
                    waiting.push(first);
                    while waiting.len() < RETURNING
                        && let Ok(next) = returning.try_recv()
                    {
                        waiting.push(next);
                    }
                }
                () = self.decided.notified() => {}
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
            }
            waiting.retain(|returning| !returning.reply.is_closed());
            if waiting.is_empty() || under_way.len() >= COMMITS {
                continue;
            }
            let (mut ready, rest): (Vec<_>, Vec<_>) = {
                let book = self.book.lock();
                waiting.into_iter().partition(|returning| !book.is_writing(&returning.id))
            };
            waiting = rest;
            while !ready.is_empty() && under_way.len() < COMMITS {
                let rest = ready.split_off(ready.len().min(MOST));
                under_way.push(self.bring_back(std::mem::replace(&mut ready, rest)));
            }
            waiting.append(&mut ready);
        }
    }

    /// Nothing is being written about these: what their records say holds, or is open.
    async fn bring_back(&self, returning: Vec<Returning>) {
        let mut open: Vec<Arc<str>> = Vec::new();
        let mut expired: Vec<(Arc<str>, Step)> = Vec::new();
        let mut answers = Vec::with_capacity(returning.len());
        {
            let replica = self.live.read();
            let book = self.book.lock();
            for Returning { id, reply } in returning {
                let found = match replica.session_record(&id) {
                    None => OwnRenewal::Unknown,
                    Some((session, _)) if is_over(session) => OwnRenewal::Unknown,
                    Some(_) if book.is_open(&id) => {
                        open.push(Arc::clone(&id));
                        OwnRenewal::Failed
                    }
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
        // Who got no answer may have asked again.
        expired.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        expired.dedup_by(|(a, _), (b, _)| a == b);
        open.sort_unstable();
        open.dedup();
        let written = async { if expired.is_empty() { true } else { self.write(expired).await } };
        let noted = async { if open.is_empty() { Ok(HashMap::new()) } else { self.note(open).await } };
        let (_, noted) = futures_util::future::join(written, noted).await;
        let noted = noted.unwrap_or_default();
        for (id, found, reply) in answers {
            let found = match found {
                OwnRenewal::Failed => noted.get(&id).map_or(OwnRenewal::Failed, |state| match state {
                    RenewalState::Alive => OwnRenewal::Alive,
                    RenewalState::Suspect => OwnRenewal::Suspect,
                    RenewalState::Restored => OwnRenewal::Restored,
                    RenewalState::Unknown => OwnRenewal::Unknown,
                }),
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
}
