//! The API server stops, restarts, forgets, is slow, refuses; we are killed and start without it. What is answered all the
//! while is right, or, before anything is known, nothing at all; and `status` says how old it is.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::Server;
use fingerpost_tests::etcd::EtcdCluster;
use fingerpost_tests::kubernetes::prober::{Expected, Prober, answer};
use fingerpost_tests::kubernetes::{Cluster, READ_FOR_DNS, User, follower, following, objects, ready};
use fingerpost_tests::proxy::Proxy;
use fingerpost_tests::replicas::Replicas;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Waits until a condition holds; on a slow machine it may take a while.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(240), "it does not come about that {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_answered(server: SocketAddr, name: &str, addresses: &[&str]) {
    let wanted: BTreeSet<String> = addresses.iter().map(|&address| address.to_owned()).collect();
    until(&format!("{name} is {addresses:?}"), async || answer(server, name).await.as_ref() == Ok(&wanted)).await;
}

/// What the server says of itself.
async fn status(server: &Server) -> String {
    let (status, ready) = tokio::join!(server.get("/v1/status"), server.get("/readyz"));
    format!("{}\n{}", status.json["kubernetes"], ready.text)
}

fn web(n: usize) -> String {
    format!("web-{n}.prod.svc.cluster.local")
}

fn addresses(n: usize) -> [String; 2] {
    [1, 2].map(|k| format!("10.{k}.{}.{}", n >> 8, n & 255))
}

fn web_slice(n: usize, addresses: &[&str]) -> Value {
    let endpoints = addresses.iter().map(|address| objects::endpoint(address)).collect();
    objects::slice("prod", &format!("web-{n}"), &format!("web-{n}"), endpoints, objects::http_port())
}

/// So many services with and without an address, each with endpoints; and what is to be answered for them, and for a name
/// that never exists.
async fn fill(cluster: &Cluster, count: usize) -> Vec<Expected> {
    let api = &cluster.api;
    api.put(&objects::namespace("prod")).await;
    let mut expected = vec![Expected::exactly("nobody.prod.svc.cluster.local", &[])];
    let services: Vec<Value> = (0..count)
        .flat_map(|n| {
            [objects::headless("prod", &format!("web-{n}")), objects::cluster_ip("prod", &format!("vip-{n}"))]
        })
        .collect();
    for service in api.put_all(&services).await {
        if let Some(address) = service["spec"]["clusterIP"].as_str().filter(|&address| address != "None") {
            let name = format!("{}.prod.svc.cluster.local", objects::name(&service));
            expected.push(Expected::exactly(name, &[address]));
        }
    }
    let mut slices = Vec::new();
    for n in 0..count {
        let addresses = addresses(n);
        let addresses = addresses.each_ref().map(String::as_str);
        slices.push(web_slice(n, &addresses));
        expected.push(Expected::exactly(web(n), &addresses));
    }
    api.put_all(&slices).await;
    expected
}

/// A service that the test has just made; waits until it is answered.
async fn marker(cluster: &Cluster, server: SocketAddr, n: u8) {
    let address = format!("10.99.0.{n}");
    cluster.api.put(&objects::headless("prod", &format!("marker-{n}"))).await;
    let endpoints = vec![objects::endpoint(&address)];
    let name = format!("marker-{n}");
    cluster.api.put(&objects::slice("prod", &name, &name, endpoints, objects::http_port())).await;
    until_answered(server, &format!("{name}.prod.svc.cluster.local"), &[&address]).await;
}

