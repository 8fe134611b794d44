//! Errors as the runtime wants them: a code, a message and details, in JSON on standard output (SPEC §5, "Error").

use serde_json::json;

/// What a code means (SPEC §5; those of the reference library have its names).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// 1: the configuration's version is none that this plugin speaks, or does not have the operation.
    IncompatibleVersion,
    /// 4: an environment variable is missing or wrong; the message names it.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: the configuration can't be decoded.
    Decode,
    /// 7: the configuration is decoded, and wrong.
    InvalidConfig,
    /// 11: the same may work later.
    TryAgainLater,
    /// 50: the plugin can't serve ADD now.
    NotAvailable,
}

impl Code {
    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
        }
    }
}

/// A failed operation.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// What kind of failure.
    pub code: Code,
    /// What failed, in a line.
    pub message: String,
    /// More, where there is more to say; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// The same with details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// As it is printed. The version is that of the configuration, where that is known.
    pub fn document(&self, version: &str) -> String {
        let mut document = json!({ "cniVersion": version, "code": self.code.number(), "msg": self.message });
        if !self.details.is_empty() {
            document["details"] = self.details.as_str().into();
        }
        document.to_string()
    }
}
