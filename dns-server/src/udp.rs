//! Queries in datagrams: one thread with one socket takes one at a time, and allocates nothing on the way.
//!
//! An answer must come from the address that the query went to, or the client does not take it (RFC 2181 §4.1). A socket
//! bound to one address does so by itself. One bound to all addresses is told each query's destination by the kernel,
//! and names it as the source of the answer.

use crate::answer::{Answerer, Transport, Verdict};
use crate::forward::engine::Back;
use crate::forward::lane::Lane;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::querylog::QueryLog;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::Socket;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a thread looks whether it should end.
pub(crate) const WAKE: Duration = Duration::from_millis(200);
/// Queries are small; what is longer is cut and then malformed. Four times what EDNS clients can use.
const LARGEST_QUERY: usize = 4096;
/// How long to wait after an error of the socket, so that one that stays does not take a whole core.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// A socket, and the address that it is bound to.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) address: SocketAddr,
}

/// Makes the kernel tell with each datagram which of our addresses it was sent to.
pub(crate) fn tell_destination(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

/// Which of our addresses a query went to, and so its answer comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The one that the socket is bound to.
    Bound,
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

/// The way back to a client, for an answer that comes later.
#[derive(Debug)]
pub(crate) struct Return {
    socket: Arc<UdpSocket>,
    client: SockaddrStorage,
    source: Source,
}

impl Return {
    /// Sends an answer. It is dropped where it would have to wait, as datagrams are.
    pub(crate) fn send(&self, answer: &[u8]) -> io::Result<()> {
        send(&self.socket, &self.client, self.source, answer, MsgFlags::MSG_DONTWAIT)
    }
}

fn send(
    socket: &UdpSocket,
    client: &SockaddrStorage,
    source: Source,
    answer: &[u8],
    flags: MsgFlags,
) -> io::Result<()> {
    let (socket, slices) = (socket.as_raw_fd(), [IoSlice::new(answer)]);
    match source {
        Source::V4(mut info) => {
            // The address it was sent to (a broadcast address can't be answered from: `ipi_spec_dst` is the local
            // one); the way back is the routing table's to choose.
            info.ipi_ifindex = 0;
            sendmsg(socket, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(client))?;
        }
        Source::V6(mut info) => {
            // Link-local addresses mean something on their own link only.
            if info.ipi6_addr.s6_addr[0] != 0xfe {
                info.ipi6_ifindex = 0;
            }
            sendmsg(socket, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(client))?;
        }
        Source::Bound => {
            sendmsg(socket, &slices, &[], flags, Some(client))?;
        }
    }
    Ok(())
}

/// The address of a client.
fn address_of(client: &SockaddrStorage) -> Option<SocketAddr> {
    match (client.as_sockaddr_in(), client.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::from((v4.ip(), v4.port()))),
        (_, Some(v6)) => Some(SocketAddr::from((v6.ip(), v6.port()))),
        _ => None,
    }
}

/// One thread's work.
pub(crate) struct Worker {
    bound: Bound,
    answerer: Answerer,
    metrics: Metrics,
    stop: Arc<AtomicBool>,
}

impl Worker {
    pub(crate) fn new(
        bound: Bound,
        index: Arc<Index>,
        metrics: &Metrics,
        (lane, log): (Option<Lane>, Option<Arc<QueryLog>>),
        stop: Arc<AtomicBool>,
    ) -> Self {
        let counters = metrics.counters(Transport::Udp, bound.address.ip());
        let answerer = Answerer::new(index, counters).with_lane(lane).logging(log);
        Self { bound, answerer, metrics: metrics.clone(), stop }
    }

    /// Answers until it is told to stop, and then what has arrived already.
    pub(crate) fn run(mut self) {
        let mut packet = vec![0; LARGEST_QUERY];
        let mut out = Vec::with_capacity(LARGEST_QUERY);
        let wildcard = self.bound.address.ip().is_unspecified();
        let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
        let mut draining = false;
        loop {
            if !draining && self.stop.load(Ordering::Relaxed) {
                draining = true;
                if self.bound.socket.set_nonblocking(true).is_err() {
                    return;
                }
            }
            let step = if wildcard {
                self.step_wildcard(&mut packet, &mut out, &mut control)
            } else {
                self.step(&mut packet, &mut out)
            };
            match step {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if draining {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.metrics.socket_error();
                    tracing::debug!(address = %self.bound.address, %error, "receiving failed");
                    std::thread::sleep(ERROR_PAUSE);
                }
            }
        }
    }

    /// Takes one query and answers it. Errors are those of receiving: a client that can't be reached is its own affair.
    fn step(&mut self, packet: &mut [u8], out: &mut Vec<u8>) -> io::Result<()> {
        let (length, client) = self.bound.socket.recv_from(packet)?;
        if client.port() == 0 {
            return Ok(());
        }
        match self.answerer.answer_to(&packet[..length], Transport::Udp, client, out) {
            Verdict::Send => {}
            Verdict::Drop => return Ok(()),
            Verdict::Later => {
                let back =
                    Return { socket: Arc::clone(&self.bound.socket), client: client.into(), source: Source::Bound };
                if self.answerer.hand_over(&packet[..length], Transport::Udp, client, Back::Udp(back), out) {
                    return Ok(());
                }
            }
        }
        if self.bound.socket.send_to(out, client).is_err() {
            self.metrics.socket_error();
        }
        Ok(())
    }

    fn step_wildcard(&mut self, packet: &mut [u8], out: &mut Vec<u8>, control: &mut [u8]) -> io::Result<()> {
        let socket = self.bound.socket.as_raw_fd();
        let mut slices = [IoSliceMut::new(packet)];
        let received = recvmsg::<SockaddrStorage>(socket, &mut slices, Some(control), MsgFlags::empty())?;
        let (length, client) = (received.bytes, received.address);
        let mut source = Source::Bound;
        for message in received.cmsgs().into_iter().flatten() {
            match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => source = Source::V4(info),
                ControlMessageOwned::Ipv6PacketInfo(info) => source = Source::V6(info),
                _ => {}
            }
        }
        let Some(client) = client else { return Ok(()) };
        let Some(address) = address_of(&client).filter(|address| address.port() != 0) else { return Ok(()) };
        let packet = packet.get(..length).unwrap_or_default();
        match self.answerer.answer_to(packet, Transport::Udp, address, out) {
            Verdict::Send => {}
            Verdict::Drop => return Ok(()),
            Verdict::Later => {
                let back = Return { socket: Arc::clone(&self.bound.socket), client, source };
                if self.answerer.hand_over(packet, Transport::Udp, address, Back::Udp(back), out) {
                    return Ok(());
                }
            }
        }
        if send(&self.bound.socket, &client, source, out, MsgFlags::empty()).is_err() {
            self.metrics.socket_error();
        }
        Ok(())
    }
}
