//! What one thread needs to answer names of others: the way to the cache, and its own counts.

use crate::answer::Transport;
use crate::encode::Rcode;
use crate::extended::{Extended, NO_RULE, NOT_DESIRED, NOTHING_BY_RULE, REFUSED_BY_RULE};
use crate::forward::Forward;
use crate::forward::engine::{Asker, Back, Job};
use crate::forward::entry::{Age, Entry, Origin};
use crate::forward::gate::Full;
use crate::forward::key::{Key, KeyBuffer};
use crate::forward::local;
use crate::forward::metrics::{Refusal, Tally};
use crate::forward::rules::Route;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What a client asks, beside the name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) qtype: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) recursion_desired: bool,
}

/// What there is for a name.
#[derive(Debug)]
pub(crate) enum Found {
    /// This answer.
    Entry(Arc<Entry>, Age),
    /// Nothing that this client may have, and why.
    Refused(Option<Extended>),
    /// It has to be asked for first; [`Lane::hand_over`] does.
    Later,
}

/// How an answer about a name of others was come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It needs nobody: a file of hosts, a rule or a special name.
    Local,
    /// It was in the cache.
    Cache,
    /// It was in the cache, past its TTL.
    Stale,
    /// An upstream was asked.
    Upstream,
    /// Upstreams were asked, or should have been, in vain.
    Failed,
}

/// Where an answer about a name of others came from: for the log.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) way: Way,
    /// The upstream that gave it, now or when it went into the cache.
    pub(crate) origin: Option<Origin>,
    /// The reason that is given with it.
    pub(crate) reason: Option<String>,
}

/// A thread's part of forwarding.
#[derive(Debug)]
pub(crate) struct Lane {
    forward: Arc<Forward>,
    tally: Arc<Tally>,
    /// What was asked for this question alone: answers that need not be in the cache.
    found: Vec<(Key, Arc<Entry>)>,
    wanted: Option<Key>,
    /// What was looked for, where it only looks: for an explanation.
    looked: Option<Vec<Key>>,
    /// How the last answer was come by; all about it is kept where the question is logged.
    way: Way,
    came: Option<Came>,
    logs: bool,
}

impl Lane {
    pub(crate) fn new(forward: Arc<Forward>, tally: Arc<Tally>) -> Self {
        Self { forward, tally, found: Vec::new(), wanted: None, looked: None, way: Way::Local, came: None, logs: false }
    }

    /// One that leaves everything as it is, and keeps in mind what it was to look for. Its counts are nobody's.
    pub(crate) fn looking(forward: Arc<Forward>) -> Self {
        Self { looked: Some(Vec::new()), ..Self::new(forward, Arc::default()) }
    }

    /// What was looked for.
    pub(crate) fn take_looked(&mut self) -> Vec<Key> {
        self.looked.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn forward(&self) -> &Forward {
        &self.forward
    }

    /// Whether a client may ask. An explanation may be for nobody in particular.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        self.looked.is_some() && client.is_unspecified() || self.forward.allows(client)
    }

    pub(crate) fn refused(&self, why: Refusal) {
        self.tally.refused(why);
    }

    /// Sets, and takes back, what was found out for the next question.
    pub(crate) fn exchange_found(&mut self, found: Vec<(Key, Arc<Entry>)>) -> Vec<(Key, Arc<Entry>)> {
        std::mem::replace(&mut self.found, found)
    }

    /// What is to be asked for, after [`Found::Later`].
    pub(crate) fn take_wanted(&mut self) -> Option<Key> {
        self.wanted.take()
    }

    /// Begins with another question, of which it is to be kept where its answer comes from, or not.
    pub(crate) fn begin(&mut self, logs: bool) {
        self.logs = logs;
        self.came = None;
    }

    /// Where the answer to the question came from; none where others had no part in it.
    pub(crate) fn take_came(&mut self) -> Option<Came> {
        self.came.take()
    }

    /// Looks for the answer to a question; the name is in lower case.
    pub(crate) fn find(&mut self, name: &[u8], wish: Wish) -> Found {
        let found = self.look_for(name, wish);
        if self.logs {
            self.came = match &found {
                Found::Entry(entry, age) => {
                    let way = match (self.way, age) {
                        (_, Age::Stale(_)) => Way::Stale,
                        (Way::Upstream, _) if entry.rcode() == Rcode::ServFail => Way::Failed,
                        (way, _) => way,
                    };
                    let reason = entry.reasons(*age).next().map(|reason| reason.text().to_owned());
                    Some(Came { way, origin: entry.origin().cloned(), reason })
                }
                Found::Refused(_) | Found::Later => None,
            };
        }
        found
    }

