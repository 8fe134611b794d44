//! The ways to etcd.
//!
//! etcd-client's own balancing keeps a dead member in rotation, so a share of the requests fails for as long as it is
//! dead. Here each endpoint has a client of its own, one of them is preferred, and a failure moves the preference on.

use super::failure::Failure;
use etcd_client::{Client, ConnectOptions};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection, with its TLS and its login, may take.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// How long one request may take that reads a few keys.
pub(super) const REQUEST: Duration = Duration::from_secs(3);

/// Most bytes of one message from etcd: a page of records, or a revision of the watch.
pub(super) const MAX_MESSAGE: usize = 256 << 20;

/// A client and which endpoint it talks to.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) client: Client,
    pub(super) endpoint: usize,
}

pub(super) struct Endpoints {
    urls: Vec<String>,
    options: ConnectOptions,
    clients: Mutex<Vec<Option<Client>>>,
    preferred: AtomicUsize,
}

impl Endpoints {
    pub(super) fn new(urls: Vec<String>, options: ConnectOptions) -> Self {
        let options = options
            .with_connect_timeout(CONNECT)
            .with_keep_alive(Duration::from_secs(3), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            .with_tcp_keepalive(Duration::from_secs(10))
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        let clients = Mutex::new(vec![None; urls.len()]);
        // Not the first one for all replicas.
        let preferred = AtomicUsize::new(rand::random_range(0..urls.len().max(1)));
        Self { urls, options, clients, preferred }
    }

    /// All of them, for people.
    pub(super) fn names(&self) -> String {
        self.urls.join(", ")
    }

    pub(super) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The preferred way.
    pub(super) async fn way(&self) -> Result<Way, Failure> {
        let endpoint = self.preferred.load(Ordering::Relaxed) % self.urls.len();
        let known = self.clients.lock()[endpoint].clone();
        if let Some(client) = known {
            return Ok(Way { client, endpoint });
        }
        match self.connect(endpoint).await {
            Ok(client) => {
                self.clients.lock()[endpoint] = Some(client.clone());
                Ok(Way { client, endpoint })
            }
            Err(failure) => {
                self.failed(endpoint);
                Err(failure)
            }
        }
    }

    /// A connection of one's own to the preferred endpoint.
    pub(super) async fn own_way(&self) -> Result<Way, Failure> {
        let endpoint = self.preferred.load(Ordering::Relaxed) % self.urls.len();
        match self.connect(endpoint).await {
            Ok(client) => Ok(Way { client, endpoint }),
            Err(failure) => {
                self.failed(endpoint);
                Err(failure)
            }
        }
    }

    /// Connects to one endpoint. Without a login this does no more than prepare.
    pub(super) async fn connect(&self, endpoint: usize) -> Result<Client, Failure> {
        let connecting = Client::connect([&self.urls[endpoint]], Some(self.options.clone()));
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Failure { outcome: super::failure::Outcome::NotSent, ..Failure::timeout(CONNECT) }),
        }
    }

    /// Something failed there: lets go of its connection, and prefers the next one if it was preferred.
    pub(super) fn failed(&self, endpoint: usize) {
        self.clients.lock()[endpoint] = None;
        let next = (endpoint + 1) % self.urls.len();
        let _ = self.preferred.compare_exchange(endpoint, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One request over the preferred way.
    pub(super) async fn once<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        limit: Duration,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        let way = self.way().await?;
        let result = match tokio::time::timeout(limit, request(way.client)).await {
            Ok(result) => result.map_err(Failure::from),
            Err(_) => Err(Failure::timeout(limit)),
        };
        if result.as_ref().is_err_and(Failure::passes) {
            self.failed(way.endpoint);
        }
        result
    }

    /// A request that may be repeated without harm, until it gets an answer or `until` has come.
    pub(super) async fn repeat<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        limit: Duration,
        until: Instant,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Failure> {
        let mut pause = Pause::new();
        loop {
            match self.once(limit, &request).await {
                Err(failure) if failure.passes() && Instant::now() < until => pause.wait().await,
                result => return result,
            }
        }
    }
}

/// Growing pauses between attempts, with jitter so that replicas don't come in step.
pub(super) struct Pause(Duration);

impl Pause {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(25))
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        self.0 = (self.0 * 2).min(Duration::from_secs(1));
    }
}
