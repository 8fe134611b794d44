//! Followers say what they show.

use super::AppState;
use super::body::{self, MAX_BODY};
use super::described::{BodyProblems, OnlyJson, Refused, Unavailable};
use super::objects::reply;
use super::params::{self, Params, Path};
use super::problem::Problem;
use crate::access::Caller;
use crate::followers::{REPORT_EVERY, ReportError, SILENCE};
use crate::validate::Invalid;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fingerpost_catalog::document::{FollowerReceipt, FollowerReport, ProblemDocument};
use fingerpost_catalog::{validate_dns_label, validate_instance_id};

/// Most characters of a run's id, and of a version.
const MAX_TEXT: usize = 64;

/// Say what a follower shows. Whoever may read may follow, under an id of its own; any replica takes it.
#[utoipa::path(post, path = "/v1/followers/{id}", tag = "operations",
    params(("id" = String, Path, description = "The follower's id: 1 to 253 of `A-Z a-z 0-9 . _ : -`.")),
    request_body = FollowerReport,
    responses((status = 200, description = "It was taken, or was older than what is known.", body = FollowerReceipt),
        (status = 409, description = "The id is that of another caller's follower.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "A field can't be taken.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 429, description = "There are the most followers that are taken; or as everywhere.",
            body = ProblemDocument, content_type = "application/problem+json"),
        Refused, BodyProblems, OnlyJson, Unavailable))]
pub(crate) async fn report(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params::id(&id)?;
    Params::new(query.as_deref())?.finish()?;
    params::loaded(&app)?;
    body::require_json(&headers)?;
    let report: FollowerReport = body::json(&body::read(body, MAX_BODY).await?)?;
    validate_dns_label(&report.kind).map_err(|error| Invalid::new("/kind", error))?;
    validate_instance_id(&report.run).map_err(|error| Invalid::new("/run", error))?;
    for (pointer, text) in [("/run", &report.run), ("/version", &report.version)] {
        if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
            let detail = format!("it is longer than {MAX_TEXT} bytes, or has control characters");
            return Err(Invalid::new(pointer, detail).into());
        }
    }
    let followers = app.api.visibility.followers();
    followers.report(&id, &caller.name, &report).map_err(|error| match error {
        ReportError::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, error).retry_after(10),
        ReportError::Foreign(_) => Problem::new(StatusCode::CONFLICT, error),
    })?;
    let receipt = FollowerReceipt {
        report_seconds: REPORT_EVERY.as_secs(),
        silent_seconds: SILENCE.as_secs(),
        spacing_milliseconds: followers.spacing().as_millis() as u64,
    };
    Ok(reply(StatusCode::OK, &receipt, None))
}
