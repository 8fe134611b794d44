//! What the server is authoritative for, and with which times and limits.

use crate::interfaces;
use crate::name::{MAX_NAME, Name, is_within};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A zone's name, as in `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Zone(pub(crate) Name);

/// The text is no name of a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseZoneError {
    /// The root, or nothing.
    #[error("a zone must have a name: write for example `cluster.local`")]
    Empty,
    /// Not made of DNS labels.
    #[error(
        "`{0}` is not a zone: labels of 1 to 63 letters, digits, '-' and '_' with dots between them, for example \
         `cluster.local`"
    )]
    Syntax(String),
    /// No room for names in it.
    #[error("the zone has {length} octets, and at most {limit} leave room for the names below it")]
    TooLong {
        /// What was given, in wire form.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// A zone longer than this would have no room for `<label>.<service>.<namespace>.svc.` with a label of a dashed address.
const MAX_ZONE: usize = MAX_NAME - 160;

/// Most addresses of a name server that listens on all; nodes have one for each of their pods, sometimes.
const MOST_NAME_SERVERS: usize = 8;

/// Most other names that a zone may have: each query outside of them is compared with all.
pub const MAX_ALIASES: usize = 15;

impl FromStr for Zone {
    type Err = ParseZoneError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if matches!(text, "" | ".") {
            return Err(ParseZoneError::Empty);
        }
        let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let name = text.bytes().all(fits).then(|| Name::from_text(text)).flatten();
        let name = name.ok_or_else(|| ParseZoneError::Syntax(text.chars().take(80).collect()))?;
        if name.wire().len() > MAX_ZONE {
            return Err(ParseZoneError::TooLong { length: name.wire().len(), limit: MAX_ZONE });
        }
        Ok(Self(name))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.pad(text.strip_suffix('.').unwrap_or(&text))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// No index can be made of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The zone leaves no room for the names below it.
    #[error("zone `{0}` leaves no room for `ns.dns`, `dns-version`, `svc` and `pod` below it")]
    TooLong(Zone),
    /// Too many zones.
    #[error("there are more than {MAX_ALIASES} further zones")]
    TooManyAliases,
    /// One zone lies within another, or is given twice.
    #[error("zone `{inner}` lies within zone `{outer}`: each must stand for itself")]
    Within {
        /// Which.
        inner: Zone,
        /// Within which.
        outer: Zone,
    },
}

/// Which names of pods by address are answered, as in `10-1-2-3.prod.pod.cluster.local`. Nothing else depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pods {
    /// All that are well formed, in namespaces that exist; whether there is such a pod is not looked at.
    #[default]
    Insecure,
    /// Those of pods that are known, in their namespace.
    Verified,
    /// None.
    Disabled,
}

/// What an endpoint without a hostname is called that Kubernetes or a CNI plugin declares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointNames {
    /// Its address with dashes.
    #[default]
    Address,
    /// Its pod's name, where that is a DNS label; else its address with dashes.
    Pod,
}

/// What the index is compiled for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's zone: the one that names of addresses lead to.
    pub zone: Zone,
    /// Other names of it, under which everything is answered as well; at most [`MAX_ALIASES`]. None of them, nor the zone
    /// itself, may lie within another.
    pub aliases: Vec<Zone>,
    /// Which names of pods are answered.
    pub pods: Pods,
    /// What endpoints are called.
    pub endpoint_names: EndpointNames,
    /// How long answers may be kept, in seconds, where a service does not say.
    pub ttl: u32,
    /// How long it may be kept that something does not exist (RFC 2308), in seconds.
    pub negative_ttl: u32,
    /// The largest answer over UDP, whatever a client offers: 1232 octets pass everywhere without fragments.
    pub udp_payload: u16,
    /// The reverse zones whose unknown addresses are answered with NXDOMAIN. Known addresses outside of them are
    /// answered, too; unknown ones are refused.
    pub reverse_zones: Vec<Zone>,
    /// The addresses of the zone's name server, `ns.dns.<zone>`. `0.0.0.0` and `::` stand for those of the interfaces
    /// that others can reach, where there are no others.
    pub name_servers: Vec<IpAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zone: Zone(Name::from_wire(b"\x07cluster\x05local\x00")),
            aliases: Vec::new(),
            pods: Pods::default(),
            endpoint_names: EndpointNames::default(),
            ttl: 5,
            negative_ttl: 5,
            udp_payload: 1232,
            reverse_zones: Self::private_reverse_zones(),
            name_servers: Vec::new(),
        }
    }
}

