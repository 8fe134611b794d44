//! The HTTP API: REST over the live replica and the writer, watch streams, and what operators need.
//!
//! Handlers are thin. Reads come from the live replica; writes go through [`Writer`]; errors become problem documents.
//! The OpenAPI document is generated from the handlers themselves.

mod batch;
mod body;
mod described;
mod docs;
mod export;
mod followers;
mod health;
mod instances;
mod lists;
mod metrics;
mod objects;
mod operations;
mod params;
mod peers;
mod problem;
pub mod reading;
mod sessions;
mod sources;
mod strict;
mod visible;
mod watches;

use crate::access::{Access, Forbidden};
use crate::checks;
use crate::followers::Visibility;
use crate::live::LiveReplica;
use crate::sessions::Engine;
use crate::sources::Sources;
use crate::store::Store;
use crate::validate::Invalid;
use crate::watch::{Hub, StreamLimits};
use crate::writes::{WriteError, Writer};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use fingerpost_catalog::document::{
    InstanceDocument, NamespaceDocument, ProblemDocument, ServiceDocument, VisibilityDocument,
};
use fingerpost_catalog::{Key, Position, Record};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use objects::Removed;
use visible::Wait;

pub use metrics::HttpMetrics;
pub use operations::openmetrics;
pub use problem::Problem;
pub use sessions::renew;

/// What the DNS server of the same process can tell the API; the registry itself knows no DNS.
pub trait NameService: Send + Sync {
    /// Why a name resolves or does not, as JSON for the reader; for the client with that address, where one is named.
    fn explain(&self, name: &str, qtype: &str, from: Option<std::net::IpAddr>) -> Result<serde_json::Value, String>;
    /// Its part of `status`.
    fn status(&self) -> serde_json::Value;
    /// Why it can't answer truthfully yet, if so.
    fn not_ready(&self) -> Option<String>;
}

/// What follows a Kubernetes cluster in the same process, for the API to tell of; the registry itself knows none.
pub trait ClusterFollower: Send + Sync {
    /// Its part of `status`.
    fn status(&self) -> serde_json::Value;
    /// Why nothing can be said of the cluster yet, if so.
    fn not_ready(&self) -> Option<String>;
    /// Why what is said may be old, if so.
    fn trouble(&self) -> Option<String>;
}

/// What the API is about; one value for the life of the process.
pub struct Api {
    /// Where writes go.
    pub store: Arc<dyn Store>,
    /// What reads see.
    pub live: Arc<LiveReplica>,
    /// What turns calls into commits to that store.
    pub writer: Writer,
    /// Who speaks, and who no longer does.
    pub sources: Arc<Sources>,
    /// Who keeps sessions.
    pub sessions: Arc<Engine>,
    /// What streams follow.
    pub hub: Arc<Hub>,
    /// Who follows elsewhere, and shows what is written.
    pub visibility: Arc<Visibility>,
    /// What runs the checks that are at home here.
    pub checks: checks::Runner,
    /// What became of instances' health.
    pub history: Arc<checks::History>,
    /// Bounds of streams.
    pub stream_limits: StreamLimits,
    /// The DNS server beside it, if any.
    pub names: Option<Arc<dyn NameService>>,
    /// What follows a cluster, if anything does.
    pub cluster: Option<Arc<dyn ClusterFollower>>,
    /// Metrics of all parts of the process; `/metrics` prints them.
    pub metrics: Arc<prometheus_client::registry::Registry>,
    /// The API's own metrics, registered there.
    pub http_metrics: HttpMetrics,
    /// Addresses that the API listens on, for `status`.
    pub listen: Vec<std::net::SocketAddr>,
    /// Whether it was let beyond loopback without access control.
    pub insecure: bool,
    /// Who may call.
    pub access: Arc<Access>,
    /// When the process started.
    pub started: Instant,
    /// Ends streams and readiness.
    pub shutdown: CancellationToken,
}

