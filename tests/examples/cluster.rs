//! A Kubernetes API server to try things with, with a few objects in it: `cargo xtask cluster`.
//!
//! It is the real one, over a real etcd, but nothing else of Kubernetes: no controller makes EndpointSlices, and no
//! kubelet runs pods. It prints what to do with it, and goes on until it is interrupted.

use fingerpost_tests::kubernetes::{Cluster, User, objects};
use serde_json::json;
use std::path::Path;

#[tokio::main]
async fn main() {
    let cluster = Cluster::start().await;
    let api = &cluster.api;
    api.put(&objects::namespace("shop")).await;
    let cart = api.put(&objects::cluster_ip("shop", "cart")).await;
    api.put(&objects::headless("shop", "db")).await;
    api.put(&objects::external_name("shop", "docs", "example.com")).await;
    let mut replica = objects::pod_endpoint("10.1.0.11", "shop", "db-1");
    replica["hostname"] = json!("db-1");
    let mut late = objects::pod_endpoint("10.1.0.12", "shop", "db-2");
    late["hostname"] = json!("db-2");
    late["conditions"] = json!({"ready": false, "serving": false, "terminating": false});
    let mut first = objects::pod_endpoint("10.1.0.10", "shop", "db-0");
    first["hostname"] = json!("db-0");
    api.put(&objects::slice("shop", "db", "db-abcde", vec![first, replica, late], objects::http_port())).await;

    let written = cluster.kubeconfig(User::Admin, cluster.address());
    let kubeconfig = Path::new("target").join("kubeconfig");
    if let Err(error) = std::fs::copy(&written, &kubeconfig) {
        eprintln!("can't write {}: {error}", kubeconfig.display());
        std::process::exit(1);
    }
    println!("kubeconfig {}", kubeconfig.display());
    println!("The API server is ready, with namespace `shop`: cart ({}), db, docs.", cart["spec"]["clusterIP"]);
    println!("In another terminal: cargo run --release -- serve --kubernetes --kubeconfig {}", kubeconfig.display());
    println!("Ctrl-C ends it.");
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("can't wait for Ctrl-C: {error}");
    }
}
