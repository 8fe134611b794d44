//! Checks: how the health of an instance is to be found out, as its service or the instance itself declares it.
//!
//! A declaration says what to ask, how often, and how many answers it takes to change one's mind. What came of it is a
//! [`CheckResult`](crate::CheckResult), a record of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How a check finds out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CheckType {
    /// An HTTP request.
    #[default]
    Http,
    /// An HTTP request over TLS.
    Https,
    /// A TCP connection can be made.
    Tcp,
    /// The gRPC health protocol, `grpc.health.v1`.
    Grpc,
    /// A DNS query is answered.
    Dns,
    /// Nobody asks: the instance, or who looks after it, reports in time.
    Ttl,
}

impl CheckType {
    /// All types.
    pub const ALL: [CheckType; 6] =
        [CheckType::Http, CheckType::Https, CheckType::Tcp, CheckType::Grpc, CheckType::Dns, CheckType::Ttl];

    /// The type's name in requests and replies.
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckType::Http => "http",
            CheckType::Https => "https",
            CheckType::Tcp => "tcp",
            CheckType::Grpc => "grpc",
            CheckType::Dns => "dns",
            CheckType::Ttl => "ttl",
        }
    }

    /// Whether the registry connects to the instance.
    pub fn is_probe(self) -> bool {
        self != CheckType::Ttl
    }
}

impl std::fmt::Display for CheckType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A port by its number or by the name that the instance or its service gives it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CheckPort {
    /// 1 to 65535.
    Number(u16),
    /// Of one of the instance's ports.
    Name(String),
}

/// How an HTTP check asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CheckMethod {
    /// For the whole, of which the first 4 KiB are read.
    #[default]
    Get,
    /// For the head alone.
    Head,
}

/// How a check over TLS identifies its peer.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CheckTls {
    /// The name that the certificate must be for; default: the `host`, else the instance's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Take any certificate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skip_verify: bool,
}

/// A check of instances. Fields that its type does not use are refused.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Check {
    /// A DNS label, unique in its list. An instance's check takes the place of its service's of the same name.
    pub name: String,
    /// How it finds out.
    #[serde(rename = "type")]
    pub check_type: CheckType,
    /// Where to ask; default: the instance's first port (DNS: 53 where it has none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<CheckPort>,
    /// Seconds from one run to the next, 1 to 86400; default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<u32>,
    /// Seconds that a run may take, at most 60 and at most the interval; default 2, or the interval where that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Consecutive results, 1 to 100, that it takes to change for the better; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successes: Option<u32>,
    /// Consecutive results, 1 to 100, that it takes to change for the worse; default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// `http`, `https`: default `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<CheckMethod>,
    /// `http`, `https`: with the query, if any; default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`, `https`: the Host header; default: the address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `http`, `https`: further headers, at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// `http`, `https`: the statuses that are passing, at most 32; all others are critical then. Default: 200 to 299 are
    /// passing, 429 is a warning, all others are critical.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<u16>,
    /// `grpc`: the service to ask for; default: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `dns`: the name to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// `dns`: the type of record to ask for; default `A`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_type: Option<String>,
    /// `ttl`: seconds after a report until it is overdue, 1 to 86400; default 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// `https`, and `grpc` where it is over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<CheckTls>,
    /// Fields written by a newer version, kept as they are.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub unknown: Map<String, Value>,
}

impl Check {
    /// Longest timeout in seconds: a run takes one of a bounded number of places, and who never answers must not keep it.
    pub const MAX_TIMEOUT: u32 = 60;

    /// Seconds from one run to the next.
    pub fn interval(&self) -> u32 {
        self.interval_seconds.unwrap_or(10).max(1)
    }

    /// Seconds that a run may take, whatever another version, or another writer, has stored.
    pub fn timeout(&self) -> u32 {
        self.timeout_seconds.unwrap_or(2).clamp(1, self.interval().min(Self::MAX_TIMEOUT))
    }

    /// Consecutive results that it takes to change for the better.
    pub fn successes(&self) -> u32 {
        self.successes.unwrap_or(1).max(1)
    }

    /// Consecutive results that it takes to change for the worse.
    pub fn failures(&self) -> u32 {
        self.failures.unwrap_or(2).max(1)
    }

    /// Seconds after which a report is overdue.
    pub fn ttl(&self) -> u32 {
        self.ttl_seconds.unwrap_or(30).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_timeouts_are_kept_within_bounds() {
        let timeout = |timeout_seconds, interval_seconds| {
            Check { timeout_seconds, interval_seconds, ..Check::default() }.timeout()
        };
        assert_eq!(timeout(None, None), 2);
        assert_eq!(timeout(None, Some(1)), 1);
        assert_eq!(timeout(Some(0), None), 1);
        assert_eq!(timeout(Some(30), Some(20)), 20);
        assert_eq!(timeout(Some(3600), Some(86_400)), 60);
    }
}
