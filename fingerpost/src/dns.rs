//! `fingerpost dns`: a DNS server apart from the registry, which follows it over the watch API and keeps what it knows on
//! disk, so that it answers whatever becomes of the registry.
//!
//! It holds the same replica as a registry does, fed from the stream ([`follow`]), and all that stands behind that is the
//! same code as in `serve`.

mod cache;
mod follow;
mod http;
mod identity;
mod records;
mod state;
mod view;

use crate::cli::GlobalArgs;
use crate::commands::{http_options, with_way_out};
use crate::config::{DnsArgs, DnsConfig};
use crate::names::{self, DnsNames, DnsObserver};
use crate::serve::signals::Ends;
use crate::serve::{self, Parts};
use anyhow::{Context, Result};
use fingerpost_client::{Follower, HttpRegistry};
use fingerpost_dns as dns;
use fingerpost_registry::live::{Display, LiveReplica};
use fingerpost_registry::server::{self, ConnectionMetrics, ServerLimits, Serving};
use follow::Follow;
use state::State;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn run(global: &GlobalArgs, args: DnsArgs) -> Result<()> {
    let config = DnsConfig::load(args)?;
    let answers = &config.answers;
    serve::start_log(&answers.log, answers.log_format)?;
    serve::raise_file_limit();
    serve::no_huge_pages();
    let mut ends = Ends::register()?;

    let urls = config.registry.as_ref().unwrap_or(&global.server);
    let registry = HttpRegistry::with_options(urls, http_options(global)).map_err(with_way_out)?;
    let _held = identity::hold(&answers.data_dir)?;
    let id = match &config.follower_id {
        Some(id) => id.clone(),
        None => identity::of(&answers.data_dir)?,
    };

    let live = LiveReplica::new(&answers.cluster_name);
    let index = Arc::new(dns::Index::new(names::index_config(answers)?)?);
    let (stop_http, stop_dns, stop_following) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());

    // All sockets first: a taken port is told before anything is begun.
    let listeners = server::bind(&config.http_listen, "--http-listen")?;
    let http_addresses: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let query_log = answers.names.query_log.clone().map(names::query_log).transpose()?;
    let listen = dns::Listen { query_log: query_log.clone(), ..dns::Listen::on(&answers.dns_listen) };
    let dns_server = dns::Server::bind(Arc::clone(&index), listen, stop_dns.clone())?;
    let dns_addresses = dns_server.udp_addresses().to_vec();
    let forward = answers.forwarding.clone().map(dns::forward::Forward::open).transpose()?;
    let dns_server = match &forward {
        Some(forward) => dns_server.forwarding(Arc::clone(forward))?,
        None => dns_server,
    };

    let state = Arc::new(State::new(id.clone(), urls.clone()));
    let mut metrics = prometheus_client::registry::Registry::default();
    dns_server.metrics().register(&mut metrics);
    if let Some(forward) = &forward {
        forward.register(&mut metrics);
    }
    state::register(&mut metrics, &state, &live);
    let names =
        DnsNames::new(Arc::clone(&index), Arc::clone(&live), dns_addresses.clone(), answers.cluster_name.clone());
    let names = Arc::new(names.forwarding(forward));

    // It is the follower that says when what is missing may be denied.
    let observer = DnsObserver::new(Arc::clone(&index), true);
    let display = Display::new(Arc::clone(&live), vec![Arc::new(observer)]);
    let follower = Follower { id: id.clone(), kind: "dns".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let reporter = registry.report_as(follower)?;
    let cache = answers.data_dir.join(cache::FILE);
    let follow = Follow::new(registry, display, Arc::clone(&index), reporter, Arc::clone(&state), cache);

    let mut parts: Parts = JoinSet::new();
    let following = follow.run(stop_following.clone());
    parts.spawn(async move { ("the follower", following.await) });
    let reopening = names::reopen_on_hangup(query_log, answers.names.query_log.as_ref())?;
    parts.spawn(async move {
        let ended = tokio::select! {
            ended = dns_server.run() => ended,
            never = reopening => match never {},
        };
        ("DNS", ended.map_err(Into::into))
    });
    let local = http_addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
    let router =
        http::router(http::Parts { state, names, metrics: Arc::new(metrics), local, stop: stop_following.clone() });
    let limits = ServerLimits {
        connections: 256,
        of_address: 128,
        first_head: Duration::from_secs(5),
        ..ServerLimits::default()
    };
    let http = Serving { router, tls: None, limits, metrics: ConnectionMetrics::default() };
    let http = server::serve(listeners, http, stop_http.clone());
    parts.spawn(async move {
        http.await;
        ("the HTTP server", Ok(()))
    });
    greet(&http_addresses, &dns_addresses)?;
    info!(registry = urls.join(","), %id, http = ?http_addresses, dns = ?dns_addresses, "following");

    let failed = tokio::select! {
        ended = parts.join_next() => Some(serve::unexpected(ended)),
        () = ends.next() => None,
    };
    info!("shutting down");
    // Nobody is to wait for this server any more before it stops to answer.
    let stops = [("the follower", stop_following), ("DNS", stop_dns), ("the HTTP server", stop_http)];
    serve::stop_in_order(parts, stops.into_iter(), failed, &mut ends).await
}

/// One line an address: scripts that chose port 0 read them.
fn greet(http: &[SocketAddr], dns: &[SocketAddr]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for address in http {
        writeln!(out, "http http://{address}")?;
    }
    for address in dns {
        writeln!(out, "dns  {address}")?;
    }
    out.flush().context("standard output")
}
