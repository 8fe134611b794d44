//! Whom to ask, for which names, and within which limits.

use crate::config::Zone;
use crate::forward::network::Network;
use crate::forward::rewrite::Rewrite;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How forwarding is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whom to ask for names that no other rule is about; none: such names are refused.
    pub upstreams: Vec<Target>,
    /// Whom to ask for the names in certain zones; the longest one counts.
    pub zones: Vec<ZoneRule>,
    /// In which order upstreams are asked.
    pub policy: Policy,
    /// Whose questions are answered.
    pub allow: Vec<Network>,
    /// How much memory answers may take, in octets.
    pub cache_size: usize,
    /// TTLs below are raised to this, in seconds.
    pub min_ttl: u32,
    /// TTLs above are lowered to this, in seconds.
    pub max_ttl: u32,
    /// How long it is kept at most that something does not exist, in seconds.
    pub max_negative_ttl: u32,
    /// How long past its TTL an answer may be sent where no upstream answers (RFC 8767); zero: never.
    pub serve_stale: Duration,
    /// Questions that may be waiting for upstreams at a time.
    pub concurrency: usize,
    /// The same for one client.
    pub client_concurrency: usize,
    /// The same for one upstream.
    pub upstream_concurrency: usize,
    /// Files in the form of `/etc/hosts`.
    pub hosts: Vec<PathBuf>,
    /// Names that are looked up as others.
    pub rewrites: Vec<Rewrite>,
    /// Whether the rest of a pod's search path is walked here, and the domains that follow the cluster's in it.
    pub search: Option<Vec<Zone>>,
    /// Authorities, PEM, that signed the upstreams' certificates, beside those that the system trusts.
    pub ca: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            zones: Vec::new(),
            policy: Policy::default(),
            allow: Network::private(),
            cache_size: 32 << 20,
            min_ttl: 0,
            max_ttl: 3600,
            max_negative_ttl: 300,
            serve_stale: Duration::from_secs(3600),
            concurrency: 4096,
            client_concurrency: 100,
            upstream_concurrency: 1000,
            hosts: Vec::new(),
            rewrites: Vec::new(),
            search: None,
            ca: None,
        }
    }
}

/// In which order upstreams are asked; those that are down come last in any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// In a random one.
    #[default]
    Random,
    /// In turn.
    RoundRobin,
    /// As they are named: the second only where the first is down.
    Sequential,
    /// The one that answered soonest of late; now and then another, to see whether it has become faster.
    Fastest,
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "random" => Ok(Self::Random),
            "round-robin" => Ok(Self::RoundRobin),
            "sequential" => Ok(Self::Sequential),
            "fastest" => Ok(Self::Fastest),
            _ => Err(format!("`{text}` is no policy: write random, round-robin, sequential or fastest")),
        }
    }
}

/// A name server to ask, or a file that names some.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// Over UDP, and over TCP what does not fit.
    Udp(SocketAddr),
    /// Over TCP alone.
    Tcp(SocketAddr),
    /// Over TLS (RFC 7858).
    Tls {
        /// Where.
        address: SocketAddr,
        /// The name in its certificate; none: the address must be there.
        name: Option<String>,
    },
    /// Over HTTPS (RFC 8484).
    Https {
        /// An address, or a name that the other upstreams know.
        host: String,
        /// Its port.
        port: u16,
        /// What to ask for there.
        path: String,
    },
    /// The name servers of a file in the form of `/etc/resolv.conf`, which is read again when it changes.
    File(PathBuf),
}

/// The text names no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no upstream: write an address as in `10.0.0.1`, `10.0.0.1:53` or `[fd00::1]:53`, `tcp://10.0.0.1`, \
     `tls://1.1.1.1#one.one.one.one`, `https://1.1.1.1/dns-query`, or a path as in `/etc/resolv.conf`"
)]
pub struct ParseTargetError(String);

