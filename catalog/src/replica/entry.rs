//! What the replica keeps of one instance: a compact form of its record and of its parts, from which record and view
//! are made on demand.
//!
//! A million of them have to fit, so whatever instances share is a handle, and whatever few instances have is behind
//! one pointer.

use super::interner::NONE;
use super::pod::PackedPod;
use crate::Health;
use crate::check::Check;
use crate::object::{Attachment, CheckResult, Conditions, Drain, Instance, Report};
use serde_json::{Map, Value};
use smallvec::SmallVec;
use std::sync::Arc;

/// Handles of label pairs, in the order of their keys.
pub(super) type Pairs = SmallVec<[u32; 6]>;
/// Handles of addresses, in the declared order.
pub(super) type Addresses = SmallVec<[u32; 4]>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Arc<str>,
    /// What its source declares.
    pub(super) labels: Pairs,
    pub(super) addresses: Addresses,
    /// Of the instance's own record.
    pub(super) revision: u64,
    pub(super) group: u32,
    pub(super) source: u32,
    pub(super) ports: u32,
    pub(super) zone: u32,
    pub(super) node: u32,
    pub(super) session: u32,
    pub(super) weight: Option<u16>,
    pub(super) conditions: PackedConditions,
    /// The effective health, as of the end of the last transaction.
    pub(super) health: Health,
    pub(super) marks: Marks,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) parts: Option<Box<Parts>>,
    pub(super) shadow: Option<Box<Shadow>>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            id: Arc::default(),
            labels: Pairs::new(),
            addresses: Addresses::new(),
            revision: 0,
            group: NONE,
            source: NONE,
            ports: NONE,
            zone: NONE,
            node: NONE,
            session: NONE,
            weight: None,
            conditions: PackedConditions::default(),
            health: Health::Passing,
            marks: Marks::default(),
            extra: None,
            parts: None,
            shadow: None,
        }
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

/// The fields that not all instances have.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Extra {
    pub(super) pod: Option<PackedPod>,
    pub(super) report: Option<Box<Report>>,
    pub(super) rare: Option<Box<Rare>>,
}

/// The fields that few instances have.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Rare {
    pub(super) hostname: Option<Box<str>>,
    pub(super) attachment: Option<Box<Attachment>>,
    pub(super) checks: Box<[Check]>,
    pub(super) unknown: Unknown,
}

impl Extra {
    pub(super) fn pack(instance: &Instance, id: &str) -> Self {
        let rare = Rare {
            hostname: instance.hostname.as_deref().map(Into::into),
            attachment: instance.attachment.clone().map(Box::new),
            checks: instance.checks.as_slice().into(),
            unknown: Unknown::pack(&instance.unknown),
        };
        Self {
            pod: instance.pod.as_ref().map(|pod| PackedPod::pack(pod, id)),
            report: instance.report.clone().map(Box::new),
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        }
    }

    /// Fills in what was packed.
    pub(super) fn unpack(&self, instance: &mut Instance, id: &str) {
        instance.pod = self.pod.as_ref().map(|pod| pod.unpack(id));
        instance.report = self.report.as_deref().cloned();
        if let Some(Rare { hostname, attachment, checks, unknown }) = self.rare.as_deref() {
            instance.hostname = hostname.as_deref().map(str::to_owned);
            instance.attachment = attachment.as_deref().cloned();
            instance.checks = checks.to_vec();
            instance.unknown = unknown.unpack();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pod.is_none() && self.report.is_none() && self.rare.is_none()
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
const _: () = assert!(size_of::<Entry>() <= 136);

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
