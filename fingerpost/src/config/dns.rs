//! The configuration of `fingerpost dns`, in the same layers as that of `serve`.

use super::{AnswersConfig, LayerEnv, answers, file, list_from, text_from};
use anyhow::bail;
use clap::{Args, ValueHint};
use fingerpost_catalog::validate_instance_id;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The flags of `dns`.
#[derive(Args, Debug, Default)]
pub(crate) struct DnsArgs {
    /// A TOML file with the same settings, as in `registry = ["https://a:8053"]` [env: FINGERPOST_CONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Settings of one layer.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[group(skip)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Settings {
    /// The registry to follow; several replicas with commas between them [env: FINGERPOST_REGISTRY] [default: --server]
    #[arg(long, value_name = "URL", value_delimiter = ',', value_hint = ValueHint::Url)]
    pub(crate) registry: Option<Vec<String>>,
    /// Where to serve probes and metrics, over plain HTTP, and on loopback what `explain` and `status` ask for; may repeat,
    /// port 0 takes a free one [env: FINGERPOST_HTTP_LISTEN] [default: 127.0.0.1:8054]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http_listen: Option<Vec<SocketAddr>>,
    /// What the registry calls this server, in `status` and where a write waits for it [env: FINGERPOST_FOLLOWER_ID]
    /// [default: the host's name and a random number, kept in the data folder]
    #[arg(long, value_name = "ID")]
    pub(crate) follower_id: Option<String>,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) answers: answers::Settings,
}

impl Settings {
    fn from_env(env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            registry: list_from(env, "FINGERPOST_REGISTRY")?,
            http_listen: list_from(env, "FINGERPOST_HTTP_LISTEN")?,
            follower_id: text_from(env, "FINGERPOST_FOLLOWER_ID")?,
            answers: answers::Settings::from_env(env)?,
        })
    }

    fn over(self, below: Self) -> Self {
        Self {
            registry: self.registry.or(below.registry),
            http_listen: self.http_listen.or(below.http_listen),
            follower_id: self.follower_id.or(below.follower_id),
            answers: self.answers.over(below.answers),
        }
    }
}

/// What `dns` runs with.
#[derive(Clone, Debug)]
pub(crate) struct DnsConfig {
    /// Which registry to follow; none: that of the global flags.
    pub(crate) registry: Option<Vec<String>>,
    /// Where to serve probes and metrics.
    pub(crate) http_listen: Vec<SocketAddr>,
    /// What the registry calls this server; none: what the data folder says.
    pub(crate) follower_id: Option<String>,
    /// What is answered, and where.
    pub(crate) answers: AnswersConfig,
}

impl DnsConfig {
    /// The configuration from the flags, this process's environment and the file that one of them names.
    pub(crate) fn load(args: DnsArgs) -> anyhow::Result<Self> {
        Self::resolve(args, &|name| std::env::var_os(name))
    }

    pub(super) fn resolve(args: DnsArgs, env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        let file = args.config.or_else(|| env("FINGERPOST_CONFIG").map(PathBuf::from));
        let file = file.as_deref().map(|path| file::read(path, file::dns)).transpose()?.unwrap_or_default();
        let settings = args.settings.over(Settings::from_env(env)?).over(file);
        if let Some(id) = &settings.follower_id
            && let Err(error) = validate_instance_id(id)
        {
            bail!("follower-id `{id}` {error}");
        }
        Ok(Self {
            registry: settings.registry,
            http_listen: settings.http_listen.unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8054))]),
            follower_id: settings.follower_id,
            answers: AnswersConfig::from(settings.answers, env, "fingerpost-dns")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::ffi::OsString;
    use std::path::Path;

    fn resolve(flags: &str, env: &[(&str, &str)], file: Option<&str>) -> anyhow::Result<DnsConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dns.toml");
        let line = format!("fingerpost dns {flags}");
        let Command::Dns(mut args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("{line}")
        };
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            args.config = Some(path);
        }
        DnsConfig::resolve(*args, &|name| {
            let home = ("HOME", "/home/me");
            env.iter().chain([&home]).find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn layers_and_defaults() {
        let config = resolve("", &[], None).unwrap();
        assert_eq!(config.answers.data_dir, Path::new("/home/me/.local/share/fingerpost-dns"));
        assert_eq!(config.http_listen, ["127.0.0.1:8054".parse().unwrap()]);
        assert_eq!(config.answers.dns_listen, ["127.0.0.1:5300".parse().unwrap()]);
        assert_eq!((config.registry, config.follower_id), (None, None));
        let file = "registry = ['http://file:1']\nzone = 'file.example'\ndns-ttl = 7\nforward = ['10.0.0.1']\n\
                    follower-id = 'from-file'\n";
        let env = [("FINGERPOST_REGISTRY", "http://a:1,http://b:2"), ("FINGERPOST_ZONE", "env.example")];
        let config = resolve("--zone flag.example --follower-id me", &env, Some(file)).unwrap();
        assert_eq!(config.registry.unwrap(), ["http://a:1", "http://b:2"]);
        assert_eq!((config.answers.names.zone.as_str(), config.answers.dns_ttl), ("flag.example", 7));
        assert!(config.answers.forwarding.is_some());
        assert_eq!(config.follower_id.as_deref(), Some("me"));
    }

    #[test]
    fn what_is_not_its_own_is_refused() {
        let refusal = |flags, file| format!("{:#}", resolve(flags, &[], file).unwrap_err());
        assert!(refusal("", Some("store = 'etcd'\n")).contains("store"));
        assert!(refusal("--follower-id a/b", None).contains("follower-id `a/b`"));
        assert!(refusal("--dns-ttl 86401", None).contains("86400"));
        assert!(refusal("--cluster-name a/b", None).contains("a/b"));
    }
}
