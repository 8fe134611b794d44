//! Reads what the registry has, and begins to write when that and the cluster are known.

use super::running::{Part, RETRY, Running, Standing, UNKNOWN};
use super::{Engine, Map};
use crate::index::{Counts, Record, Sym};
use crate::objects::Resources;
use crate::registry_side::{self, Found, Identity};
use fingerpost_client::Error;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// The registry as it is being read.
pub(super) struct Reading {
    pub(super) pages: BoxStream<'static, Result<Vec<Found>, Error>>,
    pub(super) actual: Map<Record, u64>,
    /// Of which cluster these records are, as far as they say.
    pub(super) owner: Option<String>,
}

impl Engine {
    /// Begins to read after `wait`. What another listener wrote before it lost the Lease must be in what is read `first`.
    pub(super) fn start_reading(&self, wait: Duration, first: bool) -> Reading {
        let (registry, source) = (Arc::clone(&self.registry), self.source.clone());
        let (asks, within) = (first && self.leased, self.write_timeout);
        let pages = async move {
            tokio::time::sleep(wait).await;
            let since = match asks {
                false => Ok(None),
                true => match tokio::time::timeout(within, registry_side::catch_up(&*registry, &source)).await {
                    Ok(position) => position.map(Some),
                    Err(_) => {
                        let detail = format!("the registry did not say within {} s where it is", within.as_secs());
                        Err(Error::UnknownOutcome { detail })
                    }
                },
            };
            match since {
                Ok(since) => registry_side::read(registry, source, since),
                Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
            }
        };
        Reading { pages: pages.flatten_stream().boxed(), actual: Map::default(), owner: None }
    }

    /// A page of the registry has been read, or, with none, all of it.
    pub(super) fn read(&self, running: &mut Running, page: Option<Result<Vec<Found>, Error>>) {
        let first = matches!(running.standing, Standing::Reading(_));
        let (Standing::Reading(reading) | Standing::Writing(Some(reading))) = &mut running.standing else { return };
        match page {
            Some(Ok(page)) => {
                for Found { identity, digest, cluster } in page {
                    reading.owner = cluster.or_else(|| reading.owner.take());
                    let index = &mut running.index;
                    let record = match identity {
                        Identity::Namespace(name) => Record::Namespace(index.intern(&name)),
                        Identity::Service(namespace, name) => {
                            Record::Service(index.intern(&namespace), index.intern(&name))
                        }
                        Identity::Instance(namespace, service, id) => Record::Instance(
                            index.intern(&namespace),
                            service.map_or(Sym::NONE, |service| index.intern(&service)),
                            index.intern(&id),
                        ),
                    };
                    reading.actual.insert(record, digest.unwrap_or(UNKNOWN));
                }
                return;
            }
            Some(Err(error)) => {
                if self.state.write_failed(&error.to_string()) {
                    warn!(%error, "the registry can't be read; trying again");
                }
                let again = self.start_reading(running.next_pause(), first);
                running.standing = if first { Standing::Reading(again) } else { Standing::Writing(Some(again)) };
                return;
            }
            None => {}
        }
        let mut actual = std::mem::take(&mut reading.actual);
        running.owner = reading.owner.take();
        running.pause = RETRY.0;
        running.standing = Standing::Writing(None);
        // What was written meanwhile may have been read before or after; its own write settles it.
        for record in std::mem::take(&mut running.unsettled) {
            match running.written.get(&record) {
                Some(digest) => actual.insert(record, *digest),
                None => actual.remove(&record),
            };
        }
        if first {
            self.state.set_found(actual.len() as u64);
            // What could not be read, can be now; and nothing else has been tried yet.
            self.state.wrote(0);
            let empty = actual.is_empty();
            running.parts.iter_mut().for_each(|part| part.adding = empty);
            running.written = actual;
            running.push_all();
            self.maybe_begin(running);
            return;
        }
        if self.is_foreign(running) {
            // Another cluster has the same name. It is not for this one to say who is right.
            running.parts = Default::default();
            running.backlog.clear();
            running.written = actual;
            return;
        }
        // Of what others declare, too, the registry does not tell what this source has said; that stands, then.
        for (record, digest) in &mut actual {
            if *digest == UNKNOWN {
                *digest = running.written.get(record).copied().unwrap_or(UNKNOWN);
            }
        }
        let differs = |(record, digest): (&Record, &u64), other: &Map<Record, u64>| other.get(record) != Some(digest);
        let lost = running.written.iter().filter(|(_, digest)| **digest != UNKNOWN);
        let lost = lost.filter(|written| differs(*written, &actual)).map(|(record, _)| *record);
        let odd = actual.keys().filter(|record| !running.written.contains_key(*record)).copied();
        let drifted: Vec<Record> = lost.chain(odd).collect();
        if !drifted.is_empty() {
            warn!(records = drifted.len(), "the registry differs from what was written there; that is repaired");
        }
        running.written = actual;
        // What has not drifted was compared when it was written. A source that says nothing for long counts as orphaned,
        // so one that has nothing to say is heard all the same.
        let any = running.written.keys().find(|record| matches!(record, Record::Namespace(_))).copied();
        if let Some(record) = any {
            running.written.insert(record, UNKNOWN);
        }
        drifted.into_iter().chain(any).for_each(|record| running.push(record));
        running.retry_refused();
        self.maybe_begin(running);
    }

