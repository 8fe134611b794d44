//! tower, tonic, hyper and reqwest over real servers that come and go: no request may fail when they go in good order.

#![allow(clippy::unwrap_used, reason = "in tests, a broken assumption ends the test")]

use axum::Router;
use axum::routing::get;
use fingerpost_client::balance::{Balancer, Policy};
use fingerpost_client::catalog::document::InstanceDocument;
use fingerpost_client::catalog::{Port, Protocol};
use fingerpost_client::connect::Resolver;
use fingerpost_client::tower::{Balanced, discover};
use fingerpost_client::{Client, Endpoint, Registration, Subscription, grpc};
use fingerpost_tests::Server;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service, ServiceExt};

/// A server that is registered, and leaves in good order.
struct Backend {
    registration: Registration,
    served: Arc<AtomicUsize>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Backend {
    async fn start(client: &Client, id: &str) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let (count, name) = (Arc::clone(&served), id.to_owned());
        let (_, health) = tonic_health::server::health_reporter();
        let app = tonic::service::Routes::new(health)
            .into_axum_router()
            .merge(Router::new().route("/", get(async move || name)))
            .layer(axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
                count.fetch_add(1, Ordering::Relaxed);
                next.run(request)
            }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
        });
        let instance = InstanceDocument {
            namespace: Some("prod".to_owned()),
            service: Some("web".to_owned()),
            id: Some(id.to_owned()),
            addresses: vec![address.ip()],
            ports: vec![Port {
                name: "main".to_owned(),
                port: address.port(),
                protocol: Protocol::Tcp,
                app_protocol: None,
            }],
            ..InstanceDocument::default()
        };
        let registration = client.register(instance).grace(Duration::from_millis(300)).start().unwrap();
        registration.registered().await.unwrap();
        Self { registration, served, stop, serving }
    }

    /// Leaves as a service should: first out of the registry, then the end of the server.
    async fn leave(self) -> usize {
        self.registration.end();
        self.registration.ended().await;
        self.stop.cancel();
        // Connections that are kept for reuse are the clients' to close; requests under way are done by now.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.serving).await;
        self.served.load(Ordering::Relaxed)
    }
}

