//! Settings of forwarding: whom to ask for names that are not ours, for whom, and within which limits.

use super::{LayerEnv, Span, list_from, parse, path_from, text_from, value_from};
use anyhow::bail;
use clap::{Args, ValueHint};
use fingerpost_dns::Zone;
use fingerpost_dns::forward::{self, Network, Policy, Rewrite, Target, ZoneRule};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One layer's settings of forwarding.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ForwardSettings {
    /// Whom to ask for names outside of the zone, as in 10.0.0.1, tcp://10.0.0.1:53, tls://1.1.1.1#one.one.one.one,
    /// https://1.1.1.1/dns-query, or a file like /etc/resolv.conf, which is followed; may repeat [env:
    /// FINGERPOST_FORWARD] [default: nobody, such names are refused]
    #[arg(long, value_name = "UPSTREAM", help_heading = FORWARDING)]
    pub(crate) forward: Option<Vec<Text<Target>>>,
    /// Whom to ask for the names in a zone, as in corp.example=10.0.0.1,10.0.0.2; or ZONE=refuse, or ZONE=none where there
    /// are no names; may repeat, and the longest zone counts [env: FINGERPOST_FORWARD_ZONE, with `;` between rules]
    #[arg(long, value_name = "ZONE=UPSTREAMS", help_heading = FORWARDING)]
    pub(crate) forward_zone: Option<Vec<Text<ZoneRule>>>,
    /// In which order to ask: random, round-robin, sequential or fastest [env: FINGERPOST_FORWARD_POLICY] [default:
    /// random]
    #[arg(long, value_name = "POLICY", help_heading = FORWARDING)]
    pub(crate) forward_policy: Option<Text<Policy>>,
    /// CAs, PEM, that upstreams over TLS and HTTPS may be certified by, beside the system's [env: FINGERPOST_FORWARD_CA]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = FORWARDING)]
    pub(crate) forward_ca: Option<PathBuf>,
    /// Memory for answers of upstreams, as in 64MiB [env: FINGERPOST_FORWARD_CACHE_SIZE] [default: 32MiB]
    #[arg(long, value_name = "SIZE", help_heading = FORWARDING)]
    pub(crate) forward_cache_size: Option<Text<Size>>,
    /// Keep answers at least so long, in seconds, whatever their TTL [env: FINGERPOST_FORWARD_MIN_TTL] [default: 0]
    #[arg(long, value_name = "SECONDS", help_heading = FORWARDING)]
    pub(crate) forward_min_ttl: Option<u32>,
    /// Keep answers at most so long, in seconds [env: FINGERPOST_FORWARD_MAX_TTL] [default: 3600]
    #[arg(long, value_name = "SECONDS", help_heading = FORWARDING)]
    pub(crate) forward_max_ttl: Option<u32>,
    /// Keep at most so long that a name does not exist, in seconds [env: FINGERPOST_FORWARD_MAX_NEGATIVE_TTL] [default:
    /// 300]
    #[arg(long, value_name = "SECONDS", help_heading = FORWARDING)]
    pub(crate) forward_max_negative_ttl: Option<u32>,
    /// How long past its TTL an answer may be given where no upstream answers; 0s for never [env:
    /// FINGERPOST_FORWARD_SERVE_STALE] [default: 1h]
    #[arg(long, value_name = "TIME", help_heading = FORWARDING)]
    pub(crate) forward_serve_stale: Option<Span>,
    /// Queries that may wait for upstreams at a time [env: FINGERPOST_FORWARD_CONCURRENCY] [default: 4096]
    #[arg(long, value_name = "COUNT", help_heading = FORWARDING)]
    pub(crate) forward_concurrency: Option<usize>,
    /// The same for one client [env: FINGERPOST_FORWARD_CLIENT_CONCURRENCY] [default: 100]
    #[arg(long, value_name = "COUNT", help_heading = FORWARDING)]
    pub(crate) forward_client_concurrency: Option<usize>,
    /// The same for one upstream [env: FINGERPOST_FORWARD_UPSTREAM_CONCURRENCY] [default: 1000]
    #[arg(long, value_name = "COUNT", help_heading = FORWARDING)]
    pub(crate) forward_upstream_concurrency: Option<usize>,
    /// Who may ask for names outside of the zone; may repeat, and replaces the default [env: FINGERPOST_RECURSION_ALLOW]
    /// [default: loopback, private, 100.64.0.0/10 and link-local addresses]
    #[arg(long, value_name = "CIDR", help_heading = FORWARDING)]
    pub(crate) recursion_allow: Option<Vec<Text<Network>>>,
    /// A file in the form of /etc/hosts whose names are answered before others are asked; followed; may repeat [env:
    /// FINGERPOST_HOSTS_FILE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = FORWARDING)]
    pub(crate) hosts_file: Option<Vec<PathBuf>>,
    /// Look a name up as another, as in db.example=db.prod.svc.cluster.local or *.old.example=*.new.example; may repeat
    /// [env: FINGERPOST_REWRITE]
    #[arg(long, value_name = "NAME=NAME", help_heading = FORWARDING)]
    pub(crate) rewrite: Option<Vec<Text<Rewrite>>>,
    /// Walk pods' search paths for them: one query instead of five for an outside name, at a price (docs/forwarding.md)
    /// [env: FINGERPOST_SEARCH_PATH]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = FORWARDING)]
    pub(crate) search_path: Option<bool>,
    /// A domain that pods search after the cluster's; may repeat [env: FINGERPOST_SEARCH_DOMAIN]
    #[arg(long, value_name = "DOMAIN", help_heading = FORWARDING)]
    pub(crate) search_domain: Option<Vec<Text<Zone>>>,
}

