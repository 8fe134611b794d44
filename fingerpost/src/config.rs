//! The configuration of the servers: flags over `FINGERPOST_*` variables over a TOML file over defaults. Here is that of
//! `serve`; [`dns`] has that of `fingerpost dns`.

mod answers;
mod dns;
mod etcd;
mod file;
mod forward;
mod kubernetes;
mod names;

pub(crate) use answers::AnswersConfig;
pub(crate) use dns::{DnsArgs, DnsConfig};
pub(crate) use etcd::{EtcdConfig, EtcdUser, StoreKind};
pub(crate) use kubernetes::{KubernetesConfig, ListenerArgs};
pub(crate) use names::NamesConfig;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum, ValueHint};
use fingerpost_listener::LeaseName;
use fingerpost_registry::access::TlsFiles;
use fingerpost_registry::checks::Cidr;
use fingerpost_registry::members;
use fingerpost_registry::sources::SourceOptions;
use serde::Deserialize;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How the environment is read.
type LayerEnv<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The flags of `serve`.
#[derive(Args, Debug, Default)]
pub(crate) struct ServeArgs {
    /// A TOML file with the same settings, as in `http-listen = ["127.0.0.1:8053"]` [env: FINGERPOST_CONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Settings of one layer: the flags, the environment or the file. What is absent is left to the layer below.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where to keep the records: in the data folder, or in etcd with other replicas [env: FINGERPOST_STORE] [default:
    /// embedded]
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<StoreKind>,
    /// etcd's client URLs, with commas between them [env: FINGERPOST_ETCD_ENDPOINTS]
    #[arg(long, value_name = "URL", value_delimiter = ',', value_hint = ValueHint::Url)]
    pub(crate) etcd_endpoints: Option<Vec<String>>,
    /// The authority that signed etcd's certificates, in PEM [env: FINGERPOST_ETCD_CA]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// The certificate to show to etcd, in PEM [env: FINGERPOST_ETCD_CERT]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Its key, in PEM [env: FINGERPOST_ETCD_KEY]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) etcd_key: Option<PathBuf>,
    /// The etcd user; who else sees this command line sees a password given here [env: FINGERPOST_ETCD_USER]
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    pub(crate) etcd_user: Option<EtcdUser>,
    /// A file with the etcd user's password [env: FINGERPOST_ETCD_PASSWORD_FILE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) etcd_password_file: Option<PathBuf>,
    /// What all keys in etcd begin with [env: FINGERPOST_ETCD_PREFIX] [default: /fingerpost]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) etcd_prefix: Option<String>,
    /// Take an etcd that is known to lose leases [env: FINGERPOST_ETCD_ALLOW_OLD]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) etcd_allow_old: Option<bool>,
    /// How other replicas reach this one's REST API [env: FINGERPOST_ADVERTISE_URL]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) advertise_url: Option<String>,
    /// Where to serve the REST API; may repeat, port 0 takes a free one [env: FINGERPOST_HTTP_LISTEN] [default:
    /// 127.0.0.1:8053]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http_listen: Option<Vec<SocketAddr>>,
    /// The certificate of the REST API, PEM, followed by those between it and its CA; read again when it changes [env:
    /// FINGERPOST_TLS_CERT]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, PEM [env: FINGERPOST_TLS_KEY]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_key: Option<PathBuf>,
    /// The CA of client certificates, PEM; what each may do is in the tokens file [env: FINGERPOST_TLS_CLIENT_CA]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Who may call the REST API, and as what: the tokens file, see `fingerpost token new`; read again when it changes
    /// [env: FINGERPOST_TOKENS]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tokens: Option<PathBuf>,
    /// The CA of other replicas' certificates, PEM [env: FINGERPOST_PEER_CA] [default: the system's CAs]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) peer_ca: Option<PathBuf>,
    /// Where to serve probes, version and metrics to anyone, over plain HTTP; may repeat [env: FINGERPOST_OPS_LISTEN]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) ops_listen: Option<Vec<SocketAddr>>,
    /// Serve the REST API beyond loopback without TLS or without tokens [env: FINGERPOST_INSECURE]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) insecure: Option<bool>,
    /// How long a source may be silent until what it left counts as orphaned, as in `24h` [env:
    /// FINGERPOST_ORPHAN_AFTER] [default: 24h]
    #[arg(long, value_name = "TIME")]
    pub(crate) orphan_after: Option<Span>,
    /// How long a source may be silent until what it left is removed, as in `30d`; at least as long as orphan-after
    /// [env: FINGERPOST_ORPHAN_REMOVE_AFTER] [default: never]
    #[arg(long, value_name = "TIME")]
    pub(crate) orphan_remove_after: Option<Span>,
    /// Let checks be aimed at these addresses, which are else refused: link-local ones, metadata services, and loopback
    /// where the REST API is served beyond it; may repeat [env: FINGERPOST_CHECK_ALLOW]
    #[arg(long, value_name = "CIDR")]
    pub(crate) check_allow: Option<Vec<Cidr>>,
    /// CAs, PEM, that checks over TLS trust beside the system's [env: FINGERPOST_CHECK_CA]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) check_ca: Option<PathBuf>,
    /// Follow a Kubernetes cluster: the one whose pod this is, or that of --kubeconfig [env: FINGERPOST_KUBERNETES]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) kubernetes: Option<bool>,
    /// How to reach the cluster; goes with --kubernetes [env: FINGERPOST_KUBECONFIG]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [env: FINGERPOST_CONTEXT] [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Only namespaces of the cluster with these labels, as in `team=a,!test` [env:
    /// FINGERPOST_KUBERNETES_NAMESPACE_SELECTOR]
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) kubernetes_namespace_selector: Option<String>,
    /// The Lease by which one of several replicas follows the cluster [env: FINGERPOST_KUBERNETES_LEASE] [default:
    /// kube-system/fingerpost with --store etcd, else none]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) kubernetes_lease: Option<LeaseName>,
    /// Follow the cluster's pods, too [env: FINGERPOST_KUBERNETES_PODS] [default: with --pods verified]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) kubernetes_pods: Option<bool>,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) answers: answers::Settings,
}

