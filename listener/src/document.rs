//! How the listener does, as others read it.

use crate::state::Phase;
use serde::Serialize;
use std::collections::BTreeMap;

/// A kind of object in [`StateDocument`].
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KindDocument {
    /// Which, as in `endpointslices`.
    pub resource: &'static str,
    /// Whether the first complete list has come.
    pub synced: bool,
    /// How many are known.
    pub objects: u64,
    /// Seconds since the last word of them; absent before the first.
    pub age_seconds: Option<f64>,
    /// How often they were listed again.
    pub relists: u64,
    /// How many could not be read.
    pub malformed: u64,
    /// Faults by reason.
    pub errors: BTreeMap<String, u64>,
    /// Why they can't be followed now.
    pub trouble: Option<String>,
    /// Removals that wait for a second list to confirm them.
    pub held: u64,
}

/// How a listener does, as JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateDocument {
    /// How far it is.
    pub phase: Phase,
    /// Whether it is the one that writes.
    pub leader: bool,
    /// What is followed.
    pub kinds: Vec<KindDocument>,
    /// Records that wait to be written.
    pub pending: u64,
    /// Removals that wait for a second list to confirm them.
    pub held: u64,
    /// Records written since the start.
    pub writes: u64,
    /// Writes that failed and were tried again.
    pub write_failures: u64,
    /// Objects that can't be taken, or not whole, now and before.
    pub refused: u64,
    /// The latest of them.
    pub refused_names: Vec<String>,
    /// Why writes fail now.
    pub write_trouble: Option<String>,
    /// Since how many seconds they do.
    pub writes_failing_seconds: Option<f64>,
    /// Who held the Lease when it was last seen, by which one of several listeners writes.
    pub lease_holder: Option<String>,
    /// That the registry's records are of another cluster, and nothing is written.
    pub foreign: Option<String>,
    /// Why the Lease can't be used now.
    pub lease_trouble: Option<String>,
    /// Slices of names instead of addresses.
    pub passed_over: u64,
    /// How many records of this cluster the registry had when the listener started.
    pub found: Option<u64>,
    /// Where what is shown may be old: since how many seconds, and why.
    pub stale_seconds: Option<f64>,
}

impl StateDocument {
    /// Why the registry may not have what the cluster has, in a sentence; none where it has.
    pub(crate) fn trouble(self, nobody: bool) -> Option<String> {
        let following = self.kinds.iter().find_map(|kind| kind.trouble.clone());
        let mut said: Vec<String> = self.foreign.clone().into_iter().collect();
        if nobody {
            said.push("stands by for a Lease that nobody was seen to hold".to_owned());
        }
        match (self.phase, self.stale_seconds) {
            (Phase::Synced | Phase::Standby, Some(age)) => {
                let why = following.map(|why| format!(": {why}")).unwrap_or_default();
                said.push(format!("has had no word from the API server for {age:.0} s; what is shown is so old{why}"));
            }
            (Phase::Synced | Phase::Standby, None) => said.extend(following),
            (Phase::Starting, _) => {
                let missing: Vec<&str> =
                    self.kinds.iter().filter(|kind| !kind.synced).map(|kind| kind.resource).collect();
                let what = match missing.is_empty() {
                    true => "has not written all of the cluster yet".to_owned(),
                    false => format!("has no complete list of {} yet", missing.join(", ")),
                };
                said.push(match (self.held, following) {
                    (_, Some(why)) => format!("{what}: {why}"),
                    (held, None) if held > 0 => format!("{what}: {held} removals wait for a second list"),
                    _ => what,
                });
            }
        }
        if let (Some(why), Some(seconds)) = (self.write_trouble, self.writes_failing_seconds) {
            said.push(format!("writes have failed for {seconds:.0} s: {why}"));
        }
        if let Some(why) = self.lease_trouble {
            said.push(format!("the Lease can't be used: {why}"));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }
}
