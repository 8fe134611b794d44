//! The sockets that are listened on.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tracing::warn;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listening socket can't be had.
#[derive(Debug, thiserror::Error)]
#[error("can't listen for HTTP on {address}; is another process using it? Choose another with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    #[source]
    source: io::Error,
}

/// Binds listeners to the addresses that `flag` gave, within a runtime.
///
/// `[::]` is all of IPv6, and where it stands alone, of IPv4, too, as the system has it; beside `0.0.0.0` it is IPv6 alone,
/// and left out where the kernel has none: one list is for all kinds of machines.
pub fn bind(addresses: &[SocketAddr], flag: &'static str) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let beside = beside_ipv4(address, addresses);
        match listen(address, beside) {
            Ok(listener) => listeners.push(listener),
            Err(error) if beside && has_no_ipv6(&error) => {
                warn!(%address, flag, %error, "this machine has no IPv6; serving without it");
            }
            Err(source) => return Err(BindError { address, flag, source }),
        }
    }
    Ok(listeners)
}

/// Whether this is all of IPv6, and all of IPv4 is listened on as well.
fn beside_ipv4(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.is_ipv6()
        && address.ip().is_unspecified()
        && all.iter().any(|other| other.is_ipv4() && other.ip().is_unspecified())
}

/// Whether that is why binding failed: the kernel has no IPv6, or it is switched off.
fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

fn listen(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the last connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_on_one_port() {
        let free = bind(&["0.0.0.0:0".parse().unwrap()], "--ops-listen").unwrap();
        let port = free[0].local_addr().unwrap().port();
        drop(free);
        let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|text| text.parse().unwrap());
        let listeners = bind(&both, "--ops-listen").unwrap();
        // On a machine without IPv6 it is one.
        let addresses: Vec<SocketAddr> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert!(addresses == both || addresses == both[..1], "{addresses:?}");
        let taken = bind(&both[..1], "--ops-listen").unwrap_err();
        assert!(taken.to_string().contains("--ops-listen"));
    }

    #[test]
    fn only_ipv6_beside_ipv4_may_be_missing() {
        let all = ["0.0.0.0:1", "[::]:1", "[::1]:1", "127.0.0.1:1"].map(|text| text.parse().unwrap());
        assert_eq!(all.map(|address| beside_ipv4(address, &all)), [false, true, false, false]);
        assert!(!beside_ipv4(all[1], &all[1..]));
        assert!(has_no_ipv6(&io::Error::from_raw_os_error(97)) && !has_no_ipv6(&io::Error::from_raw_os_error(98)));
    }
}
