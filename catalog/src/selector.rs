//! Label selectors: how users say which objects they mean, in Kubernetes' grammar and with its semantics.
//!
//! `app=web,tier!=cache,zone in (a,b),stage notin (dev),owner,!legacy,generation>3` means that all of the requirements
//! hold. As in Kubernetes, `!=` and `notin` also hold where the key is absent, an empty value is a value, and the empty
//! selector selects everything. The parser follows the steps of apimachinery's `labels.Parse`, so that even odd texts
//! (`x in (,a)`, a key named `in`) mean the same here; one that Kubernetes refuses is refused here. The only text that
//! is refused here alone is one with a NUL in it, which Kubernetes' lexer takes for the end.

use crate::labels::{Labels, is_label_key, is_label_value};
use std::fmt;
use std::str::FromStr;

mod parser;

/// Most bytes that a selector's text may have.
pub(crate) const MAX_SELECTOR_LENGTH: usize = 4096;
/// Most requirements that a selector may have.
pub(crate) const MAX_REQUIREMENTS: usize = 64;
/// Most values that one requirement may list.
pub(crate) const MAX_VALUES: usize = 512;

/// A conjunction of requirements on an object's labels. The default selects everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Selector {
    /// Sorted, so that selectors which differ only in order are equal and print alike.
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted and without duplicates.
    values: Vec<String>,
}

/// How a requirement compares a label with its values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Operator {
    /// `key=value` or `key==value`: present with this value.
    Equals,
    /// `key!=value`: absent, or with another value.
    NotEquals,
    /// `key in (a,b)`: present with one of these values.
    In,
    /// `key notin (a,b)`: absent, or with none of these values.
    NotIn,
    /// `key`: present.
    Exists,
    /// `!key`: absent.
    DoesNotExist,
    /// `key>1`: present with a greater integer.
    GreaterThan,
    /// `key<1`: present with a smaller integer.
    LessThan,
}

impl Requirement {
    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How the label is compared.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it is compared with: exactly one value for `=`, `!=`, `>` and `<`, at least one for `in` and `notin`, none
    /// for the others.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether an object whose label of this key has this value (none: lacks it) meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(|value| self.has_value(value)),
            Operator::NotEquals | Operator::NotIn => value.is_none_or(|value| !self.has_value(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value).is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => self.compare(value).is_some_and(|(value, bound)| value < bound),
        }
    }

    /// The bound of `>` and `<`.
    pub(crate) fn bound(&self) -> Option<i64> {
        self.values.first().and_then(|text| text.parse().ok())
    }

    fn has_value(&self, value: &str) -> bool {
        self.values.binary_search_by(|own| own.as_str().cmp(value)).is_ok()
    }

    /// The label's number and the requirement's; none where the label is no integer: such a label meets neither `>`
    /// nor `<`.
    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.bound()?))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, first) = (&self.key, self.values.first().map(String::as_str).unwrap_or_default());
        match self.operator {
            Operator::Equals => write!(f, "{key}={first}"),
            Operator::NotEquals => write!(f, "{key}!={first}"),
            Operator::In => write!(f, "{key} in ({})", self.values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", self.values.join(",")),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

impl Selector {
    /// The selector that selects everything.
    pub const fn everything() -> Self {
        Self { requirements: Vec::new() }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// All requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels.get(&requirement.key)))
    }

    /// Whether an object is selected whose labels `get` knows.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(get(&requirement.key)))
    }
}

/// The canonical form: requirements sorted by key, values sorted and without duplicates, `==` as `=`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, requirement) in self.requirements.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut requirements = parser::parse(text)?;
        requirements.sort_unstable();
        Ok(Self { requirements })
    }
}

impl serde::Serialize for Selector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is not a label selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label selector, character {position}: {message}")]
pub struct ParseSelectorError {
    /// The offending character's place, counted from 1; one more than the text has where it ended too early.
    pub position: usize,
    /// What is wrong there.
    pub message: String,
    /// The selector as it was given, cut to the greatest allowed length.
    pub text: String,
}

impl ParseSelectorError {
    /// Characters of the text that [`Self::caret`] shows around the offending one.
    const WINDOW: usize = 100;

    /// Two lines that show the place: the text (the part around the place, where it is long), and a caret under the
    /// offending character.
    pub fn caret(&self) -> String {
        let skipped = self.position.saturating_sub(Self::WINDOW / 2 + 1);
        // A line break or tab would put the caret in the wrong place.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = self.text.chars().skip(skipped).take(Self::WINDOW).map(shown).collect();
        format!("{line}\n{:>width$}", '^', width = self.position - skipped)
    }
}

#[cfg(test)]
mod tests;
