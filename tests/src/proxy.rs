//! A TCP proxy that can be cut and frozen: the network between two parts, under the test's control.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Cut,
    Frozen,
}

/// Listens on loopback and passes connections on to a target, as long as it is not told otherwise.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of a target.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let state = watch::Sender::new(State::Open);
        let accepting = tokio::spawn(accept(listener, target, state.subscribe()));
        Self { address, state, accepting }
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

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<State>) {
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
                    connections.spawn(carry(stream, target, state.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(stream: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let mut cut = state.clone();
    let carried = async {
        if state.wait_for(|state| *state == State::Open).await.is_err() {
            return;
        }
        let Ok(onward) = TcpStream::connect(target).await else { return };
        for stream in [&stream, &onward] {
            let _ = stream.set_nodelay(true);
        }
        let (here, there) = (stream.into_split(), onward.into_split());
        let mut back = state.clone();
        tokio::join!(pump(here.0, there.1, &mut state), pump(there.0, here.1, &mut back));
    };
    tokio::select! {
        () = carried => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &mut watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        // What was read before the network froze does not get through any more, either.
        if state.wait_for(|state| *state == State::Open).await.is_err() {
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
