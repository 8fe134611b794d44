//! What each route needs of its caller.
//!
//! The rules look at the route that the router chose, never at the path as it was written: so there is no spelling of a
//! path that is one thing here and another there.

use axum::http::Method;

/// What a route needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Nothing: it tells no more than that the server is there and which version it is.
    Public,
    /// Any role.
    Read,
    /// A role that may write.
    Write,
    /// An administrator.
    Admin,
    /// Another replica of this registry.
    Peer,
}

/// Most segments of a route that are looked at; a longer one fits no rule.
const SEGMENTS: usize = 12;

/// The need of a route, by its template such as `/v1/namespaces/{namespace}`. None where no rule names it: then it is for
/// administrators alone.
pub fn rule(method: &Method, template: &str) -> Option<Need> {
    use Need::{Admin, Peer, Public, Read, Write};
    let mut segments = [""; SEGMENTS];
    let mut count = 0;
    for segment in template.strip_prefix('/')?.split('/') {
        *segments.get_mut(count)? = if segment.starts_with('{') { "*" } else { segment };
        count += 1;
    }
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    Some(match (method, segments.get(..count)?) {
        ("GET", ["livez" | "readyz" | "version" | "docs" | "openapi.json"]) => Public,
        ("GET", ["metrics"]) => Read,
        (_, ["v1", "peer", ..]) => Peer,
        (method, ["v1", path @ ..]) => match (method, path) {
            ("GET", ["export"]) => Admin,
            ("POST", ["import" | "migrate"]) => Admin,

            ("GET", ["explain" | "status" | "services" | "instances" | "sources"]) => Read,
            ("GET" | "POST", ["watch"]) | ("PATCH", ["watch", "*"]) => Read,
            // A follower only says what it shows.
            ("POST", ["followers", "*"]) => Read,
            ("POST", ["batch"]) => Write,
            ("DELETE", ["sources", "*"]) => Admin,

            ("GET", ["sessions"] | ["sessions", "*"]) => Read,
            ("POST", ["sessions"] | ["sessions", "renew"]) | ("DELETE", ["sessions", "*"]) => Write,

            ("GET", ["namespaces"] | ["namespaces", "*"]) => Read,
            ("PUT" | "DELETE", ["namespaces", "*"]) => Write,
            (method, ["namespaces", "*", within @ ..]) => match (method, within) {
                ("GET", ["services"] | ["services", "*"]) => Read,
                ("PUT" | "DELETE", ["services", "*"]) => Write,
                // The same for instances of a service and of none.
                (method, ["services", "*", "instances", rest @ ..] | ["instances", rest @ ..]) => {
                    match (method, rest) {
                        ("GET", [] | ["*"] | ["*", "history"]) => Read,
                        ("PUT", []) => Write,
                        ("PUT" | "PATCH" | "DELETE", ["*"]) => Write,
                        ("PUT", ["*", "health"] | ["*", "checks", "*"]) => Write,
                        ("PUT" | "DELETE", ["*", "drain"]) => Write,
                        _ => return None,
                    }
                }
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    })
}

/// The need of a request. `template` is that of the route that the router chose; where it chose none, there is nothing
/// but the news that there is nothing, which is for callers only.
pub fn need(method: &Method, template: Option<&str>) -> Need {
    match template {
        Some(template) => rule(method, template).unwrap_or(Need::Admin),
        None => Need::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::openapi::path::PathItem;

    fn operations(item: &PathItem) -> Vec<(Method, bool)> {
        [
            (Method::GET, item.get.is_some()),
            (Method::PUT, item.put.is_some()),
            (Method::POST, item.post.is_some()),
            (Method::PATCH, item.patch.is_some()),
            (Method::DELETE, item.delete.is_some()),
            (Method::HEAD, item.head.is_some()),
            (Method::OPTIONS, item.options.is_some()),
            (Method::TRACE, item.trace.is_some()),
        ]
        .into()
    }

    /// A new route without a rule is for administrators alone, which is safe; but somebody has to decide.
    #[test]
    fn every_route_has_a_rule() {
        let openapi = crate::api::openapi();
        let mut count = 0;
        for (path, item) in &openapi.paths.paths {
            for (method, _) in operations(item).into_iter().filter(|(_, exists)| *exists) {
                let rule = rule(&method, path);
                assert!(rule.is_some(), "no rule in access/routes.rs for {method} {path}");
                // What changes something must not be open to readers; watches are opened and changed by readers, and
                // followers are readers.
                let of_readers = path.starts_with("/v1/watch") || path.starts_with("/v1/followers/");
                if !matches!(method, Method::GET | Method::HEAD) && !of_readers {
                    assert!(!matches!(rule, Some(Need::Public | Need::Read)), "{method} {path}: {rule:?}");
                }
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn what_is_not_named_is_for_administrators() {
        let need = |method: Method, template: &str| need(&method, Some(template));
        assert_eq!(need(Method::GET, "/v1/export"), Need::Admin);
        assert_eq!(need(Method::GET, "/v1/secrets"), Need::Admin);
        assert_eq!(need(Method::DELETE, "/livez"), Need::Admin);
        assert_eq!(need(Method::OPTIONS, "/v1/namespaces"), Need::Admin);
        assert_eq!(need(Method::GET, &"/a".repeat(40)), Need::Admin);
        assert_eq!(need(Method::GET, "/v1/peer/anything/at/all"), Need::Peer);
        assert_eq!(need(Method::POST, "/v1/peer/renew"), Need::Peer);
        assert_eq!(need(Method::HEAD, "/v1/status"), Need::Read);
        assert_eq!(super::need(&Method::GET, None), Need::Read);
    }
}
