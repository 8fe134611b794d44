//! Who speaks: every declaration and instance belongs to a source, and a source can touch only its own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The author of a record: `api`, `api/<owner>`, `kubernetes/<cluster>` or `cni/<node>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(Arc<str>);

/// How much a source's word weighs where several speak of the same thing; the lowest value wins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// `kubernetes/<cluster>` of the cluster that this process serves.
    OwnCluster,
    /// `api` and `api/<owner>`.
    Api,
    /// `kubernetes/<cluster>` of other clusters.
    OtherCluster,
    /// `cni/<node>`.
    Cni,
}

/// What kind of author a source is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SourceKind {
    /// `api` and `api/<owner>`: whoever calls the API.
    Api,
    /// `kubernetes/<cluster>`: what a cluster's API server says.
    Kubernetes,
    /// `cni/<node>`: what a node's container network plugin says.
    Cni,
}

/// The text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a source: write `api`, `api/<owner>`, `kubernetes/<cluster>` or `cni/<node>`, where the second part has \
     1 to 253 of `A-Z a-z 0-9 . _ -`"
)]
pub struct ParseSourceError(String);

impl Source {
    /// The bare `api` source: the default of every write over REST.
    pub fn api() -> Self {
        Self(Arc::from("api"))
    }

    /// The source as users write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of author it is.
    pub fn kind(&self) -> SourceKind {
        match self.0.split_once('/') {
            Some(("kubernetes", _)) => SourceKind::Kubernetes,
            Some(("cni", _)) => SourceKind::Cni,
            _ => SourceKind::Api,
        }
    }

    /// This source's weight in a process that serves the cluster `own_cluster`.
    pub fn rank(&self, own_cluster: &str) -> Rank {
        match self.0.split_once('/') {
            Some(("kubernetes", cluster)) if cluster == own_cluster => Rank::OwnCluster,
            Some(("kubernetes", _)) => Rank::OtherCluster,
            Some(("cni", _)) => Rank::Cni,
            _ => Rank::Api,
        }
    }
}

impl FromStr for Source {
    type Err = ParseSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |part: &str| {
            (1..=253).contains(&part.len())
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
        };
        match text.split_once('/') {
            None if text == "api" => Ok(Self::api()),
            Some(("api" | "kubernetes" | "cni", rest)) if fits(rest) => Ok(Self(Arc::from(text))),
            _ => Err(ParseSourceError(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Source {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_four_forms_and_nothing_else() {
        for good in ["api", "api/web-team", "kubernetes/prod.eu", "cni/node_1"] {
            assert_eq!(good.parse::<Source>().map(|s| s.to_string()), Ok(good.to_owned()));
        }
        let kind = |text: &str| text.parse::<Source>().unwrap().kind();
        assert_eq!((kind("api"), kind("api/kubernetes")), (SourceKind::Api, SourceKind::Api));
        assert_eq!((kind("kubernetes/a"), kind("cni/n")), (SourceKind::Kubernetes, SourceKind::Cni));
        for bad in ["", "API", "api/", "kubernetes", "cni", "consul/x", "api/a/b", "api/a b"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }

    #[test]
    fn own_cluster_outranks_the_rest() {
        let rank = |text: &str| text.parse::<Source>().unwrap().rank("a");
        assert!(rank("kubernetes/a") < rank("api"));
        assert!(rank("api/x") < rank("kubernetes/b"));
        assert!(rank("kubernetes/b") < rank("cni/n"));
    }
}
