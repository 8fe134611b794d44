//! Zones, pods and endpoint names as flags choose them; what a pod's resolver makes of a name; and two servers compared.

use fingerpost_tests::Server;
use serde_json::{Value, json};

async fn data(server: &Server, name: &str, qtype: &str) -> (String, Vec<String>) {
    let reply = server.ask(name, qtype).await;
    let mut data: Vec<String> = reply.answers.iter().map(|line| line.data.clone()).collect();
    data.sort();
    (reply.rcode, data)
}

fn ok(data: &[&str]) -> (String, Vec<String>) {
    ("NOERROR".to_owned(), data.iter().map(|text| (*text).to_owned()).collect())
}

/// What a cluster's listener would write: a namespace's worth of every kind.
async fn fill(server: &Server) {
    let source = "?source=kubernetes/default";
    let put = async |path: &str, body: Value| {
        let reply = server.put(&format!("/v1/namespaces/prod/services/{path}{source}"), body).await;
        assert!(reply.status < 300, "{path}: {}", reply.text);
    };
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    put("web", json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1", "fd96::1"], "ports": ports})).await;
    put("db", json!({"ports": ports})).await;
    put("out", json!({"type": "ExternalName", "externalName": "www.example.com"})).await;
    put("in", json!({"type": "ExternalName", "externalName": "web.prod.svc.cluster.local"})).await;
    for n in 1..=3 {
        let addresses = json!([format!("10.1.0.{n}"), format!("fd01::{n}")]);
        let pod = json!({"name": format!("db-{n}"), "uid": "u"});
        put(&format!("db/instances/db-{n}"), json!({"addresses": addresses, "pod": pod})).await;
    }
    put("web/instances/web-1", json!({"addresses": ["10.1.0.9"], "hostname": "one"})).await;
}

#[tokio::test]
async fn flags_choose_zones_pods_and_endpoint_names() {
    let flags = ["--zone", "cluster.local", "--zone", "example.org", "--pods", "verified", "--endpoint-names", "pod"];
    let server = Server::start_with(&flags);
    fill(&server).await;
    for zone in ["cluster.local", "example.org"] {
        let name = |text: &str| format!("{text}.{zone}");
        assert_eq!(data(&server, &name("db-1.db.prod.svc"), "A").await, ok(&["10.1.0.1"]));
        assert_eq!(data(&server, &name("10-1-0-1.prod.pod"), "A").await, ok(&["10.1.0.1"]));
        assert_eq!(data(&server, &name("fd01--1.prod.pod"), "AAAA").await, ok(&["fd01::1"]));
        assert_eq!(data(&server, &name("10-7-7-7.prod.pod"), "A").await.0, "NXDOMAIN");
        assert_eq!(data(&server, &name("10-1-0-1.db.prod.svc"), "A").await.0, "NXDOMAIN");
        let srv = data(&server, &name("_http._tcp.web.prod.svc"), "SRV").await;
        assert_eq!(srv, ok(&[&format!("0 100 80 web.prod.svc.{zone}.")]));
    }
    let status = server.get("/v1/status").await.json;
    assert_eq!(status["dns"]["aliases"], json!(["example.org"]));
    assert_eq!((&status["dns"]["pods"], &status["dns"]["endpointNames"]), (&json!("verified"), &json!("pod")));
    // A pod is gone when the last that knows of it is.
    server.delete("/v1/namespaces/prod/services/db/instances/db-1?source=kubernetes/default").await;
    assert_eq!(data(&server, "10-1-0-1.prod.pod.cluster.local", "A").await.0, "NXDOMAIN");
}

#[tokio::test]
async fn explain_walks_a_pod_s_search_list() {
    let server = Server::start();
    fill(&server).await;
    let (code, text, _) = server.cli(&["explain", "web", "--from", "10.1.0.1"]);
    assert_eq!(code, 0);
    assert!(text.contains("✓   web.prod.svc.cluster.local.   NOERROR   1"), "{text}");
    assert!(text.contains("`db-1` in namespace `prod`") && text.contains("1 query for each"), "{text}");
    let (_, text, _) = server.cli(&["explain", "example.com", "--from", "10.1.0.1", "--output", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["search"]["queries"], json!(4));
    assert_eq!(json["search"]["candidates"][3]["outside"], json!(true));
    assert!(json["search"]["hint"].as_str().unwrap().contains("`example.com.`"));
    assert_eq!(json["from"]["namespace"], json!("prod"));
    assert_eq!(server.get("/v1/explain?name=web&from=nowhere").await.status, 400);
    let (_, text, _) = server.cli(&["explain", "10.1.0.1", "--from", "10.1.0.1"]);
    assert!(text.contains("1.0.1.10.in-addr.arpa. PTR"), "{text}");
}

#[tokio::test]
async fn two_servers_are_compared_name_by_name() {
    let (ours, theirs) = (Server::start(), Server::start_with(&["--dns-ttl", "30"]));
    fill(&ours).await;
    fill(&theirs).await;
    let against = theirs.dns.to_string();
    let compare = |flags: &[&str]| {
        let (code, text, notes) = ours.cli(&[&["compare", "--against", &against, "--output", "json"], flags].concat());
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{notes}"));
        (code, json)
    };
    let (code, same) = compare(&[]);
    assert_eq!(same["from"], json!({"registry": 4, "kubernetes": null}));
    assert_eq!((code, &same["agree"], &same["differences"]), (0, &json!(true), &json!([])), "{same:#}");
    assert_eq!(same["asked"], same["known"]);
    assert!(same["asked"].as_u64().unwrap() > 50 && same["otherTtl"].as_u64().unwrap() > 10, "{same:#}");
    let (code, some) = compare(&["--limit", "7"]);
    assert_eq!((code, &some["asked"]), (0, &json!(7)));

    let (_, text, _) = ours.cli(&["compare", "--against", &against]);
    assert!(text.contains("Both servers agree on what the registry knows.") && text.contains("--kubeconfig"), "{text}");
    // Other zones of the same content are asked for, too, and a server without a cluster is compared with nothing.
    let aliased = Server::start_with(&["--zone", "cluster.local", "--zone", "example.org"]);
    let (code, _, error) = aliased.cli(&["compare", "--against", &against]);
    assert!(code == 2 && error.contains("no service of kubernetes/default"), "{code} {error}");
    fill(&aliased).await;
    let (code, text, _) = aliased.cli(&["compare", "--against", &against]);
    assert!(code == 1 && text.contains("db.prod.svc.example.org."), "{code} {text}");

    // What was registered here alone is meant to differ; one that is missing there is not.
    ours.put("/v1/namespaces/prod/services/db/instances/vm", json!({"addresses": ["192.168.0.1"]})).await;
    let (code, registered) = compare(&[]);
    assert_eq!((code, &registered["agree"]), (0, &json!(true)), "{registered:#}");
    let meant = registered["meant"].as_array().unwrap();
    assert!(meant.iter().any(|meant| meant["name"] == "registered"), "{registered:#}");
    theirs.delete("/v1/namespaces/prod/services/web/instances/web-1?source=kubernetes/default").await;
    let (code, missing) = compare(&[]);
    assert_eq!((code, &missing["agree"]), (1, &json!(false)));
    let differences = missing["differences"].as_array().unwrap();
    let names: Vec<&str> = differences.iter().map(|different| different["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["9.0.1.10.in-addr.arpa.", "one.web.prod.svc.cluster.local."], "{missing:#}");
    assert_eq!(differences[1]["extra"], json!(["one.web.prod.svc.cluster.local. A 10.1.0.9"]));
    let (code, text, _) = ours.cli(&["compare", "--against", &against]);
    assert_eq!(code, 1);
    assert!(text.contains("NOERROR here, NXDOMAIN there") && text.contains("The servers differ."), "{text}");

    // Nobody there: nothing is the same.
    drop(theirs);
    let (code, dead) = compare(&["--limit", "2"]);
    assert_eq!((code, &dead["unanswered"]), (2, &json!(2)));
}

#[tokio::test]
async fn a_comparison_that_cannot_be_made_ends_with_2() {
    let server = Server::start();
    fill(&server).await;
    let against = server.dns.to_string();
    let fails = |flags: &[&str]| {
        let (code, out, error) = server.cli(&[&["compare", "--against", &against], flags].concat());
        assert!(code == 2 && out.is_empty() && error.contains("can't compare"), "{code} {out} {error}");
        error
    };
    assert!(fails(&["--kubeconfig", "/no/such/file"]).contains("/no/such/file"));
    assert!(fails(&["--dns", "x:y"]).contains("`x:y` is no address"));
    assert!(fails(&["--server", "http://127.0.0.1:1"]).contains("127.0.0.1:1"));
}

#[tokio::test]
async fn the_query_log_is_opened_again_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("queries"), folder.path().join("queries.1"));
    let mut server = Server::start_with(&["--query-log", path.to_str().unwrap()]);
    let has = async |path: &std::path::Path, name: &str| {
        let found = async {
            while !std::fs::read_to_string(path).is_ok_and(|text| text.contains(name)) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), found).await.unwrap();
    };
    server.ask("one.cluster.local", "A").await;
    has(&path, "\"one.cluster.local.\"").await;
    std::fs::rename(&path, &moved).unwrap();
    let pid = rustix::process::Pid::from_raw(server.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    server.ask("two.cluster.local", "AAAA").await;
    // Which of the two files has it depends on who was first; later ones are in the new file.
    assert!(server.get("/livez").await.status == 200, "the signal is no end");
    while !path.exists() {
        server.ask("three.cluster.local", "A").await;
    }
    server.ask("four.cluster.local", "A").await;
    has(&path, "\"four.cluster.local.\"").await;
    assert!(server.terminate().success());
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&line["rcode"], &line["zone"]), (&json!("NXDOMAIN"), &json!("cluster.local")));
}