/// A time with its unit, as in `15s` or `24h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error| format!("`{text}` is no time with a unit, as in `15s`, `10m`, `24h` or `30d`: {error}");
        humantime::parse_duration(text).map(Self).map_err(wrong)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How to write the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// JSON lines
    Json,
}

/// What `serve` runs with: every setting decided and checked.
#[derive(Clone, Debug)]
pub(crate) struct ServeConfig {
    /// What is answered, and where.
    pub(crate) answers: AnswersConfig,
    /// The store in etcd; none where it is in the data folder.
    pub(crate) etcd: Option<EtcdConfig>,
    /// How other replicas reach this one.
    pub(crate) advertise_url: Option<String>,
    /// Where to serve the REST API, at least one; loopback unless there are `tls` and `tokens`, or `insecure`.
    pub(crate) http_listen: Vec<SocketAddr>,
    /// TLS of the REST API.
    pub(crate) tls: Option<TlsFiles>,
    /// Who may call the REST API; without it, whoever reaches it.
    pub(crate) tokens: Option<PathBuf>,
    /// The CA of other replicas' certificates.
    pub(crate) peer_ca: Option<PathBuf>,
    /// Where to serve probes and metrics.
    pub(crate) ops_listen: Vec<SocketAddr>,
    /// The user accepts that there is no TLS or no access control beyond loopback.
    pub(crate) insecure: bool,
    /// When sources count as orphaned, and what then.
    pub(crate) sources: SourceOptions,
    /// What checks may be aimed at although it is else refused.
    pub(crate) check_allow: Vec<Cidr>,
    /// The CAs that checks trust beside the system's.
    pub(crate) check_ca: Option<PathBuf>,
    /// The cluster to follow.
    pub(crate) kubernetes: Option<KubernetesConfig>,
}

