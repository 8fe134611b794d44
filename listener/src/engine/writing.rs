//! Writes what waits, and takes in what becomes of it.

use super::Engine;
use super::running::{Outcome, RETRY, Running, Sent, Standing, UNKNOWN};
use crate::backlog::Step;
use crate::index::{Record, digest, fit};
use crate::state::Phase;
use fingerpost_catalog::document::ObjectDocument;
use fingerpost_client::{Error, Operation};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

/// Most operations of one write: what a registry takes at one position.
const BATCH: usize = 100;
/// Writes under way at once, where their order is no matter.
const IN_FLIGHT: usize = 8;

impl Engine {
    /// Sends what may be sent now; whether there is more to compare. That is left for later so that what comes meanwhile does
    /// not wait for it.
    pub(super) fn write(&self, running: &mut Running) -> bool {
        let begun = running.parts.iter().any(|part| part.adding);
        if !matches!(running.standing, Standing::Writing(_)) || !begun || running.retry_at.is_some() {
            return false;
        }
        loop {
            let most = if running.careful > 0 { 1 } else { BATCH };
            if running.backlog.is_empty() {
                if running.flying.is_empty() && running.parts.iter().all(|part| part.removing) {
                    self.state.set_phase(Phase::Synced);
                }
                return false;
            }
            let step = running.backlog.step(most);
            if !running.flying.is_empty() {
                let unordered = matches!(step, Some(Step::Declare | Step::Add)) && running.step == step;
                if !unordered || running.flying.len() >= IN_FLIGHT || running.careful > 0 {
                    return false;
                }
            }
            let Batch { sent, operations, blocked, lost } = running.batch(most);
            for (record, lost) in lost {
                self.complain(&running.index.named(record), &format!("is written without {lost}"));
            }
            if operations.is_empty() && !blocked {
                return true;
            }
            if !operations.is_empty() {
                running.careful = running.careful.saturating_sub(operations.len());
                running.step = step;
                running.busy.extend(sent.iter().map(|(record, _)| *record));
                if matches!(running.standing, Standing::Writing(Some(_))) {
                    running.unsettled.extend(sent.iter().map(|(record, _)| *record));
                }
                let (registry, source) = (Arc::clone(&self.registry), self.source.clone());
                let within = self.write_timeout;
                let until = Instant::now() + within;
                // On a task of its own: to plan and to encode a batch takes longer than to make it.
                let written = tokio::spawn(async move {
                    let written = tokio::time::timeout_at(until, registry.batch(&source, operations)).await;
                    let written = written.unwrap_or_else(|_| {
                        let detail = format!("the registry did not answer within {} s", within.as_secs());
                        Err(Error::UnknownOutcome { detail })
                    });
                    (sent, written.map(|_| ()))
                });
                running.flying.push(AbortOnDropHandle::new(written));
            }
            if blocked {
                return false;
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
                    if running.refused.remove(&record).is_some() {
                        running.push_instances(record);
                    }
                    if let Some((trigger, kind)) = running.triggers.remove(&record) {
                        let milliseconds = u64::try_from(now - trigger).unwrap_or_default();
                        self.latency.observe(kind, Duration::from_millis(milliseconds));
                    }
                }
                return;
            }
            Err(error) => error,
        };
        if let Some(place) = refusal(&error) {
            let refused = match (sent.len(), place) {
                (1, _) => sent.first(),
                (_, Some(place)) => sent.get(place),
                (_, None) => None,
            };
            match refused {
                Some(&(record, Some(digest))) => {
                    let kept = running.written.contains_key(&record) && !matches!(record, Record::Instance(..));
                    let what = if kept { "stays as it was" } else { "left out" };
                    self.complain(&running.index.named(record), &format!("{what}: {error}"));
                    running.refused.insert(record, digest);
                    running.push_instances(record);
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
        for (record, _) in sent {
            // Perhaps it was applied. A record that was to be removed may be wanted again by the next try, unchanged.
            running.written.insert(record, UNKNOWN);
            running.push(record);
        }
        // Several that were under way fail for one reason, and are waited for once.
        if running.retry_at.is_none() {
            running.retry_at = Some(Instant::now() + running.next_pause());
        }
    }

    /// Names an object that can't be taken, or not whole.
    pub(super) fn complain(&self, what: &str, why: &str) {
        warn!(object = what, "{why}");
        self.state.refused(format!("{what}: {why}"));
    }
}

/// The next write.
#[derive(Default)]
struct Batch {
    sent: Sent,
    operations: Vec<Operation>,
    /// Whether something must land before there can be another.
    blocked: bool,
    /// What is left out of records because they can't hold it.
    lost: Vec<(Record, String)>,
}

/// What should become of a record.
enum Wanted {
    Put(Box<ObjectDocument>, u64),
    /// The registry does not take what it should be; what is there stays.
    Kept,
    Absent,
}

impl Running {
    /// What a record should be, as far as the registry takes it; and what is left out of it, where that is news.
    fn wanted(&mut self, record: Record) -> (Wanted, Option<String>) {
        let Some(mut document) = self.index.desired(record).filter(|_| !self.is_undeclared(record)) else {
            self.trimmed.remove(&record);
            return (Wanted::Absent, None);
        };
        let lost = fit(&mut document);
        let lost = match &lost {
            None => self.trimmed.remove(&record).and(None),
            Some(text) => (self.trimmed.insert(record, hash_of(text)) != Some(hash_of(text))).then_some(lost).flatten(),
        };
        let digest = digest(&document);
        let refused = self.refused.get(&record) == Some(&digest);
        let wanted = match &document {
            ObjectDocument::Instance(instance) if refused || instance.addresses.is_empty() => Wanted::Absent,
            // A name that had good answers keeps them; without the declaration, its instances would be answered instead.
            _ if refused => Wanted::Kept,
            _ => Wanted::Put(Box::new(document), digest),
        };
        (wanted, lost)
    }

    /// Whether an instance stands under a service that the registry refuses and does not have: alone, it would be taken for
    /// one of a headless service, which is a wrong answer rather than none.
    fn is_undeclared(&self, record: Record) -> bool {
        let Record::Instance(namespace, service, _) = record else { return false };
        let service = Record::Service(namespace, service);
        self.refused.contains_key(&service) && !self.written.contains_key(&service)
    }

    fn batch(&mut self, most: usize) -> Batch {
        let mut batch = Batch::default();
        for (record, step) in self.backlog.take(most) {
            if self.busy.contains(&record) {
                self.push(record);
                batch.blocked = true;
                continue;
            }
            let (wanted, lost) = self.wanted(record);
            batch.lost.extend(lost.map(|lost| (record, lost)));
            let due = Step::of(record, matches!(wanted, Wanted::Put(..)));
            let written = self.written.get(&record).copied();
            match wanted {
                Wanted::Kept => {}
                Wanted::Put(_, digest) if written == Some(digest) => {}
                Wanted::Absent if written.is_none() || !self.begun(record).removing => {}
                _ if due != step => {
                    self.backlog.push(record, due);
                    continue;
                }
                Wanted::Put(document, digest) => {
                    batch.operations.push(Operation::Put(*document));
                    batch.sent.push((record, Some(digest)));
                    continue;
                }
                Wanted::Absent => {
                    batch.operations.push(Operation::Delete(self.index.identity(record)));
                    batch.sent.push((record, None));
                    continue;
                }
            }
            // Nothing has to be written.
            self.triggers.remove(&record);
        }
        batch
    }
}

/// Whether the registry says that a record can't be taken, and at which place in the batch, where it says. Any other refusal
/// may come from something in between, or be of the caller, and says nothing of the records: those wait.
fn refusal(error: &Error) -> Option<Option<usize>> {
    let Error::Invalid { status: 422, pointer, .. } = error else { return None };
    match pointer.as_deref() {
        // The whole is larger than the store takes; one by one, it shows which.
        None | Some("/operations") => Some(None),
        Some(pointer) => Some(Some(pointer.strip_prefix("/operations/")?.split('/').next()?.parse().ok()?)),
    }
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registry_refuses_records() {
        let invalid = |status, pointer: Option<&str>| {
            let pointer = pointer.map(str::to_owned);
            refusal(&Error::Invalid { status, detail: "so".into(), pointer, parameter: None })
        };
        assert_eq!(invalid(422, Some("/operations/7/object/labels")), Some(Some(7)));
        assert_eq!(invalid(422, Some("/operations")), Some(None));
        assert_eq!(invalid(422, None), Some(None));
        assert_eq!(invalid(422, Some("/source")), None);
        assert_eq!(invalid(400, None), None);
        assert_eq!(invalid(413, Some("/operations/7")), None);
        assert_eq!(refusal(&Error::NotFound { detail: "a page of something else".into() }), None);
    }
}
