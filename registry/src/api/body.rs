//! Request bodies: bounded in size and time, strict about fields, and precise about what is wrong with them.

use super::problem::Problem;
use super::strict::Strict;
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
/// A body must have come whole within this time; a large one, its next piece.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a body of at most `limit` bytes, which must come soon.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    tokio::time::timeout(BODY_TIMEOUT, read_pieces(body, limit, BODY_TIMEOUT))
        .await
        .unwrap_or_else(|_| Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come within 30 seconds")))
}

/// Reads a body of at most `limit` bytes for as long as it keeps coming.
pub(crate) async fn read_patiently(body: Body, limit: usize) -> Result<Bytes, Problem> {
    read_pieces(body, limit, BODY_TIMEOUT).await
}

async fn read_pieces(mut body: Body, limit: usize, pause: Duration) -> Result<Bytes, Problem> {
    let stalled = |_| {
        let detail = format!("no more of the body came for {} seconds", pause.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
    };
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(frame) = tokio::time::timeout(pause, body.frame()).await.map_err(stalled)? {
        let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.as_ref().map_or(joined.len(), Bytes::len) + data.len() > limit {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body has more than the {limit} bytes allowed here"),
            ));
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

/// Reads JSON as the client sent it, refusing what the document does not know, with a pointer to the place.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    parse(bytes, true)
}

/// Reads JSON that the client did not send like this: a part of its body, or a document made from it. Lines and columns
/// would mislead there, and only the pointer is told.
pub(crate) fn json_part<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    parse(bytes, false)
}

/// What serde_json found wrong, without the place that ends its messages.
pub(crate) fn fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line").map_or(text.as_str(), |(what, _)| what).to_owned()
}

fn parse<T: DeserializeOwned>(bytes: &[u8], placed: bool) -> Result<T, Problem> {
    // A patch, which may hold anything, is no list either.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte == b'[') {
        return Err(Problem::body("", "a JSON object is needed, not a list"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let mut unknown: Option<String> = None;
    let parsed = {
        let tracked = serde_path_to_error::Deserializer::new(Strict(&mut deserializer), &mut track);
        serde_ignored::deserialize(tracked, |path| {
            unknown.get_or_insert_with(|| ignored_pointer(&path));
        })
    };
    let value: T = parsed.map_err(|error: serde_json::Error| {
        let pointer = pointer(&track.path());
        let place = match placed {
            true => format!(" (line {}, column {})", error.line(), error.column()),
            false => String::new(),
        };
        let what = fault(&error);
        match error.classify() {
            Category::Syntax => Problem::body(pointer, format!("not JSON: {what}{place}")),
            Category::Eof => Problem::body(pointer, format!("the JSON ends too early{place}")),
            Category::Data | Category::Io => Problem::body(pointer, format!("{what}{place}")),
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

    #[tokio::test]
    async fn a_slow_body_is_no_stalled_one() {
        let pause = Duration::from_secs(1);
        let pieces = |count: usize, every: Duration| {
            Body::from_stream(futures_util::stream::unfold(0, move |n| async move {
                tokio::time::sleep(every).await;
                (n < count).then(|| (Ok::<_, std::convert::Infallible>("ab"), n + 1))
            }))
        };
        let whole = read_pieces(pieces(15, pause / 10), 30, pause).await;
        assert_eq!(whole.map(|whole| whole.len()).ok(), Some(30));
        let refused = |read: Result<Bytes, Problem>| read.unwrap_err().status();
        assert_eq!(refused(read_pieces(pieces(2, pause * 2), 30, pause).await), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(refused(read_pieces(pieces(2, Duration::ZERO), 3, pause).await), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn lists_are_no_objects() {
        let cases = [
            (r#"{"ports":[["http",80,"TCP"]]}"#, "/ports/0"),
            (r#"{"conditions":[true,true,false]}"#, "/conditions"),
            (r#"{"pod":["a","b"]}"#, "/pod"),
            (r#"{"healthParts":{"reported":["passing",""]}}"#, "/healthParts/reported"),
        ];
        for (text, pointer) in cases {
            assert_eq!(refused(text).0.as_deref(), Some(pointer), "{text}");
        }
    }

    #[test]
    fn parts_have_no_lines() {
        let text = br#"{"weight":"x"}"#;
        assert!(json::<InstanceDocument>(text).unwrap_err().document().detail.contains("line 1"));
        assert!(!json_part::<InstanceDocument>(text).unwrap_err().document().detail.contains("line"));
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
