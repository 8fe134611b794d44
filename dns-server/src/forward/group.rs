//! Several upstreams for the same names, and the order in which they are asked.

use crate::forward::config::{Policy, Target};
use crate::forward::resolv;
use crate::forward::upstream::{Shared, Upstream};
use parking_lot::RwLock;
use rand::RngExt;
use rand::seq::SliceRandom;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Name servers taken from one file at most: nobody lists more, and what is no such file may list anything.
const MOST_OF_FILE: usize = 15;
/// With the policy `fastest`, one question in so many goes to another upstream.
const EXPLORE: u32 = 20;

/// The upstreams of a rule.
#[derive(Debug)]
pub(crate) struct Group {
    /// Which of the rules' groups it is.
    number: usize,
    targets: Vec<Target>,
    policy: Policy,
    shared: Arc<Shared>,
    members: RwLock<Arc<[Arc<Upstream>]>>,
    next: AtomicUsize,
}

/// A file that names upstreams can't be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFileError {
    /// It can't be read.
    #[error("can't read the upstreams of `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It names none.
    #[error("`{}` names no name server that can be used: a line `nameserver 10.0.0.1` is missing", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

/// The targets of a file.
fn targets_of(path: &Path) -> Result<Vec<Target>, UpstreamFileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| UpstreamFileError::Read { path: path.to_owned(), source })?;
    let targets: Vec<_> = resolv::name_servers(&text).take(MOST_OF_FILE).map(Target::Udp).collect();
    if targets.is_empty() { Err(UpstreamFileError::Empty { path: path.to_owned() }) } else { Ok(targets) }
}

impl Group {
    pub(crate) fn open(
        number: usize,
        targets: &[Target],
        policy: Policy,
        shared: &Arc<Shared>,
    ) -> Result<Self, UpstreamFileError> {
        let group = Self {
            number,
            targets: targets.to_vec(),
            policy,
            shared: Arc::clone(shared),
            members: RwLock::new(Arc::from([])),
            next: AtomicUsize::new(0),
        };
        group.reload(&[])?;
        Ok(group)
    }

    /// Those that there are now.
    pub(crate) fn members(&self) -> Arc<[Arc<Upstream>]> {
        Arc::clone(&self.members.read())
    }

    /// The files that it depends on.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.targets.iter().filter_map(|target| match target {
            Target::File(path) => Some(path.as_path()),
            _ => None,
        })
    }

    /// Reads its files again. Upstreams that stay keep their state; addresses of our own are left out. What is new is
    /// returned.
    pub(crate) fn reload(&self, own: &[SocketAddr]) -> Result<Vec<Arc<Upstream>>, UpstreamFileError> {
        let mut wanted: Vec<Target> = Vec::new();
        for target in &self.targets {
            match target {
                Target::File(path) => {
                    for target in targets_of(path)? {
                        if matches!(&target, Target::Udp(address) if own.contains(address)) {
                            tracing::error!(
                                upstream = %target,
                                file = %path.display(),
                                "this file names this server itself as an upstream, which is left out; name the servers \
                                 to ask by --forward"
                            );
                        } else {
                            wanted.push(target);
                        }
                    }
                }
                other => wanted.push(other.clone()),
            }
        }
        let mut seen = std::collections::HashSet::new();
        wanted.retain(|target| seen.insert(target.clone()));
        let (mut members, mut come) = (Vec::new(), Vec::new());
        for (upstream, new) in wanted.iter().filter_map(|target| Upstream::of(target, &self.shared)) {
            if new {
                come.push(Arc::clone(&upstream));
            }
            members.push(upstream);
        }
        // Those with an address find the addresses of the others.
        let (with_address, named): (Vec<_>, Vec<_>) =
            members.iter().cloned().partition(|upstream: &Arc<Upstream>| upstream.address().is_some());
        for upstream in named {
            upstream.find_by(self.number, with_address.clone());
        }
        // The old ones are let go only now, so that what stays is the same upstream.
        *self.members.write() = members.into();
        Ok(come)
    }

    /// All of them in the order in which to ask: those that are up as the policy has it; then those that are down, since
    /// to ask them beats to ask nobody. Whoever leads back to us is left out.
    pub(crate) fn order(&self) -> Vec<Arc<Upstream>> {
        let members = self.members();
        let (mut order, mut down): (Vec<_>, Vec<_>) =
            members.iter().filter(|upstream| !upstream.is_looping()).cloned().partition(|upstream| upstream.is_up());
        let mut random = rand::rng();
        match self.policy {
            Policy::Random => order.shuffle(&mut random),
            Policy::RoundRobin if !order.is_empty() => {
                let first = self.next.fetch_add(1, Relaxed) % order.len();
                order.rotate_left(first);
            }
            Policy::RoundRobin | Policy::Sequential => {}
            Policy::Fastest => {
                order.sort_by_key(|upstream| upstream.latency());
                if order.len() > 1 && random.random_ratio(1, EXPLORE) {
                    let other = random.random_range(1..order.len());
                    order.swap(0, other);
                }
            }
        }
        down.shuffle(&mut random);
        order.append(&mut down);
        order
    }
}