/// Sends requests one after the other, four at a time, while backends come and go; none may fail. `ask` says who answered.
async fn under_load<F>(client: &Client, web: &Subscription, ask: impl Fn() -> F + Send + Sync + Clone + 'static)
where
    F: Future<Output = Result<(), String>> + Send,
{
    let first = Backend::start(client, "a").await;
    let second = Backend::start(client, "b").await;
    while web.current().usable().count() < 2 {
        web.clone().changed().await.unwrap();
    }
    let stop = CancellationToken::new();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let (ask, stop, failures) = (ask.clone(), stop.clone(), Arc::clone(&failures));
            tokio::spawn(async move {
                let mut asked = 0;
                while !stop.is_cancelled() {
                    if let Err(error) = ask().await {
                        failures.lock().unwrap().push(error);
                    }
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let third = Backend::start(client, "c").await;
    let mut served = vec![first.leave().await];
    let fourth = Backend::start(client, "d").await;
    served.push(second.leave().await);
    served.push(third.leave().await);
    // The last one must have its share before it is over.
    while fourth.served.load(Ordering::Relaxed) < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    let mut asked = 0;
    for asker in askers {
        asked += asker.await.unwrap();
    }
    served.push(fourth.leave().await);
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} of {asked} requests failed, first {:?}", failures.len(), failures.first());
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
    assert_eq!(served.iter().sum::<usize>(), asked);
}

#[tokio::test]
async fn tower_loses_no_request() {
    let server = Server::start();
    let client = Client::connect(&server.url).unwrap();
    let web = client.watch("prod/web").subscribe().unwrap();
    let http = reqwest::Client::new();
    let make = move |_: &Endpoint, address: SocketAddr| {
        let http = http.clone();
        tower::service_fn(move |(): ()| {
            let asked = http.get(format!("http://{address}/")).send();
            async move { asked.await?.error_for_status()?.text().await }
        })
    };
    let balancer = Balancer::builder().policy(Policy::RoundRobin).build();
    let service = Balanced::new(&web, balancer, Some("main"), make);
    let nobody = service.clone().oneshot(()).await.unwrap_err();
    assert_eq!(nobody.to_string(), "prod/web has no endpoint that works and has the port `main`");
    under_load(&client, &web, move || {
        let service = service.clone();
        async move { service.oneshot(()).await.map(drop).map_err(|error| format!("{error:?}")) }
    })
    .await;
}

#[tokio::test]
async fn tonic_loses_no_request() {
    let server = Server::start();
    let client = Client::connect(&server.url).unwrap();
    let web = client.watch("prod/web").subscribe().unwrap();
    let channel = grpc::channel(&client, "fingerpost://prod/web?port=main").unwrap();
    let nobody = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(nobody.code(), tonic::Code::Unavailable);
    under_load(&client, &web, move || {
        let mut health = HealthClient::new(channel.clone());
        async move { health.check(HealthCheckRequest::default()).await.map(drop).map_err(|error| error.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn towers_own_discovery_follows() {
    let server = Server::start();
    let client = Client::connect(&server.url).unwrap();
    let web = client.watch("prod/web").subscribe().unwrap();
    let mut discovered = discover(&web, None, |_, address| address);
    let backend = Backend::start(&client, "a").await;
    let Some(Ok(tower::discover::Change::Insert(key, address))) = discovered.next().await else { panic!("no insert") };
    assert_eq!(key.id(), "a");
    assert!(tokio::net::TcpStream::connect(address).await.is_ok());
    backend.leave().await;
    let Some(Ok(tower::discover::Change::Remove(key))) = discovered.next().await else { panic!("no removal") };
    assert_eq!(key.id(), "a");
}

#[tokio::test]
async fn reqwest_and_hyper_find_services_by_name() {
    let server = Server::start();
    let client = Client::connect(&server.url).unwrap();
    let web = client.watch("prod/web").subscribe().unwrap();
    let backends = [Backend::start(&client, "a").await, Backend::start(&client, "b").await];
    while web.current().usable().count() < 2 {
        web.clone().changed().await.unwrap();
    }
    let resolver =
        Resolver::with_balancer(&client, Some("main"), || Balancer::builder().policy(Policy::RoundRobin).build());
    // Each connection chooses anew, so none is kept.
    let http = reqwest::Client::builder().dns_resolver(resolver.clone()).pool_max_idle_per_host(0).no_proxy();
    let http = http.build().unwrap();
    let mut answered: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..8 {
        let reply = http.get("http://web.prod.fingerpost/").send().await.unwrap().text().await.unwrap();
        *answered.entry(reply).or_default() += 1;
    }
    assert_eq!(answered.keys().collect::<Vec<_>>(), ["a", "b"], "{answered:?}");

    let hyper = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build::<_, http_body_util::Empty<bytes::Bytes>>(resolver.connector());
    let uri: http::Uri = "http://web.prod.fingerpost/".parse().unwrap();
    assert_eq!(hyper.get(uri.clone()).await.unwrap().status(), 200);
    // One that is gone without a word costs nobody a request: the next one is connected to.
    let [first, second] = backends;
    first.stop.cancel();
    let _ = first.serving.await;
    for _ in 0..8 {
        assert_eq!(hyper.get(uri.clone()).await.unwrap().status(), 200);
    }
    drop(second);
    let unknown = http.get("http://nothing.prod.fingerpost/").send().await.unwrap_err();
    assert!(unknown.is_connect(), "{unknown:?}");
    let mut connector = resolver.connector();
    let refused = connector.call("http://nothing.prod.fingerpost/".parse().unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("prod/nothing"), "{refused}");
}
