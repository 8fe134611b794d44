//! Names of others: asks the name servers that the operator names, and keeps their answers.
//!
//! A question about a name outside of our zones is looked up in the cache by the thread that received it, at about the
//! price of a name of ours. What is missing goes over a bounded queue to tasks that ask upstreams, once for all who want
//! to know it, and send the answers from the sockets that the queries came to.
//!
//! Only those in the allowed networks get any of it; everybody else is refused, as by a server that does not forward.

mod ask;
mod cache;
mod clock;
pub(crate) mod config;
pub(crate) mod engine;
pub(crate) mod entry;
mod explained;
mod files;
mod gate;
mod group;
mod health;
mod hosts;
pub(crate) mod key;
pub(crate) mod lane;
mod local;
pub(crate) mod metrics;
mod network;
mod probe;
mod resolv;
mod rewrite;
mod rules;
pub(crate) mod search;
mod upstream;
mod wire;

pub use config::{Action, Config, ParseTargetError, Policy, Target, ZoneRule};
pub use explained::{Cached, Explained, UpstreamState};
pub use group::UpstreamFileError;
pub use hosts::HostsError;
pub use network::{Network, ParseNetworkError};
pub use rewrite::Rewrite;
pub use upstream::TlsError;

use crate::config::Zone;
use crate::interfaces;
use crate::name::{MAX_NAME, Name};
use crate::zones::{Kind, Within, Zones};
use cache::Cache;
use clock::Clock;
use engine::Job;
use entry::Lifetimes;
use files::{HostFiles, Stamps};
use gate::Gate;
use health::Loops;
use metrics::{ForwardMetrics, Tally};
use parking_lot::Mutex;
use rewrite::{Rewrites, Rewritten};
use rules::Rules;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use upstream::{Shared, Tls, Upstream};

/// Answers that may be waiting to be asked for again; they have no client that they would count for.
const REFRESHES: usize = 256;

/// Forwarding can't be set up so.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// A file of upstreams.
    #[error(transparent)]
    Upstreams(#[from] UpstreamFileError),
    /// A file of hosts.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// The upstreams' authorities.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is nobody to ask for an upstream's address.
    #[error(
        "the upstream `{0}` has a name, and nobody to ask for its address: name another upstream with an address beside \
         it, or write its address in the URL"
    )]
    Bootstrap(Target),
    /// A rule for a zone of ours.
    #[error(
        "the rule for `{0}` can't apply: this server speaks for that zone itself. A rule for a zone within it can, as for \
         `example.{0}`: for names there that the catalog does not know"
    )]
    OwnZone(Zone),
    /// A question would come back.
    #[error(
        "the upstream `{target}` is this server itself, which listens on {listen}: questions would go round in circles. \
         Name the servers to ask by --forward ADDRESS; where /etc/resolv.conf names a local stub as systemd-resolved's, \
         its servers are in /run/systemd/resolve/resolv.conf"
    )]
    Own {
        /// Which upstream.
        target: Target,
        /// The address that we listen on.
        listen: SocketAddr,
    },
}

/// Forwarding: rules, upstreams, cache. One server runs it.
#[derive(Debug)]
pub struct Forward {
    pub(crate) config: Config,
    pub(crate) shared: Arc<Shared>,
    pub(crate) rules: Rules,
    pub(crate) cache: Cache,
    pub(crate) hosts: HostFiles,
    pub(crate) rewrites: Rewrites,
    pub(crate) gate: Arc<Gate>,
    pub(crate) loops: Loops,
    /// Where this server listens.
    pub(crate) own: OnceLock<Vec<SocketAddr>>,
    pub(crate) stamps: Stamps,
    /// Has files looked at now.
    pub(crate) look_now: Notify,
    queue: mpsc::Sender<Job>,
    jobs: Mutex<Option<mpsc::Receiver<Job>>>,
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl Forward {
    /// Reads the files that the configuration names. Nothing is asked before a server runs it.
    pub fn open(config: Config) -> Result<Arc<Self>, ForwardError> {
        let shared = Arc::new(Shared {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            tls: Tls::open(config.ca.as_deref())?,
            clock: Clock::default(),
            lifetimes: Lifetimes {
                least: config.min_ttl,
                most: config.max_ttl.max(config.min_ttl),
                most_negative: config.max_negative_ttl,
            },
            concurrency: config.upstream_concurrency,
            upstreams: Mutex::default(),
        });
        let stamps = Stamps::of(&config);
        let rules = Rules::open(&config.upstreams, &config.zones, config.policy, &shared)?;
        for (_, group) in rules.groups() {
            let members = group.members();
            if let Some(named) = members.iter().find(|upstream| upstream.address().is_none())
                && members.iter().all(|upstream| upstream.address().is_none())
            {
                return Err(ForwardError::Bootstrap(named.target().clone()));
            }
        }
        let (queue, jobs) = mpsc::channel(config.concurrency.max(1) + REFRESHES);
        Ok(Arc::new(Self {
            rules,
            cache: Cache::new(config.cache_size),
            hosts: HostFiles::open(&config.hosts)?,
            rewrites: Rewrites::new(config.rewrites.clone()),
            gate: Gate::new(config.concurrency, config.client_concurrency),
            loops: Loops::default(),
            own: OnceLock::new(),
            stamps,
            look_now: Notify::new(),
            queue,
            jobs: Mutex::new(Some(jobs)),
            tallies: Mutex::default(),
            shared,
            config,
        }))
    }

    /// Makes the counts part of a registry.
    pub fn register(self: &Arc<Self>, registry: &mut prometheus_client::registry::Registry) {
        registry.register_collector(Box::new(ForwardMetrics(Arc::clone(self))));
    }

    /// Whether a client may ask for names of others.
    pub fn allows(&self, client: IpAddr) -> bool {
        self.config.allow.iter().any(|network| network.contains(client))
    }

    /// What a lower-case name is looked up as instead. A rule about a name of the cluster's zone holds under the zone's other
    /// names as well, and leads to the same zone where it leads into the cluster's.
    pub(crate) fn rewritten(&self, wire: &[u8], zones: &Zones) -> Option<Rewritten<'_>> {
        if self.rewrites.is_empty() {
            return None;
        }
        self.rewrites.apply(wire).or_else(|| {
            let within = zones.find(wire).filter(|within| matches!(within.kind, Kind::Alias(_)))?;
            let mut name = [0; MAX_NAME];
            name.get_mut(..wire.len())?.copy_from_slice(wire);
            let length = zones.compiled(&mut name, wire.len(), within)?;
            let Rewritten { target, rule } = self.rewrites.apply(name.get(..length)?)?;
            let target = zones.spelling(within.kind).of(0, &Name::from_wire(&target)).concat();
            Some(Rewritten { target: target.into(), rule })
        })
    }

