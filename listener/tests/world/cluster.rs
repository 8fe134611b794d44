//! An API server: it lists, streams and watches what it is given.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    Namespaces,
    Services,
    EndpointSlices,
    Pods,
}

impl Kind {
    fn of(plural: &str) -> Option<Self> {
        match plural {
            "namespaces" => Some(Self::Namespaces),
            "services" => Some(Self::Services),
            "endpointslices" => Some(Self::EndpointSlices),
            "pods" => Some(Self::Pods),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<(Kind, String), Value>,
    events: Vec<(u64, Kind, String)>,
    /// Versions before this one are gone.
    compacted: u64,
    /// Lists from the cache come back empty.
    empty_cache: Option<Kind>,
    /// Lists come back empty, whoever answers.
    refused: Option<Kind>,
    /// Requests of each kind are answered with this status.
    failing: Option<u16>,
    no_streams: bool,
    /// Streamed lists end before they are complete.
    breaks_streams: bool,
    /// Lists in pages are answered with this status.
    failing_lists: Option<u16>,
    /// Lists without a version: those that no cache may answer.
    quorum_lists: u64,
    /// Leases may not be used.
    refuses_leases: bool,
    leases: BTreeMap<String, Value>,
    /// Raised to cut all watches.
    cuts: u64,
}

#[derive(Clone)]
pub(crate) struct Cluster {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    address: SocketAddr,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster =
            Self { inner: Arc::default(), changed: watch::Sender::new(0), address: listener.local_addr().unwrap() };
        cluster.inner.lock().unwrap().version = 10;
        let router = Router::new()
            .route("/api/v1/{plural}", get(objects))
            .route("/apis/discovery.k8s.io/v1/{plural}", get(objects))
            .route("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", axum::routing::post(create_lease))
            .route("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}", get(get_lease).put(put_lease))
            .with_state(cluster.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        cluster
    }

    pub(crate) fn config(&self) -> kube::Config {
        kube::Config::new(format!("http://{}", self.address).parse().unwrap())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap();
        let result = change(&mut inner);
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
        result
    }

    pub(crate) fn put(&self, kind: Kind, mut object: Value) {
        self.change(|inner| {
            inner.version += 1;
            object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            let meta = &object["metadata"];
            let key = format!("{}/{}", meta["namespace"].as_str().unwrap_or(""), meta["name"].as_str().unwrap());
            let known = inner.objects.insert((kind, key), object.clone()).is_some();
            let verb = if known { "MODIFIED" } else { "ADDED" };
            inner.events.push((inner.version, kind, event(verb, &object)));
        });
    }

    pub(crate) fn delete(&self, kind: Kind, key: &str) {
        self.change(|inner| {
            inner.version += 1;
            let mut object = inner.objects.remove(&(kind, key.to_owned())).unwrap();
            object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            inner.events.push((inner.version, kind, event("DELETED", &object)));
        });
    }

    /// Removes without an event, as if it had happened while nobody watched.
    pub(crate) fn vanish(&self, kind: Kind, key: &str) {
        self.change(|inner| inner.objects.remove(&(kind, key.to_owned())).unwrap());
    }

    /// Forgets all events, and cuts all watches: everybody has to list again.
    pub(crate) fn compact(&self) {
        self.change(|inner| {
            inner.version += 1;
            inner.compacted = inner.version;
            inner.events.clear();
            inner.cuts += 1;
        });
    }

    pub(crate) fn cut(&self) {
        self.change(|inner| inner.cuts += 1);
    }

    pub(crate) fn empty_cache(&self, kind: Option<Kind>) {
        self.change(|inner| inner.empty_cache = kind);
    }

    pub(crate) fn refuse(&self, kind: Option<Kind>) {
        self.change(|inner| inner.refused = kind);
    }

    pub(crate) fn fail(&self, status: Option<u16>) {
        self.change(|inner| (inner.failing, inner.cuts) = (status, inner.cuts + 1));
    }

    pub(crate) fn break_streams(&self) {
        self.change(|inner| inner.breaks_streams = true);
    }

    pub(crate) fn fail_lists(&self, status: Option<u16>) {
        self.change(|inner| inner.failing_lists = status);
    }

    pub(crate) fn without_streams(&self) {
        self.change(|inner| inner.no_streams = true);
    }

    pub(crate) fn quorum_lists(&self) -> u64 {
        self.inner.lock().unwrap().quorum_lists
    }

    pub(crate) fn refuse_leases(&self, refuses: bool) {
        self.change(|inner| inner.refuses_leases = refuses);
    }

    pub(crate) fn lease_holder(&self) -> Option<String> {
        let inner = self.inner.lock().unwrap();
        inner.leases.values().next().and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned))
    }

    pub(crate) fn namespace(&self, name: &str) {
        self.put(Kind::Namespaces, json!({"metadata": {"name": name}}));
    }