fn start(cluster: &Cluster, api: SocketAddr, data: &Path) -> Server {
    let flags = following(&cluster.kubeconfig(User::Fingerpost, api));
    Server::start_in(data, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_stops_and_restarts_changes_no_answer() {
    let mut cluster = Cluster::start().await;
    let expected = fill(&cluster, 40).await;
    let server = follower(&cluster, &[]).await;
    let prober = Prober::start(Some(server.dns), expected);
    marker(&cluster, server.dns, 1).await;

    cluster.stop();
    until("status says how old it is", async || status(&server).await.contains("no word from the API server")).await;
    cluster.cont();
    marker(&cluster, server.dns, 2).await;
    until("status says that it is well", async || !status(&server).await.contains("API server")).await;

    cluster.kill();
    until("status says why", async || status(&server).await.contains("can't reach the API server")).await;
    prober.round().await;
    cluster.restart().await;
    marker(&cluster, server.dns, 3).await;
    until("status says that it is well", async || !status(&server).await.contains("API server")).await;
    prober.round().await;
    prober.assert_right_and_never_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_in_history_only_the_differences_change() {
    let mut cluster = Cluster::start().await;
    let mut expected = fill(&cluster, 40).await;
    let away = Proxy::start(cluster.address()).await;
    let folder = tempfile::tempdir().expect("folder");
    let server = start(&cluster, away.address(), &folder.path().join("data"));
    ready(&server).await;
    // What changes below may be as it was or as it will be; everything else is as it is.
    for expected in &mut expected {
        if expected.name == web(0) {
            *expected = expected.clone().or(&["10.50.0.1"]);
        } else if expected.name == web(1) || expected.name == web(2) {
            *expected = expected.clone().or(&[]);
        }
    }
    expected.push(Expected::exactly("late.prod.svc.cluster.local", &[]).or(&["10.50.0.2"]));
    let prober = Prober::start(Some(server.dns), expected);

    away.cut();
    cluster.api.put(&web_slice(0, &["10.50.0.1"])).await;
    cluster.api.delete(&objects::headless("prod", "web-1")).await;
    cluster.api.delete(&web_slice(2, &[])).await;
    cluster.api.put(&objects::headless("prod", "late")).await;
    let endpoints = vec![objects::endpoint("10.50.0.2")];
    cluster.api.put(&objects::slice("prod", "late", "late", endpoints, objects::http_port())).await;
    cluster.compact().await;
    cluster.restart().await;
    prober.round().await;
    away.heal();

    until_answered(server.dns, &web(0), &["10.50.0.1"]).await;
    until_answered(server.dns, &web(1), &[]).await;
    until_answered(server.dns, &web(2), &[]).await;
    until_answered(server.dns, "late.prod.svc.cluster.local", &["10.50.0.2"]).await;
    marker(&cluster, server.dns, 1).await;
    prober.round().await;
    prober.assert_right_and_never_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_slow_way_nothing_is_answered_before_it_is_known() {
    let cluster = Cluster::start().await;
    let expected = fill(&cluster, 300).await;
    let way = Proxy::start(cluster.address()).await;
    way.slow(Duration::from_millis(150));
    let folder = tempfile::tempdir().expect("folder");
    let server = start(&cluster, way.address(), &folder.path().join("data"));
    let prober = Prober::start(Some(server.dns), expected);
    ready(&server).await;
    let silent = prober.silent();
    prober.round().await;
    marker(&cluster, server.dns, 1).await;
    prober.assert_right();
    assert_eq!(prober.silent(), silent, "once it is ready, it knows everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_is_named_and_answers_nothing_wrong() {
    let cluster = Cluster::start().await;
    let expected = fill(&cluster, 20).await;
    cluster.may_read(User::Fingerpost, &["namespaces", "services", "pods"]).await;
    // The API server hears of that by a watch of its own.
    let limited = cluster.api_of(User::Fingerpost);
    until("the right is gone", async || limited.get("/apis/discovery.k8s.io/v1/endpointslices").await.is_err()).await;
    let folder = tempfile::tempdir().expect("folder");
    let server = start(&cluster, cluster.address(), &folder.path().join("data"));
    let prober = Prober::start(Some(server.dns), expected);
    until("status names what is missing", async || {
        let said = status(&server).await;
        ["endpointslices", "discovery.k8s.io", "list", "ClusterRole"].iter().all(|word| said.contains(word))
    })
    .await;
    prober.round().await;
    prober.assert_right();

    cluster.may_read(User::Fingerpost, &READ_FOR_DNS).await;
    ready(&server).await;
    let silent = prober.silent();
    prober.round().await;
    marker(&cluster, server.dns, 1).await;
    assert_eq!(prober.silent(), silent);

    // Taken away while it runs, it changes no answer, and is named again.
    cluster.may_read(User::Fingerpost, &["namespaces", "services", "pods"]).await;
    until("the right is gone", async || limited.get("/apis/discovery.k8s.io/v1/endpointslices").await.is_err()).await;
    let mut cluster = cluster;
    cluster.restart().await;
    until("status names what is missing", async || status(&server).await.contains("endpointslices")).await;
    prober.round().await;
    prober.assert_right();
    assert_eq!(prober.silent(), silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_lists_it_answers_what_it_knows_or_nothing() {
    let cluster = Cluster::start().await;
    let expected = fill(&cluster, 1500).await;
    let way = Proxy::start(cluster.address()).await;
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let prober = Prober::start(None, expected.clone());
    // Killed ever later: before the lists, in the middle of them, while they are written.
    let mut killed = 0;
    for milliseconds in [100, 250, 400, 600, 800, 1100, 1500] {
        let mut server = start(&cluster, way.address(), &data);
        prober.ask(Some(server.dns));
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        prober.ask(None);
        killed += u32::from(server.get("/readyz").await.status != 200);
        server.kill();
    }
    let server = start(&cluster, way.address(), &data);
    prober.ask(Some(server.dns));
    ready(&server).await;
    let silent = prober.silent();
    prober.round().await;
    prober.assert_right();
    assert_eq!(prober.silent(), silent, "once it is ready, it knows everything");
    eprintln!("killed {killed} times before it was ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_without_the_api_server_it_answers_at_once() {
    let mut cluster = Cluster::start().await;
    let expected = fill(&cluster, 200).await;
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let mut server = start(&cluster, cluster.address(), &data);
    ready(&server).await;
    marker(&cluster, server.dns, 1).await;
    server.terminate();
    cluster.kill();

    let mut server = start(&cluster, cluster.address(), &data);
    let prober = Prober::start(Some(server.dns), expected);
    ready(&server).await;
    prober.round().await;
    prober.assert_right_and_never_silent();
    until("status says why it may be old", async || status(&server).await.contains("API server")).await;
    // Killed, it does so, too.
    prober.ask(None);
    server.kill();
    let server = start(&cluster, cluster.address(), &data);
    prober.ask(Some(server.dns));
    ready(&server).await;
    prober.round().await;
    prober.assert_right();

    // What went meanwhile goes when the API server is back.
    cluster.restart().await;
    cluster.api.delete(&objects::headless("prod", "marker-1")).await;
    until_answered(server.dns, "marker-1.prod.svc.cluster.local", &[]).await;
    marker(&cluster, server.dns, 2).await;
    prober.round().await;
    prober.assert_right();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_services() {
    let mut cluster = Cluster::start().await;
    let expected = fill(&cluster, 5000).await;
    let server = follower(&cluster, &[]).await;
    let prober = Prober::start(Some(server.dns), expected);
    prober.round().await;
    // With its history gone, everything is listed again, and nothing of it is written again.
    let state = async || server.get("/v1/status").await.json["kubernetes"].clone();
    let kinds = async || state().await["kinds"].as_array().cloned().unwrap_or_default();
    let written = state().await["writes"].clone();
    assert!(written.as_u64() >= Some(20_000), "{written}");
    cluster.compact().await;
    cluster.restart().await;
    until("all kinds are listed again", async || {
        let kinds = kinds().await;
        kinds.len() >= 3 && kinds.iter().all(|kind| kind["relists"].as_u64() >= Some(1) && kind["trouble"].is_null())
    })
    .await;
    prober.round().await;
    assert_eq!(state().await["writes"], written);
    marker(&cluster, server.dns, 1).await;
    prober.round().await;
    prober.assert_right_and_never_silent();
}

/// A `fingerpost listener` of its own.
struct Listener {
    child: std::process::Child,
}

impl Listener {
    fn start(registry: &Server, kubeconfig: &Path, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("log");
        let child = Command::new(fingerpost_tests::binary())
            .args(["listener", "--registry", &registry.url, "--kubernetes-lease", "kube-system/fingerpost"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start");
        Self { child }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets the user of the tests do what a listener with a Lease does.
async fn may_hold_a_lease(cluster: &Cluster) {
    let read = READ_FOR_DNS.iter().map(|resource| {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        json!({"apiGroups": [group], "resources": [resource], "verbs": ["get", "list", "watch"]})
    });
    let lease = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
        "verbs": ["get", "list", "watch", "create", "update", "patch"]});
    cluster.may(User::Fingerpost, read.chain([lease]).collect()).await;
}

async fn holder(cluster: &Cluster) -> String {
    let lease = cluster.api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/fingerpost").await;
    lease.expect("a lease")["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_listeners_one_writes_and_the_other_takes_over() {
    let cluster = Cluster::start().await;
    let expected = fill(&cluster, 40).await;
    may_hold_a_lease(&cluster).await;
    let registry = Server::start();
    let kubeconfig = cluster.kubeconfig(User::Fingerpost, cluster.address());
    let log = |n: usize| cluster.folder().join(format!("listener-{n}.log"));
    let mut listeners: Vec<Listener> = (0..2).map(|n| Listener::start(&registry, &kubeconfig, &log(n))).collect();
    // The registry is not the one that follows, so it can't tell what is missing from what does not exist; and lists come in no
    // order, so that one name is there says nothing of the others.
    for Expected { name, answers } in &expected {
        let is_right = async || answer(registry.dns, name).await.is_ok_and(|answer| answers.contains(&answer));
        until(&format!("{name} is one of {answers:?}"), is_right).await;
    }
    let prober = Prober::start(Some(registry.dns), expected);
    for n in 0..3 {
        // The one that writes ends, and the other goes on.
        let before = holder(&cluster).await;
        let is_holder = |listener: &Listener| before.contains(&format!("-{}-", listener.child.id()));
        let holding = listeners.iter().position(is_holder).unwrap_or_else(|| panic!("nobody is {before}"));
        listeners[holding].kill();
        marker(&cluster, registry.dns, 2 + n).await;
        assert_ne!(holder(&cluster).await, before);
        listeners[holding] = Listener::start(&registry, &kubeconfig, &log(holding));
        prober.round().await;
    }
    prober.assert_right_and_never_silent();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_all_follow_the_cluster_stand_in_for_each_other() {
    let cluster = Cluster::start().await;
    let expected = fill(&cluster, 40).await;
    may_hold_a_lease(&cluster).await;
    let mut flags = following(&cluster.kubeconfig(User::Fingerpost, cluster.address()));
    flags.extend(["--kubernetes-lease", "kube-system/fingerpost"].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut all = Replicas::start(EtcdCluster::one().await, 2, &flags).await;
    let first = holder(&cluster).await;
    for n in 0..2u8 {
        let (gone, left) = (usize::from(n), all.replicas[1 - usize::from(n)].dns);
        marker(&cluster, left, 2 * n + 1).await;
        let prober = Prober::start(Some(left), expected.clone());
        all.replicas[gone].kill();
        marker(&cluster, left, 2 * n + 2).await;
        prober.round().await;
        prober.assert_right_and_never_silent();
        all.replicas[gone].start();
        all.replicas[gone].ready().await;
    }
    // One of the two that were killed was it.
    assert_ne!(holder(&cluster).await, first);
    for replica in &all.replicas {
        marker(&cluster, replica.dns, 9).await;
    }
}