/// An address with a port, or without one.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().ok().or_else(|| Some(SocketAddr::new(bare.parse::<IpAddr>().ok()?, port)))?;
    (address.port() != 0).then_some(address)
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseTargetError(text.chars().take(80).collect());
        let Some((scheme, rest)) = text.split_once("://") else {
            return match address(text, 53) {
                Some(address) => Ok(Self::Udp(address)),
                None if text.contains('/') => Ok(Self::File(text.into())),
                None => Err(bad()),
            };
        };
        match scheme {
            "udp" => address(rest, 53).map(Self::Udp),
            "tcp" => address(rest, 53).map(Self::Tcp),
            "tls" => {
                let (place, name) = match rest.split_once('#') {
                    Some((place, name)) => (place, Some(name.to_owned()).filter(|name| !name.is_empty())),
                    None => (rest, None),
                };
                address(place, 853).map(|address| Self::Tls { address, name })
            }
            "https" => https(rest),
            _ => None,
        }
        .ok_or_else(bad)
    }
}

fn https(rest: &str) -> Option<Target> {
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, "/dns-query".to_owned()),
    };
    let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits(&path) || path.contains('#') || authority.contains('@') {
        return None;
    }
    let (host, port) = match address(authority, 443) {
        Some(address) => (address.ip().to_string(), address.port()),
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_owned(), port.parse().ok().filter(|port| *port != 0)?),
            None => (authority.to_owned(), 443),
        },
    };
    let named = host.parse::<IpAddr>().is_ok() || host.parse::<Zone>().is_ok();
    named.then_some(Target::Https { host, port, path })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Tls { address, name: None } => write!(f, "tls://{address}"),
            Self::Tls { address, name: Some(name) } => write!(f, "tls://{address}#{name}"),
            Self::Https { host, port, path } => {
                match host.parse() {
                    Ok(ip @ IpAddr::V6(_)) => write!(f, "https://[{ip}]")?,
                    _ => write!(f, "https://{host}")?,
                }
                if *port != 443 {
                    write!(f, ":{port}")?;
                }
                f.write_str(path)
            }
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What to do with the names in a zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneRule {
    /// Which zone.
    pub zone: Zone,
    /// What to do.
    pub action: Action,
}

/// What to do with names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask these.
    Ask(Vec<Target>),
    /// Answer REFUSED.
    Refuse,
    /// Answer that there are none.
    None,
}

impl FromStr for ZoneRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((zone, action)) = text.split_once('=') else {
            return Err(format!("`{text}` is no rule for a zone: write it as in `corp.example=10.0.0.1,10.0.0.2`"));
        };
        let zone = zone.trim().parse().map_err(|error: crate::ParseZoneError| error.to_string())?;
        let action = match action.trim() {
            "refuse" => Action::Refuse,
            "none" => Action::None,
            targets => Action::Ask(
                targets
                    .split(',')
                    .map(|target| target.trim().parse().map_err(|error: ParseTargetError| error.to_string()))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Self { zone, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1:53"),
            ("10.0.0.1:5353", "10.0.0.1:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]", "[fd00::1]:53"),
            ("[fd00::1]:54", "[fd00::1]:54"),
            ("udp://10.0.0.1", "10.0.0.1:53"),
            ("tcp://10.0.0.1", "tcp://10.0.0.1:53"),
            ("tls://1.1.1.1", "tls://1.1.1.1:853"),
            ("tls://1.1.1.1:8853#one.one", "tls://1.1.1.1:8853#one.one"),
            ("https://dns.example", "https://dns.example/dns-query"),
            ("https://dns.example:8443/q?x=1", "https://dns.example:8443/q?x=1"),
            ("https://[fd00::1]/dns-query", "https://[fd00::1]/dns-query"),
            ("/etc/resolv.conf", "/etc/resolv.conf"),
            ("./resolv.conf", "./resolv.conf"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse::<Target>().unwrap(), target);
        }
        for bad in [
            "",
            "dns.example",
            "10.0.0.1:0",
            "10.0.0.256",
            "tls://dns.example",
            "ftp://10.0.0.1",
            "https://a@b/",
            "https://",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rules() {
        let rule: ZoneRule = "Corp.Example=10.0.0.1, tcp://10.0.0.2".parse().unwrap();
        assert_eq!(rule.zone.to_string(), "corp.example");
        assert!(matches!(rule.action, Action::Ask(targets) if targets.len() == 2));
        assert_eq!("a=refuse".parse::<ZoneRule>().unwrap().action, Action::Refuse);
        assert_eq!("a=none".parse::<ZoneRule>().unwrap().action, Action::None);
        for bad in ["a", "=10.0.0.1", "a=", "a=b", "a..b=10.0.0.1"] {
            assert!(bad.parse::<ZoneRule>().is_err(), "{bad}");
        }
    }
}
