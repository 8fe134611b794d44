//! A real Kubernetes API server over a real etcd, CoreDNS beside it, and ways to put objects in.
//!
//! No controller, scheduler or kubelet runs: EndpointSlices and the state of pods are written by the tests, so what a
//! name server sees is what the test said, at the moment at which it said it. `cargo xtask test` builds the programs and
//! names them in `KUBE_APISERVER_BIN` and `COREDNS_BIN`; without that, the ones in the cache folder are taken.

pub mod api;
mod cluster;
mod coredns;
pub mod objects;
pub mod prober;

pub use cluster::{Cluster, READ_FOR_DNS, User};
pub use coredns::{CoreDns, Corefile};

use crate::Server;
use std::path::Path;

/// The version that `cargo xtask` builds.
const PEER: &str = "kubernetes-1.36.3";

/// The flags with which a server follows the API server that a kubeconfig names.
pub fn following(kubeconfig: &Path) -> Vec<String> {
    vec!["--kubernetes".to_owned(), "--kubeconfig".to_owned(), kubeconfig.display().to_string()]
}

/// A server with new data that follows a cluster, and has all of it.
pub async fn follower(cluster: &Cluster, flags: &[&str]) -> Server {
    let own = following(&cluster.kubeconfig(User::Fingerpost, cluster.address()));
    let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let server = Server::start_with(&flags);
    ready(&server).await;
    server
}

/// Asks until the server says that it is ready.
pub async fn ready(server: &Server) {
    let ops = server.ops.map_or_else(|| server.url.clone(), |ops| format!("http://{ops}"));
    let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(2)).build().expect("client");
    while !client.get(format!("{ops}/readyz")).send().await.is_ok_and(|reply| reply.status().is_success()) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
