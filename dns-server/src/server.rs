//! The server: sockets bound, threads and tasks that answer on them, and an orderly end.
//!
//! UDP is served by threads of its own, each with its own socket on the same port (SO_REUSEPORT: the kernel spreads
//! clients over them), TCP by tasks on the runtime that calls [`Server::run`].

use crate::answer::Transport;
use crate::forward::engine::Engine;
use crate::forward::lane::Lane;
use crate::forward::{Forward, ForwardError};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::querylog::QueryLog;
use crate::{tcp, udp};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Where to serve, and with how much.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Addresses for UDP. A port of 0 takes a free one; TCP on the same address with port 0 takes the same.
    pub udp: Vec<SocketAddr>,
    /// Addresses for TCP.
    pub tcp: Vec<SocketAddr>,
    /// Sockets, and threads, for each UDP address. 0: as many as there are cores.
    pub workers: usize,
    /// Limits for TCP.
    pub limits: Limits,
    /// How long connections may take to end once a shutdown has begun.
    pub drain: Duration,
    /// Where queries are logged, if they are.
    pub query_log: Option<Arc<QueryLog>>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            workers: 0,
            limits: Limits::default(),
            drain: Duration::from_secs(5),
            query_log: None,
        }
    }
}

impl Listen {
    /// UDP and TCP on the same addresses.
    pub fn on(addresses: &[SocketAddr]) -> Self {
        Self { udp: addresses.to_vec(), tcp: addresses.to_vec(), ..Self::default() }
    }
}

/// What TCP clients may take (RFC 7766 §6.2).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_client: usize,
    /// How long a connection may be silent between queries.
    pub idle: Duration,
    /// How long a query may take from its first octet to its last, and an answer to be taken.
    pub transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1000,
            connections_per_client: 50,
            idle: Duration::from_secs(10),
            transfer: Duration::from_secs(5),
        }
    }
}

/// An address that could not be bound, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("can't serve DNS on {protocol} {address}: {reason}")]
pub struct BindError {
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// Which address.
    pub address: SocketAddr,
    /// Why not, and the way out.
    pub reason: String,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    fn new(protocol: &'static str, address: SocketAddr, source: io::Error) -> Self {
        let port = address.port();
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => format!(
                "the port is taken; `ss -lnp 'sport = :{port}'` shows by whom. Stop that program (systemd-resolved and \
                 dnsmasq hold port 53 on many machines), or serve on another address or port"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "not permitted. Ports below 1024 need the capability CAP_NET_BIND_SERVICE, or the sysctl \
                 net.ipv4.ip_unprivileged_port_start={port} or lower"
            ),
            io::ErrorKind::AddrNotAvailable => format!(
                "no interface has this address; `ip address` lists those that exist. {} serves on all of them",
                if address.is_ipv6() { "`[::]`" } else { "`0.0.0.0`" }
            ),
            _ => source.to_string(),
        };
        Self { protocol, address, reason, source }
    }

    /// Whether all of IPv6 was meant, and the kernel has none, or has it switched off.
    fn is_for_want_of_ipv6(&self) -> bool {
        let errno = self.source.raw_os_error().map(Errno::from_raw);
        self.address.ip() == Ipv6Addr::UNSPECIFIED && matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
    }
}

/// A server with its sockets bound.
#[derive(Debug)]
pub struct Server {
    index: Arc<Index>,
    forward: Option<Arc<Forward>>,
    metrics: Metrics,
    listen: Listen,
    udp: Vec<udp::Bound>,
    tcp: Vec<std::net::TcpListener>,
    udp_addresses: Vec<SocketAddr>,
    tcp_addresses: Vec<SocketAddr>,
    shutdown: CancellationToken,
}

/// How often a free port is looked for that both UDP and TCP can have.
const PORT_ATTEMPTS: usize = 32;

impl Server {
    /// Binds all addresses. The server answers from `index` once it runs, until `shutdown` is cancelled.
    pub fn bind(index: Arc<Index>, listen: Listen, shutdown: CancellationToken) -> Result<Self, BindError> {
        let workers = match listen.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let mut server = Self {
            metrics: Metrics::new(index.clone(), listen.query_log.clone()),
            index,
            forward: None,
            udp: Vec::new(),
            tcp: Vec::new(),
            udp_addresses: Vec::new(),
            tcp_addresses: Vec::new(),
            shutdown,
            listen,
        };
        let mut streams = server.listen.tcp.clone();
        for &address in &server.listen.udp {
            let shared = (address.port() == 0).then(|| streams.iter().position(|tcp| *tcp == address)).flatten();
            let bound = match shared {
                Some(_) => bind_pair(address, workers),
                None => bind_udp(address, workers).map(|sockets| (sockets, None)),
            };
            let Some((sockets, stream)) = unless_without_ipv6(bound, &server.listen.udp)? else { continue };
            server.udp_addresses.extend(sockets.first().map(|bound| bound.address));
            server.udp.extend(sockets);
            if let Some(place) = shared {
                streams.remove(place);
            }
            server.tcp.extend(stream);
        }
        for address in streams {
            server.tcp.extend(unless_without_ipv6(bind_tcp(address), &server.listen.tcp)?);
        }
        for listener in &server.tcp {
            server.tcp_addresses.extend(listener.local_addr());
        }
        Ok(server)
    }

