//! `fingerpost listener`: follows a Kubernetes cluster for a registry elsewhere.

use super::{http_options, with_way_out};
use crate::cli::GlobalArgs;
use crate::config::ListenerArgs;
use crate::ops;
use crate::serve::{signals::Ends, start_log};
use anyhow::{Context, Result};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use fingerpost_client::HttpRegistry;
use fingerpost_listener::{Listener, Phase, State};
use fingerpost_registry::server::{self, ConnectionMetrics, ServerLimits, Serving};
use prometheus_client::registry::Registry;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Runs until SIGTERM or SIGINT, or until a part of it fails.
pub(crate) async fn run(global: &GlobalArgs, args: ListenerArgs) -> Result<()> {
    start_log(&args.log, args.log_format)?;
    let kubernetes = args.kubernetes()?;
    let urls = args.registry.as_ref().unwrap_or(&global.server);
    let registry = HttpRegistry::with_options(urls, http_options(global)).map_err(with_way_out)?;
    let config = kubernetes.cluster.config().await?;
    let mut metrics = Registry::default();
    let mut options = kubernetes.options(&args.cluster_name)?;
    options.registry = urls.join(",");
    info!(registry = urls.join(","), cluster = %config.cluster_url, source = %options.source, "following the cluster");
    let listener = Listener::new(config, Arc::new(registry), options, &mut metrics)?;

    let mut ends = Ends::register()?;
    let (stop, stop_ops) = (CancellationToken::new(), CancellationToken::new());
    let listeners = server::bind(&args.ops_listen, "--ops-listen")?;
    {
        let mut out = std::io::stdout().lock();
        for socket in &listeners {
            writeln!(out, "ops  http://{}", socket.local_addr()?)?;
        }
        out.flush()?;
    }
    let limits = ServerLimits {
        connections: 256,
        of_address: 128,
        first_head: Duration::from_secs(5),
        ..ServerLimits::default()
    };
    let ops = Serving {
        router: router(listener.state(), Arc::new(metrics)),
        tls: None,
        limits,
        metrics: ConnectionMetrics::default(),
    };
    let ops = tokio::spawn(server::serve(listeners, ops, stop_ops.clone()));
    let mut following = tokio::spawn(listener.run(stop.clone()));
    let ended = tokio::select! {
        ended = &mut following => Some(ended),
        () = ends.next() => None,
    };
    stop.cancel();
    let ended = match ended {
        Some(ended) => ended,
        None => following.await,
    };
    stop_ops.cancel();
    let _ = ops.await;
    ended.context("the listener panicked")?.context("the listener failed")
}

/// Probes, version and metrics.
fn router(state: Arc<State>, metrics: Arc<Registry>) -> Router {
    let ready = move || {
        let trouble = state.trouble();
        // Who stands by for another one is as ready as it can be.
        let unready = state.document().phase == Phase::Starting || state.waits_for_nobody();
        let answer = match (unready, trouble) {
            (true, why) => (StatusCode::SERVICE_UNAVAILABLE, format!("[-] kubernetes {}\n", why.unwrap_or_default())),
            (_, Some(why)) => (StatusCode::OK, format!("[!] kubernetes {why}\n")),
            (_, None) => (StatusCode::OK, "[+] kubernetes ok\n".to_owned()),
        };
        std::future::ready(answer)
    };
    ops::router(metrics)
        .route("/readyz", get(ready))
        .route("/version", get(|| async { concat!("fingerpost ", env!("CARGO_PKG_VERSION"), "\n") }))
}