pub(crate) struct App {
    api: Api,
    lists: lists::ListCache,
    /// Held by the import under way.
    importing: Arc<Semaphore>,
}

type AppState = State<Arc<App>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fingerpost",
        description = "Service discovery: register services and instances, list and watch them by label and health.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    components(schemas(ProblemDocument, VisibilityDocument)),
    security(("token" = []), ("certificate" = []), ()),
    modifiers(&Credentials)
)]
struct Description;

/// What a caller can show where the server has access control.
struct Credentials;

impl utoipa::Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        components.add_security_scheme(
            "certificate",
            SecurityScheme::MutualTls { description: None, extensions: None, deprecated: None },
        );
    }
}

fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(lists::list_namespaces))
        .routes(routes!(lists::list_all_services))
        .routes(routes!(lists::list_services))
        .routes(routes!(lists::list_all_instances))
        .routes(routes!(lists::list_namespace_instances))
        .routes(routes!(lists::list_service_instances, instances::replace_instances))
        .routes(routes!(objects::get_namespace, objects::put_namespace, objects::delete_namespace))
        .routes(routes!(objects::get_service, objects::put_service, objects::delete_service))
        .routes(routes!(
            instances::get_instance,
            instances::put_instance,
            instances::patch_instance,
            instances::delete_instance
        ))
        .routes(routes!(
            instances::get_bare_instance,
            instances::put_bare_instance,
            instances::patch_bare_instance,
            instances::delete_bare_instance
        ))
        .routes(routes!(instances::put_instance_health))
        .routes(routes!(instances::put_bare_instance_health))
        .routes(routes!(health::drain_instance, health::undrain_instance))
        .routes(routes!(health::report_check))
        .routes(routes!(health::get_history))
        .routes(routes!(health::drain_bare_instance, health::undrain_bare_instance))
        .routes(routes!(health::report_bare_check))
        .routes(routes!(health::get_bare_history))
        .routes(routes!(sessions::create_session, sessions::list_sessions))
        .routes(routes!(sessions::renew_sessions))
        .routes(routes!(sessions::get_session, sessions::end_session))
        .routes(routes!(batch::batch))
        .routes(routes!(watches::watch, watches::watch_many))
        .routes(routes!(watches::change_watch))
        .routes(routes!(followers::report))
        .routes(routes!(sources::list_sources))
        .routes(routes!(sources::delete_source))
        .routes(routes!(operations::explain))
        .routes(routes!(operations::status))
        .routes(routes!(operations::migrate))
        .routes(routes!(export::export))
        .routes(routes!(export::import))
        .routes(routes!(operations::livez))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::version))
        .routes(routes!(operations::metrics))
}

/// The OpenAPI document of this version.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

/// What is served, by the listener.
pub struct Routers {
    /// The whole API.
    pub api: Router,
    /// Probes, version and metrics, without access control: nothing here changes anything.
    pub ops: Router,
}

/// The routers of the API.
pub fn routers(api: Api) -> Routers {
    let (router, openapi) = described().split_for_parts();
    // A document of strings, numbers and maps always serializes.
    let openapi = bytes::Bytes::from(serde_json::to_vec(&openapi).unwrap_or_default());
    let app = Arc::new(App { lists: lists::ListCache::new(), importing: Arc::new(Semaphore::new(1)), api });
    let api = router
        .merge(docs::routes(openapi))
        .merge(peers::routes())
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is no such path; see /docs") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method; see /docs")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), enter))
        .with_state(Arc::clone(&app));
    let ops = Router::new()
        .route("/livez", get(operations::livez))
        .route("/readyz", get(operations::readyz))
        .route("/version", get(operations::version))
        .route("/metrics", get(operations::metrics))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "only probes, version and metrics are here") })
        .with_state(app);
    Routers { api, ops }
}

