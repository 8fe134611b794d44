//! This machine's addresses.

use std::net::IpAddr;

/// Whom nobody else can reach this machine by: loopback, and addresses that mean something on one link only.
fn is_for_us_alone(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

/// The addresses of all interfaces, of the same family as this one.
pub(crate) fn addresses(family: IpAddr) -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| interface.address).filter_map(|address| {
        match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        }
    });
    addresses.filter(|address| address.is_ipv4() == family.is_ipv4()).collect()
}

/// Those by which others can reach it.
pub(crate) fn reachable(family: IpAddr) -> impl Iterator<Item = IpAddr> {
    addresses(family).into_iter().filter(|address| !is_for_us_alone(*address))
}
