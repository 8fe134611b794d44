//! The client library against the real server: subscriptions that outlive it, registrations that come and go.

use fingerpost_client::catalog::document::{InstanceDocument, NewSession};
use fingerpost_client::catalog::{Health, Port, Protocol};
use fingerpost_client::{
    Client, ConnectionState, Endpoints, Error, Freshness, HealthReport, HttpOptions, RegistrationState, Subscription,
};
use fingerpost_tests::Server;
use fingerpost_tests::proxy::Proxy;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn instance(id: &str) -> InstanceDocument {
    InstanceDocument {
        namespace: Some("prod".to_owned()),
        service: Some("web".to_owned()),
        id: Some(id.to_owned()),
        addresses: vec![[10, 0, 0, 1].into()],
        ports: vec![Port { name: "http".to_owned(), port: 8080, protocol: Protocol::Tcp, app_protocol: None }],
        ..InstanceDocument::default()
    }
}

fn ids(endpoints: &Endpoints) -> Vec<&str> {
    endpoints.iter().map(|endpoint| endpoint.key().id()).collect()
}

/// Waits until a subscription shows what is wanted.
async fn until(subscription: &mut Subscription, wanted: impl Fn(&Endpoints) -> bool) -> Arc<Endpoints> {
    let seen = async {
        loop {
            let current = subscription.current();
            if wanted(&current) {
                return current;
            }
            // A refusal is not what is waited for here.
            let _ = subscription.changed().await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), seen).await;
    seen.unwrap_or_else(|_| panic!("it shows {:?}", subscription.current()))
}

async fn put(server: &Server, id: &str) {
    let body =
        json!({"addresses": ["10.0.0.1"], "labels": {"track": if id.starts_with('c') { "canary" } else { "stable" }}});
    let put = server.put(&format!("/v1/namespaces/prod/services/web/instances/{id}"), body).await;
    assert!(put.status < 300, "{put:?}");
}