const FORWARDING: &str = "Forwarding";

/// A value that files have as text, in the form that flags have.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Text<T>(pub(crate) T);

impl<T: FromStr> FromStr for Text<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(Self)
    }
}

impl<T: fmt::Debug> fmt::Debug for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount of memory, in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text.get(digits.len()..).unwrap_or_default() {
            "" => Some(0),
            "k" | "K" | "KiB" | "Ki" => Some(10),
            "m" | "M" | "MiB" | "Mi" => Some(20),
            "g" | "G" | "GiB" | "Gi" => Some(30),
            _ => None,
        };
        let size = digits.parse::<usize>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
        size.map(Self).ok_or_else(|| format!("`{text}` is no amount of memory: write it as in 64MiB"))
    }
}

fn values<T>(texts: Vec<Text<T>>) -> Vec<T> {
    texts.into_iter().map(|Text(value)| value).collect()
}

impl ForwardSettings {
    pub(super) fn from_env(env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        const ZONES: &str = "FINGERPOST_FORWARD_ZONE";
        let rules = text_from(env, ZONES)?;
        Ok(Self {
            forward: list_from(env, "FINGERPOST_FORWARD")?,
            // Upstreams have commas between them already.
            forward_zone: rules
                .map(|text| text.split(';').map(|rule| parse(ZONES, rule)).collect::<Result<_, _>>())
                .transpose()?,
            forward_policy: value_from(env, "FINGERPOST_FORWARD_POLICY")?,
            forward_ca: path_from(env, "FINGERPOST_FORWARD_CA"),
            forward_cache_size: value_from(env, "FINGERPOST_FORWARD_CACHE_SIZE")?,
            forward_min_ttl: value_from(env, "FINGERPOST_FORWARD_MIN_TTL")?,
            forward_max_ttl: value_from(env, "FINGERPOST_FORWARD_MAX_TTL")?,
            forward_max_negative_ttl: value_from(env, "FINGERPOST_FORWARD_MAX_NEGATIVE_TTL")?,
            forward_serve_stale: value_from(env, "FINGERPOST_FORWARD_SERVE_STALE")?,
            forward_concurrency: value_from(env, "FINGERPOST_FORWARD_CONCURRENCY")?,
            forward_client_concurrency: value_from(env, "FINGERPOST_FORWARD_CLIENT_CONCURRENCY")?,
            forward_upstream_concurrency: value_from(env, "FINGERPOST_FORWARD_UPSTREAM_CONCURRENCY")?,
            recursion_allow: list_from(env, "FINGERPOST_RECURSION_ALLOW")?,
            hosts_file: list_from(env, "FINGERPOST_HOSTS_FILE")?,
            rewrite: list_from(env, "FINGERPOST_REWRITE")?,
            search_path: value_from(env, "FINGERPOST_SEARCH_PATH")?,
            search_domain: list_from(env, "FINGERPOST_SEARCH_DOMAIN")?,
        })
    }

    pub(super) fn over(self, below: Self) -> Self {
        Self {
            forward: self.forward.or(below.forward),
            forward_zone: self.forward_zone.or(below.forward_zone),
            forward_policy: self.forward_policy.or(below.forward_policy),
            forward_ca: self.forward_ca.or(below.forward_ca),
            forward_cache_size: self.forward_cache_size.or(below.forward_cache_size),
            forward_min_ttl: self.forward_min_ttl.or(below.forward_min_ttl),
            forward_max_ttl: self.forward_max_ttl.or(below.forward_max_ttl),
            forward_max_negative_ttl: self.forward_max_negative_ttl.or(below.forward_max_negative_ttl),
            forward_serve_stale: self.forward_serve_stale.or(below.forward_serve_stale),
            forward_concurrency: self.forward_concurrency.or(below.forward_concurrency),
            forward_client_concurrency: self.forward_client_concurrency.or(below.forward_client_concurrency),
            forward_upstream_concurrency: self.forward_upstream_concurrency.or(below.forward_upstream_concurrency),
            recursion_allow: self.recursion_allow.or(below.recursion_allow),
            hosts_file: self.hosts_file.or(below.hosts_file),
            rewrite: self.rewrite.or(below.rewrite),
            search_path: self.search_path.or(below.search_path),
            search_domain: self.search_domain.or(below.search_domain),
        }
    }

