//! Reading sessions: one, a page of them, or all.

use super::Replica;
use super::counts::SessionStats;
use super::query::Page;
use super::writers::StoredSession;
use crate::object::Session;
use crate::{SessionState, Source};
use std::sync::Arc;

/// A session with what hangs on it.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionView {
    /// Its id.
    pub id: Arc<str>,
    /// Its record.
    pub session: Arc<Session>,
    /// How many instances hang on it.
    pub instances: usize,
    /// The record's last change.
    pub revision: u64,
}

/// Which sessions to list.
#[derive(Clone, Copy, Debug)]
pub struct SessionQuery<'a> {
    /// With this name.
    pub name: Option<&'a str>,
    /// That this source made.
    pub source: Option<&'a Source>,
    /// In this state.
    pub state: Option<SessionState>,
    /// From after this id on.
    pub after: Option<&'a str>,
    /// Most sessions; at least one.
    pub limit: usize,
}

impl Replica {
    /// A session; none where it has no record.
    pub fn session(&self, id: &str) -> Option<SessionView> {
        let handle = self.sessions.find(id)?;
        Some(self.session_view(handle, self.sessions.get(handle).stored.as_deref()?))
    }

    /// A session's record and its last change.
    pub fn session_record(&self, id: &str) -> Option<(&Arc<Session>, u64)> {
        let stored = self.sessions.get(self.sessions.find(id)?).stored.as_deref()?;
        Some((&stored.value, stored.revision))
    }

    /// A page of the sessions, in the order of their ids.
    pub fn sessions(&self, query: &SessionQuery<'_>) -> Page<SessionView, Arc<str>> {
        let wanted = |session: &Session| {
            query.name.is_none_or(|name| session.name == name)
                && query.source.is_none_or(|source| session.source == *source)
                && query.state.is_none_or(|state| session.state == state)
        };
        let mut found: Vec<u32> = self
            .stored_sessions()
            .filter(|&(handle, stored)| {
                query.after.is_none_or(|after| *self.sessions.get(handle).id > *after) && wanted(&stored.value)
            })
            .map(|(handle, _)| handle)
            .collect();
        let limit = query.limit.max(1);
        let id = |handle: &u32| &self.sessions.get(*handle).id;
        let more = found.len() > limit;
        if more {
            found.select_nth_unstable_by(limit, |a, b| id(a).cmp(id(b)));
            found.truncate(limit);
        }
        found.sort_unstable_by(|a, b| id(a).cmp(id(b)));
        let items: Vec<SessionView> = found
            .iter()
            .filter_map(|&handle| Some(self.session_view(handle, self.sessions.get(handle).stored.as_deref()?)))
            .collect();
        let next = items.last().filter(|_| more).map(|view| Arc::clone(&view.id));
        Page { items, next }
    }

    /// How many sessions there are, by state.
    pub fn session_stats(&self) -> SessionStats {
        self.counts.sessions()
    }

    /// How many sessions an owner has, in any state.
    pub fn sessions_of_owner(&self, owner: &str) -> usize {
        self.counts.sessions_of_owner(owner)
    }

    /// All sessions, in no order.
    pub fn all_sessions(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Session>)> {
        self.stored_sessions().map(|(handle, stored)| (&self.sessions.get(handle).id, &stored.value))
    }

    fn stored_sessions(&self) -> impl Iterator<Item = (u32, &StoredSession)> {
        self.sessions.handles().filter_map(|handle| Some((handle, self.sessions.get(handle).stored.as_deref()?)))
    }

    fn session_view(&self, handle: u32, stored: &StoredSession) -> SessionView {
        SessionView {
            id: Arc::clone(&self.sessions.get(handle).id),
            session: Arc::clone(&stored.value),
            instances: self.sessions.instances(handle).count(),
            revision: stored.revision,
        }
    }
}
