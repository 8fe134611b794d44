//! Everything in and out, as JSON lines: for backups, moves between back ends and questions to the data.

use super::body;
use super::described::{Always, BodyProblems, Guarded, OnlyJson, Unavailable, Waiting, WriteProblems};
use super::objects::reply;
use super::params::{self, Params};
use super::problem::Problem;
use super::{App, AppState};
use crate::store::{
    Action, Commit, CommitError, Contents, MAX_OPERATIONS, Operation, ReadAt, StoreError, StoredRecord,
};
use crate::validate::{self, Invalid};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument};
use fingerpost_catalog::{Key, Position, Record};
use futures_util::stream::{FuturesOrdered, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Largest import in bytes.
const MAX_IMPORT: usize = 256 << 20;
/// The form of exports; raised when older versions could not read them.
const FORMAT: u32 = 1;
/// Commits of an import under way at once.
const IN_FLIGHT: usize = 16;

/// The first line of an export.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    fingerpost: String,
    version: u32,
    revision: Position,
}

/// The last line of an export, by which an import knows that it is whole.
#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    fingerpost: String,
    records: usize,
}

/// Every other line.
#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    value: &'a RawValue,
}

#[derive(Deserialize)]
struct OwnedLine {
    key: String,
    value: Box<RawValue>,
}

/// What an import did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Imported {
    /// The position of the last commit.
    #[schema(value_type = String)]
    revision: Position,
    /// Records in the import.
    records: usize,
    /// Records removed because the import does not have them.
    removed: usize,
}

fn line(key: &Key, record: &Record, out: &mut BytesMut) {
    let value = String::from_utf8(record.encode()).ok().and_then(|text| RawValue::from_string(text).ok());
    // A record's encoding is JSON, and a line of JSON always serializes.
    if let Some(value) = value
        && let Ok(line) = serde_json::to_vec(&Line { key: &key.to_string(), value: &value })
    {
        out.put_slice(&line);
        out.put_u8(b'\n');
    }
}

/// All records at one position, as JSON lines. The first line says `{"fingerpost":"export",…}`,
/// the last `{"fingerpost":"end","records":…}`.
#[utoipa::path(get, path = "/v1/export", tag = "operations",
    responses((status = 200, description = "The export.", content_type = "application/x-ndjson", body = String),
        Always, Guarded, Unavailable))]
pub(crate) async fn export(State(app): AppState) -> Result<Response, Problem> {
    let Contents { position, records } = app.api.store.read_all(ReadAt::Latest).await?;
    let header = Header { fingerpost: "export".to_owned(), version: FORMAT, revision: position };
    let mut first = serde_json::to_vec(&header).unwrap_or_default();
    first.push(b'\n');
    let rest = futures_util::stream::unfold(Some((records, 0)), |state| async move {
        let (mut records, count) = state?;
        let Some(batch) = records.recv().await else {
            let mut last =
                serde_json::to_vec(&Footer { fingerpost: "end".to_owned(), records: count }).unwrap_or_default();
            last.push(b'\n');
            return Some((Ok(Bytes::from(last)), None));
        };
        let batch: Result<Vec<StoredRecord>, StoreError> = batch;
        match batch {
            Ok(batch) => {
                let mut out = BytesMut::with_capacity(batch.len() * 300);
                for stored in &batch {
                    line(&stored.key, &stored.record, &mut out);
                }
                Some((Ok(out.freeze()), Some((records, count + batch.len()))))
            }
            // The stream breaks off, and without its last line nobody takes it for whole.
            Err(error) => Some((Err(error), None)),
        }
    });
    let all = futures_util::stream::once(async { Ok(Bytes::from(first)) }).chain(rest);
    let mut response = Body::from_stream(all).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// A record from outside passes the same checks as one written by a call of its own.
fn check(key: &Key, record: &Record) -> Result<(), Invalid> {
    match (key, record) {
        (Key::Namespace { .. }, Record::Namespace(namespace)) => {
            let document = NamespaceDocument { labels: namespace.labels.clone(), ..NamespaceDocument::default() };
            validate::namespace(&document).map(drop)
        }
        (Key::Service { .. }, Record::Service(service)) => {
            let service = service.clone();
            validate::service(ServiceDocument {
                service_type: service.service_type,
                cluster_ips: service.cluster_ips,
                external_name: service.external_name,
                labels: service.labels,
                ports: service.ports,
                ttl: service.ttl,
                checks: fingerpost_catalog::document::known(&service.checks),
                ..ServiceDocument::default()
            })
            .map(drop)
        }
        (Key::Instance(key), Record::Instance(instance)) => {
            if let Some(report) = &instance.report {
                validate::note(&report.note)?;
            }
            validate::instance(InstanceDocument::of(key, instance)).map(drop)
        }
        _ => Ok(()),
    }
}

/// The writes that an import asks for, and the keys that it has.
type Parsed = (Vec<Operation>, HashSet<Key>);

fn parse(text: &[u8]) -> Result<Parsed, Problem> {
    let bad = |line: usize, detail: &dyn std::fmt::Display| Problem::body("", format!("line {line}: {detail}"));
    let mut lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let (_, first) = lines.next().ok_or_else(|| Problem::body("", "the import is empty"))?;
    let header: Header =
        serde_json::from_slice(first).map_err(|_| bad(1, &"not the first line of an export of this registry"))?;
    if header.fingerpost != "export" || header.version > FORMAT {
        return Err(bad(1, &format!("export version {} is newer than this server reads ({FORMAT})", header.version)));
    }
    let mut operations = Vec::new();
    let mut keys = HashSet::new();
    let mut whole = false;
    for (n, line) in lines {
        if whole {
            return Err(bad(n + 1, &"there is more after the export's last line"));
        }
        if let Ok(footer) = serde_json::from_slice::<Footer>(line) {
            if footer.fingerpost != "end" || footer.records != operations.len() {
                let (said, came) = (footer.records, operations.len());
                return Err(bad(n + 1, &format!("the export had {said} records, and {came} came: lines are missing")));
            }
            whole = true;
            continue;
        }
        let line: OwnedLine = serde_json::from_slice(line)
            .map_err(|error| bad(n + 1, &format!("{} (column {})", body::fault(&error), error.column())))?;
        let key: Key = line.key.parse().map_err(|error| bad(n + 1, &error))?;
        let record = Record::decode(&key, line.value.get().as_bytes()).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            bad(n + 1, &format!("{error}: {cause}"))
        })?;
        check(&key, &record).map_err(|invalid| bad(n + 1, &format!("`{key}`: {invalid}")))?;
        if !keys.insert(key.clone()) {
            return Err(bad(n + 1, &format!("`{key}` comes twice")));
        }
        operations.push(Operation { key, action: Action::Put(Arc::new(record)) });
    }
    if !whole {
        return Err(Problem::body(
            "",
            "the export was cut short: its last line, `{\"fingerpost\":\"end\",…}`, is missing",
        ));
    }
    Ok((operations, keys))
}

