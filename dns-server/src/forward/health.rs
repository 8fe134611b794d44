//! Finds out whether an upstream that failed is down, and when it is back, and whether an upstream leads back to us.
//!
//! That a question has no answer may be due to the name that was asked for, and everybody may ask for any; so it only
//! begins a look at the upstream, with questions that do not depend on others.
//!
//! A loop shows by itself: a question with a name that nobody else can know is asked, and comes in here. That is done at
//! the start and whenever an upstream comes back, and never ends the process: the upstream is left out, and said so.

use crate::forward::Forward;
use crate::forward::key::Key;
use crate::forward::upstream::Upstream;
use crate::message::kind;
use crate::name::MAX_NAME;
use hashbrown::HashMap;
use parking_lot::Mutex;
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::sleep;

/// How soon after a probe that failed the next one follows; longer each time,
const FIRST: Duration = Duration::from_millis(500);
/// up to this.
const LAST: Duration = Duration::from_secs(15);
/// How long it may take to answer.
const WITHIN: Duration = Duration::from_millis(1500);
/// How often one that leads back to us is looked at again.
const LOOPING: Duration = Duration::from_secs(30);

/// Names that are asked for only to see whether they come back.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    active: AtomicUsize,
    probes: Mutex<HashMap<Box<[u8]>, Arc<AtomicBool>, ahash::RandomState>>,
}

impl Loops {
    /// Whether a name that somebody asks for is ours; then it is noted that it came back.
    pub(crate) fn is_probe(&self, name: &[u8]) -> bool {
        if self.active.load(Relaxed) == 0 {
            return false;
        }
        let probes = self.probes.lock();
        let Some(seen) = probes.get(name) else { return false };
        seen.store(true, Relaxed);
        true
    }

    /// A name that nobody can guess, in a zone.
    fn begin(&self, zone: &[u8]) -> (Box<[u8]>, Arc<AtomicBool>) {
        let mut name = Vec::new();
        for _ in 0..2 {
            let label = format!("{:016x}", rand::random::<u64>());
            name.push(label.len() as u8);
            name.extend_from_slice(label.as_bytes());
        }
        name.extend_from_slice(zone);
        let name: Box<[u8]> = if name.len() > MAX_NAME { zone.into() } else { name.into() };
        let seen = Arc::new(AtomicBool::new(false));
        self.active.fetch_add(1, Relaxed);
        self.probes.lock().insert(name.clone(), Arc::clone(&seen));
        (name, seen)
    }

    fn end(&self, name: &[u8]) {
        self.probes.lock().remove(name);
        self.active.fetch_sub(1, Relaxed);
    }
}

/// Spread, so that many servers don't ask at the same moment.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::rng().random_range(0.8..1.2))
}

/// What whoever is asked for the names in a zone has at hand: a resolver the root's name servers, a server that speaks for
/// a zone its SOA. The latter may leave everything else without an answer.
fn at_hand(zone: &[u8]) -> Key {
    let qtype = if zone == [0] { kind::NS } else { kind::SOA };
    Key::new(zone, qtype, false, false)
}

impl Forward {
    /// Looks after an upstream that has failed, until it answers.
    pub(crate) fn watch(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        if upstream.take_probe() {
            let (forward, upstream) = (Arc::clone(self), Arc::clone(upstream));
            let stop = self.shared.stop.clone();
            self.shared.tasks.spawn(stop.run_until_cancelled_owned(async move {
                forward.wait_for(&upstream).await;
                upstream.end_probe();
            }));
        }
    }

    async fn wait_for(self: &Arc<Self>, upstream: &Arc<Upstream>) {
        let mut delay = FIRST;
        loop {
            let Some(zone) = self.zone_of(upstream) else { return };
            if upstream.probe(&at_hand(&zone), WITHIN).await.is_err() {
                sleep(jittered(delay)).await;
                delay = (delay * 2).min(LAST);
                continue;
            }
            if self.look_for_loop(upstream, &zone).await != Some(true) {
                // However many questions fail, it is not probed more often.
                return sleep(jittered(FIRST)).await;
            }
            sleep(jittered(LOOPING)).await;
        }
    }

    /// The zone of the rule that asks an upstream, the outermost if there are several; none where no rule does any more.
    fn zone_of(&self, upstream: &Arc<Upstream>) -> Option<Box<[u8]>> {
        let of_rules = self.rules.upstreams().into_iter();
        let zones = of_rules.filter(|(_, member)| Arc::ptr_eq(member, upstream)).map(|(zone, _)| zone);
        zones.min_by_key(|zone| zone.len())
    }

    /// Whether what an upstream is asked comes back to us; none where it does not answer.
    async fn look_for_loop(self: &Arc<Self>, upstream: &Arc<Upstream>, zone: &[u8]) -> Option<bool> {
        let (name, seen) = self.loops.begin(zone);
        let answer = upstream.ask(&Key::new(&name, kind::HINFO, false, false), WITHIN).await;
        self.loops.end(&name);
        let loops = seen.load(Relaxed);
        if loops {
            if !upstream.set_looping(true) {
                tracing::error!(
                    upstream = upstream.label(),
                    "this upstream sends what it is asked back to this server, so it is not asked any more. Name the servers \
                     to ask by --forward ADDRESS; where /etc/resolv.conf names a local stub as systemd-resolved's, its \
                     servers are in /run/systemd/resolve/resolv.conf"
                );
            }
            return Some(true);
        }
        if answer.is_err() {
            return None;
        }
        if upstream.set_looping(false) {
            tracing::info!(upstream = upstream.label(), "this upstream does not lead back here any more");
        }
        Some(false)
    }

    /// Looks whether any of these leads back to us.
    pub(crate) fn look_for_loops(self: &Arc<Self>, upstreams: Vec<Arc<Upstream>>) {
        for upstream in upstreams {
            let forward = Arc::clone(self);
            let stop = self.shared.stop.clone();
            self.shared.tasks.spawn(stop.run_until_cancelled_owned(async move {
                let Some(zone) = forward.zone_of(&upstream) else { return };
                if forward.look_for_loop(&upstream, &zone).await != Some(false) {
                    forward.watch(&upstream);
                }
            }));
        }
    }
}
