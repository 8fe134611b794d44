//! Query parameters and headers: parsed strictly, so that a mistyped one is an error and not ignored.

use super::App;
use super::problem::Problem;
use super::reading;
use crate::access::{Acting, Caller};
use crate::writes::Guard;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fingerpost_catalog::{HealthSet, Position, Selector, Source, validate_dns_label, validate_instance_id};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The parameters of a request, each to be taken once; [`Params::finish`] refuses what is left.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn new(query: Option<&str>) -> Result<Self, Problem> {
        let query = query.unwrap_or_default();
        let pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(key)?, decode(value)?))
            })
            .collect::<Result<_, Problem>>()?;
        for (n, (key, _)) in pairs.iter().enumerate() {
            if pairs.iter().take(n).any(|(earlier, _)| earlier == key) {
                return Err(Problem::parameter("query", format!("`{}` is given twice", cut(key))));
            }
        }
        Ok(Self(pairs))
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(crate) fn parse<T>(&mut self, name: &'static str) -> Result<Option<T>, Problem>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        self.take(name).map(|text| text.parse().map_err(|error| Problem::parameter(name, error))).transpose()
    }

    /// The acting source of a write, as which the caller must be allowed to act.
    pub(crate) fn acting(&mut self, caller: &Caller) -> Result<Acting, Problem> {
        Ok(caller.act_as(self.parse("source")?.unwrap_or_else(Source::api))?)
    }

    pub(crate) fn flag(&mut self, name: &'static str, default: bool) -> Result<bool, Problem> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true" | "") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(Problem::parameter(name, format!("`{}` is neither `true` nor `false`", cut(other)))),
        }
    }

    pub(crate) fn selector(&mut self) -> Result<Selector, Problem> {
        match self.take("selector") {
            None => Ok(Selector::default()),
            Some(text) => text.parse().map_err(|error| Problem::parameter("selector", error)),
        }
    }

    pub(crate) fn health(&mut self) -> Result<HealthSet, Problem> {
        Ok(self.parse("health")?.unwrap_or_default())
    }

    /// The position that a read must show; [`shown`] waits for it.
    pub(crate) fn min_revision(&mut self) -> Result<Option<Position>, Problem> {
        self.parse("minRevision")
    }

    /// Refuses parameters that nobody took.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((key, _)) => Err(Problem::parameter("query", format!("there is no parameter `{}` here", cut(&key)))),
        }
    }
}

/// How all writes of one object begin: in whose name, and what must hold of the object. Other parameters than `source`
/// are refused, and so is everything while the store's contents are not loaded.
pub(crate) struct Write {
    pub(super) app: Arc<App>,
    pub(super) acting: Acting,
    pub(super) guard: Guard,
}

impl Write {
    fn begin(app: &Arc<App>, caller: &Caller, parts: &Parts) -> Result<Self, Problem> {
        let mut given = Params::new(parts.uri.query())?;
        let acting = given.acting(caller)?;
        given.finish()?;
        let guard = guard(&parts.headers)?;
        loaded(app)?;
        Ok(Self { app: Arc::clone(app), acting, guard })
    }
}

impl FromRequestParts<Arc<App>> for Write {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, app).await?;
        Self::begin(app, &caller, parts).map_err(IntoResponse::into_response)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Percent-decoding (RFC 3986 §2.1), with `+` for a space as forms have it.
fn decode(text: &str) -> Result<String, Problem> {
    let bad = || Problem::parameter("query", "broken percent-encoding");
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16)).ok_or_else(bad);
                let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
                out.push(value as u8);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_| Problem::parameter("query", "not UTF-8"))
}

/// Waits until `?minRevision=` is shown, where it is given.
pub(crate) async fn shown(app: &App, min_revision: Option<Position>) -> Result<(), Problem> {
    reading::shown(&app.api.live, min_revision).await
}

/// Refuses reads before the store's contents are loaded.
pub(crate) fn loaded(app: &App) -> Result<(), Problem> {
    reading::loaded(&app.api.live)
}

