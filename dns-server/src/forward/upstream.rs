//! One name server to ask: how it is reached, how it fares, and what was asked of it.

mod https;
mod stream;
mod tls;
mod udp;

pub(crate) use tls::Tls;
pub use tls::TlsError;

use crate::forward::clock::Clock;
use crate::forward::config::Target;
use crate::forward::entry::{Entry, Lifetimes, Unfit};
use crate::forward::key::Key;
use crate::message::{HEADER, kind};
use hashbrown::HashMap;
use https::Https;
use nix::errno::Errno;
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use stream::Stream;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest answer over UDP that we take: passes everywhere without fragments.
pub(crate) const PAYLOAD: u16 = 1232;
/// So many failed probes in a row, and it counts as down. A question that fails says little: whoever asks for names whose
/// servers are silent would take any resolver down.
const DOWN: u32 = 2;
/// What is left of a question's time where a cut answer has to be handed on instead of the whole one.
const MARGIN: Duration = Duration::from_millis(20);

/// What all upstreams need.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Tasks that keep connections, and probes.
    pub(crate) tasks: TaskTracker,
    /// Ends them.
    pub(crate) stop: CancellationToken,
    pub(crate) tls: Tls,
    pub(crate) clock: Clock,
    pub(crate) lifetimes: Lifetimes,
    /// Questions that one upstream may be asked at a time.
    pub(crate) concurrency: usize,
    /// All that some rule asks: one that is named in several is one upstream, with one state.
    pub(crate) upstreams: Mutex<HashMap<Target, Weak<Upstream>, ahash::RandomState>>,
}

/// Why an upstream could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Network(#[from] io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("HTTP: {0}")]
    Http(String),
    #[error("its name `{0}` has no address")]
    NoAddress(String),
    #[error("too many questions are waiting for it")]
    Busy,
}

impl AskError {
    /// The place of this reason in the counts.
    fn reason(&self) -> usize {
        match self {
            AskError::Timeout(_) => 0,
            AskError::Network(_) => 1,
            AskError::Closed => 2,
            AskError::Tls(_) => 3,
            AskError::Http(_) => 4,
            AskError::NoAddress(_) => 5,
            AskError::Busy => 6,
        }
    }

    /// Whether it is this machine's doing, which says nothing about the upstream.
    fn is_ours(&self) -> bool {
        use Errno::{EACCES, EADDRINUSE, EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
        match self {
            // We ask too much of it.
            AskError::Busy => true,
            AskError::Network(error) => error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
                matches!(errno, EMFILE | ENFILE | ENOMEM | ENOBUFS | EADDRINUSE | EADDRNOTAVAIL | EPERM | EACCES)
            }),
            _ => false,
        }
    }

    /// Whether nobody is there, whatever is asked.
    fn is_absence(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        let absent =
            |error: &io::Error| matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable);
        matches!(self, AskError::Network(error) if absent(error))
    }
}

/// The reasons' names, as metrics have them.
pub(crate) const REASONS: [&str; 7] = ["timeout", "network", "closed", "tls", "http", "no-address", "busy"];
/// The response codes that are counted apart.
pub(crate) const RCODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"];
/// Upper ends of the histogram's buckets: 0.25 ms, doubling, to 4 s.
pub(crate) const BUCKETS: usize = 15;
pub(crate) const FIRST_BUCKET_US: u64 = 250;

/// What was asked of an upstream.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) requests: AtomicU64,
    pub(crate) rcodes: [AtomicU64; RCODES.len()],
    pub(crate) failures: [AtomicU64; REASONS.len()],
    pub(crate) unfit: AtomicU64,
    pub(crate) in_flight: AtomicI64,
    pub(crate) took: [AtomicU64; BUCKETS + 1],
    pub(crate) took_us: AtomicU64,
}

#[derive(Debug)]
enum Way {
    /// The stream is for what does not fit into a datagram.
    Udp(SocketAddr, Stream),
    Stream(Stream),
    Https(Https),
}

/// An upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    target: Target,
    label: Arc<str>,
    way: Way,
    shared: Arc<Shared>,
    slots: Semaphore,
    /// Failures in a row that say that it is down.
    failures: AtomicU32,
    /// A question has failed since it last answered.
    suspected: AtomicBool,
    /// It is known not to answer over TCP what it cuts over UDP.
    udp_only: AtomicBool,
    /// What is asked of it comes back to us.
    looping: AtomicBool,
    /// Somebody is finding out whether it is back.
    probing: AtomicBool,
    /// Smoothed time from question to answer, in microseconds; 0 before the first.
    latency_us: AtomicU64,
    pub(crate) stats: Stats,
}

