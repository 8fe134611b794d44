//! Many writes in one call.

use super::body::{self, MAX_BODY, MAX_LARGE_BODY};
use super::described::{Acting, BodyProblems, OnlyJson, Waiting, WriteProblems};
use super::params::{self, Params};
use super::problem::Problem;
use super::visible::told;
use super::{App, AppState};
use crate::access::{self, Caller};
use crate::store::{CommitError, MAX_OPERATIONS};
use crate::writes::{self, Verb, WriteError, Written};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fingerpost_catalog::document::{ObjectDocument, ProblemDocument};
use fingerpost_catalog::{Key, Position};
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
            Kind::Namespace => body::json_part(bytes).map(ObjectDocument::Namespace),
            Kind::Service => body::json_part(bytes).map(ObjectDocument::Service),
            Kind::Instance => body::json_part(bytes).map(ObjectDocument::Instance),
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
///
/// Deleting what does not exist changes nothing and fails no batch, so that a batch can be repeated: its result is 200
/// in an atomic batch, and with `?atomic=false` 404, as of a `DELETE` of its own.
#[utoipa::path(post, path = "/v1/batch", tag = "batch",
    params(Acting, Waiting,
        ("atomic" = Option<bool>, Query, description = "`false`: apply what can be applied; default `true`.")),
    request_body = Batch,
    responses((status = 200, body = BatchReply,
            description = "All was applied; with `?atomic=false`, each result says what became of its operation."),
        WriteProblems, BodyProblems, OnlyJson))]
pub(crate) async fn batch(
    State(app): AppState,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let acting = given.acting(&caller)?;
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
        let written = app.api.writer.batch(&acting, &items).await.map_err(|error| match error {
            WriteError::Commit(CommitError::TooLarge { .. }) => {
                let way_out = "or, where they need not be applied all or none, with `?atomic=false`";
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error}; {way_out}"))
                    .at(Some("/operations".into()))
            }
            error => error.into(),
        })?;
        let revision = written.first().map_or_else(|| app.api.live.position(), |written| written.position);
        let results = items.iter().zip(&written).map(|((verb, _), written)| result(*verb, written)).collect();
        return told(revision, app.api.writer.shown(revision).await, &BatchReply { revision, results });
    }
    let (results, shown) = apply_each(&app, &acting, parsed).await;
    let revision = match shown {
        Err(WriteError::NotVisible { position, .. }) => position,
        _ => app.api.live.position(),
    };
    told(revision, shown, &BatchReply { revision, results })
}

/// Applies each operation for itself, in order; and whether this process shows the last of them.
async fn apply_each(
    app: &App,
    acting: &access::Acting,
    parsed: impl Iterator<Item = Result<(Verb, ObjectDocument), Problem>>,
) -> (Vec<BatchResult>, Result<(), WriteError>) {
    let mut shown = Ok(());
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
        let absent: Vec<bool> = items.iter().map(|item| deletes_nothing(app, acting, item)).collect();
        match app.api.writer.batch(acting, &items).await {
            Ok(written) => {
                settle(app, &written, &mut shown).await;
                for (((n, (verb, _)), absent), written) in run.iter().zip(absent).zip(&written) {
                    results[*n] = if absent { nothing() } else { result(*verb, written) };
                }
            }
            Err(
                WriteError::Invalid(_)
                | WriteError::Forbidden { .. }
                | WriteError::Contended(_)
                | WriteError::Commit(CommitError::Malformed(_) | CommitError::TooLarge { .. }),
            ) => {
                for (n, item) in run {
                    let absent = deletes_nothing(app, acting, item);
                    results[*n] = match app.api.writer.batch(acting, std::slice::from_ref(item)).await {
                        Ok(written) => {
                            settle(app, &written, &mut shown).await;
                            match written.first() {
                                Some(written) if !absent => result(item.0, written),
                                _ => nothing(),
                            }
                        }
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
    (results, shown)
}

/// Waits until this replica shows what was written, by which what comes next is judged. Where it fell behind, nothing waits
/// for it any more: the store judges all the same.
async fn settle(app: &App, written: &[Written], shown: &mut Result<(), WriteError>) {
    let Some(written) = written.first() else { return };
    match shown {
        Err(WriteError::NotVisible { position, .. }) => *position = written.position,
        _ => *shown = app.api.writer.shown(written.position).await,
    }
}

/// Whether an operation deletes what does not exist; judged, as is whether a put creates, by what is shown just before.
fn deletes_nothing(app: &App, acting: &access::Acting, (verb, object): &(Verb, ObjectDocument)) -> bool {
    let key = || {
        Some(match object {
            ObjectDocument::Namespace(document) => writes::namespace_key(acting, document.name.as_deref()?),
            ObjectDocument::Service(document) => {
                writes::service_key(acting, document.namespace.as_deref()?, document.name.as_deref()?)
            }
            ObjectDocument::Instance(document) => {
                let (namespace, id) = (document.namespace.as_deref()?, document.id.as_deref()?);
                writes::instance_key(acting, namespace, document.service.as_deref(), id).map(Key::Instance)
            }
        })
    };
    // What has no proper key is refused by the writer.
    *verb == Verb::Delete && matches!(key(), Some(Ok(key)) if app.api.live.read().revision_of(&key).is_none())
}

fn nothing() -> BatchResult {
    failed(Problem::new(StatusCode::NOT_FOUND, "it does not exist as the acting source's; nothing was changed"))
}

/// An operation that was applied alone says its place in the whole batch.
fn renumbered(error: WriteError, n: usize) -> Problem {
    let renumber = |pointer: &mut String| *pointer = pointer.replacen("/operations/0", &format!("/operations/{n}"), 1);
    match error {
        WriteError::Invalid(mut invalid) => {
            renumber(&mut invalid.pointer);
            invalid.into()
        }
        WriteError::Forbidden { mut pointer, reason } => {
            pointer.iter_mut().for_each(renumber);
            WriteError::Forbidden { pointer, reason }.into()
        }
        other => other.into(),
    }
}

fn failed(problem: Problem) -> BatchResult {
    BatchResult { status: problem.status().as_u16(), revision: None, problem: Some(problem.document()) }
}
