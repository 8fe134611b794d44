//! How fast the stores are on this machine.
//!
//! `cargo run --release -p fingerpost-registry --example store_speed [folder [part]]` measures the embedded store. It prints
//! the disk's own sync time first: everything else is to be read against it. The parts are `single`, `batches` and `killed`.
//!
//! `… --example store_speed -- --etcd http://127.0.0.1:2379` measures the store in etcd, beside puts of the same size that go
//! to etcd directly, and how soon a replica with 100,000 instances is ready.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use fingerpost_catalog::{Instance, Key, Labels, Record};
use fingerpost_registry::live::{Feed, LiveReplica};
use fingerpost_registry::store::embedded::{EmbeddedOptions, EmbeddedStore};
use fingerpost_registry::store::etcd::{EtcdOptions, EtcdStore};
use fingerpost_registry::store::{Action, Commit, Operation, ReadAt, Store};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn put(number: u64, generation: u64) -> Operation {
    let key: Key = format!("instances/prod/service-{}/kubernetes:main/pod-{number:08}", number % 1000).parse().unwrap();
    let labels: Labels = [("app", "shop"), ("version", "v1.2.3"), ("track", "stable")].into_iter().collect();
    let instance = Instance {
        addresses: vec![std::net::IpAddr::from([10, (number >> 16) as u8, (number >> 8) as u8, number as u8])],
        labels,
        weight: Some((generation % 60_000) as u16),
        zone: Some("eu-central-1a".to_owned()),
        node: Some(format!("node-{}", number % 500)),
        ..Instance::default()
    };
    Operation { key, action: Action::Put(Arc::new(Record::Instance(instance))) }
}

fn print_sync_time(dir: &Path) {
    let mut file = std::fs::File::create(dir.join("probe")).unwrap();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let began = Instant::now();
            file.sync_data().unwrap();
            began.elapsed()
        })
        .collect();
    times.sort();
    println!("sync of 4 KiB appended: p50 {:?}, p99 {:?}", times[100], times[198]);
    std::fs::remove_file(dir.join("probe")).unwrap();
}

/// Runs tasks that commit what `make` gives them until the time is over; prints what came of it.
async fn run(
    name: &str,
    store: &Arc<impl Store>,
    tasks: usize,
    time: Duration,
    make: impl Fn(u64) -> Commit + Send + Sync + Clone + 'static,
) {
    let (next, records) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (store, next, records, make) =
                (Arc::clone(store), Arc::clone(&next), Arc::clone(&records), make.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < time {
                    let commit = make(next.fetch_add(1, Ordering::Relaxed));
                    let operations = commit.operations.len() as u64;
                    let start = Instant::now();
                    store.commit(commit).await.unwrap();
                    times.push(start.elapsed());
                    records.fetch_add(operations, Ordering::Relaxed);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{name}: {:.0} commits/s, {:.0} records/s; p50 {:?}, p99 {:?}, max {:?}; {} records, {} MB on disk",
        times.len() as f64 / took,
        records.load(Ordering::Relaxed) as f64 / took,
        at(0.5),
        at(0.99),
        at(1.0),
        store.status().records,
        store.status().disk_bytes.unwrap_or(0) >> 20,
    );
}

async fn read(store: &impl Store) {
    let began = Instant::now();
    let mut contents = store.read_all(ReadAt::Latest).await.unwrap();
    let mut count = 0;
    while let Some(batch) = contents.records.recv().await {
        count += batch.unwrap().len();
    }
    let took = began.elapsed();
    println!("read_all of {count} records: {took:?}, {:.0} records/s", count as f64 / took.as_secs_f64());
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0)
}

const RECORDS: u64 = 500_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [dir, child] = arguments.as_slice()
        && child == "fill"
    {
        // Ends without closing anything, as if killed.
        let store = EmbeddedStore::open(EmbeddedOptions::new(dir)).unwrap();
        for batch in 0..RECORDS / 100 {
            let operations = (0..100).map(|n| put(batch * 100 + n, 0)).collect();
            store.commit(Commit { operations, ..Commit::default() }).await.unwrap();
        }
        std::process::abort();
    }
    if let [flag, url] = arguments.as_slice()
        && flag == "--etcd"
    {
        return etcd(url).await;
    }
    let root = PathBuf::from(arguments.first().map_or("target", String::as_str));
    let wanted = |part: &str| arguments.get(1).is_none_or(|only| only == part);
    let dir = tempfile::tempdir_in(&root).unwrap();
    print_sync_time(dir.path());
    if wanted("single") {
        single(&dir.path().join("single")).await;
    }
    if wanted("batches") {
        batches(&dir.path().join("batches")).await;
    }
    if wanted("killed") {
        killed(&dir.path().join("killed")).await;
    }
}

