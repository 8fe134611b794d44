//! A world as a listener would register it, for the DNS side alone.

use super::world::World;
use crate::Server;
use crate::kubernetes::objects;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Registers everything as source `kubernetes/default`.
pub async fn register(server: &Server, world: &World) {
    let mut operations: Vec<Value> = Vec::new();
    let mut put = |kind: &str, object: Value| operations.push(json!({"op": "put", "kind": kind, "object": object}));
    for namespace in world.of_kind("Namespace") {
        put("namespace", json!({"name": objects::name(namespace)}));
    }
    let mut services = BTreeMap::new();
    for service in world.of_kind("Service") {
        let (name, namespace) = objects::identity(service);
        let spec = &service["spec"];
        let kind = match spec["type"].as_str() {
            Some("ExternalName") => "ExternalName",
            _ if spec["clusterIP"] == "None" => "Headless",
            _ => "ClusterIP",
        };
        let mut object = json!({"namespace": namespace, "name": name, "type": kind});
        let ports: Vec<Value> = spec["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| json!({"name": port["name"].as_str().unwrap_or(""), "port": port["port"], "protocol": port["protocol"]}))
            .collect();
        match kind {
            "ExternalName" => object["externalName"] = spec["externalName"].clone(),
            "ClusterIP" => {
                object["clusterIPs"] = spec["clusterIPs"].clone();
                object["ports"] = json!(ports);
            }
            _ => object["ports"] = json!(ports),
        }
        services.insert((namespace.to_owned(), name.to_owned()), ());
        put("service", object);
    }
    // One record of an endpoint's address in a service, whatever the number of slices that have it.
    let mut instances: BTreeMap<(String, String, String), Value> = BTreeMap::new();
    for slice in world.of_kind("EndpointSlice") {
        let namespace = objects::namespace_of(slice).to_owned();
        let Some(service) = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str() else { continue };
        if !services.contains_key(&(namespace.clone(), service.to_owned())) {
            continue;
        }
        let ports: Vec<Value> = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| json!({"name": port["name"].as_str().unwrap_or(""), "port": port["port"], "protocol": port["protocol"]}))
            .collect();
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str().unwrap_or_default().to_owned();
            let id = format!("{}:{address}:{}", objects::name(slice), endpoint["hostname"].as_str().unwrap_or(""));
            let mut object = json!({"namespace": namespace, "service": service, "id": id, "addresses": [address]});
            object["ports"] = json!(ports);
            if let Some(hostname) = endpoint["hostname"].as_str() {
                object["hostname"] = json!(hostname);
            }
            let ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            object["conditions"] = json!({"ready": ready});
            instances.insert((namespace.clone(), service.to_owned(), id), object);
        }
    }
    for pod in world.of_kind("Pod") {
        let (name, namespace) = objects::identity(pod);
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let addresses: Vec<&Value> =
            pod["status"]["podIPs"].as_array().into_iter().flatten().map(|ip| &ip["ip"]).collect();
        if !["Succeeded", "Failed"].contains(&phase) && !addresses.is_empty() {
            put("instance", json!({"namespace": namespace, "id": name, "addresses": addresses}));
        }
    }
    for object in instances.into_values() {
        put("instance", object);
    }
    for chunk in operations.chunks(5000) {
        let path = "/v1/batch?atomic=false&source=kubernetes/default";
        let answer = server.post(path, json!({"operations": chunk})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        for (result, operation) in answer.json["results"].as_array().unwrap().iter().zip(chunk) {
            if result["status"].as_u64().unwrap_or(0) >= 300 {
                eprintln!("refused: {result} {operation}");
            }
        }
    }
}
