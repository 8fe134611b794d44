//! Many writes in one call.

use super::AppState;
use super::body::{self, MAX_BODY, MAX_LARGE_BODY};
use super::objects::reply;
use super::params::{self, Params};
use super::problem::Problem;
use crate::store::MAX_OPERATIONS;
use crate::writes::{Verb, WriteError, Written};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fingerpost_catalog::Position;
use fingerpost_catalog::document::{ObjectDocument, ProblemDocument};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Most operations of a call with `?atomic=false`.
const MAX_LOOSE_OPERATIONS: usize = 10_000;

/// Put or delete.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Delete,
}

/// One operation.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
struct BatchOperation {
    /// `put` or `delete`.
    op: Op,
    /// `namespace`, `service` or `instance`.
    #[schema(value_type = String)]
    kind: fingerpost_catalog::Kind,
    /// The object, with its identity; for a delete, the identity is enough.
    #[schema(value_type = Object)]
    object: Box<RawValue>,
}

/// A batch.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub(crate) struct Batch {
    /// At most 100, or 10,000 with `?atomic=false`.
    operations: Vec<BatchOperation>,
}

/// What became of one operation.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct BatchResult {
    /// The HTTP status that the operation would have had alone.
    status: u16,
    /// The position that it made.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Position>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemDocument>,
}

/// What became of a batch.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BatchReply {
    /// The position at which all that was applied is shown.
    #[schema(value_type = String)]
    revision: Position,
    /// One result an operation, in their order.
    results: Vec<BatchResult>,
}

impl BatchOperation {
    fn parse(self, pointer: &str) -> Result<(Verb, ObjectDocument), Problem> {
        use fingerpost_catalog::Kind;
        let bytes = self.object.get().as_bytes();
        let object = match self.kind {
            Kind::Namespace => body::json(bytes).map(ObjectDocument::Namespace),
            Kind::Service => body::json(bytes).map(ObjectDocument::Service),
            Kind::Instance => body::json(bytes).map(ObjectDocument::Instance),
        }
        .map_err(|problem| {
            let document = problem.document();
            Problem::body(format!("{pointer}{}", document.pointer.unwrap_or_default()), document.detail)
        })?;
        let verb = match self.op {
            Op::Put => Verb::Put,
            Op::Delete => Verb::Delete,
        };
        Ok((verb, object))
    }
}

fn result(verb: Verb, written: &Written) -> BatchResult {
    let status = if verb == Verb::Put && written.created { StatusCode::CREATED } else { StatusCode::OK };
    BatchResult { status: status.as_u16(), revision: Some(written.position), problem: None }
}

/// Write many objects: all or none of at most 100, or with `?atomic=false` each for itself, in order.
#[utoipa::path(post, path = "/v1/batch", tag = "batch",
    params(("source" = Option<String>, Query, description = "The acting source; default `api`."),
        ("atomic" = Option<bool>, Query, description = "`false`: apply what can be applied; default `true`.")),
    request_body = Batch,
    responses((status = 200, body = BatchReply), (status = "4XX", body = ProblemDocument)))]
pub(crate) async fn batch(
    State(app): AppState,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting()?;
    let atomic = given.flag("atomic", true)?;
    given.finish()?;
    params::loaded(&app)?;
    body::require_json(&headers)?;
    let limit = if atomic { MAX_BODY } else { MAX_LARGE_BODY };
    let batch: Batch = body::json(&body::read(body, limit).await?)?;
    let most = if atomic { MAX_OPERATIONS } else { MAX_LOOSE_OPERATIONS };
    if batch.operations.len() > most {
        let detail = format!("{} operations, and at most {most} are allowed", batch.operations.len());
        let way_out = if atomic { "; more only with `?atomic=false`" } else { "" };
        return Err(Problem::body("/operations", format!("{detail}{way_out}")));
    }
    let parsed = batch
        .operations
        .into_iter()
        .enumerate()
        .map(|(n, operation)| operation.parse(&format!("/operations/{n}/object")));
    if atomic {
        let items = parsed.collect::<Result<Vec<_>, Problem>>()?;
        let written = app.writer.batch(&acting, &items).await?;
        let revision = written.first().map_or_else(|| app.api.live.position(), |written| written.position);
        let results = items.iter().zip(&written).map(|((verb, _), written)| result(*verb, written)).collect();
        return Ok(reply(StatusCode::OK, &BatchReply { revision, results }, None));
    }
    let mut results = Vec::new();
    let mut pending: Vec<(usize, (Verb, ObjectDocument))> = Vec::new();
    for (n, item) in parsed.enumerate() {
        results.push(BatchResult { status: 0, revision: None, problem: None });
        match item {
            Ok(item) => pending.push((n, item)),
            Err(problem) => results[n] = failed(problem),
        }
    }
    // Runs of operations share commits; where one of a run fails, its members are applied one by one.
    for run in pending.chunks(MAX_OPERATIONS) {
        let items: Vec<(Verb, ObjectDocument)> = run.iter().map(|(_, item)| item.clone()).collect();
        match app.writer.batch(&acting, &items).await {
            Ok(written) => {
                for ((n, (verb, _)), written) in run.iter().zip(&written) {
                    results[*n] = result(*verb, written);
                }
            }
            Err(WriteError::Invalid(_)) => {
                for (n, item) in run {
                    results[*n] = match app.writer.batch(&acting, std::slice::from_ref(item)).await {
                        Ok(written) => written
                            .first()
                            .map_or_else(|| failed(Problem::not_found("it")), |written| result(item.0, written)),
                        Err(error) => failed(renumbered(error, *n)),
                    };
                }
            }
            Err(error) => {
                let problem = Problem::from(error);
                for (n, _) in run {
                    results[*n] = failed(problem.clone());
                }
            }
        }
    }
    Ok(reply(StatusCode::OK, &BatchReply { revision: app.api.live.position(), results }, None))
}

/// An operation that was applied alone says its place in the whole batch.
fn renumbered(error: WriteError, n: usize) -> Problem {
    match error {
        WriteError::Invalid(mut invalid) => {
            invalid.pointer = invalid.pointer.replacen("/operations/0", &format!("/operations/{n}"), 1);
            invalid.into()
        }
        other => other.into(),
    }
}

fn failed(problem: Problem) -> BatchResult {
    BatchResult { status: problem.status().as_u16(), revision: None, problem: Some(problem.document()) }
}