/// Takes a question out of those in flight, whatever ends it.
struct InFlight<'a>(&'a Stats);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Upstream {
    /// The upstream for a target, and whether it is new. None for a file, which is no upstream by itself.
    pub(crate) fn of(target: &Target, shared: &Arc<Shared>) -> Option<(Arc<Self>, bool)> {
        let mut all = shared.upstreams.lock();
        if let Some(known) = all.get(target).and_then(Weak::upgrade) {
            return Some((known, false));
        }
        let new = Self::new(target, shared)?;
        all.retain(|_, upstream| upstream.strong_count() > 0);
        all.insert(target.clone(), Arc::downgrade(&new));
        Some((new, true))
    }

    /// Has the upstreams of a group asked for its address, where it has a name only.
    pub(crate) fn find_by(&self, group: usize, others: Vec<Arc<Upstream>>) {
        if let Way::Https(https) = &self.way {
            https.find_by(group, others);
        }
    }

    fn new(target: &Target, shared: &Arc<Shared>) -> Option<Arc<Self>> {
        let way = match target {
            Target::Udp(address) => Way::Udp(*address, Stream::plain(*address)),
            Target::Tcp(address) => Way::Stream(Stream::plain(*address)),
            Target::Tls { address, name } => Way::Stream(Stream::tls(*address, name.clone())),
            Target::Https { host, port, path } => Way::Https(Https::new(host.clone(), *port, path.clone())),
            Target::File(_) => return None,
        };
        Some(Arc::new(Self {
            label: target.to_string().into(),
            target: target.clone(),
            way,
            slots: Semaphore::new(shared.concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            shared: Arc::clone(shared),
            failures: AtomicU32::new(0),
            suspected: AtomicBool::new(false),
            udp_only: AtomicBool::new(false),
            looping: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            latency_us: AtomicU64::new(0),
            stats: Stats::default(),
        }))
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What it is called in logs, metrics and reasons.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The same, for whoever keeps it: all share it.
    pub(crate) fn label_to_keep(&self) -> Arc<str> {
        Arc::clone(&self.label)
    }

    /// Its address, where it does not depend on anybody's answer.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.target {
            Target::Udp(address) | Target::Tcp(address) | Target::Tls { address, .. } => Some(*address),
            Target::Https { host, port, .. } => Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, *port)),
            Target::File(_) => None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.failures.load(Relaxed) < DOWN && !self.is_looping()
    }

    pub(crate) fn is_looping(&self) -> bool {
        self.looping.load(Relaxed)
    }

    pub(crate) fn set_looping(&self, looping: bool) -> bool {
        self.looping.swap(looping, Relaxed)
    }

    /// Whether the caller shall find out how it is: it has failed, and nobody else is at it.
    pub(crate) fn take_probe(&self) -> bool {
        let doubtful = self.suspected.load(Relaxed) || self.failures.load(Relaxed) > 0 || self.is_looping();
        doubtful && !self.probing.swap(true, Relaxed)
    }

    pub(crate) fn end_probe(&self) {
        self.probing.store(false, Relaxed);
    }

    pub(crate) fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.load(Relaxed))
    }

    /// Asks. What it answers may be of no use, which says nothing against the upstream.
    pub(crate) async fn ask(&self, key: &Key, within: Duration) -> Result<Result<Entry, Unfit>, AskError> {
        let asked = match self.slots.try_acquire() {
            Ok(_permit) => self.ask_and_count(key, within).await,
            Err(_) => {
                self.stats.requests.fetch_add(1, Relaxed);
                self.stats.failures[AskError::Busy.reason()].fetch_add(1, Relaxed);
                Err(AskError::Busy)
            }
        };
        if let Err(error) = &asked {
            tracing::debug!(upstream = &*self.label, %error, "asking this upstream failed");
            if !error.is_ours() {
                self.suspected.store(true, Relaxed);
            }
            if error.is_absence() {
                self.failed(error);
            }
        }
        asked
    }

    /// Asks for something that whoever is well answers at once; failures count. However many questions are under way,
    /// there is room for it.
    pub(crate) async fn probe(&self, key: &Key, within: Duration) -> Result<(), AskError> {
        let asked = self.ask_and_count(key, within).await;
        if let Err(error) = &asked {
            tracing::debug!(upstream = &*self.label, %error, "probing this upstream failed");
            if !error.is_ours() {
                self.failed(error);
            }
        }
        asked.map(drop)
    }

    async fn ask_and_count(&self, key: &Key, within: Duration) -> Result<Result<Entry, Unfit>, AskError> {
        self.stats.requests.fetch_add(1, Relaxed);
        self.stats.in_flight.fetch_add(1, Relaxed);
        let _in_flight = InFlight(&self.stats);
        let began = Instant::now();
        let asked = self.ask_in_time(key, within).await;
        match &asked {
            Ok(answer) => {
                self.suspected.store(false, Relaxed);
                if self.failures.swap(0, Relaxed) >= DOWN {
                    tracing::info!(upstream = &*self.label, "this upstream answers again");
                }
                self.answered(answer, began.elapsed());
            }
            Err(error) => {
                self.stats.failures[error.reason()].fetch_add(1, Relaxed);
            }
        }
        asked
    }

    fn answered(&self, answer: &Result<Entry, Unfit>, took: Duration) {
        let rcode = match answer {
            Ok(entry) => Some(entry.rcode() as usize),
            Err(Unfit::Rcode(rcode, _)) => Some(usize::from(*rcode)),
            Err(_) => None,
        };
        match rcode {
            Some(rcode) => self.stats.rcodes[rcode.min(RCODES.len() - 1)].fetch_add(1, Relaxed),
            None => self.stats.unfit.fetch_add(1, Relaxed),
        };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS).find(|&at| us <= FIRST_BUCKET_US << at).unwrap_or(BUCKETS);
        self.stats.took[bucket].fetch_add(1, Relaxed);
        self.stats.took_us.fetch_add(us, Relaxed);
        let held = self.latency_us.load(Relaxed);
        self.latency_us.store(if held == 0 { us } else { (held * 7 + us) / 8 }.max(1), Relaxed);
    }

    fn failed(&self, error: &AskError) {
        // Slow counts as slow for the policy that looks at it.
        self.latency_us.fetch_max(1_000_000, Relaxed);
        if self.failures.fetch_add(1, Relaxed) + 1 == DOWN {
            tracing::warn!(upstream = &*self.label, %error, "this upstream does not answer; asked again until it does");
        }
    }

    async fn ask_in_time(&self, key: &Key, within: Duration) -> Result<Result<Entry, Unfit>, AskError> {
        let end = tokio::time::Instant::now() + within;
        let asked = async {
            let answer = self.exchange(key, true, end).await?;
            // One that does not know EDNS (RFC 6891 §7).
            if matches!(answer, Err(Unfit::Rcode(1 | 4, _))) && !key.dnssec_ok() {
                return self.exchange(key, false, end).await;
            }
            Ok(answer)
        };
        timeout_at(end, asked).await.unwrap_or(Err(AskError::Timeout(within)))
    }

    async fn exchange(
        &self,
        key: &Key,
        edns: bool,
        end: tokio::time::Instant,
    ) -> Result<Result<Entry, Unfit>, AskError> {
        let query = query(key, edns);
        let read = |raw: &[u8]| Entry::read(raw, key, self.shared.lifetimes, self.shared.clock.now());
        match &self.way {
            Way::Udp(address, stream) => {
                let cut = match udp::exchange(*address, query.clone(), read).await? {
                    Ok(entry) if entry.is_cut() => entry,
                    answer => return Ok(answer),
                };
                let error = match timeout_at(end - MARGIN, stream.exchange(query, &self.shared)).await {
                    Ok(Ok(raw)) => return Ok(read(&raw)),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                // It is there, as its answer shows; somebody in between may have closed port 53 for TCP.
                if !self.udp_only.swap(true, Relaxed) {
                    tracing::warn!(
                        upstream = &*self.label,
                        error,
                        "this upstream cuts answers over UDP, and does not give the whole of them over TCP: clients get the \
                         cut ones"
                    );
                }
                Ok(Ok(cut))
            }
            Way::Stream(stream) => Ok(read(&stream.exchange(query, &self.shared).await?)),
            Way::Https(https) => Ok(read(&https.exchange(query, &self.shared).await?)),
        }
    }
}

/// A query for a question; its id is 0.
fn query(key: &Key, edns: bool) -> Vec<u8> {
    let mut query = Vec::with_capacity(HEADER + key.len() + 16);
    // Recursion is desired; AD says that we know what it means in the answer (RFC 6840 §5.7).
    let flags = 0x20 | if key.checking_disabled() { 0x10 } else { 0 };
    query.extend_from_slice(&[0, 0, 0x01, flags, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    query.extend(key.question());
    if edns {
        let [high, low] = PAYLOAD.to_be_bytes();
        let flags = if key.dnssec_ok() { 0x80 } else { 0 };
        query.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, 0, 0, flags, 0, 0, 0]);
    }
    query
}
