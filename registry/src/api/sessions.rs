//! Sessions over REST.

use super::AppState;
use super::body::{self, MAX_BODY};
use super::described::{Acting, BodyProblems, MinRevision, NotFound, OnlyJson, ReadProblems, Waiting, WriteProblems};
use super::lists::{after, limit};
use super::objects::reply;
use super::params::{self, Params, Path};
use super::problem::Problem;
use super::reading::token;
use super::visible::told;
use crate::access::Caller;
use crate::sessions::{Engine, MAX_RENEWALS, Unreached};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use fingerpost_catalog::document::{
    NewSession, RenewDocument, Renewal, RenewalsDocument, SessionDocument, SessionEndedDocument, SessionListDocument,
};
use fingerpost_catalog::{SessionQuery, SessionState, Source};

/// Begin a session. Instances that name it in their `session` are healthy for as long as it is renewed: every third of
/// its TTL is a good pace.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions",
    params(Acting, Waiting),
    request_body = NewSession,
    responses((status = 201, description = "It has begun.", body = SessionDocument,
        headers(("Location" = String, description = "Where it is."))),
        (status = 403, description = "The caller may not act as this source.",
            body = fingerpost_catalog::document::ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "The caller has the most sessions that a registrar may have; or as everywhere.",
            body = fingerpost_catalog::document::ProblemDocument, content_type = "application/problem+json"),
        WriteProblems, BodyProblems, OnlyJson))]
pub(crate) async fn create_session(
    State(app): AppState,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting(&caller)?;
    given.finish()?;
    params::loaded(&app)?;
    body::require_json(&headers)?;
    let new: NewSession = body::json(&body::read(body, MAX_BODY).await?)?;
    app.api.writer.heard(acting.source());
    let view = app.api.sessions.create(&caller, acting.source(), new).await?;
    let document = app.api.sessions.document(&view);
    let mut response = reply(StatusCode::CREATED, &document, Some(document.revision));
    // Ids are hexadecimal digits.
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/sessions/{}", document.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Renew sessions. It costs no write, and any replica takes it.
#[utoipa::path(post, path = "/v1/sessions/renew", tag = "sessions",
    request_body = RenewDocument,
    responses((status = 200, description = "What became of each, in the order asked.", body = RenewalsDocument),
        (status = 422, description = "No ids, or too many.", body = fingerpost_catalog::document::ProblemDocument,
            content_type = "application/problem+json"),
        ReadProblems, BodyProblems, OnlyJson))]
pub(crate) async fn renew_sessions(
    State(app): AppState,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Params::new(query.as_deref())?.finish()?;
    params::loaded(&app)?;
    body::require_json(&headers)?;
    let RenewDocument { ids } = body::json(&body::read(body, MAX_BODY).await?)?;
    let items = renew(&app.api.sessions, &caller, &ids).await?;
    Ok(reply(StatusCode::OK, &RenewalsDocument { items }, None))
}

/// Renews as many sessions as one call may.
pub async fn renew(sessions: &Engine, caller: &Caller, ids: &[String]) -> Result<Vec<Renewal>, Problem> {
    if !(1..=MAX_RENEWALS).contains(&ids.len()) {
        let detail = format!("{} ids, and 1 to {MAX_RENEWALS} are taken", ids.len());
        return Err(crate::validate::Invalid::new("/ids", detail).into());
    }
    let renewed = sessions.renew(caller, ids).await;
    renewed.map_err(|error: Unreached| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(1))
}

/// What lists of sessions take.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "described, never read")]
pub(crate) struct SessionPage {
    /// Only those with this name.
    name: Option<String>,
    /// Only those that this source made.
    source: Option<String>,
    /// Only those in this state: `alive`, `suspect` or `expired`.
    state: Option<String>,
    /// Most items; default 500.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// From the page before.
    #[param(rename = "continue", nullable = false)]
    continue_token: Option<String>,
}

/// List sessions.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions",
    params(SessionPage, MinRevision),
    responses((status = 200, description = "A page.", body = SessionListDocument), ReadProblems))]
pub(crate) async fn list_sessions(State(app): AppState, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    let (limit, after) = (limit(&mut given)?, after(&app, &mut given)?);
    let name = given.take("name");
    let source: Option<Source> = given.parse("source")?;
    let state = match given.take("state").as_deref() {
        None => None,
        Some("alive") => Some(SessionState::Alive),
        Some("suspect") => Some(SessionState::Suspect),
        Some("expired") => Some(SessionState::Expired),
        Some(_) => return Err(Problem::parameter("state", "neither `alive` nor `suspect` nor `expired`")),
    };
    let min_revision = given.min_revision()?;
    given.finish()?;
    params::shown(&app, min_revision).await?;
    let (position, page) = {
        let replica = app.api.live.read();
        let query =
            SessionQuery { name: name.as_deref(), source: source.as_ref(), state, after: after.as_deref(), limit };
        (app.api.live.position(), replica.sessions(&query))
    };
    let list = SessionListDocument {
        revision: position,
        protection: app.api.sessions.protection(),
        items: page.items.iter().map(|view| app.api.sessions.document(view)).collect(),
        continue_token: page.next.map(|id| token(position, &id)),
    };
    Ok(reply(StatusCode::OK, &list, None))
}

/// Show a session.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "Its id."), MinRevision),
    responses((status = 200, description = "The session.", body = SessionDocument), ReadProblems, NotFound))]
pub(crate) async fn get_session(
    State(app): AppState,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    params::loaded(&app)?;
    let min_revision = given.min_revision()?;
    given.finish()?;
    params::shown(&app, min_revision).await?;
    let view = app.api.live.read().session(&id);
    let view = view.ok_or_else(|| Problem::not_found(format_args!("session `{}`", cut(&id))))?;
    let document = app.api.sessions.document(&view);
    Ok(reply(StatusCode::OK, &document, Some(document.revision)))
}

/// End a session: all its instances are critical at once, then they are removed, then the session.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "Its id."), Waiting),
    responses((status = 200, description = "It has ended.", body = SessionEndedDocument),
        (status = 403, description = "It is somebody else's.",
            body = fingerpost_catalog::document::ProblemDocument, content_type = "application/problem+json"),
        WriteProblems, NotFound))]
pub(crate) async fn end_session(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::new(query.as_deref())?.finish()?;
    params::loaded(&app)?;
    let ended = app.api.sessions.end(&caller, &id).await;
    let (instances, revision) = ended?;
    let ended = SessionEndedDocument { instances: instances as u64, revision };
    told(revision, app.api.writer.shown(revision).await, &ended)
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
