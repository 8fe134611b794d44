//! Where checks may be aimed.
//!
//! Whoever may register an instance chooses an address that the registry then connects to. So nobody gets further with
//! it than to what an instance can be: not to the metadata services of clouds, which hand out credentials to whoever
//! asks from this machine, not to link-local neighbours, and not to what listens on this machine's loopback.

use fingerpost_catalog::{Check, CheckPort, CheckType, Port};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

const METADATA: &str = "a cloud's metadata service";
const LOOPBACK: &str = "this registry's own loopback";

/// What no instance can be, and why; loopback is another matter.
const REFUSED: &[(Cidr, &str)] = &[
    // All of it is this host on this network (RFC 791 §3.2), not 0.0.0.0 alone.
    (Cidr::v4([0, 0, 0, 0], 8), "an unspecified address"),
    // Alibaba Cloud.
    (Cidr::v4([100, 100, 100, 200], 32), METADATA),
    // Azure's WireServer.
    (Cidr::v4([168, 63, 129, 16], 32), METADATA),
    // With 169.254.169.254, where nearly all clouds have their metadata.
    (Cidr::v4([169, 254, 0, 0], 16), "link-local"),
    // Of protocols among themselves (RFC 6890 §2.2.2); Oracle's cloud had its metadata there.
    (Cidr::v4([192, 0, 0, 0], 24), "reserved for protocols"),
    (Cidr::v4([224, 0, 0, 0], 4), "a multicast address"),
    (Cidr::v4([255, 255, 255, 255], 32), "the broadcast address"),
    (Cidr::v6([0; 8], 128), "the unspecified address"),
    // Amazon's, of which metadata is one service among several.
    (Cidr::v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32), METADATA),
    // Google's.
    (Cidr::v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
    (Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "a multicast address"),
];

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
    const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
    }

    const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> Self {
        Self { base: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), length }
    }

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
        // Mapped and compatible (RFC 4291 §2.5.5), and translated by SIIT (RFC 2765 §2.1).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        // Translated under the well-known prefix (RFC 6052 §2.1) and the local one (RFC 8215), taken as one of 96 bits.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(v4(high, low)),
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

impl TargetRules {
    /// Why the address may not be checked, if so.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let allowed = |address: IpAddr| self.allow.iter().any(|range| range.contains(address));
        // A v6 address that leads to a v4 address is judged by that.
        let meant = match address {
            IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        if allowed(address) || allowed(meant) {
            return None;
        }
        if meant.is_loopback() {
            return (!self.loopback).then_some(LOOPBACK);
        }
        REFUSED.iter().find(|(range, _)| range.contains(meant)).map(|(_, why)| *why)
    }

    /// The refusal in a sentence, for a check's verdict or for who declares it.
    pub fn refuse(&self, address: IpAddr) -> Option<String> {
        self.refusal(address).map(|why| {
            format!("checks may not be aimed at {address}, which is {why}; the registry allows it with --check-allow")
        })
    }
}

/// Where a check is aimed: at the instance's first address.
pub(super) fn aim(
    check: &Check,
    addresses: &[IpAddr],
    ports: &[Port],
    rules: &TargetRules,
) -> Result<SocketAddr, String> {
    let address = *addresses.first().ok_or("the instance has no address")?;
    if check.check_type.is_probe()
        && let Some(refusal) = rules.refuse(address)
    {
        return Err(refusal);
    }
    let port = match &check.port {
        Some(CheckPort::Number(port)) => *port,
        Some(CheckPort::Name(name)) => {
            let named = ports.iter().find(|port| port.name == *name);
            named.map(|port| port.port).ok_or_else(|| format!("the instance has no port `{name}`"))?
        }
        None => match (ports.first(), check.check_type) {
            (Some(port), _) => port.port,
            (None, CheckType::Dns) => 53,
            (None, CheckType::Ttl) => 0,
            (None, _) => return Err("the instance has no port; name one in the check".to_owned()),
        },
    };
    Ok(SocketAddr::new(address, port))
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
            "::ffff:0:169.254.169.254",
            "::ffff:168.63.129.16",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::23",
            "fd20:ce::254",
            "239.255.255.255",
        ] {
            assert!(rules.refusal(refused.parse().unwrap()).is_some(), "{refused}");
        }
        let v4 = ["10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "192.0.1.1", "168.63.129.17", "100.100.100.201"];
        let v6 = ["fd00::1", "2001:db8::1", "64:ff9b::a00:1", "fd00:ec3::1", "fd20:ce::253", "::ffff:0:10.0.0.1"];
        for fine in v4.into_iter().chain(v6) {
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
