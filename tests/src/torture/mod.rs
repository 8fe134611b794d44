//! The torture: clients write, read, watch and renew through several replicas while processes are killed and stopped,
//! networks cut and clocks moved; what every client saw is recorded and judged.
//!
//! - `writers`: whoever writes knows what the end must be: no acknowledged write is lost.
//! - `readers`: what a reader saw never moves backwards, and streams end up where lists are.
//! - `sessions`: no session ends that was being renewed, and those that died do end.
//! - `nemesis`: what goes wrong, one thing after another, from a seed.
//!
//! In the end everything is healed, and every replica must be equal to what etcd holds.

mod nemesis;
mod readers;
mod sessions;
mod writers;

use crate::etcd::{EtcdCluster, Setup};
use crate::replicas::Replicas;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, Method};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long, with how many, and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long things go wrong.
    pub time: Duration,
    /// Of all that is chosen.
    pub seed: u64,
    /// Registries.
    pub replicas: usize,
    /// Keys' owners, half of whom guard their writes.
    pub writers: usize,
    /// Sessions, each with an instance.
    pub sessions: usize,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Report {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that were refused, and so must not show.
    pub refused: u64,
    /// Writes of which nobody knows.
    pub unknown: u64,
    /// Reads that were judged.
    pub reads: u64,
    /// Events that streams brought.
    pub events: u64,
    /// Renewals that were acknowledged.
    pub renewals: u64,
    /// Sessions that were left to die, and did.
    pub deaths: u64,
    /// What went wrong on purpose, in order.
    pub faults: Vec<String>,
    /// What must not have happened.
    pub violations: Vec<String>,
}

/// What all clients share.
struct World {
    urls: Vec<String>,
    client: Client,
    started: Instant,
    /// Nobody writes any more, and nobody else is left to die.
    stop: CancellationToken,
    /// The sessions that live need not live on.
    rest: CancellationToken,
    /// Those that were left to die.
    ended: Mutex<Vec<sessions::Ended>>,
    violations: Mutex<Vec<String>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    reads: AtomicU64,
    events: AtomicU64,
    renewals: AtomicU64,
    deaths: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a client knows of a call that it made.
enum Outcome {
    /// It was carried out; the reply.
    Done(Reply),
    /// It was not carried out, and will not be.
    Refused(u16),
    /// It may have been, or may yet be.
    Unknown,
}

struct Reply {
    status: u16,
    json: Value,
    etag: Option<String>,
}

impl World {
    async fn violation(&self, what: String) {
        eprintln!("VIOLATION at {:.3} s: {what}", self.started.elapsed().as_secs_f64());
        self.violations.lock().await.push(what);
    }

    async fn call(
        &self,
        replica: usize,
        method: Method,
        path: &str,
        guard: Option<&str>,
        body: Option<Value>,
    ) -> Outcome {
        let mut request = self.client.request(method, format!("{}{path}", self.urls[replica]));
        if let Some(tag) = guard {
            request = match tag {
                "*" => request.header("if-none-match", "*"),
                tag => request.header("if-match", tag),
            };
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Outcome::Refused(0),
            Err(_) => return Outcome::Unknown,
        };
        let status = response.status().as_u16();
        let etag = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let Ok(text) = response.text().await else { return Outcome::Unknown };
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        match status {
            200..300 => Outcome::Done(Reply { status, json, etag }),
            500 | 504 => Outcome::Unknown,
            _ => Outcome::Refused(status),
        }
    }

