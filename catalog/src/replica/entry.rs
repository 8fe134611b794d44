//! What the replica keeps of one instance: a compact form of its record and of its parts, from which record and view
//! are made on demand.
//!
//! A million of them have to fit. Whatever instances share is a handle, whatever few instances have is behind one
//! pointer, and the rest is [packed](super::details) into one piece of memory.

use super::details::Details;
use super::interner::NONE;
use crate::Health;
use crate::check::Check;
use crate::object::{CheckResult, Conditions, Drain, Instance};
use serde_json::{Map, Value};
use smallvec::SmallVec;
use std::sync::Arc;

/// Handles of label pairs, in the order of their keys.
pub(super) type Pairs = SmallVec<[u32; 6]>;
/// Handles of addresses, in the declared order.
pub(super) type Addresses = SmallVec<[u32; 4]>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) details: Details,
    /// The addresses, then the label pairs that its source declares.
    handles: SmallVec<[u32; 4]>,
    /// How many of the handles are addresses.
    addresses: u32,
    /// Of the instance's own record.
    pub(super) revision: u64,
    pub(super) group: u32,
    pub(super) source: u32,
    pub(super) ports: u32,
    pub(super) zone: u32,
    pub(super) node: u32,
    pub(super) session: u32,
    pub(super) conditions: PackedConditions,
    /// The effective health, as of the end of the last transaction.
    pub(super) health: Health,
    pub(super) marks: Marks,
    more: Option<Box<More>>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            details: Details::default(),
            handles: SmallVec::new(),
            addresses: 0,
            revision: 0,
            group: NONE,
            source: NONE,
            ports: NONE,
            zone: NONE,
            node: NONE,
            session: NONE,
            conditions: PackedConditions::default(),
            health: Health::Passing,
            marks: Marks::default(),
            more: None,
        }
    }
}

/// What few instances have.
#[derive(Clone, PartialEq, Debug, Default)]
struct More {
    parts: Parts,
    shadow: Option<Box<Shadow>>,
    rare: Option<Box<Rare>>,
}

impl Entry {
    pub(super) fn new(details: &[u8], group: u32, source: u32) -> Self {
        Self { details: Details::new(details), group, source, ..Self::default() }
    }

    pub(super) fn addresses(&self) -> &[u32] {
        self.handles.split_at_checked(self.addresses as usize).unwrap_or_default().0
    }

    /// The label pairs that its source declares.
    pub(super) fn labels(&self) -> &[u32] {
        self.handles.split_at_checked(self.addresses as usize).unwrap_or_default().1
    }

    pub(super) fn set_lists(&mut self, addresses: &[u32], labels: &[u32]) {
        self.handles = SmallVec::with_capacity(addresses.len() + labels.len());
        self.handles.extend_from_slice(addresses);
        self.handles.extend_from_slice(labels);
        self.addresses = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    }

    /// The separately written parts of its health, where it has any.
    pub(super) fn parts(&self) -> Option<&Parts> {
        self.more.as_ref().map(|more| &more.parts).filter(|parts| !parts.is_empty())
    }

    pub(super) fn parts_mut(&mut self) -> Option<&mut Parts> {
        self.more.as_mut().map(|more| &mut more.parts).filter(|parts| !parts.is_empty())
    }

    /// Changes its parts, of which it may have none before or after.
    pub(super) fn change_parts<T>(&mut self, change: impl FnOnce(&mut Parts) -> T) -> T {
        self.change_more(|more| change(&mut more.parts))
    }

    pub(super) fn shadow(&self) -> Option<&Shadow> {
        self.more.as_ref()?.shadow.as_deref()
    }

    /// Sets the shadow, and gives the former one.
    pub(super) fn replace_shadow(&mut self, shadow: Option<Box<Shadow>>) -> Option<Box<Shadow>> {
        if self.more.is_none() && shadow.is_none() {
            return None;
        }
        self.change_more(|more| std::mem::replace(&mut more.shadow, shadow))
    }

    /// The fields that few instances have.
    pub(super) fn rare(&self) -> Option<&Rare> {
        self.more.as_ref()?.rare.as_deref()
    }

    pub(super) fn set_rare(&mut self, rare: Option<Rare>) {
        if self.rare() != rare.as_ref() {
            self.change_more(|more| more.rare = rare.map(Box::new));
        }
    }

    fn change_more<T>(&mut self, change: impl FnOnce(&mut More) -> T) -> T {
        let more = self.more.get_or_insert_default();
        let result = change(more);
        if **more == More::default() {
            self.more = None;
        }
        result
    }
}

/// Where an entry stands in the transaction that is under way: flags in one byte, to keep entries small.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks(u8);

impl Marks {
    /// Its view before the transaction has been taken down.
    pub(super) const TOUCHED: Self = Self(1);
    /// Its shadows have to be worked out again.
    pub(super) const RESHADOW: Self = Self(2);
    /// It was removed. The key still leads here, so that an instance that comes back is changed, not new.
    pub(super) const DEAD: Self = Self(4);
    /// It is in the index by health. The only mark that outlives the transaction.
    pub(super) const COUNTED: Self = Self(8);
    /// The reload that is under way has brought it.
    pub(super) const SEEN: Self = Self(16);

    pub(super) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    /// Whether it was not set before.
    pub(super) fn set(&mut self, mark: Self) -> bool {
        let new = !self.has(mark);
        self.0 |= mark.0;
        new
    }

    /// Whether it was set before.
    pub(super) fn clear(&mut self, mark: Self) -> bool {
        let set = self.has(mark);
        self.0 &= !mark.0;
        set
    }
}

