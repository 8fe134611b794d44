//! Which records wait to be written, and in which order.
//!
//! A record waits once, however often it changes meanwhile: what it should be is asked when it is written. In a round,
//! what is there when it begins is written: declarations, then instances, then removals of instances, then those of
//! declarations, so that no name loses its last address before it has its next one, and no instance stands under a
//! name that is not declared. What comes meanwhile waits for the next round, so that nothing waits for ever behind a
//! stream of additions.

use crate::index::Record;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// The steps of a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Step {
    Declare,
    Add,
    Remove,
    Withdraw,
}

impl Step {
    const ALL: [Self; 4] = [Self::Declare, Self::Add, Self::Remove, Self::Withdraw];

    pub(crate) fn of(record: Record, there: bool) -> Self {
        match (record, there) {
            (Record::Instance(..), true) => Self::Add,
            (Record::Instance(..), false) => Self::Remove,
            (_, true) => Self::Declare,
            (_, false) => Self::Withdraw,
        }
    }
}

/// Room for as many records is kept while none waits.
const SPARE: usize = 4096;

/// The records that wait.
#[derive(Default)]
pub(crate) struct Backlog {
    waiting: [VecDeque<Record>; 4],
    /// How many of each step are of the present round.
    round: [usize; 4],
    steps: HashMap<Record, Step, ahash::RandomState>,
}

impl Backlog {
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds a record that is to be written at a step.
    pub(crate) fn push(&mut self, record: Record, step: Step) {
        if self.steps.insert(record, step) == Some(step) {
            return;
        }
        // Where it waits for another step, it is passed over there.
        self.waiting[step as usize].push_back(record);
    }

    /// Takes at most `most` records of the present step. A small round is taken whole, with all its steps: in one commit
    /// their order is no matter.
    pub(crate) fn take(&mut self, most: usize) -> Vec<(Record, Step)> {
        if self.round.iter().sum::<usize>() == 0 {
            self.round = [0, 1, 2, 3].map(|step: usize| self.waiting[step].len());
        }
        let whole = self.round.iter().sum::<usize>() <= most;
        let mut taken = Vec::new();
        for step in Step::ALL {
            let at = step as usize;
            while self.round[at] > 0 && taken.len() < most {
                self.round[at] -= 1;
                let Some(record) = self.waiting[at].pop_front() else { break };
                if self.steps.get(&record) == Some(&step) {
                    self.steps.remove(&record);
                    taken.push((record, step));
                }
            }
            if !whole && !taken.is_empty() {
                break;
            }
        }
        if self.steps.is_empty() && self.steps.capacity() > SPARE {
            // After a first list, it held all there is.
            self.clear();
        }
        taken
    }

    /// The step that [`Backlog::take`] would take from, where it would take a part of a round; none where it would take
    /// all of it, or there is nothing.
    pub(crate) fn step(&self, most: usize) -> Option<Step> {
        let round = match self.round.iter().sum::<usize>() {
            0 => [0, 1, 2, 3].map(|step: usize| self.waiting[step].len()),
            _ => self.round,
        };
        if round.iter().sum::<usize>() <= most {
            let mut steps = Step::ALL.into_iter().filter(|step| round[*step as usize] > 0);
            return steps.next().filter(|_| steps.next().is_none());
        }
        Step::ALL.into_iter().find(|step| round[*step as usize] > 0)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record> {
        self.waiting.iter().flatten().copied()
    }
}
