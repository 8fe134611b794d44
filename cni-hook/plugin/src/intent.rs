//! What the plugin tells the node agent, and what the agent replies.
//!
//! On the socket, each is a frame: its length as four octets, the highest first, then so many octets of JSON. A connection
//! has one of each. Fields that a reader does not know are ignored, so that plugin and agent can be of two versions.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The largest frame, in octets.
pub const MAX_FRAME: usize = 1 << 20;

/// What the runtime wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "op")]
pub enum Intent {
    /// This attachment is there.
    Add(Box<Attached>),
    /// It is gone. Nothing is needed but which one.
    Del(Gone),
    /// Is this attachment known? Where it is not, it becomes so.
    Check(Box<Attached>),
    /// Of this network, these attachments are all that there are.
    Gc(Valid),
    /// Does the agent take intents?
    Status,
}

/// What tells attachments apart: their network, container and interface.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// The network's name.
    pub network: String,
    /// The container's (in Kubernetes: the sandbox's) id.
    pub container_id: String,
    /// The interface in it.
    pub interface: String,
}

/// An attachment, as its ADD says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// Which one.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// When the plugin was called, in nanoseconds since the machine's start.
    pub at: u64,
    /// The path of the network namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// The addresses of this interface.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Whose it is.
    #[serde(default)]
    pub pod: PodArgs,
    /// `runtimeConfig.aliases` of this network: further names of the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `args.cni.labels`, then the configuration's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The namespace of what has none by `CNI_ARGS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Services that it is a member of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Membership>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

/// `CNI_ARGS`, as far as they name a pod. Empty where they don't.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// `K8S_POD_NAME`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `K8S_POD_UID`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`: the container's id in the CRI.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub infra: String,
}

/// A service that a pod is a member of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The service, in the pod's namespace.
    pub name: String,
    /// Only of pods with such labels, in Kubernetes' grammar for selectors. Absent: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// A port of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    /// Its name, a DNS label; may be absent where it is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`. Absent: `TCP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// An attachment that is gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gone {
    /// Which one.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// When the plugin was called, in nanoseconds since the machine's start.
    pub at: u64,
}

/// The attachments of a network that there are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Valid {
    /// The network.
    pub network: String,
    /// When the plugin was called, in nanoseconds since the machine's start.
    pub at: u64,
    /// Its attachments. Empty: it has none.
    pub attachments: Vec<ValidAttachment>,
}

/// An item of `cni.dev/valid-attachments` (SPEC §2, "GC").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface.
    pub ifname: String,
}

/// What the agent says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Why not, where it was not taken; in words for the runtime's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
