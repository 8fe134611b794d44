//! The versions of the specification.

use serde_json::json;
use std::fmt;

/// A version of the specification that a configuration may have here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// 0.3.0
    V030,
    /// 0.3.1
    V031,
    /// 0.4.0: CHECK, and `prevResult` on DEL.
    V040,
    /// 1.0.0: results without `ips[].version`.
    V100,
    /// 1.1.0: STATUS and GC.
    V110,
}

/// Results of one form, whatever their version says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// 0.1.0 and 0.2.0: `ip4` and `ip6`.
    Single,
    /// 0.3.0 to 0.4.0: `ips` that say their `version`.
    Versioned,
    /// From 1.0.0 on.
    Plain,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 5] = [Self::V030, Self::V031, Self::V040, Self::V100, Self::V110];

    /// As it stands in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    /// The version of this name.
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The form of its results.
    pub fn form(self) -> Form {
        if self < Self::V100 { Form::Versioned } else { Form::Plain }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reply to VERSION (SPEC §2, "VERSION").
pub fn reply() -> String {
    json!({ "cniVersion": Version::V110.as_str(), "supportedVersions": Version::ALL.map(Version::as_str) }).to_string()
}
