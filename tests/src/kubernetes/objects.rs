//! Kubernetes objects as JSON: where each lives in the API, and short ways to make them.

use serde_json::{Map, Value, json};

/// The path that creates and lists objects of this one's kind, in its namespace.
pub fn folder(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let kind = text(&object["kind"]);
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = kind.to_lowercase() + "s";
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// The path of an object.
pub fn path(object: &Value) -> String {
    format!("{}/{}", folder(object), name(object))
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("a name")
}

/// An object's namespace; empty where it lies in none.
pub fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// An object's name, and its namespace.
pub fn identity(object: &Value) -> (&str, &str) {
    (name(object), namespace_of(object))
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A Service; `spec` as in the API. Fields that it leaves out get the API's defaults.
pub fn service(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// A Service with one port, `http` 80, and an address of the cluster.
pub fn cluster_ip(namespace: &str, name: &str) -> Value {
    service(namespace, name, json!({"ports": [{"name": "http", "port": 80}]}))
}

/// The same without an address of its own.
pub fn headless(namespace: &str, name: &str) -> Value {
    service(namespace, name, json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}))
}

/// A Service that stands for a name elsewhere.
pub fn external_name(namespace: &str, name: &str, target: &str) -> Value {
    service(namespace, name, json!({"type": "ExternalName", "externalName": target}))
}

/// An EndpointSlice of a Service. Its addresses' kind is the first endpoint's; endpoints and ports as in the API.
pub fn slice(namespace: &str, service: &str, name: &str, endpoints: Vec<Value>, ports: Value) -> Value {
    let v6 = endpoints.first().and_then(|e| e["addresses"][0].as_str()).is_some_and(|address| address.contains(':'));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "tests"},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints, "ports": ports,
    })
}

/// One port, `http` 8080, as an EndpointSlice has it.
pub fn http_port() -> Value {
    json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
}

/// An endpoint that is ready.
pub fn endpoint(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

/// An endpoint that is a pod, ready.
pub fn pod_endpoint(address: &str, namespace: &str, pod: &str) -> Value {
    let mut endpoint = endpoint(address);
    endpoint["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": pod});
    endpoint["nodeName"] = json!("node-1");
    endpoint
}

/// A pod that is in a phase and has these addresses.
pub fn pod(namespace: &str, name: &str, phase: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({"ip": address})).collect();
    let mut status = Map::new();
    status.insert("phase".to_owned(), json!(phase));
    if let Some(first) = addresses.first() {
        status.insert("podIP".to_owned(), first["ip"].clone());
        status.insert("podIPs".to_owned(), json!(addresses));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": "tests"}},
        // With a node it waits for no scheduler.
        "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "none"}]},
        "status": status,
    })
}

/// A role with rules for the whole cluster, and its binding to a user.
pub fn cluster_role(user: &str, rules: Vec<Value>) -> (Value, Value) {
    let group = "rbac.authorization.k8s.io";
    let (version, name) = (format!("{group}/v1"), format!("tests-{user}"));
    let role = json!({"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let binding = json!({
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    });
    (role, binding)
}
