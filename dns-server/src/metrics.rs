//! Counts what the server does, at the price of an uncontended atomic addition.
//!
//! Each thread counts in its own [`Counters`], and serves one transport over one address family: those are no matter of a
//! query. A scrape adds them up. What becomes a label is bounded: types that are not listed are `other`, names in no zone
//! of ours are of the zone `none`. Only one answer in `SAMPLED` is timed: a clock
//! read costs as much as a good part of the answer.

use crate::answer::Transport;
use crate::config::{MAX_ALIASES, Pods};
use crate::encode::Rcode;
use crate::index::Index;
use crate::querylog::QueryLog;
use crate::zones::Kind;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One answer in so many is timed.
pub(crate) const SAMPLED: u64 = 32;

const TYPES: [(u16, &str); 15] = [
    (1, "A"),
    (28, "AAAA"),
    (33, "SRV"),
    (12, "PTR"),
    (5, "CNAME"),
    (16, "TXT"),
    (6, "SOA"),
    (2, "NS"),
    (15, "MX"),
    (65, "HTTPS"),
    (64, "SVCB"),
    (43, "DS"),
    (48, "DNSKEY"),
    (255, "ANY"),
    (0, "other"),
];
const OTHER: usize = TYPES.len() - 1;
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
/// As IANA numbers them.
const FAMILIES: [&str; 2] = ["1", "2"];

/// Zones that are counted each for itself: those of services, all reverse zones together, and none.
const ZONES: usize = 1 + MAX_ALIASES + 2;

/// The zone under which an answer is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CountedZone(usize);

impl CountedZone {
    const REVERSE: Self = Self(ZONES - 2);
    /// No zone of ours, or no name that could be read.
    pub(crate) const NONE: Self = Self(ZONES - 1);

    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Primary => Self(0),
            Kind::Alias(which) => Self((1 + which).min(MAX_ALIASES)),
            Kind::Reverse => Self::REVERSE,
        }
    }
}

/// Upper ends of the histogram's buckets: 0.25 µs, doubling, to 4 ms.
const BUCKETS: usize = 15;
const FIRST_BUCKET_NS: u64 = 250;

/// One thread's counts. Aligned, so that no two threads' counts share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Where in [`PROTOCOLS`] and in [`FAMILIES`].
    serves: (usize, usize),
    requests: [AtomicU64; TYPES.len()],
    responses: [[AtomicU64; Rcode::ALL.len()]; ZONES],
    truncated: AtomicU64,
    dropped: AtomicU64,
    malformed: AtomicU64,
    tick: AtomicU64,
    took: [AtomicU64; BUCKETS + 1],
    took_ns: AtomicU64,
}

impl Counters {
    /// Whether this answer is one of those that are timed.
    pub(crate) fn samples(&self) -> bool {
        self.tick.fetch_add(1, Relaxed).is_multiple_of(SAMPLED)
    }

    pub(crate) fn request(&self, qtype: u16) {
        let at = TYPES[..OTHER].iter().position(|&(number, _)| number == qtype).unwrap_or(OTHER);
        self.requests[at].fetch_add(1, Relaxed);
    }

    pub(crate) fn response(&self, zone: CountedZone, rcode: Rcode) {
        let at = match rcode {
            Rcode::BadVers => Rcode::ALL.len() - 1,
            other => usize::from(other as u8),
        };
        self.responses[zone.0][at].fetch_add(1, Relaxed);
    }

    pub(crate) fn truncated(&self) {
        self.truncated.fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn malformed(&self) {
        self.malformed.fetch_add(1, Relaxed);
    }

    pub(crate) fn took(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS).find(|&at| nanoseconds <= FIRST_BUCKET_NS << at).unwrap_or(BUCKETS);
        self.took[bucket].fetch_add(1, Relaxed);
        self.took_ns.fetch_add(nanoseconds, Relaxed);
    }
}

