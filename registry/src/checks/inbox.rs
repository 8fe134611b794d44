//! What the runner has to look at again. The feed's task notes it here, quickly; the runner takes it all at once.

use fingerpost_catalog::{InstanceKey, InstanceView, ViewChange};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// So much is noted one by one; beyond it, everything is looked at.
const MOST: usize = 50_000;

/// What has changed since the runner looked last.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) instances: HashSet<InstanceKey>,
    /// By namespace and name.
    pub(super) services: HashSet<(Arc<str>, Arc<str>)>,
    pub(super) everything: bool,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    changed: Mutex<Changed>,
    noted: Notify,
}

/// Whether the instance had or has anything to do with checks, or leaves parts behind.
fn concerns(before: Option<&InstanceView>, after: Option<&InstanceView>) -> bool {
    let checked = |view: Option<&InstanceView>| view.is_some_and(|view| !view.parts.checks.is_empty());
    checked(before) || checked(after) || (after.is_none() && before.is_some_and(|view| view.parts.drain.is_some()))
}

impl Inbox {
    pub(super) fn note(&self, changes: &[ViewChange]) {
        let mut changed = None;
        for change in changes {
            match change {
                ViewChange::Namespace { .. } => {}
                ViewChange::Service { before: Some(before), after: Some(after) } => {
                    // Which checks there are shows in the instances; here it is how they are run, and where.
                    if (before.checks != after.checks || before.ports != after.ports)
                        && !(before.checks.is_empty() && after.checks.is_empty() && before.ports == after.ports)
                    {
                        let changed = changed.get_or_insert_with(|| self.changed.lock());
                        changed.services.insert((after.namespace.clone(), after.name.clone()));
                    }
                }
                ViewChange::Service { .. } => {}
                ViewChange::Instance { before, after } => {
                    if concerns(before.as_deref(), after.as_deref())
                        && let Some(view) = before.as_ref().or(after.as_ref())
                    {
                        changed.get_or_insert_with(|| self.changed.lock()).instances.insert(view.key.clone());
                    }
                }
            }
        }
        if let Some(mut changed) = changed {
            if changed.instances.len() + changed.services.len() > MOST {
                *changed = Changed { everything: true, ..Changed::default() };
            }
            drop(changed);
            self.noted.notify_one();
        }
    }

    pub(super) fn note_everything(&self) {
        self.changed.lock().everything = true;
        self.noted.notify_one();
    }

    pub(super) fn take(&self) -> Changed {
        std::mem::take(&mut *self.changed.lock())
    }

    /// Waits until something is noted.
    pub(super) async fn noted(&self) {
        self.noted.notified().await;
    }
}
