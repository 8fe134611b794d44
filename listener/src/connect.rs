//! The connection to the API server: credentials, timeouts, and an ear on every answer.

use crate::objects::Resources;
use crate::protobuf::Protobuf;
use crate::state::State;
use crate::trouble::root_cause;
use futures_util::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{Layer, Service};

/// How long it may take to get a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the API server may be silent in the middle of an answer, a watch included: those end before that.
const READ_TIMEOUT: Duration = Duration::from_secs(35);

/// Where the cluster's API server is, and how to show who calls.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    /// A kubeconfig; without one, the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; without, its current one.
    pub context: Option<String>,
}

/// The credentials can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no way to the Kubernetes API server: this is no pod with a service account ({0}); name a kubeconfig with \
         --kubeconfig"
    )]
    NoCluster(String),
    /// The kubeconfig can't be used.
    #[error("can't use the kubeconfig {0}: {1}")]
    Kubeconfig(String, String),
    /// No client can be made of it.
    #[error("can't make a client for the Kubernetes API server: {0}")]
    Client(String),
}

impl Cluster {
    /// Reads the credentials. Whether the server can be reached is seen later, and tried again and again.
    pub async fn config(&self) -> Result<Config, ConnectError> {
        let mut config = match (&self.kubeconfig, &self.context) {
            (None, None) => Config::incluster().map_err(|error| ConnectError::NoCluster(root_cause(&error)))?,
            (path, context) => {
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let name = path
                    .as_ref()
                    .map_or_else(|| "of KUBECONFIG or ~/.kube/config".to_owned(), |path| path.display().to_string());
                let refuse = |error: &dyn std::error::Error| ConnectError::Kubeconfig(name.clone(), root_cause(error));
                let kubeconfig = match path {
                    Some(path) => Kubeconfig::read_from(path),
                    None => Kubeconfig::read(),
                };
                let kubeconfig = kubeconfig.map_err(|error| refuse(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| refuse(&error))?
            }
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        Ok(config)
    }
}

/// A client whose good answers are noted in `state`.
pub(crate) fn client(config: Config, state: &Arc<State>) -> Result<Client, ConnectError> {
    let builder = ClientBuilder::try_from(config).map_err(|error| ConnectError::Client(root_cause(&error)))?;
    Ok(builder.with_layer(&Protobuf).with_layer(&Ear(Arc::clone(state))).build())
}

/// Notes which kinds of object the server answers for. A watch of a quiet cluster says nothing for minutes, but it is
/// asked for anew all the time, and that it is granted is a word, too.
#[derive(Clone)]
struct Ear(Arc<State>);

impl<S> Layer<S> for Ear {
    type Service = Listening<S>;

    fn layer(&self, inner: S) -> Listening<S> {
        Listening { inner, state: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
struct Listening<S> {
    inner: S,
    state: Arc<State>,
}

impl<S, B> Service<http::Request<Body>> for Listening<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let resources = Resources::of_path(request.uri().path());
        let state = Arc::clone(&self.state);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if let Some(resources) = resources
                && answer.status().is_success()
            {
                state.heard(resources);
            }
            Ok(answer)
        })
    }
}