    /// Whether somebody said what to answer to a name of a zone of ours that is not known: by a rule for a zone within a
    /// cluster's, or for any that a reverse name lies in; or in a file of hosts, of reverse names.
    pub(crate) fn speaks_for(&self, wire: &[u8], qtype: u16, within: Within) -> bool {
        let rule = self.rules.explicit(wire);
        if within.is_cluster() {
            return rule.is_some_and(|zone| zone.len() > wire.len() - within.apex_at);
        }
        rule.is_some() || self.hosts.is_set() && self.hosts.answer(wire, qtype, self.shared.clock.now()).is_some()
    }

    /// Refuses rules that could never apply: whatever lies in a zone of ours is ours to answer or to deny.
    pub(crate) fn check_zones(&self, zones: &Zones) -> Result<(), ForwardError> {
        match zones.clusters().find(|zone| self.rules.is_about(zone)) {
            Some(zone) => Err(ForwardError::OwnZone(Zone(zone.clone()))),
            None => Ok(()),
        }
    }

    /// Looks at all files now instead of in a few seconds, for tests.
    #[doc(hidden)]
    pub fn look_at_files(&self) {
        self.look_now.notify_one();
    }

    /// Lets answers grow older, for tests.
    #[doc(hidden)]
    pub fn advance(&self, time: Duration) {
        self.shared.clock.advance(time);
    }

    /// Refuses upstreams that are this server itself.
    pub(crate) fn set_own(&self, listen: &[SocketAddr]) -> Result<(), ForwardError> {
        let own = own_addresses(listen);
        for (_, upstream) in self.rules.upstreams() {
            if let Some(address) = upstream.address()
                && own.contains(&address)
            {
                let listen = listen.iter().find(|listen| listen.port() == address.port()).copied().unwrap_or(address);
                return Err(ForwardError::Own { target: upstream.target().clone(), listen });
            }
        }
        // It is set once, by the one server that runs it.
        let _ = self.own.set(own);
        Ok(())
    }

    /// Hands something over to those who ask; what there is no room for comes back.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Job> {
        use mpsc::error::TrySendError::{Closed, Full};
        self.queue.try_send(job).map_err(|error| match error {
            Full(job) | Closed(job) => job,
        })
    }

    pub(crate) fn take_jobs(&self) -> Option<mpsc::Receiver<Job>> {
        self.jobs.lock().take()
    }

    /// Counts for one more thread.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.tallies.lock().push(Arc::clone(&tally));
        tally
    }

    pub(crate) fn tallies(&self) -> Vec<Arc<Tally>> {
        self.tallies.lock().clone()
    }

    /// All upstreams, each once.
    pub(crate) fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let mut seen = HashSet::new();
        let all = self.rules.upstreams().into_iter().map(|(_, upstream)| upstream);
        all.filter(|upstream| seen.insert(Arc::as_ptr(upstream))).collect()
    }
}

/// All addresses under which we can be reached: those that we listen on, and for all interfaces at once, theirs.
fn own_addresses(listen: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut own = listen.to_vec();
    for address in listen.iter().filter(|address| address.ip().is_unspecified()) {
        own.extend(interfaces::addresses(address.ip()).into_iter().map(|ip| SocketAddr::new(ip, address.port())));
    }
    own
}

/// Reads an upstream's message as the answer to a question of its own, and answers with it in all ways that there are:
/// for fuzzing. Ends with a panic where an answer is none.
#[doc(hidden)]
pub fn fuzz_answer(raw: &[u8]) {
    probe::answers(raw);
}
