//! Many sessions over two replicas: what keeping them costs, what happens when all of them fall silent at once, and how
//! soon those are noticed that really died.

use crate::http;
use crate::process::Fingerpost;
use anyhow::{Context, Result, bail};
use fingerpost_tests::etcd::{EtcdCluster, Setup};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Sessions.
    #[arg(long, default_value_t = 20_000)]
    sessions: usize,
    /// Instances in all.
    #[arg(long, default_value_t = 100_000)]
    instances: usize,
    /// Their time to live in seconds; each is renewed three times in it.
    #[arg(long, default_value_t = 15)]
    ttl: u64,
    /// Seconds over which the cost of keeping them is measured.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Connections that renewals come over, half to each replica, each call with the id of one session.
    #[arg(long, default_value_t = 128)]
    connections: usize,
}

async fn call(connection: &mut http::Connection, method: &str, path: &str, body: &str) -> Result<Value> {
    let reply = connection.call(&http::request(method, path, "application/json", body), true).await?;
    if !(200..300).contains(&reply.status) {
        bail!("{method} {path} answers {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
    }
    serde_json::from_slice(&reply.body).context("the reply is not JSON")
}

/// Sessions that are renewed: the first so many of them.
struct Keepers {
    living: AtomicUsize,
    renewals: AtomicU64,
    lost: AtomicU64,
}

async fn create(at: SocketAddr, ids: std::ops::Range<usize>, options: &Options) -> Result<Vec<String>> {
    let each = options.instances / options.sessions;
    let mut connection = http::Connection::open(at).await?;
    let mut made = Vec::new();
    for n in ids {
        let body = format!(r#"{{"name":"s{n}","ttlSeconds":{},"graceSeconds":3600}}"#, options.ttl);
        let session = call(&mut connection, "POST", "/v1/sessions", &body).await?;
        let id = session["id"].as_str().context("a session without id")?.to_owned();
        let operations: Vec<String> = (0..each)
            .map(|k| {
                let address = format!("10.{}.{}.{k}", n >> 8, n & 255);
                format!(
                    r#"{{"op":"put","kind":"instance","object":{{"namespace":"bench","service":"s{}","id":"i{n}-{k}","addresses":["{address}"],"session":"{id}"}}}}"#,
                    n % 1000
                )
            })
            .collect();
        call(&mut connection, "POST", "/v1/batch", &format!(r#"{{"operations":[{}]}}"#, operations.join(","))).await?;
        made.push(id);
    }
    Ok(made)
}

/// Renews its share of the sessions, each every third of the TTL, spread evenly.
async fn keep(at: SocketAddr, mine: Vec<(usize, String)>, ttl: Duration, keepers: Arc<Keepers>) -> Result<()> {
    let mut connection = http::Connection::open(at).await?;
    let every = ttl / 3;
    let pause = every / mine.len().max(1) as u32;
    let mut due = Instant::now();
    loop {
        for (n, id) in &mine {
            due += pause;
            tokio::time::sleep_until(due.into()).await;
            if *n >= keepers.living.load(Ordering::Relaxed) {
                continue;
            }
            let reply = call(&mut connection, "POST", "/v1/sessions/renew", &format!(r#"{{"ids":["{id}"]}}"#)).await?;
            keepers.renewals.fetch_add(1, Ordering::Relaxed);
            if !matches!(reply["items"][0]["state"].as_str(), Some("alive" | "suspect")) {
                keepers.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Each over a connection of its own: one that is idle for long is closed.
async fn status(at: SocketAddr) -> Result<Value> {
    call(&mut http::Connection::open(at).await?, "GET", "/v1/status", "").await
}

async fn sessions(at: SocketAddr) -> Result<Value> {
    Ok(status(at).await?["sessions"].clone())
}

async fn critical(at: SocketAddr) -> Result<u64> {
    status(at).await?["catalog"]["health"]["critical"].as_u64().context("no figure")
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!("== sessions: {} of {} s, {} instances, two replicas", options.sessions, options.ttl, options.instances);
    let folder = tempfile::tempdir()?;
    crate::machine::describe(folder.path())?;
    let etcd = EtcdCluster::start(Setup { fsync: true, ..Setup::default() }).await;
    let flags = ["--store", "etcd", "--etcd-endpoints", &etcd.endpoints().join(",")];
    let replicas = [
        Fingerpost::start_peer(&folder.path().join("a"), &flags)?,
        Fingerpost::start_peer(&folder.path().join("b"), &flags)?,
    ];
    for replica in &replicas {
        let request = http::request("GET", "/readyz", "", "");
        while http::Connection::open(replica.http).await?.call(&request, false).await?.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let ttl = Duration::from_secs(options.ttl);
    let keepers = Arc::new(Keepers {
        living: AtomicUsize::new(options.sessions),
        renewals: AtomicU64::new(0),
        lost: AtomicU64::new(0),
    });
    // As they are made, they are kept: making them all takes longer than a TTL.
    let begun = Instant::now();
    let mut keeping = Vec::new();
    let share = options.sessions.div_ceil(options.connections);
    for (n, first) in (0..options.sessions).step_by(share).enumerate() {
        let ids = first..(first + share).min(options.sessions);
        let at = replicas[n % 2].http;
        let made = create(at, ids.clone(), &options).await?;
        // Renewed through the other one half of the time: half of all renewals come to a replica that is not their home.
        let mine = ids.zip(made).collect();
        keeping.push(tokio::spawn(keep(at, mine, ttl, Arc::clone(&keepers))));
    }
    println!("  made in {:.1} s", begun.elapsed().as_secs_f64());
    let at = replicas[0].http;
    tokio::time::sleep(ttl).await;

    let revision = || async {
        let mut client = etcd.client().await;
        client.get("none", None).await.ok().and_then(|reply| Some(reply.header()?.revision()))
    };
    let cpu = || -> Result<Duration> { Ok(replicas[0].process.cpu()? + replicas[1].process.cpu()?) };
    let (written, spent, renewed) = (revision().await, cpu()?, keepers.renewals.load(Ordering::Relaxed));
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let time = begun.elapsed().as_secs_f64();
    let renewals = (keepers.renewals.load(Ordering::Relaxed) - renewed) as f64 / time;
    let spent = (cpu()? - spent).as_secs_f64() / time;
    let written = revision().await.zip(written).map_or(-1, |(after, before)| after - before);
    println!(
        "  {renewals:.0} renewals a second, each a call of its own: {spent:.2} cores for both replicas \
         ({:.1} µs a renewal; goal: under 0.5 cores), {written} writes to etcd (goal: 0)",
        spent * 1e6 / renewals
    );
    for (n, replica) in replicas.iter().enumerate() {
        println!("  replica {n}: {} MB resident", replica.process.resident()? >> 20);
    }

    // All fall silent at once.
    keepers.living.store(0, Ordering::Relaxed);
    tokio::time::sleep(ttl + Duration::from_secs(5)).await;
    let held = sessions(at).await?;
    let lost = critical(at).await?;
    println!(
        "  all silent for {} s: {lost} instances critical (goal: 0); {held}",
        (ttl + Duration::from_secs(5)).as_secs()
    );
    keepers.living.store(options.sessions, Ordering::Relaxed);
    tokio::time::sleep(ttl * 3).await;
    println!("  all back: {}", sessions(at).await?);

    // One in a hundred dies.
    let dead = options.sessions / 100;
    let each = (options.instances / options.sessions) as u64;
    let before = critical(at).await?;
    keepers.living.store(options.sessions - dead, Ordering::Relaxed);
    let died = Instant::now();
    let wanted = before + dead as u64 * each;
    while critical(at).await? < wanted {
        if died.elapsed() > ttl * 4 {
            bail!("only {} of {wanted} instances are critical after {:?}", critical(at).await?, died.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let noticed = died.elapsed();
    tokio::time::sleep(ttl).await;
    let after = critical(at).await?;
    println!(
        "  1 % dead at once: all {} instances critical {:.1} s after their last renewal could have been sent (goal: within \
         {} s); {} others disturbed (goal: 0), {} renewals lost",
        wanted - before,
        noticed.as_secs_f64(),
        options.ttl + 2,
        after - wanted,
        keepers.lost.load(Ordering::Relaxed)
    );
    for task in keeping {
        if task.is_finished() {
            task.await?.context("a keeper ended")?;
        }
    }
    Ok(())
}
