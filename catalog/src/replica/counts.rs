//! What is counted as it changes, so that nobody has to look at everything to know how much there is: what each source
//! holds, and sessions by state and by owner.

use super::sources::SourceStats;
use crate::object::Session;
use crate::{SessionState, Source};
use ahash::RandomState;
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// How many sessions there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionStats {
    /// Renewed in time.
    pub alive: usize,
    /// Overdue, but held.
    pub suspect: usize,
    /// Expired, in their grace.
    pub expired: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Those that hold anything or were ever heard.
    sources: HashMap<Source, SourceStats, RandomState>,
    sessions: SessionStats,
    owners: HashMap<String, usize, RandomState>,
}

impl Counts {
    /// Changes what is counted of a source.
    pub(super) fn of(&mut self, source: &Source, change: impl FnOnce(&mut SourceStats)) {
        if let Some(stats) = self.sources.get_mut(source) {
            change(stats);
            if *stats == SourceStats::default() {
                self.sources.remove(source);
            }
            return;
        }
        let mut stats = SourceStats::default();
        change(&mut stats);
        if stats != SourceStats::default() {
            self.sources.insert(source.clone(), stats);
        }
    }

    /// The source in the one copy that everything refers to: every key that is read from a store brings a copy of its own.
    pub(super) fn shared(&self, source: &Source) -> Source {
        self.sources.get_key_value(source).map_or(source, |(known, _)| known).clone()
    }

    /// One instance more of a source.
    pub(super) fn add_instance(&mut self, source: &Source, sessionless: bool) {
        self.of(source, |stats| {
            stats.instances += 1;
            stats.sessionless += usize::from(sessionless);
        });
    }

    /// One instance less.
    pub(super) fn remove_instance(&mut self, source: &Source, sessionless: bool) {
        self.of(source, |stats| {
            stats.instances -= 1;
            stats.sessionless -= usize::from(sessionless);
        });
    }

    /// One session more.
    pub(super) fn add_session(&mut self, session: &Session) {
        *self.sessions.of(session.state) += 1;
        if session.state != SessionState::Expired {
            self.of(&session.source, |stats| stats.sessions += 1);
        }
        if let Some(owner) = &session.owner {
            *self.owners.entry_ref(owner.as_str()).or_default() += 1;
        }
    }

    /// One session less.
    pub(super) fn remove_session(&mut self, session: &Session) {
        *self.sessions.of(session.state) -= 1;
        if session.state != SessionState::Expired {
            self.of(&session.source, |stats| stats.sessions -= 1);
        }
        if let Some(owner) = session.owner.as_deref()
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }

    pub(super) fn sources(&self) -> BTreeMap<Source, SourceStats> {
        self.sources.iter().map(|(source, stats)| (source.clone(), stats.clone())).collect()
    }

    pub(super) fn knows_source(&self, source: &Source) -> bool {
        self.sources.contains_key(source)
    }

    pub(super) fn sessions(&self) -> SessionStats {
        self.sessions
    }

    pub(super) fn sessions_of_owner(&self, owner: &str) -> usize {
        self.owners.get(owner).copied().unwrap_or_default()
    }
}

impl SessionStats {
    fn of(&mut self, state: SessionState) -> &mut usize {
        match state {
            SessionState::Alive => &mut self.alive,
            SessionState::Suspect => &mut self.suspect,
            SessionState::Expired => &mut self.expired,
        }
    }
}
