//! Removing what others have left: instances with the parts of their health, and records of any kind.

use super::Writer;
use super::batch::Planned;
use crate::members::Fence;
use crate::sources::removal;
use crate::store::{Commit, CommitError, MAX_OPERATIONS, Operation};
use fingerpost_catalog::{InstanceKey, Key, Position};

impl Writer {
    /// What removes an instance with the parts of its health.
    pub(crate) fn removal(&self, key: &InstanceKey) -> Vec<Operation> {
        let Planned { mut operations, parts, .. } = self.plan_delete_instance(key);
        operations.extend(parts);
        operations
    }

    /// What removes instances, packed into as few commits as they fit into, each with how many instances it removes. Each
    /// goes as a whole, as far as one commit takes it; what is left behind is of no effect, and cleared away.
    pub(super) fn removals<'a>(
        &'a self,
        keys: &'a [InstanceKey],
    ) -> impl Iterator<Item = (Vec<Operation>, usize)> + 'a {
        let removal = |key| {
            let mut operations = self.removal(key);
            operations.truncate(MAX_OPERATIONS);
            operations
        };
        let mut each = keys.iter().map(removal).peekable();
        std::iter::from_fn(move || {
            let (mut operations, mut count) = (each.next()?, 1);
            while let Some(next) = each.next_if(|next| operations.len() + next.len() <= MAX_OPERATIONS) {
                operations.extend(next);
                count += 1;
            }
            Some((operations, count))
        })
    }

    /// Removes instances with the parts of their health, in commits of bounded size; the position of the last one, none
    /// where there is nothing to remove. With a fence, only while that view of the replicas holds. Does not wait until they
    /// are shown.
    pub async fn remove_instances(
        &self,
        keys: &[InstanceKey],
        fence: Option<Fence>,
    ) -> Result<Option<Position>, CommitError> {
        let mut last = None;
        for (operations, _) in self.removals(keys) {
            last = Some(self.store_commit(Commit { operations, fence, ..Commit::default() }).await?.position);
        }
        Ok(last)
    }

    /// Removes records together, at most as many as a commit takes. With a fence, only while that view of the replicas
    /// holds. Does not wait until it is shown.
    pub async fn remove_records(&self, keys: Vec<Key>, fence: Option<Fence>) -> Result<Position, CommitError> {
        Ok(self.store_commit(removal(keys, fence)).await?.position)
    }
}
