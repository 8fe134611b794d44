//! A TCP proxy that can be cut, frozen and slowed: the network between two parts, under the test's control.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Passes on what it reads, at most 64 KiB at a time, after so long.
    Slow(Duration),
    Cut,
    Frozen,
}

impl State {
    fn passes(&self) -> bool {
        matches!(self, State::Open | State::Slow(_))
    }
}

/// Listens on loopback and passes connections on to a target, as long as it is not told otherwise.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    received: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of a target.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state = watch::Sender::new(State::Open);
        let received = Arc::new(AtomicU64::new(0));
        let accepting = tokio::spawn(accept(listener, target, state.subscribe(), Arc::clone(&received)));
        Self { address, state, received, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as an HTTP URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Drops the connections that there are, and new ones at once.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Keeps the connections and takes new ones, but moves no byte: a host that is there and silent.
    pub fn freeze(&self) {
        self.state.send_replace(State::Frozen);
    }

    /// Holds up everything, in both directions, for so long.
    pub fn slow(&self, delay: Duration) {
        self.state.send_replace(State::Slow(delay));
    }

    /// How many bytes the target has sent so far, over all connections.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Passes everything on again, also what has waited since [`Proxy::freeze`].
    pub fn heal(&self) {
        self.state.send_replace(State::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>, received: Arc<AtomicU64>) {
    // Connections end with the set, and the set with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                if *state.borrow() != State::Cut {
                    connections.spawn(carry(stream, target, state.clone(), Arc::clone(&received)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(stream: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>, received: Arc<AtomicU64>) {
    let mut cut = state.clone();
    let carried = async {
        if state.wait_for(State::passes).await.is_err() {
            return;
        }
        let Ok(onward) = TcpStream::connect(target).await else { return };
        for stream in [&stream, &onward] {
            let _ = stream.set_nodelay(true);
        }
        let (here, there) = (stream.into_split(), onward.into_split());
        let mut back = state.clone();
        let sent = AtomicU64::new(0);
        tokio::join!(pump(here.0, there.1, &mut state, &sent), pump(there.0, here.1, &mut back, &received));
    };
    tokio::select! {
        () = carried => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &mut watch::Receiver<State>, passed: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        passed.fetch_add(count as u64, Ordering::Relaxed);
        let delay = if let State::Slow(delay) = *state.borrow() { delay } else { Duration::ZERO };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // What was read before the network froze does not get through any more, either.
        if state.wait_for(State::passes).await.is_err() {
            return;
        }
        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
