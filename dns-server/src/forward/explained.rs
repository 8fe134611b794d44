//! Says what becomes of a question about a name of others.

use crate::config::Zone;
use crate::forward::Forward;
use crate::forward::key::KeyBuffer;
use crate::forward::rules::Route;
use crate::forward::upstream::Upstream;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What becomes of a question about a name that is not ours.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The name, as it was understood.
    pub name: String,
    /// What it is looked up as instead, where a rewrite says so.
    pub rewritten: Option<String>,
    /// Whether the client may ask; none where it was not said which.
    pub allowed: Option<bool>,
    /// Which rule decides, in words.
    pub rule: String,
    /// The upstreams that would be asked.
    pub upstreams: Vec<UpstreamState>,
    /// What the cache has, for clients that want nothing in particular.
    pub cached: Option<Cached>,
    /// What it has for clients that ask for DNSSEC, or that check by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cached_otherwise: Vec<Cached>,
}

/// How an upstream fares.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamState {
    /// How it is reached.
    pub upstream: String,
    /// Whether it answers.
    pub healthy: bool,
    /// Whether what it is asked comes back to us.
    pub looping: bool,
    /// Smoothed time from question to answer, in milliseconds; none before the first.
    pub milliseconds: Option<f64>,
    /// Questions that it was asked.
    pub requests: u64,
    /// Of these, those that it did not answer.
    pub failures: u64,
}

/// An answer in the cache.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// For clients that ask for DNSSEC (DO).
    #[serde(default)]
    pub dnssec_ok: bool,
    /// For clients that check signatures by themselves (CD).
    #[serde(default)]
    pub checking_disabled: bool,
    /// Its response code.
    pub rcode: String,
    /// Records in its answer.
    pub records: usize,
    /// For how many seconds it is fresh; none where it is past its TTL.
    pub seconds: Option<f64>,
    /// Whether it may be sent all the same where no upstream answers.
    pub stale: bool,
}

impl UpstreamState {
    fn of(upstream: &Upstream) -> Self {
        let latency = upstream.latency();
        Self {
            upstream: upstream.label().to_owned(),
            healthy: upstream.is_up(),
            looping: upstream.is_looping(),
            milliseconds: (latency > Duration::ZERO).then_some(latency.as_secs_f64() * 1e3),
            requests: upstream.stats.requests.load(Relaxed),
            failures: upstream.stats.failures.iter().map(|count| count.load(Relaxed)).sum(),
        }
    }
}

impl Forward {
    /// How all upstreams fare.
    pub fn states(&self) -> Vec<UpstreamState> {
        self.upstreams().iter().map(|upstream| UpstreamState::of(upstream)).collect()
    }

    /// What becomes of a question about a name of others, without asking anybody; none where the name is none. Rewrites
    /// are not applied: a name that is looked up as another is that other.
    pub fn explain(&self, name: &str, qtype: u16, from: Option<IpAddr>) -> Option<Explained> {
        Some(self.explain_name(&Name::from_text(name)?, qtype, from))
    }

    pub(crate) fn explain_name(&self, name: &Name, qtype: u16, from: Option<IpAddr>) -> Explained {
        let now = self.shared.clock.now();
        let mut upstreams = Vec::new();
        let rule = match self.hosts.describe(name.wire()) {
            Some(listed) => listed,
            None => match self.rules.route(name.wire()) {
                Route::Special => "it is a special-use name, which is never asked about elsewhere".to_owned(),
                Route::Nothing(zone) => {
                    let zone = Name::from_wire(zone);
                    format!(
                        "a rule says that there is nothing in {zone} (`--forward-zone {}=none`)",
                        Zone(zone.clone())
                    )
                }
                Route::Refuse => match self.rules.zone_of(name.wire()) {
                    Some(zone) => {
                        format!("a rule refuses {zone} (`--forward-zone {}=refuse`)", Zone(zone.clone()))
                    }
                    None => "no rule says whom to ask".to_owned(),
                },
                Route::Ask(group) => {
                    upstreams = group.members().iter().map(|upstream| UpstreamState::of(upstream)).collect();
                    match self.rules.zone_of(name.wire()) {
                        Some(zone) => format!("the rule for {zone} says whom to ask"),
                        None => "the upstreams for everything else are asked".to_owned(),
                    }
                }
            },
        };
        let cached = |dnssec_ok, checking_disabled| {
            let key = KeyBuffer::new(name.wire(), qtype, dnssec_ok, checking_disabled);
            self.cache.peek(key.as_slice()).map(|entry| Cached {
                dnssec_ok,
                checking_disabled,
                rcode: entry.rcode().name().to_owned(),
                records: entry.records(),
                seconds: entry.remaining(now).map(|left| left.as_secs_f64()),
                stale: entry.remaining(now).is_none() && entry.is_usable_stale(now, self.config.serve_stale),
            })
        };
        let others = [(true, false), (false, true), (true, true)];
        Explained {
            name: name.to_string(),
            rewritten: None,
            allowed: from.map(|client| self.allows(client)),
            rule,
            upstreams,
            cached: cached(false, false),
            cached_otherwise: others.into_iter().filter_map(|(dnssec, checks)| cached(dnssec, checks)).collect(),
        }
    }
}
