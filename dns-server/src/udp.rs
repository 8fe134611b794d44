//! Queries in datagrams: one thread with one socket takes one at a time, and allocates nothing on the way.
//!
//! An answer must come from the address that the query went to, or the client does not take it (RFC 2181 §4.1). A socket
//! bound to one address does so by itself. One bound to all addresses is told each query's destination by the kernel,
//! and names it as the source of the answer.

use crate::answer::{Answerer, Transport, Verdict};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::querylog::QueryLog;
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
    pub(crate) socket: UdpSocket,
    pub(crate) address: SocketAddr,
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port())))
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
        log: Option<Arc<QueryLog>>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let counters = metrics.counters(Transport::Udp, bound.address.ip());
        Self { bound, answerer: Answerer::new(index, counters).logging(log), metrics: metrics.clone(), stop }
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
        if self.answerer.answer_to(&packet[..length], Transport::Udp, client, out) == Verdict::Send
            && self.bound.socket.send_to(out, client).is_err()
        {
            self.metrics.socket_error();
        }
        Ok(())
    }

    fn step_wildcard(&mut self, packet: &mut [u8], out: &mut Vec<u8>, control: &mut [u8]) -> io::Result<()> {
        let socket = self.bound.socket.as_raw_fd();
        let mut slices = [IoSliceMut::new(packet)];
        let received = recvmsg::<SockaddrStorage>(socket, &mut slices, Some(control), MsgFlags::empty())?;
        let (length, client) = (received.bytes, received.address);
        let mut source = None;
        for message in received.cmsgs().into_iter().flatten() {
            match message {
                ControlMessageOwned::Ipv4PacketInfo(_) | ControlMessageOwned::Ipv6PacketInfo(_) => {
                    source = Some(message);
                }
                _ => {}
            }
        }
        let Some((client, from)) = client.and_then(|client| Some((client, socket_address(&client)?))) else {
            return Ok(());
        };
        let packet = packet.get(..length).unwrap_or_default();
        if self.answerer.answer_to(packet, Transport::Udp, from, out) == Verdict::Drop {
            return Ok(());
        }
        let slices = [IoSlice::new(out)];
        let sent = match source {
            Some(ControlMessageOwned::Ipv4PacketInfo(mut info)) => {
                // The address it was sent to (a broadcast address can't be answered from: `ipi_spec_dst` is the local
                // one); the way back is the routing table's to choose.
                info.ipi_ifindex = 0;
                sendmsg(socket, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::empty(), Some(&client))
            }
            Some(ControlMessageOwned::Ipv6PacketInfo(mut info)) => {
                // Link-local addresses mean something on their own link only.
                if info.ipi6_addr.s6_addr[0] != 0xfe {
                    info.ipi6_ifindex = 0;
                }
                sendmsg(socket, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], MsgFlags::empty(), Some(&client))
            }
            _ => sendmsg(socket, &slices, &[], MsgFlags::empty(), Some(&client)),
        };
        if sent.is_err() {
            self.metrics.socket_error();
        }
        Ok(())
    }
}
