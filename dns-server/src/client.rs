//! What counts as one client, where each has its share.

use std::net::{IpAddr, Ipv6Addr};

/// The address under which a client is counted. Whoever has one global IPv6 address has a network of 2^64 of them, so the
/// network counts. All others count for themselves: a cluster gives a node's pods addresses of one such network, mostly
/// unique local ones (fc00::/7).
pub(crate) fn counted(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        // Global unicast (RFC 4291 §2.4, and what IANA has given out of it).
        IpAddr::V6(v6) if v6.segments()[0] & 0xe000 == 0x2000 => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_clients_each_and_networks_of_the_internet_one() {
        for (client, as_what) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("fd00:1:2:3::4", "fd00:1:2:3::4"),
            ("fe80::1", "fe80::1"),
            ("::1", "::1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(counted(client.parse().unwrap()), as_what.parse::<IpAddr>().unwrap(), "{client}");
        }
    }
}
