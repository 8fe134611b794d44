//! Which of several listeners writes: the one that holds a Lease of Kubernetes.
//!
//! Clocks of different machines are not compared. Who waits looks whether the Lease changes, and takes it once it has not
//! for as long as it is good for, by its own clock. Who holds it lays down the pen so long before that moment that a write
//! which is under way then has come to its end: the time that a renewal is good for is counted from before it was
//! asked for.

use crate::state::State;
use crate::trouble::root_cause;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long a renewal is good for.
const DURATION: Duration = Duration::from_secs(8);
/// How long its holder writes after it.
const WRITES: Duration = Duration::from_secs(5);
/// How long one write may take where there is a Lease.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is renewed, or looked at.
const PERIOD: Duration = Duration::from_secs(2);

/// The annotation of the Lease that says what its holder writes, and where.
const TARGET: &str = "fingerpost.io/target";

/// Which Lease.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::str::FromStr for LeaseName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let label = fingerpost_catalog::validate_dns_label;
        match text.split_once('/') {
            Some((namespace, name)) if label(namespace).is_ok() && label(name).is_ok() => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("`{text}` is no Lease: write NAMESPACE/NAME")),
        }
    }
}

impl TryFrom<String> for LeaseName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// One that would like to hold a Lease.
pub(crate) struct Candidate {
    api: Api<Lease>,
    lease: LeaseName,
    identity: String,
    /// What its holder writes, and where.
    target: String,
    /// What was seen last, and when that was new.
    seen: Option<(String, Instant)>,
    state: Arc<State>,
}

/// What a look at the Lease came to.
enum Look {
    Held,
    Others(String),
    /// Somebody else holds it, for something else.
    Foreign(String, String),
}

impl Candidate {
    pub(crate) fn new(
        client: Client,
        lease: LeaseName,
        (identity, target): (String, String),
        state: Arc<State>,
    ) -> Self {
        state.expect_lease();
        Self { api: Api::namespaced(client, &lease.namespace), lease, identity, target, seen: None, state }
    }

    /// Says in `leader` whether this one holds it. Runs until it is dropped.
    pub(crate) async fn run(&mut self, leader: &watch::Sender<bool>) {
        let mut until: Option<Instant> = None;
        let mut other_holder = None;
        loop {
            let asked = Instant::now();
            // Whoever writes does so no longer than it may, however long an answer takes.
            let patience = until.unwrap_or(asked + WRITES).min(asked + WRITES);
            let look = tokio::time::timeout_at(patience, self.look()).await;
            match look {
                Ok(Ok(Look::Held)) => {
                    until = Some(asked + WRITES);
                    self.state.lease_seen(&self.identity);
                    if !leader.send_replace(true) {
                        info!(lease = %format_args!("{}/{}", self.lease.namespace, self.lease.name), "took the Lease");
                    }
                }
                Ok(Ok(Look::Others(other))) => {
                    until = None;
                    self.state.lease_seen(&other);
                    leader.send_replace(false);
                    if other_holder.as_ref() != Some(&other) {
                        info!(holder = %other, "another listener holds the Lease; this one is ready to take over");
                        other_holder = Some(other);
                    }
                }
                failed => {
                    let (why, holder) = match failed {
                        Ok(Ok(Look::Foreign(holder, target))) => {
                            until = None;
                            leader.send_replace(false);
                            let ours = &self.target;
                            let why = format!(
                                "its holder writes {target}, and this one {ours}; give one of them another Lease"
                            );
                            (why, Some(holder))
                        }
                        Ok(Err(error)) => (self.explain(&error), None),
                        _ => ("the API server does not answer".to_owned(), None),
                    };
                    if self.state.lease_failed(&why, holder) {
                        warn!("the Lease {}/{} can't be used: {why}", self.lease.namespace, self.lease.name);
                    }
                }
            }
            let next = Instant::now() + PERIOD.mul_f64(rand::rng().random_range(0.8..1.0));
            if let Some(end) = until
                && end <= next
            {
                // Not renewed in time. What is left of it is for the last tries.
                tokio::time::sleep_until(end.min(Instant::now() + Duration::from_millis(200))).await;
                if Instant::now() >= end {
                    until = None;
                    leader.send_replace(false);
                    warn!("the Lease could not be renewed in time; this listener stops writing");
                }
                continue;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Takes or renews it where it can.
    async fn look(&mut self) -> Result<Look, kube::Error> {
        let name = self.lease.name.clone();
        let Some(mut lease) = self.api.get_opt(&name).await? else {
            let annotations = Some([(TARGET.to_owned(), self.target.clone())].into());
            let metadata = ObjectMeta { name: Some(name), annotations, ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(Look::Held),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::Others("another one".to_owned())),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() {
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            let now = Instant::now();
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => {
                    self.seen = Some((version, now));
                    now
                }
            };
            let good_for = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            if now < since + good_for.map_or(DURATION, Duration::from_secs) {
                let target = lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TARGET));
                if let Some(target) = target.filter(|target| **target != self.target) {
                    return Ok(Look::Foreign(holder, target.clone()));
                }
                return Ok(Look::Others(holder));
            }
        }
        lease.spec = Some(self.spec(Some(&spec)));
        lease.metadata.annotations.get_or_insert_default().insert(TARGET.to_owned(), self.target.clone());
        // The version in it makes this fail where somebody was faster.
        match self.api.replace(&name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(Look::Held),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Look::Others("another one".to_owned())),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.is_some_and(|before| before.holder_identity.as_deref() == Some(self.identity.as_str()));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: match before.filter(|_| ours) {
                Some(before) => before.acquire_time.clone(),
                None => Some(now.clone()),
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(!ours && before.is_some())),
            ..LeaseSpec::default()
        }
    }

    /// Gives it back, so that another one need not wait. Only once nothing is written any more.
    pub(crate) async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.lease.name).await? else { return Ok(()) };
            let Some(spec) = &mut lease.spec else { return Ok(()) };
            if spec.holder_identity.as_deref() == Some(self.identity.as_str()) {
                spec.holder_identity = None;
                self.api.replace(&self.lease.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(2), release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("the Lease could not be given back: {}", self.explain(&error)),
            Err(_) => warn!("the Lease could not be given back in time"),
        }
    }

    fn explain(&self, error: &kube::Error) -> String {
        match error {
            kube::Error::Api(status) if status.code == 403 => format!(
                "a Role in the namespace {} bound to this account needs the rule {{apiGroups: [\"coordination.k8s.io\"], \
                 resources: [\"leases\"], verbs: [\"get\", \"create\", \"update\"]}}, as in \
                 deploy/kubernetes/rbac-lease.yaml (the API server says: {})",
                self.lease.namespace, status.message
            ),
            kube::Error::Api(status) => format!("{} {}", status.code, status.message),
            other => root_cause(other),
        }
    }
}