/// The guard that a write's headers state (RFC 9110 §13.1).
pub(crate) fn guard(headers: &HeaderMap) -> Result<Guard, Problem> {
    let matching = joined(headers, &header::IF_MATCH);
    let none_matching = joined(headers, &header::IF_NONE_MATCH);
    match (matching.as_deref(), none_matching.as_deref()) {
        (None, None) => Ok(Guard::None),
        (Some("*"), None) => Ok(Guard::Present),
        (None, Some("*")) => Ok(Guard::Absent),
        (None, Some(_)) => {
            Err(Problem::parameter("If-None-Match", "only `*` is taken on writes: write unless it exists"))
        }
        (Some(list), None) => {
            let tags = strong_tags(list).ok_or_else(|| {
                Problem::parameter("If-Match", "not `*` or a list of ETags; a tag stands in double quotes")
            })?;
            let mut positions: Vec<Position> = Vec::new();
            for position in tags.into_iter().filter_map(|tag| tag.parse().ok()) {
                if !positions.contains(&position) {
                    positions.push(position);
                }
            }
            match positions.as_slice() {
                [] => Err(Problem::new(
                    StatusCode::PRECONDITION_FAILED,
                    "no tag in If-Match is one that this registry gives, so none can match",
                )),
                [position] => Ok(Guard::At(*position)),
                _ => Err(Problem::parameter("If-Match", "at most one position is taken")),
            }
        }
        (Some(_), Some(_)) => Err(Problem::parameter("If-Match", "give either If-Match or If-None-Match")),
    }
}

/// A header whose value is a list, which may stand on several lines (RFC 9110 §5.3).
fn joined(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    let mut lines = headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let mut whole = lines.next()?.trim().to_owned();
    for line in lines {
        whole.push(',');
        whole.push_str(line.trim());
    }
    Some(whole)
}

/// The tags of an `If-Match` list without the weak ones, which never match there (RFC 9110 §13.1.1); none where its
/// syntax is broken. Empty elements are allowed (RFC 9110 §5.6.1.2).
fn strong_tags(list: &str) -> Option<Vec<&str>> {
    let blank = [' ', '\t', ','];
    let mut tags = Vec::new();
    let mut rest = list.trim_start_matches(blank);
    loop {
        let weak = rest.strip_prefix("W/");
        let (tag, after) = weak.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        if tag.contains(|c: char| c <= ' ' || c == '\x7f') {
            return None;
        }
        if weak.is_none() {
            tags.push(tag);
        }
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches(blank);
        if rest.is_empty() {
            return Some(tags);
        }
    }
}

/// A position as an ETag.
pub(crate) fn etag(position: Position) -> HeaderValue {
    // Hexadecimal digits, a dash and decimal digits are valid in a header.
    HeaderValue::from_str(&format!("\"{position}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// The parts of the path; one that can't be taken is a problem like any other.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let taken = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        taken
            .map(|axum::extract::Path(parts)| Self(parts))
            .map_err(|rejection| Problem::parameter("path", rejection.body_text()))
    }
}

/// A namespace in the path.
pub(crate) fn namespace(name: &str) -> Result<(), Problem> {
    validate_dns_label(name).map_err(|error| Problem::parameter("namespace", format!("`{}`: {error}", cut(name))))
}

/// A service in the path.
pub(crate) fn service(name: &str) -> Result<(), Problem> {
    validate_dns_label(name).map_err(|error| Problem::parameter("service", format!("`{}`: {error}", cut(name))))
}

/// An instance's id in the path.
pub(crate) fn id(id: &str) -> Result<(), Problem> {
    validate_instance_id(id).map_err(|error| Problem::parameter("id", format!("`{}`: {error}", cut(id))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let mut params = Params::new(Some("selector=a%3Db%2Cc&x=1+2")).unwrap();
        assert_eq!(params.take("selector").as_deref(), Some("a=b,c"));
        assert_eq!(params.take("x").as_deref(), Some("1 2"));
        assert!(params.finish().is_ok());
        assert!(Params::new(Some("a=%zz")).is_err());
        assert!(Params::new(Some("a=%ff")).is_err());
        assert!(Params::new(Some("a=1&a=2")).is_err());
        assert!(Params::new(Some("a=1")).unwrap().finish().is_err());
    }

    #[test]
    fn tags_of_if_match() {
        assert_eq!(strong_tags(r#""a""#), Some(vec!["a"]));
        assert_eq!(strong_tags(r#" ,"a,b" , W/"c",,"", "#), Some(vec!["a,b", ""]));
        for broken in ["", "a", r#""a"#, r#""a""b""#, r#""a b""#, r#"w/"a""#, r#"*,"a""#] {
            assert_eq!(strong_tags(broken), None, "{broken}");
        }
    }
}
