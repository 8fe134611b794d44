//! For tonic: a channel that follows a service, `fingerpost://prod/web?port=grpc`.
//!
//! Each call goes to the endpoint that the [`Balancer`] picks; an endpoint that is drained gets no new calls, and those
//! under way end in peace. Feature `grpc`.

use super::tower::{Balanced, BalancedError, Judge, MakeService};
use crate::balance::{Balancer, Outcome};
use crate::{Client, Endpoint, Result, Subscription, Target};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::transport;

type Configure = dyn Fn(transport::Endpoint) -> transport::Endpoint + Send + Sync;

/// A gRPC channel to a service, to be given to generated clients in the place of `tonic::transport::Channel`. Cheap to
/// clone; clones share connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use fingerpost_client::{Client, grpc};
///
/// let client = Client::connect("http://127.0.0.1:8053")?;
/// let channel = grpc::channel(&client, "fingerpost://prod/web?port=grpc")?;
/// let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
/// let reply = health.check(tonic_health::pb::HealthCheckRequest::default()).await?;
/// # let _ = reply;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Channel {
    inner: Balanced<transport::Channel, Make, JudgeReply>,
}

/// A channel to a target, with the default balancer and plain HTTP/2.
///
/// # Errors
///
/// The target is none, or this is not called within a tokio runtime.
pub fn channel(client: &Client, target: &str) -> Result<Channel> {
    let parsed: Target = target.parse()?;
    let subscription = client.watch(target).subscribe()?;
    Ok(Channel::new(&subscription, Balancer::default(), parsed.port(), |endpoint| endpoint))
}

impl Channel {
    /// A channel to a subscription's endpoints. `configure` has the last word on how each is connected to: timeouts,
    /// keep-alive, TLS. For TLS it returns an endpoint of its own, to `https://` the same authority: to what is `http://`,
    /// as what it is given, tonic speaks no TLS, whatever is configured.
    pub fn new(
        subscription: &Subscription,
        balancer: Balancer,
        port: Option<&str>,
        configure: impl Fn(transport::Endpoint) -> transport::Endpoint + Send + Sync + 'static,
    ) -> Self {
        let make = Make(Arc::new(configure));
        Self { inner: Balanced::new(subscription, balancer, port, make).judge(JudgeReply) }
    }

    /// The balancer, for what it [knows](Balancer::report).
    pub fn balancer(&self) -> &Balancer {
        self.inner.balancer()
    }
}

/// Makes the channel to one endpoint, which connects with the first call.
#[derive(Clone)]
struct Make(Arc<Configure>);

impl MakeService<transport::Channel> for Make {
    fn make(&self, _: &Endpoint, address: SocketAddr) -> transport::Channel {
        let endpoint = transport::Endpoint::from_shared(format!("http://{address}"));
        // An address makes a URI in any case; were it not so, the call would say which.
        let endpoint = endpoint.unwrap_or_else(|_| transport::Endpoint::from_static("http://invalid"));
        (self.0)(endpoint).connect_lazy()
    }
}

/// An endpoint that says it is unavailable has failed; every other status is the call's own matter.
#[derive(Clone, Copy, Debug)]
struct JudgeReply;

impl Judge<http::Response<Body>> for JudgeReply {
    fn judge(&self, reply: &http::Response<Body>) -> Outcome {
        let status = reply.headers().get("grpc-status").map(http::HeaderValue::as_bytes);
        let unavailable = status == Some(b"14") || reply.status().is_server_error();
        if unavailable { Outcome::Failure } else { Outcome::Success }
    }
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let reply = self.inner.call(request);
        Box::pin(async move {
            reply.await.map_err(|error| match error {
                BalancedError::Service(error) => Status::from_error(Box::new(error)),
                none @ BalancedError::NoEndpoint { .. } => Status::unavailable(none.to_string()),
            })
        })
    }
}
