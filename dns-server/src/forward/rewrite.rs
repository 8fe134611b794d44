//! Names that are looked up as others; the answer carries the name that was asked for.

use crate::config::Zone;
use crate::name::{self, MAX_NAME};
use smallvec::SmallVec;
use std::fmt;
use std::str::FromStr;

/// A rule: one name for another, or all names below one for those below another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    from: Zone,
    to: Zone,
    below: bool,
}

impl FromStr for Rewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "`{text}` is no rule for names: write it as in `db.example=db.prod.svc.cluster.local`, or with `*.` on \
                 both sides"
            )
        };
        let (from, to) = text.split_once('=').ok_or_else(bad)?;
        let (from, to) = (from.trim(), to.trim());
        let (from, to, below) = match (from.strip_prefix("*."), to.strip_prefix("*.")) {
            (Some(from), Some(to)) => (from, to, true),
            (None, None) => (from, to, false),
            _ => return Err(bad()),
        };
        let zone = |text: &str| text.parse::<Zone>().map_err(|error| format!("{}: {error}", bad()));
        let rule = Self { from: zone(from)?, to: zone(to)?, below };
        if rule.from == rule.to {
            return Err(format!("`{text}` looks a name up as itself"));
        }
        Ok(rule)
    }
}

impl fmt::Display for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = if self.below { "*." } else { "" };
        write!(f, "{below}{}={below}{}", self.from, self.to)
    }
}

/// What a name is looked up as, and the rule that says so.
#[derive(Clone, Debug)]
pub(crate) struct Rewritten<'a> {
    /// In wire form, in lower case.
    pub(crate) target: SmallVec<[u8; 64]>,
    pub(crate) rule: &'a Rewrite,
}

/// All rules; the first that fits counts.
#[derive(Debug, Default)]
pub(crate) struct Rewrites(Vec<Rewrite>);

impl Rewrites {
    pub(crate) fn new(rules: Vec<Rewrite>) -> Self {
        Self(rules)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a lower-case name is looked up as.
    pub(crate) fn apply(&self, wire: &[u8]) -> Option<Rewritten<'_>> {
        self.0.iter().find_map(|rule| {
            let (from, to) = (rule.from.0.wire(), rule.to.0.wire());
            if !rule.below {
                return (wire == from).then(|| Rewritten { target: SmallVec::from_slice(to), rule });
            }
            let front = wire.len().checked_sub(from.len()).filter(|front| *front > 0)?;
            if !name::is_within(wire, from) || front + to.len() > MAX_NAME {
                return None;
            }
            let mut target = SmallVec::from_slice(&wire[..front]);
            target.extend_from_slice(to);
            Some(Rewritten { target, rule })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    #[test]
    fn names_and_suffixes() {
        let rules = ["db.example=db.prod.svc.cluster.local", "*.old.example=*.new.example"];
        let rewrites = Rewrites::new(rules.iter().map(|text| text.parse().unwrap()).collect());
        let apply = |text: &str| {
            let found = rewrites.apply(Name::from_text(text).unwrap().wire())?;
            assert!(rules.contains(&found.rule.to_string().as_str()));
            Some(Name::from_wire(&found.target).to_string())
        };
        assert_eq!(apply("db.example").as_deref(), Some("db.prod.svc.cluster.local."));
        assert_eq!(apply("a.b.old.example").as_deref(), Some("a.b.new.example."));
        for other in ["x.db.example", "old.example", "xold.example", "new.example"] {
            assert_eq!(apply(other), None, "{other}");
        }
        for bad in ["a", "*.a=b", "a=*.b", "a=a", "a=", "a..b=c"] {
            assert!(bad.parse::<Rewrite>().is_err(), "{bad}");
        }
    }
}