/// Counts and times each request, and lets it through to its handler once it is known who calls and that they may; those
/// that a web page aimed at a local server are refused. One layer, because each costs several allocations a request.
async fn enter(State(app): AppState, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<axum::extract::MatchedPath>()
        .map_or_else(|| Arc::from("other"), |path| Arc::<str>::from(path.as_str()));
    let response = match (foreign_host(&app, &request), Wait::take(&mut request)) {
        (Some(problem), _) | (None, Err(problem)) => problem.into_response(),
        (None, Ok(wait)) => {
            let secret = || app.api.store.members().borrow().secret.clone();
            let response = app.api.access.guard(secret, request, next).await;
            match wait {
                None => response,
                Some(wait) => Box::pin(wait.after(&app, response)).await,
            }
        }
    };
    app.api.http_metrics.observe(&method, route, response.status(), begun.elapsed());
    response
}

/// A server on loopback without access control believes whoever can reach it. A web page can, by a name of its own that
/// resolves to 127.0.0.1 (DNS rebinding), and is told apart by the Host header that its browser sends.
fn foreign_host(app: &App, request: &Request) -> Option<Problem> {
    if app.api.insecure || !app.api.access.is_open() {
        return None;
    }
    let host = request.headers().get(header::HOST)?.to_str().ok().unwrap_or_default();
    (!names_this_machine(host)).then(|| {
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!("this server is for this machine only and does not answer to the name `{host}`; use its address"),
        )
    })
}

/// Whether a Host header names this machine, by an address or as `localhost`, and not by what anybody could have resolve to
/// it.
pub fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || address.parse::<std::net::IpAddr>().is_ok()
}

impl From<Forbidden> for Problem {
    fn from(error: Forbidden) -> Self {
        Problem::new(StatusCode::FORBIDDEN, error)
    }
}

/// The object that a record is of, as its source declared it.
fn document((key, record): (Key, Arc<Record>), position: Position) -> Option<serde_json::Value> {
    let document = match (key, &*record) {
        (Key::Namespace { name, source }, Record::Namespace(declared)) => serde_json::to_value(NamespaceDocument {
            name: Some(name.to_string()),
            labels: declared.labels.clone(),
            source: Some(source),
            sources: Vec::new(),
            revision: Some(position),
        }),
        (Key::Service { namespace, name, source }, Record::Service(declared)) => {
            serde_json::to_value(ServiceDocument::of(&namespace, &name, source, declared.clone(), position))
        }
        (Key::Instance(key), Record::Instance(instance)) => {
            serde_json::to_value(InstanceDocument { revision: Some(position), ..InstanceDocument::of(&key, instance) })
        }
        _ => return None,
    };
    document.ok()
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Invalid(invalid) => invalid.into(),
            WriteError::Forbidden { pointer, reason } => Problem::from(reason).at(pointer),
            WriteError::NotFound(_) => Problem::new(StatusCode::NOT_FOUND, error),
            WriteError::Guard(_) => Problem::new(StatusCode::PRECONDITION_FAILED, error),
            WriteError::Contended(_) => Problem::new(StatusCode::CONFLICT, error),
            WriteError::Commit(error) => error.into(),
            WriteError::Interrupted { ref source, .. } => Problem::from(source.clone()).detail(&error),
            WriteError::NotVisible { position, error, written } => {
                match written.and_then(|put| document(*put, position)) {
                    Some(document) => Problem::not_visible(position, error, &document),
                    None => Problem::not_visible(position, error, &Removed { revision: position }),
                }
            }
        }
    }
}

/// Reads a document from JSON that is already parsed, with the same strictness as from bytes.
pub(crate) fn json_value(value: serde_json::Value) -> Result<InstanceDocument, Invalid> {
    let bytes = serde_json::to_vec(&value).map_err(|error| Invalid::new("", error))?;
    body::json_part(&bytes).map_err(|problem| {
        let document = problem.document();
        Invalid { pointer: document.pointer.unwrap_or_default(), detail: document.detail }
    })
}
