//! The command line from outside: what it prints, how it exits, and what it says where something is wrong.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_tests::{Server, binary};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Runs a command that must succeed; returns what it prints.
fn ok(server: &Server, line: &str) -> String {
    let (code, out, err) = server.cli(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{line}\n{out}{err}");
    out
}

/// Runs a command whose output is JSON.
fn ok_json(server: &Server, line: &str) -> Value {
    serde_json::from_str(&ok(server, &format!("{line} -o json"))).expect(line)
}

/// Runs a command that must fail, with exit code 1; returns what it says of it.
fn fails(server: &Server, line: &str) -> String {
    let (code, out, err) = server.cli(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 1, "{line}\n{out}{err}");
    assert!(err.starts_with("error: "), "{line}\n{err}");
    err
}

/// Runs a command whose arguments must be refused, with exit code 2; returns what it says of them.
fn refused(server: &Server, line: &str) -> String {
    let (code, out, err) = server.cli(&line.split(' ').collect::<Vec<_>>());
    assert_eq!((code, out.as_str()), (2, ""), "{line}\n{err}");
    err
}

/// Runs a command with something on standard input; returns exit code, standard output and standard error.
fn piped(server: &Server, line: &str, input: &str) -> (i32, String, String) {
    let mut child = Command::new(binary())
        .args(line.split(' '))
        .env("FINGERPOST_SERVER", &server.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its input need not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A command that goes on until it is ended, read line by line.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(servers: &str, line: &str) -> Self {
        let mut child = Command::new(binary())
            .args(line.split(' '))
            .env("FINGERPOST_SERVER", servers)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the command goes on").unwrap()
    }

    /// The next line's words.
    fn words(&mut self) -> Vec<String> {
        self.line().split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address where nobody listens: the port is none that the system gives away.
const NOBODY: &str = "http://127.0.0.1:1";

/// A table's rows, without the headers, as their columns.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

const WEB: &str = "register prod/web -a 10.0.0.1 -a fd00::1 -p http:8080 -p dns:53/udp -l app=web -l tier=front";

#[test]
fn register_and_deregister() {
    let server = Server::start();
    let out = ok(&server, WEB);
    assert!(out.starts_with("registered prod/web/10.0.0.1:8080 at "), "{out}");
    // The same again is the same instance at the same position.
    let again = ok(&server, WEB);
    assert!(again.starts_with("registered prod/web/10.0.0.1:8080 again at "), "{again}");
    assert_eq!(again.split(" at ").last(), out.split(" at ").last());

    let made = ok_json(&server, "register web -a 10.0.0.2 --id w2 --weight 5 --zone a --node n1 --hostname two");
    assert_eq!((&made["namespace"], &made["id"], &made["weight"]), (&json!("default"), &json!("w2"), &json!(5)));
    assert_eq!((&made["zone"], &made["node"], &made["hostname"]), (&json!("a"), &json!("n1"), &json!("two")));
    ok(&server, "register web -a 10.0.0.3 --health warning");
    ok(&server, "register web -a 10.0.0.4 --source api/team");

    let many = fails(&server, "deregister web");
    assert!(many.contains("name one of 10.0.0.3, w2, or say --all"), "{many}");
    assert!(ok(&server, "deregister web w2").starts_with("deregistered default/web/w2 at "));
    assert!(fails(&server, "deregister web w2").contains("`w2`"));
    // The only one that is left of this source.
    assert!(ok(&server, "deregister web").starts_with("deregistered default/web/10.0.0.3 at "));
    assert!(fails(&server, "deregister web").contains("fingerpost get instances default/web"));
    assert!(fails(&server, "deregister web --all").contains("source api says nothing of default/web"));
    assert!(
        ok(&server, "deregister web --all --source api/team").starts_with("deregistered 1 instance of default/web")
    );
    assert_eq!(ok(&server, "get services -n default"), "");
}

#[tokio::test]
async fn all_of_a_service_goes_at_once_with_its_declaration() {
    let server = Server::start();
    for batch in 0..2 {
        let operations: Vec<Value> = (0..100)
            .map(|n| json!({"op": "put", "kind": "instance", "object": {"namespace": "prod", "service": "web", "id": format!("i{batch}-{n}"), "addresses": ["10.0.0.1"]}}))
            .collect();
        assert_eq!(server.post("/v1/batch", json!({ "operations": operations })).await.status, 200);
    }
    server.put("/v1/namespaces/prod/services/web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    let shown = ok(&server, "describe service prod/web");
    assert!(shown.contains("fingerpost get instances prod/web"), "{shown}");
    assert_eq!(rows(&ok(&server, "get instances prod/web")).len(), 200);
    let out = ok(&server, "deregister prod/web --all");
    assert!(out.starts_with("deregistered 200 instances and the declaration of prod/web at "), "{out}");
    assert!(fails(&server, "get service prod/web").contains("`prod/web` does not exist"));
}

#[test]
fn lists() {
    let server = Server::start();
    ok(&server, WEB);
    ok(&server, "register prod/web -a 10.0.0.2 -p http:8080 -l app=web -l tier=back --health warning");
    ok(&server, "register db -a 10.0.0.9 -p 5432 -l app=db");

    let table = ok(&server, "get instances");
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAMESPACE", "SERVICE", "ID", "ADDRESSES", "PORTS", "HEALTH", "SOURCE"]
    );
    assert_eq!(
        rows(&table),
        [
            ["default", "db", "10.0.0.9:5432", "10.0.0.9", "5432", "passing", "api"],
            ["prod", "web", "10.0.0.1:8080", "10.0.0.1,fd00::1", "http:8080,dns:53/udp", "passing", "api"],
            ["prod", "web", "10.0.0.2:8080", "10.0.0.2", "http:8080", "warning", "api"],
        ]
    );
    let addresses = |line: &str| -> Vec<String> {
        let list = ok_json(&server, line);
        list["items"].as_array().unwrap().iter().map(|item| item["addresses"][0].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(addresses("get instances -l app=web,tier!=front"), ["10.0.0.2"]);
    assert_eq!(addresses("get inst -n default"), ["10.0.0.9"]);
    assert_eq!(addresses("get instances prod/web --health passing"), ["10.0.0.1"]);
    assert_eq!(addresses("get instances web -n prod --health passing,warning").len(), 2);
    assert_eq!(addresses("get instances --source api/nobody"), [""; 0]);
    assert!(ok(&server, "get instances -o wide").contains("app=web,tier=front"));
    assert!(ok(&server, "get instances -o yaml").starts_with("items:\n- kind: instance\n"));
    assert_eq!(
        rows(&ok(&server, "get services")),
        [["default", "db", "Headless", "-", "-", "-"], ["prod", "web", "Headless", "-", "-", "-"]]
    );
    assert_eq!(rows(&ok(&server, "get ns"))[1][0], "prod");
    assert_eq!(ok_json(&server, "get svc prod/web")["kind"], "service");

    // Nothing found is no failure, and nothing on standard output.
    let (code, out, err) = server.cli(&["get", "instances", "-l", "app=none"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "no instances\n"));
    let shown = ok(&server, "describe instance prod/web/10.0.0.1:8080");
    assert!(shown.contains("Ports:      http:8080,dns:53/udp\n") && shown.contains("Labels:     app=web\n"), "{shown}");
    assert!(ok(&server, "describe ns prod").contains("web"));
}

#[test]
fn a_watch_shows_changes_as_they_happen() {
    let server = Server::start();
    ok(&server, "register live/web -a 10.0.0.1 --id a");
    let mut watch = Running::start(&server.url, "get instances -n live -w");
    assert_eq!(watch.words()[0], "EVENT");
    assert_eq!(watch.words()[..4], ["present", "live", "web", "a"]);
    // Of another namespace: not to be seen.
    ok(&server, "register other/web -a 10.0.0.1");
    ok(&server, "register live/web -a 10.0.0.2 -p 80 --id b");
    assert_eq!(watch.words(), ["added", "live", "web", "b", "10.0.0.2", "80", "passing", "api"]);
    ok(&server, "register live/web -a 10.0.0.2 -p 80 --id b --health critical");
    assert_eq!(watch.words(), ["changed", "live", "web", "b", "10.0.0.2", "80", "critical", "api"]);
    ok(&server, "deregister live/web a");
    assert_eq!(watch.words()[..4], ["removed", "live", "web", "a"]);

    let mut programs = Running::start(&server.url, "get services -n live -w -o json");
    let present: Value = serde_json::from_str(&programs.line()).unwrap();
    assert_eq!((&present["event"], &present["object"]["name"]), (&json!("present"), &json!("web")));
    ok(&server, "deregister live/web b");
    let removed: Value = serde_json::from_str(&programs.line()).unwrap();
    assert_eq!((&removed["event"], &removed["object"]["name"]), (&json!("removed"), &json!("web")));

    // Of several replicas, the first may be away.
    let mut second = Running::start(&format!("{NOBODY},{}", server.url), "get namespaces -w");
    assert_eq!(second.words()[0], "EVENT");
    assert_eq!(second.words()[..2], ["present", "other"]);
}

#[test]
fn a_watch_that_begins_with_nothing_keeps_its_columns() {
    let server = Server::start();
    let mut watch = Running::start(&server.url, "get instances -w");
    let head = watch.line();
    ok(&server, "register web -a 10.0.0.1 -p 8080");
    let row = watch.line();
    for (header, cell) in [("NAMESPACE", "default"), ("ADDRESSES", "10.0.0.1 "), ("HEALTH", "passing")] {
        let column = head.find(header).unwrap();
        assert!(row[column..].starts_with(cell), "{head}\n{row}");
    }
}

#[test]
fn an_export_is_imported_whole() {
    let first = Server::start();
    ok(&first, WEB);
    ok(&first, "register prod/web -a 10.0.0.2 --health critical --source api/team");
    let service = "kind: service\nnamespace: prod\nname: db\ntype: ExternalName\nexternalName: db.example.com\n";
    assert_eq!(piped(&first, "apply -f -", service).0, 0);
    let export = ok(&first, "export");
    assert_eq!(export.lines().count(), 5, "{export}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.jsonl");
    let file = file.to_str().unwrap();
    let (code, out, err) = first.cli(&["export", file]);
    assert_eq!((code, out.as_str(), err), (0, "", format!("3 records written to {file}\n")));

    let state = |server: &Server| -> Vec<Value> {
        ["get namespaces", "get services", "get instances"]
            .map(|list| {
                let mut list = ok_json(server, list);
                // Positions are each registry's own.
                for item in list["items"].as_array_mut().unwrap() {
                    item.as_object_mut().unwrap().remove("revision");
                }
                list
            })
            .to_vec()
    };
    let second = Server::start();
    ok(&second, "register old -a 10.9.9.9");
    let (code, out, err) = piped(&second, "import -", &export);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("imported 3 records from standard input at "), "{out}");
    assert!(ok(&second, "get instances").contains("10.9.9.9"));
    let out = ok(&second, &format!("import --replace {file}"));
    assert!(out.starts_with(&format!("imported 3 records from {file} at ")), "{out}");
    assert_eq!(state(&second), state(&first));
    assert!(ok(&second, "resolve web.prod A").contains(" IN A 10.0.0.1\n"));

    // What is no export, or a damaged one, changes nothing.
    let before = state(&second);
    let (code, _, err) = piped(&second, "import -", "kind: service\n");
    assert!(code == 1 && err.contains("not an export of Fingerpost"), "{err}");
    let damaged = export.replace("10.0.0.1\"", "10.0.0.999\"");
    let (code, _, err) = piped(&second, "import --replace -", &damaged);
    assert!(code == 1 && err.contains("line ") && err.contains("prod/web"), "{err}");
    assert_eq!(state(&second), before);
    assert!(fails(&second, "export /no/such/folder/file").contains("/no/such/folder"));
}

#[test]
fn files_are_applied() {
    let server = Server::start();
    let text = "kind: namespace\nname: shop\nlabels: {stage: live}\n---\n\
                - {kind: service, name: cart, ports: [{name: http, port: 80}]}\n\
                - {kind: instance, service: cart, id: a, addresses: [10.0.0.1], ports: [{name: http, port: 80}]}\n";
    let (code, out, err) = piped(&server, "apply -n shop -f -", text);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("applied 3 objects at "), "{out}");
    let shown = ok(&server, "describe ns shop");
    assert!(shown.contains("stage=live") && shown.contains("cart"), "{shown}");

    // What is printed can be applied, and changes nothing then.
    let printed = ok(&server, "get instances -o yaml");
    let revision = ok_json(&server, "status")["revision"].clone();
    assert_eq!(piped(&server, "apply -f -", &printed).0, 0);
    assert_eq!(ok_json(&server, "status")["revision"], revision);

    for (text, parts) in [
        ("kind: pod\nname: a\n", vec!["object 1", "`pod`", "`instance`"]),
        ("kind: instance\nid: a\nadresses: [10.0.0.1]\n", vec!["object 1", "`adresses`"]),
        ("kind: instance\nservice: x\nid: a\naddresses: [0.0.0.0]\n", vec!["instance default/x/a", "unspecified"]),
        ("kind: [\n", vec!["document 1"]),
        ("", vec!["describes nothing"]),
    ] {
        let (code, _, err) = piped(&server, "apply -f -", text);
        assert!(code == 1 && parts.iter().all(|part| err.contains(part)), "{text}{err}");
    }
    assert_eq!(ok_json(&server, "status")["revision"], revision);
    assert!(fails(&server, "apply -f /no/such/file").contains("/no/such/file"));
}

#[test]
fn names_are_completed_and_resolved() {
    let server = Server::start();
    ok(&server, WEB);
    ok(&server, "register web -a 10.0.0.7");
    let out = ok(&server, "resolve web.prod");
    assert!(out.contains("\nweb.prod.svc.cluster.local. 5 IN A 10.0.0.1\n"), "{out}");
    assert!(out.contains("\nweb.prod.svc.cluster.local. 5 IN AAAA fd00::1\n"), "{out}");
    assert!(ok(&server, "resolve web").contains(" IN A 10.0.0.7\n"));
    assert!(ok(&server, "resolve web -n prod").contains(" IN A 10.0.0.1\n"));
    assert!(ok(&server, "resolve web.prod.svc.cluster.local").contains(" IN A 10.0.0.1\n"));
    let out = ok(&server, "resolve _http._tcp.web.prod");
    assert!(out.contains(" IN SRV 0 ") && out.contains(" 8080 10-0-0-1.web.prod.svc.cluster.local.\n"), "{out}");
    assert!(ok(&server, "resolve 10.0.0.1").contains(" IN PTR 10-0-0-1.web.prod.svc.cluster.local.\n"));
    assert!(ok(&server, "resolve cluster.local SOA").contains(" IN SOA "));
    let json = ok_json(&server, "resolve web.prod A");
    assert_eq!((&json[0]["rcode"], &json[0]["answers"][0]["data"]), (&json!("NOERROR"), &json!("10.0.0.1")));
    // A whole name and a DNS server need no registry.
    let dns = server.dns.to_string();
    let (code, out, err) =
        server.cli(&["resolve", "web.prod.svc.cluster.local.", "--dns", dns.as_str(), "--server", NOBODY]);
    assert!(code == 0 && out.contains("10.0.0.1"), "{err}");

    let err = fails(&server, "resolve nope.prod");
    assert!(err.contains("NXDOMAIN") && err.contains("fingerpost explain nope.prod.svc.cluster.local."), "{err}");
    let err = fails(&server, "resolve web TXT");
    assert!(err.contains("no records of type TXT") && err.ends_with("cluster.local. TXT\n"), "{err}");
    assert!(fails(&server, "resolve example.com.").contains("REFUSED"));
    assert!(fails(&server, "resolve prod/web").contains("`web.prod`"));
    assert!(fails(&server, "resolve web NONE").contains("`NONE` is not a record type"));
    assert!(fails(&server, "resolve web --dns x:y").contains("IP:PORT"));
}

#[tokio::test]
async fn explain_names_the_reason() {
    let server = Server::start();
    ok(&server, "register prod/web -a 10.0.0.1 -p http:80 --id good");
    ok(&server, "register prod/web -a 10.0.0.2 -p http:80 --id bad");
    let health = "/v1/namespaces/prod/services/web/instances/bad/health";
    assert_eq!(server.put(health, json!({"health": "critical", "note": "disk full"})).await.status, 200);

    let out = ok(&server, "explain web.prod");
    for part in [
        "✓ It lies in the zone `cluster.local`.",
        "✓ 1 of its 2 instances can be answered.",
        "✗   bad    10.0.0.2    api      critical   critical: its source reports it so (disk full)",
        "Answer: NOERROR\n  web.prod.svc.cluster.local. 5 IN A 10.0.0.1\n",
    ] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    let revision = ok_json(&server, "status")["revision"].as_str().unwrap().to_owned();
    assert!(out.contains(&format!("As of {revision}; ")), "{out}");

    for (name, reason, answer) in [
        ("nope.prod", "✗ Service `nope` does not exist in it.", "Answer: NXDOMAIN"),
        ("web.test", "✗ Namespace `test` does not exist.", "Answer: NXDOMAIN"),
        ("example.com.", "✗ It lies in no zone of this server", "Answer: REFUSED"),
        ("_grpc._tcp.web.prod", "✗ `_grpc._tcp` is none of its named ports: _http._tcp", "Answer: NXDOMAIN"),
        ("10.0.0.2", "✗ 10.0.0.2 belongs to no service", "Answer: NXDOMAIN"),
        ("web.prod MX", "✓ 1 of its 2 instances", "Answer: NOERROR, no records"),
    ] {
        let out = ok(&server, &format!("explain {name}"));
        assert!(out.contains(reason) && out.contains(answer), "{reason} in\n{out}");
    }
    let json = ok_json(&server, "explain web.prod");
    assert_eq!((&json["rcode"], &json["instancesTotal"]), (&json!("NOERROR"), &json!(2)));
    assert!(fails(&server, "explain web NONE").contains("`NONE` is not a record type"));
    assert!(fails(&server, "explain a..b").contains("is not a domain name"));

    // The last one that could be answered goes, too.
    ok(&server, "register prod/web -a 10.0.0.1 -p http:80 --id good --health critical");
    let out = ok(&server, "explain web.prod");
    assert!(out.contains("✗ None of its 2 instances can be answered") && out.contains("Answer: NXDOMAIN"), "{out}");
}

#[test]
fn the_state_of_the_registry() {
    let server = Server::start();
    ok(&server, WEB);
    let out = ok(&server, "status");
    assert!(out.contains("1 namespace, 1 service, 1 instance\n"), "{out}");
    assert!(out.contains(&format!("in cluster.local on {}\n", server.dns)), "{out}");
    assert!(out.contains(&format!("REST:         {}\n", server.http)), "{out}");
    let status = ok_json(&server, "status");
    assert_eq!((&status["catalog"]["health"]["passing"], &status["store"]["records"]), (&json!(1), &json!(1)));
    assert_eq!(status["dns"]["position"], status["revision"]);
    let version = ok_json(&server, "version");
    assert_eq!(version["client"], version["server"]);
    // A version can be told without a registry.
    let (code, out, _) = server.cli(&["version", "--server", NOBODY]);
    assert!(code == 0 && out.contains("not reached"), "{out}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&server, &format!("completions {shell}")).contains("deregister"));
    }
}

#[test]
fn errors_name_the_way_out() {
    let server = Server::start();
    ok(&server, WEB);
    for line in ["status", "get instances", "get instances -w", "register web -a 10.0.0.1", "export", "explain web"] {
        let err = fails(&server, &format!("{line} --server {NOBODY}"));
        assert!(err.contains(NOBODY) && err.contains("is `fingerpost serve` running there?"), "{line}: {err}");
        assert!(err.contains("hint: name another registry with --server or FINGERPOST_SERVER"), "{line}: {err}");
    }
    assert!(fails(&server, "status --server ftp://localhost:1").contains("write http://"));
    // Something else than a registry.
    assert!(fails(&server, &format!("status --server {}/elsewhere", server.url)).contains("/docs"));
    // Of several replicas, the first may be away.
    for line in ["status", "export", "register web -a 10.0.0.1"] {
        ok(&server, &format!("{line} --server {NOBODY},{}", server.url));
    }

    for (line, parts) in [
        ("register Web -a 10.0.0.1", ["service `Web`", "'W' at character 1"]),
        ("register a/b/c -a 10.0.0.1", ["`a/b/c`", "[NAMESPACE/]SERVICE"]),
        ("register web", ["required", "--address"]),
        ("register web -a 10.0.0", ["--address", "10.0.0"]),
        ("register web -a 10.0.0.1 -p 0", ["`0`", "1 to 65535"]),
        ("register web -a 10.0.0.1 -p 80/icmp", ["`icmp`", "`udp`"]),
        ("register web -a 10.0.0.1 -l app", ["--label", "KEY=VALUE"]),
        ("register web -a 10.0.0.1 --health ill", ["`ill`", "`critical`"]),
        ("register web -a 10.0.0.1 --source consul", ["`consul`", "`api/<owner>`"]),
        ("get instances -l app=(", ["label selector", "character 5"]),
        ("get pods", ["pods", "instances"]),
        ("get instances -o xml", ["xml", "yaml"]),
    ] {
        let err = refused(&server, line);
        assert!(parts.iter().all(|part| err.contains(part)), "{line}: {err}");
    }
    for (line, parts) in [
        ("register web -a 0.0.0.0", ["default/web/0.0.0.0", "/addresses/0"]),
        ("register web -a ::ffff:10.0.0.1", ["mapped into IPv6", "write it as IPv4"]),
        ("register web -a 10.0.0.1 -p 80 -p 81", ["two ports have no name", "/ports/1/name"]),
        ("register web -a 10.0.0.1 -l a=1 -l a=2", ["label `a`", "`2`"]),
        ("register web -a 10.0.0.1 --id a/b", ["id `a/b`", "'/' at character 2"]),
        ("get service nope", ["service default/nope", "does not exist"]),
        ("get instances prod/web -n test", ["two namespaces", "`test`"]),
        ("get instances prod/web/i", ["one instance", "fingerpost describe instance prod/web/i"]),
        ("get namespaces Prod", ["namespace `Prod`", "character 1"]),
        ("get services --health passing", ["--health", "get instances"]),
        ("get namespaces -n prod", ["-n", "get namespaces NAME"]),
        ("describe instance web", ["`web`", "[NAMESPACE/]SERVICE/ID"]),
        ("describe instance prod/web/none", ["prod/web/none", "does not exist"]),
    ] {
        let err = fails(&server, line);
        assert!(parts.iter().all(|part| err.contains(part)), "{line}: {err}");
    }
    // None of them changed anything, but for the one that was meant to.
    assert_eq!(rows(&ok(&server, "get instances")).len(), 2);
}

#[test]
fn colour_is_for_terminals() {
    let server = Server::start();
    ok(&server, WEB);
    assert!(!ok(&server, "get instances").contains('\x1b'));
    assert!(ok(&server, "get instances --color always").contains("\x1b[32mpassing\x1b[0m"));
    assert!(!ok(&server, "get instances --color always -o json").contains('\x1b'));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_fault() {
    let server = Server::start();
    ok(&server, WEB);
    let mut child = Command::new(binary())
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn serve_refuses_what_it_cannot_do() {
    let server = Server::start();
    let serve = |flags: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let output = Server::command(folder.path(), flags).stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let http = server.http.to_string();
    for (flags, part) in [
        (["--http-listen", http.as_str()], "--http-listen"),
        (["--http-listen", "0.0.0.0:0"], "--insecure"),
        (["--config", "/no/such/file"], "/no/such/file"),
        (["--dns-ttl", "86401"], "86400"),
    ] {
        let (code, err) = serve(&flags);
        assert!(code == 1 && err.contains(part), "{flags:?}: {err}");
    }
}

#[tokio::test]
async fn drains_and_checks_find_whose_instance_it_is() {
    let server = Server::start();
    let declared = json!({"addresses": ["10.0.0.1"], "checks": [{"name": "alive", "type": "ttl"}]});
    let path = "/v1/namespaces/prod/services/web/instances";
    for (id, source) in [("a", "kubernetes/far"), ("b", "api/one"), ("b", "cni/two")] {
        let made = server.put(&format!("{path}/{id}?source={source}"), declared.clone()).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
    assert_eq!(
        ok(&server, "check prod/web/a alive --health warning"),
        "reported alive as warning; prod/web/a is warning\n"
    );
    ok(&server, "drain prod/web/a --note upgrade");
    assert_eq!(server.get(&format!("{path}/a")).await.json["effectiveHealth"], "critical");
    ok(&server, "drain prod/web/a --undo");
    for line in ["drain prod/web/b", "check prod/web/b alive"] {
        let error = fails(&server, line);
        assert!(error.contains("`api/one`, `cni/two`") && error.contains("--source"), "{error}");
    }
    ok(&server, "drain prod/web/b --source cni/two");
    let of = async |source: &str| server.get(&format!("{path}/b?source={source}")).await.json["healthParts"].clone();
    assert!(of("cni/two").await["drain"].is_object() && of("api/one").await["drain"].is_null());
    assert!(fails(&server, "drain prod/web/none").contains("instance `none` does not exist"));
    let listed = server.get(&format!("{path}/b?view=sources")).await;
    let sources: Vec<_> = listed.json["items"].as_array().unwrap().iter().map(|one| one["source"].clone()).collect();
    assert_eq!((listed.status, sources), (200, vec![json!("api/one"), json!("cni/two")]), "{}", listed.text);
    assert_eq!(server.get(&format!("{path}/b?view=source")).await.status, 400);
    assert_eq!(server.get(&format!("{path}/none?view=sources")).await.status, 404);
}
