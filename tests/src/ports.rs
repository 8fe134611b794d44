//! Ports for servers that are stopped and must find their port free when they start again.
//!
//! The kernel gives ports from 32768 on to whoever asks for none in particular, every socket that only sends among them; one
//! of those may hold a server's port at the very moment in which it starts again. So these lie below, and no two of a process
//! are the same.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_240;
const COUNT: u32 = 20_000;

/// An address on loopback whose port is free for TCP and UDP.
pub fn free_address() -> SocketAddr {
    // Processes begin at different places, so that they seldom meet.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).expect("below 65536")));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} on is free");
}
