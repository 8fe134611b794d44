//! How a service is written down: `prod/web`, or `fingerpost://prod/web?port=grpc&selector=track%3Dcanary` where more is
//! to be said.

use crate::{Error, Result};
use fingerpost_catalog::validate_dns_label;
use reqwest::Url;
use std::fmt;
use std::str::FromStr;

/// A service, and which of its ports and instances are meant.
///
/// ```
/// use fingerpost_client::Target;
///
/// let target: Target = "fingerpost://prod/web?port=grpc".parse()?;
/// assert_eq!((target.namespace(), target.service(), target.port()), ("prod", "web", Some("grpc")));
/// assert_eq!("prod/web".parse::<Target>()?.port(), None);
/// # Ok::<(), fingerpost_client::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    namespace: String,
    service: String,
    port: Option<String>,
    selector: Option<String>,
}

impl Target {
    /// The service's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The name of the port that is meant; absent: the first.
    pub fn port(&self) -> Option<&str> {
        self.port.as_deref()
    }

    /// Which instances are meant; absent: all.
    pub fn selector(&self) -> Option<&str> {
        self.selector.as_deref()
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |detail: String| Error::Invalid {
            status: 0,
            detail: format!("`{text}` names no service: {detail}"),
            pointer: None,
            parameter: None,
        };
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("fingerpost://{text}"),
        };
        let url = Url::parse(&full).map_err(|error| wrong(error.to_string()))?;
        if url.scheme() != "fingerpost" {
            return Err(wrong(format!("its scheme is `{}`; write NAMESPACE/SERVICE", url.scheme())));
        }
        let namespace = url.host_str().unwrap_or_default().to_owned();
        let service = url.path().trim_start_matches('/').to_owned();
        for (what, name) in [("namespace", &namespace), ("service", &service)] {
            if name.is_empty() {
                return Err(wrong(format!("it has no {what}; write NAMESPACE/SERVICE")));
            }
            validate_dns_label(name).map_err(|error| wrong(error.to_string()))?;
        }
        if !url.username().is_empty() || url.password().is_some() || url.port().is_some() || url.fragment().is_some() {
            return Err(wrong("write fingerpost://NAMESPACE/SERVICE?port=NAME&selector=LABELS".to_owned()));
        }
        let mut target = Self { namespace, service, port: None, selector: None };
        for (key, value) in url.query_pairs() {
            let field = match &*key {
                "port" => &mut target.port,
                "selector" => &mut target.selector,
                _ => return Err(wrong(format!("`{key}` is not known; there are `port` and `selector`"))),
            };
            if field.replace(value.into_owned()).is_some() {
                return Err(wrong(format!("`{key}` stands there twice")));
            }
        }
        Ok(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let full: Target = "fingerpost://prod/web?selector=a%3Db%2Cc&port=grpc".parse().unwrap();
        assert_eq!((full.port(), full.selector()), (Some("grpc"), Some("a=b,c")));
        assert_eq!(full.to_string(), "prod/web");
        let short: Target = "prod/web?port=http".parse().unwrap();
        assert_eq!((short.namespace(), short.service(), short.port()), ("prod", "web", Some("http")));
    }

    #[test]
    fn refuses_what_names_nothing() {
        for text in [
            "",
            "web",
            "prod/",
            "/web",
            "prod/web/x",
            "http://prod/web",
            "PROD_1/web",
            "prod/web?ports=1",
            "prod/web?port=a&port=b",
            "fingerpost://me@prod/web",
            "prod:80/web",
            "prod/web#1",
            "prod/w eb",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