/// All counts of a server. Clones are the same.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    index: Arc<Index>,
    log: Option<Arc<QueryLog>>,
    threads: Mutex<Vec<Arc<Counters>>>,
    /// Of answers that had to be asked for.
    engine: OnceLock<Arc<Counters>>,
    connections: AtomicI64,
    refused_connections: AtomicU64,
    socket_errors: AtomicU64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("threads", &self.shared.threads.lock().len()).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Counts for a server of this index, and of its query log if it has one.
    pub fn new(index: Arc<Index>, log: Option<Arc<QueryLog>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                index,
                log,
                threads: Mutex::default(),
                engine: OnceLock::new(),
                connections: AtomicI64::new(0),
                refused_connections: AtomicU64::new(0),
                socket_errors: AtomicU64::new(0),
            }),
        }
    }

    /// Counters for one more thread, which serves that transport at that address.
    pub fn counters(&self, transport: Transport, address: IpAddr) -> Arc<Counters> {
        let serves = (usize::from(transport == Transport::Tcp), usize::from(address.is_ipv6()));
        let counters = Arc::new(Counters { serves, ..Counters::default() });
        self.shared.threads.lock().push(counters.clone());
        counters
    }

    /// The counters that all who answer late share: what they do costs more than sharing.
    pub(crate) fn counters_of_engine(&self) -> Arc<Counters> {
        Arc::clone(self.shared.engine.get_or_init(|| self.counters(Transport::Udp, Ipv4Addr::UNSPECIFIED.into())))
    }

    /// Makes the counts part of a registry.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    pub(crate) fn connection_opened(&self) {
        self.shared.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.shared.connections.fetch_sub(1, Relaxed);
    }

    pub(crate) fn connection_refused(&self) {
        self.shared.refused_connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn socket_error(&self) {
        self.shared.socket_errors.fetch_add(1, Relaxed);
    }

    fn sum(&self, read: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.shared.threads.lock().iter().map(|counters| read(counters).load(Relaxed)).sum()
    }
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        {
            let mut family = out.encode_descriptor(
                "fingerpost_dns_requests",
                "Queries, by transport, address family (1: IPv4, 2: IPv6) and type",
                None,
                MetricType::Counter,
            )?;
            let mut sums = [[[0; TYPES.len()]; 2]; 2];
            for counters in self.shared.threads.lock().iter() {
                let (proto, family) = counters.serves;
                for (sum, count) in sums[proto][family].iter_mut().zip(&counters.requests) {
                    *sum += count.load(Relaxed);
                }
            }
            for (proto, families) in PROTOCOLS.into_iter().zip(sums) {
                for (address, counts) in FAMILIES.into_iter().zip(families) {
                    for ((_, qtype), count) in TYPES.into_iter().zip(counts) {
                        let labels = [("proto", proto), ("family", address), ("type", qtype)];
                        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        {
            let mut family = out.encode_descriptor(
                "fingerpost_dns_responses",
                "Answers, by the zone of the name and response code",
                None,
                MetricType::Counter,
            )?;
            let config = self.shared.index.config();
            let own = std::iter::once(&config.zone).chain(&config.aliases).map(|zone| format!("{zone}.")).enumerate();
            let others = [(CountedZone::REVERSE, "reverse"), (CountedZone::NONE, "none")];
            for (zone, name) in own.chain(others.map(|(zone, name)| (zone.0, name.to_owned()))) {
                for (at, rcode) in Rcode::ALL.iter().enumerate() {
                    let metric = ConstCounter::new(self.sum(|counters| &counters.responses[zone][at]));
                    metric.encode(family.encode_family(&[("zone", name.as_str()), ("rcode", rcode.name())])?)?;
                }
            }
        }
        let total = |read: fn(&Counters) -> &AtomicU64| self.sum(read);
        counter(
            out,
            "fingerpost_dns_truncated_responses",
            "Answers with a part of the records only, for want of room",
            total(|counters| &counters.truncated),
        )?;
        counter(
            out,
            "fingerpost_dns_dropped_packets",
            "Packets left without an answer: no header, or themselves answers",
            total(|counters| &counters.dropped),
        )?;
        counter(
            out,
            "fingerpost_dns_malformed_packets",
            "Packets that could not be read",
            total(|counters| &counters.malformed),
        )?;

        let buckets: Vec<(f64, u64)> = (0..=BUCKETS)
            .map(|at| {
                let end = if at < BUCKETS { (FIRST_BUCKET_NS << at) as f64 / 1e9 } else { f64::INFINITY };
                (end, self.sum(|counters| &counters.took[at]))
            })
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = total(|counters| &counters.took_ns) as f64 / 1e9;
        out.encode_descriptor(
            "fingerpost_dns_request_duration_seconds",
            "Time from a packet read to its answer made, of one query in 32",
            None,
            MetricType::Histogram,
        )?
        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;

        let shared = &self.shared;
        gauge(out, "fingerpost_dns_tcp_connections", "Open TCP connections", shared.connections.load(Relaxed))?;
        counter(
            out,
            "fingerpost_dns_tcp_connections_refused",
            "TCP connections closed at once, for there were too many",
            shared.refused_connections.load(Relaxed),
        )?;
        counter(
            out,
            "fingerpost_dns_socket_errors",
            "Failures to receive or to send",
            shared.socket_errors.load(Relaxed),
        )?;
        let stats = shared.index.stats();
        let size = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        gauge(out, "fingerpost_dns_names", "Names that exist", stats.names as i64)?;
        gauge(out, "fingerpost_dns_records", "Records that can be answered", stats.records as i64)?;
        gauge(out, "fingerpost_dns_services", "Services known", size(stats.services))?;
        gauge(out, "fingerpost_dns_instances", "Instances of services known", size(stats.instances))?;
        if shared.index.config().pods == Pods::Verified {
            gauge(out, "fingerpost_dns_pod_addresses", "Addresses known to be a pod's", size(stats.pods))?;
        }
        if let Some(log) = &shared.log {
            counter(out, "fingerpost_dns_query_log_entries", "Queries written to the query log", log.written())?;
            counter(
                out,
                "fingerpost_dns_query_log_dropped",
                "Queries left out of the query log: it could not keep up, or not be written",
                log.dropped(),
            )?;
        }
        gauge(out, "fingerpost_dns_synced", "1 once the whole catalog is known", i64::from(shared.index.is_synced()))?;
        ConstGauge::new(shared.index.age().as_secs_f64()).encode(out.encode_descriptor(
            "fingerpost_dns_age_seconds",
            "Time since the catalog's feed last said anything",
            None,
            MetricType::Gauge,
        )?)
    }
}
