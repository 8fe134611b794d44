//! The layer before all routes: who calls, and is that enough?

use super::grants::{Grant, GrantsFile, NotOne};
use super::routes::{self, Need};
use super::subject::Subject;
use super::throttle::{Throttle, Verdict};
use super::tls::Shown;
use super::token::{self, TokenHash};
use super::{Caller, Role};
use crate::api::Problem;
use crate::members::Secret;
use crate::server::Place;
use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its address.
    pub address: IpAddr,
    /// Its certificate, if it showed one that the client CA signed.
    pub certificate: Option<Shown>,
    /// Its place among the others.
    pub(crate) place: Arc<Place>,
}

impl Connection {
    /// The names in its certificate, as long as the CA that signed it is the client CA.
    fn names(&self) -> Option<&[Subject]> {
        self.certificate.as_ref().filter(|shown| !shown.superseded.is_cancelled()).map(|shown| &*shown.names)
    }
}

/// How a caller is found. Other ways to tell who somebody is (Kubernetes' TokenReview, say) are further variants.
#[derive(Debug)]
pub enum Authenticator {
    /// There is no access control: whoever reaches the server is the anonymous administrator.
    Open,
    /// The tokens file says who may come in.
    File(Arc<GrantsFile>),
}

/// Why a caller was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unknown {
    /// Neither token nor certificate.
    Missing,
    /// No token by its form.
    Malformed,
    /// A token that the file does not have.
    Token,
    /// A certificate whose names the file does not have, or has twice.
    Certificate(NotOne),
    /// Not another replica.
    Peer,
}

impl Unknown {
    /// For the metric.
    fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Token => "unknown",
            Self::Certificate(_) => "certificate",
            Self::Peer => "peer",
        }
    }

    fn problem(self) -> Problem {
        match self {
            Self::Missing => Problem::new(
                StatusCode::UNAUTHORIZED,
                "this registry wants to know who calls: send a token (`Authorization: Bearer fp_…`; on the command \
                 line, --token-file) or a client certificate",
            ),
            Self::Malformed => Problem::new(
                StatusCode::UNAUTHORIZED,
                "what `Authorization` has is no token of this registry: `Bearer fp_…`, as `fingerpost token new` makes \
                 them",
            ),
            Self::Token => {
                Problem::new(StatusCode::UNAUTHORIZED, "this registry does not know the token, or not any more")
            }
            Self::Certificate(NotOne::Nobody) => Problem::new(
                StatusCode::FORBIDDEN,
                "no entry of the tokens file is for a name in this client certificate",
            ),
            Self::Certificate(NotOne::Ambiguous) => Problem::new(
                StatusCode::FORBIDDEN,
                "entries of the tokens file differ about the names in this client certificate",
            ),
            Self::Peer => Problem::new(StatusCode::FORBIDDEN, "this is for the other replicas of this registry alone"),
        }
    }
}

impl Authenticator {
    /// Who calls. A token that is wrong is not made good by a certificate: whoever sends one means it.
    fn authenticate(&self, headers: &HeaderMap, names: Option<&[Subject]>) -> Result<Option<Arc<Grant>>, Unknown> {
        let file = match self {
            Self::Open => return Ok(None),
            Self::File(file) => file,
        };
        match (credentials(headers, "bearer")?, names) {
            (Some(token), _) => {
                let hash = TokenHash::of_presented(token).ok_or(Unknown::Malformed)?;
                file.current().by_token(hash).map(Some).ok_or(Unknown::Token)
            }
            (None, Some(names)) => file.current().by_certificate(names).map(Some).map_err(Unknown::Certificate),
            (None, None) => Err(Unknown::Missing),
        }
    }
}

/// What the Authorization header has behind its scheme (RFC 9110 §11.4), if there is one.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Result<Option<&'a [u8]>, Unknown> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Unknown::Malformed);
    }
    let (given, rest) = value.as_bytes().split_at_checked(scheme.len()).ok_or(Unknown::Malformed)?;
    let rest = rest.strip_prefix(b" ").ok_or(Unknown::Malformed)?.trim_ascii();
    given.eq_ignore_ascii_case(scheme.as_bytes()).then_some(Some(rest)).ok_or(Unknown::Malformed)
}

