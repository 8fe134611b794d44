//! What a registry says of itself. Fields that a server does not send are empty here, and fields that this version does
//! not know are passed over, so that both sides may be of different versions.

use fingerpost_catalog::Position;
use fingerpost_catalog::document::{FollowerDocument, ProtectionDocument, SourceDocument};
use serde::{Deserialize, Deserializer, Serialize};

/// The reply of `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusDocument {
    /// The server's version.
    pub version: String,
    /// The identity of the history that positions count in.
    pub epoch: String,
    /// The position up to which the server knows everything.
    pub revision: Option<Position>,
    /// How long the server has been running.
    pub uptime_seconds: u64,
    /// Where records are kept.
    pub store: StoreStatus,
    /// What is known.
    pub catalog: CatalogStatus,
    /// The DNS server in this process; absent where there is none.
    pub dns: Option<DnsStatus>,
    /// How it follows its registry, where it is no registry itself but a DNS server apart; only that and `dns` say anything then.
    pub following: Option<FollowingStatus>,
    /// The cluster that is followed in this process; absent where none is.
    pub kubernetes: Option<KubernetesStatus>,
    /// Who follows.
    pub watch: WatchStatus,
    /// Sources that have been silent for so long that what they left counts as orphaned.
    pub orphans: Vec<SourceDocument>,
    /// What this replica checks.
    pub checks: CheckStatus,
    /// Who is alive.
    pub sessions: SessionsStatus,
    /// The replicas that are alive.
    pub replicas: Vec<ReplicaStatus>,
    /// Those that follow the registry and report what they show, and those of them that fell silent lately.
    pub followers: Vec<FollowerDocument>,
    /// Where the REST API listens.
    pub http_listen: Vec<String>,
    /// Whether it listens beyond loopback without access control.
    pub insecure: bool,
    /// How it knows who calls; absent where the server does not say.
    pub access: Option<AccessStatus>,
}

/// How a registry knows who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessStatus {
    /// Whether connections are encrypted.
    pub tls: bool,
    /// `none`, or in which ways one can come in: `token`, `certificate`, with commas between them.
    pub authentication: String,
}

/// A replica of the registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaStatus {
    /// Its id, another one after each start.
    pub id: String,
    /// Where the others reach it.
    pub url: Option<String>,
    /// What it runs.
    pub version: String,
    /// The newest schema of records that it reads.
    pub schema: u32,
}

/// The reply of `POST /v1/migrate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrateReply {
    /// The schema of the records before.
    pub from: u32,
    /// Their schema now.
    pub to: u32,
}

/// Where records are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreStatus {
    /// The back end: `embedded` or `etcd`.
    pub backend: String,
    /// How many records it holds.
    pub records: u64,
    /// What it takes on this machine's disk, in bytes; absent where it lies elsewhere.
    pub disk_bytes: Option<u64>,
    /// Why the last write failed, while writes fail.
    pub write_error: Option<String>,
    /// For how long there has been no word from the store, in seconds; absent while it is in touch.
    pub out_of_touch_seconds: Option<f64>,
    /// Keys in it that are not the registry's, or can't be read.
    pub foreign: u64,
    /// Some of them.
    pub foreign_keys: Vec<String>,
    /// The oldest position from which a watch can resume; absent where the server gives a number without its epoch.
    #[serde(deserialize_with = "position_if_any")]
    pub oldest: Option<Position>,
}

/// A position where there is one; what is something else is no reason to refuse all the rest.
fn position_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Position>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().and_then(|text| text.parse().ok()))
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CatalogStatus {
    /// Namespaces.
    pub namespaces: u64,
    /// Services.
    pub services: u64,
    /// Instances.
    pub instances: u64,
    /// Instances by effective health.
    pub health: HealthCounts,
}

/// Instances by effective health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCounts {
    /// Working.
    pub passing: u64,
    /// Working, with something to look at.
    pub warning: u64,
    /// Not yet known.
    pub unknown: u64,
    /// Not working.
    pub critical: u64,
}

/// A DNS server's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsStatus {
    /// Where it listens, as `address:port`.
    pub listen: Vec<String>,
    /// The zone that it answers for, without a dot at its end.
    pub zone: String,
    /// Other zones in which it answers the same.
    pub aliases: Vec<String>,
    /// Which names of pods by address it answers: `insecure`, `verified` or `disabled`.
    pub pods: String,
    /// What it calls endpoints without a hostname: `address` or `pod`.
    pub endpoint_names: String,
    /// The cluster whose `kubernetes/…` source outranks all others.
    pub cluster: String,
    /// The position that its answers show; absent before the first sync.
    pub position: Option<Position>,
    /// For how long it has had no word from the registry, in seconds.
    pub age_seconds: Option<f64>,
    /// How many names have an answer.
    pub names: u64,
}

