//! The API server and CoreDNS of the tests, as other tests expect them.

use fingerpost_tests::kubernetes::{Cluster, CoreDns, Corefile, User, objects};
use serde_json::json;

async fn addresses(coredns: &CoreDns, name: &str) -> (String, Vec<String>) {
    let reply = coredns.ask(name, "A").await;
    let mut data: Vec<String> = reply.answers.into_iter().map(|line| line.data).collect();
    data.sort();
    (reply.rcode, data)
}

#[tokio::test]
async fn what_is_written_is_what_coredns_answers() {
    let mut cluster = Cluster::start().await;
    let api = cluster.api.clone();
    api.put(&objects::namespace("prod")).await;
    let vip = api.put(&objects::cluster_ip("prod", "vip")).await;
    let both = json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"});
    let both = api.put(&objects::service("prod", "both", both)).await;
    assert_eq!(both["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
    api.put(&objects::headless("prod", "web")).await;
    let mut unready = objects::endpoint("10.0.0.3");
    unready["conditions"] = json!({"ready": false});
    let endpoints = vec![objects::pod_endpoint("10.0.0.1", "prod", "web-1"), objects::endpoint("10.0.0.2"), unready];
    api.put(&objects::slice("prod", "web", "web-1", endpoints, objects::http_port())).await;
    let endpoints = vec![objects::endpoint("fd00::1")];
    api.put(&objects::slice("prod", "web", "web-2", endpoints, objects::http_port())).await;
    api.put(&objects::external_name("prod", "out", "example.com")).await;
    let pod = api.put_pod(&objects::pod("prod", "web-1", "Running", &["10.0.0.1", "fd00::1"])).await;
    assert_eq!(pod["status"]["podIP"], "10.0.0.1");

    let kubeconfig = cluster.kubeconfig(User::CoreDns, cluster.address());
    let coredns = CoreDns::start(&kubeconfig, &Corefile::pods("verified")).await;
    let ok = |data: &[&str]| ("NOERROR".to_owned(), data.iter().map(|&address| address.to_owned()).collect::<Vec<_>>());
    let address = vip["spec"]["clusterIP"].as_str().expect("an address");
    assert_eq!(addresses(&coredns, "vip.prod.svc.cluster.local").await, ok(&[address]));
    assert_eq!(addresses(&coredns, "web.prod.svc.cluster.local").await, ok(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(addresses(&coredns, "10-0-0-1.prod.pod.cluster.local").await, ok(&["10.0.0.1"]));
    assert_eq!(addresses(&coredns, "10-0-0-2.prod.pod.cluster.local").await.0, "NXDOMAIN");

    // With its history forgotten and started again, the API server still has everything, and CoreDNS finds it again.
    cluster.compact().await;
    cluster.restart().await;
    api.delete(&objects::headless("prod", "web")).await;
    while addresses(&coredns, "web.prod.svc.cluster.local").await.0 != "NXDOMAIN" {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(addresses(&coredns, "vip.prod.svc.cluster.local").await, ok(&[address]));
}

#[tokio::test]
async fn users_may_do_what_they_were_given() {
    let cluster = Cluster::start().await;
    let api = cluster.api_of(User::Stranger);
    let slices = "/apis/discovery.k8s.io/v1/endpointslices";
    assert_eq!(api.get(slices).await.expect_err("no right").status, Some(403));
    cluster.may_read(User::Stranger, &["services"]).await;
    // Rules get around by a watch of the API server's own.
    while api.get("/api/v1/services").await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(api.get(slices).await.expect_err("no right").status, Some(403));
    cluster.api.put(&objects::namespace("gone")).await;
    cluster.api.delete(&objects::namespace("gone")).await;
    assert_eq!(cluster.api.get("/api/v1/namespaces/gone").await.expect_err("gone").status, Some(404));
}
