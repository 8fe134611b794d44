//! For tower: a service's endpoints as `tower::discover::Discover`, and a ready service that balances.
//!
//! [`discover`] feeds tower's own balancers; [`Balanced`] is a service of our own, with every policy that a [`Balancer`]
//! has. Feature `tower`.

use crate::balance::{Balancer, Outcome};
use crate::{Change, Changes, Endpoint, EndpointKey, Endpoints, LiveBalancer, Subscription};
use futures_util::{Stream, StreamExt};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tower::util::ServiceExt;

type TowerChange<S> = Result<tower::discover::Change<EndpointKey, S>, Infallible>;

/// A subscription as a `tower::discover::Discover`: what works is inserted, what does not (any more) is removed, what has
/// moved to another address is inserted anew. `make` makes a service of an endpoint.
///
/// ```no_run
/// use fingerpost_client::tower::discover;
/// use futures_util::StreamExt;
/// use tower::discover::Change;
///
/// # async fn example() -> fingerpost_client::Result<()> {
/// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
/// let web = client.watch("prod/web").subscribe()?;
/// let mut found = discover(&web, Some("http"), |_, address| address);
/// while let Some(Ok(change)) = found.next().await {
///     if let Change::Insert(key, address) = change {
///         println!("{key:?} is at {address}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub fn discover<S, F>(subscription: &Subscription, port: Option<&str>, make: F) -> Discover<S, F>
where
    F: FnMut(&Endpoint, SocketAddr) -> S,
{
    Discover {
        changes: subscription.changes(),
        port: port.map(str::to_owned),
        present: HashMap::new(),
        ready: VecDeque::new(),
        make,
    }
}

/// See [`discover`].
pub struct Discover<S, F> {
    changes: Changes,
    port: Option<String>,
    /// What has been inserted, with where it is.
    present: HashMap<EndpointKey, SocketAddr>,
    ready: VecDeque<tower::discover::Change<EndpointKey, S>>,
    make: F,
}

impl<S, F: FnMut(&Endpoint, SocketAddr) -> S> Discover<S, F> {
    fn note(&mut self, change: &Change) {
        let (endpoint, gone) = match change {
            Change::Added(endpoint) | Change::Updated { after: endpoint, .. } => (endpoint, false),
            Change::Removed(endpoint) => (endpoint, true),
        };
        let key = endpoint.key();
        let address = endpoint.socket_addr(self.port.as_deref()).filter(|_| !gone && endpoint.is_usable());
        match address {
            Some(address) if self.present.get(key) == Some(&address) => {}
            Some(address) => {
                self.present.insert(key.clone(), address);
                let service = (self.make)(endpoint, address);
                self.ready.push_back(tower::discover::Change::Insert(key.clone(), service));
            }
            None => {
                if self.present.remove(key).is_some() {
                    self.ready.push_back(tower::discover::Change::Remove(key.clone()));
                }
            }
        }
    }
}

