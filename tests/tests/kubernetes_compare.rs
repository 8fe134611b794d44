//! `compare` between this server and CoreDNS over one cluster: what one of them lacks shows, whoever knows of it.

use fingerpost_tests::Server;
use fingerpost_tests::kubernetes::api::Api;
use fingerpost_tests::kubernetes::{Cluster, CoreDns, Corefile, User, follower, objects};
use serde_json::{Value, json};

/// A cluster with a namespace `open`, and one `hidden` whose label says so; a Service of each kind in both.
async fn fill(api: &Api) {
    for (n, name) in ["open", "hidden"].into_iter().enumerate() {
        let mut namespace = objects::namespace(name);
        namespace["metadata"]["labels"] = json!({"tests/hidden": (name == "hidden").to_string()});
        api.put(&namespace).await;
        api.put(&objects::cluster_ip(name, "vip")).await;
        let both =
            json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}], "ipFamilyPolicy": "RequireDualStack"});
        api.put(&objects::service(name, "both", both)).await;
        api.put(&objects::headless(name, "web")).await;
        let endpoint = objects::endpoint(&format!("fd00::{}", n + 1));
        api.put(&objects::slice(name, "web", "web-2", vec![endpoint], objects::http_port())).await;
        api.put(&objects::external_name(name, "out", &format!("vip.{name}.svc.cluster.local"))).await;
        let endpoints = vec![
            objects::pod_endpoint(&format!("10.1.{n}.1"), name, "web-1"),
            objects::endpoint(&format!("10.1.{n}.2")),
        ];
        api.put(&objects::slice(name, "web", "web-1", endpoints, objects::http_port())).await;
    }
    let mut excluded = objects::headless("open", "internal");
    excluded["metadata"]["annotations"] = json!({"fingerpost.io/exclude": "true"});
    api.put(&excluded).await;
    let slice =
        objects::slice("open", "internal", "internal-1", vec![objects::endpoint("10.1.2.1")], objects::http_port());
    api.put(&slice).await;
}

#[tokio::test]
async fn names_come_from_the_cluster_too() {
    let cluster = Cluster::start().await;
    fill(&cluster.api).await;
    let coredns = CoreDns::start(&cluster.kubeconfig(User::CoreDns, cluster.address()), &Corefile::default()).await;
    let against = coredns.dns.to_string();
    let kubeconfig = cluster.kubeconfig(User::Fingerpost, cluster.address()).display().to_string();
    let compare = |server: &Server, flags: &[&str]| {
        let flags = [&["compare", "--against", &against, "--output", "json"], flags].concat();
        let (code, text, notes) = server.cli(&flags);
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{notes}"));
        (code, json)
    };
    let names = |report: &Value| -> Vec<String> {
        let differences = report["differences"].as_array().unwrap();
        differences.iter().map(|different| different["name"].as_str().unwrap().to_owned()).collect()
    };

    // Both have all of it.
    let server = follower(&cluster, &[]).await;
    let (code, report) = compare(&server, &["--kubeconfig", &kubeconfig]);
    assert_eq!((code, &report["agree"]), (0, &json!(true)), "{report:#}");
    let meant = report["meant"].as_array().unwrap();
    assert!(meant.iter().any(|meant| meant["name"] == "excluded"), "{report:#}");
    // `kubernetes` in `default`, and what was put there.
    assert_eq!((&report["from"]["registry"], &report["from"]["kubernetes"]), (&json!(9), &json!(10)));

    // Ours is made to pass over a namespace; of what it has, all is the same.
    let blind = follower(&cluster, &["--kubernetes-namespace-selector", "tests/hidden!=true"]).await;
    let (code, report) = compare(&blind, &[]);
    assert_eq!((code, &report["from"]["kubernetes"]), (0, &json!(null)), "{report:#}");
    let (code, report) = compare(&blind, &["--kubeconfig", &kubeconfig]);
    assert_eq!((code, &report["agree"]), (1, &json!(false)));
    let missing = names(&report);
    for name in ["vip.hidden.svc.cluster.local.", "10-1-1-1.web.hidden.svc.cluster.local.", "1.1.1.10.in-addr.arpa."] {
        assert!(missing.iter().any(|missing| missing == name), "{name}: {missing:?}");
    }
    assert!(missing.iter().all(|name| name.contains("hidden") || name.ends_with(".arpa.")), "{missing:?}");

    // A registry that nobody writes to agrees with nobody.
    let empty = Server::start();
    let (code, out, error) = empty.cli(&["compare", "--against", &against]);
    assert!(code == 2 && out.is_empty() && error.contains("kubernetes/default"), "{code} {out} {error}");
    let (code, report) = compare(&empty, &["--kubeconfig", &kubeconfig]);
    assert_eq!((code, &report["from"]), (1, &json!({"registry": 0, "kubernetes": 10})));

    // Who may not read the cluster is told which right is missing.
    let stranger = cluster.kubeconfig(User::Stranger, cluster.address()).display().to_string();
    let (code, _, error) = server.cli(&["compare", "--against", &against, "--kubeconfig", &stranger]);
    assert!(code == 2 && error.contains("may not list") && error.contains("--registry-only"), "{code} {error}");
}
