//! Clearing away what is of no use any more.

use super::job::Wrote;
use super::{SCAN, Task};
use crate::checks::write;
use crate::live::LiveReplica;
use crate::members::Members;
use fingerpost_catalog::{CheckedInstance, Key};
use std::sync::Arc;
use tokio::time::Instant;

impl Task {
    /// Notes a part that is of no use any more, if it is for this replica to remove.
    pub(super) fn stray(&mut self, part: Key, members: &Members) {
        if is_for_home(&part, members) && self.strays.len() < self.shared.limits.strays {
            self.strays.insert(part);
        }
    }

    pub(super) fn look_for_orphans(&mut self) {
        let orphans = self.shared.live.read().orphaned_parts(self.shared.limits.strays);
        let members = Arc::clone(&self.members.borrow());
        for part in orphans {
            self.stray(part, &members);
        }
    }

    /// What nobody told of: parts that came without a change of any view, and those that could not be removed before.
    pub(super) async fn look_for_strays(&mut self) {
        self.sweep = Instant::now() + self.shared.limits.sweep.mul_f64(0.9 + rand::random::<f64>() / 5.0);
        if !self.members.borrow().in_touch {
            return;
        }
        let mut from = Some(0);
        while let Some(at) = from {
            let (found, next) = self.shared.live.read().checked_instances(at, SCAN);
            let members = Arc::clone(&self.members.borrow());
            for CheckedInstance { key, stray, .. } in found {
                for check in stray {
                    self.stray(Key::Check { instance: key.clone(), check }, &members);
                }
            }
            from = next;
            tokio::task::yield_now().await;
        }
        self.look_for_orphans();
    }

    /// Removes what was noted, leaving most of the room for verdicts.
    pub(super) fn clear_away(&mut self) {
        while self.writes.len() < self.shared.limits.writes / 4 + 1
            && let Some(part) = self.strays.pop_first()
        {
            if !is_for_home(&part, &self.members.borrow()) || !is_stray(&self.shared.live, &part) {
                continue;
            }
            let (store, live) = (Arc::clone(&self.shared.store), Arc::clone(&self.shared.live));
            let fence = self.view.fence;
            self.writes.spawn(async move { Wrote { job: None, result: write::clear(store, live, part, fence).await } });
        }
    }
}

/// Whether this replica is at home for the part.
fn is_for_home(part: &Key, members: &Members) -> bool {
    match part {
        Key::Check { instance, check } => members.is_home(&format!("{instance}/{check}")),
        Key::Drain(instance) => members.is_home(&instance.to_string()),
        _ => false,
    }
}

/// Whether the part still is of no use.
fn is_stray(live: &LiveReplica, part: &Key) -> bool {
    let Some(instance) = part.instance() else { return false };
    match (live.read().checked_instance(instance), part) {
        (None, _) => true,
        (Some(checked), Key::Check { check, .. }) => checked.stray.contains(check),
        (Some(_), _) => false,
    }
}