    /// What forwarding runs with; none where nothing is to be answered that is not ours.
    pub(super) fn decide(self) -> anyhow::Result<Option<forward::Config>> {
        let default = forward::Config::default();
        let search = self.search_path.unwrap_or(false);
        if self.search_domain.is_some() && !search {
            bail!("--search-domain needs --search-path, which is off");
        }
        let given = self.clone();
        let asked = given.forward.is_some() || given.forward_zone.is_some();
        if !asked && given.hosts_file.is_none() && given.rewrite.is_none() {
            let idle = Self { search_path: None, ..given };
            if search || idle != Self::default() {
                bail!(
                    "settings of forwarding without anybody to ask: say whom with --forward, as in --forward \
                     /etc/resolv.conf"
                );
            }
            return Ok(None);
        }
        let config = forward::Config {
            upstreams: values(self.forward.unwrap_or_default()),
            zones: values(self.forward_zone.unwrap_or_default()),
            policy: self.forward_policy.map_or(default.policy, |Text(policy)| policy),
            allow: self.recursion_allow.map_or(default.allow, values),
            cache_size: self.forward_cache_size.map_or(default.cache_size, |Text(Size(size))| size),
            min_ttl: self.forward_min_ttl.unwrap_or(default.min_ttl),
            max_ttl: self.forward_max_ttl.unwrap_or(default.max_ttl),
            max_negative_ttl: self.forward_max_negative_ttl.unwrap_or(default.max_negative_ttl),
            serve_stale: self.forward_serve_stale.map_or(default.serve_stale, |Span(time)| time),
            concurrency: self.forward_concurrency.unwrap_or(default.concurrency),
            client_concurrency: self.forward_client_concurrency.unwrap_or(default.client_concurrency),
            upstream_concurrency: self.forward_upstream_concurrency.unwrap_or(default.upstream_concurrency),
            hosts: self.hosts_file.unwrap_or_default(),
            rewrites: values(self.rewrite.unwrap_or_default()),
            search: search.then(|| values(self.search_domain.unwrap_or_default())),
            ca: self.forward_ca,
        };
        if config.min_ttl > config.max_ttl {
            bail!("forward-min-ttl is larger than forward-max-ttl");
        }
        if config.max_ttl > 604_800 || config.max_negative_ttl > 604_800 {
            bail!("answers of upstreams may be kept for 604800 seconds (a week) at most");
        }
        for (name, count) in [
            ("forward-concurrency", config.concurrency),
            ("forward-client-concurrency", config.client_concurrency),
            ("forward-upstream-concurrency", config.upstream_concurrency),
        ] {
            if !(1..=1_000_000).contains(&count) {
                bail!("{name} is {count}, and must be from 1 to 1000000");
            }
        }
        Ok(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("0", 0), ("1000", 1000), ("4k", 4096), ("32MiB", 32 << 20), ("1Gi", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Size(size)));
        }
        for bad in ["", "MiB", "1.5M", "1X", "-1", "99999999999999999999"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_without_anybody_to_ask() {
        let settings = ForwardSettings::default();
        assert!(settings.decide().unwrap().is_none());
        let settings = ForwardSettings { forward_max_ttl: Some(5), ..ForwardSettings::default() };
        assert!(settings.decide().unwrap_err().to_string().contains("--forward"));
        let settings = ForwardSettings { search_path: Some(true), ..ForwardSettings::default() };
        assert!(settings.decide().is_err());
        let upstream = Some(vec!["10.0.0.1".parse().unwrap()]);
        let domain = Some(vec!["a.example".parse().unwrap()]);
        let settings =
            ForwardSettings { forward: upstream.clone(), search_domain: domain.clone(), ..Default::default() };
        assert!(settings.decide().unwrap_err().to_string().contains("--search-path"));
        let settings = ForwardSettings {
            forward: upstream,
            search_path: Some(true),
            search_domain: domain,
            ..ForwardSettings::default()
        };
        let config = settings.decide().unwrap().unwrap();
        assert_eq!((config.upstreams.len(), config.search.unwrap().len()), (1, 1));
    }

    #[test]
    fn from_files_and_environment() {
        let file = "forward = ['10.0.0.1', 'tls://1.1.1.1#one.one']\nforward-zone = ['corp.example=10.0.0.2,10.0.0.3']\n\
                    forward-cache-size = '1MiB'\nforward-serve-stale = '10m'\nforward-policy = 'fastest'\n";
        let file: ForwardSettings = toml::from_str(file).unwrap();
        let env = |name: &str| match name {
            "FINGERPOST_FORWARD_ZONE" => Some("a.example=10.0.0.4,10.0.0.5;b.example=refuse".into()),
            "FINGERPOST_RECURSION_ALLOW" => Some("10.0.0.0/8".into()),
            _ => None,
        };
        let settings = ForwardSettings::from_env(&env).unwrap().over(file);
        let config = settings.decide().unwrap().unwrap();
        assert_eq!((config.upstreams.len(), config.zones.len(), config.allow.len()), (2, 2, 1));
        assert_eq!((config.cache_size, config.serve_stale.as_secs()), (1 << 20, 600));
        assert_eq!(config.policy, Policy::Fastest);
        assert!(toml::from_str::<ForwardSettings>("forward = ['dns.example']").is_err());
    }
}