impl ServeConfig {
    /// The configuration from the flags, this process's environment and the file that one of them names.
    pub(crate) fn load(args: ServeArgs) -> anyhow::Result<Self> {
        Self::resolve(args, &|name| std::env::var_os(name))
    }

    fn resolve(args: ServeArgs, env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        let file = args.config.or_else(|| env("FINGERPOST_CONFIG").map(PathBuf::from));
        let file = file.as_deref().map(|path| file::read(path, file::serve)).transpose()?.unwrap_or_default();
        let settings = args.settings.over(Settings::from_env(env)?).over(file);

        let etcd = EtcdConfig::from(&settings)?;
        let kubernetes = KubernetesConfig::from(&settings)?;
        let config = Self {
            answers: AnswersConfig::from(settings.answers, env, "fingerpost")?,
            etcd,
            kubernetes,
            advertise_url: settings.advertise_url,
            http_listen: settings.http_listen.unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8053))]),
            tls: tls_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)?,
            tokens: settings.tokens,
            peer_ca: settings.peer_ca,
            ops_listen: settings.ops_listen.unwrap_or_default(),
            insecure: settings.insecure.unwrap_or(false),
            sources: SourceOptions {
                orphan_after: settings
                    .orphan_after
                    .map_or_else(|| SourceOptions::default().orphan_after, |Span(time)| time),
                remove_after: settings.orphan_remove_after.map(|Span(time)| time),
            },
            check_allow: settings.check_allow.unwrap_or_default(),
            check_ca: settings.check_ca,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.http_listen.is_empty() {
            bail!("http-listen needs at least one address");
        }
        if let Some(open) = self.http_listen.iter().find(|address| !address.ip().to_canonical().is_loopback())
            && !self.insecure
        {
            let missing = match (&self.tls, &self.tokens) {
                (Some(_), Some(_)) => None,
                (None, Some(_)) => {
                    Some("without TLS, so tokens could be read on the way; add --tls-cert and --tls-key")
                }
                (Some(_), None) => Some("to whoever reaches it; say who may call with --tokens"),
                (None, None) => Some(
                    "without TLS to whoever reaches it; add --tls-cert and --tls-key, and say who may call with --tokens",
                ),
            };
            if let Some(missing) = missing {
                bail!(
                    "refusing to serve the REST API on {open} {missing}; or listen on 127.0.0.1, or accept it with \
                     --insecure"
                );
            }
        }
        if self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) && self.tokens.is_none() {
            bail!(
                "--tls-client-ca needs --tokens: the [[certificate]] entries of that file say what each certificate may do"
            );
        }
        if let Some(url) = &self.advertise_url {
            let plain = members::check_url(url).map_err(|error| anyhow::anyhow!("--advertise-url {error}"))?;
            if plain == members::Way::Open && !self.insecure {
                bail!(
                    "--advertise-url: without https, what replicas say to each other could be read and changed on the \
                     way; name an https:// URL, or accept it with --insecure"
                );
            }
        }
        if self.sources.remove_after.is_some_and(|time| time < self.sources.orphan_after) {
            bail!("orphan-remove-after is shorter than orphan-after: what is removed should have been reported before");
        }
        Ok(())
    }
}

