//! `fingerpost serve`: store, feed, REST API and DNS in one process, started in order and stopped in order.

mod greeting;
mod kubernetes;
mod metrics;
pub(crate) mod signals;
mod store;

use crate::config::{LogFormat, ServeArgs, ServeConfig};
use crate::local::LocalRegistry;
use crate::names::{self, DnsNames, DnsObserver};
use anyhow::{Context, Result, anyhow};
use fingerpost_dns as dns;
use fingerpost_listener::Listener;
use fingerpost_registry::access::grants::GrantsFile;
use fingerpost_registry::access::reload::Reload;
use fingerpost_registry::access::{Access, Authenticator, Tls};
use fingerpost_registry::api::{self, Api, HttpMetrics};
use fingerpost_registry::checks::{self, History, NetworkProbe, TargetRules};
use fingerpost_registry::followers::{self, Visibility};
use fingerpost_registry::live::{Feed, LiveReplica, Observer};
use fingerpost_registry::peers::HttpPeers;
use fingerpost_registry::peers::heartbeats::PeerRelay;
use fingerpost_registry::server::{self, ConnectionMetrics, ServerLimits, Serving};
use fingerpost_registry::sessions::{self, SessionOptions};
use fingerpost_registry::sources::Sources;
use fingerpost_registry::store::Store;
use fingerpost_registry::watch::{Hub, StreamLimits};
use fingerpost_registry::writes::Writer;
use kubernetes::{Gate, registry_name};
use signals::Ends;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// The parts of the process that run side by side; each ends only when it is told to.
pub(crate) type Parts = JoinSet<(&'static str, Result<()>)>;

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let config = ServeConfig::load(args)?;
    start_log(&config.answers.log, config.answers.log_format)?;
    let started = Instant::now();
    raise_file_limit();
    no_huge_pages();
    if config.insecure {
        warn!(
            tls = config.tls.is_some(),
            tokens = config.tokens.is_some(),
            "--insecure: the REST API is served beyond loopback even without TLS or tokens, and without tokens whoever \
             reaches it can read and change everything"
        );
    }

    if config.etcd.is_some() && config.advertise_url.is_none() {
        warn!(
            "--store etcd without --advertise-url: other replicas can't reach this one, so renewals of sessions at home \
             here cost a write each where they come to another replica"
        );
    }

    let mut ends = Ends::register()?;
    let Some(store) = store::open(&config, &mut ends).await? else { return Ok(()) };
    let served = serve(&config, Arc::clone(&store), started, &mut ends).await;
    // Whatever happened, what was promised to be kept is kept.
    store.close().await;
    served
}

