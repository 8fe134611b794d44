//! How much a record holds, and which addresses: what a registry refuses beyond, and what sources trim before.

use std::net::IpAddr;

/// Most addresses of an instance or service.
pub const MAX_ADDRESSES: usize = 16;
/// Most ports of an instance or service; Kubernetes allows as many in a slice.
pub const MAX_PORTS: usize = 100;
/// Longest name of a port: in SRV names an underscore stands before it, and a label has at most 63 octets (RFC 1035
/// §2.3.4).
pub const MAX_PORT_NAME: usize = 62;
/// Longest TTL in seconds: a day.
pub const MAX_TTL: u32 = 86_400;

/// Why nobody else can reach something at an address; none where they can.
pub fn address_fault(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("is the unspecified address, which nobody can connect to"),
        _ if address.is_multicast() => Some("is a multicast address; give the endpoint's own"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("is an IPv4 address mapped into IPv6; write it as IPv4")
        }
        _ => None,
    }
}
