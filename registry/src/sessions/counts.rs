//! What the homes count together, so that the end of many sessions at once is seen for what it is wherever they are kept.
//!
//! Each home sees its own sessions only, and a few at one home may be all there are, or a few of very many. So before a home
//! ends or releases sessions, it asks the others what they count. One that gives no answer is taken to fare as the others
//! do: when the replicas can't reach each other, it is all the more likely that the fault is ours.

use super::{Engine, Protection};
use fingerpost_catalog::SessionState;
use futures_util::future;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Sessions at home with one replica, or with several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Alive or held.
    pub live: usize,
    /// Of these, alive but overdue, and about to be written about.
    pub overdue: usize,
    /// Of these, should have renewed by now, but are not overdue yet.
    pub late: usize,
    /// Of these, renew as they should.
    pub timely: usize,
    /// Of these, held and still overdue.
    pub held: usize,
    /// Expired within the last TTL, without having been held.
    pub ended: usize,
}

impl Counts {
    /// Those that are dead, or look so.
    pub(super) fn failing(&self) -> usize {
        self.overdue + self.late + self.held + self.ended
    }

    /// All that were alive a TTL ago, or are.
    pub(super) fn total(&self) -> usize {
        self.live + self.ended
    }

    /// Whether so many fail at once that the fault is more likely ours.
    pub(super) fn is_mass(&self, protection: &Protection) -> bool {
        self.failing() >= protection.floor && self.failing() as f64 >= protection.share * self.total() as f64
    }

    /// Whether those that are not held renew as they should.
    pub(super) fn is_normal(&self, protection: &Protection) -> bool {
        let others = self.live.saturating_sub(self.held);
        self.timely > 0 && ((self.overdue + self.late) as f64) < protection.share * others as f64
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            live: self.live.saturating_add(other.live),
            overdue: self.overdue.saturating_add(other.overdue),
            late: self.late.saturating_add(other.late),
            timely: self.timely.saturating_add(other.timely),
            held: self.held.saturating_add(other.held),
            ended: self.ended.saturating_add(other.ended),
        }
    }

    /// What so many sessions count that fare as these do.
    fn stretched(self, live: usize) -> Self {
        let share = |count: usize| count.saturating_mul(live).div_ceil(self.live.max(1));
        Self {
            live,
            overdue: share(self.overdue),
            late: share(self.late),
            timely: share(self.timely),
            held: share(self.held),
            ended: share(self.ended),
        }
    }
}

impl Engine {
    /// What the sessions at home here count. Another replica may ask so. None while this one is out of touch, and so at home
    /// for none: to say that there are none would be wrong.
    pub fn counts(&self) -> Option<Counts> {
        if !self.members().in_touch {
            return None;
        }
        let now = Instant::now();
        let mut book = self.book.lock();
        self.wake(&mut book, now);
        Some(book.counts(now))
    }

    /// What the other homes count, beside `own`.
    pub(super) async fn ask_others(&self, own: Counts) -> Counts {
        let members = self.members();
        let others = members.live.iter().filter(|member| member.id != members.own);
        let answers = future::join_all(others.map(|member| self.peers.counts(member, &members.secret))).await;
        let silent = answers.iter().filter(|answer| answer.is_err()).count();
        let heard = answers.into_iter().flatten().fold(Counts::default(), Counts::plus);
        if silent == 0 {
            return heard;
        }
        let live =
            self.live.read().all_sessions().filter(|(_, session)| session.state != SessionState::Expired).count();
        let known = own.plus(heard);
        tracing::debug!(silent, "not all replicas say how their sessions do; they are taken to do as the others");
        heard.plus(known.stretched(live.saturating_sub(known.live)))
    }
}