    pub(crate) fn headless(&self, namespace: &str, name: &str) {
        let spec = json!({"clusterIP": "None", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}]});
        self.put(Kind::Services, json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}));
    }

    /// A service with an address of its own, these labels, and these annotations.
    pub(crate) fn service(&self, namespace: &str, name: &str, labels: Value, annotations: Value) {
        let spec =
            json!({"clusterIP": "10.96.0.9", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}]});
        let meta = json!({"namespace": namespace, "name": name, "labels": labels, "annotations": annotations});
        self.put(Kind::Services, json!({"metadata": meta, "spec": spec}));
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str, address: &str) {
        let meta = json!({"namespace": namespace, "name": name, "uid": format!("uid-{name}")});
        self.put(Kind::Pods, json!({"metadata": meta, "status": {"phase": "Running", "podIP": address}}));
    }

    /// A slice of a service with these pods, each with an address.
    pub(crate) fn slice(&self, namespace: &str, name: &str, service: &str, pods: &[(&str, &str)]) {
        let endpoint = |(pod, address): &(&str, &str)| {
            json!({"addresses": [address], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace, "uid": format!("uid-{pod}")}})
        };
        let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let meta = json!({"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now}});
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
        let slice = json!({"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports});
        self.put(Kind::EndpointSlices, slice);
    }
}

/// A line of a watch, with its fields in the order in which API servers write them.
fn event(verb: &str, object: &Value) -> String {
    format!("{{\"type\":\"{verb}\",\"object\":{object}}}\n")
}

fn refusal(code: u16, message: &str) -> Response {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": reason, "metadata": {}});
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}

async fn objects(
    State(cluster): State<Cluster>,
    Path(plural): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let Some(kind) = Kind::of(&plural) else { return refusal(404, "no such resource") };
    let watches = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let initial = query.get("sendInitialEvents").is_some_and(|initial| initial == "true");
    let mut inner = cluster.inner.lock().unwrap();
    if inner.refused == Some(kind) {
        return refusal(403, &format!("{plural} is forbidden"));
    }
    if let Some(code) = inner.failing {
        return refusal(code, "told to fail");
    }
    if let Some(code) = inner.failing_lists.filter(|_| !watches) {
        return refusal(code, "told to fail lists");
    }
    if initial && inner.no_streams {
        return refusal(422, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled");
    }
    let cached = initial || query.contains_key("resourceVersion");
    let items: Vec<Value> = match inner.empty_cache {
        Some(empty) if empty == kind && cached => Vec::new(),
        _ => inner.objects.iter().filter(|((of, _), _)| *of == kind).map(|(_, object)| object.clone()).collect(),
    };
    if !watches {
        inner.quorum_lists += u64::from(!cached);
        let list = json!({"kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": inner.version.to_string()}});
        return list.to_string().into_response();
    }
    let mut first = String::new();
    let mut after: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default();
    if initial {
        after = inner.version;
        for item in items {
            first.push_str(&event("ADDED", &item));
        }
        if inner.breaks_streams {
            return first.into_response();
        }
        let meta = json!({"resourceVersion": after.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
        let bookmark = json!({"kind": "X", "apiVersion": "v1", "metadata": meta});
        first.push_str(&event("BOOKMARK", &bookmark));
    } else if after < inner.compacted {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
            "message": "too old resource version", "metadata": {}});
        return event("ERROR", &gone).into_response();
    }
    let cuts = inner.cuts;
    drop(inner);
    let changes = cluster.changed.subscribe();
    let stream = futures_util::stream::unfold(
        (cluster, changes, after, Some(first)),
        move |(cluster, mut changes, after, first)| async move {
            if let Some(first) = first.filter(|first| !first.is_empty()) {
                return Some((Ok::<_, std::io::Error>(first), (cluster, changes, after, None)));
            }
            loop {
                changes.borrow_and_update();
                let (text, latest, cut) = {
                    let inner = cluster.inner.lock().unwrap();
                    let new = inner.events.iter().filter(|(version, of, _)| *version > after && *of == kind);
                    let text: String = new.map(|(_, _, event)| event.as_str()).collect();
                    (text, inner.version, inner.cuts != cuts)
                };
                if cut {
                    return None;
                }
                if !text.is_empty() {
                    return Some((Ok(text), (cluster, changes, latest, None)));
                }
                changes.changed().await.ok()?;
            }
        },
    );
    Body::from_stream(stream).into_response()
}

async fn create_lease(State(cluster): State<Cluster>, Path(namespace): Path<String>, body: String) -> Response {
    let mut lease: Value = serde_json::from_str(&body).unwrap();
    cluster.change(|inner| {
        let name = format!("{namespace}/{}", lease["metadata"]["name"].as_str().unwrap());
        if inner.leases.contains_key(&name) {
            return refusal(409, "exists");
        }
        inner.version += 1;
        lease["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        inner.leases.insert(name, lease.clone());
        (StatusCode::CREATED, lease.to_string()).into_response()
    })
}

async fn get_lease(State(cluster): State<Cluster>, Path((namespace, name)): Path<(String, String)>) -> Response {
    let inner = cluster.inner.lock().unwrap();
    if inner.refuses_leases {
        return refusal(403, "leases are forbidden");
    }
    match inner.leases.get(&format!("{namespace}/{name}")) {
        Some(lease) => lease.to_string().into_response(),
        None => refusal(404, "no such lease"),
    }
}

async fn put_lease(
    State(cluster): State<Cluster>,
    Path((namespace, name)): Path<(String, String)>,
    body: String,
) -> Response {
    let mut lease: Value = serde_json::from_str(&body).unwrap();
    cluster.change(|inner| {
        let present = &inner.leases[&format!("{namespace}/{name}")];
        if present["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] {
            return refusal(409, "changed");
        }
        inner.version += 1;
        lease["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        inner.leases.insert(format!("{namespace}/{name}"), lease.clone());
        lease.to_string().into_response()
    })
}
