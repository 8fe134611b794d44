//! Request bodies: bounded in size and time, strict about fields, and precise about what is wrong with them.

use super::problem::Problem;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::time::Duration;

/// Largest body of a call that writes one thing.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// Largest body of a call that writes many things.
pub(crate) const MAX_LARGE_BODY: usize = 16 << 20;
/// A body must have come whole within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than the {limit} bytes allowed here"))
    };
    let reading = async {
        let mut body = body;
        let mut whole: Option<Bytes> = None;
        let mut joined = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.as_ref().map_or(joined.len(), Bytes::len) + data.len() > limit {
                return Err(too_large());
            }
            // Most bodies come in one piece and need no copy.
            match whole.take() {
                None if joined.is_empty() => whole = Some(data),
                None => joined.extend_from_slice(&data),
                Some(first) => {
                    joined.extend_from_slice(&first);
                    joined.extend_from_slice(&data);
                }
            }
        }
        Ok(whole.unwrap_or_else(|| joined.freeze()))
    };
    tokio::time::timeout(BODY_TIMEOUT, reading)
        .await
        .unwrap_or_else(|_| Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come within 30 seconds")))
}

/// Refuses bodies that a web page could send unasked: a browser lets any page post forms and plain text anywhere.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json")
        || essence.ends_with("+json")
        || essence == "application/x-ndjson"
    {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("the content type is `{given}`; send `Content-Type: application/json`"),
    ))
}

/// Reads JSON, refusing what the document does not know, with a pointer to the place.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take a list for an object, its fields in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte == b'[') {
        return Err(Problem::body("", "a JSON object is needed, not a list"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let mut unknown: Option<String> = None;
    let parsed = {
        let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
        serde_ignored::deserialize(tracked, |path| {
            unknown.get_or_insert_with(|| ignored_pointer(&path));
        })
    };
    let value: T = parsed.map_err(|error: serde_json::Error| {
        let pointer = pointer(&track.path());
        let place = format!("line {}, column {}", error.line(), error.column());
        let text = error.to_string();
        // serde_json ends its messages with the place; it is said once, in words.
        let what = text.rsplit_once(" at line").map_or(text.as_str(), |(what, _)| what);
        match error.classify() {
            Category::Syntax => Problem::body(pointer, format!("not JSON: {what} ({place})")),
            Category::Eof => Problem::body(pointer, format!("the JSON ends too early ({place})")),
            Category::Data | Category::Io => Problem::body(pointer, format!("{what} ({place})")),
        }
    })?;
    deserializer.end().map_err(|error| Problem::body("", format!("more than one JSON value: {error}")))?;
    match unknown {
        None => Ok(value),
        Some(pointer) => {
            let detail = format!("there is no field `{}` here", pointer.rsplit('/').next().unwrap_or_default());
            Err(Problem::body(pointer, detail))
        }
    }
}

fn escape(segment: &str) -> String {
    segment.replace('~', "~0").replace('/', "~1")
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("/{index}")),
            Segment::Map { key } => out.push_str(&format!("/{}", escape(key))),
            // Which variant of an enum was read is no place in the document.
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    out
}

fn ignored_pointer(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}/{index}", ignored_pointer(parent)),
        Path::Map { parent, key } => format!("{}/{}", ignored_pointer(parent), escape(key)),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_pointer(parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::document::InstanceDocument;

    fn refused(text: &str) -> (Option<String>, String) {
        let problem = json::<InstanceDocument>(text.as_bytes()).unwrap_err().document();
        (problem.pointer, problem.detail)
    }

    #[test]
    fn says_where() {
        assert_eq!(refused(r#"{"addresses":["10.0.0.1","x"]}"#).0.as_deref(), Some("/addresses/1"));
        assert_eq!(refused(r#"{"prots":[]}"#).0.as_deref(), Some("/prots"));
        assert_eq!(refused(r#"{"ports":[{"port":1,"nme":"x"}]}"#).0.as_deref(), Some("/ports/0/nme"));
        assert_eq!(refused(r#"{"ports":[{"port":70000}]}"#).0.as_deref(), Some("/ports/0/port"));
        assert_eq!(refused(r#"{"labels":{"a/b":1}}"#).0.as_deref(), Some("/labels/a~1b"));
        assert!(refused("{").1.contains("ends too early"));
        assert!(refused("{} {}").1.contains("more than one"));
        assert!(refused(&format!(r#"{{"x":{}{}}}"#, "[".repeat(5000), "]".repeat(5000))).1.contains("no field"));
    }
}