impl<S: Unpin, F: FnMut(&Endpoint, SocketAddr) -> S + Unpin> Stream for Discover<S, F> {
    type Item = TowerChange<S>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            match self.changes.poll_next_unpin(context) {
                Poll::Ready(Some(change)) => self.note(&change),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Why a balanced call failed.
#[derive(Debug, thiserror::Error)]
pub enum BalancedError<E> {
    /// The service has no endpoint that can be asked.
    #[error("{namespace}/{service} has no endpoint that works{}", port.as_ref().map_or_else(String::new, |port| format!(" and has the port `{port}`")))]
    NoEndpoint {
        /// The service's namespace.
        namespace: String,
        /// Its name.
        service: String,
        /// The port that was asked for.
        port: Option<String>,
    },
    /// The endpoint's own service failed.
    #[error(transparent)]
    Service(E),
}

/// A tower service that sends each request to an endpoint of a service. Clones share the balancer and the endpoints'
/// services.
///
/// A call that fails counts against its endpoint; where replies can be failures, too, say so with
/// [`judge`](Balanced::judge). A call lasts until its response is there, not until its body has been read.
///
/// ```no_run
/// use fingerpost_client::{Endpoint, balance::Balancer, tower::Balanced};
/// use std::net::SocketAddr;
/// use tower::{service_fn, util::ServiceExt};
///
/// # async fn example() -> fingerpost_client::Result<()> {
/// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
/// let web = client.watch("prod/web").subscribe()?;
/// let make = |_: &Endpoint, address: SocketAddr| {
///     service_fn(move |path: &'static str| async move { Ok::<_, std::io::Error>(format!("{path} at {address}")) })
/// };
/// let balanced = Balanced::new(&web, Balancer::default(), Some("http"), make);
/// match balanced.oneshot("/").await {
///     Ok(reply) => println!("{reply}"),
///     Err(error) => eprintln!("{error}"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct Balanced<S, M, J = AllGood> {
    shared: Arc<Shared<S>>,
    make: M,
    judge: J,
}

struct Shared<S> {
    balancer: LiveBalancer,
    port: Option<String>,
    services: Mutex<Services<S>>,
}

struct Services<S> {
    /// Those of this snapshot; of others there are none.
    of: Arc<Endpoints>,
    made: HashMap<EndpointKey, (SocketAddr, S)>,
}

/// Makes the service of one endpoint.
pub trait MakeService<S> {
    /// The service of `endpoint`, which is to be reached at `address`.
    fn make(&self, endpoint: &Endpoint, address: SocketAddr) -> S;
}

impl<S, F: Fn(&Endpoint, SocketAddr) -> S> MakeService<S> for F {
    fn make(&self, endpoint: &Endpoint, address: SocketAddr) -> S {
        self(endpoint, address)
    }
}

/// Every reply is a success.
#[derive(Clone, Copy, Debug)]
pub struct AllGood;

/// Judges replies: which of them are their endpoint's fault.
pub trait Judge<R> {
    /// How the request that got this reply ended.
    fn judge(&self, reply: &R) -> Outcome;
}

impl<R> Judge<R> for AllGood {
    fn judge(&self, _: &R) -> Outcome {
        Outcome::Success
    }
}

impl<R, F: Fn(&R) -> Outcome> Judge<R> for F {
    fn judge(&self, reply: &R) -> Outcome {
        self(reply)
    }
}

impl<S, M> Balanced<S, M, AllGood> {
    /// Balances over a subscription's endpoints. `make` makes the service of one endpoint, once for as long as it stays
    /// where it is.
    pub fn new(subscription: &Subscription, balancer: Balancer, port: Option<&str>, make: M) -> Self
    where
        M: MakeService<S>,
    {
        let balancer = subscription.balance(balancer);
        let services = Services { of: subscription.current(), made: HashMap::new() };
        let shared = Shared { balancer, port: port.map(str::to_owned), services: Mutex::new(services) };
        Self { shared: Arc::new(shared), make, judge: AllGood }
    }
}

impl<S, M, J> Balanced<S, M, J> {
    /// The same with another judgement of replies.
    pub fn judge<K>(self, judge: K) -> Balanced<S, M, K> {
        Balanced { shared: self.shared, make: self.make, judge }
    }

    /// The balancer, for what it [knows](Balancer::report).
    pub fn balancer(&self) -> &Balancer {
        &self.shared.balancer
    }
}

impl<S: Clone> Shared<S> {
    /// The service of an endpoint, made where there is none yet.
    fn service(&self, endpoint: &Endpoint, address: SocketAddr, make: impl FnOnce() -> S) -> S {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.balancer.subscription().current();
        if !Arc::ptr_eq(&services.of, &current) {
            services.made.retain(|key, (at, _)| {
                current.get(key).is_some_and(|now| now.socket_addr(self.port.as_deref()) == Some(*at))
            });
            services.of = current;
        }
        match services.made.get(endpoint.key()) {
            Some((at, service)) if *at == address => service.clone(),
            _ => {
                let service = make();
                services.made.insert(endpoint.key().clone(), (address, service.clone()));
                service
            }
        }
    }

    fn none<E>(&self) -> BalancedError<E> {
        let current = self.balancer.subscription().current();
        BalancedError::NoEndpoint {
            namespace: current.namespace().to_owned(),
            service: current.service().to_owned(),
            port: self.port.clone(),
        }
    }
}

impl<Q, S, M, J> tower::Service<Q> for Balanced<S, M, J>
where
    Q: Send + 'static,
    S: tower::Service<Q> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    M: MakeService<S>,
    J: Judge<S::Response> + Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = BalancedError<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Self::Error>> + Send>>;

    /// Always: an endpoint that is not ready is waited for by the call that goes there.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let pick = self.shared.balancer.pick();
        let picked = pick.and_then(|pick| Some((pick.socket_addr(self.shared.port.as_deref())?, pick)));
        let Some((address, pick)) = picked else {
            let none = self.shared.none();
            return Box::pin(async move { Err(none) });
        };
        let service = self.shared.service(&pick, address, || self.make.make(&pick, address));
        let judge = self.judge.clone();
        Box::pin(async move {
            let replied = service.oneshot(request).await;
            pick.finish(replied.as_ref().map_or(Outcome::Failure, |reply| judge.judge(reply)));
            replied.map_err(BalancedError::Service)
        })
    }
}

impl<S, M: Clone, J: Clone> Clone for Balanced<S, M, J> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), make: self.make.clone(), judge: self.judge.clone() }
    }
}

impl<S, M, J> std::fmt::Debug for Balanced<S, M, J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balanced").field("of", self.shared.balancer.subscription()).finish_non_exhaustive()
    }
}

impl<S, F> std::fmt::Debug for Discover<S, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discover").field("present", &self.present).finish_non_exhaustive()
    }
}
