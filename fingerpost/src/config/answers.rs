//! What all processes are told that answer DNS: where, what and with which data.

use super::{LayerEnv, LogFormat, LogFormatText, NamesConfig, forward, list_from, names, path_from, value_from};
use anyhow::bail;
use clap::{Args, ValueHint};
use fingerpost_catalog::Source;
use fingerpost_dns as dns;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Settings of one layer.
// clap would name a group after the type, which other parts have, too.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[group(skip)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where to keep the data [env: FINGERPOST_DATA_DIR] [default: a folder of this command's in the user's data folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where to serve DNS, over UDP and TCP; may repeat, port 0 takes a free one [env: FINGERPOST_DNS_LISTEN]
    /// [default: 127.0.0.1:5300]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) dns_listen: Option<Vec<SocketAddr>>,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) names: names::Settings,
    /// The cluster whose `kubernetes/NAME` source outranks all others [env: FINGERPOST_CLUSTER_NAME] [default: default]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster_name: Option<String>,
    /// How long DNS answers may be kept, in seconds, where a service does not say [env: FINGERPOST_DNS_TTL]
    /// [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) dns_ttl: Option<u32>,
    /// How long it may be kept that a name does not exist, in seconds [env: FINGERPOST_DNS_NEGATIVE_TTL] [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) dns_negative_ttl: Option<u32>,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) forwarding: forward::ForwardSettings,
    /// How to write the log [env: FINGERPOST_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// What to log, as in `info` or `info,fingerpost_dns=debug` [env: FINGERPOST_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

impl Settings {
    pub(super) fn from_env(env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            data_dir: path_from(env, "FINGERPOST_DATA_DIR"),
            dns_listen: list_from(env, "FINGERPOST_DNS_LISTEN")?,
            names: names::Settings::from_env(env)?,
            cluster_name: value_from(env, "FINGERPOST_CLUSTER_NAME")?,
            dns_ttl: value_from(env, "FINGERPOST_DNS_TTL")?,
            dns_negative_ttl: value_from(env, "FINGERPOST_DNS_NEGATIVE_TTL")?,
            forwarding: forward::ForwardSettings::from_env(env)?,
            log_format: value_from::<LogFormatText>(env, "FINGERPOST_LOG_FORMAT")?.map(|format| format.0),
            log: value_from(env, "FINGERPOST_LOG")?,
        })
    }

    /// These settings, and where they say nothing, those of the layer below.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            dns_listen: self.dns_listen.or(below.dns_listen),
            names: self.names.over(below.names),
            cluster_name: self.cluster_name.or(below.cluster_name),
            dns_ttl: self.dns_ttl.or(below.dns_ttl),
            dns_negative_ttl: self.dns_negative_ttl.or(below.dns_negative_ttl),
            forwarding: self.forwarding.over(below.forwarding),
            log_format: self.log_format.or(below.log_format),
            log: self.log.or(below.log),
        }
    }
}

/// What a process answers: every setting decided and checked.
#[derive(Clone, Debug)]
pub(crate) struct AnswersConfig {
    /// Where data is kept; may not exist yet.
    pub(crate) data_dir: PathBuf,
    /// Where to serve DNS, at least one.
    pub(crate) dns_listen: Vec<SocketAddr>,
    /// What DNS answers.
    pub(crate) names: NamesConfig,
    /// The name of this cluster: `kubernetes/<this>` outranks other sources.
    pub(crate) cluster_name: String,
    /// TTL of answers in seconds, where a service says none.
    pub(crate) dns_ttl: u32,
    /// Negative TTL in seconds.
    pub(crate) dns_negative_ttl: u32,
    /// Whom to ask for names that are not ours; none: nobody.
    pub(crate) forwarding: Option<dns::forward::Config>,
    /// How to write the log.
    pub(crate) log_format: LogFormat,
    /// What to log, in the syntax of tracing's `EnvFilter`.
    pub(crate) log: String,
}

impl AnswersConfig {
    /// `folder` is what the default data folder is called.
    pub(super) fn from(settings: Settings, env: &LayerEnv<'_>, folder: &str) -> anyhow::Result<Self> {
        let config = Self {
            data_dir: match settings.data_dir {
                Some(dir) => dir,
                None => super::default_data_dir(env, folder)?,
            },
            dns_listen: settings.dns_listen.unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 5300))]),
            names: NamesConfig::from(&settings.names)?,
            cluster_name: settings.cluster_name.unwrap_or_else(|| "default".to_owned()),
            dns_ttl: settings.dns_ttl.unwrap_or(5),
            dns_negative_ttl: settings.dns_negative_ttl.unwrap_or(5),
            forwarding: settings.forwarding.decide()?,
            log_format: settings.log_format.unwrap_or_default(),
            log: settings.log.unwrap_or_else(|| "info".to_owned()),
        };
        if config.dns_listen.is_empty() {
            bail!("dns-listen needs at least one address");
        }
        // The source is where the name will stand.
        if let Err(error) = Source::from_str(&format!("kubernetes/{}", config.cluster_name)) {
            bail!("cluster name `{}`: {error}", config.cluster_name);
        }
        for (name, ttl) in [("dns-ttl", config.dns_ttl), ("dns-negative-ttl", config.dns_negative_ttl)] {
            if ttl > 86_400 {
                bail!("{name} is {ttl} seconds, and at most 86400 (a day) are allowed");
            }
        }
        Ok(config)
    }
}