/// The fields that few instances have.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Rare {
    pub(super) checks: Box<[Check]>,
    unknown: Unknown,
    report_unknown: Unknown,
}

impl Rare {
    /// None where the instance has none of them.
    pub(super) fn pack(instance: &Instance) -> Option<Self> {
        let Instance { checks, unknown, report, .. } = instance;
        let report_unknown = report.as_ref().map(|report| &report.unknown).filter(|unknown| !unknown.is_empty());
        (!checks.is_empty() || !unknown.is_empty() || report_unknown.is_some()).then(|| Self {
            checks: checks.as_slice().into(),
            unknown: Unknown::pack(unknown),
            report_unknown: report_unknown.map(Unknown::pack).unwrap_or_default(),
        })
    }

    /// Fills in what was packed.
    pub(super) fn unpack(&self, instance: &mut Instance) {
        instance.checks = self.checks.to_vec();
        instance.unknown = self.unknown.unpack();
        if let Some(report) = &mut instance.report {
            report.unknown = self.report_unknown.unpack();
        }
    }
}

/// Where sources of several ranks know the same address: who decides, and whose labels are added.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shadow {
    /// Those of the entry's addresses that a higher rank decides about.
    pub(super) addresses: Addresses,
    /// The pairs taken over from lower ranks; their keys are none of the entry's own.
    pub(super) adopted: Pairs,
}

/// Three optional booleans, in two bits each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PackedConditions(u8);

impl PackedConditions {
    pub(super) fn pack(conditions: Conditions) -> Self {
        let pack = |condition: Option<bool>| condition.map_or(0, |value| 1 + u8::from(value));
        Self(pack(conditions.ready) | pack(conditions.serving) << 2 | pack(conditions.terminating) << 4)
    }

    pub(super) fn unpack(self) -> Conditions {
        let unpack = |bits: u8| match bits & 3 {
            0 => None,
            bits => Some(bits == 2),
        };
        Conditions { ready: unpack(self.0), serving: unpack(self.0 >> 2), terminating: unpack(self.0 >> 4) }
    }
}

/// Fields of a newer version. Nearly always absent, so a pointer has to do.
#[derive(Clone, PartialEq, Debug, Default)]
#[allow(clippy::box_collection, reason = "a map in place is three to nine times the pointer's size")]
pub(super) struct Unknown(Option<Box<Map<String, Value>>>);

impl Unknown {
    pub(super) fn pack(map: &Map<String, Value>) -> Self {
        Self((!map.is_empty()).then(|| Box::new(map.clone())))
    }

    pub(super) fn unpack(&self) -> Map<String, Value> {
        self.0.as_deref().cloned().unwrap_or_default()
    }
}

/// A check's verdict or a drain, as it is stored.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Part {
    pub(super) revision: u64,
    /// In milliseconds since 1970; 0 where it was not noted.
    pub(super) since: u64,
    reports: u64,
    noted: u64,
    pub(super) note: Box<str>,
    pub(super) health: Health,
    /// The reload that is under way has brought it.
    pub(super) seen: bool,
    unknown: Unknown,
}

impl Part {
    pub(super) fn from_check(check: &CheckResult, revision: u64) -> Self {
        Self {
            revision,
            since: check.since,
            reports: check.reports,
            noted: check.noted,
            note: check.note.as_str().into(),
            health: check.health,
            seen: false,
            unknown: Unknown::pack(&check.unknown),
        }
    }

    pub(super) fn from_drain(drain: &Drain, revision: u64) -> Self {
        Self {
            revision,
            since: drain.since,
            reports: 0,
            noted: 0,
            note: drain.note.as_str().into(),
            health: Health::Critical,
            seen: false,
            unknown: Unknown::pack(&drain.unknown),
        }
    }

    pub(super) fn to_check(&self) -> CheckResult {
        CheckResult {
            health: self.health,
            note: self.note.to_string(),
            since: self.since,
            reports: self.reports,
            noted: self.noted,
            unknown: self.unknown.unpack(),
        }
    }

    pub(super) fn to_drain(&self) -> Drain {
        Drain { note: self.note.to_string(), since: self.since, unknown: self.unknown.unpack() }
    }
}

/// The separately written parts of an instance's health.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Parts {
    pub(super) drain: Option<Box<Part>>,
    /// Sorted by name.
    pub(super) checks: Vec<(Arc<str>, Part)>,
}

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.drain.is_none() && self.checks.is_empty()
    }

    pub(super) fn check(&self, name: &str) -> Result<usize, usize> {
        self.checks.binary_search_by(|(other, _)| (**other).cmp(name))
    }

    /// The checks by name, the drain.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.checks.iter().map(|(_, part)| part).chain(self.drain.as_deref())
    }

    /// In the same order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        self.checks.iter_mut().map(|(_, part)| part).chain(self.drain.as_deref_mut())
    }

    /// The latest change of any of them.
    pub(super) fn revision(&self) -> u64 {
        self.iter().map(|part| part.revision).max().unwrap_or_default()
    }
}

/// The entry's size is what a million instances cost most; growing it should be a decision.
const _: () = assert!(size_of::<Entry>() <= 88);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_survive_packing() {
        let values = [None, Some(false), Some(true)];
        for ready in values {
            for serving in values {
                for terminating in values {
                    let conditions = Conditions { ready, serving, terminating };
                    assert_eq!(PackedConditions::pack(conditions).unpack(), conditions);
                }
            }
        }
    }
}
