//! HTTP and HTTPS: one request, no redirects, and of the reply nothing but its status. Whoever declares a check chooses
//! what it asks and may read its note, so a note that quoted a body would let them read whatever this registry can reach.

use super::{Tls, connect, root_cause};
use crate::checks::verdict::Outcome;
use bytes::Bytes;
use fingerpost_catalog::{Check, CheckMethod, Health};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A head larger than this ends the exchange.
const MAX_BUFFER: usize = 16 << 10;

pub(super) async fn run(check: &Check, target: SocketAddr, tls: Option<&Tls>) -> Result<Outcome, String> {
    let request = request(check, target)?;
    let stream = connect(target).await?;
    match tls {
        None => exchange(check, request, stream).await,
        Some(tls) => {
            let host = check.host.as_deref().map(without_port);
            let stream = tls.connect(check.tls.as_ref(), host, target, stream, b"http/1.1").await?;
            exchange(check, request, stream).await
        }
    }
}

/// The name or address in a Host header.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

fn request(check: &Check, target: SocketAddr) -> Result<Request<Empty<Bytes>>, String> {
    let method = match check.method.unwrap_or_default() {
        CheckMethod::Get => Method::GET,
        CheckMethod::Head => Method::HEAD,
    };
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    let mut request = Request::builder()
        .method(method)
        .uri(check.path.as_deref().unwrap_or("/"))
        .header(HOST, host)
        .header(USER_AGENT, concat!("fingerpost-check/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("the request can't be made: {error}"))?;
    for (name, value) in &check.headers {
        let bad = |_| format!("the header `{name}` can't be sent");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of `{name}` can't be sent"))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

async fn exchange<S>(check: &Check, request: Request<Empty<Bytes>>, stream: S) -> Result<Outcome, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| format!("HTTP: {}", root_cause(&error));
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_BUFFER).handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The head says it all: a body that is slow, or never ends, is left behind with the connection.
    let asked = async { sender.send_request(request).await.map(|response| response.status()).map_err(broken) };
    tokio::pin!(asked, connection);
    // The connection does the work; when it has ended, what it brought can still be read.
    let status = tokio::select! {
        answer = &mut asked => answer,
        _ = &mut connection => asked.await,
    }?;
    Ok(outcome(check, status))
}

fn outcome(check: &Check, status: StatusCode) -> Outcome {
    let health = match check.expect.as_slice() {
        [] if status.is_success() => Health::Passing,
        [] if status == StatusCode::TOO_MANY_REQUESTS => Health::Warning,
        expected if expected.contains(&status.as_u16()) => Health::Passing,
        _ => Health::Critical,
    };
    Outcome::new(health, format!("HTTP {}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_what_they_mean() {
        let health = |check: &Check, status: u16| outcome(check, StatusCode::from_u16(status).unwrap()).health;
        let default = Check::default();
        let expected =
            [(200, Health::Passing), (204, Health::Passing), (429, Health::Warning), (301, Health::Critical)];
        for (status, expected) in expected.into_iter().chain([(404, Health::Critical), (503, Health::Critical)]) {
            assert_eq!(health(&default, status), expected, "{status}");
        }
        let check = Check { expect: vec![404], ..Check::default() };
        assert_eq!(health(&check, 404), Health::Passing);
        assert_eq!(health(&check, 200), Health::Critical);
        assert_eq!(health(&check, 429), Health::Critical);
        assert_eq!(outcome(&default, StatusCode::OK).note, "HTTP 200");
        assert_eq!(outcome(&default, StatusCode::NOT_FOUND).note, "HTTP 404");
    }

    #[test]
    fn names_in_host_headers() {
        for (host, name) in [("a.b", "a.b"), ("a.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1")] {
            assert_eq!(without_port(host), name);
        }
    }
}
