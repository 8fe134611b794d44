//! From a commit to what etcd is asked for it: compares, and the operations that change something.
//!
//! An operation that would change nothing, as far as this replica knows, is replaced by a compare that it is so. Where
//! that turns out wrong, because another replica has written meanwhile, the commit is planned again from newer knowledge,
//! and after a few times everything is written as it was asked for.

use super::foreign::Foreign;
use super::mirror::Entry;
use super::transaction::Found;
use crate::members::Fence;
use crate::store::hashed::{HashedMap, HashedSet, KeyHash, KeyHasher};
use crate::store::prepare::{Prepared, PreparedOperation};
use crate::store::{CommitError, Committed, Expect};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A commit and who waits for its outcome.
pub(super) struct Job {
    pub(super) commit: Prepared,
    /// The hashes of its operations' values.
    values: Vec<Option<u128>>,
    reply: Option<oneshot::Sender<Result<Committed, CommitError>>>,
    /// Since when it waits.
    pub(super) since: Instant,
    /// How often what this replica knew was not true any more.
    pub(super) surprises: u32,
}

impl Job {
    /// Made in the caller's own task, so that the sequencer has less to do.
    pub(super) fn new(
        commit: Prepared,
        reply: oneshot::Sender<Result<Committed, CommitError>>,
        hasher: &KeyHasher,
    ) -> Self {
        let hash = |operation: &PreparedOperation| operation.value.as_ref().map(|(_, value)| hasher.hash(value));
        let values = commit.operations.iter().map(hash).collect();
        Self { commit, values, reply: Some(reply), since: Instant::now(), surprises: 0 }
    }

    /// Tells the caller, who may have gone. What is left knows which keys it was about.
    pub(super) fn answer(mut self, outcome: Result<Committed, CommitError>) -> Self {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(outcome);
        }
        self
    }
}

/// After so many, nothing is taken for unchanged any more.
const MAX_SURPRISES: u32 = 3;

/// Most checks that stand before a commit's operations, so that both fit into a transaction. What would change nothing is
/// written as it was asked for instead of making them more; conditions beyond are demanded apart.
const MAX_CHECKS: usize = 120;

/// What must be so for a commit to be applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    of: Of,
    pub(super) must: Must,
}

