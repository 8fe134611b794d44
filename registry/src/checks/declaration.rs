//! Which declarations of checks are taken.

use super::probes::record_type;
use super::target::TargetRules;
use crate::validate::Invalid;
use fingerpost_catalog::{Check, CheckPort, CheckType, validate_dns_label, validate_domain_name, validate_text};
use std::net::IpAddr;

/// Most checks of a service or instance.
pub const MAX_CHECKS: usize = 16;
/// Longest interval or TTL in seconds: a day.
const MAX_SECONDS: u32 = 86_400;
/// Most results in a row that a change may need.
const MAX_RESULTS: u32 = 100;
/// Most headers, and most expected statuses.
const MAX_LISTED: usize = 32;
/// Longest path.
const MAX_PATH: usize = 2048;
/// Longest value of a header.
const MAX_HEADER: usize = 1024;

/// Judges the checks of a service or of an instance.
pub fn validate(checks: &[Check]) -> Result<(), Invalid> {
    if checks.len() > MAX_CHECKS {
        return Err(Invalid::new("/checks", format!("{} checks, and at most {MAX_CHECKS} are allowed", checks.len())));
    }
    for (n, check) in checks.iter().enumerate() {
        one(check).map_err(|invalid| invalid.below(&format!("/checks/{n}")))?;
        if checks.iter().take(n).any(|earlier| earlier.name == check.name) {
            return Err(Invalid::new(
                format!("/checks/{n}/name"),
                format!("two checks have the name `{}`", check.name),
            ));
        }
    }
    Ok(())
}

/// Refuses checks that can only ever be refused when they run: the instance is where nothing may be checked.
pub fn validate_target(checks: &[Check], addresses: &[IpAddr], rules: &TargetRules) -> Result<(), Invalid> {
    let probe = checks.iter().position(|check| check.check_type.is_probe());
    match (probe, addresses.first().and_then(|address| rules.refuse(*address))) {
        (Some(n), Some(refusal)) => Err(Invalid::new(format!("/checks/{n}"), refusal)),
        _ => Ok(()),
    }
}

fn one(check: &Check) -> Result<(), Invalid> {
    if let Some(field) = check.unknown.keys().next() {
        return Err(Invalid::new(format!("/{field}"), format!("there is no field `{field}` here")));
    }
    validate_dns_label(&check.name).map_err(|error| Invalid::new("/name", error))?;
    unused_fields(check)?;
    match &check.port {
        Some(CheckPort::Number(0)) => return Err(Invalid::new("/port", "port 0 can't be connected to")),
        Some(CheckPort::Name(name)) => validate_dns_label(name).map_err(|error| Invalid::new("/port", error))?,
        Some(CheckPort::Number(_)) | None => {}
    }
    for (field, value, most) in [
        ("/intervalSeconds", check.interval_seconds, MAX_SECONDS),
        ("/timeoutSeconds", check.timeout_seconds, Check::MAX_TIMEOUT),
        ("/ttlSeconds", check.ttl_seconds, MAX_SECONDS),
        ("/successes", check.successes, MAX_RESULTS),
        ("/failures", check.failures, MAX_RESULTS),
    ] {
        if let Some(value) = value
            && !(1..=most).contains(&value)
        {
            return Err(Invalid::new(field, format!("{value} is not between 1 and {most}")));
        }
    }
    if let Some(timeout) = check.timeout_seconds
        && timeout > check.interval()
    {
        let detail = format!("{timeout} seconds are longer than the interval of {} seconds", check.interval());
        return Err(Invalid::new("/timeoutSeconds", detail));
    }
    http_fields(check)?;
    if let Some(service) = &check.service {
        validate_text(service, 253).map_err(|error| Invalid::new("/service", error))?;
    }
    if check.check_type == CheckType::Dns {
        match &check.query {
            None => return Err(Invalid::new("/query", "a DNS check needs a name to ask for")),
            Some(name) => validate_domain_name(name).map_err(|error| Invalid::new("/query", error))?,
        }
        record_type(check.record_type.as_deref()).map_err(|error| Invalid::new("/recordType", error))?;
    }
    if let Some(name) = check.tls.as_ref().and_then(|tls| tls.server_name.as_deref())
        && name.parse::<IpAddr>().is_err()
    {
        validate_domain_name(name).map_err(|error| Invalid::new("/tls/serverName", error))?;
    }
    Ok(())
}

