//! What a client knows of a service: its endpoints, and snapshots of all of them.
//!
//! An [`Endpoint`] is an instance as the registry last told it. It never changes: a change makes another one, and what
//! did not change is the same allocation in successive snapshots, so that holding on to either is cheap.

use fingerpost_catalog::document::InstanceDocument;
use fingerpost_catalog::{Health, Port, Position, Source};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

/// The weight of an instance that declares none.
const DEFAULT_WEIGHT: u32 = 100;

/// What tells an endpoint from its siblings: who declared it, and its id, which is unique among that source's instances
/// of the service. Cheap to clone.
///
/// ```
/// use fingerpost_client::{EndpointKey, catalog::Source};
///
/// let key = EndpointKey::new(Source::api(), "web-1");
/// assert_eq!(key.to_string(), "api/web-1");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    source: Source,
    id: Arc<str>,
}

impl EndpointKey {
    /// The key of `source`'s instance `id`.
    pub fn new(source: Source, id: &str) -> Self {
        Self { source, id: Arc::from(id) }
    }

    /// Who declared the instance.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The instance's id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.id)
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One endpoint of a service: an instance, as the registry last told it. Shared, never changed in place.
///
/// ```
/// use fingerpost_client::{Endpoint, catalog::{Port, Protocol, document::InstanceDocument}};
///
/// let endpoint = Endpoint::new(InstanceDocument {
///     id: Some("web-1".into()),
///     addresses: vec!["10.0.0.1".parse()?],
///     ports: vec![Port { name: "grpc".into(), port: 50051, protocol: Protocol::Tcp, app_protocol: None }],
///     ..Default::default()
/// });
/// assert_eq!(endpoint.socket_addr(Some("grpc")), Some("10.0.0.1:50051".parse()?));
/// assert_eq!(endpoint.socket_addr(Some("http")), None);
/// assert_eq!(endpoint.weight(), 100);
/// assert!(endpoint.is_usable());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    key: EndpointKey,
    document: Arc<InstanceDocument>,
    /// The service's, for an instance without ports of its own.
    service_ports: Arc<[Port]>,
}

impl Endpoint {
    /// The endpoint that `document` describes. Where it names no source, that is `api`, as on writes.
    pub fn new(document: InstanceDocument) -> Self {
        let source = document.source.clone().unwrap_or_else(Source::api);
        let key = EndpointKey::new(source, document.id.as_deref().unwrap_or_default());
        Self { key, document: Arc::new(document), service_ports: Arc::default() }
    }

    /// The same with the ports of its service, which apply where the instance has none of its own.
    #[must_use]
    pub fn with_service_ports(mut self, ports: Arc<[Port]>) -> Self {
        self.service_ports = ports;
        self
    }

    /// What tells it from its siblings.
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// All that the registry says of it.
    pub fn document(&self) -> &Arc<InstanceDocument> {
        &self.document
    }

