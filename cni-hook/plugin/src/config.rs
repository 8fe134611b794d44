//! The network configuration on standard input (SPEC §1, "Plugin configuration objects", and §3).

use crate::environment::{Command, Environment, MAX_NAME, is_name, shortened};
use crate::error::{CniError, Code};
use crate::intent::ValidAttachment;
use crate::version::Version;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What every plugin is told.
#[derive(Debug)]
pub struct NetworkConfig<'a> {
    /// `cniVersion`.
    pub version: Version,
    /// `name`: the network's.
    pub name: String,
    /// `prevResult`: what the chain has come to so far; on DEL and CHECK, in the end.
    pub prev_result: Option<&'a RawValue>,
    /// `cni.dev/valid-attachments`.
    pub valid_attachments: Option<Vec<ValidAttachment>>,
    aliases: Option<&'a RawValue>,
    args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    name: Option<String>,
    #[serde(rename = "prevResult", borrow)]
    prev_result: Option<&'a RawValue>,
    #[serde(rename = "cni.dev/valid-attachments", borrow)]
    valid: Option<&'a RawValue>,
    /// What the specification called it before 1.1.0 was amended (containernetworking/cni#1101).
    #[serde(rename = "cni.dev/attachments", borrow)]
    attachments: Option<&'a RawValue>,
    #[serde(rename = "runtimeConfig", borrow)]
    runtime: Option<&'a RawValue>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

impl<'a> NetworkConfig<'a> {
    /// Reads and checks it, in the order in which the reference library does.
    ///
    /// # Errors
    ///
    /// It can't be decoded, has no proper name, or has a version that is not spoken here or lacks the operation.
    pub fn parse(input: &'a [u8], environment: &Environment) -> Result<Self, CniError> {
        let document: Document<'a> = serde_json::from_slice(input).map_err(|error| {
            CniError::new(Code::Decode, "the network configuration can't be decoded").details(error.to_string())
        })?;
        let name = document.name.unwrap_or_default();
        if name.is_empty() {
            return Err(CniError::new(Code::InvalidConfig, "missing network name"));
        }
        if !is_name(&name) || name.len() > MAX_NAME {
            let message =
                format!("invalid characters found in network name `{}`, or more than {MAX_NAME}", shortened(&name));
            return Err(CniError::new(Code::InvalidConfig, message));
        }
        // None is 0.1.0 (SPEC of that version), which has no chains.
        let said = document.version.filter(|version| !version.is_empty()).unwrap_or_else(|| "0.1.0".to_owned());
        let version = Version::named(&said).ok_or_else(|| {
            let all = Version::ALL.map(Version::as_str);
            CniError::new(Code::IncompatibleVersion, "incompatible CNI versions")
                .details(format!("config is {:?}, plugin supports {all:?}", shortened(&said)))
        })?;
        let since = match environment.command {
            Command::Check => Version::V040,
            Command::Status | Command::Gc => Version::V110,
            Command::Add | Command::Del | Command::Version => Version::V030,
        };
        if version < since {
            let command = format!("{:?}", environment.command).to_uppercase();
            return Err(CniError::new(Code::IncompatibleVersion, format!("config version does not allow {command}"))
                .details(format!("config is {said:?}, and {command} came with {since}")));
        }
        let valid_attachments = match document.valid.or(document.attachments) {
            None => None,
            Some(raw) if environment.command == Command::Gc => {
                Some(serde_json::from_str(raw.get()).map_err(|error| {
                    CniError::new(Code::InvalidConfig, "cni.dev/valid-attachments can't be read")
                        .details(error.to_string())
                })?)
            }
            Some(_) => None,
        };
        Ok(Self {
            version,
            name,
            prev_result: document.prev_result,
            valid_attachments,
            aliases: document.runtime,
            args: document.args,
        })
    }

    /// The container's further names on this network: `runtimeConfig.aliases`, as podman gives them.
    pub fn aliases(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Runtime {
            aliases: BTreeMap<String, Vec<String>>,
        }
        let runtime = self.aliases.and_then(|raw| serde_json::from_str::<Runtime>(raw.get()).ok());
        runtime.and_then(|mut runtime| runtime.aliases.remove(&self.name)).unwrap_or_default()
    }

    /// `args.cni.labels` (CONVENTIONS.md). What has another form is somebody else's.
    pub fn labels(&self) -> BTreeMap<String, String> {
        #[derive(Deserialize)]
        struct Args {
            cni: Cni,
        }
        #[derive(Deserialize)]
        struct Cni {
            labels: Vec<Label>,
        }
        #[derive(Deserialize)]
        struct Label {
            key: String,
            value: String,
        }
        let args = self.args.and_then(|raw| serde_json::from_str::<Args>(raw.get()).ok());
        let labels = args.map(|args| args.cni.labels).unwrap_or_default();
        labels.into_iter().map(|label| (label.key, label.value)).collect()
    }
}

/// The version that an error is to carry: the configuration's, as it stands there.
pub fn said_version(input: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        #[serde(rename = "cniVersion")]
        version: String,
    }
    let said = serde_json::from_slice::<Said>(input).map(|said| said.version);
    said.ok().filter(|said| !said.is_empty()).unwrap_or_else(|| Version::V110.as_str().to_owned())
}