impl Config {
    /// Says what is wrong with the aliases, if anything is. One zone within another could hide names of it.
    pub(crate) fn check_aliases(&self) -> Result<(), ConfigError> {
        if self.aliases.len() > MAX_ALIASES {
            return Err(ConfigError::TooManyAliases);
        }
        let zones: Vec<&Zone> = std::iter::once(&self.zone).chain(&self.aliases).collect();
        for (n, &inner) in zones.iter().enumerate() {
            let holds = |(m, outer): &(usize, &&Zone)| *m != n && is_within(inner.0.wire(), outer.0.wire());
            if let Some((_, &outer)) = zones.iter().enumerate().find(holds) {
                return Err(ConfigError::Within { inner: inner.clone(), outer: outer.clone() });
            }
        }
        Ok(())
    }

    /// The reverse zones of the private networks: 10/8, 172.16/12, 192.168/16 (RFC 1918), 100.64/10 (RFC 6598) and
    /// fc00::/7 (RFC 4193). Nobody else can be authoritative for them (RFC 6303).
    pub fn private_reverse_zones() -> Vec<Zone> {
        ["10.in-addr.arpa".to_owned(), "168.192.in-addr.arpa".to_owned()]
            .into_iter()
            .chain((16..32).map(|octet| format!("{octet}.172.in-addr.arpa")))
            .chain((64..128).map(|octet| format!("{octet}.100.in-addr.arpa")))
            .chain(["c.f.ip6.arpa".to_owned(), "d.f.ip6.arpa".to_owned()])
            .filter_map(|text| Name::from_text(&text))
            .map(Zone)
            .collect()
    }

    /// The addresses that `ns.dns.<zone>` gets: as configured, where that is all of them, the interfaces', else loopback,
    /// because a name server without any address would make the zone look broken to those who follow its NS record.
    pub(crate) fn name_server_addresses(&self) -> Vec<IpAddr> {
        let (all, concrete): (Vec<IpAddr>, Vec<IpAddr>) =
            self.name_servers.iter().copied().partition(IpAddr::is_unspecified);
        if !concrete.is_empty() {
            return concrete;
        }
        let own: Vec<_> = all.into_iter().flat_map(interfaces::reachable).take(MOST_NAME_SERVERS).collect();
        if own.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        let zone: Zone = "Cluster.Local.".parse().unwrap();
        assert_eq!(zone.to_string(), "cluster.local");
        assert_eq!(zone, Config::default().zone);
        assert_eq!("".parse::<Zone>(), Err(ParseZoneError::Empty));
        assert!(matches!("a b".parse::<Zone>(), Err(ParseZoneError::Syntax(_))));
        assert!(matches!("a..b".parse::<Zone>(), Err(ParseZoneError::Syntax(_))));
        let long = ["a".repeat(50), "b".repeat(50)].join(".");
        assert!(matches!(long.parse::<Zone>(), Err(ParseZoneError::TooLong { .. })));
    }

    #[test]
    fn zones_stand_beside_each_other() {
        let with = |aliases: &[&str]| {
            let aliases = aliases.iter().map(|text| text.parse().unwrap()).collect();
            Config { aliases, ..Config::default() }.check_aliases()
        };
        assert_eq!(with(&["cluster.example", "luster.local", "o"]), Ok(()));
        for bad in [&["local"][..], &["a.cluster.local"], &["Cluster.Local"], &["a.b", "b"]] {
            assert!(matches!(with(bad), Err(ConfigError::Within { .. })), "{bad:?}");
        }
        let many: Vec<String> = (0..=MAX_ALIASES).map(|n| format!("z{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(with(&many), Err(ConfigError::TooManyAliases));
    }

    #[test]
    fn a_name_server_has_addresses_that_others_can_reach() {
        let with = |addresses: &[&str]| {
            let name_servers = addresses.iter().map(|text| text.parse().unwrap()).collect();
            Config { name_servers, ..Config::default() }.name_server_addresses()
        };
        let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(with(&[]), of(&["127.0.0.1"]));
        assert_eq!(with(&["0.0.0.0", "10.96.0.10", "fd00::a"]), of(&["10.96.0.10", "fd00::a"]));
        let any = with(&["0.0.0.0", "::"]);
        let known: Vec<IpAddr> = of(&["0.0.0.0", "::"]).into_iter().flat_map(interfaces::addresses).collect();
        assert!(!any.is_empty() && any.iter().all(|address| known.contains(address)), "{any:?}");
        assert!(any == of(&["127.0.0.1"]) || any.iter().all(|address| !address.is_loopback()), "{any:?}");
    }

    #[test]
    fn private_networks() {
        assert_eq!(Config::private_reverse_zones().len(), 2 + 16 + 64 + 2);
    }
}