async fn serve(config: &ServeConfig, store: Arc<dyn Store>, started: Instant, ends: &mut Ends) -> Result<()> {
    let live = LiveReplica::new(&config.answers.cluster_name);
    let hub = Hub::new(config.etcd.is_some());
    let index = Arc::new(dns::Index::new(names::index_config(&config.answers)?)?);
    let (stop_http, stop_dns, stop_feed) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let stop_checks = CancellationToken::new();
    let stop_sources = CancellationToken::new();
    let stop_sessions = CancellationToken::new();
    let stop_followers = CancellationToken::new();
    let peers = Arc::new(HttpPeers::open(config.peer_ca.as_deref())?);
    let sessions = sessions::Engine::new(
        Arc::clone(&store),
        Arc::clone(&live),
        Arc::clone(&peers) as _,
        SessionOptions::default(),
    );

    // All sockets first: a taken port is told before anything is begun.
    let listeners = server::bind(&config.http_listen, "--http-listen")?;
    let ops_listeners = server::bind(&config.ops_listen, "--ops-listen")?;
    let ops_addresses: Vec<SocketAddr> = ops_listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let http_addresses: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let query_log = config.answers.names.query_log.clone().map(names::query_log).transpose()?;
    let listen = dns::Listen { query_log: query_log.clone(), ..dns::Listen::on(&config.answers.dns_listen) };
    let dns_server = dns::Server::bind(Arc::clone(&index), listen, stop_dns.clone())?;
    let dns_addresses = dns_server.udp_addresses().to_vec();
    let forward = config.answers.forwarding.clone().map(dns::forward::Forward::open).transpose()?;
    let dns_server = match &forward {
        Some(forward) => dns_server.forwarding(Arc::clone(forward))?,
        None => dns_server,
    };

    let mut registry = prometheus_client::registry::Registry::default();
    let http_metrics = HttpMetrics::register(&mut registry);
    let connections = ConnectionMetrics::default();
    connections.register(&mut registry);
    dns_server.metrics().register(&mut registry);
    if let Some(forward) = &forward {
        forward.register(&mut registry);
    }
    metrics::register(&mut registry, &store, &live, &hub);
    sessions::register(&mut registry, &sessions);
    let visibility = Visibility::new(
        Arc::clone(&live),
        Arc::clone(&hub),
        store.members(),
        Arc::clone(&peers) as _,
        stop_http.clone(),
    );
    followers::register(&mut registry, &visibility);

    let sources = Sources::new(Arc::clone(&store), Arc::clone(&live), config.sources);
    // Whoever reaches an API on loopback is on this machine, and gets to its loopback without us.
    let loopback = http_addresses.iter().all(|address| address.ip().to_canonical().is_loopback());
    let rules = TargetRules { allow: config.check_allow.clone(), loopback };
    let writer =
        Writer::new(Arc::clone(&store), Arc::clone(&live)).with_rules(rules.clone()).noting(Arc::clone(&sources));
    let check_tls = config.check_ca.as_deref().map_or_else(|| Ok(checks::Tls::new(Vec::new())), checks::Tls::open)?;
    let checks = checks::Runner::new(
        Arc::clone(&store),
        Arc::clone(&live),
        Arc::new(NetworkProbe::new(check_tls)),
        Arc::new(PeerRelay::new(peers, store.members())),
        rules.clone(),
        checks::Limits::default(),
    );
    checks.register(&mut registry);
    let history = Arc::new(History::default());

    let cluster = config.answers.cluster_name.clone();
    let names = DnsNames::new(Arc::clone(&index), Arc::clone(&live), dns_addresses.clone(), cluster);
    let names = Arc::new(names.forwarding(forward));
    let tls = config.tls.clone().map(Tls::open).transpose()?.map(Arc::new);
    if let Some(tls) = &tls {
        tls.register(&mut registry);
    }
    let grants = config.tokens.as_deref().map(GrantsFile::open).transpose()?.map(Arc::new);
    let authenticator = grants.clone().map_or(Authenticator::Open, Authenticator::File);
    let access = Arc::new(Access::new(authenticator, tls.is_some(), &mut registry));
    let reload = Reload::new(tls.clone(), grants, &mut registry);
    // Without anything to read again, the signal does what it always does: end the process.
    let hangup = reload.is_needed().then(|| signal(SignalKind::hangup())).transpose()?;

    let stop_listener = CancellationToken::new();
    let listener = match &config.kubernetes {
        None => None,
        Some(kubernetes) => {
            let local = LocalRegistry {
                live: Arc::clone(&live),
                writer: writer.clone(),
                sessions: Arc::clone(&sessions),
                checks: checks.clone(),
                history: Arc::clone(&history),
                hub: Arc::clone(&hub),
                stream_limits: StreamLimits::default(),
                shutdown: stop_http.clone(),
            };
            let mut options = kubernetes.options(&config.answers.cluster_name)?;
            options.registry = registry_name(config);
            let (source, scope) = (options.source.clone(), options.scope());
            let listener = Listener::new(kubernetes.cluster.config().await?, Arc::new(local), options, &mut registry)?;
            let gate = Gate::new((source, scope), listener.state(), Arc::clone(&live), Arc::clone(&sources));
            Some((listener, gate))
        }
    };

    let routers = api::routers(Api {
        store: Arc::clone(&store),
        live: Arc::clone(&live),
        writer: writer.clone(),
        sources: Arc::clone(&sources),
        sessions: Arc::clone(&sessions),
        hub: Arc::clone(&hub),
        visibility: Arc::clone(&visibility),
        checks: checks.clone(),
        history: Arc::clone(&history),
        stream_limits: StreamLimits::default(),
        names: Some(names),
        cluster: listener.as_ref().map(|(_, gate)| Arc::clone(gate) as _),
        metrics: Arc::new(registry),
        http_metrics,
        listen: http_addresses.clone(),
        insecure: config.insecure,
        access,
        started,
        shutdown: stop_http.clone(),
    });

    let mut parts: Parts = JoinSet::new();
    let sources = sources.run(writer, stop_sources.clone());
    parts.spawn(async move {
        sources.await;
        ("the watch over sources", Ok(()))
    });
    let followed = visibility.run(stop_followers.clone());
    parts.spawn(async move {
        followed.await;
        ("the watch over followers", Ok(()))
    });
    let observers: Vec<Arc<dyn Observer>> = vec![
        Arc::new(DnsObserver::new(Arc::clone(&index), listener.is_some())),
        hub,
        history,
        Arc::clone(&sessions) as _,
        Arc::new(checks.clone()),
    ];
    let feed = Feed::new(Arc::clone(&store), Arc::clone(&live), observers).run(stop_feed.clone());
    parts.spawn(async move { ("the feed", feed.await.map_err(Into::into)) });
    let reopening = names::reopen_on_hangup(query_log, config.answers.names.query_log.as_ref())?;
    parts.spawn(async move {
        let ended = tokio::select! {
            ended = dns_server.run() => ended,
            never = reopening => match never {},
        };
        ("DNS", ended.map_err(Into::into))
    });
    let kept = sessions.run(stop_sessions.clone());
    parts.spawn(async move {
        kept.await;
        ("the sessions", Ok(()))
    });
    let running = checks.run(stop_checks.clone());
    parts.spawn(async move {
        running.await;
        ("the checks", Ok(()))
    });
    let follows = listener.is_some();
    if let Some((listener, gate)) = listener {
        let (live, stop) = (Arc::clone(&live), stop_listener.clone());
        parts.spawn(async move {
            // It reads the registry first, which must be there.
            let begun = async {
                live.wait_loaded().await;
                listener.run(stop.clone()).await
            };
            let opened = async {
                gate.open(index).await;
                std::future::pending::<()>().await;
            };
            let ended = tokio::select! {
                ended = begun => ended,
                () = opened => Ok(()),
                () = stop.cancelled(), if !live.is_loaded() => Ok(()),
            };
            ("the Kubernetes listener", ended.map_err(Into::into))
        });
    }
    let https = tls.is_some();
    let limits = ServerLimits::default();
    let http = Serving { router: routers.api, tls, limits, metrics: connections.clone() };
    let http = server::serve(listeners, http, stop_http.clone());
    let ops = Serving {
        router: routers.ops,
        tls: None,
        limits: ServerLimits { connections: 256, of_address: 128, first_head: Duration::from_secs(5), ..limits },
        metrics: ConnectionMetrics::default(),
    };
    let ops = server::serve(ops_listeners, ops, stop_http.clone());
    let reload = reload.run(hangup, stop_http.clone());
    parts.spawn(async move {
        tokio::join!(http, ops, reload);
        ("the HTTP server", Ok(()))
    });

    let mut failed = None;
    let loaded = tokio::select! {
        () = live.wait_loaded() => true,
        ended = parts.join_next() => {
            failed = Some(unexpected(ended));
            false
        }
        () = ends.next() => false,
    };
    if loaded {
        greeting::print(config, https, &http_addresses, &ops_addresses, &dns_addresses)?;
        info!(https, http = ?http_addresses, dns = ?dns_addresses, zone = %config.answers.names.zone, "ready");
        failed = tokio::select! {
            ended = parts.join_next() => Some(unexpected(ended)),
            () = ends.next() => None,
        };
    }
    info!("shutting down");
    // Requests under way first: their writes need the feed, and their clients may be told of it by DNS. Where a part has
    // failed, there is no order to keep.
    let listener = follows.then_some(("the Kubernetes listener", stop_listener));
    let stops = [
        ("the HTTP server", stop_http),
        ("the checks", stop_checks),
        ("the sessions", stop_sessions),
        ("the watch over followers", stop_followers),
        ("the watch over sources", stop_sources),
        ("DNS", stop_dns),
        ("the feed", stop_feed),
    ];
    stop_in_order(parts, listener.into_iter().chain(stops), failed, ends).await
}