    /// Where it is reached: v4 and v6 of one endpoint together, at least one.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.document.addresses
    }

    /// Its ports: its own or, where it has none, its service's.
    pub fn ports(&self) -> &[Port] {
        if self.document.ports.is_empty() { &self.service_ports } else { &self.document.ports }
    }

    /// The number of the port of that name, or of the first port.
    pub fn port(&self, name: Option<&str>) -> Option<u16> {
        let mut ports = self.ports().iter();
        match name {
            None => ports.next(),
            Some(name) => ports.find(|port| port.name == name),
        }
        .map(|port| port.port)
    }

    /// Its first address with the port of that name, or with the first port. None where there is no such port.
    pub fn socket_addr(&self, port: Option<&str>) -> Option<SocketAddr> {
        Some(SocketAddr::new(*self.addresses().first()?, self.port(port)?))
    }

    /// Its share of the load beside its siblings', 0 to 65535; 100 where none is declared.
    pub fn weight(&self) -> u32 {
        self.document.weight.map_or(DEFAULT_WEIGHT, u32::from)
    }

    /// The zone it runs in.
    pub fn zone(&self) -> Option<&str> {
        self.document.zone.as_deref()
    }

    /// The node it runs on.
    pub fn node(&self) -> Option<&str> {
        self.document.node.as_deref()
    }

    /// Its labels, sorted by key.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.document.labels.0
    }

    /// Its effective health: the worst of what is known of it, `passing` where nothing is.
    pub fn health(&self) -> Health {
        self.document.effective_health.or(self.document.health).unwrap_or_default()
    }

    /// Whether it works, so far as is known: its health is `passing` or `warning`.
    pub fn is_usable(&self) -> bool {
        matches!(self.health(), Health::Passing | Health::Warning)
    }

    /// Whether it is out of use because somebody said so, not because it was found broken: it is drained, or declared
    /// not ready. Such an endpoint is not to be asked even where nothing else is left.
    pub fn is_withdrawn(&self) -> bool {
        self.document.health_parts.as_ref().is_some_and(|parts| {
            [&parts.drain, &parts.conditions].into_iter().flatten().any(|part| part.health == Health::Critical)
        })
    }
}

/// Where a snapshot comes from, and so how far it can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Freshness {
    /// From the registry, and followed.
    #[default]
    Live,
    /// The registry says something else (that there is no instance left), which is not believed yet.
    Kept,
    /// From the disk cache; the registry has not been heard.
    Cached {
        /// When it was written.
        as_of: SystemTime,
    },
}

/// A consistent snapshot: all endpoints of one service at one position, sorted by key.
///
/// ```
/// use fingerpost_client::{Endpoint, Endpoints, catalog::document::InstanceDocument};
/// use std::sync::Arc;
///
/// let web = |id: &str| Arc::new(Endpoint::new(InstanceDocument { id: Some(id.into()), ..Default::default() }));
/// let snapshot = Endpoints::new("prod", "web", vec![web("b"), web("a")], None);
/// assert_eq!(snapshot.len(), 2);
/// assert_eq!(snapshot.iter().next().map(|endpoint| endpoint.key().id()), Some("a"));
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoints {
    namespace: Arc<str>,
    service: Arc<str>,
    all: Vec<Arc<Endpoint>>,
    position: Option<Position>,
    freshness: Freshness,
}

impl Endpoints {
    /// The snapshot of a service's instances, in any order. `position` is where the registry's history had come to;
    /// none where that is not known, as before the first word from it.
    pub fn new(
        namespace: impl Into<Arc<str>>,
        service: impl Into<Arc<str>>,
        instances: Vec<Arc<Endpoint>>,
        position: Option<Position>,
    ) -> Self {
        let mut all = instances;
        if !all.is_sorted_by(|a, b| a.key < b.key) {
            all.sort_by(|a, b| a.key.cmp(&b.key));
            // A key that comes twice is the caller's fault; which one stays is not defined, but one does.
            all.dedup_by(|a, b| a.key == b.key);
        }
        let freshness = Freshness::default();
        Self { namespace: namespace.into(), service: service.into(), all, position, freshness }
    }

    /// The same, with another freshness than live.
    #[must_use]
    pub fn with_freshness(mut self, freshness: Freshness) -> Self {
        self.freshness = freshness;
        self
    }