    /// Has it ask others for what is not ours. An upstream that is this server itself is refused, and so is a rule for a
    /// zone of this server.
    pub fn forwarding(mut self, forward: Arc<Forward>) -> Result<Self, ForwardError> {
        let mut listen = self.udp_addresses.clone();
        listen.extend(&self.tcp_addresses);
        forward.check_zones(&self.index.zones)?;
        forward.set_own(&listen)?;
        self.forward = Some(forward);
        Ok(self)
    }

    /// The UDP addresses, with the ports that were chosen.
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp_addresses
    }

    /// The TCP addresses, with the ports that were chosen.
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp_addresses
    }

    /// What the server counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Serves until the shutdown token is cancelled. What had arrived by then is still answered; connections get the time
    /// that [`Listen::drain`] gives them.
    pub async fn run(self) -> io::Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        // Set on every way out, or threads would outlive a server whose future was dropped.
        let _stop_threads = StopOnDrop(stop.clone());
        let mut threads = Vec::with_capacity(self.udp.len());
        let lane = |forward: &Arc<Forward>| Lane::new(Arc::clone(forward), forward.tally());
        for (number, bound) in self.udp.into_iter().enumerate() {
            let (lane, log) = (self.forward.as_ref().map(lane), self.listen.query_log.clone());
            let worker = udp::Worker::new(bound, self.index.clone(), &self.metrics, (lane, log), stop.clone());
            let thread = std::thread::Builder::new().name(format!("dns-udp-{number}")).spawn(move || worker.run())?;
            threads.push(thread);
        }
        let gate = Arc::new(tcp::Gate::new(self.listen.limits, self.metrics.clone()));
        let mut acceptors = JoinSet::new();
        for listener in self.tcp {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let counters = self.metrics.counters(Transport::Tcp, listener.local_addr()?.ip());
            let service = tcp::Service {
                index: self.index.clone(),
                counters,
                log: self.listen.query_log.clone(),
                forward: self.forward.as_ref().map(|forward| (Arc::clone(forward), forward.tally())),
                gate: gate.clone(),
                shutdown: self.shutdown.clone(),
                drain: self.listen.drain,
            };
            acceptors.spawn(service.accept(listener));
        }
        tracing::info!(udp = ?self.udp_addresses, tcp = ?self.tcp_addresses, "serving DNS");
        let mut writer = LogWriter::start(self.listen.query_log.clone(), &self.index)?;
        let log = self.listen.query_log;
        let engine = self.forward.map(|forward| Engine::new(forward, self.index, self.metrics, log));
        let (shutdown, drain) = (self.shutdown, self.listen.drain);
        let asking = async {
            match engine {
                // Ends early only by a fault, which is the server's, too.
                Some(engine) => engine.run(shutdown, drain).await,
                None => {
                    shutdown.cancelled().await;
                    Ok(())
                }
            }
        };
        let asked = tokio::select! {
            asked = asking => asked,
            () = writer.died() => Err(io::Error::other("the thread of the query log ended with a panic")),
        };
        stop.store(true, Ordering::Relaxed);
        if asked.is_err() {
            acceptors.abort_all();
        }
        while acceptors.join_next().await.is_some() {}
        // The threads look at the flag a few times a second; waiting for them must not hold the runtime up.
        let joined = tokio::task::spawn_blocking(move || {
            let ended = threads.into_iter().all(|thread| thread.join().is_ok());
            // Nobody writes to it any more.
            writer.stop();
            ended
        });
        match joined.await {
            Ok(true) => asked,
            _ => Err(io::Error::other("a DNS worker ended with a panic")),
        }
    }
}

/// The thread that writes the query log, if there is one.
struct LogWriter {
    log: Option<Arc<QueryLog>>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread ends, however it does.
    alive: oneshot::Receiver<()>,
}

