//! Labels: small maps of text by which users group and select objects, with Kubernetes' syntax.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most labels that one object may carry.
pub const MAX_LABELS: usize = 64;

/// An object's labels, sorted by key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Labels(pub BTreeMap<String, String>);

/// Labels that break Kubernetes' syntax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Too many of them.
    #[error("{0} labels, and at most {MAX_LABELS} are allowed")]
    TooMany(usize),
    /// A key that is not `[prefix/]name`.
    #[error(
        "label key `{0}`: a key is a name of 1 to 63 letters, digits, '-', '_' and '.', beginning and ending with a letter \
         or digit, with an optional DNS subdomain and '/' before it"
    )]
    Key(String),
    /// A value that Kubernetes would refuse.
    #[error(
        "value `{value}` of label `{key}`: a value is empty or has at most 63 letters, digits, '-', '_' and '.', \
         beginning and ending with a letter or digit"
    )]
    Value {
        /// The label's key.
        key: String,
        /// What was given, cut to a readable length.
        value: String,
    },
}

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All labels, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Checks keys, values and their number.
    pub fn validate(&self) -> Result<(), LabelError> {
        if self.0.len() > MAX_LABELS {
            return Err(LabelError::TooMany(self.0.len()));
        }
        for (key, value) in &self.0 {
            if !is_label_key(key) {
                return Err(LabelError::Key(key.chars().take(80).collect()));
            }
            if !is_label_value(value) {
                return Err(LabelError::Value { key: key.clone(), value: value.chars().take(80).collect() });
            }
        }
        Ok(())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// The part of a key after its prefix, and a value that is not empty: Kubernetes' "qualified name".
fn is_name(text: &str) -> bool {
    let edge = |c: &u8| c.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Whether Kubernetes would take this as a label's key.
pub(crate) fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_name(text),
        Some((prefix, name)) => {
            prefix.len() <= 253
                && prefix.split('.').all(|label| crate::validate_dns_label(label).is_ok())
                && is_name(name)
        }
    }
}

/// Whether Kubernetes would take this as a label's value.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_syntax() {
        for good in ["app", "app.kubernetes.io/name", "A_b.C-9"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "Upper.case/x", &"a".repeat(64), "a b"] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_3") && !is_label_value("-x") && !is_label_value("a/b"));
    }

    #[test]
    fn refuses_too_many() {
        let labels: Labels = (0..=MAX_LABELS).map(|n| (format!("k{n}"), "")).collect();
        assert_eq!(labels.validate(), Err(LabelError::TooMany(MAX_LABELS + 1)));
    }
}