/// A field that a check's type does not use is a mistake about what it does.
fn unused_fields(check: &Check) -> Result<(), Invalid> {
    use CheckType::{Dns, Grpc, Http, Https, Tcp};
    let http: &[CheckType] = &[Http, Https];
    let probes: &[CheckType] = &[Http, Https, Tcp, Grpc, Dns];
    for (field, given, types) in [
        ("port", check.port.is_some(), probes),
        ("intervalSeconds", check.interval_seconds.is_some(), probes),
        ("timeoutSeconds", check.timeout_seconds.is_some(), probes),
        ("successes", check.successes.is_some(), probes),
        ("failures", check.failures.is_some(), probes),
        ("method", check.method.is_some(), http),
        ("path", check.path.is_some(), http),
        ("host", check.host.is_some(), http),
        ("headers", !check.headers.is_empty(), http),
        ("expect", !check.expect.is_empty(), http),
        ("service", check.service.is_some(), &[Grpc]),
        ("query", check.query.is_some(), &[Dns]),
        ("recordType", check.record_type.is_some(), &[Dns]),
        ("ttlSeconds", check.ttl_seconds.is_some(), &[CheckType::Ttl]),
        ("tls", check.tls.is_some(), &[Https, Grpc]),
    ] {
        if given && !types.contains(&check.check_type) {
            let detail = format!("a check of type `{}` has no use for `{field}`", check.check_type);
            return Err(Invalid::new(format!("/{field}"), detail));
        }
    }
    Ok(())
}