    /// The service's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// All endpoints, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Endpoint>> + Clone {
        self.all.iter()
    }

    /// Those that work, so far as is known.
    pub fn usable(&self) -> impl Iterator<Item = &Arc<Endpoint>> + Clone {
        self.all.iter().filter(|endpoint| endpoint.is_usable())
    }

    /// All endpoints as a slice, sorted by key.
    pub fn as_slice(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// The endpoint of that key.
    pub fn get(&self, key: &EndpointKey) -> Option<&Arc<Endpoint>> {
        self.all.binary_search_by(|endpoint| endpoint.key.cmp(key)).ok().and_then(|at| self.all.get(at))
    }

    /// How many there are, whatever their health.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The position of the registry's history that this shows, where that is known.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Where it comes from.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Whether the registry may know better by now: the snapshot is from the disk cache, or kept although the registry
    /// says otherwise.
    pub fn is_stale(&self) -> bool {
        self.freshness != Freshness::Live
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = &'a Arc<Endpoint>;
    type IntoIter = std::slice::Iter<'a, Arc<Endpoint>>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::{HealthParts, PartState, Protocol};

    fn part(health: Health) -> Option<PartState> {
        Some(PartState { health, note: String::new(), since: None })
    }

    fn port(name: &str, port: u16) -> Port {
        Port { name: name.to_owned(), port, protocol: Protocol::Tcp, app_protocol: None }
    }

    #[test]
    fn own_ports_go_before_the_services() {
        let bare = Endpoint::new(InstanceDocument { addresses: vec![[10, 0, 0, 1].into()], ..Default::default() });
        assert_eq!(bare.socket_addr(None), None);
        let ports: Arc<[Port]> = vec![port("http", 80), port("grpc", 81)].into();
        let of_service = bare.clone().with_service_ports(ports.clone());
        assert_eq!((of_service.port(None), of_service.port(Some("grpc"))), (Some(80), Some(81)));
        let own = InstanceDocument { ports: vec![port("grpc", 9000)], ..(*bare.document).clone() };
        let own = Endpoint::new(own).with_service_ports(ports);
        assert_eq!((own.port(None), own.port(Some("http"))), (Some(9000), None));
        assert_eq!(own.socket_addr(None).unwrap().to_string(), "10.0.0.1:9000");
    }

    #[test]
    fn the_effective_health_counts() {
        let endpoint = |health, effective_health| {
            Endpoint::new(InstanceDocument { health, effective_health, ..Default::default() })
        };
        assert!(endpoint(None, None).is_usable());
        assert!(endpoint(Some(Health::Critical), Some(Health::Warning)).is_usable());
        assert!(!endpoint(Some(Health::Passing), Some(Health::Critical)).is_usable());
        assert!(!endpoint(Some(Health::Unknown), None).is_usable());
    }

    #[test]
    fn drained_is_not_broken() {
        let endpoint = |parts| Endpoint::new(InstanceDocument { health_parts: Some(parts), ..Default::default() });
        assert!(!endpoint(HealthParts { reported: part(Health::Critical), ..Default::default() }).is_withdrawn());
        assert!(endpoint(HealthParts { drain: part(Health::Critical), ..Default::default() }).is_withdrawn());
        assert!(endpoint(HealthParts { conditions: part(Health::Critical), ..Default::default() }).is_withdrawn());
        assert!(!endpoint(HealthParts { conditions: part(Health::Passing), ..Default::default() }).is_withdrawn());
    }

    #[test]
    fn a_snapshot_is_sorted_and_finds_by_key() {
        let endpoint = |source: &str, id: &str| {
            let source = Some(source.parse().unwrap());
            Arc::new(Endpoint::new(InstanceDocument { source, id: Some(id.to_owned()), ..Default::default() }))
        };
        let all = vec![endpoint("kubernetes/a", "1"), endpoint("api", "2"), endpoint("api", "1"), endpoint("api", "2")];
        let snapshot = Endpoints::new("prod", "web", all, None);
        let keys: Vec<String> = snapshot.iter().map(|endpoint| endpoint.key().to_string()).collect();
        assert_eq!(keys, ["api/1", "api/2", "kubernetes/a/1"]);
        for endpoint in &snapshot {
            assert!(Arc::ptr_eq(snapshot.get(endpoint.key()).unwrap(), endpoint));
        }
        assert!(snapshot.get(&EndpointKey::new(Source::api(), "3")).is_none());
        assert!(!snapshot.is_stale() && snapshot.with_freshness(Freshness::Kept).is_stale());
    }
}
