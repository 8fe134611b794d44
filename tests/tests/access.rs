//! Access from outside: TLS, tokens, client certificates, roles, and what happens to those who have none of it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use fingerpost_client::catalog::document::InstanceDocument;
use fingerpost_client::catalog::{Kind, Source};
use fingerpost_client::{Error, Guard, HttpOptions, HttpRegistry, Registry, Token, WatchEvent, WatchRequest};
use fingerpost_tests::{Answer, Server, binary};
use futures_util::StreamExt;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Files are looked at every 2 seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names, and its key, as PEM.
    fn issue(&self, common: &str, names: &[&str]) -> (String, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Tokens of every role and the file with their hashes.
struct Site {
    folder: TempDir,
    authority: Authority,
    reader: String,
    registrar: String,
    admin: String,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("servers");
        let path = |name: &str| folder.path().join(name);
        let (certificate, key) = authority.issue("registry", &["localhost", "127.0.0.1"]);
        fs::write(path("ca.pem"), &authority.pem).unwrap();
        fs::write(path("server.pem"), certificate).unwrap();
        fs::write(path("server.key"), key).unwrap();
        fs::set_permissions(path("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let tokens = path("tokens.toml");
        let new = |line: &str| new_token(&tokens, line);
        let reader = new("web-ui --role reader");
        let registrar = new("ci --role registrar --source api/ci --source api/ci-* --namespace prod --namespace test");
        let admin = new("root --role admin");
        Self { authority, reader, registrar, admin, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file with the token.
    fn token_file(&self, name: &str, token: &str) -> String {
        fs::write(self.path(name), format!("{token}\n")).unwrap();
        self.text(name)
    }

    fn flags(&self) -> Vec<String> {
        ["--tls-cert", &self.text("server.pem"), "--tls-key", &self.text("server.key"), "--tokens"]
            .into_iter()
            .chain([&*self.text("tokens.toml")])
            .map(str::to_owned)
            .collect()
    }

    fn start_with(&self, more: &[&str]) -> Server {
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::start_with(&flags)
    }

    fn start(&self) -> Server {
        self.start_with(&[])
    }

    fn client(&self) -> Client {
        self.client_with(|builder| builder)
    }

    fn client_with(&self, with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Client {
        let ca = Certificate::from_pem(self.authority.pem.as_bytes()).unwrap();
        with(Client::builder().timeout(PATIENCE).tls_certs_only([ca])).build().unwrap()
    }
}

/// Makes a token and adds it to the file.
fn new_token(tokens: &Path, line: &str) -> String {
    let output = Command::new(binary())
        .args(["token", "new"])
        .args(line.split(' '))
        .arg("--append")
        .arg(tokens)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A call with the token; `""` for none.
async fn call(client: &Client, method: Method, url: &str, token: &str, body: &Value) -> Answer {
    let mut request = client.request(method, url);
    if !body.is_null() {
        request = request.json(body);
    }
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let content_type = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let challenge = response.headers().contains_key("www-authenticate");
    assert_eq!(challenge, status == 401, "{url}");
    let text = response.text().await.unwrap();
    Answer {
        status,
        json: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
        etag: None,
        content_type: content_type.unwrap_or_default(),
    }
}

async fn get(client: &Client, server: &Server, path: &str, token: &str) -> Answer {
    call(client, Method::GET, &format!("{}{path}", server.url), token, &Value::Null).await
}

async fn status_of(client: &Client, server: &Server, token: &str) -> u16 {
    get(client, server, "/v1/status", token).await.status
}

/// Asks until the answer has this status.
async fn until_status(client: &Client, server: &Server, token: &str, wanted: u16) {
    let begun = Instant::now();
    loop {
        let status = status_of(client, server, token).await;
        if status == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "still {status}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn at(n: u8) -> Value {
    json!({"addresses": [format!("10.0.0.{n}")]})
}

#[tokio::test]
async fn without_a_token_there_is_nothing_but_the_public_pages() {
    let site = Site::new();
    let server = site.start();
    let client = site.client();
    assert!(server.url.starts_with("https://"));
    for path in ["/livez", "/readyz", "/version", "/docs", "/openapi.json"] {
        assert_eq!(get(&client, &server, path, "").await.status, 200, "{path}");
    }
    let forged = format!("fp_{}", "A".repeat(43));
    for path in ["/v1/status", "/metrics", "/v1/namespaces", "/nothing", "/v1/export", "/v1/watch"] {
        assert_eq!(get(&client, &server, path, "").await.status, 401, "{path}");
    }
    // Only so often at once from one address.
    for token in [&*forged, "x", "", " "] {
        let answer = get(&client, &server, "/v1/status", token).await;
        assert_eq!((answer.status, answer.content_type.as_str()), (401, "application/problem+json"));
        assert!(!answer.text.contains(&forged), "{}", answer.text);
    }
    let url = format!("{}/v1/status", server.url);
    let basic = client.get(&url).basic_auth("root", Some(&site.admin)).send().await.unwrap();
    assert!(matches!(basic.status().as_u16(), 401 | 429));
}

#[tokio::test]
async fn roles_are_kept_to() {
    let site = Site::new();
    let server = site.start();
    let client = site.client();
    let to = |path: &str| format!("{}{path}", server.url);
    let call = |method: Method, path: &str, token: &str, body: Value| {
        let (client, url, token) = (client.clone(), to(path), token.to_owned());
        async move { call(&client, method, &url, &token, &body).await }
    };
    let (put, post, delete) = (Method::PUT, Method::POST, Method::DELETE);
    let prod = "/v1/namespaces/prod/services/web/instances";

    // A reader reads.
    for path in ["/v1/status", "/metrics", "/v1/namespaces", "/v1/instances"] {
        assert_eq!(call(Method::GET, path, &site.reader, Value::Null).await.status, 200, "{path}");
    }
    for (method, path) in [
        (put.clone(), format!("{prod}/a?source=api/ci")),
        (delete.clone(), format!("{prod}/a")),
        (post.clone(), "/v1/batch".to_owned()),
        (post.clone(), "/v1/import".to_owned()),
        (Method::GET, "/v1/export".to_owned()),
    ] {
        let answer = call(method.clone(), &path, &site.reader, at(1)).await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
        assert!(answer.text.contains("`web-ui` has the role reader"), "{}", answer.text);
    }

    // A registrar writes as its sources, in its namespaces.
    let ci = |path: &str| format!("{prod}{path}?source=api/ci");
    assert_eq!(call(put.clone(), &ci("/a"), &site.registrar, at(1)).await.status, 201);
    assert_eq!(call(put.clone(), &format!("{prod}/b?source=api/ci-2"), &site.registrar, at(2)).await.status, 201);
    assert_eq!(call(put.clone(), &ci("/a/health"), &site.registrar, json!({"health": "warning"})).await.status, 200);
    for (path, part) in [
        (format!("{prod}/a"), "`api/ci`, `api/ci-*`"),
        (format!("{prod}/a?source=api/other"), "`api/other`"),
        (format!("{prod}/a?source=kubernetes/default"), "kubernetes"),
        ("/v1/namespaces/dev/services/web/instances/a?source=api/ci".to_owned(), "only in `prod`, `test`"),
        ("/v1/namespaces/dev/instances/a?source=api/ci".to_owned(), "namespace `dev`"),
        ("/v1/namespaces/dev/services/web?source=api/ci".to_owned(), "namespace `dev`"),
        ("/v1/namespaces/dev?source=api/ci".to_owned(), "namespace `dev`"),
    ] {
        let body = if path.contains("/instances/") { at(1) } else { json!({}) };
        let answer = call(put.clone(), &path, &site.registrar, body).await;
        assert_eq!(answer.status, 403, "{path}: {}", answer.text);
        assert!(answer.text.contains(part), "{path}: {}", answer.text);
        assert_eq!(call(delete.clone(), &path, &site.registrar, Value::Null).await.status, 403, "{path}");
    }
    for (method, path) in [(Method::GET, "/v1/export"), (post.clone(), "/v1/import?replace=true")] {
        assert_eq!(call(method, path, &site.registrar, Value::Null).await.status, 403, "{path}");
    }
    // A set is judged by where it is, also an empty one.
    let foreign = "/v1/namespaces/dev/services/web/instances?source=api/ci";
    assert_eq!(
        call(put.clone(), foreign, &site.admin, json!({"items": [{"id": "x", "addresses": ["10.0.0.9"]}]}))
            .await
            .status,
        200
    );
    for items in [json!([]), json!([{"id": "y", "addresses": ["10.0.0.9"]}])] {
        let answer = call(put.clone(), foreign, &site.registrar, json!({"items": items})).await;
        assert_eq!(answer.status, 403, "{}", answer.text);
    }

    // One operation that is not allowed spoils an atomic batch.
    let operation = |namespace: &str, id: &str| {
        json!({"op": "put", "kind": "instance",
            "object": {"namespace": namespace, "service": "web", "id": id, "addresses": ["10.0.0.7"]}})
    };
    let batch = json!({"operations": [operation("prod", "c"), operation("dev", "c")]});
    let answer = call(post.clone(), "/v1/batch?source=api/ci", &site.registrar, batch.clone()).await;
    assert_eq!((answer.status, &answer.json["pointer"]), (403, &json!("/operations/1/object")), "{}", answer.text);
    assert_eq!(call(Method::GET, &format!("{prod}/c"), &site.reader, Value::Null).await.status, 404);
    let each = call(post.clone(), "/v1/batch?source=api/ci&atomic=false", &site.registrar, batch.clone()).await;
    let statuses: Vec<_> = each.json["results"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, [json!(201), json!(403)], "{}", each.text);
    assert_eq!(call(post.clone(), "/v1/batch", &site.registrar, batch.clone()).await.status, 403, "as `api`");
    assert_eq!(
        call(Method::GET, "/v1/namespaces/dev/services/web/instances/c", &site.reader, Value::Null).await.status,
        404
    );

    // An administrator does all of it, but is no other replica.
    assert_eq!(call(post.clone(), "/v1/batch?source=api/ci", &site.admin, batch).await.status, 200);
    let export = call(Method::GET, "/v1/export", &site.admin, Value::Null).await;
    assert_eq!(export.status, 200);
    assert_eq!(call(Method::GET, "/v1/export/", &site.admin, Value::Null).await.status, 404);
    assert_eq!(call(Method::OPTIONS, "/v1/namespaces", &site.admin, Value::Null).await.status, 405);
    let answer = call(Method::GET, "/v1/status", &site.reader, Value::Null).await;
    assert_eq!(answer.json["access"], json!({"tls": true, "authentication": "token"}));
    assert_eq!(answer.json["insecure"], json!(false));

    // Streams of many subscriptions are opened by POST, and only read.
    let url = to("/v1/watch");
    let body = json!({"subscriptions": [{"id": "all"}]});
    let watch = client.post(&url).bearer_auth(&site.reader).json(&body).send().await.unwrap();
    assert_eq!(watch.status(), 200);
}

#[tokio::test]
async fn a_session_takes_the_instances_of_its_owner_only() {
    let site = Site::new();
    let sibling = new_token(&site.path("tokens.toml"), "ci-again --role registrar --source api/ci");
    let server = site.start();
    let client = site.client();
    let call = |method: Method, path: &str, token: &str, body: Value| {
        let (client, url, token) = (client.clone(), format!("{}{path}", server.url), token.to_owned());
        async move { call(&client, method, &url, &token, &body).await }
    };
    let made = call(Method::POST, "/v1/sessions?source=api/ci", &site.registrar, json!({})).await;
    assert_eq!((made.status, &made.json["owner"]), (201, &json!("ci")), "{}", made.text);
    let on_session = |n: u8| json!({"addresses": [format!("10.0.0.{n}")], "session": made.json["id"]});
    let path = |id: &str| format!("/v1/namespaces/prod/services/web/instances/{id}?source=api/ci");
    assert_eq!(call(Method::PUT, &path("a"), &site.registrar, on_session(1)).await.status, 201);
    assert_eq!(call(Method::PUT, &path("b"), &site.admin, on_session(2)).await.status, 201);
    // Another registrar of the same source could keep nothing alive on it, so nothing of its comes to hang there.
    assert_eq!(call(Method::PUT, &path("c"), &sibling, at(3)).await.status, 201);
    let set = "/v1/namespaces/prod/services/web/instances?source=api/ci";
    let items = json!({"items": [{"id": "c", "addresses": ["10.0.0.3"], "session": made.json["id"]}]});
    for (method, path, body, pointer) in [
        (Method::PUT, &*path("c"), on_session(3), "/session"),
        (Method::PATCH, &path("c"), json!({"session": made.json["id"]}), "/session"),
        (Method::PUT, set, items, "/items/0/session"),
    ] {
        let refused = call(method.clone(), path, &sibling, body).await;
        assert_eq!((refused.status, &refused.json["pointer"]), (422, &json!(pointer)), "{method}: {}", refused.text);
        assert!(refused.text.contains("belongs to somebody else"), "{}", refused.text);
    }
}

#[tokio::test]
async fn tokens_are_read_again() {
    let site = Site::new();
    let server = site.start();
    let client = site.client();
    let tokens = site.path("tokens.toml");
    let later = new_token(&tokens, "later --role reader");
    until_status(&client, &server, &later, 200).await;

    // Bad ones are not taken.
    let good = fs::read_to_string(&tokens).unwrap();
    let metric = |result: &'static str| {
        let (client, server, site) = (&client, &server, &site);
        async move {
            let text = get(client, server, "/metrics", &site.reader).await.text;
            text.contains(&format!("fingerpost_access_reloads_total{{what=\"tokens\",result=\"{result}\"}}"))
        }
    };
    assert!(!metric("refused").await);
    for bad in ["", "[[token]]\nname = 'x'\n", "nonsense", &good.replace("role = \"admin\"", "role = \"root\"")] {
        fs::write(&tokens, bad).unwrap();
    }
    let begun = Instant::now();
    while !metric("refused").await {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for token in [&later, &site.admin] {
        assert_eq!(status_of(&client, &server, token).await, 200);
    }

    // What is taken back is refused, and its streams end; those of others go on.
    let mut streams = Vec::new();
    for token in [&later, &site.reader] {
        let url = format!("{}/v1/watch", server.url);
        streams.push(client.get(url).bearer_auth(token).send().await.unwrap());
    }
    let entry = good.find("[[token]]\nname = \"later\"").expect(&good);
    fs::write(&tokens, &good[..entry]).unwrap();
    let ended = tokio::time::timeout(PATIENCE, async { while let Ok(Some(_)) = streams[0].chunk().await {} });
    ended.await.expect("the stream ends");
    // 429 where the asking above has used up what an address may fail in a minute.
    assert!(matches!(status_of(&client, &server, &later).await, 401 | 429));
    let url = format!("{}/v1/namespaces/test/instances/x", server.url);
    assert_eq!(call(&client, Method::PUT, &url, &site.admin, &at(1)).await.status, 201);
    let mut seen = String::new();
    while !seen.contains("10.0.0.1") {
        let chunk = tokio::time::timeout(PATIENCE, streams[1].chunk()).await.expect("an event").unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk.expect("the stream goes on")));
    }

    // On a signal, at once.
    let soon = new_token(&tokens, "soon --role reader");
    let pid = rustix::process::Pid::from_raw(server.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until_status(&client, &server, &soon, 200).await;
}

#[tokio::test]
async fn certificates_are_read_again() {
    let site = Site::new();
    let server = site.start_with(&["--ops-listen", "127.0.0.1:0"]);
    let other = Authority::new("others");
    let new_client = || {
        let ca = Certificate::from_pem(other.pem.as_bytes()).unwrap();
        // Each call makes a connection of its own.
        Client::builder().timeout(PATIENCE).tls_certs_only([ca]).pool_max_idle_per_host(0).build().unwrap()
    };
    let trusting_other = new_client();
    let url = format!("{}/livez", server.url);
    trusting_other.get(&url).send().await.unwrap_err();

    // A certificate without its key changes nothing.
    let (certificate, key) = other.issue("registry", &["127.0.0.1"]);
    fs::write(site.path("server.pem"), &certificate).unwrap();
    let ops = format!("http://{}/metrics", server.ops.unwrap());
    let refused = "fingerpost_access_reloads_total{what=\"certificate\",result=\"refused\"} 1";
    let begun = Instant::now();
    while !reqwest::get(&ops).await.unwrap().text().await.unwrap().contains(refused) {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(status_of(&site.client(), &server, &site.reader).await, 200);

    let kept = site.client();
    assert_eq!(status_of(&kept, &server, &site.reader).await, 200);
    fs::write(site.path("server.key"), &key).unwrap();
    let begun = Instant::now();
    while trusting_other.get(&url).send().await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(status_of(&kept, &server, &site.reader).await, 200, "connections go on");
    site.client().get(&url).send().await.unwrap_err();
}

#[tokio::test]
async fn another_client_ca_ends_what_the_former_vouched_for() {
    let site = Site::new();
    let [former, next] = [Authority::new("former"), Authority::new("next")];
    fs::write(site.path("clients.pem"), &former.pem).unwrap();
    let mut tokens = fs::read_to_string(site.path("tokens.toml")).unwrap();
    tokens.push_str("\n[[certificate]]\nname = 'node'\nsubject = 'CN=node'\nrole = 'reader'\n");
    fs::write(site.path("tokens.toml"), tokens).unwrap();
    let server = site.start_with(&["--tls-client-ca", &site.text("clients.pem")]);
    let with = |authority: &Authority| {
        let (certificate, key) = authority.issue("node", &[]);
        let identity = Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).unwrap();
        site.client_with(|builder| builder.identity(identity))
    };
    let watch = |client: &Client, token: &str| {
        let request = client.get(format!("{}/v1/watch", server.url));
        if token.is_empty() { request.send() } else { request.bearer_auth(token).send() }
    };
    let (node, plain) = (with(&former), site.client());
    let mut streams = [watch(&node, "").await.unwrap(), watch(&plain, &site.reader).await.unwrap()];
    assert_eq!(streams.iter().map(|stream| stream.status().as_u16()).collect::<Vec<_>>(), [200, 200]);
    assert_eq!(status_of(&node, &server, "").await, 200, "on a connection that is kept");

    fs::write(site.path("clients.pem"), &next.pem).unwrap();
    let ended = tokio::time::timeout(PATIENCE, async { while let Ok(Some(_)) = streams[0].chunk().await {} });
    ended.await.expect("the stream ends");
    // Its connections are gone, and it gets no other.
    node.get(format!("{}/v1/status", server.url)).send().await.unwrap_err();
    assert_eq!(status_of(&with(&next), &server, "").await, 200);
    // Who showed no certificate is not concerned.
    let url = format!("{}/v1/namespaces/prod/instances/x", server.url);
    assert_eq!(call(&plain, Method::PUT, &url, &site.admin, &at(1)).await.status, 201);
    let mut seen = String::new();
    while !seen.contains("10.0.0.1") {
        let chunk = tokio::time::timeout(PATIENCE, streams[1].chunk()).await.expect("an event").unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk.expect("the stream goes on")));
    }
}

#[tokio::test]
async fn a_session_goes_on_when_its_holders_token_is_replaced() {
    let site = Site::new();
    let server = site.start();
    let client = site.client();
    let call = |method: Method, path: &str, token: &str, body: Value| {
        let (client, url, token) = (client.clone(), format!("{}{path}", server.url), token.to_owned());
        async move { call(&client, method, &url, &token, &body).await }
    };
    let made = call(Method::POST, "/v1/sessions?source=api/ci", &site.registrar, json!({"ttlSeconds": 600})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let renew = async |token: &str| {
        let renewed = call(Method::POST, "/v1/sessions/renew", token, json!({"ids": [made.json["id"]]})).await;
        (renewed.status, renewed.json["items"][0]["state"].as_str().unwrap_or_default().to_owned())
    };

    // Another token of the same name does not go into an entry of its own, and the refusal says where it goes.
    let tokens = site.path("tokens.toml");
    let new = |arguments: &[&str]| {
        let line = ["token", "new", "ci", "--role", "registrar", "--source", "api/ci"];
        Command::new(binary()).args(line).args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    let refused = new(&["--append", tokens.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sha256 = ["), "{refused:?}");
    let made_token = new(&[]);
    let replacement = String::from_utf8(made_token.stdout).unwrap().trim().to_owned();
    let entry = String::from_utf8(made_token.stderr).unwrap();
    let hash_in = |text: &str| text.split("sha256 = \"").nth(1).unwrap()[..64].to_owned();
    let good = fs::read_to_string(&tokens).unwrap();
    let (old, new) = (hash_in(good.split("\"ci\"").nth(1).unwrap()), hash_in(&entry));
    fs::write(&tokens, good.replace(&format!("\"{old}\""), &format!("[\"{old}\", \"{new}\"]"))).unwrap();
    until_status(&client, &server, &replacement, 200).await;
    for token in [&replacement, &site.registrar] {
        assert_eq!(renew(token).await, (200, "alive".to_owned()));
    }
    fs::write(&tokens, good.replace(&old, &new)).unwrap();
    until_status(&client, &server, &site.registrar, 401).await;
    assert_eq!(renew(&replacement).await, (200, "alive".to_owned()));
    let path = format!("/v1/sessions/{}", made.json["id"].as_str().unwrap());
    assert_eq!(call(Method::DELETE, &path, &replacement, Value::Null).await.status, 200);
}

#[tokio::test]
async fn client_certificates_name_their_callers() {
    let site = Site::new();
    let clients = Authority::new("clients");
    fs::write(site.path("clients.pem"), &clients.pem).unwrap();
    let mut tokens = fs::read_to_string(site.path("tokens.toml")).unwrap();
    tokens.push_str(
        "\n[[certificate]]\nname = 'node-1'\nsubject = 'DNS:node-1.example'\nrole = 'registrar'\nsources = ['cni/*']\n\
         [[certificate]]\nname = 'boss'\nsubject = 'CN=boss'\nrole = 'admin'\n",
    );
    fs::write(site.path("tokens.toml"), tokens).unwrap();
    let server = site.start_with(&["--tls-client-ca", &site.text("clients.pem"), "--ops-listen", "127.0.0.1:0"]);
    let with = |authority: &Authority, common: &str, names: &[&str]| {
        let (certificate, key) = authority.issue(common, names);
        let identity = Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).unwrap();
        site.client_with(|builder| builder.identity(identity))
    };
    let url = format!("{}/v1/namespaces/prod/instances/a?source=cni/node-1", server.url);

    let node = with(&clients, "whatever", &["node-1.example"]);
    assert_eq!(call(&node, Method::PUT, &url, "", &at(1)).await.status, 201);
    let answer = get(&node, &server, "/v1/export", "").await;
    assert!(answer.status == 403 && answer.text.contains("`node-1`"), "{}", answer.text);
    let boss = with(&clients, "boss", &[]);
    assert_eq!(get(&boss, &server, "/v1/export", "").await.status, 200);
    // The kinds of name are not mixed up, and what is not listed may do nothing.
    for nobody in [with(&clients, "node-1.example", &["boss"]), with(&clients, "x", &["node-2.example"])] {
        let answer = get(&nobody, &server, "/v1/status", "").await;
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert_eq!(get(&nobody, &server, "/livez", "").await.status, 200);
        assert_eq!(status_of(&nobody, &server, &site.reader).await, 200, "a token stands for itself");
    }
    assert_eq!(status_of(&boss, &server, "fp_wrong").await, 401, "a wrong token is not made good");
    // Without a certificate, a token does.
    let plain = site.client();
    assert_eq!(status_of(&plain, &server, "").await, 401);
    let answer = get(&plain, &server, "/v1/status", &site.reader).await;
    assert_eq!(answer.json["access"]["authentication"], "token,certificate");
    // One of another CA gets no connection.
    let forged = with(&Authority::new("clients"), "boss", &["node-1.example"]);
    forged.get(format!("{}/livez", server.url)).send().await.unwrap_err();
    let metrics = reqwest::get(format!("http://{}/metrics", server.ops.unwrap())).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("fingerpost_tls_handshakes_failed_total{reason=\"refused\"} 1"), "{metrics}");
}

#[tokio::test]
async fn the_client_knows_its_registry() {
    let site = Site::new();
    let server = site.start();
    let options = |ca: &str| {
        let mut options = HttpOptions::default();
        options.token = Some(Token::from_file(site.token_file("token", &site.registrar)));
        options.ca = Some(site.path(ca));
        options.attempts = 1;
        options
    };
    let connect = |url: &str, options| HttpRegistry::with_options(&[url], options).unwrap();
    let registry = connect(&server.url, options("ca.pem"));
    registry.status().await.unwrap();

    fs::write(site.path("other.pem"), Authority::new("others").pem).unwrap();
    let error = connect(&server.url, options("other.pem")).status().await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
    // A certificate of the right CA, but for another name.
    let (certificate, key) = site.authority.issue("127.0.0.1", &["registry.example"]);
    fs::write(site.path("named.pem"), certificate).unwrap();
    fs::write(site.path("named.key"), key).unwrap();
    let (named, named_key) = (site.text("named.pem"), site.text("named.key"));
    let named = Server::start_with(&["--tls-cert", &named, "--tls-key", &named_key]);
    let error = connect(&named.url, options("ca.pem")).status().await.unwrap_err();
    assert!(matches!(&error, Error::Untrusted { reason, .. } if reason.contains("registry.example")), "{error:?}");
    // Plain HTTP where TLS is spoken.
    let error = connect(&server.url.replace("https", "http"), options("ca.pem")).status().await.unwrap_err();
    assert!(error.to_string().contains("https://"), "{error}");
    // A token does not go in the clear to other machines.
    let error = HttpRegistry::with_options(&["http://192.0.2.1:8053"], options("ca.pem")).unwrap_err();
    assert!(matches!(&error, Error::ClearText { .. }) && error.to_string().contains("https://"), "{error}");
    let mut anyway = options("ca.pem");
    anyway.allow_insecure = true;
    assert!(HttpRegistry::with_options(&["http://192.0.2.1:8053"], anyway).is_ok());

    // Who may not is told so, and not sent to another replica.
    let (source, instance) = (Source::api(), instance("prod"));
    let error = registry.put_instance(&source, &instance, Guard::None).await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }) && !error.is_transient(), "{error:?}");
    // A token that is replaced in its file is used from then on; here, the registry's refusal makes it look.
    site.token_file("token", &format!("fp_{}", "B".repeat(43)));
    let stale = connect(&server.url, options_with(&site, "token"));
    let error = stale.status().await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }) && !error.is_transient(), "{error:?}");
    site.token_file("token", &site.reader);
    stale.status().await.unwrap();
}

fn options_with(site: &Site, token: &str) -> HttpOptions {
    let mut options = HttpOptions::default();
    options.token = Some(Token::from_file(site.path(token)));
    options.ca = Some(site.path("ca.pem"));
    options
}

fn instance(namespace: &str) -> InstanceDocument {
    InstanceDocument {
        namespace: Some(namespace.to_owned()),
        service: Some("web".to_owned()),
        id: Some("a".to_owned()),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ..InstanceDocument::default()
    }
}

#[tokio::test]
async fn watches_run_over_tls() {
    let site = Site::new();
    let server = site.start();
    site.token_file("reader", &site.reader);
    site.token_file("ci", &site.registrar);
    let connect = |token| HttpRegistry::with_options(&[&server.url], options_with(&site, token)).unwrap();
    let mut watch = connect("reader").watch(WatchRequest::new(Some(Kind::Instance)));
    let mut next = async || tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next().await, WatchEvent::Synced(_)));
    let source: Source = "api/ci".parse().unwrap();
    connect("ci").put_instance(&source, &instance("prod"), Guard::None).await.unwrap();
    assert!(matches!(next().await, WatchEvent::Put { .. }));

    // A watch that is not allowed ends, and is not tried again and again.
    site.token_file("none", &format!("fp_{}", "C".repeat(43)));
    let mut watch = connect("none").watch(WatchRequest::new(None));
    assert!(matches!(watch.next().await, Some(Err(Error::Unauthorized { .. }))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn plain_http_is_told_to_speak_tls() {
    let site = Site::new();
    let server = site.start();
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("https://"), "{text}");
    let length: usize = text.split("Content-Length: ").nth(1).unwrap().split('\r').next().unwrap().parse().unwrap();
    assert_eq!(text.split("\r\n\r\n").nth(1).unwrap().len(), length);
    for version in [reqwest::tls::Version::TLS_1_2, reqwest::tls::Version::TLS_1_3] {
        let client = site.client_with(|builder| builder.tls_version_min(version).tls_version_max(version));
        assert_eq!(status_of(&client, &server, &site.reader).await, 200, "{version:?}");
    }
}

#[tokio::test]
async fn slow_handshakes_end_and_lock_nobody_out() {
    let site = Site::new();
    let server = site.start();
    let mut slow = Vec::new();
    for n in 0..700 {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        // Nothing, or the head of a record whose rest never comes.
        if n % 10 != 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        slow.push(stream);
    }
    let begun = Instant::now();
    // Who comes from another address does not notice.
    let elsewhere = site.client_with(|builder| builder.local_address("127.0.0.9".parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(status_of(&elsewhere, &server, &site.reader).await, 200);
    // Who comes from this one waits behind them, and may use up the time of a handshake with that: then it is broken off.
    let (client, url) = (site.client(), format!("{}/v1/status", server.url));
    while client.get(&url).bearer_auth(&site.reader).send().await.map_or(0, |answer| answer.status().as_u16()) != 200 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = slow.into_iter().map(|mut stream| async move {
        let mut rest = Vec::new();
        // Ended in order or broken off: it is over.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is ended");
    });
    futures_util::future::join_all(all).await;
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_token_goes_in_the_clear_where_it_is_said() {
    let site = Site::new();
    let server = Server::start_with(&["--tokens", &site.text("tokens.toml")]);
    let token = site.token_file("token", &site.reader);
    // Leads to this machine, but is no loopback address.
    let url = server.url.replace("127.0.0.1", "0.0.0.0");
    let get = ["--server", &url, "--token-file", &token, "get", "services"];
    let (code, _, error) = server.cli(&get);
    assert!(code == 1 && error.contains("in the clear") && error.contains("--insecure"), "{error}");
    let (code, _, error) = server.cli(&[&get[..], &["--insecure"]].concat());
    assert_eq!(code, 0, "{error}");
    let (code, ..) = server.cli(&[&get[..], &["--insecure=false"]].concat());
    assert_eq!(code, 1);
}

#[test]
fn nothing_is_served_beyond_loopback_in_the_open() {
    let site = Site::new();
    let (certificate, key, tokens) = (site.text("server.pem"), site.text("server.key"), site.text("tokens.toml"));
    let refused = |flags: &[&str]| {
        let output = Command::new(binary())
            .args(["serve", "--http-listen", "0.0.0.0:0", "--dns-listen", "127.0.0.1:0", "--data-dir"])
            .arg(site.path("data"))
            .args(flags)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&[]).contains("--insecure"));
    assert!(refused(&["--tokens", &tokens]).contains("--tls-cert"));
    assert!(refused(&["--tls-cert", &certificate, "--tls-key", &key]).contains("--tokens"));
    // With both it would, if they were any good.
    let empty = site.text("empty");
    fs::write(&empty, "").unwrap();
    let error = refused(&["--tls-cert", &certificate, "--tls-key", &key, "--tokens", &empty]);
    assert!(error.contains("no entries"), "{error}");
    let error = refused(&["--tls-cert", &certificate, "--tls-key", &empty, "--tokens", &tokens]);
    assert!(error.contains("no private key"), "{error}");
    let (_, other_key) = site.authority.issue("x", &["x"]);
    fs::write(&empty, other_key).unwrap();
    let error = refused(&["--tls-cert", &certificate, "--tls-key", &empty, "--tokens", &tokens]);
    assert!(error.contains("not the key of"), "{error}");
}

#[tokio::test]
async fn no_log_has_a_token() {
    let site = Site::new();
    let log = site.path("log");
    let flags = site.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut command = Server::command(&site.path("data"), &flags);
    command.env("FINGERPOST_LOG", "trace").stderr(fs::File::create(&log).unwrap());
    let mut server = Server::start_command(command, &site.path("data"));
    let client = site.client();
    let wrong = format!("fp_{}", "W".repeat(43));
    let short = "fp_short-but-secret".to_owned();
    assert_eq!(status_of(&client, &server, &site.admin).await, 200);
    assert_eq!(get(&client, &server, "/v1/export", &site.reader).await.status, 403);
    let url = format!("{}/v1/namespaces/prod/instances/a", server.url);
    assert_eq!(call(&client, Method::PUT, &url, &site.registrar, &at(1)).await.status, 403);
    for token in [&wrong, &short] {
        assert_eq!(status_of(&client, &server, token).await, 401);
    }
    // A token written into the file by mistake.
    let tokens = site.path("tokens.toml");
    let good = fs::read_to_string(&tokens).unwrap();
    fs::write(&tokens, format!("{good}\n[[token]]\nname = 'x'\nrole = 'admin'\nsha256 = '{wrong}'\n")).unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(&log).unwrap().contains("can't be taken") {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    server.terminate();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("TRACE"), "there is something to look at");
    for secret in [&site.admin, &site.reader, &site.registrar, &wrong, &short] {
        assert!(!text.contains(secret.as_str()), "a token is in the log");
    }
    assert!(!text.contains("fp_"), "something like a token is in the log");
}

#[tokio::test]
async fn failures_are_slowed_and_nobody_else() {
    let site = Site::new();
    let server = site.start_with(&["--ops-listen", "127.0.0.1:0"]);
    let client = site.client();
    let wrong = format!("fp_{}", "W".repeat(43));
    let mut statuses = Vec::new();
    for _ in 0..13 {
        statuses.push(status_of(&client, &server, &wrong).await);
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[12], 429, "{statuses:?}");
    let slowed = client.get(format!("{}/v1/status", server.url)).bearer_auth(&wrong).send().await.unwrap();
    let wait: u32 = slowed.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    // The right token is not slowed, here or elsewhere; nor are failures elsewhere.
    assert_eq!(status_of(&client, &server, &site.reader).await, 200);
    let elsewhere = site.client_with(|builder| builder.local_address("127.0.0.9".parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(status_of(&elsewhere, &server, &wrong).await, 401);
    assert_eq!(status_of(&elsewhere, &server, &site.reader).await, 200);
    let metrics = reqwest::get(format!("http://{}/metrics", server.ops.unwrap())).await.unwrap().text().await.unwrap();
    for part in ["fingerpost_access_refused_total{reason=\"unknown\"} 15", "reason=\"throttled\""] {
        assert!(metrics.contains(part), "{part} in\n{metrics}");
    }
}

#[tokio::test]
async fn probes_and_metrics_have_a_listener_of_their_own() {
    let site = Site::new();
    let server = site.start_with(&["--ops-listen", "127.0.0.1:0"]);
    let client = Client::new();
    let to = |path: &str| format!("http://{}{path}", server.ops.unwrap());
    for path in ["/livez", "/readyz", "/metrics", "/version"] {
        assert_eq!(client.get(to(path)).send().await.unwrap().status(), 200, "{path}");
        assert_eq!(client.post(to(path)).send().await.unwrap().status(), 405, "{path}");
    }
    for path in ["/v1/status", "/v1/namespaces", "/v1/export", "/docs", "/v1/peer/renew", "/"] {
        let status = client.get(to(path)).bearer_auth(&site.admin).send().await.unwrap().status();
        assert_eq!(status, 404, "{path}");
    }
}

#[tokio::test]
async fn tokens_hold_on_loopback_without_tls_and_peers_are_never_let_in_by_one_alone() {
    let site = Site::new();
    let server = Server::start_with(&["--tokens", &site.text("tokens.toml")]);
    let client = Client::new();
    assert_eq!(status_of(&client, &server, "").await, 401);
    assert_eq!(status_of(&client, &server, &site.reader).await, 200);
    // There is one replica, and no secret: nothing is right, the empty one least of all.
    for shown in ["Peer ", "Peer 00", "Peer"] {
        let url = format!("{}/v1/status", server.url);
        let answer = client.get(url).header("authorization", shown).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{shown}");
    }
    // Who names the host by another name is known by the token; without access control, that is refused.
    let named = |server: &Server, token: &str| {
        let request = client.get(format!("{}/v1/status", server.url)).header("host", "registry.example");
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(named(&server, &site.reader).await, 200);
    let open = Server::start();
    assert_eq!(named(&open, "").await, 421);
    let status = open.get("/v1/status").await.json;
    assert_eq!(status["access"], json!({"tls": false, "authentication": "none"}));
}

#[test]
fn the_command_line_shows_its_token() {
    let site = Site::new();
    let server = site.start();
    let run = |line: &str, variables: &[(&str, &str)]| {
        let output = Command::new(binary())
            .args(line.split(' '))
            .env("FINGERPOST_SERVER", &server.url)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (ca, ci) = (site.text("ca.pem"), site.token_file("ci", &site.registrar));
    let admin = site.token_file("admin", &site.admin);
    let register = format!("register prod/web -a 10.0.0.1 --source api/ci --ca {ca} --token-file {ci}");
    let (code, out, err) = run(&register, &[]);
    assert_eq!(code, 0, "{out}{err}");
    let known = [("FINGERPOST_CA", ca.as_str()), ("FINGERPOST_TOKEN_FILE", ci.as_str())];
    let (code, out, err) = run("get instances prod/web -o json", &known);
    assert!(code == 0 && out.contains("10.0.0.1"), "{out}{err}");
    let (code, out, err) = run("status", &known);
    assert!(code == 0 && out.contains("TLS, token"), "{out}{err}");
    let (code, _, err) = run("export", &known);
    assert!(code == 1 && err.contains("needs the role admin"), "{err}");
    let (code, out, err) = run("export", &[known[0], ("FINGERPOST_TOKEN_FILE", &admin)]);
    assert!(code == 0 && out.contains("\"end\""), "{out}{err}");
    let (code, _, err) = run("register dev/web -a 10.0.0.1 --source api/ci", &known);
    assert!(code == 1 && err.contains("only in `prod`, `test`"), "{err}");
    let (code, _, err) = run("status", &known[..1]);
    assert!(code == 1 && err.contains("--token-file"), "{err}");
    let (code, _, err) = run("status", &known[1..]);
    assert!(code == 1 && err.contains("can't trust"), "{err}");
    let (code, _, err) = run("status --token-file /no/such/file", &known);
    assert!(code == 1 && err.contains("/no/such/file"), "{err}");
    let (code, _, err) = run("status --server http://192.0.2.1:8053", &known);
    assert!(code == 1 && err.contains("https://"), "{err}");
}

#[test]
fn tokens_are_made_and_hashed() {
    use std::io::Write;
    let site = Site::new();
    let tokens = site.path("tokens.toml");
    assert_eq!(fs::metadata(&tokens).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&tokens).unwrap();
    assert!(!text.contains(&site.admin) && !text.contains("fp_"), "{text}");

    let hash = |input: &str| {
        let mut child = Command::new(binary())
            .args(["token", "hash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
    };
    let (good, hashed) = hash(&format!("{}\n", site.admin));
    assert!(good && text.contains(hashed.trim()), "{hashed}\n{text}");
    let (good, refusal) = hash("my-own-password");
    assert!(!good && !refusal.contains("my-own-password"), "{refusal}");

    let new = |line: &str| {
        let output = Command::new(binary()).args(["token", "new"]).args(line.split(' ')).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, out, err) = new("x --role reader");
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("fp_") && out.trim().len() == 46 && !err.contains(out.trim()), "{err}");
    assert!(err.contains("[[token]]") && err.contains("name = \"x\""), "{err}");
    let append = format!("ci --role reader --append {}", tokens.display());
    for (line, part) in [
        ("x --role registrar", "--source"),
        ("x --role registrar --source nowhere", "nowhere"),
        ("x --role admin --namespace prod", "only a registrar"),
        (append.as_str(), "another entry has this name"),
    ] {
        let (code, out, err) = new(line);
        assert!(code != 0 && out.is_empty() && err.contains(part), "{line}: {err}");
    }
    assert_eq!(fs::read_to_string(&tokens).unwrap(), text, "nothing was added");
}

#[tokio::test]
async fn followers_are_readers_and_their_ids_are_their_own() {
    let site = Site::new();
    let server = site.start();
    let client = site.client();
    let forged = format!("fp_{}", "A".repeat(43));
    let revision = get(&client, &server, "/v1/status", &site.reader).await.json["revision"].clone();
    let report = json!({"kind": "test", "run": "r", "sequence": 1, "position": revision});
    let tell = async |token: &str| {
        call(&client, Method::POST, &format!("{}/v1/followers/f", server.url), token, &report).await.status
    };
    assert_eq!((tell("").await, tell(&forged).await), (401, 401));
    assert_eq!((tell(&site.reader).await, tell(&site.registrar).await), (200, 409), "the id is the first one's");
    for token in ["", &site.reader, &site.admin] {
        let asked = json!({"withinMilliseconds": 0});
        let url = format!("{}/v1/peer/visible", server.url);
        let answer = call(&client, Method::POST, &url, token, &asked).await;
        assert!(matches!(answer.status, 403 | 429), "what replicas ask each other is for them alone: {answer:?}");
    }
    // Who may not write waits for nothing.
    let url = format!("{}/v1/namespaces/prod?wait=visible&timeout=60s", server.url);
    assert_eq!(call(&client, Method::PUT, &url, &site.reader, &json!({})).await.status, 403);
    assert_eq!(call(&client, Method::PUT, &url, "", &json!({})).await.status, 401);

    let web = format!("{}/v1/namespaces/prod/services/web/instances/a?source=api%2Fci", server.url);
    assert!(call(&client, Method::PUT, &web, &site.registrar, &at(1)).await.status < 300);
    let dns = |name: &str, token: &str| {
        let file = site.token_file(name, token);
        let flags = ["--token-file", &file, "--ca", &site.text("ca.pem"), "--follower-id", name];
        Server::start_dns(&server.url, &site.path(name).with_extension("data"), &flags)
    };
    let refused = dns("wrong", &forged);
    let begun = Instant::now();
    while !refused.get("/readyz").await.text.contains("token") {
        assert!(begun.elapsed() < PATIENCE, "it does not say what is wrong");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(refused.ask("web.prod.svc.cluster.local", "A").await.rcode, "SERVFAIL");
    let follows = dns("right", &site.reader);
    while follows.get("/readyz").await.status != 200 {
        assert!(begun.elapsed() < PATIENCE, "it does not follow");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(follows.ask("web.prod.svc.cluster.local", "A").await.answers[0].data, "10.0.0.1");
    let status = get(&client, &server, "/v1/status", &site.reader).await;
    let ids: Vec<_> = status.json["followers"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, ["f", "right"], "{status:?}");
}
