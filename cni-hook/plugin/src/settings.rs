//! What an operator sets in the plugin's place in a conflist.
//!
//! ```json
//! { "type": "fingerpost-cni", "socket": "/run/fingerpost/node.sock", "onError": "open", "exemptNamespaces": ["kube-system"] }
//! ```

use crate::error::{CniError, Code};
use crate::intent::{Membership, NamedPort};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the agent's socket is, if nobody says otherwise.
pub const SOCKET: &str = "/run/fingerpost/node.sock";
/// How long an operation may take in all, if nobody says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time that may be set.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// What becomes of ADD while the agent is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The pod starts; what is known of it waits in the spool until the agent is back.
    #[default]
    Open,
    /// ADD fails, so the pod starts once the agent is back; STATUS fails, too, which has the kubelet call the node not ready.
    Closed,
}

/// The plugin's own keys.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// `socket`: where the agent listens. Its spool is the folder `spool` beside it.
    pub socket: PathBuf,
    /// `timeout`: as in `1s` or `500ms`.
    pub timeout: Duration,
    /// `onError`.
    pub on_error: OnError,
    /// `exemptNamespaces`: whose pods are passed over before anything else is done.
    pub exempt_namespaces: Vec<String>,
    /// `namespace`: of what has none by `CNI_ARGS`.
    pub namespace: Option<String>,
    /// `labels`: of all pods of this network.
    pub labels: BTreeMap<String, String>,
    /// `services`: which these pods are members of.
    pub services: Vec<Membership>,
    /// `ports`: of all pods of this network.
    pub ports: Vec<NamedPort>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: PathBuf::from(SOCKET),
            timeout: TIMEOUT,
            on_error: OnError::default(),
            exempt_namespaces: Vec::new(),
            namespace: None,
            labels: BTreeMap::new(),
            services: Vec::new(),
            ports: Vec::new(),
        }
    }
}

/// The keys that are ours; all others are the runtime's or somebody else's.
pub const KEYS: [&str; 8] =
    ["socket", "timeout", "onError", "exemptNamespaces", "namespace", "labels", "services", "ports"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    socket: Option<PathBuf>,
    timeout: Option<String>,
    on_error: Option<OnError>,
    exempt_namespaces: Option<Vec<String>>,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    services: Option<Vec<Service>>,
    ports: Option<Vec<NamedPort>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a service is its name, or an object of `name` and `selector`")]
enum Service {
    Named(String),
    Selected(Membership),
}

impl Settings {
    /// Reads them from the plugin's configuration, whose other keys are passed over.
    ///
    /// # Errors
    ///
    /// One of them has a value that it can't have; the message names both.
    pub fn parse(config: &[u8]) -> Result<Self, CniError> {
        let wrong = |what: String| CniError::new(Code::InvalidConfig, what);
        let document: Document =
            serde_json::from_slice(config).map_err(|error| wrong(format!("fingerpost-cni's settings: {error}")))?;
        let defaults = Self::default();
        let socket = document.socket.unwrap_or(defaults.socket);
        if !socket.is_absolute() {
            return Err(wrong(format!("socket `{}`: it is not an absolute path", socket.display())));
        }
        let timeout = match document.timeout {
            None => defaults.timeout,
            Some(text) => parse_timeout(&text).ok_or_else(|| {
                wrong(format!("timeout `{text}`: write 1ms to {} s as in `1s` or `500ms`", MAX_TIMEOUT.as_secs()))
            })?,
        };
        let services = document.services.unwrap_or_default().into_iter().map(|service| match service {
            Service::Named(name) => Membership { name, selector: None },
            Service::Selected(membership) => membership,
        });
        Ok(Self {
            socket,
            timeout,
            on_error: document.on_error.unwrap_or_default(),
            exempt_namespaces: document.exempt_namespaces.unwrap_or_default(),
            namespace: document.namespace.filter(|namespace| !namespace.is_empty()),
            labels: document.labels.unwrap_or_default(),
            services: services.collect(),
            ports: document.ports.unwrap_or_default(),
        })
    }

    /// The same for an operation that must not fail: what can't be read is as if it were not there.
    pub fn parse_lenient(config: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Least {
            socket: Option<PathBuf>,
        }
        Self::parse(config).unwrap_or_else(|_| {
            let least = serde_json::from_slice::<Least>(config).ok().and_then(|least| least.socket);
            let socket = least.filter(|socket| socket.is_absolute()).unwrap_or_else(|| PathBuf::from(SOCKET));
            Self { socket, ..Self::default() }
        })
    }

    /// Where intents wait while there is no agent.
    pub fn spool(&self) -> PathBuf {
        spool_of(&self.socket)
    }
}

/// The spool of the agent that listens on `socket`.
pub fn spool_of(socket: &Path) -> PathBuf {
    socket.with_file_name("spool")
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let duration = match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().ok()?),
        None => Duration::from_secs(text.strip_suffix('s')?.parse().ok()?),
    };
    (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&duration).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_defaults_and_other_keys_are_passed_over() {
        let settings = Settings::parse(br#"{"type":"fingerpost-cni","ipam":{"type":"x"},"vendor":[1]}"#).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.spool(), Path::new("/run/fingerpost/spool"));
    }

    #[test]
    fn services_are_names_or_have_selectors() {
        let text = br#"{"services":["web",{"name":"db","selector":"app=db"}],"timeout":"250ms","onError":"closed"}"#;
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.services[1].selector.as_deref(), Some("app=db"));
        assert_eq!((settings.timeout, settings.on_error), (Duration::from_millis(250), OnError::Closed));
    }

    #[test]
    fn a_wrong_value_is_named_and_does_not_stand_in_the_way_of_del() {
        for (text, named) in [
            (r#"{"timeout":"5m"}"#, "5m"),
            (r#"{"timeout":"0s"}"#, "0s"),
            (r#"{"socket":"run/x.sock"}"#, "run/x.sock"),
            (r#"{"onError":"ajar"}"#, "ajar"),
            (r#"{"services":[7]}"#, "a service is its name"),
            (r#"{"ports":[{"port":70000}]}"#, "70000"),
        ] {
            let error = Settings::parse(text.as_bytes()).unwrap_err();
            assert!(error.code == Code::InvalidConfig && error.message.contains(named), "{text}: {error}");
        }
        let lenient = Settings::parse_lenient(br#"{"socket":"/x/a.sock","timeout":"5m"}"#);
        assert_eq!((lenient.socket, lenient.timeout), (PathBuf::from("/x/a.sock"), TIMEOUT));
    }
}