impl Settings {
    fn from_env(env: &LayerEnv<'_>) -> anyhow::Result<Self> {
        Ok(Self {
            store: value_from(env, "FINGERPOST_STORE")?,
            etcd_endpoints: list_from(env, "FINGERPOST_ETCD_ENDPOINTS")?,
            etcd_ca: value_from(env, "FINGERPOST_ETCD_CA")?,
            etcd_cert: value_from(env, "FINGERPOST_ETCD_CERT")?,
            etcd_key: value_from(env, "FINGERPOST_ETCD_KEY")?,
            etcd_user: secret_from(env, "FINGERPOST_ETCD_USER")?,
            etcd_password_file: value_from(env, "FINGERPOST_ETCD_PASSWORD_FILE")?,
            etcd_prefix: value_from(env, "FINGERPOST_ETCD_PREFIX")?,
            etcd_allow_old: value_from(env, "FINGERPOST_ETCD_ALLOW_OLD")?,
            advertise_url: value_from(env, "FINGERPOST_ADVERTISE_URL")?,
            http_listen: list_from(env, "FINGERPOST_HTTP_LISTEN")?,
            tls_cert: path_from(env, "FINGERPOST_TLS_CERT"),
            tls_key: path_from(env, "FINGERPOST_TLS_KEY"),
            tls_client_ca: path_from(env, "FINGERPOST_TLS_CLIENT_CA"),
            tokens: path_from(env, "FINGERPOST_TOKENS"),
            peer_ca: path_from(env, "FINGERPOST_PEER_CA"),
            ops_listen: list_from(env, "FINGERPOST_OPS_LISTEN")?,
            insecure: value_from(env, "FINGERPOST_INSECURE")?,
            orphan_after: value_from(env, "FINGERPOST_ORPHAN_AFTER")?,
            orphan_remove_after: value_from(env, "FINGERPOST_ORPHAN_REMOVE_AFTER")?,
            check_allow: list_from(env, "FINGERPOST_CHECK_ALLOW")?,
            check_ca: path_from(env, "FINGERPOST_CHECK_CA"),
            kubernetes: value_from(env, "FINGERPOST_KUBERNETES")?,
            kubeconfig: path_from(env, "FINGERPOST_KUBECONFIG"),
            context: text_from(env, "FINGERPOST_CONTEXT")?,
            kubernetes_namespace_selector: text_from(env, "FINGERPOST_KUBERNETES_NAMESPACE_SELECTOR")?,
            kubernetes_lease: value_from(env, "FINGERPOST_KUBERNETES_LEASE")?,
            kubernetes_pods: value_from(env, "FINGERPOST_KUBERNETES_PODS")?,
            answers: answers::Settings::from_env(env)?,
        })
    }

    /// These settings, and where they say nothing, those of the layer below.
    fn over(self, below: Self) -> Self {
        Self {
            store: self.store.or(below.store),
            etcd_endpoints: self.etcd_endpoints.or(below.etcd_endpoints),
            etcd_ca: self.etcd_ca.or(below.etcd_ca),
            etcd_cert: self.etcd_cert.or(below.etcd_cert),
            etcd_key: self.etcd_key.or(below.etcd_key),
            etcd_user: self.etcd_user.or(below.etcd_user),
            etcd_password_file: self.etcd_password_file.or(below.etcd_password_file),
            etcd_prefix: self.etcd_prefix.or(below.etcd_prefix),
            etcd_allow_old: self.etcd_allow_old.or(below.etcd_allow_old),
            advertise_url: self.advertise_url.or(below.advertise_url),
            http_listen: self.http_listen.or(below.http_listen),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            tls_client_ca: self.tls_client_ca.or(below.tls_client_ca),
            tokens: self.tokens.or(below.tokens),
            peer_ca: self.peer_ca.or(below.peer_ca),
            ops_listen: self.ops_listen.or(below.ops_listen),
            insecure: self.insecure.or(below.insecure),
            orphan_after: self.orphan_after.or(below.orphan_after),
            orphan_remove_after: self.orphan_remove_after.or(below.orphan_remove_after),
            check_allow: self.check_allow.or(below.check_allow),
            check_ca: self.check_ca.or(below.check_ca),
            kubernetes: self.kubernetes.or(below.kubernetes),
            kubeconfig: self.kubeconfig.or(below.kubeconfig),
            context: self.context.or(below.context),
            kubernetes_namespace_selector: self.kubernetes_namespace_selector.or(below.kubernetes_namespace_selector),
            kubernetes_lease: self.kubernetes_lease.or(below.kubernetes_lease),
            kubernetes_pods: self.kubernetes_pods.or(below.kubernetes_pods),
            answers: self.answers.over(below.answers),
        }
    }
}

