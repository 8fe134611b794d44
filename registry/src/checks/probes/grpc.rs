//! The gRPC health protocol: `grpc.health.v1.Health/Check`. Of what the server says, the note has its status and nothing
//! else: the message with it may be anything, also what is not for whoever declared the check to read.

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
        // Made here, of what went wrong on the way.
        Err(status) if std::error::Error::source(&status).is_some() => {
            Err("gRPC: the connection broke off, or what came over it was no gRPC".to_owned())
        }
        Err(status) => Err(match status.code() {
            Code::Unimplemented => "the server does not speak the gRPC health protocol".to_owned(),
            Code::NotFound => format!("the server knows no service `{service}`"),
            code => format!("gRPC {}", code_name(code)),
        }),
    }
}

/// As the protocol spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
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
