//! How many questions may wait for upstreams at a time, in all and for one client: so that one client's flood is its own
//! affair, and all of them together take a bounded amount of memory.

use crate::client::counted;
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::sync::Arc;

/// Who waits.
#[derive(Debug)]
pub(crate) struct Gate {
    total: usize,
    of_client: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    clients: HashMap<IpAddr, usize, ahash::RandomState>,
}

/// There is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Full {
    /// For anybody.
    Total,
    /// For this client.
    Client,
}

impl Gate {
    pub(crate) fn new(total: usize, of_client: usize) -> Arc<Self> {
        Arc::new(Self { total, of_client, held: Mutex::default() })
    }

    /// Takes a place.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Slot, Full> {
        let client = counted(client);
        let mut held = self.held.lock();
        let of_client = held.clients.get(&client).copied().unwrap_or_default();
        if held.total >= self.total {
            return Err(Full::Total);
        }
        if of_client >= self.of_client {
            return Err(Full::Client);
        }
        held.total += 1;
        held.clients.insert(client, of_client + 1);
        Ok(Slot { gate: Arc::clone(self), client })
    }

    pub(crate) fn waiting(&self) -> usize {
        self.held.lock().total
    }
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    gate: Arc<Gate>,
    client: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.gate.held.lock();
        held.total -= 1;
        if let Some(of_client) = held.clients.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                held.clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let gate = Gate::new(3, 2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = gate.enter(one).unwrap();
        let _second = gate.enter(one).unwrap();
        assert_eq!(gate.enter(one).unwrap_err(), Full::Client);
        let third = gate.enter(other).unwrap();
        assert_eq!(gate.enter(other).unwrap_err(), Full::Total);
        drop(third);
        // Pods of one node, with addresses of one network.
        let _pod = gate.enter("fd00::1".parse().unwrap()).unwrap();
        drop(first);
        assert!(gate.enter(one).is_ok());
        assert_eq!(gate.waiting(), 2);
    }
}