impl LogWriter {
    fn start(log: Option<Arc<QueryLog>>, index: &Arc<Index>) -> io::Result<Self> {
        let (mark, alive) = oneshot::channel();
        let mut writer = Self { log: log.clone(), thread: None, alive };
        if let Some(log) = log {
            let index = index.clone();
            let run = move || {
                let _mark: oneshot::Sender<()> = mark;
                log.write(index.config());
            };
            writer.thread = Some(std::thread::Builder::new().name("dns-query-log".to_owned()).spawn(run)?);
        }
        Ok(writer)
    }

    /// Waits for the end of the thread; for ever where there is none.
    async fn died(&mut self) {
        match self.thread {
            Some(_) => drop((&mut self.alive).await),
            None => std::future::pending().await,
        }
    }

    /// Ends the thread, once all that waits is written.
    fn stop(&mut self) {
        if let Some(log) = &self.log {
            log.stop();
        }
        if let Some(thread) = self.thread.take() {
            // A panic of it at this point costs some lines.
            let _ = thread.join();
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.stop();
        }
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Leaves `[::]` out beside `0.0.0.0` where the kernel has no IPv6: one list of addresses is for all kinds of machines.
fn unless_without_ipv6<T>(bound: Result<T, BindError>, all: &[SocketAddr]) -> Result<Option<T>, BindError> {
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if error.is_for_want_of_ipv6() && all.iter().any(|other| other.ip() == Ipv4Addr::UNSPECIFIED) => {
            tracing::warn!(address = %error.address, protocol = error.protocol, "this machine has no IPv6; serving without it");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// UDP and TCP on one port that is free for both.
fn bind_pair(
    address: SocketAddr,
    workers: usize,
) -> Result<(Vec<udp::Bound>, Option<std::net::TcpListener>), BindError> {
    let mut attempt = 0;
    loop {
        let sockets = bind_udp(address, workers)?;
        let chosen = sockets.first().map_or(address, |bound| bound.address);
        match bind_tcp(chosen) {
            Ok(listener) => return Ok((sockets, Some(listener))),
            // Someone has the port for TCP only: look for another.
            Err(error) if error.source.kind() == io::ErrorKind::AddrInUse && attempt < PORT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

fn bind_udp(address: SocketAddr, workers: usize) -> Result<Vec<udp::Bound>, BindError> {
    let error = |address| move |source| BindError::new("udp", address, source);
    // With SO_REUSEPORT a second server of the same user would get the port as well, and half of the queries. So the
    // port is taken once without it, which fails if anybody has it.
    let exclusive = udp_socket(address, false).map_err(error(address))?;
    let chosen = exclusive.local_addr().map_err(error(address))?.as_socket().unwrap_or(address);
    if workers == 1 {
        return Ok(vec![udp::Bound { socket: Arc::new(exclusive.into()), address: chosen }]);
    }
    drop(exclusive);
    (0..workers)
        .map(|_| udp_socket(chosen, true).map(|socket| udp::Bound { socket: Arc::new(socket.into()), address: chosen }))
        .collect::<io::Result<_>>()
        .map_err(error(chosen))
}

/// Bursts wait here while a thread is away; the system may give less.
const UDP_BUFFER: usize = 4 << 20;

fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` is IPv6 alone, so that it can stand beside `0.0.0.0`.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    // Only a larger buffer than usual is asked for: without it the server works, too.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    if address.ip().is_unspecified() {
        udp::tell_destination(&socket, address)?;
    }
    socket.set_read_timeout(Some(udp::WAKE))?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart must not wait for the last connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(1024)?;
        Ok(socket.into())
    };
    bind().map_err(|source| BindError::new("tcp", address, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_of_ipv6_beside_all_of_ipv4_may_be_missing() {
        let both = ["0.0.0.0:53", "[::]:53"].map(|text| text.parse().unwrap());
        let failed = |address: &str, errno: Errno| {
            let error = BindError::new("udp", address.parse().unwrap(), io::Error::from(errno));
            Err::<(), _>(error)
        };
        for errno in [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
            assert!(unless_without_ipv6(failed("[::]:53", errno), &both).unwrap().is_none());
        }
        assert!(unless_without_ipv6(Ok(()), &both).unwrap().is_some());
        assert!(unless_without_ipv6(failed("[::]:53", Errno::EADDRINUSE), &both).is_err());
        assert!(unless_without_ipv6(failed("[::]:53", Errno::EAFNOSUPPORT), &both[1..]).is_err());
        assert!(unless_without_ipv6(failed("[::1]:53", Errno::EADDRNOTAVAIL), &both).is_err());
    }
}