fn http_fields(check: &Check) -> Result<(), Invalid> {
    // Whatever is sent is one line of a request: no spaces in a path, and no control characters anywhere.
    if let Some(path) = &check.path {
        let fine = path.starts_with('/') && path.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
        if !fine {
            let detail =
                "not the path of a request: it begins with `/`, and has neither spaces, `#` nor anything beyond ASCII";
            return Err(Invalid::new("/path", detail));
        }
        if path.len() > MAX_PATH {
            return Err(Invalid::new("/path", format!("{} bytes, and at most {MAX_PATH} are allowed", path.len())));
        }
    }
    if let Some(host) = &check.host {
        let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        if host.is_empty() || host.len() > 260 || !host.bytes().all(fine) {
            return Err(Invalid::new("/host", "not a host: write a name or an address, and perhaps a port"));
        }
    }
    if check.headers.len() > MAX_LISTED || check.expect.len() > MAX_LISTED {
        let field = if check.headers.len() > MAX_LISTED { "/headers" } else { "/expect" };
        return Err(Invalid::new(field, format!("at most {MAX_LISTED} are allowed")));
    }
    for (name, value) in &check.headers {
        let refuse = |detail: &str| {
            let pointer = name.replace('~', "~0").replace('/', "~1");
            Err(Invalid::new(format!("/headers/{pointer}"), detail))
        };
        // RFC 9110 §5.6.2
        let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(is_token) {
            return refuse("not the name of a header");
        }
        // RFC 9110 §11.6.2, §11.7.2; RFC 6265 §5.4
        if ["authorization", "proxy-authorization", "cookie"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return refuse(
                "it would hold a secret, and every reader of the registry sees what a check declares: let the \
                 instance answer the check without, or report to a check of type `ttl`",
            );
        }
        // These decide where a request ends.
        let framing =
            ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "expect"];
        if framing.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return refuse("this header is not a check's to set; a host goes into `host`");
        }
        if value.len() > MAX_HEADER || !value.bytes().all(|c| c == b'\t' || (b' '..=b'~').contains(&c)) {
            return refuse("a header's value has printable ASCII only, and at most 1024 bytes of it");
        }
    }
    if let Some(n) = check.expect.iter().position(|status| !(100..=599).contains(status)) {
        return Err(Invalid::new(format!("/expect/{n}"), "not a status: they are 100 to 599"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(check: serde_json::Value) -> Option<String> {
        let mut whole = json!({"name": "up", "type": "http"});
        for (field, value) in check.as_object().unwrap() {
            whole[field] = value.clone();
        }
        validate(&[serde_json::from_value(whole).unwrap()]).err().map(|invalid| invalid.pointer)
    }

    #[test]
    fn checks_are_refused_by_field() {
        for (check, pointer) in [
            (json!({"name": "Up"}), "/checks/0/name"),
            (json!({"intervl": 3}), "/checks/0/intervl"),
            (json!({"port": 0}), "/checks/0/port"),
            (json!({"port": "Web"}), "/checks/0/port"),
            (json!({"intervalSeconds": 0}), "/checks/0/intervalSeconds"),
            (json!({"intervalSeconds": 86_401}), "/checks/0/intervalSeconds"),
            (json!({"timeoutSeconds": 11}), "/checks/0/timeoutSeconds"),
            (json!({"intervalSeconds": 86_400, "timeoutSeconds": 61}), "/checks/0/timeoutSeconds"),
            (json!({"intervalSeconds": 1, "timeoutSeconds": 2}), "/checks/0/timeoutSeconds"),
            (json!({"failures": 101}), "/checks/0/failures"),
            (json!({"successes": 0}), "/checks/0/successes"),
            (json!({"path": "up"}), "/checks/0/path"),
            (json!({"path": "/a b"}), "/checks/0/path"),
            (json!({"path": "/\r\nx: y"}), "/checks/0/path"),
            (json!({"host": "a\r\nb"}), "/checks/0/host"),
            (json!({"headers": {"a b": "c"}}), "/checks/0/headers/a b"),
            (json!({"headers": {"x": "a\r\nb: c"}}), "/checks/0/headers/x"),
            (json!({"headers": {"Content-Length": "3"}}), "/checks/0/headers/Content-Length"),
            (json!({"headers": {"authorization": "Bearer x"}}), "/checks/0/headers/authorization"),
            (json!({"expect": [99]}), "/checks/0/expect/0"),
            (json!({"ttlSeconds": 3}), "/checks/0/ttlSeconds"),
            (json!({"tls": {}}), "/checks/0/tls"),
            (json!({"type": "https", "tls": {"serverName": "a b"}}), "/checks/0/tls/serverName"),
            (json!({"type": "tcp", "path": "/"}), "/checks/0/path"),
            (json!({"type": "dns"}), "/checks/0/query"),
            (json!({"type": "dns", "query": "a.b", "recordType": "AXFR"}), "/checks/0/recordType"),
            (json!({"type": "ttl", "failures": 2}), "/checks/0/failures"),
            (json!({"type": "ttl", "ttlSeconds": 0}), "/checks/0/ttlSeconds"),
            (json!({"type": "grpc", "service": "a\nb"}), "/checks/0/service"),
        ] {
            assert_eq!(refused(check.clone()).as_deref(), Some(pointer), "{check}");
        }
        for check in [
            json!({}),
            json!({"intervalSeconds": 1}),
            json!({"intervalSeconds": 86_400, "timeoutSeconds": 60}),
            json!({"path": "/up?deep=1", "host": "web.example:8080", "headers": {"Accept": "*/*"}, "expect": [200, 204]}),
            json!({"type": "https", "tls": {"serverName": "10.0.0.1", "skipVerify": true}}),
            json!({"type": "dns", "query": "web.example.", "recordType": "aaaa"}),
            json!({"type": "ttl", "ttlSeconds": 5}),
        ] {
            assert_eq!(refused(check.clone()), None, "{check}");
        }
        let twice: Vec<Check> = (0..2).map(|_| Check { name: "up".into(), ..Check::default() }).collect();
        assert_eq!(validate(&twice).unwrap_err().pointer, "/checks/1/name");
        let many: Vec<Check> = (0..17).map(|n| Check { name: format!("c{n}"), ..Check::default() }).collect();
        assert_eq!(validate(&many).unwrap_err().pointer, "/checks");
    }

    #[test]
    fn targets_that_are_plainly_wrong() {
        let rules = TargetRules::default();
        let (probe, ttl) = (
            Check { name: "up".into(), ..Check::default() },
            Check { name: "alive".into(), check_type: CheckType::Ttl, ..Check::default() },
        );
        let at = |address: &str| [address.parse().unwrap()];
        assert!(validate_target(&[ttl.clone(), probe.clone()], &at("10.0.0.1"), &rules).is_ok());
        assert!(validate_target(std::slice::from_ref(&ttl), &at("169.254.169.254"), &rules).is_ok());
        let refused = validate_target(&[ttl, probe], &at("169.254.169.254"), &rules).unwrap_err();
        assert_eq!(refused.pointer, "/checks/1");
        assert!(refused.detail.contains("--check-allow"), "{}", refused.detail);
    }
}
