//! Where checks may be aimed.
//!
//! Whoever may register an instance chooses an address that the registry then connects to. So nobody gets further with
//! it than to what an instance can be: not to the metadata services of clouds, which hand out credentials to whoever
//! asks from this machine, not to link-local neighbours, and not to what listens on this machine's loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    base: IpAddr,
    length: u8,
}

/// The text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of addresses: write it as in `169.254.0.0/16`, without bits beyond its length")]
pub struct ParseCidrError(String);

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseCidrError(text.chars().take(64).collect());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), |length| length.parse().map_err(|_| bad()))?;
        let range = Self { base, length };
        if length > most || range.masked(base) != range.masked_base() {
            return Err(bad());
        }
        Ok(range)
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl Cidr {
    fn masked(&self, address: IpAddr) -> u128 {
        bits(address) & u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0)
    }

    fn masked_base(&self) -> u128 {
        bits(self.base)
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && self.masked(address) == self.masked_base()
    }
}

/// What checks may be aimed at in this process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetRules {
    /// Allowed whatever else is said of them.
    pub allow: Vec<Cidr>,
    /// Whether loopback is allowed: where the API is served on loopback only, whoever calls it is on this machine, too.
    pub loopback: bool,
}

/// The v4 address inside a v6 address that leads there, by way of the system or of a translator.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match segments {
        // Mapped and compatible (RFC 4291 §2.5.5), and translated (RFC 6052 §2.1, RFC 8215).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

impl TargetRules {
    /// Why the address may not be checked, if so.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        if self.allow.iter().any(|range| range.contains(address)) {
            return None;
        }
        match address {
            IpAddr::V4(v4) => self.refusal_v4(v4),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) if self.allow.iter().any(|range| range.contains(v4.into())) => None,
                Some(v4) => self.refusal_v4(v4),
                None => self.refusal_v6(v6),
            },
        }
    }

    fn refusal_v4(&self, v4: Ipv4Addr) -> Option<&'static str> {
        const ALIBABA_METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
        match v4 {
            // All of 0.0.0.0/8 is this host on this network (RFC 791 §3.2), not 0.0.0.0 alone.
            _ if v4.octets()[0] == 0 => Some("an unspecified address"),
            _ if v4.is_loopback() => (!self.loopback).then_some("this registry's own loopback"),
            // With 169.254.169.254, where nearly all clouds have their metadata.
            _ if v4.is_link_local() => Some("link-local"),
            ALIBABA_METADATA => Some("a cloud's metadata service"),
            _ if v4.is_multicast() => Some("a multicast address"),
            _ if v4.is_broadcast() => Some("the broadcast address"),
            _ => None,
        }
    }

    fn refusal_v6(&self, v6: Ipv6Addr) -> Option<&'static str> {
        const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
        match v6 {
            _ if v6.is_unspecified() => Some("the unspecified address"),
            _ if v6.is_loopback() => (!self.loopback).then_some("this registry's own loopback"),
            AWS_METADATA => Some("a cloud's metadata service"),
            _ if v6.is_unicast_link_local() => Some("link-local"),
            _ if v6.is_multicast() => Some("a multicast address"),
            _ => None,
        }
    }

    /// The refusal in a sentence, for a check's verdict or for who declares it.
    pub fn refuse(&self, address: IpAddr) -> Option<String> {
        self.refusal(address).map(|why| {
            format!("checks may not be aimed at {address}, which is {why}; the registry allows it with --check-allow")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_checked() {
        let rules = TargetRules::default();
        for refused in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.8.8.8",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(rules.refusal(refused.parse().unwrap()).is_some(), "{refused}");
        }
        for fine in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::a00:1"] {
            assert_eq!(rules.refusal(fine.parse().unwrap()), None, "{fine}");
        }
    }

    #[test]
    fn what_is_allowed_all_the_same() {
        let local = TargetRules { loopback: true, ..TargetRules::default() };
        assert_eq!(local.refusal("127.0.0.1".parse().unwrap()), None);
        assert_eq!(local.refusal("::1".parse().unwrap()), None);
        assert!(local.refusal("169.254.1.1".parse().unwrap()).is_some());
        let allow = TargetRules { allow: vec!["169.254.20.0/24".parse().unwrap()], loopback: false };
        assert_eq!(allow.refusal("169.254.20.10".parse().unwrap()), None);
        assert_eq!(allow.refusal("::ffff:169.254.20.10".parse().unwrap()), None);
        assert!(allow.refusal("169.254.21.10".parse().unwrap()).is_some());
    }

    #[test]
    fn ranges_are_read_strictly() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.1", "10.0.0.1/32", "fd00::/8"] {
            assert!(good.parse::<Cidr>().is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "fd00::1/8", "10.0.0.0/", "x/8", "::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("10.0.0.1".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Cidr>().unwrap().contains("::1".parse().unwrap()));
    }
}
