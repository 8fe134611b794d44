//! Which names DNS answers.

use super::{LayerEnv, list_from, value_from};
use clap::{Args, ValueEnum, ValueHint};
use fingerpost_catalog::validate_domain_name;
use fingerpost_dns as dns;
use serde::{Deserialize, Deserializer};
use std::num::NonZeroU32;
use std::str::FromStr;

/// Settings of one layer.
// clap would name a group after the type, which other parts have, too.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[group(skip)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Settings {
    /// The zone to answer for; may repeat: the others answer the same under their own names [env: FINGERPOST_ZONE]
    /// [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    #[serde(default, deserialize_with = "one_or_more")]
    pub(crate) zone: Option<Vec<String>>,
    /// Which names of pods by address to answer, as in `10-1-2-3.prod.pod.cluster.local` [env: FINGERPOST_PODS]
    /// [default: insecure]
    #[arg(long, value_name = "WHICH")]
    pub(crate) pods: Option<Pods>,
    /// What to call a Kubernetes endpoint without a hostname [env: FINGERPOST_ENDPOINT_NAMES] [default: address]
    #[arg(long, value_name = "WHAT")]
    pub(crate) endpoint_names: Option<EndpointNames>,
    /// Log queries as JSON lines: to a file, to `-` (standard output) or to `stderr` [env: FINGERPOST_QUERY_LOG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) query_log: Option<String>,
    /// Log one query in so many [env: FINGERPOST_QUERY_LOG_SAMPLE] [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) query_log_sample: Option<NonZeroU32>,
}

/// Which names of pods by address are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pods {
    /// All well-formed ones in namespaces that exist, whether there is such a pod or not
    #[default]
    Insecure,
    /// Those of pods that are known
    Verified,
    /// None
    Disabled,
}

/// What a Kubernetes endpoint without a hostname is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndpointNames {
    /// Its address with dashes
    #[default]
    Address,
    /// Its pod's name, where that is a DNS label
    Pod,
}

impl FromStr for Pods {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false).map_err(|_| "write `insecure`, `verified` or `disabled`".to_owned())
    }
}

impl FromStr for EndpointNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false).map_err(|_| "write `address` or `pod`".to_owned())
    }
}

/// A file may have one zone without brackets.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a zone or a list of zones")]
    enum Zones {
        One(String),
        More(Vec<String>),
    }
    Ok(Some(match Zones::deserialize(deserializer)? {
        Zones::One(zone) => vec![zone],
        Zones::More(zones) => zones,
    }))
}

impl Settings {
    pub(super) fn from_env(env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            zone: list_from(env, "FINGERPOST_ZONE")?,
            pods: value_from(env, "FINGERPOST_PODS")?,
            endpoint_names: value_from(env, "FINGERPOST_ENDPOINT_NAMES")?,
            query_log: value_from(env, "FINGERPOST_QUERY_LOG")?,
            query_log_sample: value_from(env, "FINGERPOST_QUERY_LOG_SAMPLE")?,
        })
    }

    /// These settings, and where they say nothing, those of the layer below.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            zone: self.zone.or(below.zone),
            pods: self.pods.or(below.pods),
            endpoint_names: self.endpoint_names.or(below.endpoint_names),
            query_log: self.query_log.or(below.query_log),
            query_log_sample: self.query_log_sample.or(below.query_log_sample),
        }
    }
}

/// What DNS answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamesConfig {
    /// The zone, lower-case, without a dot at its end.
    pub(crate) zone: String,
    /// Others that answer the same.
    pub(crate) aliases: Vec<String>,
    /// Names of pods.
    pub(crate) pods: dns::Pods,
    /// Names of endpoints.
    pub(crate) endpoint_names: dns::EndpointNames,
    /// Where to log queries, and one in how many.
    pub(crate) query_log: Option<(dns::LogTarget, u32)>,
}

impl NamesConfig {
    pub(super) fn from(settings: &Settings) -> anyhow::Result<Self> {
        let zones = settings.zone.clone().unwrap_or_else(|| vec!["cluster.local".to_owned()]);
        let mut zones = zones.iter().map(|zone| checked_zone(zone)).collect::<anyhow::Result<Vec<_>>>()?.into_iter();
        let Some(zone) = zones.next() else { anyhow::bail!("zone is empty: name at least one") };
        Ok(Self {
            zone,
            aliases: zones.collect(),
            pods: match settings.pods.unwrap_or_default() {
                Pods::Insecure => dns::Pods::Insecure,
                Pods::Verified => dns::Pods::Verified,
                Pods::Disabled => dns::Pods::Disabled,
            },
            endpoint_names: match settings.endpoint_names.unwrap_or_default() {
                EndpointNames::Address => dns::EndpointNames::Address,
                EndpointNames::Pod => dns::EndpointNames::Pod,
            },
            query_log: match (&settings.query_log, settings.query_log_sample) {
                (None, None) => None,
                (None, Some(_)) => anyhow::bail!("query-log-sample is given, but no query-log"),
                (Some(target), sample) => {
                    let target = match target.as_str() {
                        "-" => dns::LogTarget::Stdout,
                        "stderr" => dns::LogTarget::Stderr,
                        path => dns::LogTarget::File(path.into()),
                    };
                    Some((target, sample.map_or(1, NonZeroU32::get)))
                }
            },
        })
    }
}

fn checked_zone(text: &str) -> anyhow::Result<String> {
    validate_domain_name(text).map_err(|error| anyhow::anyhow!("zone `{text}` {error}"))?;
    Ok(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
}
