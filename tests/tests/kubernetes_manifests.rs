//! The manifests of `deploy/kubernetes`: a real API server takes them, and what they grant is enough, and no more.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::Server;
use fingerpost_tests::kubernetes::prober::answer;
use fingerpost_tests::kubernetes::{Cluster, User, objects, ready};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes")
}

/// The objects of a file.
fn read(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let documents = serde_norway::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}"))).collect()
}

/// Everything that `kubectl apply -k` applies, and what stands beside it for those who want it.
fn all() -> Vec<Value> {
    let listed = read("kustomization.yaml");
    let listed = listed[0]["resources"].as_array().expect("resources").clone();
    let mut files: Vec<&str> = listed.iter().map(|file| file.as_str().expect("a file")).collect();
    files.extend(["rbac-pods.yaml", "rbac-lease.yaml", "kube-dns.yaml"]);
    let there = std::fs::read_dir(folder()).expect("folder").count();
    assert_eq!(there, files.len() + 1, "every file is applied: {files:?}");
    files.into_iter().flat_map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_takes_them_and_their_rights_are_enough() {
    let cluster = Cluster::start().await;
    let api = &cluster.api;
    let manifests = all();
    for object in &manifests {
        let stored = api.put(object).await;
        // Fields that the API server does not know are dropped without a word.
        assert_kept(object, &stored, objects::name(object));
    }
    let dns = api.get("/api/v1/namespaces/kube-system/services/kube-dns").await.expect("kube-dns");
    assert_eq!(dns["spec"]["clusterIP"], "10.96.0.10");

    // Going there and back is a change of the selector alone.
    let template = &find(&manifests, "Deployment", "fingerpost")["spec"]["template"];
    let selector = dns["spec"]["selector"].as_object().expect("selector");
    assert!(selector.iter().all(|(key, value)| template["metadata"]["labels"][key] == *value), "it selects our pods");

    // With the account's own token and the settings of the manifest, names are answered.
    let account = "/api/v1/namespaces/kube-system/serviceaccounts/fingerpost/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = api.call(Method::POST, account, Some(&request)).await.expect("a token");
    let kubeconfig = cluster.kubeconfig(User::Fingerpost, cluster.address());
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"]["token"] = token["status"]["token"].clone();
    let kubeconfig = cluster.folder().join("kubeconfig-account");
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let settings = cluster.folder().join("fingerpost.toml");
    let map = find(&manifests, "ConfigMap", "fingerpost");
    std::fs::write(&settings, map["data"]["fingerpost.toml"].as_str().expect("settings")).unwrap();

    api.put(&objects::namespace("prod")).await;
    api.put(&objects::headless("prod", "web")).await;
    let endpoints = vec![objects::endpoint("10.0.0.1")];
    api.put(&objects::slice("prod", "web", "web-1", endpoints, objects::http_port())).await;
    let (settings, kubeconfig) = (settings.display().to_string(), kubeconfig.display().to_string());
    let lease = ["--kubernetes-lease", "kube-system/fingerpost"];
    let flags = ["--config", &settings, "--kubeconfig", &kubeconfig, "--ops-listen", "127.0.0.1:0", lease[0], lease[1]];
    let server = Server::start_with(&flags);
    ready(&server).await;
    let lease =
        api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fingerpost").await.expect("a Lease");
    assert!(lease["spec"]["holderIdentity"].is_string(), "{lease}");
    let found = answer(server.dns, "web.prod.svc.cluster.local").await.expect("an answer");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["10.0.0.1"]);
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && objects::name(object) == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Whether all of `given` is in `stored`, which may have more.
fn assert_kept(given: &Value, stored: &Value, place: &str) {
    match (given, stored) {
        (Value::Object(given), Value::Object(stored)) => {
            for (key, value) in given {
                let place = format!("{place}.{key}");
                let stored = stored.get(key).unwrap_or_else(|| panic!("{place} is not known to the API server"));
                assert_kept(value, stored, &place);
            }
        }
        (Value::Array(given), Value::Array(stored)) => {
            assert_eq!(given.len(), stored.len(), "{place}");
            for (n, (given, stored)) in given.iter().zip(stored).enumerate() {
                assert_kept(given, stored, &format!("{place}[{n}]"));
            }
        }
        _ => assert_eq!(given, stored, "{place}"),
    }
}
