//! The name servers in a file in the form of `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The addresses of its `nameserver` lines. Lines that can't be read are passed over, as the C library does.
pub(crate) fn name_servers(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        let word = words.next()?;
        if let Ok(address) = word.parse::<IpAddr>() {
            return Some(SocketAddr::new(address, 53));
        }
        // A link-local address with the interface that it means something on.
        let (address, scope) = word.split_once('%')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let scope = scope.parse().ok().or_else(|| nix::net::if_::if_nametoindex(scope).ok())?;
        Some(SocketAddrV6::new(address, 53, 0, scope).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# comment\nsearch a.example\nnameserver 10.0.0.1\n  nameserver\tfd00::1 # here\nnameserver x\n\
                    nameserver\nnameservers 10.0.0.9\nnameserver fe80::1%1\noptions ndots:5\n";
        let found: Vec<_> = name_servers(text).map(|address| address.to_string()).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53", "[fe80::1%1]:53"]);
    }
}
