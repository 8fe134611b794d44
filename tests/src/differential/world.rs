//! A random world of Kubernetes objects that changes: all valid, some odd, all of it from one seed.
//!
//! Names and addresses come from small sets, so that things meet: services of one name in many namespaces, one address in
//! many services, slices whose service comes later or never, names that come back as something else.

use crate::kubernetes::api::Api;
use crate::kubernetes::objects;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How much there is.
#[derive(Clone, Debug)]
pub struct Size {
    /// Namespaces.
    pub namespaces: usize,
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub slices: usize,
    /// Pods.
    pub pods: usize,
}

/// What there is now, and what there was.
pub struct World {
    rng: StdRng,
    size: Size,
    /// All objects, as the API server has them, by their path in its API.
    objects: BTreeMap<String, Value>,
    /// Objects that are gone or were otherwise.
    past: Vec<Value>,
    /// What the ports of a service's slices are, by namespace, service and group of pods: what a pod's endpoints say of
    /// it does not contradict itself, as no controller's does.
    ports: BTreeMap<(String, String, bool), Value>,
    counter: usize,
    /// Names that are aliases, or were.
    aliases: BTreeSet<String>,
}

/// Names that mean something elsewhere in a name of the cluster, or look odd, besides plain ones.
const ODD_SERVICES: [&str; 10] = [
    "svc",
    "pod",
    "ns",
    "dns",
    "http",
    "tcp",
    "a",
    "x-1",
    "dns-version",
    "a23456789-b23456789-c23456789-d23456789-e23456789-f23456",
];
const ODD_NAMESPACES: [&str; 6] = ["svc", "pod", "10-200-0-1", "0", "cluster", "z"];
const HOSTNAMES: [&str; 8] = ["web-0", "web-1", "web-2", "db", "10-200-0-1", "svc", "a", "0"];
const PORT_NAMES: [&str; 6] = ["http", "https", "grpc", "dns", "a-b", "x1"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// What is done to the world.
enum Change {
    Put(Value),
    Delete(Value),
}

impl World {
    /// An empty one.
    pub fn new(seed: u64, size: Size) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            size,
            objects: BTreeMap::new(),
            past: Vec::new(),
            ports: BTreeMap::new(),
            counter: 0,
            aliases: BTreeSet::new(),
        }
    }

    /// Whether a name ever was an alias; those may go round.
    pub fn was_alias(&self, name: &str) -> bool {
        self.aliases.contains(&name.to_lowercase())
    }

    /// All objects of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.values().filter(move |object| object["kind"] == kind)
    }

    /// Objects that are gone or were otherwise.
    pub fn past(&self) -> &[Value] {
        &self.past
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The Service and the slices that a name is about, a line each; nothing where it is about none.
    pub fn about(&self, name: &str) -> String {
        let name = name.to_lowercase();
        let Some(rest) = name.strip_suffix(".svc.cluster.local") else { return String::new() };
        let mut labels = rest.rsplit('.');
        let (Some(namespace), Some(service)) = (labels.next(), labels.next()) else { return String::new() };
        let is_of_it = |object: &&Value| {
            let label = &object["metadata"]["labels"]["kubernetes.io/service-name"];
            let service_itself = object["kind"] == "Service" && objects::name(object) == service;
            objects::namespace_of(object) == namespace && (service_itself || label == service)
        };
        let line = |object: &Value| match object["kind"].as_str() {
            Some("Service") => format!("    Service {}\n", object["spec"]),
            _ => format!("    {} {} {}\n", objects::name(object), object["ports"], object["endpoints"]),
        };
        self.objects.values().filter(is_of_it).map(line).collect()
    }

    /// Takes in what the API server has made by itself, and fills the cluster.
    pub async fn fill(&mut self, api: &Api) {
        // All of it, or the same seed would make another world: it comes little by little after the start.
        for (path, count) in
            [("/api/v1/namespaces", 4), ("/api/v1/services", 1), ("/apis/discovery.k8s.io/v1/endpointslices", 1)]
        {
            let (version, kind) = match path.rsplit('/').next() {
                Some("namespaces") => ("v1", "Namespace"),
                Some("services") => ("v1", "Service"),
                _ => ("discovery.k8s.io/v1", "EndpointSlice"),
            };
            let mut own = api.list(path).await.expect("a list");
            while own.len() < count {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                own = api.list(path).await.expect("a list");
            }
            for mut object in own {
                object["apiVersion"] = json!(version);
                object["kind"] = json!(kind);
                self.objects.insert(objects::path(&object), object);
            }
        }
        let namespaces: Vec<Change> = ODD_NAMESPACES
            .iter()
            .map(|name| (*name).to_owned())
            .chain((0..self.size.namespaces).map(|n| format!("ns-{n}")))
            .map(|name| Change::Put(objects::namespace(&name)))
            .collect();
        self.apply(api, namespaces).await;
        let services = self.several(self.size.services, Self::service);
        self.apply(api, services).await;
        let slices = self.several(self.size.slices, Self::slice);
        self.apply(api, slices).await;
        let pods = self.several(self.size.pods, Self::pod);
        self.apply(api, pods).await;
    }

    /// Makes so many changes, of all kinds, and adds what has become too little.
    pub async fn change(&mut self, api: &Api, count: usize) {
        let changes = self.several(count, Self::any_change);
        self.apply(api, changes).await;
        let missing = |kind: &str, size: usize| size.saturating_sub(self.of_kind(kind).count());
        let (services, slices, pods) = (
            missing("Service", self.size.services),
            missing("EndpointSlice", self.size.slices),
            missing("Pod", self.size.pods),
        );
        let services = self.several(services, Self::service);
        self.apply(api, services).await;
        let others = [self.several(slices, Self::slice), self.several(pods, Self::pod)].into_iter().flatten();
        self.apply(api, others.collect()).await;
    }

    fn several(&mut self, count: usize, one: impl Fn(&mut Self) -> Option<Change>) -> Vec<Change> {
        (0..count).filter_map(|_| one(self)).collect()
    }

    /// The ports of a slice with pods of a group.
    fn slice_ports(&mut self, namespace: &str, service: &str, group: bool) -> Value {
        let key = (namespace.to_owned(), service.to_owned(), group);
        if !self.ports.contains_key(&key) {
            let ports = self.ports("port", true);
            self.ports.insert(key.clone(), ports);
        }
        self.ports[&key].clone()
    }

    /// Makes changes, at most one to an object, in an order in which the API server takes them.
    async fn apply(&mut self, api: &Api, changes: Vec<Change>) {
        let mut seen = BTreeSet::new();
        let (mut puts, mut deletions) = (Vec::new(), Vec::new());
        for change in changes {
            let (Change::Put(object) | Change::Delete(object)) = &change;
            if seen.insert(objects::path(object)) {
                match change {
                    Change::Put(object) => puts.push(object),
                    Change::Delete(object) => deletions.push(object),
                }
            }
        }
        // What lies in a namespace that goes, goes before it; what is to come there, does not.
        let gone: BTreeSet<String> =
            deletions.iter().filter(|o| o["kind"] == "Namespace").map(|o| objects::name(o).to_owned()).collect();
        puts.retain(|object| !gone.contains(objects::namespace_of(object)));
        deletions.retain(|object| !gone.contains(objects::namespace_of(object)));
        let inside = self.objects.values().filter(|object| gone.contains(objects::namespace_of(object)));
        deletions.extend(inside.cloned());
        for object in &deletions {
            self.past.extend(self.objects.remove(&objects::path(object)));
        }
        let (namespaces, contents): (Vec<Value>, Vec<Value>) =
            deletions.into_iter().partition(|object| object["kind"] == "Namespace");
        api.delete_all(&contents).await;
        api.delete_all(&namespaces).await;
        for kind in ["Namespace", "Service", "EndpointSlice", "Pod"] {
            let batch: Vec<Value> = puts.extract_if(.., |object| object["kind"] == kind).collect();
            // A service of another type is another object: what the API server gave to the old one must not stay.
            let replaced: Vec<Value> = batch.iter().filter(|object| self.changes_type(object)).cloned().collect();
            api.delete_all(&replaced).await;
            let stored = if kind == "Pod" {
                let mut stored = Vec::new();
                for pod in &batch {
                    stored.push(api.put_pod(pod).await);
                }
                stored
            } else {
                api.put_all(&batch).await
            };
            for object in stored {
                self.past.extend(self.objects.insert(objects::path(&object), object));
            }
        }
        self.publish(api).await;
    }

    /// What the controller does when a Service begins to publish addresses that are not ready: all count as ready.
    async fn publish(&mut self, api: &Api) {
        let is_unready = |endpoint: &Value| endpoint["conditions"]["ready"] == false;
        let published = |slice: &&Value| {
            let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default();
            let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
            endpoints.any(is_unready) && self.publishes_unready(objects::namespace_of(slice), service)
        };
        let mut slices: Vec<Value> = self.of_kind("EndpointSlice").filter(published).cloned().collect();
        for endpoint in slices.iter_mut().filter_map(|slice| slice["endpoints"].as_array_mut()).flatten() {
            endpoint["conditions"]["ready"] = json!(true);
        }
        for slice in api.put_all(&slices).await {
            self.past.extend(self.objects.insert(objects::path(&slice), slice));
        }
    }

    fn changes_type(&self, object: &Value) -> bool {
        let kind = |service: &Value| {
            let spec = &service["spec"];
            let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
            (kind, spec["clusterIP"] == "None", spec["ipFamilies"].clone(), spec["ipFamilyPolicy"].clone())
        };
        object["kind"] == "Service"
            && self.objects.get(&objects::path(object)).is_some_and(|old| kind(old) != kind(object))
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.choose(&mut self.rng).cloned()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick_object(&mut self, kind: &str) -> Option<Value> {
        let count = self.of_kind(kind).count();
        let n = if count == 0 { return None } else { self.rng.random_range(0..count) };
        self.of_kind(kind).nth(n).cloned()
    }

    fn some_namespace(&mut self) -> Option<String> {
        self.pick_object("Namespace").map(|object| objects::name(&object).to_owned())
    }

    fn some_service_name(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0 => self.pick(&ODD_SERVICES).map(str::to_owned).unwrap_or_default(),
            1..=3 => format!("shared-{}", self.rng.random_range(0..5)),
            _ => {
                self.counter += 1;
                format!("s{}", self.counter)
            }
        }
    }

    fn any_change(&mut self) -> Option<Change> {
        match self.rng.random_range(0..100) {
            0..2 => {
                self.counter += 1;
                let name =
                    if self.chance(50) { format!("ns-{}", self.counter % 20) } else { format!("new-{}", self.counter) };
                Some(Change::Put(objects::namespace(&name)))
            }
            2 => {
                let namespace = self.pick_object("Namespace")?;
                let own = ["default", "kube-system", "kube-public", "kube-node-lease"];
                (!own.contains(&objects::name(&namespace))).then_some(Change::Delete(namespace))
            }
            3..18 => self.service(),
            18..24 => self.pick_object("Service").filter(is_ours).map(Change::Delete),
            24..29 => {
                let mut service = self.pick_object("Service").filter(is_ours)?;
                if service["spec"]["type"] == "ExternalName" {
                    let target = self.target(objects::namespace_of(&service), objects::name(&service));
                    service["spec"]["externalName"] = json!(target);
                } else {
                    service["spec"]["ports"] = self.ports("port", service["spec"]["clusterIP"] == "None");
                }
                Some(Change::Put(service))
            }
            29..34 => {
                // The same name as something else.
                let old = self.pick_object("Service").filter(is_ours)?;
                let mut object = self.service()?;
                let Change::Put(new) = &mut object else { return None };
                new["metadata"]["namespace"] = old["metadata"]["namespace"].clone();
                new["metadata"]["name"] = old["metadata"]["name"].clone();
                Some(object)
            }
            34..50 => self.slice(),
            50..58 => self.pick_object("EndpointSlice").filter(is_ours).map(Change::Delete),
            58..84 => self.changed_slice(),
            84..94 => self.pod(),
            94..97 => self.pick_object("Pod").map(Change::Delete),
            _ => {
                let mut pod = self.pick_object("Pod")?;
                pod["status"]["phase"] = json!(self.pick(&["Running", "Succeeded", "Failed"])?);
                Some(Change::Put(pod))
            }
        }
    }

    fn service(&mut self) -> Option<Change> {
        let (namespace, name) = (self.some_namespace()?, self.some_service_name());
        let mut spec = json!({});
        match self.rng.random_range(0..20) {
            0..9 => {
                spec["type"] =
                    json!(self.pick(&["ClusterIP", "ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"])?);
                spec["ports"] = self.ports("port", false);
            }
            9..16 => {
                spec["clusterIP"] = json!("None");
                spec["ports"] = self.ports("port", true);
                if self.chance(20) {
                    spec["publishNotReadyAddresses"] = json!(true);
                }
            }
            _ => {
                spec["type"] = json!("ExternalName");
                spec["externalName"] = json!(self.target(&namespace, &name));
                self.aliases.insert(format!("{name}.{namespace}.svc.cluster.local"));
            }
        }
        if spec["type"] != "ExternalName" {
            let families = self.pick(&[
                json!(null),
                json!(["SingleStack", ["IPv4"]]),
                json!(["SingleStack", ["IPv6"]]),
                json!(["RequireDualStack", ["IPv4", "IPv6"]]),
                json!(["RequireDualStack", ["IPv6", "IPv4"]]),
            ])?;
            if !families.is_null() {
                spec["ipFamilyPolicy"] = families[0].clone();
                spec["ipFamilies"] = families[1].clone();
            }
        }
        Some(Change::Put(objects::service(&namespace, &name, spec)))
    }

    /// What an ExternalName stands for.
    fn target(&mut self, namespace: &str, name: &str) -> String {
        let at = |namespace: &str, name: &str| format!("{name}.{namespace}.svc.cluster.local");
        match self.rng.random_range(0..20) {
            0..8 => match self.pick_object("Service") {
                Some(other) => at(objects::namespace_of(&other), objects::name(&other)),
                None => at(namespace, "nobody"),
            },
            8 => at(namespace, name),
            9 => at(namespace, "nobody"),
            10 => "svc.cluster.local".to_owned(),
            11 => "nothing.cluster.local".to_owned(),
            12 => "192.0.2.9".to_owned(),
            13 => "www.example.com.".to_owned(),
            14 => "10-200-0-1.ns-0.pod.cluster.local".to_owned(),
            15 => "localhost".to_owned(),
            _ => format!("host-{}.example.com", self.rng.random_range(0..100)),
        }
    }

    /// Ports of a Service (`port`) or of a slice: unnamed alone, or several with names.
    fn ports(&mut self, field: &str, none_allowed: bool) -> Value {
        if none_allowed && self.chance(10) {
            return json!([]);
        }
        if self.chance(15) {
            return json!([{field: self.rng.random_range(1..60_000), "protocol": self.pick(&PROTOCOLS)}]);
        }
        let count = self.rng.random_range(1..4);
        let names: Vec<&str> = PORT_NAMES.sample(&mut self.rng, count).copied().collect();
        let mut numbers = BTreeSet::new();
        names
            .into_iter()
            .filter_map(|name| {
                let number = if self.chance(50) { 80 } else { self.rng.random_range(1..60_000) };
                let protocol = self.pick(&PROTOCOLS)?;
                numbers.insert((number, protocol)).then(|| json!({"name": name, field: number, "protocol": protocol}))
            })
            .collect()
    }

    /// A pod's number, from which its name and addresses follow.
    fn pod_number(&mut self) -> u16 {
        self.rng.random_range(0..1000)
    }

    /// An address of a pod; or one that nobody has but an endpoint.
    fn address(&mut self, pod: u16, v6: bool) -> String {
        match (v6, pod) {
            (false, _) => format!("10.200.{}.{}", pod / 250, pod % 250),
            // Such that a label made of it ends, or begins, or is odd within.
            (true, 0..5) => format!("fd00:{}::", pod + 1),
            (true, 5..10) => format!("::{pod}"),
            (true, 10..20) => std::net::Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, pod).to_string(),
            (true, _) => format!("fd00:200::{pod:x}"),
        }
    }

    fn slice(&mut self) -> Option<Change> {
        // Mostly of a service that there is.
        let (namespace, service) = if self.chance(92) {
            let service = self.pick_object("Service").filter(is_ours)?;
            (objects::namespace_of(&service).to_owned(), objects::name(&service).to_owned())
        } else {
            (self.some_namespace()?, self.some_service_name())
        };
        self.counter += 1;
        let name = format!("{}-{}", service, self.counter);
        let (v6, group) = (self.chance(30), self.chance(20));
        let ports = self.slice_ports(&namespace, &service, group);
        let count = match self.rng.random_range(0..20) {
            0 => 0,
            1..15 => self.rng.random_range(1..6),
            15..19 => self.rng.random_range(6..40),
            _ => 100,
        };
        let publish = self.publishes_unready(&namespace, &service);
        let mut seen = BTreeSet::new();
        let endpoints: Vec<Value> = (0..count)
            .map(|_| self.endpoint(&namespace, &service, v6, group, publish))
            .filter(|endpoint| seen.insert(endpoint["addresses"][0].to_string()))
            .collect();
        let mut slice = objects::slice(&namespace, &service, &name, endpoints, ports);
        slice["addressType"] = json!(if v6 { "IPv6" } else { "IPv4" });
        slice["metadata"]["labels"]["group"] = json!(group.to_string());
        Some(Change::Put(slice))
    }

    fn publishes_unready(&self, namespace: &str, service: &str) -> bool {
        let path = format!("/api/v1/namespaces/{namespace}/services/{service}");
        self.objects.get(&path).is_some_and(|service| service["spec"]["publishNotReadyAddresses"] == true)
    }

    /// An endpoint, in a state in which the controller could have it.
    fn endpoint(&mut self, namespace: &str, service: &str, v6: bool, group: bool, publish: bool) -> Value {
        let pod = self.pod_number() / 2 * 2 + u16::from(group);
        let address = self.address(pod, v6);
        let mut endpoint = json!({"addresses": [address]});
        endpoint["conditions"] = match self.rng.random_range(0..20) {
            0..12 => json!({"ready": true, "serving": true, "terminating": false}),
            12 => json!({"ready": true}),
            13 | 14 => json!({}),
            _ if publish => json!({"ready": true, "serving": false, "terminating": false}),
            15 => json!({"ready": false}),
            16 => json!({"ready": false, "serving": true, "terminating": true}),
            17 => json!({"ready": false, "serving": false, "terminating": true}),
            _ => json!({"ready": false, "serving": false, "terminating": false}),
        };
        // What a pod is called follows from the pod.
        let named = service
            .bytes()
            .chain(namespace.bytes())
            .fold(usize::from(pod), |sum, byte| (sum * 31 + usize::from(byte)) % 9973);
        if let Some(hostname) = HOSTNAMES.get(named % 25) {
            endpoint["hostname"] = json!(hostname);
        }
        if self.chance(60) {
            // Of both families, one pod.
            endpoint["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": format!("pod-{pod}")});
        }
        if self.chance(30) {
            endpoint["zone"] = json!(self.pick(&["a", "b"]));
        }
        endpoint
    }

    fn changed_slice(&mut self) -> Option<Change> {
        let mut slice = self.pick_object("EndpointSlice").filter(is_ours)?;
        let namespace = objects::namespace_of(&slice).to_owned();
        let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str()?.to_owned();
        let (v6, publish) = (slice["addressType"] == "IPv6", self.publishes_unready(&namespace, &service));
        let group = slice["metadata"]["labels"]["group"] == "true";
        let new = self.endpoint(&namespace, &service, v6, group, publish);
        let choice = self.rng.random_range(0..10);
        if choice == 0 {
            // It goes on under other labels.
            slice["metadata"]["labels"]["colour"] = json!(self.pick(&["red", "green"])?);
        } else if choice == 1 {
            // It is another service's from now on, with other endpoints.
            let other = self.pick_object("Service").filter(|other| objects::namespace_of(other) == namespace)?;
            let other = objects::name(&other).to_owned();
            let publish = self.publishes_unready(&namespace, &other);
            slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(other);
            slice["ports"] = self.slice_ports(&namespace, &other, group);
            slice["endpoints"] = json!([self.endpoint(&namespace, &other, v6, group, publish)]);
        } else {
            if !slice["endpoints"].is_array() {
                slice["endpoints"] = json!([]);
            }
            let endpoints = slice["endpoints"].as_array_mut()?;
            let n = if endpoints.is_empty() { 0 } else { self.rng.random_range(0..endpoints.len()) };
            let known = endpoints.iter().any(|endpoint| endpoint["addresses"] == new["addresses"]);
            match choice {
                2..4 if !endpoints.is_empty() => drop(endpoints.remove(n)),
                4..7 if !endpoints.is_empty() => endpoints[n]["conditions"] = new["conditions"].clone(),
                _ if !known && endpoints.len() < 100 => endpoints.push(new),
                _ => {}
            }
        }
        Some(Change::Put(slice))
    }

    fn pod(&mut self) -> Option<Change> {
        let namespace = self.some_namespace()?;
        let pod = self.pod_number();
        let (v4, v6) = (self.address(pod, false), self.address(pod, true));
        let addresses = match self.rng.random_range(0..10) {
            0 => vec![],
            1 => vec![v6],
            2..5 => vec![v4, v6],
            _ => vec![v4],
        };
        let phase = match self.rng.random_range(0..10) {
            0 => "Succeeded",
            1 => "Failed",
            2 => "Pending",
            _ => "Running",
        };
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        Some(Change::Put(objects::pod(&namespace, &format!("pod-{pod}"), phase, &addresses)))
    }
}

/// What the API server keeps itself is left alone.
fn is_ours(object: &Value) -> bool {
    !(objects::namespace_of(object) == "default" && objects::name(object).starts_with("kubernetes"))
}
