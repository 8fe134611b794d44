//! Counts what forwarding does.

use crate::forward::Forward;
use crate::forward::upstream::{BUCKETS, FIRST_BUCKET_US, RCODES, REASONS, Upstream};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a question got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The client is not one of those who may ask.
    Network,
    /// A rule says so, or none says whom to ask.
    Rule,
    /// The client does not want recursion, and nothing is known.
    NotDesired,
    /// Too many questions of this client wait.
    Client,
    /// Too many questions wait.
    Total,
    /// The question was ours.
    Loop,
}

const REFUSALS: [(Refusal, &str); 6] = [
    (Refusal::Network, "network"),
    (Refusal::Rule, "rule"),
    (Refusal::NotDesired, "recursion-not-desired"),
    (Refusal::Client, "client-limit"),
    (Refusal::Total, "limit"),
    (Refusal::Loop, "loop"),
];

/// One thread's counts, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    hits: AtomicU64,
    negative_hits: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) local: AtomicU64,
    pub(crate) prefetches: AtomicU64,
    refusals: [AtomicU64; REFUSALS.len()],
}

impl Tally {
    pub(crate) fn hit(&self, positive: bool, stale: bool) {
        let count = match (stale, positive) {
            (true, _) => &self.stale,
            (false, true) => &self.hits,
            (false, false) => &self.negative_hits,
        };
        count.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, why: Refusal) {
        self.refusals[why as usize].fetch_add(1, Relaxed);
    }
}

/// What is exported.
#[derive(Debug)]
pub(crate) struct ForwardMetrics(pub(crate) Arc<Forward>);

fn count(value: &AtomicU64) -> ConstCounter<u64> {
    ConstCounter::new(value.load(Relaxed))
}

impl Collector for ForwardMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let forward = &*self.0;
        let tallies = forward.tallies();
        let sum = |read: fn(&Tally) -> &AtomicU64| {
            ConstCounter::new(tallies.iter().map(|tally| read(tally).load(Relaxed)).sum::<u64>())
        };
        let counter = MetricType::Counter;
        let mut family = encoder.encode_descriptor(
            "fingerpost_forward_cache",
            "Questions about names of others, by what the cache had",
            None,
            counter,
        )?;
        for (result, read) in [
            ("hit", (|tally| &tally.hits) as fn(&Tally) -> &AtomicU64),
            ("negative_hit", |tally| &tally.negative_hits),
            ("stale", |tally| &tally.stale),
            ("miss", |tally| &tally.misses),
            ("local", |tally| &tally.local),
        ] {
            sum(read).encode(family.encode_family(&[("result", result)])?)?;
        }
        for (name, help, value) in [
            (
                "fingerpost_forward_joined",
                "Questions that waited for an answer that was asked for already",
                sum(|t| &t.joined),
            ),
            ("fingerpost_forward_prefetches", "Answers asked for again before their end", sum(|t| &t.prefetches)),
            (
                "fingerpost_forward_cache_evictions",
                "Answers that had to make room",
                ConstCounter::new(forward.cache.evictions()),
            ),
        ] {
            value.encode(encoder.encode_descriptor(name, help, None, counter)?)?;
        }
        let gauge = MetricType::Gauge;
        for (name, help, value) in [
            ("fingerpost_forward_cache_bytes", "What the answers take", forward.cache.octets() as i64),
            ("fingerpost_forward_cache_entries", "Answers that are kept", forward.cache.entries() as i64),
            ("fingerpost_forward_waiting", "Questions that wait for upstreams", forward.gate.waiting() as i64),
        ] {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, gauge)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "fingerpost_forward_refused",
            "Questions about names of others that were refused, by reason",
            None,
            counter,
        )?;
        for (why, reason) in REFUSALS {
            let count = tallies.iter().map(|tally| tally.refusals[why as usize].load(Relaxed)).sum::<u64>();
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        upstreams(&mut encoder, &forward.upstreams())
    }
}

fn upstreams(encoder: &mut DescriptorEncoder<'_>, upstreams: &[Arc<Upstream>]) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "fingerpost_forward_upstream_requests",
        "Questions to an upstream",
        None,
        MetricType::Counter,
    )?;
    for upstream in upstreams {
        count(&upstream.stats.requests).encode(family.encode_family(&[("upstream", upstream.label())])?)?;
    }
    let mut family = encoder.encode_descriptor(
        "fingerpost_forward_upstream_responses",
        "Answers of an upstream, by response code",
        None,
        MetricType::Counter,
    )?;
    for upstream in upstreams {
        let counts = RCODES.iter().zip(&upstream.stats.rcodes).chain([(&"unfit", &upstream.stats.unfit)]);
        for (rcode, value) in counts {
            count(value).encode(family.encode_family(&[("upstream", upstream.label()), ("rcode", *rcode)])?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "fingerpost_forward_upstream_failures",
        "Questions that an upstream did not answer, by reason",
        None,
        MetricType::Counter,
    )?;
    for upstream in upstreams {
        for (reason, value) in REASONS.iter().zip(&upstream.stats.failures) {
            count(value).encode(family.encode_family(&[("upstream", upstream.label()), ("reason", *reason)])?)?;
        }
    }
    for (name, help, read) in [
        (
            "fingerpost_forward_upstream_healthy",
            "1 while an upstream answers and does not lead back here",
            (&|upstream: &Upstream| i64::from(upstream.is_up())) as &dyn Fn(&Upstream) -> i64,
        ),
        (
            "fingerpost_forward_upstream_in_flight",
            "Questions that an upstream has not answered yet",
            &|upstream: &Upstream| upstream.stats.in_flight.load(Relaxed),
        ),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for upstream in upstreams {
            ConstGauge::new(read(upstream)).encode(family.encode_family(&[("upstream", upstream.label())])?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "fingerpost_forward_upstream_duration_seconds",
        "Time from a question to an upstream to its answer",
        None,
        MetricType::Histogram,
    )?;
    for upstream in upstreams {
        let buckets: Vec<(f64, u64)> = upstream
            .stats
            .took
            .iter()
            .enumerate()
            .map(|(at, value)| {
                let end = if at < BUCKETS { (FIRST_BUCKET_US << at) as f64 / 1e6 } else { f64::INFINITY };
                (end, value.load(Relaxed))
            })
            .collect();
        let total = buckets.iter().map(|(_, value)| value).sum();
        let seconds = upstream.stats.took_us.load(Relaxed) as f64 / 1e6;
        let labels = [("upstream", upstream.label())];
        family
            .encode_family(&labels)?
            .encode_histogram::<prometheus_client::encoding::NoLabelSet>(seconds, total, &buckets, None)?;
    }
    Ok(())
}
