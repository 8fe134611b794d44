//! For reqwest and hyper: host names that mean services, `http://web.prod.fingerpost/`.
//!
//! [`Resolver`] is for reqwest: it answers with a service's endpoints in the order in which they should be tried.
//! [`Connector`] is for hyper's own client. Both choose once for each *connection*; connections are kept and reused, so
//! load is even only over many of them, and a connection to an endpoint that leaves is used until one side closes it
//! (servers that drain do). Where each request should choose, use [`tower`](super::tower) or a
//! [`Balancer`](crate::balance::Balancer). Feature `connect`.

use crate::balance::Balancer;
use crate::{Client, Endpoint, EndpointKey, Error, LiveBalancer, Target};
use hyper_util::rt::TokioIo;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// The domain under which names are services.
const DOMAIN: &str = "fingerpost";
/// Services that one resolver follows at most.
const MOST: usize = 1000;
/// How long a service that nobody has asked for yet is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection to one endpoint may take before the next is tried.
const CONNECT: Duration = Duration::from_secs(2);

/// Endpoints that are tried for one connection.
const MOST_TRIED: usize = 8;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Resolves `SERVICE.NAMESPACE.fingerpost`; every other name goes to the system. Cheap to clone; clones share
/// subscriptions, which live as long as they do.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use fingerpost_client::{Client, connect::Resolver};
///
/// let client = Client::connect("http://127.0.0.1:8053")?;
/// let http = reqwest::Client::builder().dns_resolver(Resolver::new(&client)).build()?;
/// let page = http.get("http://web.prod.fingerpost/").send().await?.text().await?;
/// # let _ = page;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    /// Which port is meant where the URL names none.
    port: Option<String>,
    balancer: Box<dyn Fn() -> Balancer + Send + Sync>,
    services: Mutex<HashMap<String, LiveBalancer>>,
}

impl Resolver {
    /// A resolver with the default balancer. The port is the URL's or, where that names none, the service's first.
    pub fn new(client: &Client) -> Self {
        Self::with_balancer(client, None, Balancer::default)
    }

    /// A resolver with balancers of the caller's choice, one for each service, and the name of the port that is meant
    /// where a URL names none.
    pub fn with_balancer(
        client: &Client,
        port: Option<&str>,
        balancer: impl Fn() -> Balancer + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            client: client.clone(),
            port: port.map(str::to_owned),
            balancer: Box::new(balancer),
            services: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A connector for hyper's client, of the same services.
    pub fn connector(&self) -> Connector {
        Connector { resolver: self.clone() }
    }

    async fn follow(&self, target: &str) -> Result<LiveBalancer, Error> {
        let followed = {
            let mut services = self.inner.services.lock().unwrap_or_else(PoisonError::into_inner);
            match services.get(target) {
                Some(followed) => followed.clone(),
                None if services.len() >= MOST => {
                    let detail = format!("{target} would be one more than the {MOST} services that a resolver follows");
                    return Err(Error::Unavailable { detail, retry_after: None });
                }
                None => {
                    let subscription = self.inner.client.watch(target).subscribe()?;
                    let followed = subscription.balance((self.inner.balancer)());
                    services.insert(target.to_owned(), followed.clone());
                    followed
                }
            }
        };
        if followed.subscription().current().is_empty() {
            // Once it is known, and there is nothing, that is the answer.
            let _ = tokio::time::timeout(PATIENCE, followed.subscription().synced()).await;
        }
        Ok(followed)
    }

    /// The endpoints of a service in the order in which they should be tried.
    async fn endpoints(&self, target: &str) -> Result<Vec<Arc<Endpoint>>, Error> {
        let followed = self.follow(target).await?;
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        if let Some(pick) = followed.pick() {
            endpoints.push(Arc::clone(pick.endpoint()));
        }
        // The others are only for where the first can't be connected to; they are not picked, so as to take nobody's turn.
        let picked = endpoints.first().map(|endpoint| endpoint.key().clone());
        let current = followed.subscription().current();
        let others = current.usable().filter(|endpoint| Some(endpoint.key()) != picked.as_ref());
        endpoints.extend(others.take(MOST_TRIED - 1).cloned());
        if endpoints.is_empty() {
            return Err(Error::Unavailable {
                detail: format!("{target} has no endpoint that works"),
                retry_after: None,
            });
        }
        Ok(endpoints)
    }

    fn addresses(&self, endpoints: &[Arc<Endpoint>], port: Option<u16>) -> Vec<SocketAddr> {
        let of = |endpoint: &Arc<Endpoint>| {
            let port = port.or_else(|| endpoint.port(self.inner.port.as_deref())).unwrap_or(0);
            let addresses = endpoint.addresses().iter().map(move |address| SocketAddr::new(*address, port));
            addresses.collect::<Vec<_>>()
        };
        endpoints.iter().flat_map(of).collect()
    }
}

/// The service that a host name means, if it means one.
fn target(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let names = host.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    let (service, namespace) = names.split_once('.')?;
    let target = format!("{namespace}/{service}");
    target.parse::<Target>().ok().map(|_| target)
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = match target(name.as_str()) {
                // Port 0 stands for the URL's own.
                None => tokio::net::lookup_host((name.as_str(), 0)).await?.collect(),
                Some(target) => {
                    let endpoints = resolver.endpoints(&target).await?;
                    resolver.addresses(&endpoints, None)
                }
            };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Connects hyper's client to services, and to everything else by its name. Plain HTTP; TLS goes around it.
#[derive(Clone)]
pub struct Connector {
    resolver: Resolver,
}

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let resolver = self.resolver.clone();
        Box::pin(async move {
            let host = uri.host().ok_or("the URI names no host")?;
            let Some(target) = target(host) else {
                let port = uri.port_u16().unwrap_or(80);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let stream = TcpStream::connect((host, port)).await?;
                return Ok(TokioIo::new(stream));
            };
            let followed = resolver.follow(&target).await?;
            let mut tried: Vec<EndpointKey> = Vec::new();
            let mut last: BoxError = format!("{target} has no endpoint that works").into();
            // Of an endpoint that can't be connected to nobody has lost a request yet.
            while tried.len() < MOST_TRIED {
                let Some(pick) = followed.pick_except(&tried) else { break };
                tried.push(pick.key().clone());
                for address in resolver.addresses(&[Arc::clone(pick.endpoint())], uri.port_u16()) {
                    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                        Ok(Ok(stream)) => {
                            stream.set_nodelay(true)?;
                            pick.success();
                            return Ok(TokioIo::new(stream));
                        }
                        Ok(Err(error)) => last = format!("{address}: {error}").into(),
                        Err(_) => last = format!("{address}: no connection within {} s", CONNECT.as_secs()).into(),
                    }
                }
                pick.failure();
            }
            Err(last)
        })
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("client", &self.inner.client).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn only_names_of_the_domain_are_services() {
        assert_eq!(target("web.prod.fingerpost").as_deref(), Some("prod/web"));
        assert_eq!(target("web.prod.fingerpost.").as_deref(), Some("prod/web"));
        for name in ["web.prod", "fingerpost", "web.fingerpost", "a.web.prod.fingerpost", "notfingerpost", "x.example"]
        {
            assert_eq!(target(name), None, "{name}");
        }
    }
}