/// Certificate and key go together, and a client CA with them.
fn tls_files(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> anyhow::Result<Option<TlsFiles>> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key, client_ca })),
        (Some(_), None) => bail!("--tls-cert needs --tls-key, the key of the certificate"),
        (None, Some(_)) => bail!("--tls-key needs --tls-cert, the certificate of the key"),
        (None, None) if client_ca.is_some() => bail!("--tls-client-ca needs --tls-cert and --tls-key"),
        (None, None) => Ok(None),
    }
}

/// The format with the text form that flags have.
struct LogFormatText(LogFormat);

impl FromStr for LogFormatText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        LogFormat::from_str(text, false).map(Self).map_err(|_| "write `text` or `json`".to_owned())
    }
}

/// A variable's text; set but empty counts as not set.
fn text_from(env: &LayerEnv<'_>, name: &str) -> anyhow::Result<Option<String>> {
    match env(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(_)) => bail!("the environment variable {name} is not UTF-8"),
    }
}

/// A path; set but empty counts as not set.
fn path_from(env: &LayerEnv<'_>, name: &str) -> Option<PathBuf> {
    env(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn parse<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> anyhow::Result<T> {
    text.trim().parse().map_err(|error| anyhow::anyhow!("the environment variable {name} is `{text}`: {error}"))
}

fn value_from<T: FromStr<Err: std::fmt::Display>>(env: &LayerEnv<'_>, name: &str) -> anyhow::Result<Option<T>> {
    text_from(env, name)?.map(|text| parse(name, &text)).transpose()
}

/// Like [`value_from`], but what the variable says is not repeated.
fn secret_from<T: FromStr<Err: std::fmt::Display>>(env: &LayerEnv<'_>, name: &str) -> anyhow::Result<Option<T>> {
    let parse =
        |text: String| text.parse().map_err(|error| anyhow::anyhow!("the environment variable {name}: {error}"));
    text_from(env, name)?.map(parse).transpose()
}

fn list_from<T: FromStr<Err: std::fmt::Display>>(env: &LayerEnv<'_>, name: &str) -> anyhow::Result<Option<Vec<T>>> {
    text_from(env, name)?.map(|text| text.split(',').map(|part| parse(name, part)).collect()).transpose()
}

/// `$XDG_DATA_HOME/<folder>`, or what the XDG specification has in its place.
fn default_data_dir(env: &LayerEnv<'_>, folder: &str) -> anyhow::Result<PathBuf> {
    // The specification wants relative paths ignored.
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join(folder))
        .context("no place to keep the data: neither XDG_DATA_HOME nor HOME is set; name one with --data-dir")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::path::Path;

    fn resolve(flags: &str, env: &[(&str, &str)], file: Option<&str>) -> anyhow::Result<ServeConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fingerpost.toml");
        let line = format!("fingerpost serve {flags}");
        let Command::Serve(mut args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("{line}")
        };
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            args.config = Some(path);
        }
        ServeConfig::resolve(*args, &|name| {
            let home = ("HOME", "/home/me");
            env.iter().chain([&home]).find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn refusal(flags: &str, env: &[(&str, &str)], file: Option<&str>) -> String {
        format!("{:#}", resolve(flags, env, file).unwrap_err())
    }

    #[test]
    fn defaults() {
        let config = resolve("", &[], None).unwrap();
        assert_eq!(config.answers.data_dir, Path::new("/home/me/.local/share/fingerpost"));
        assert_eq!(config.http_listen, ["127.0.0.1:8053".parse().unwrap()]);
        assert_eq!(config.answers.dns_listen, ["127.0.0.1:5300".parse().unwrap()]);
        assert_eq!(
            (config.answers.names.zone.as_str(), config.answers.dns_ttl, config.insecure),
            ("cluster.local", 5, false)
        );
        let config = resolve("", &[("XDG_DATA_HOME", "/data")], None).unwrap();
        assert_eq!(config.answers.data_dir, Path::new("/data/fingerpost"));
        let config = resolve("", &[("XDG_DATA_HOME", "relative")], None).unwrap();
        assert_eq!(config.answers.data_dir, Path::new("/home/me/.local/share/fingerpost"));
        assert!(refusal("", &[("HOME", "")], None).contains("--data-dir"));
    }

    #[test]
    fn flags_over_environment_over_file_over_defaults() {
        let file = "zone = 'file.example'\ncluster-name = 'file'\ndns-ttl = 7\nhttp-listen = ['127.0.0.1:1']\n\
                    log-format = 'json'\n";
        let env = [
            ("FINGERPOST_ZONE", "env.example"),
            ("FINGERPOST_CLUSTER_NAME", "env"),
            ("FINGERPOST_HTTP_LISTEN", "127.0.0.1:2, [::1]:2"),
        ];
        let flags = "--zone Flag.Example. --dns-listen 127.0.0.1:3 --dns-listen 127.0.0.1:4";
        let config = resolve(flags, &env, Some(file)).unwrap();
        assert_eq!(config.answers.names.zone, "flag.example");
        assert_eq!(config.answers.cluster_name, "env");
        assert_eq!(config.answers.dns_ttl, 7);
        assert_eq!(config.http_listen, ["127.0.0.1:2".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        assert_eq!(config.answers.dns_listen.len(), 2);
        assert_eq!(config.answers.log_format, LogFormat::Json);
        assert_eq!(config.answers.log, "info");
        let file = "check-allow = ['169.254.20.0/24']";
        assert_eq!(resolve("", &[], Some(file)).unwrap().check_allow, ["169.254.20.0/24".parse().unwrap()]);
        let env = [("FINGERPOST_CHECK_ALLOW", "10.0.0.1,::1")];
        assert_eq!(resolve("", &env, Some(file)).unwrap().check_allow.len(), 2);
        assert!(refusal("", &[], Some("check-allow = ['10.0.0.1/8']")).contains("10.0.0.1/8"));
        let env = [("FINGERPOST_CHECK_CA", "b.pem")];
        assert_eq!(resolve("", &env, Some("check-ca = 'a.pem'")).unwrap().check_ca, Some("b.pem".into()));
        assert_eq!(resolve("--check-ca c.pem", &env, None).unwrap().check_ca, Some("c.pem".into()));
    }

    #[test]
    fn names_of_all_layers() {
        use fingerpost_dns::{EndpointNames, Pods};
        let names = resolve("", &[], None).unwrap().answers.names;
        assert_eq!((names.pods, names.endpoint_names), (Pods::Insecure, EndpointNames::Address));
        let file = "zone = ['a.example', 'B.example.']\npods = 'disabled'\nendpoint-names = 'pod'\n";
        let names = resolve("", &[("FINGERPOST_PODS", "verified")], Some(file)).unwrap().answers.names;
        assert_eq!((names.zone.as_str(), names.aliases.as_slice()), ("a.example", &["b.example".to_owned()][..]));
        assert_eq!((names.pods, names.endpoint_names), (Pods::Verified, EndpointNames::Pod));
        let names = resolve("--zone c --zone d --pods insecure", &[("FINGERPOST_ZONE", "e")], Some(file))
            .unwrap()
            .answers
            .names;
        assert_eq!((names.zone.as_str(), names.aliases.len(), names.pods), ("c", 1, Pods::Insecure));
        let refused = refusal("", &[], Some("dns-ttl = 5\npods = 'some'\n"));
        assert!(refused.contains("line 2") && refused.contains("insecure"), "{refused}");
        assert!(refusal("", &[("FINGERPOST_ENDPOINT_NAMES", "id")], None).contains("`address` or `pod`"));
        assert!(refusal("", &[], Some("zone = []")).contains("at least one"));
        use fingerpost_dns::LogTarget;
        let log = |flags| resolve(flags, &[], None).unwrap().answers.names.query_log;
        assert_eq!(log(""), None);
        assert_eq!(log("--query-log -"), Some((LogTarget::Stdout, 1)));
        assert_eq!(log("--query-log stderr --query-log-sample 100"), Some((LogTarget::Stderr, 100)));
        assert_eq!(log("--query-log a.log"), Some((LogTarget::File("a.log".into()), 1)));
        assert!(refusal("--query-log-sample 2", &[], None).contains("no query-log"));
        assert!(refusal("", &[("FINGERPOST_QUERY_LOG_SAMPLE", "0")], None).contains("FINGERPOST_QUERY_LOG_SAMPLE"));
    }

    #[test]
    fn passwords_stay_out_of_messages() {
        for file in ["etcd-user = \"root:sesame\" x", "etcd-user = [\"root:sesame\"]"] {
            let refused = refusal("", &[], Some(file));
            assert!(refused.contains("line 1") && !refused.contains("sesame"), "{refused}");
        }
    }

    #[test]
    fn advertised_urls_are_checked() {
        for good in ["https://a.example:8053", "http://127.0.0.1:8053", "http://[::1]:8053/", "http://localhost:1"] {
            assert!(resolve(&format!("--advertise-url {good}"), &[], None).is_ok(), "{good}");
        }
        for bad in ["a.example:8053", "ftp://a.example", "https://", "https://u:p@a.example", "https://a.example?x=1"] {
            let refused = refusal(&format!("--advertise-url {bad}"), &[], None);
            assert!(refused.contains("--advertise-url") && !refused.contains("u:p"), "{refused}");
        }
        assert!(refusal("--advertise-url http://10.0.0.1:8053", &[], None).contains("--insecure"));
        assert!(resolve("--advertise-url http://10.0.0.1:8053 --insecure", &[], None).is_ok());
    }

    #[test]
    fn faults_name_the_place() {
        let unknown = refusal("", &[], Some("zone = 'a.b'\nhttp_listen = []\n"));
        assert!(unknown.contains("fingerpost.toml") && unknown.contains("http_listen"), "{unknown}");
        assert!(unknown.contains("line 2"), "{unknown}");
        let kind = refusal("", &[], Some("dns-ttl = 'x'"));
        assert!(kind.contains("line 1"), "{kind}");
        let env = refusal("", &[("FINGERPOST_DNS_LISTEN", "nowhere")], None);
        assert!(env.contains("FINGERPOST_DNS_LISTEN") && env.contains("nowhere"), "{env}");
        let upstream = refusal("", &[], Some("zone = 'a.b'\n\nforward = ['dns.example']\n"));
        assert!(upstream.contains("line 3") && upstream.contains("dns.example"), "{upstream}");
        assert!(resolve("", &[], Some("zone = 'a.b'\nforward = ['10.0.0.1']\n")).unwrap().answers.forwarding.is_some());
        assert!(refusal("--zone a..b", &[], None).contains("a..b"));
        assert!(refusal("--cluster-name a/b", &[], None).contains("a/b"));
        assert!(refusal("--dns-ttl 86401", &[], None).contains("86400"));
        assert!(refusal("--config /no/such/file", &[], None).contains("/no/such/file"));
    }

    #[test]
    fn tls_flags_go_together() {
        for (flags, missing) in [
            ("--tls-cert a", "--tls-key"),
            ("--tls-key a", "--tls-cert"),
            ("--tls-client-ca a", "--tls-cert"),
            ("--tls-cert a --tls-key b --tls-client-ca c", "--tokens"),
        ] {
            let error = refusal(flags, &[], None);
            assert!(error.contains(missing), "{flags}: {error}");
        }
        let file = "tls-cert = 'a'\ntls-key = 'b'\ntls-client-ca = 'c'\ntokens = 't'\nops-listen = ['127.0.0.1:1']\n";
        let config = resolve("--tls-key k", &[("FINGERPOST_TLS_CLIENT_CA", "e")], Some(file)).unwrap();
        let tls = config.tls.unwrap();
        assert_eq!((tls.certificate, tls.key, tls.client_ca), ("a".into(), "k".into(), Some("e".into())));
        assert_eq!(config.ops_listen.len(), 1);
    }

    #[test]
    fn etcd_is_asked_for_whole() {
        assert!(resolve("", &[], None).unwrap().etcd.is_none());
        let file = "store = 'etcd'\netcd-endpoints = ['https://a:2379']\netcd-user = 'me:secret'\n";
        let etcd = resolve("--etcd-prefix /other", &[], Some(file)).unwrap().etcd.unwrap();
        assert_eq!((etcd.endpoints.len(), etcd.prefix.as_str()), (1, "/other"));
        assert_eq!(etcd.user.as_ref().unwrap().0, "me");
        assert!(!format!("{etcd:?}").contains("secret"));
        let env = [("FINGERPOST_STORE", "etcd"), ("FINGERPOST_ETCD_ENDPOINTS", "http://a:1,http://b:2")];
        assert_eq!(resolve("", &env, None).unwrap().etcd.unwrap().endpoints, ["http://a:1", "http://b:2"]);
        assert!(refusal("--store etcd", &[], None).contains("--etcd-endpoints"));
        assert!(refusal("--etcd-endpoints http://a:1", &[], None).contains("--store etcd"));
        assert!(refusal("--store etcd --etcd-endpoints http://a:1 --etcd-user me", &[], None).contains("password"));
        assert!(!refusal("", &[("FINGERPOST_ETCD_USER", ":secret")], None).contains("secret"));
    }

    #[test]
    fn a_cluster_is_followed_only_where_that_is_asked_for() {
        assert!(resolve("--kubeconfig a", &[("KUBECONFIG", "b")], None).unwrap().kubernetes.is_none());
        let cluster =
            resolve("--kubernetes --pods verified", &[], Some("kubeconfig = 'f'\n")).unwrap().kubernetes.unwrap();
        assert_eq!((cluster.cluster.kubeconfig, cluster.lease, cluster.pods), (Some("f".into()), None, true));
        let etcd = [("FINGERPOST_STORE", "etcd"), ("FINGERPOST_ETCD_ENDPOINTS", "http://a:1")];
        let shared = resolve("--kubernetes", &etcd, None).unwrap().kubernetes.unwrap();
        assert_eq!(shared.lease.unwrap().name, "fingerpost", "several replicas, one of which writes");
        assert!(refusal("--kubernetes --kubernetes-namespace-selector =", &[], None).contains("namespace-selector"));
    }

    #[test]
    fn nothing_beyond_loopback_without_a_word() {
        let error = refusal("--http-listen 127.0.0.1:0 --http-listen 0.0.0.0:80", &[], None);
        assert!(error.contains("0.0.0.0:80") && error.contains("--insecure"), "{error}");
        assert!(resolve("--http-listen 0.0.0.0:80 --insecure", &[], None).unwrap().insecure);
        assert!(resolve("--http-listen 0.0.0.0:80", &[("FINGERPOST_INSECURE", "true")], None).is_ok());
        // A flag can take back what the environment says.
        refusal("--http-listen 0.0.0.0:80 --insecure=false", &[("FINGERPOST_INSECURE", "true")], None);
        let tls = "--http-listen 0.0.0.0:80 --tls-cert a.pem --tls-key a.key";
        assert!(refusal(tls, &[], None).contains("--tokens"));
        assert!(refusal("--http-listen 0.0.0.0:80 --tokens t", &[], None).contains("--tls-cert"));
        assert!(!resolve(&format!("{tls} --tokens t"), &[], None).unwrap().insecure);
        assert!(resolve(tls, &[("FINGERPOST_TOKENS", "t")], None).is_ok());
        assert!(resolve("--http-listen [::ffff:127.0.0.1]:0", &[], None).is_ok());
        assert!(resolve("--ops-listen 0.0.0.0:9", &[], None).is_ok(), "there is nothing to protect");
        assert!(resolve("--dns-listen 0.0.0.0:53", &[], None).is_ok(), "DNS answers its own zones only");
    }
}