/// Whether a request comes from a replica that can read the same store.
fn is_peer(headers: &HeaderMap, secret: &Secret) -> bool {
    let shown = credentials(headers, "peer").ok().flatten().and_then(|shown| std::str::from_utf8(shown).ok());
    let shown = shown.and_then(token::from_hex).unwrap_or_default();
    // An empty secret would be everybody's.
    !secret.0.is_empty() && aws_lc_rs::constant_time::verify_slices_are_equal(&shown, &secret.0).is_ok()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

/// Access control of the whole API.
#[derive(Debug)]
pub struct Access {
    authenticator: Authenticator,
    tls: bool,
    throttle: Throttle,
    refused: Family<Refused, Counter>,
}

impl Access {
    /// Access control with its metrics in `registry`. `tls`: whether connections are encrypted, for `status`.
    pub fn new(authenticator: Authenticator, tls: bool, registry: &mut Registry) -> Self {
        let refused = Family::default();
        registry.register("fingerpost_access_refused", "Requests refused, by reason", refused.clone());
        Self { authenticator, tls, throttle: Throttle::default(), refused }
    }

    /// Whether anybody who reaches the server may do anything.
    pub fn is_open(&self) -> bool {
        matches!(self.authenticator, Authenticator::Open)
    }

    /// Its part of `status`.
    pub fn status(&self) -> serde_json::Value {
        let ways = match &self.authenticator {
            Authenticator::Open => "none",
            Authenticator::File(file) => file.current().ways(),
        };
        serde_json::json!({"tls": self.tls, "authentication": ways})
    }

    /// Lets a request through with its [`Caller`], or answers it.
    pub(crate) async fn guard(&self, secret: impl FnOnce() -> Secret, mut request: Request, next: Next) -> Response {
        let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let need = routes::need(request.method(), template);
        let connection = request.extensions_mut().remove::<Connection>();
        let address = address(connection.as_ref());
        let revoked = match need {
            Need::Peer if is_peer(request.headers(), &secret()) => {
                request.extensions_mut().insert(Caller { name: "peer".into(), role: Role::Peer });
                None
            }
            Need::Peer => return self.unknown(Unknown::Peer, address).await,
            Need::Public => None,
            need => {
                let names = connection.as_ref().and_then(Connection::names);
                match self.authenticator.authenticate(request.headers(), names) {
                    Ok(None) => {
                        request.extensions_mut().insert(Caller::anonymous());
                        None
                    }
                    Ok(Some(grant)) => {
                        if let Err(problem) = suffices(&grant.caller, need) {
                            self.count("forbidden");
                            debug!(caller = %grant.caller.name, "refused: {}", problem.document().detail);
                            return problem.into_response();
                        }
                        request.extensions_mut().insert(grant.caller.clone());
                        Some(grant.revoked.clone())
                    }
                    Err(unknown) => return self.unknown(unknown, address).await,
                }
            }
        };
        // Nobody behind this has any use for it.
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Some(connection) = connection.as_ref().filter(|_| need != Need::Public) {
            connection.place.prove();
        }
        let mut response = next.run(request).await;
        // What was let through may run for days. It ends when its caller may not read any more.
        if is_stream(&response) {
            let superseded = connection.and_then(|connection| connection.certificate).map(|shown| shown.superseded);
            response = [revoked, superseded].into_iter().flatten().fold(response, |response, end| until(end, response));
        }
        response
    }

    fn count(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    async fn unknown(&self, unknown: Unknown, address: IpAddr) -> Response {
        self.count(unknown.reason());
        debug!(%address, reason = unknown.reason(), "an unknown caller was refused");
        match self.throttle.failed(address, Instant::now()) {
            Verdict::Plainly => unknown.problem().into_response(),
            Verdict::Slowly { retry_after, first } => {
                if first {
                    warn!(%address, reason = unknown.reason(), "many unknown callers at this address; they are slowed");
                }
                self.count("throttled");
                self.throttle.delay().await;
                let detail = unknown.problem().document().detail;
                let problem = Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    format!("too many failed attempts from this address; the last one: {detail}"),
                );
                let mut response = problem.retry_after(retry_after).into_response();
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }
}

/// A handler's caller. The layer has found out who it is, except where a route is open to everybody and so has none.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "it was not found out who calls").into_response()
        })
    }
}