/// How a registry elsewhere is followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FollowingStatus {
    /// What the registry calls this follower.
    pub id: String,
    /// The replicas that it may follow.
    pub registry: Vec<String>,
    /// Whether it has had all of it from the registry since it started, and not only from its disk.
    pub synced: bool,
    /// How old is what it shows, in seconds; absent where it shows nothing.
    pub age_seconds: Option<f64>,
    /// Why the registry can't be followed, while that is so.
    pub trouble: Option<String>,
    /// Why the registry can't be told what is shown, while that is so.
    pub unreported: Option<String>,
}

/// How a Kubernetes cluster is followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesStatus {
    /// `starting`, `synced` or `standby`.
    pub phase: String,
    /// Whether this listener is the one that writes.
    pub leader: bool,
    /// What is followed.
    pub kinds: Vec<KubernetesKindStatus>,
    /// Records that wait to be written.
    pub pending: u64,
    /// Removals that wait for a second list to confirm them.
    pub held: u64,
    /// Objects that can't be taken.
    pub refused: u64,
    /// Some of them, and why.
    pub refused_names: Vec<String>,
    /// Why writes fail now.
    pub write_trouble: Option<String>,
    /// Why the Lease by which one of several listeners writes can't be used now.
    pub lease_trouble: Option<String>,
    /// For how long there has been no word from the API server, in seconds, where that is long.
    pub stale_seconds: Option<f64>,
}

/// How one kind of a cluster's objects is followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesKindStatus {
    /// Which, as in `endpointslices`.
    pub resource: String,
    /// Whether the first complete list has come.
    pub synced: bool,
    /// How many are known.
    pub objects: u64,
    /// How many could not be read.
    pub malformed: u64,
    /// Seconds since the last word of them.
    pub age_seconds: Option<f64>,
    /// Why they can't be followed now.
    pub trouble: Option<String>,
}

/// Who follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchStatus {
    /// Open streams.
    pub streams: u64,
    /// Subscriptions on them.
    pub subscriptions: u64,
}

/// The reply of `DELETE /v1/sources/…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemovedSource {
    /// The position at which all of it is gone.
    pub revision: Option<Position>,
    /// Instances that are gone.
    pub instances: u64,
    /// Declarations of services that are gone.
    pub services: u64,
    /// Declarations of namespaces that are gone.
    pub namespaces: u64,
}

/// What a replica checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckStatus {
    /// Checks of instances that are at home there.
    pub home: u64,
    /// Those of them that are being run.
    pub running: u64,
}

/// Who is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionsStatus {
    /// Sessions in all.
    pub total: u64,
    /// Those that renew in time.
    pub alive: u64,
    /// Those that are overdue, but held.
    pub suspect: u64,
    /// Those that have expired, and are in their grace.
    pub expired: u64,
    /// Those that this replica keeps.
    pub home: u64,
    /// Whether any are held.
    pub protection: ProtectionDocument,
}

/// The reply of `GET /version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionDocument {
    /// The server's version.
    pub version: String,
}

/// The reply of `POST /v1/import`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportReply {
    /// The position after the import, in its new epoch.
    pub revision: Option<Position>,
    /// How many records were read.
    pub records: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_versions_can_be_read() {
        let status: StatusDocument = serde_json::from_str(
            r#"{"version":"9","revision":"000000000000beef-7","dns":{"zone":"cluster.local","new":1},"more":{}}"#,
        )
        .unwrap();
        assert_eq!(status.dns.unwrap().zone, "cluster.local");
        assert_eq!(status.revision.unwrap().number, 7);
    }

    #[test]
    fn the_oldest_position_may_be_a_bare_number() {
        let oldest = |json: &str| serde_json::from_str::<StatusDocument>(json).unwrap().store.oldest;
        assert_eq!(oldest(r#"{"store":{"oldest":3}}"#), None);
        assert_eq!(oldest(r#"{"store":{"oldest":null}}"#), None);
        assert_eq!(oldest(r#"{"store":{"oldest":"000000000000beef-3"}}"#).unwrap().number, 3);
        assert_eq!(oldest("{}"), None);
    }
}