    async fn get(&self, replica: usize, path: &str) -> Option<Reply> {
        match self.call(replica, Method::GET, path, None, None).await {
            Outcome::Done(reply) => Some(reply),
            Outcome::Refused(404) => Some(Reply { status: 404, json: Value::Null, etag: None }),
            _ => None,
        }
    }
}

/// Runs it all.
pub async fn torture(options: Options) -> Report {
    let etcd = EtcdCluster::start(Setup { members: 3, ..Setup::default() }).await;
    let mut cluster = Replicas::start_with(etcd, options.replicas, &[], true).await;
    let world = Arc::new(World {
        urls: cluster.replicas.iter().map(|replica| replica.url.clone()).collect(),
        client: Client::builder().timeout(Duration::from_secs(12)).build().expect("client"),
        started: Instant::now(),
        stop: CancellationToken::new(),
        rest: CancellationToken::new(),
        ended: Mutex::default(),
        violations: Mutex::default(),
        counts: Counts::default(),
    });
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut seed = || StdRng::seed_from_u64(rng.random());
    let writers: Vec<_> =
        (0..options.writers).map(|n| tokio::spawn(writers::write(Arc::clone(&world), n, n % 2 == 0, seed()))).collect();
    let readers: Vec<_> = (0..options.writers)
        .map(|n| tokio::spawn(readers::read(Arc::clone(&world), format!("w{n}"), seed())))
        .collect();
    let streams: Vec<_> = (0..options.replicas).map(|n| tokio::spawn(readers::follow(Arc::clone(&world), n))).collect();
    let sessions: Vec<_> =
        (0..options.sessions).map(|n| tokio::spawn(sessions::keep(Arc::clone(&world), n, seed()))).collect();
    let faults = nemesis::run(&world, &mut cluster, options.time, seed()).await;

    // Everything is healed by now; the clients go on for a little, and then nothing moves any more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.stop.cancel();
    let mut histories = Vec::new();
    for writer in writers {
        histories.push(writer.await.expect("writer"));
    }
    for reader in readers {
        reader.await.expect("reader");
    }
    for replica in &cluster.replicas {
        replica.ready().await;
    }
    // While the others live on: were all to fall silent now, all would be held.
    sessions::judge(&world).await;
    world.rest.cancel();
    for session in sessions {
        session.await.expect("session");
    }
    judge(&world, &mut cluster, histories, streams).await;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &world.counts;
    let violations = std::mem::take(&mut *world.violations.lock().await);
    if !violations.is_empty() {
        for (n, replica) in cluster.replicas.iter().enumerate() {
            eprintln!("--- log of replica {n}\n{}", replica.log());
        }
    }
    Report {
        acknowledged: get(&counts.acknowledged),
        refused: get(&counts.refused),
        unknown: get(&counts.unknown),
        reads: get(&counts.reads),
        events: get(&counts.events),
        renewals: get(&counts.renewals),
        deaths: get(&counts.deaths),
        faults,
        violations,
    }
}

/// All records of a replica, by key; the value without the revision.
async fn export(world: &World, replica: usize) -> Option<BTreeMap<String, Value>> {
    let reply = world.client.get(format!("{}/v1/export", world.urls[replica])).send().await.ok()?;
    let text = reply.error_for_status().ok()?.text().await.ok()?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Some(lines.filter_map(|line| Some((line["key"].as_str()?.to_owned(), line["value"].clone()))).collect())
}

/// The identities and sequence numbers of all instances that a replica lists.
async fn listed(world: &World, replica: usize) -> Option<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    let mut next = String::new();
    loop {
        let page = world.get(replica, &format!("/v1/namespaces/torture/instances?limit=1000{next}")).await?;
        for item in page.json["items"].as_array()? {
            let id = format!("{}/{}/{}", item["service"], item["source"], item["id"]);
            all.insert(id, item["labels"].clone());
        }
        match page.json["continue"].as_str() {
            Some(token) => next = format!("&continue={token}"),
            None => return Some(all),
        }
    }
}

async fn judge(
    world: &World,
    cluster: &mut Replicas,
    histories: Vec<writers::History>,
    streams: Vec<tokio::task::JoinHandle<()>>,
) {
    // What etcd holds, from etcd itself.
    let client = cluster.etcd.client().await;
    let prefix = "/fingerpost/v1/records/";
    let held = || async {
        let options = etcd_client::GetOptions::new().with_prefix();
        let reply = client.kv_client().get(prefix, Some(options)).await.expect("etcd answers");
        let pairs = reply.kvs().iter().map(|pair| {
            let key = pair.key_str().expect("UTF-8").trim_start_matches(prefix).to_owned();
            (key, serde_json::from_slice::<Value>(pair.value()).expect("JSON"))
        });
        pairs.collect::<BTreeMap<_, _>>()
    };
    // A last write may still be on its way to the one or the other.
    let deadline = Instant::now() + Duration::from_secs(30);
    let truth = loop {
        let truth = held().await;
        let mut same = true;
        for replica in 0..world.urls.len() {
            same &= export(world, replica).await.is_some_and(|export| export == truth);
        }
        if same || Instant::now() > deadline {
            break truth;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let instances: BTreeMap<&String, &Value> =
        truth.iter().filter(|(key, _)| key.starts_with("instances/torture/")).collect();
    for replica in 0..world.urls.len() {
        match export(world, replica).await {
            Some(export) if export == truth => {}
            Some(export) => {
                let differing = export.iter().filter(|(key, value)| truth.get(*key) != Some(value)).count();
                let missing = truth.keys().filter(|key| !export.contains_key(*key)).count();
                let what = format!("replica {replica} is not equal to etcd: {differing} differ, {missing} are missing");
                world.violation(what).await;
            }
            None => world.violation(format!("replica {replica} does not export")).await,
        }
        match listed(world, replica).await {
            Some(listed) if listed.len() == instances.len() => {}
            Some(listed) => {
                let what = format!("replica {replica} lists {} instances of {}", listed.len(), instances.len());
                world.violation(what).await;
            }
            None => world.violation(format!("replica {replica} does not list")).await,
        }
    }
    for history in histories {
        writers::judge(world, &history, &truth).await;
    }
    // The streams have to come to the same end; they judge that themselves, when told.
    for stream in streams {
        if tokio::time::timeout(Duration::from_secs(60), stream).await.is_err() {
            world.violation("a stream did not come to the end where lists are".to_owned()).await;
        }
    }
}