async fn single(path: &Path) {
    let store = EmbeddedStore::open(EmbeddedOptions::new(path)).unwrap();
    let one = |n: u64| Commit { operations: vec![put(n, 0)], ..Commit::default() };
    run("single operations, 1 task", &store, 1, Duration::from_secs(3), one).await;
    let one = |n: u64| Commit { operations: vec![put(n + 10_000_000, 0)], ..Commit::default() };
    run("single operations, 64 tasks", &store, 64, Duration::from_secs(5), one).await;
    let over = |n: u64| Commit { operations: vec![put(n * 7_919 % 3_000, n)], ..Commit::default() };
    run("overwrites, 64 tasks", &store, 64, Duration::from_secs(5), over).await;
    store.close().await;
}

async fn batches(path: &Path) {
    let store = EmbeddedStore::open(EmbeddedOptions::new(path)).unwrap();
    let batch = |n: u64| Commit { operations: (0..100).map(|m| put(n * 100 + m, 0)).collect(), ..Commit::default() };
    let before = memory();
    run("batches of 100 unique keys, 16 tasks", &store, 16, Duration::from_secs(10), batch).await;
    println!("memory: {} MB more", (memory().saturating_sub(before)) >> 10);
    read(&*store).await;
    let records = store.status().records;
    let over = move |n: u64| Commit {
        operations: (0..64).map(|m| put((n * 64 + m) * 7_919_777 % records, n + 1)).collect(),
        ..Commit::default()
    };
    run("overwrites in batches of 64, random keys, 16 tasks", &store, 16, Duration::from_secs(10), over).await;
    store.close().await;
    let began = Instant::now();
    let store = EmbeddedStore::open(EmbeddedOptions::new(path)).unwrap();
    println!("open after a clean end with {} records: {:?}", store.status().records, began.elapsed());
    store.close().await;
}

async fn killed(path: &Path) {
    let fill = std::process::Command::new(std::env::current_exe().unwrap()).arg(path).arg("fill").status().unwrap();
    assert!(!fill.success());
    let began = Instant::now();
    let store = EmbeddedStore::open(EmbeddedOptions::new(path)).unwrap();
    println!("open after an abrupt end with {} records: {:?}", store.status().records, began.elapsed());
    assert_eq!(store.status().records, RECORDS);
    read(&*store).await;
    store.close().await;
}

async fn etcd(url: &str) {
    let mut options = EtcdOptions::new([url]);
    options.prefix = format!("/speed/{:x}", rand::random::<u64>());
    let store = EtcdStore::open(options.clone()).await.unwrap();
    for _ in 0..2 {
        direct(url, &options.prefix).await;
        let one =
            |_| Commit { operations: vec![put(rand::random_range(0..1_000_000), rand::random())], ..Commit::default() };
        run("single operations through the store, 256 tasks", &store, 256, Duration::from_secs(5), one).await;
    }
    let batch = |n: u64| Commit {
        operations: (0..100).map(|m| put(2_000_000 + (n * 100 + m) % 100_000, n)).collect(),
        ..Commit::default()
    };
    run("batches of 100, 64 tasks", &store, 64, Duration::from_secs(5), batch).await;
    store.close().await;

    options.prefix = format!("/speed/{:x}", rand::random::<u64>());
    let store = EtcdStore::open(options.clone()).await.unwrap();
    for batch in 0..1000 {
        let operations = (0..100).map(|n| put(batch * 100 + n, 0)).collect();
        store.commit(Commit { operations, ..Commit::default() }).await.unwrap();
    }
    store.close().await;
    for _ in 0..5 {
        let began = Instant::now();
        let store = EtcdStore::open(options.clone()).await.unwrap();
        let opened = began.elapsed();
        let live = LiveReplica::new("main");
        let stop = tokio_util::sync::CancellationToken::new();
        let feed = tokio::spawn(
            Feed::new(Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&live), Vec::new()).run(stop.clone()),
        );
        live.wait_loaded().await;
        println!("{} records: open after {opened:?}, ready after {:?}", store.status().records, began.elapsed());
        stop.cancel();
        feed.await.unwrap().unwrap();
        store.close().await;
    }
}

/// Puts of the same size, straight to etcd over one client.
async fn direct(url: &str, prefix: &str) {
    let client = etcd_client::Client::connect([url], None).await.unwrap();
    let began = Instant::now();
    let tasks: Vec<_> = (0..256)
        .map(|_| {
            let mut client = client.clone();
            let prefix = prefix.to_owned();
            tokio::spawn(async move {
                let mut count = 0;
                while began.elapsed() < Duration::from_secs(5) {
                    let operation = put(rand::random_range(0..1_000_000), rand::random());
                    let Action::Put(record) = operation.action else { continue };
                    let key = format!("{prefix}/direct/{}", operation.key);
                    client.put(key, record.encode(), None).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap();
    }
    println!("direct puts, 256 tasks: {:.0}/s", f64::from(count) / began.elapsed().as_secs_f64());
}