/// Whose record is checked.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// A condition's.
    Condition(usize),
    /// An operation's that is taken to change nothing.
    Operation(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Must {
    /// Last changed at that revision; 0 is absent.
    BeAt(u64),
    /// There, at whatever revision.
    BeThere,
}

impl Must {
    pub(super) fn holds(self, actual: Option<u64>) -> bool {
        match self {
            Must::BeAt(revision) => actual.unwrap_or(0) == revision,
            Must::BeThere => actual.is_some(),
        }
    }

    fn of(expect: Expect) -> Self {
        match expect {
            Expect::Absent => Must::BeAt(0),
            Expect::Present => Must::BeThere,
            // Nothing was ever changed at 0, or beyond what etcd can count.
            Expect::At(number) if number == 0 || i64::try_from(number).is_err() => Must::BeAt(i64::MAX.unsigned_abs()),
            Expect::At(number) => Must::BeAt(number),
        }
    }
}

/// A commit as etcd will be asked.
pub(super) struct Planned {
    pub(super) job: Job,
    /// By which view of the replicas it was decided, where that matters.
    pub(super) fence: Option<Fence>,
    /// The commit's conditions, in their order, and then what is taken for unchanged.
    pub(super) checks: Vec<Check>,
    /// Which operations are carried out.
    pub(super) writes: Vec<usize>,
}

impl Planned {
    pub(super) fn new(job: Job, index: &HashedMap<Entry>, foreign: &Foreign) -> Self {
        let commit = &job.commit;
        let conditions = commit.conditions.iter().enumerate().map(|(place, condition)| {
            // What can't be read is absent to us, as long as nobody makes something readable of it.
            let must = match (condition.expect, foreign.unreadable(condition.hash)) {
                (Expect::Absent, Some(revision)) => Must::BeAt(revision),
                (expect, _) => Must::of(expect),
            };
            Check { of: Of::Condition(place), must }
        });
        let mut checks: Vec<Check> = conditions.collect();
        let mut writes = Vec::with_capacity(commit.operations.len());
        for (place, (operation, value)) in commit.operations.iter().zip(&job.values).enumerate() {
            let known = index.get(&operation.hash);
            let unchanged = match (value, known) {
                (None, None) => Some(0),
                (Some(value), Some(entry)) if entry.value == *value => Some(entry.revision),
                _ => None,
            };
            match unchanged {
                Some(revision) if job.surprises < MAX_SURPRISES && checks.len() < MAX_CHECKS => {
                    checks.push(Check { of: Of::Operation(place), must: Must::BeAt(revision) });
                }
                _ => writes.push(place),
            }
        }
        Self { fence: job.commit.fence, job, checks, writes }
    }

    /// The key of the record that is checked.
    pub(super) fn text(&self, check: &Check) -> &str {
        match check.of {
            Of::Condition(place) => &self.job.commit.conditions[place].text,
            Of::Operation(place) => &self.job.commit.operations[place].text,
        }
    }

    /// The checks on which its own transaction depends.
    pub(super) fn gate(&self) -> &[Check] {
        &self.checks[..self.checks.len().min(MAX_CHECKS)]
    }

    /// The checks for which there is no room before its operations.
    pub(super) fn demands(&self) -> &[Check] {
        &self.checks[self.checks.len().min(MAX_CHECKS)..]
    }

    /// Whether anything has to hold for it.
    pub(super) fn depends(&self) -> bool {
        !self.checks.is_empty() || self.fence.is_some()
    }

    /// How many compares it takes, but for what is demanded apart.
    pub(super) fn compares(&self) -> usize {
        self.gate().len() + self.fence.map_or(0, |_| 2)
    }

    /// About how many bytes it takes in a request.
    pub(super) fn bytes(&self, root: usize) -> usize {
        let checks: usize = self.checks.iter().map(|check| root + self.text(check).len() + 24).sum();
        let writes: usize = self
            .writes
            .iter()
            .map(|&place| {
                let operation = &self.job.commit.operations[place];
                root + operation.text.len() + operation.value.as_ref().map_or(0, |(_, value)| value.len()) + 24
            })
            .sum();
        64 + checks + writes + self.fence.map_or(0, |_| 2 * (root + 64))
    }

    /// Whether what was found stood in its way.
    pub(super) fn holds(&self, found: &Found) -> bool {
        !self.is_fenced(found) && self.checks.iter().all(|check| check.must.holds(found.record(self.text(check))))
    }

    /// Whether the view of the replicas by which it was decided is not what holds.
    pub(super) fn is_fenced(&self, found: &Found) -> bool {
        self.fence.is_some_and(|fence| fence.place == 0 || fence != found.fence)
    }

    /// What came of it, given what was found: none where only something that was taken for unchanged is not so.
    pub(super) fn failed_condition(&self, found: &Found) -> Option<CommitError> {
        if self.is_fenced(found) {
            return Some(CommitError::Fenced);
        }
        self.job.commit.conditions.iter().zip(&self.checks).find_map(|(condition, check)| {
            let actual = found.record(&condition.text);
            (!check.must.holds(actual)).then(|| CommitError::Condition { key: condition.key.clone(), actual })
        })
    }

    pub(super) fn claims(&self) -> Claims<'_> {
        Claims::of(&self.job)
    }
}

/// The keys that a commit is about. While it is under way, no other may write what it reads or writes: etcd evaluates all
/// compares of a transaction before its first write, and commits of one caller keep their order.
pub(super) struct Claims<'a>(&'a Prepared);

impl<'a> Claims<'a> {
    pub(super) fn of(job: &'a Job) -> Self {
        Self(&job.commit)
    }

    fn written(&self) -> impl Iterator<Item = KeyHash> {
        self.0.operations.iter().map(|operation| operation.hash)
    }

    fn read(&self) -> impl Iterator<Item = KeyHash> {
        self.0.conditions.iter().map(|condition| condition.hash)
    }
}

/// The keys of several commits.
#[derive(Default)]
pub(super) struct Busy {
    written: HashedSet,
    /// By how many; a key may be read by several at a time.
    read: HashedMap<u32>,
}

impl Busy {
    pub(super) fn meets(&self, claims: &Claims<'_>) -> bool {
        claims.written().any(|hash| self.written.contains(&hash) || self.read.contains_key(&hash))
            || claims.read().any(|hash| self.written.contains(&hash))
    }

    pub(super) fn add(&mut self, claims: &Claims<'_>) {
        self.written.extend(claims.written());
        for hash in claims.read() {
            *self.read.entry(hash).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, claims: &Claims<'_>) {
        for hash in claims.written() {
            self.written.remove(&hash);
        }
        for hash in claims.read() {
            if let Some(count) = self.read.get_mut(&hash) {
                *count -= 1;
                if *count == 0 {
                    self.read.remove(&hash);
                }
            }
        }
    }
}