/// Where a request comes from; all whose connection is not known count as one.
fn address(connection: Option<&Connection>) -> IpAddr {
    connection.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |connection| connection.address)
}

/// Whether a caller's role is enough for a route.
fn suffices(caller: &Caller, need: Need) -> Result<(), Problem> {
    let enough = match (need, &caller.role) {
        (Need::Public, _) | (Need::Read | Need::Write | Need::Admin, Role::Admin) => true,
        (Need::Read, Role::Reader | Role::Registrar { .. }) | (Need::Write, Role::Registrar { .. }) => true,
        (Need::Write | Need::Admin, _) | (Need::Peer, _) | (Need::Read, Role::Peer) => false,
    };
    if enough {
        return Ok(());
    }
    let needed = match need {
        Need::Admin => "needs the role admin",
        Need::Write => "writes, and needs the role registrar or admin",
        Need::Public | Need::Read | Need::Peer => "is for others",
    };
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        format!("this call {needed}, and `{}` has the role {}", caller.name, caller.role),
    ))
}

fn is_stream(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream")
}

/// The response, broken off at the end of something.
fn until(end: CancellationToken, response: Response) -> Response {
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(end.cancelled_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn reads_credentials() {
        assert_eq!(credentials(&headers(&[]), "bearer"), Ok(None));
        assert_eq!(credentials(&headers(&["Bearer abc"]), "bearer"), Ok(Some(&b"abc"[..])));
        assert_eq!(credentials(&headers(&["bEARER  abc "]), "bearer"), Ok(Some(&b"abc"[..])));
        for bad in [&["Basic abc"][..], &["Bearer"], &["Bearerabc"], &["Bearer a", "Bearer b"], &[""], &["Peer 00"]] {
            assert_eq!(credentials(&headers(bad), "bearer"), Err(Unknown::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn peers_prove_themselves() {
        let secret = |bytes: &[u8]| Secret(bytes.into());
        assert!(is_peer(&headers(&["Peer 0aff"]), &secret(&[10, 255])));
        for bad in ["Peer 0afe", "Peer 0a", "Peer", "Peer ", "Bearer 0aff", "Peer 0aff00", "Peer 0xff"] {
            assert!(!is_peer(&headers(&[bad]), &secret(&[10, 255])), "{bad}");
        }
        for empty in ["Peer ", "Peer", "Peer 00"] {
            assert!(!is_peer(&headers(&[empty]), &secret(&[])), "{empty}");
        }
        assert!(!is_peer(&headers(&[]), &secret(&[])));
    }

    #[test]
    fn roles_suffice_as_stated() {
        let registrar = Role::Registrar { sources: Arc::new([]), namespaces: Arc::new([]) };
        for (role, allowed) in [
            (Role::Reader, &[Need::Public, Need::Read][..]),
            (registrar, &[Need::Public, Need::Read, Need::Write]),
            (Role::Admin, &[Need::Public, Need::Read, Need::Write, Need::Admin]),
            (Role::Peer, &[Need::Public]),
        ] {
            let caller = Caller { name: "x".into(), role };
            for need in [Need::Public, Need::Read, Need::Write, Need::Admin, Need::Peer] {
                assert_eq!(suffices(&caller, need).is_ok(), allowed.contains(&need), "{caller:?} {need:?}");
            }
        }
    }
}
