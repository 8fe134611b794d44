//! Joins the DNS server to the registry of the same process: effects in, explanations out.

use fingerpost_catalog::{
    Effects, HealthSet, InstanceQuery, InstanceView, NamespaceQuery, NamespaceView, Position, Replica, Selector,
    ServiceQuery, ServiceView,
};
use fingerpost_dns::Index;
use fingerpost_dns::explain::{Lookup, explain};
use fingerpost_dns::forward::Forward;
use fingerpost_registry::api::NameService;
use fingerpost_registry::live::{LiveReplica, Observer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// Objects read in one step of the initial fill.
const PAGE: usize = 1000;
/// Instances that an explanation looks at.
const MAX_EXPLAINED: usize = 1000;

/// Keeps the DNS index up to date with the feed.
pub(super) struct DnsObserver(Arc<Index>);

impl DnsObserver {
    pub(super) fn new(index: Arc<Index>) -> Self {
        Self(index)
    }
}

impl Observer for DnsObserver {
    fn load(&self, replica: &Replica) {
        let everything = Selector::default();
        let mut after = None;
        loop {
            let query = NamespaceQuery { selector: &everything, source: None, after: after.as_ref(), limit: PAGE };
            let page = replica.namespaces(&query);
            page.items.iter().for_each(|view| self.0.load_namespace(view));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut after = None;
        loop {
            let query = ServiceQuery {
                namespace: None,
                source: None,
                selector: &everything,
                after: after.as_ref(),
                limit: PAGE,
            };
            let page = replica.services(&query);
            page.items.iter().for_each(|view| self.0.load_service(view));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // Making the views costs about as much as compiling them, so each has a thread.
        let (pages, to_load) = std::sync::mpsc::sync_channel::<Vec<InstanceView>>(4);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                to_load.into_iter().flatten().for_each(|view| self.0.load_instance(Arc::new(view)));
            });
            let mut after = None;
            loop {
                let query = InstanceQuery {
                    namespace: None,
                    service: None,
                    source: None,
                    selector: &everything,
                    health: HealthSet::default(),
                    after: after.as_ref(),
                    limit: PAGE,
                };
                let page = replica.instances(&query);
                // It is there until the pages end.
                let _ = pages.send(page.items);
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            drop(pages);
        });
    }

    fn ready(&self, position: Position) {
        self.0.set_synced(position);
    }

    fn apply(&self, effects: &Effects, _reset: bool) {
        self.0.apply(effects);
    }
}

/// What the API may ask of the DNS server.
pub(super) struct DnsNames {
    index: Arc<Index>,
    live: Arc<LiveReplica>,
    listen: Vec<SocketAddr>,
    forward: Option<Arc<Forward>>,
}

impl DnsNames {
    pub(super) fn new(
        index: Arc<Index>,
        live: Arc<LiveReplica>,
        listen: Vec<SocketAddr>,
        forward: Option<Arc<Forward>>,
    ) -> Self {
        Self { index, live, listen, forward }
    }
}

impl NameService for DnsNames {
    fn explain(&self, name: &str, qtype: &str) -> Result<Value, String> {
        let explanation = explain(&self.index, name, qtype, &Views(&self.live));
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
}