/// Commits operations together, or where they have too many bytes for that, in parts.
async fn commit_some(app: &App, operations: &[Operation]) -> Result<(), CommitError> {
    let mut parts = vec![operations];
    while let Some(part) = parts.pop() {
        match app.api.store.commit(Commit { operations: part.to_vec(), ..Commit::default() }).await {
            Ok(_) => {}
            Err(CommitError::TooLarge { .. }) if part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Commits operations some at a time; `done` counts those that were committed, also where not all are.
async fn commit_all(app: &App, operations: &[Operation], done: &mut usize) -> Result<(), CommitError> {
    let mut chunks = operations.chunks(MAX_OPERATIONS);
    let mut under_way = FuturesOrdered::new();
    loop {
        while under_way.len() < IN_FLIGHT
            && let Some(chunk) = chunks.next()
        {
            under_way.push_back(commit_some(app, chunk));
        }
        let Some(answer) = under_way.next().await else { return Ok(()) };
        answer?;
        // All chunks but the last are full.
        *done = operations.len().min(*done + MAX_OPERATIONS);
    }
}

/// Bring in an export of at most 256 MiB: all its records are written, additions before removals. It is checked whole
/// before anything is changed; it is not one atomic step, and can be repeated where it broke off. One import runs at a
/// time; another is told 503 meanwhile.
#[utoipa::path(post, path = "/v1/import", tag = "operations",
    params(("replace" = Option<bool>, Query,
        description = "Remove records that the import does not have; default `false`."),
        Waiting),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, description = "All of it was written.", body = Imported),
        WriteProblems, BodyProblems, OnlyJson))]
pub(crate) async fn import(
    State(app): AppState,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut given = Params::new(query.as_deref())?;
    let replace = given.flag("replace", false)?;
    given.finish()?;
    params::loaded(&app)?;
    body::require_json(&headers)?;
    // Before the body is read: an import takes much memory.
    let turn = Arc::clone(&app.importing).try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "another import is under way; try again when it is done")
            .retry_after(5)
    })?;
    let text = body::read_patiently(body, MAX_IMPORT).await?;
    // The turn goes along: where the client leaves meanwhile, parsing goes on, and so does what it takes.
    let parsing = tokio::task::spawn_blocking(move || (parse(&text), turn));
    let (parsed, _turn) = parsing.await.map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the import can't be read; nothing was changed")
    })?;
    let (additions, keys) = parsed?;
    let mut removals = Vec::new();
    if replace {
        let mut contents = app.api.store.read_all(ReadAt::Latest).await?;
        while let Some(batch) = contents.records.recv().await {
            let absent = batch?.into_iter().filter(|stored| !keys.contains(&stored.key));
            removals.extend(absent.map(|stored| Operation { key: stored.key, action: Action::Delete }));
        }
    }
    let (mut written, mut removed) = (0, 0);
    let mut applied = commit_all(&app, &additions, &mut written).await;
    if applied.is_ok() {
        applied = commit_all(&app, &removals, &mut removed).await;
    }
    applied.map_err(|error| {
        Problem::from(error).and(format_args!(
            "at least {written} of {} records were written and {removed} of {} removed; \
             repeating the import completes it",
            additions.len(),
            removals.len(),
        ))
    })?;
    let revision = app.api.store.status().position;
    let shown = app.api.live.wait_for(revision, Duration::from_secs(60)).await;
    let imported = Imported { revision, records: written, removed };
    shown.map_err(|error| Problem::not_visible(revision, error, &imported))?;
    Ok(reply(StatusCode::OK, &imported, None))
}
