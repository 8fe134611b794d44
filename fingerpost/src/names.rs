//! Joins the DNS server to the replica of the same process: effects in, explanations out.

use crate::config::AnswersConfig;
use crate::whole;
use anyhow::Context;
use fingerpost_catalog::{
    Effects, HealthSet, InstanceQuery, InstanceView, NamespaceView, Position, Replica, Selector, ServiceView,
};
use fingerpost_dns::explain::{Lookup, explain};
use fingerpost_dns::forward::Forward;
use fingerpost_dns::{self as dns, Index, LogTarget, QueryLog};
use fingerpost_registry::api::NameService;
use fingerpost_registry::live::{LiveReplica, Observer};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Objects read in one step of the initial fill.
const PAGE: usize = 1000;
/// Most threads that compile in the initial fill.
const FILLERS: usize = 4;
/// Instances that an explanation looks at.
const MAX_EXPLAINED: usize = 1000;

/// What the index is made for.
pub(crate) fn index_config(config: &AnswersConfig) -> anyhow::Result<dns::Config> {
    let names = &config.names;
    let zone = |text: &String| text.parse().with_context(|| format!("zone `{text}`"));
    Ok(dns::Config {
        zone: zone(&names.zone)?,
        aliases: names.aliases.iter().map(zone).collect::<anyhow::Result<_>>()?,
        pods: names.pods,
        endpoint_names: names.endpoint_names,
        ttl: config.dns_ttl,
        negative_ttl: config.dns_negative_ttl,
        name_servers: config.dns_listen.iter().map(SocketAddr::ip).collect(),
        ..dns::Config::default()
    })
}

/// Opens the query log that the configuration asks for.
pub(crate) fn query_log((target, sample): (LogTarget, u32)) -> anyhow::Result<Arc<QueryLog>> {
    let log = QueryLog::open(target.clone(), sample);
    let log = log.with_context(|| match &target {
        LogTarget::File(path) => format!("can't write the query log {}", path.display()),
        LogTarget::Stdout | LogTarget::Stderr => "can't write the query log".to_owned(),
    })?;
    Ok(Arc::new(log))
}

/// Has a query log in a file opened again with each SIGHUP. Without one, the signal does what it always does.
pub(crate) fn reopen_on_hangup(
    log: Option<Arc<QueryLog>>,
    settings: Option<&(LogTarget, u32)>,
) -> anyhow::Result<impl Future<Output = Infallible> + use<>> {
    let in_file = matches!(settings, Some((LogTarget::File(_), _)));
    let signals = log.filter(|_| in_file).map(|log| anyhow::Ok((log, signal(SignalKind::hangup())?))).transpose()?;
    Ok(async move {
        if let Some((log, mut hangups)) = signals {
            while hangups.recv().await.is_some() {
                log.reopen();
            }
        }
        std::future::pending().await
    })
}

/// Keeps the DNS index up to date with the feed.
pub(crate) struct DnsObserver {
    index: Arc<Index>,
    /// Somebody else says when missing names may be denied.
    gated: bool,
}

impl DnsObserver {
    pub(crate) fn new(index: Arc<Index>, gated: bool) -> Self {
        Self { index, gated }
    }
}

impl Observer for DnsObserver {
    fn load(&self, replica: &Replica) {
        for page in whole::namespaces(|| replica, PAGE) {
            page.iter().for_each(|view| self.index.load_namespace(view));
        }
        for page in whole::services(|| replica, PAGE) {
            page.iter().for_each(|view| self.index.load_service(view));
        }
        // Compiling the views costs several times as much as making them.
        let (pages, to_load) = std::sync::mpsc::sync_channel::<Vec<InstanceView>>(2 * FILLERS);
        let to_load = Mutex::new(to_load);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(FILLERS) {
                scope.spawn(|| {
                    loop {
                        let page = to_load.lock().recv();
                        let Ok(page) = page else { return };
                        page.into_iter().for_each(|view| self.index.load_instance(Arc::new(view)));
                    }
                });
            }
            for page in whole::instances(|| replica, PAGE) {
                // They are there until the pages end.
                let _ = pages.send(page);
            }
            drop(pages);
        });
    }

    fn ready(&self, position: Position) {
        if !self.gated {
            self.index.set_synced(position);
        }
    }

    fn apply(&self, effects: &Effects, _reset: bool) {
        self.index.apply(effects);
    }
}

/// What the API may ask of the DNS server.
pub(crate) struct DnsNames {
    index: Arc<Index>,
    live: Arc<LiveReplica>,
    listen: Vec<SocketAddr>,
    cluster: String,
    forward: Option<Arc<Forward>>,
}

impl DnsNames {
    pub(crate) fn new(index: Arc<Index>, live: Arc<LiveReplica>, listen: Vec<SocketAddr>, cluster: String) -> Self {
        Self { index, live, listen, cluster, forward: None }
    }

    /// With names of others.
    pub(crate) fn forwarding(self, forward: Option<Arc<Forward>>) -> Self {
        Self { forward, ..self }
    }
}

impl NameService for DnsNames {
    fn explain(&self, name: &str, qtype: &str, from: Option<IpAddr>) -> Result<Value, String> {
        let explanation = explain((&self.index, self.forward.as_ref()), name, qtype, from, &Views(&self.live));
        // Without an answer, there was no question: the name or the type can't be asked for, and the step says why.
        if explanation.rcode.is_empty() {
            return Err(explanation.steps.into_iter().map(|step| step.text).collect::<Vec<_>>().join("; "));
        }
        serde_json::to_value(explanation).map_err(|error| error.to_string())
    }

    fn status(&self) -> Value {
        let stats = self.index.stats();
        json!({
            "listen": self.listen,
            "zone": self.index.config().zone.to_string(),
            "aliases": self.index.config().aliases.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "cluster": self.cluster,
            "pods": self.index.config().pods,
            "endpointNames": self.index.config().endpoint_names,
            "position": self.index.position(),
            "ageSeconds": self.index.age().as_secs_f64(),
            "names": stats.names,
            "records": stats.records,
            "upstreams": self.forward.as_ref().map(|forward| forward.states()),
        })
    }

    fn not_ready(&self) -> Option<String> {
        (!self.index.is_synced()).then(|| "has not received the whole catalog".to_owned())
    }
}

struct Views<'a>(&'a LiveReplica);

impl Lookup for Views<'_> {
    fn namespace(&self, name: &str) -> Option<Arc<NamespaceView>> {
        self.0.read().namespace(name).map(Arc::new)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<ServiceView>> {
        self.0.read().service(namespace, name).map(Arc::new)
    }

    fn instances(&self, namespace: &str, service: &str) -> Vec<Arc<InstanceView>> {
        let query = InstanceQuery {
            namespace: Some(namespace),
            service: Some(Some(service)),
            source: None,
            selector: &Selector::default(),
            health: HealthSet::default(),
            after: None,
            limit: MAX_EXPLAINED,
        };
        self.0.read().instances(&query).items.into_iter().map(Arc::new).collect()
    }

    fn at(&self, address: IpAddr) -> Vec<Arc<InstanceView>> {
        let replica = self.0.read();
        let keys = replica.instances_at(address);
        keys.iter().take(MAX_EXPLAINED).filter_map(|key| replica.instance(key)).map(Arc::new).collect()
    }
}