    fn look_for(&mut self, name: &[u8], wish: Wish) -> Found {
        if let Some(looked) = &mut self.looked {
            looked.push(Key::new(name, wish.qtype, wish.dnssec_ok, wish.checking_disabled));
        }
        let forward = &*self.forward;
        let now = forward.shared.clock.now();
        if forward.hosts.is_set()
            && let Some(entry) = forward.hosts.answer(name, wish.qtype, now)
        {
            self.tally.local.fetch_add(1, Relaxed);
            self.way = Way::Local;
            return Found::Entry(Arc::new(entry), Age::Fresh(0));
        }
        let key = KeyBuffer::new(name, wish.qtype, wish.dnssec_ok, wish.checking_disabled);
        if let Some((_, entry)) =
            self.found.iter().find(|(held, _)| std::borrow::Borrow::<[u8]>::borrow(held) == key.as_slice())
        {
            let age = entry.age_now(now);
            if matches!(age, Age::Stale(_)) {
                self.tally.stale.fetch_add(1, Relaxed);
            }
            self.way = Way::Upstream;
            return Found::Entry(Arc::clone(entry), age);
        }
        let only_looks = self.looked.is_some();
        let held = if only_looks { forward.cache.peek(key.as_slice()) } else { forward.cache.get(key.as_slice()) };
        if let Some(entry) = held
            && let Some(age) = entry.age(now)
        {
            self.tally.hit(entry.rcode() == Rcode::NoError, matches!(age, Age::Stale(_)));
            if !only_looks && entry.take_refresh(now) {
                match forward.submit(Job::Refresh(key.as_slice().into())) {
                    Ok(()) => drop(self.tally.prefetches.fetch_add(1, Relaxed)),
                    Err(_) => entry.give_refresh_back(),
                }
            }
            self.way = Way::Cache;
            return Found::Entry(entry, age);
        }
        self.way = Way::Local;
        match forward.rules.route(name) {
            Route::Special => {
                let key = Key::from(key.as_slice());
                self.tally.local.fetch_add(1, Relaxed);
                return match forward.rules.specials.answer(&key, now) {
                    Some(entry) => Found::Entry(Arc::new(entry), Age::Fresh(0)),
                    None => Found::Refused(None),
                };
            }
            Route::Nothing(zone) => {
                let key = Key::from(key.as_slice());
                let rcode = if zone.len() == name.len() { Rcode::NoError } else { Rcode::NxDomain };
                let ttl = local::RULE_TTL.min(forward.config.max_negative_ttl);
                self.tally.local.fetch_add(1, Relaxed);
                let entry = local::nothing(&key, zone, rcode, ttl, now).because(vec![NOTHING_BY_RULE]);
                return Found::Entry(Arc::new(entry), Age::Fresh(0));
            }
            Route::Refuse => {
                self.tally.refused(Refusal::Rule);
                let ruled = forward.rules.explicit(name).is_some();
                return Found::Refused(Some(if ruled { REFUSED_BY_RULE } else { NO_RULE }));
            }
            Route::Ask(_) => {}
        }
        if !only_looks && forward.loops.is_probe(name) {
            self.tally.refused(Refusal::Loop);
            return Found::Refused(None);
        }
        if !wish.recursion_desired {
            self.tally.refused(Refusal::NotDesired);
            return Found::Refused(Some(NOT_DESIRED));
        }
        self.wanted = Some(key.as_slice().into());
        Found::Later
    }

    /// Hands a question over to those who ask upstreams; false where there is no room.
    pub(crate) fn hand_over(
        &mut self,
        packet: &[u8],
        transport: Transport,
        client: SocketAddr,
        back: Back,
    ) -> Result<(), Full> {
        let Some(key) = self.wanted.take() else { return Err(Full::Total) };
        let slot = self.forward.gate.enter(client.ip()).inspect_err(|full| {
            self.tally.refused(match full {
                Full::Total => Refusal::Total,
                Full::Client => Refusal::Client,
            });
        })?;
        self.tally.misses.fetch_add(1, Relaxed);
        let asker = Box::new(Asker {
            packet: packet.into(),
            transport,
            client,
            back,
            begun: Instant::now(),
            found: Vec::new(),
            slot,
        });
        self.forward.submit(Job::Ask(asker, key)).map_err(|_| {
            self.tally.refused(Refusal::Total);
            Full::Total
        })
    }
}
