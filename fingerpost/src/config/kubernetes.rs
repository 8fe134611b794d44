//! Which cluster is followed, and how, from the settings that say so.

use super::names::Pods;
use super::{LogFormat, Settings, StoreKind};
use anyhow::{Context, bail};
use clap::{Args, ValueHint};
use fingerpost_catalog::{Selector, Source};
use fingerpost_listener::{Cluster, LeaseName, Options};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A cluster to follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KubernetesConfig {
    /// How to reach it.
    pub(crate) cluster: Cluster,
    /// Only namespaces with these labels.
    pub(crate) namespace_selector: Option<String>,
    /// The Lease by which one of several listeners writes.
    pub(crate) lease: Option<LeaseName>,
    /// Follow pods, too.
    pub(crate) pods: bool,
}

impl KubernetesConfig {
    /// What the settings say of a cluster; none where none is to be followed. A kubeconfig alone does not ask for that.
    pub(super) fn from(settings: &Settings) -> anyhow::Result<Option<Self>> {
        if !settings.kubernetes.unwrap_or(false) {
            return Ok(None);
        }
        let shared = settings.store.unwrap_or_default() == StoreKind::Etcd;
        let config = Self {
            cluster: Cluster { kubeconfig: settings.kubeconfig.clone(), context: settings.context.clone() },
            namespace_selector: settings.kubernetes_namespace_selector.clone(),
            lease: settings.kubernetes_lease.clone().or_else(|| shared.then(default_lease)),
            // Names of pods can be verified only by who knows the pods.
            pods: settings.kubernetes_pods.unwrap_or_else(|| settings.answers.names.pods == Some(Pods::Verified)),
        };
        config.check()?;
        Ok(Some(config))
    }

    fn check(&self) -> anyhow::Result<()> {
        if let Some(selector) = &self.namespace_selector
            && let Err(error) = selector.parse::<Selector>()
        {
            bail!("--kubernetes-namespace-selector: {error}");
        }
        Ok(())
    }

    /// What the listener is to do, as the source of the cluster.
    pub(crate) fn options(&self, cluster_name: &str) -> anyhow::Result<Options> {
        let source: Source = format!("kubernetes/{cluster_name}").parse().context("cluster name")?;
        let mut options = Options::new(source);
        options.namespace_selector = self.namespace_selector.clone();
        options.lease = self.lease.clone();
        options.pods = self.pods;
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "fingerpost".to_owned());
        // Two processes may have one host's name, and one that comes back is another one.
        options.identity = format!("{host}-{}-{}", std::process::id(), started());
        Ok(options)
    }
}

fn default_lease() -> LeaseName {
    LeaseName { namespace: "kube-system".to_owned(), name: "fingerpost".to_owned() }
}

/// Milliseconds since 1970, in hexadecimal.
fn started() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", now.as_millis())
}

/// The flags of `listener`.
#[derive(Args, Debug)]
pub(crate) struct ListenerArgs {
    /// The registry to write to; several replicas with commas between them [default: --server]
    #[arg(long, value_name = "URL", value_delimiter = ',', value_hint = ValueHint::Url)]
    pub(crate) registry: Option<Vec<String>>,
    /// What the cluster is called: its source is `kubernetes/NAME`
    #[arg(long, env = "FINGERPOST_CLUSTER_NAME", value_name = "NAME", default_value = "default")]
    pub(crate) cluster_name: String,
    /// How to reach the cluster [default: as the pod whose this is]
    #[arg(long, env = "FINGERPOST_KUBECONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, env = "FINGERPOST_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Only namespaces with these labels, as in `team=a,!test`
    #[arg(long, env = "FINGERPOST_KUBERNETES_NAMESPACE_SELECTOR", value_name = "SELECTOR")]
    pub(crate) kubernetes_namespace_selector: Option<String>,
    /// The Lease by which one of several listeners writes [default: kube-system/fingerpost]
    #[arg(long, env = "FINGERPOST_KUBERNETES_LEASE", value_name = "NAMESPACE/NAME")]
    pub(crate) kubernetes_lease: Option<LeaseName>,
    /// Take no Lease: no other listener writes for this cluster
    #[arg(long, conflicts_with = "kubernetes_lease")]
    pub(crate) alone: bool,
    /// Follow pods, too
    #[arg(long, env = "FINGERPOST_KUBERNETES_PODS")]
    pub(crate) kubernetes_pods: bool,
    /// Where to serve probes and metrics, over plain HTTP; may repeat, port 0 takes a free one
    #[arg(long, env = "FINGERPOST_OPS_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    pub(crate) ops_listen: Vec<SocketAddr>,
    /// How to write the log
    #[arg(long, env = "FINGERPOST_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What to log, as in `info` or `info,kube=debug`
    #[arg(long, env = "FINGERPOST_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

impl ListenerArgs {
    /// The cluster to follow.
    pub(crate) fn kubernetes(&self) -> anyhow::Result<KubernetesConfig> {
        let config = KubernetesConfig {
            cluster: Cluster { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() },
            namespace_selector: self.kubernetes_namespace_selector.clone(),
            lease: match self.alone {
                true => None,
                false => Some(self.kubernetes_lease.clone().unwrap_or_else(default_lease)),
            },
            pods: self.kubernetes_pods,
        };
        config.check()?;
        Ok(config)
    }
}