/// Ends the parts one after the other; where one has failed, there is no order to keep. Told again to end, it waits for
/// nobody.
pub(crate) async fn stop_in_order(
    mut parts: Parts,
    mut stops: impl Iterator<Item = (&'static str, CancellationToken)>,
    mut failed: Option<anyhow::Error>,
    ends: &mut Ends,
) -> Result<()> {
    let mut waiting_for = None;
    loop {
        if failed.is_some() {
            stops.by_ref().for_each(|(_, stop)| stop.cancel());
        } else if waiting_for.is_none()
            && let Some((part, stop)) = stops.next()
        {
            stop.cancel();
            waiting_for = Some(part);
        }
        let ended = tokio::select! {
            ended = parts.join_next() => ended,
            // Told twice: whoever is still served has to go, but the store is closed in order all the same.
            () = ends.next() => break,
        };
        match ended {
            None => break,
            Some(Ok((part, Ok(())))) if waiting_for == Some(part) => waiting_for = None,
            Some(Ok((_, Ok(())))) if failed.is_some() => {}
            other => {
                failed.get_or_insert_with(|| unexpected(other));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// A part that ended by itself takes the process with it, loudly: half a server would answer wrongly.
pub(crate) fn unexpected(ended: Option<Result<(&'static str, Result<()>), JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((part, Ok(())))) => anyhow!("{part} ended by itself"),
        Some(Ok((part, Err(error)))) => error.context(format!("{part} failed")),
        Some(Err(error)) => anyhow!(error).context("a part of the server panicked"),
        None => anyhow!("all parts of the server ended"),
    }
}

pub(crate) fn start_log(filter: &str, format: LogFormat) -> Result<()> {
    // Its errors are told by whoever asked for the connection, as a failed check or an unreachable peer: an ERROR line for each
    // certificate that somebody else's server shows would be noise. A filter that names it has it back.
    // So with kube and its connections: the listener says the same in words that name the way out.
    let quiet = "rustls_platform_verifier=off,kube_client=off,kube_runtime=off";
    let filter = EnvFilter::try_new(format!("{quiet},{filter}"))
        .with_context(|| format!("log filter `{filter}`: write it as in `info,fingerpost_dns=debug`"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log
            .with_ansi({
                use std::io::IsTerminal;
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            })
            .init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// A connection's buffers are mostly empty. In huge pages, all of their memory would be resident, and the process twice
/// as large.
pub(crate) fn no_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        warn!(%error, "can't do without huge pages; memory use will be higher");
    }
}

/// Every watch stream and connection is a file; the soft limit that shells give is for interactive programs.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "can't raise the limit of open files");
        }
    }
}