    /// Begins to write in earnest, each part once its lists are complete and the registry has been read, unless that would
    /// remove so much that the lists must be confirmed first.
    pub(super) fn maybe_begin(&self, running: &mut Running) {
        if matches!(running.standing, Standing::Writing(_)) && !self.is_foreign(running) {
            Part::ALL.into_iter().for_each(|part| self.maybe_begin_part(running, part));
        }
    }

    /// Whether the registry's records of this source are of another cluster; that is said, too.
    fn is_foreign(&self, running: &Running) -> bool {
        let foreign = match (&running.owner, running.index.cluster()) {
            (Some(owner), Some(cluster)) if owner != cluster => {
                let source = &self.source;
                Some(format!(
                    "the registry's records of {source} are of another cluster ({owner}, and this one is {cluster}), so nothing \
                     is written: give this cluster a --cluster-name of its own, or, where the other is no more, run \
                     `fingerpost source remove {source}`"
                ))
            }
            _ => None,
        };
        let is_foreign = foreign.is_some();
        self.state.set_foreign(foreign);
        is_foreign
    }

    fn maybe_begin_part(&self, running: &mut Running, part: Part) {
        let waits = running.unlisted.iter().any(|resources| part.needs(*resources));
        if running.parts[part as usize].removing || waits {
            return;
        }
        if part == Part::Services && running.index.cluster().is_none() {
            info!(
                "the namespace kube-system is not followed, so another cluster of the same name can't be told from this one"
            );
        }
        if !running.parts[part as usize].adding {
            running.parts[part as usize].adding = true;
            running.push_all();
        }
        if running.held.iter().any(|(resources, _)| part.needs(*resources)) {
            return;
        }
        let (mut lost, mut all) = (Counts::default(), Counts::default());
        for record in running.written.keys().filter(|record| Part::of(**record) == part) {
            all.add(record.class(), 1);
            if !running.index.shows(*record) {
                lost.add(record.class(), 1);
            }
        }
        let begun = &mut running.parts[part as usize];
        let confirmed = begun.confirming.as_ref().is_some_and(|(_, awaited)| awaited.is_empty());
        if lost.is_suspicious(&all) && !confirmed {
            if begun.confirming.is_some() {
                return;
            }
            warn!(
                records = lost.total(),
                "the registry has so much more than the cluster that the lists have to be confirmed by others; until then \
                 nothing is removed"
            );
            let asked: Vec<Resources> = self.followed.iter().copied().filter(|kind| part.needs(*kind)).collect();
            asked.iter().for_each(|resources| self.ask(*resources));
            begun.confirming = Some((lost.total(), asked));
            return;
        }
        begun.confirming = None;
        begun.removing = true;
        running.push_all();
    }
}
