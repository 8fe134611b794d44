//! Writes what waits, and takes in what becomes of it.

use super::Engine;
use super::running::{Outcome, RETRY, Running, Sent, Standing, UNKNOWN};
use crate::backlog::Step;
use crate::index::{Record, digest};
use crate::state::Phase;
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_client::{Error, Operation};
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tracing::{error, warn};

/// Most operations of one write: what a registry takes at one position.
const BATCH: usize = 100;
/// Writes under way at once, where their order is no matter.
const IN_FLIGHT: usize = 8;

impl Engine {
    /// Sends what may be sent now.
    pub(super) fn write(&self, running: &mut Running) {
        if !matches!(running.standing, Standing::Writing(_)) || !running.adding || running.retry_at.is_some() {
            return;
        }
        loop {
            let most = if running.careful > 0 { 1 } else { BATCH };
            if running.backlog.is_empty() {
                if running.flying.is_empty() && running.removing {
                    self.state.set_phase(Phase::Synced);
                }
                return;
            }
            let step = running.backlog.step(most);
            if !running.flying.is_empty() {
                let unordered = matches!(step, Some(Step::Declare | Step::Add)) && running.step == step;
                if !unordered || running.flying.len() >= IN_FLIGHT || running.careful > 0 {
                    return;
                }
            }
            let (sent, operations, blocked) = running.batch(most);
            if !operations.is_empty() {
                running.careful = running.careful.saturating_sub(operations.len());
                running.step = step;
                running.busy.extend(sent.iter().map(|(record, _)| *record));
                if matches!(running.standing, Standing::Writing(Some(_))) {
                    running.unsettled.extend(sent.iter().map(|(record, _)| *record));
                }
                let (registry, source) = (Arc::clone(&self.registry), self.source.clone());
                let within = self.write_timeout;
                running.flying.push(
                    async move {
                        let written = tokio::time::timeout(within, registry.batch(&source, operations)).await;
                        let written = written.unwrap_or_else(|_| {
                            let detail = format!("the registry did not answer within {} s", within.as_secs());
                            Err(Error::UnknownOutcome { detail })
                        });
                        (sent, written.map(|_| ()))
                    }
                    .boxed(),
                );
            }
            if blocked {
                return;
            }
        }
    }

    /// A write has come back.
    pub(super) fn landed(&self, running: &mut Running, (sent, outcome): Outcome) {
        for (record, _) in &sent {
            running.busy.remove(record);
        }
        let error = match outcome {
            Ok(()) => {
                running.pause = RETRY.0;
                self.state.wrote(sent.len() as u64);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
                for (record, digest) in sent {
                    match digest {
                        Some(digest) => running.written.insert(record, digest),
                        None => running.written.remove(&record),
                    };
                    if let Some((trigger, kind)) = running.triggers.remove(&record) {
                        let milliseconds = u64::try_from(now - trigger).unwrap_or_default();
                        self.latency.observe(kind, Duration::from_millis(milliseconds));
                    }
                }
                return;
            }
            Err(error) => error,
        };
        if let Error::Invalid { pointer, .. } = &error {
            let place = pointer.as_deref().and_then(|pointer| pointer.split('/').nth(2)?.parse::<usize>().ok());
            let refused = match (sent.len(), place) {
                (1, _) => sent.first(),
                (_, Some(place)) => sent.get(place),
                _ => None,
            };
            match refused {
                Some((record, Some(digest))) => {
                    let what = running.index.named(*record);
                    warn!(object = what, "left out: {error}");
                    self.state.refused(format!("{what}: {error}"));
                    running.refused.insert(*record, *digest);
                }
                Some((record, None)) => {
                    error!(object = running.index.named(*record), "can't be removed: {error}");
                    running.written.remove(record);
                }
                // Nobody says which; one by one, it shows.
                None => running.careful = sent.len(),
            }
            for (record, _) in sent {
                running.push(record);
            }
            return;
        }
        if self.state.write_failed(&error.to_string()) {
            warn!(%error, records = sent.len(), "a write failed; trying again");
        }
        for (record, digest) in sent {
            if digest.is_some() {
                running.written.insert(record, UNKNOWN);
            }
            running.push(record);
        }
        running.retry_at = Some(Instant::now() + running.next_pause());
    }
}

impl Running {
    /// What a record should be, as far as the registry takes it.
    fn desired(&self, record: Record) -> Option<(ObjectDocument, u64)> {
        let document = self.index.desired(record)?;
        let digest = digest(&document);
        (self.refused.get(&record) != Some(&digest)).then_some((document, digest))
    }

    /// The next write: its records, its operations, and whether something must land before there can be another.
    fn batch(&mut self, most: usize) -> (Sent, Vec<Operation>, bool) {
        let (mut sent, mut operations, mut blocked) = (Sent::new(), Vec::new(), false);
        for (record, step) in self.backlog.take(most) {
            if self.busy.contains(&record) {
                self.push(record);
                blocked = true;
                continue;
            }
            let desired = self.desired(record);
            let due = Step::of(record, desired.is_some());
            let written = self.written.get(&record).copied();
            match desired {
                Some((_, digest)) if written == Some(digest) => {}
                None if written.is_none() || !self.removing => {}
                _ if due != step => {
                    self.backlog.push(record, due);
                    continue;
                }
                Some((document, digest)) => {
                    operations.push(Operation::Put(document));
                    sent.push((record, Some(digest)));
                    continue;
                }
                None => {
                    operations.push(Operation::Delete(self.index.identity(record)));
                    sent.push((record, None));
                    continue;
                }
            }
            // Nothing has to be written.
            self.triggers.remove(&record);
        }
        (sent, operations, blocked)
    }
}
