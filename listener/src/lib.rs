//! Follows a Kubernetes cluster and writes its namespaces, services and endpoints into a registry.
//!
//! Four streams at most ([`Resources`]) say what the cluster has; one task keeps an index of it, and writes what
//! differs from what the registry has of its source, `kubernetes/<cluster>`. It speaks to the registry through the
//! [`Registry`] trait, so it runs inside the registry's process or on its own.
//!
//! - An endpoint's change is one write of one record, however large its service.
//! - A list after an outage writes the differences. One that would remove more than half and more than 100 of the records
//!   of a kind is taken for a mistake until another one, which no cache has answered, says the same.
//! - With a Lease, one of several listeners writes, and another one takes over within seconds.
//!
//! A [`Survey`] reads the same objects once, for who wants to compare.

mod backlog;
mod connect;
mod document;
mod engine;
mod follow;
mod index;
mod lease;
mod metrics;
mod objects;
mod protobuf;
mod registry_side;
mod state;
mod survey;
mod trouble;

pub use connect::{Cluster, ConnectError};
pub use document::{KindDocument, StateDocument};
pub use lease::LeaseName;
pub use metrics::Metrics;
pub use objects::Resources;
pub use state::{Phase, State};
pub use survey::{Survey, SurveyError, SurveyedEndpoint, SurveyedService};
pub use trouble::{Reason, Trouble};

use engine::Engine;
use fingerpost_catalog::Source;
use fingerpost_client::Registry;
use follow::Following;
use lease::Candidate;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Streams' words that wait to be taken in.
const QUEUE: usize = 16;

/// What a listener does.
#[derive(Clone, Debug)]
pub struct Options {
    /// In whose name it writes: `kubernetes/<cluster>`.
    pub source: Source,
    /// Follow pods, too.
    pub pods: bool,
    /// Only namespaces with these labels, in Kubernetes' grammar.
    pub namespace_selector: Option<String>,
    /// Where several listeners write into one registry: the Lease that says which of them does.
    pub lease: Option<LeaseName>,
    /// Into which registry they write, in words that are the same for all of them: it stands in the Lease, so that listeners of
    /// two registries which share one by mistake find out.
    pub registry: String,
    /// What it is called among them; unique.
    pub identity: String,
    /// How often the registry is compared with the cluster, about.
    pub resync: Duration,
    /// How long a list may take that is to confirm removals, before it is asked for again.
    pub confirm_within: Duration,
}

impl Options {
    /// A listener that writes as `source`, alone.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            pods: false,
            namespace_selector: None,
            lease: None,
            registry: String::new(),
            identity: "fingerpost".to_owned(),
            resync: Duration::from_secs(600),
            confirm_within: Duration::from_secs(30),
        }
    }

    /// Of what a registry has all that there is once this listener has written it, in words for the source's mark.
    pub fn scope(&self) -> String {
        let pods = if self.pods { " and pods" } else { "" };
        let selector = self.namespace_selector.as_ref().map(|selector| format!(" of namespaces with {selector}"));
        format!("services{pods}{}", selector.unwrap_or_default())
    }

    fn followed(&self) -> Vec<Resources> {
        let mut followed = vec![Resources::Namespaces, Resources::Services, Resources::EndpointSlices];
        followed.extend(self.pods.then_some(Resources::Pods));
        followed
    }
}

/// A part of a listener ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// It panicked.
    #[error("a task of the listener panicked")]
    Panicked(#[source] JoinError),
    /// It came to its end, which it never should.
    #[error("a task of the listener ended by itself")]
    Ended,
}

/// A listener, ready to run.
pub struct Listener {
    client: kube::Client,
    registry: Arc<dyn Registry>,
    options: Options,
    state: Arc<State>,
    metrics: Metrics,
}

impl Listener {
    /// A listener of the cluster that `config` leads to.
    pub fn new(
        config: kube::Config,
        registry: Arc<dyn Registry>,
        options: Options,
        metrics: &mut prometheus_client::registry::Registry,
    ) -> Result<Self, ConnectError> {
        let state = Arc::new(State::new(&options.followed()));
        let client = connect::client(config, &state)?;
        let metrics = Metrics::register(metrics, &state);
        Ok(Self { client, registry, options, state, metrics })
    }

    /// How it does.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Runs until `shutdown`. What is being written then is written to its end, or will be by the next run.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ListenError> {
        let Self { client, registry, options, state, metrics } = self;
        let followed = options.followed();
        let (say, said) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let mut confirms = Vec::new();
        for resources in &followed {
            let (confirm, asked) = mpsc::channel(1);
            confirms.push((*resources, confirm));
            let following = Following {
                client: client.clone(),
                labels: options.namespace_selector.clone().filter(|_| *resources == Resources::Namespaces),
                fields: (*resources == Resources::Pods)
                    .then_some("status.phase!=Succeeded,status.phase!=Failed,status.phase!=Unknown"),
                said: say.clone(),
                confirm: asked,
                confirm_within: options.confirm_within,
                state: Arc::clone(&state),
            };
            match resources {
                Resources::Namespaces => tasks.spawn(following.run::<objects::Namespace>()),
                Resources::Services => tasks.spawn(following.run::<objects::Service>()),
                Resources::EndpointSlices => tasks.spawn(following.run::<objects::EndpointSlice>()),
                Resources::Pods => tasks.spawn(following.run::<objects::Pod>()),
            };
        }
        drop(say);
        let (lead, leader) = watch::channel(options.lease.is_none());
        let mut candidate = options.lease.clone().map(|lease| {
            let target = format!("{} in {}", options.source, options.registry);
            Candidate::new(client, lease, (options.identity, target), Arc::clone(&state))
        });
        let engine = Engine {
            registry,
            source: options.source,
            followed,
            said,
            confirm: confirms,
            leader,
            leased: options.lease.is_some(),
            state,
            latency: metrics.latency,
            resync: options.resync,
            write_timeout: if options.lease.is_some() { lease::WRITE_TIMEOUT } else { engine::WRITE_TIMEOUT },
        };
        tasks.spawn(engine.run());
        let candidacy = async {
            match &mut candidate {
                Some(candidate) => candidate.run(&lead).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = candidacy => Err(ListenError::Ended),
            ended = tasks.join_next() => Err(match ended {
                Some(Err(error)) => ListenError::Panicked(error),
                _ => ListenError::Ended,
            }),
        };
        // Nobody writes any more when the Lease is given back.
        tasks.shutdown().await;
        if let Some(candidate) = &candidate {
            candidate.release().await;
        }
        ended
    }
}
