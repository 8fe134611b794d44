//! Ranges of addresses, and who may ask for names that are not ours.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, as in `10.0.0.0/8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    base: IpAddr,
    length: u8,
}

/// The text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of addresses: write it as in `10.0.0.0/8`, without bits beyond its length")]
pub struct ParseNetworkError(String);

/// An address in the upper bits, so that both versions are compared alike.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl Network {
    const fn v4(a: u8, b: u8, length: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), length }
    }

    const fn v6(first: u16, length: u8) -> Self {
        Self { base: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), length }
    }

    /// Whether an address lies in it. An IPv4 address in its IPv6 form counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.base.is_ipv4() && self.beyond(address) == 0
    }

    /// The bits in which an address differs from the range's.
    fn beyond(&self, address: IpAddr) -> u128 {
        (bits(address) ^ bits(self.base)).checked_shr(128 - u32::from(self.length)).unwrap_or(0)
    }

    /// Who may ask unless others are named: loopback, private networks (RFC 1918, RFC 4193), the space of carriers that
    /// clusters use for pods (RFC 6598), and link-local addresses. Nobody on the Internet at large has one of them.
    pub fn private() -> Vec<Self> {
        vec![
            Self::v4(10, 0, 8),
            Self::v4(127, 0, 8),
            Self::v4(172, 16, 12),
            Self::v4(192, 168, 16),
            Self::v4(100, 64, 10),
            Self::v4(169, 254, 16),
            Self { base: IpAddr::V6(Ipv6Addr::LOCALHOST), length: 128 },
            Self::v6(0xfc00, 7),
            Self::v6(0xfe80, 10),
        ]
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseNetworkError(text.chars().take(64).collect());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), |length| length.parse().map_err(|_| bad()))?;
        let below = bits(base).checked_shl(u32::from(length)).unwrap_or(0);
        if length > most || below != 0 {
            return Err(bad());
        }
        Ok(Self { base, length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(address: &str) -> bool {
        let address = address.parse().unwrap();
        Network::private().iter().any(|network| network.contains(address))
    }

    #[test]
    fn private_networks_and_nobody_else() {
        for inside in
            ["127.0.0.1", "::1", "10.255.0.1", "172.31.0.1", "192.168.9.9", "100.127.0.1", "169.254.20.10", "fd00::1"]
        {
            assert!(allowed(inside), "{inside}");
        }
        for inside in ["fe80::1", "::ffff:10.0.0.1"] {
            assert!(allowed(inside), "{inside}");
        }
        for outside in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "::2", "::ffff:8.8.8.8", "11.0.0.0"] {
            assert!(!allowed(outside), "{outside}");
        }
    }

    #[test]
    fn texts() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "192.0.2.1/32"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        assert_eq!("192.0.2.1".parse::<Network>().unwrap().to_string(), "192.0.2.1/32");
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("8.8.8.8".parse().unwrap()));
        for bad in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "here", "10.0.0.0/x", ""] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
