//! Who has how many connections.
//!
//! There is room for so many connections in all, and one client address may take a share of it: a v6 network of 64 bits
//! counts as one, and the share is generous, since behind one address there may be a whole network. Until access control
//! has let a request of its through, a connection is *unproven*: anybody can open those. Where a share or the whole is
//! used up, the oldest unproven connection gives way to the new one; where all are proven, the new one is refused. So who
//! merely opens connections takes nobody's place but their own for long.
//!
//! TLS handshakes under way are bounded by address, too, so that slow ones from one don't hold up the others'.

use crate::access::throttle::counted;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Turned {
    /// What became of a connection: `refused` when it came, or `evicted` later.
    what: &'static str,
    /// Which room was used up: that of the `address`, or `all`.
    room: &'static str,
}

/// What is counted of connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    open: Gauge,
    turned: Family<Turned, Counter>,
}

impl ConnectionMetrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("fingerpost_http_connections", "Open HTTP connections", self.open.clone());
        let help = "Connections closed for want of room: refused when they came, or evicted before they were of use";
        registry.register("fingerpost_http_connections_turned_away", help, self.turned.clone());
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) all: usize,
    pub(super) of_address: usize,
    /// TLS handshakes of an address that are under way at once.
    pub(super) handshakes: usize,
}

/// All open connections.
#[derive(Debug)]
pub(super) struct Places {
    room: Room,
    metrics: ConnectionMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: usize,
    /// By age: of which address, and what ends it.
    unproven: BTreeMap<u64, (IpAddr, CancellationToken)>,
    addresses: HashMap<IpAddr, Held>,
}

/// What an address has.
#[derive(Debug)]
struct Held {
    open: usize,
    /// By age.
    unproven: BTreeSet<u64>,
    handshakes: Arc<Semaphore>,
}

/// The place of an open connection.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    number: u64,
    proven: AtomicBool,
    evicted: CancellationToken,
    handshakes: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(room: Room, metrics: ConnectionMetrics) -> Arc<Self> {
        Arc::new(Self { room, metrics, state: Mutex::default() })
    }

    /// A place for a new connection, if need be instead of an older one.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = counted(address);
        let mut state = self.state.lock();
        let held = state.addresses.get(&address);
        if held.is_some_and(|held| held.open >= self.room.of_address) {
            let oldest = held.and_then(|held| held.unproven.first().copied());
            self.make_room(&mut state, "address", oldest)?;
        } else if state.open >= self.room.all {
            let oldest = state.unproven.keys().next().copied();
            self.make_room(&mut state, "all", oldest)?;
        }
        let number = state.next;
        state.next += 1;
        state.open += 1;
        self.metrics.open.inc();
        let evicted = CancellationToken::new();
        state.unproven.insert(number, (address, evicted.clone()));
        let held = state.addresses.entry(address).or_insert_with(|| Held {
            open: 0,
            unproven: BTreeSet::new(),
            handshakes: Arc::new(Semaphore::new(self.room.handshakes)),
        });
        held.open += 1;
        held.unproven.insert(number);
        let handshakes = Arc::clone(&held.handshakes);
        Some(Place { places: Arc::clone(self), address, number, proven: AtomicBool::new(false), evicted, handshakes })
    }

    /// Has the oldest unproven connection give way. It is counted as open until it is closed, but gives way only once.
    fn make_room(&self, state: &mut State, room: &'static str, oldest: Option<u64>) -> Option<()> {
        let evicted = oldest.and_then(|oldest| state.settle(oldest));
        let what = if evicted.is_some() { "evicted" } else { "refused" };
        self.metrics.turned.get_or_create(&Turned { what, room }).inc();
        evicted.map(|evicted| evicted.cancel())
    }
}

impl State {
    /// A connection is unproven no more; with what would have ended it.
    fn settle(&mut self, number: u64) -> Option<CancellationToken> {
        let (address, evicted) = self.unproven.remove(&number)?;
        if let Some(held) = self.addresses.get_mut(&address) {
            held.unproven.remove(&number);
        }
        Some(evicted)
    }
}

impl Place {
    /// It is of use to somebody who may come in, and does not give way any more.
    pub(crate) fn prove(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.places.state.lock().settle(self.number);
        }
    }

    /// Ends where it has to give way to a newer one.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// The TLS handshakes of its address.
    pub(crate) fn handshakes(&self) -> &Semaphore {
        &self.handshakes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        state.settle(self.number);
        state.open -= 1;
        self.places.metrics.open.dec();
        if let Some(held) = state.addresses.get_mut(&self.address) {
            held.open -= 1;
            if held.open == 0 {
                state.addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize, of_address: usize) -> Arc<Places> {
        Places::new(Room { all, of_address, handshakes: 1 }, ConnectionMetrics::default())
    }

    fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
        places.take(address.parse().unwrap())
    }

    fn evicted(all: &[&Place]) -> Vec<bool> {
        all.iter().map(|place| place.evicted.is_cancelled()).collect()
    }

    #[test]
    fn an_address_keeps_to_its_share() {
        let places = places(10, 3);
        let mut held: Vec<Place> = (0..3).map(|_| take(&places, "10.0.0.1").unwrap()).collect();
        held[0].prove();
        held.push(take(&places, "10.0.0.1").unwrap());
        assert_eq!(evicted(&held.iter().collect::<Vec<_>>()), [false, true, false, false], "the oldest unproven one");
        held.remove(1);
        held.iter().for_each(Place::prove);
        assert!(take(&places, "10.0.0.1").is_none(), "nobody gives way any more");
        assert!(take(&places, "10.0.0.2").is_some(), "others have their own");
        held.pop();
        assert!(take(&places, "10.0.0.1").is_some());
        drop(held);
        assert!(places.state.lock().addresses.is_empty() && places.state.lock().unproven.is_empty());
        assert_eq!((places.state.lock().open, places.metrics.open.get()), (0, 0));
    }

    #[test]
    fn a_v6_network_has_one_share() {
        let places = places(10, 1);
        let first = take(&places, "2001:db8::1").unwrap();
        let _second = take(&places, "2001:db8::2:1").unwrap();
        let _other = take(&places, "2001:db8:0:1::1").unwrap();
        assert_eq!(evicted(&[&first]), [true]);
    }

    #[test]
    fn the_oldest_gives_way_where_all_is_full() {
        let places = places(3, 3);
        let held: Vec<Place> = (1..=3).map(|n| take(&places, &format!("10.0.0.{n}")).unwrap()).collect();
        held[0].prove();
        let new = take(&places, "10.0.0.4").unwrap();
        assert_eq!(evicted(&[&held[0], &held[1], &held[2], &new]), [false, true, false, false]);
        held[2].prove();
        new.prove();
        // It has given way already, and is closed soon.
        assert!(take(&places, "10.0.0.5").is_none());
        drop(held);
        assert!(take(&places, "10.0.0.5").is_some());
    }
}
