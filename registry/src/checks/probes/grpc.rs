//! The gRPC health protocol: `grpc.health.v1.Health/Check`.

use super::{Tls, connect, root_cause};
use crate::checks::verdict::Outcome;
use fingerpost_catalog::{Check, CheckTls, Health};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// An answer is a few bytes.
const MAX_MESSAGE: usize = 4096;

pub(super) async fn run(check: &Check, target: SocketAddr, tls: &Tls) -> Result<Outcome, String> {
    let channel = channel(check, target, tls).await?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let service = check.service.clone().unwrap_or_default();
    match client.check(HealthCheckRequest { service: service.clone() }).await {
        Ok(answer) => Ok(match answer.into_inner().status() {
            ServingStatus::Serving => Outcome::new(Health::Passing, "SERVING"),
            other => Outcome::critical(other.as_str_name()),
        }),
        Err(status) => Err(match status.code() {
            Code::Unimplemented => "the server does not speak the gRPC health protocol".to_owned(),
            Code::NotFound => format!("the server knows no service `{service}`"),
            code => format!("gRPC {code:?}: {}", status.message()),
        }),
    }
}

async fn channel(check: &Check, target: SocketAddr, tls: &Tls) -> Result<Channel, String> {
    let authority = match check.tls.as_ref().and_then(|tls| tls.server_name.as_deref()) {
        Some(name) => format!("{name}:{}", target.port()),
        None => target.to_string(),
    };
    // Whatever the scheme: the connection is made here.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| format!("gRPC: {}", root_cause(&error)))?;
    let stream = connect(target).await?;
    let connected = match &check.tls {
        None => endpoint.connect_with_connector(once(TokioIo::new(stream))).await,
        Some(options) => {
            let stream = tls.connect(Some::<&CheckTls>(options), None, target, stream, b"h2").await?;
            endpoint.connect_with_connector(once(TokioIo::new(stream))).await
        }
    };
    connected.map_err(|error| format!("gRPC: {}", root_cause(&error)))
}

/// A connector that has its only connection already.
fn once<S: Send + 'static>(
    stream: S,
) -> impl tower::Service<
    hyper::Uri,
    Response = S,
    Error = std::io::Error,
    Future = std::future::Ready<Result<S, std::io::Error>>,
> + Send {
    let mut stream = Some(stream);
    tower::service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| std::io::Error::other("the connection was lost")))
    })
}
