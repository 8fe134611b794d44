//! One question in a datagram: from a port of its own, which the system chooses at random, with a random id; only what
//! comes from the server asked, with that id and that question, is its answer (RFC 5452 §9).

use crate::forward::entry::{Entry, Unfit};
use crate::forward::upstream::AskError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

/// Larger than what we say that we take, for servers that don't listen.
const LARGEST: usize = 4096;

/// Asks until there is an answer; the caller sets the time limit.
pub(super) async fn exchange(
    server: SocketAddr,
    mut query: Vec<u8>,
    read: impl Fn(&[u8]) -> Result<Entry, Unfit>,
) -> Result<Result<Entry, Unfit>, AskError> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Nobody else's datagrams reach a connected socket, and it hears that nobody listens.
    socket.connect(server).await?;
    let id: [u8; 2] = rand::random();
    query[..2].copy_from_slice(&id);
    socket.send(&query).await?;
    let mut packet = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut packet).await?;
        let Some(message) = packet.get(..length).filter(|message| message.starts_with(&id)) else {
            continue;
        };
        match read(message) {
            Err(Unfit::Foreign) => {}
            answer => return Ok(answer),
        }
    }
}