#[tokio::test]
async fn one_stream_carries_all_subscriptions_through_a_restart() {
    let mut server = Server::start();
    server.put("/v1/namespaces/prod/services/web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    put(&server, "a").await;
    let client = Client::connect(&server.url).unwrap();
    let mut all = client.watch("prod/web").subscribe().unwrap();
    all.synced().await.unwrap();
    assert_eq!(ids(&all.current()), ["a"]);
    assert_eq!(all.current().as_slice()[0].port(Some("http")), Some(80));
    // Added to the stream that runs.
    let mut canaries = client.watch("prod/web").selector("track=canary").subscribe().unwrap();
    canaries.synced().await.unwrap();
    let others: Vec<Subscription> =
        (0..200).map(|n| client.watch(&format!("prod/other-{n}")).subscribe().unwrap()).collect();
    for other in &others {
        other.synced().await.unwrap();
    }
    put(&server, "c1").await;
    until(&mut all, |now| ids(now) == ["a", "c1"]).await;
    let canary = until(&mut canaries, |now| ids(now) == ["c1"]).await;
    assert_eq!(canary.as_slice()[0].port(Some("http")), Some(80), "the service's ports, whatever its labels");
    let streams = server.get("/v1/status").await.json["watch"]["streams"].clone();
    assert_eq!(streams, 1);

    server.kill();
    let mut connection = client.connection();
    connection.wait_for(|state| matches!(state, ConnectionState::Lost { .. })).await.unwrap();
    assert_eq!(ids(&all.current()), ["a", "c1"], "what is known stays");
    let server = server.again_on_same_ports();
    put(&server, "c2").await;
    until(&mut all, |now| ids(now) == ["a", "c1", "c2"]).await;
    until(&mut canaries, |now| ids(now) == ["c1", "c2"]).await;
}

#[tokio::test]
async fn a_start_without_the_registry_uses_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start();
    put(&server, "a").await;
    let client = || Client::builder().endpoint(&server.url).cache_dir(folder.path()).build().unwrap();
    {
        let mut web = client().watch("prod/web").subscribe().unwrap();
        until(&mut web, |now| ids(now) == ["a"]).await;
        // It is written within a second or so.
        while std::fs::read_dir(folder.path())
            .unwrap()
            .next()
            .is_none_or(|file| file.unwrap().file_name().to_string_lossy().starts_with('.'))
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let later = client();
    server.kill();
    let mut web = later.watch("prod/web").subscribe().unwrap();
    assert_eq!(ids(&web.current()), ["a"]);
    assert!(matches!(web.current().freshness(), Freshness::Cached { .. }));
    let server = server.again_on_same_ports();
    put(&server, "b").await;
    until(&mut web, |now| ids(now) == ["a", "b"] && now.freshness() == Freshness::Live).await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_noticed() {
    let server = Server::start();
    put(&server, "a").await;
    let options = HttpOptions::default();
    assert!(options.heartbeat * 3 <= Duration::from_secs(10));
    let client = Client::builder().endpoint(&server.url).options(options).build().unwrap();
    let web = client.watch("prod/web").subscribe().unwrap();
    web.synced().await.unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let mut connection = client.connection();
    let lost = connection.wait_for(|state| matches!(state, ConnectionState::Lost { .. }));
    let noticed = tokio::time::timeout(Duration::from_secs(60), lost).await.is_ok();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(noticed, "nobody noticed");
    connection.wait_for(|state| matches!(state, ConnectionState::Connected { .. })).await.unwrap();
}

#[tokio::test]
async fn a_registration_lives_as_its_guard_does() {
    let mut server = Server::start();
    let client = Client::connect(&server.url).unwrap();
    let mut web = client.watch("prod/web").keep_last(Duration::ZERO).subscribe().unwrap();
    let well = Arc::new(AtomicBool::new(true));
    let session = NewSession { ttl_seconds: 3, ..NewSession::default() };
    let registration = {
        let well = Arc::clone(&well);
        let health = move || {
            let well = well.load(Ordering::Relaxed);
            async move {
                match well {
                    true => HealthReport::passing(),
                    false => HealthReport::new(Health::Critical, "no disk"),
                }
            }
        };
        let register = client.register(instance("me")).session(session).grace(Duration::from_millis(500));
        register.health(Duration::from_millis(100), health).start().unwrap()
    };
    registration.registered().await.unwrap();
    until(&mut web, |now| now.usable().count() == 1).await;
    well.store(false, Ordering::Relaxed);
    until(&mut web, |now| now.len() == 1 && now.usable().count() == 0).await;
    well.store(true, Ordering::Relaxed);
    until(&mut web, |now| now.usable().count() == 1).await;

    // The registry loses everything: the guard brings the instance back.
    let before = web.current().position().unwrap().epoch;
    let data = server.data.clone();
    server.kill();
    std::fs::remove_dir_all(&data).unwrap();
    let server = server.again_on_same_ports();
    let is_new = |now: &Endpoints| now.position().is_some_and(|position| position.epoch != before);
    until(&mut web, |now| now.usable().count() == 1 && is_new(now)).await;
    let mut state = registration.state();
    state.wait_for(|state| matches!(state, RegistrationState::Registered { trouble: None, .. })).await.unwrap();

    // Out of answers first, then gone.
    drop(registration);
    let drained = until(&mut web, |now| now.is_empty() || now.usable().count() == 0).await;
    assert_eq!(drained.len(), 1, "drained, not gone yet");
    until(&mut web, Endpoints::is_empty).await;
    let sessions = server.get("/v1/sessions").await;
    assert_eq!(sessions.json["items"].as_array().unwrap().len(), 0, "{sessions:?}");
}

#[tokio::test]
async fn an_end_in_the_middle_of_the_beginning_leaves_nothing_behind() {
    let server = Server::start();
    let proxy = Proxy::start(server.http).await;
    proxy.slow(Duration::from_millis(200));
    let registration = Client::connect(&proxy.url()).unwrap().register(instance("me")).grace(Duration::ZERO);
    let registration = registration.start().unwrap();
    let mut web = Client::connect(&server.url).unwrap().watch("prod/web").subscribe().unwrap();
    // The reply to that is still under way.
    until(&mut web, |now| now.len() == 1).await;
    registration.end();
    registration.ended().await;
    assert_eq!(server.get("/v1/namespaces/prod/services/web/instances/me").await.status, 404);
    assert_eq!(server.get("/v1/sessions").await.json["items"], json!([]));
}

#[tokio::test]
async fn a_registration_begins_before_the_registry_is_there_and_says_what_is_wrong() {
    let mut server = Server::start();
    let url = server.url.clone();
    server.kill();
    let client = Client::connect(&url).unwrap();
    let mut bad = instance("bad");
    bad.addresses.clear();
    let good = client.register(instance("good")).start().unwrap();
    let bad = client.register(bad).start().unwrap();
    let mut state = good.state();
    let waiting = state.wait_for(|state| matches!(state, RegistrationState::Beginning { trouble: Some(_) })).await;
    drop(waiting.unwrap());
    let server = server.again_on_same_ports();
    good.registered().await.unwrap();
    let error = bad.registered().await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert_eq!(server.get("/v1/namespaces/prod/services/web/instances/good").await.status, 200);
}

#[tokio::test]
async fn a_drain_of_a_former_life_does_not_last() {
    let server = Server::start();
    let client = Client::connect(&server.url).unwrap();
    let mut web = client.watch("prod/web").subscribe().unwrap();
    let first = client.register(instance("me")).grace(Duration::from_secs(3600)).start().unwrap();
    first.registered().await.unwrap();
    first.end();
    until(&mut web, |now| now.len() == 1 && now.usable().count() == 0).await;
    let second = client.register(instance("me")).start().unwrap();
    second.registered().await.unwrap();
    until(&mut web, |now| now.usable().count() == 1).await;
}

#[test]
fn without_async() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(async { Server::start() });
    let patience = Duration::from_secs(30);
    let client = fingerpost_client::blocking::Client::new(Client::builder().endpoint(&server.url)).unwrap();
    let mut web = client.watch("prod/web", None).unwrap();
    web.synced(patience).unwrap();
    assert!(web.current().is_empty());
    let registration = client.register(instance("me"), |how| how.grace(Duration::ZERO)).unwrap();
    registration.registered(patience).unwrap();
    let read = |registry: fingerpost_client::HttpRegistry| async move {
        fingerpost_client::Registry::get_service(&registry, "prod", "web").await
    };
    assert_eq!(client.call(read).unwrap().name.as_deref(), Some("web"));
    while web.current().len() != 1 {
        web.changed(patience).unwrap();
    }
    let balancer = web.balance(fingerpost_client::balance::Balancer::default());
    assert_eq!(balancer.pick().unwrap().key().id(), "me");
    registration.end(patience).unwrap();
    assert!(matches!(web.synced(Duration::ZERO), Ok(()) | Err(Error::Unavailable { .. })));
    runtime.block_on(async { drop(server) });
}
