//! Parts of the API's description that many calls share: their parameters, and the problems they may answer with.
//!
//! Nothing here is read at run time; these types only stand in the handlers' descriptions.
#![allow(dead_code, reason = "the fields are described, never read")]

use axum::http::StatusCode;
use std::collections::BTreeMap;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses};

/// On whose behalf a call writes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Acting {
    /// The acting source; default `api`.
    source: Option<String>,
}

/// Whether a write waits until everybody shows it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Waiting {
    /// `visible`: the reply comes once all replicas and all followers show what was written, or when the time is up. It is
    /// a success in either case, and has the fields of `VisibilityDocument` beside its own.
    wait: Option<String>,
    /// How long to wait, as in `5s` or `500ms`; default 5 s, at most 60 s. Goes with `wait`.
    timeout: Option<String>,
}

/// What a write that changes or removes demands of the object.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IfMatch {
    /// `*`: only if the object exists. An ETag: only if it is at that position. In a list of tags, weak ones and those
    /// that are no position of this registry never match; at most one position is taken.
    #[param(rename = "If-Match", nullable = false)]
    if_match: Option<String>,
}

/// What a write that creates demands of the object.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct IfNoneMatch {
    /// `*`: only if the object does not exist. Nothing else is taken.
    #[param(rename = "If-None-Match", nullable = false)]
    if_none_match: Option<String>,
}

/// How fresh a read must be.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct MinRevision {
    /// Wait until this position is shown, at most 5 s.
    min_revision: Option<String>,
}

/// What all lists take.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Labels, in Kubernetes' grammar.
    selector: Option<String>,
    /// Only what this source declares, as it declared it.
    source: Option<String>,
    /// Most items; default 500.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// From the page before.
    #[param(rename = "continue", nullable = false)]
    continue_token: Option<String>,
}

/// What lists of instances take.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ByHealth {
    /// Effective healths, as `passing,warning`.
    health: Option<String>,
}

fn problems(statuses: &[StatusCode]) -> BTreeMap<String, RefOr<Response>> {
    let described = |status: StatusCode| match status {
        StatusCode::BAD_REQUEST => "A part of the path, a parameter, a header or the body can't be read.",
        StatusCode::UNAUTHORIZED => "There is access control, and no token or a wrong one.",
        StatusCode::FORBIDDEN => "The caller may not do this, not as this source, or not in this namespace.",
        StatusCode::TOO_MANY_REQUESTS => "As 401, and too often from this address; the answer is late.",
        StatusCode::NOT_FOUND => "It does not exist, or not as the acting source's.",
        StatusCode::REQUEST_TIMEOUT => "The body did not come in time.",
        StatusCode::CONFLICT => "Others changed the same object again and again; try again.",
        StatusCode::GONE => "The position or continue token belongs to another history of this registry.",
        StatusCode::PRECONDITION_FAILED => "`If-Match` or `If-None-Match` did not hold.",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is too large.",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "The content type is not JSON.",
        StatusCode::MISDIRECTED_REQUEST => {
            "The server is for its own machine only, and the request names another host."
        }
        StatusCode::UNPROCESSABLE_ENTITY => "The body can be read, but a field can't be taken.",
        StatusCode::SERVICE_UNAVAILABLE => {
            "The catalog is still being loaded, or the store can't be reached; try again."
        }
        StatusCode::GATEWAY_TIMEOUT => {
            "Not in time. On a write, `outcome: unknown` says that it can't be known whether it was applied; without \
             it, the write was committed and is only not shown yet."
        }
        StatusCode::INSUFFICIENT_STORAGE => "The disk is full, and the write was not applied.",
        other => other.canonical_reason().unwrap_or("A problem."),
    };
    let problem = |status| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemDocument"))).build();
        ResponseBuilder::new().description(described(status)).content("application/problem+json", content).build()
    };
    statuses.iter().map(|status| (status.as_str().to_owned(), problem(*status).into())).collect()
}

/// Every call may answer so.
pub(super) struct Always;

impl IntoResponses for Always {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[StatusCode::MISDIRECTED_REQUEST])
    }
}

/// Every call that is not open to everybody may answer so.
const GUARDED: [StatusCode; 3] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];

/// Calls that take no parameters and are not open to everybody.
pub(super) struct Guarded;

impl IntoResponses for Guarded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&GUARDED)
    }
}

/// Every call that takes parameters may answer so.
pub(super) struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let own = problems(&[StatusCode::BAD_REQUEST, StatusCode::MISDIRECTED_REQUEST]);
        own.into_iter().chain(problems(&GUARDED)).collect()
    }
}

/// Calls about something that must exist.
pub(super) struct NotFound;

impl IntoResponses for NotFound {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[StatusCode::NOT_FOUND])
    }
}

/// Calls that need the catalog or the store.
pub(super) struct Unavailable;

impl IntoResponses for Unavailable {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[StatusCode::SERVICE_UNAVAILABLE])
    }
}

/// Reads of the catalog.
pub(super) struct ReadProblems;

impl IntoResponses for ReadProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let own = problems(&[
            StatusCode::BAD_REQUEST,
            StatusCode::GONE,
            StatusCode::MISDIRECTED_REQUEST,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ]);
        own.into_iter().chain(problems(&GUARDED)).collect()
    }
}

/// Writes.
pub(super) struct WriteProblems;

impl IntoResponses for WriteProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let own = problems(&[
            StatusCode::BAD_REQUEST,
            StatusCode::CONFLICT,
            StatusCode::PRECONDITION_FAILED,
            StatusCode::MISDIRECTED_REQUEST,
            StatusCode::UNPROCESSABLE_ENTITY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
            StatusCode::INSUFFICIENT_STORAGE,
        ]);
        own.into_iter().chain(problems(&GUARDED)).collect()
    }
}

/// Calls with a body.
pub(super) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE])
    }
}

/// Calls that a web page could make unasked if they took any content type.
pub(super) struct OnlyJson;

impl IntoResponses for OnlyJson {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[StatusCode::UNSUPPORTED_MEDIA_TYPE])
    }
}
