//! Registering and listing over HTTP, beside r-nacos.
//!
//! r-nacos keeps ephemeral instances in memory only; Fingerpost's writes are on disk before the reply. Both are driven
//! by the same generator over 64 kept-alive connections, in turns, so that noise hits both.

use crate::http::{self, Outcome};
use crate::process::{self, Fingerpost, Process};
use crate::{machine, report};
use anyhow::Result;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// Services that registrations are spread over.
const SERVICES: u64 = 100;
/// Instances in the service that is listed.
const LISTED: u64 = 140;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Rounds; each measures every server once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where the data folder is made; its disk is what is measured.
    #[arg(long)]
    folder: Option<std::path::PathBuf>,
}

fn address(n: u64) -> String {
    format!("10.{}.{}.{}", (n >> 16) & 255, (n >> 8) & 255, n & 255)
}

fn put(n: u64) -> Vec<u8> {
    let body = format!(
        r#"{{"addresses":["{}"],"ports":[{{"name":"http","port":8080}}],"labels":{{"app":"web","version":"v{}"}}}}"#,
        address(n),
        n % 7
    );
    http::request(
        "PUT",
        &format!("/v1/namespaces/bench/services/s{}/instances/i{n}", n % SERVICES),
        "application/json",
        &body,
    )
}

fn nacos_register(n: u64) -> Vec<u8> {
    let body = format!(
        "serviceName=s{}&ip={}&port=8080&ephemeral=true&metadata=%7B%22app%22%3A%22web%22%2C%22version%22%3A%22v{}%22%7D",
        n % SERVICES,
        address(n),
        n % 7
    );
    http::request("POST", "/nacos/v1/ns/instance", "application/x-www-form-urlencoded", &body)
}

fn batch(n: u64) -> Vec<u8> {
    let operations: Vec<String> = (0..100)
        .map(|k| {
            let id = n * 100 + k;
            format!(
                r#"{{"op":"put","kind":"instance","object":{{"namespace":"batch","service":"s{}","id":"i{id}","addresses":["{}"],"ports":[{{"name":"http","port":8080}}],"labels":{{"app":"web","version":"v{}"}}}}}}"#,
                id % SERVICES,
                address(id),
                id % 7
            )
        })
        .collect();
    let body = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
    http::request("POST", "/v1/batch", "application/json", &body)
}

fn rnacos(folder: &std::path::Path) -> Result<Option<(Process, SocketAddr)>> {
    let Some(program) = process::peer("RNACOS_BIN") else {
        println!("r-nacos is not here (RNACOS_BIN); only our own figures follow");
        return Ok(None);
    };
    let port = process::free_port()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut process = Process::start(
        "r-nacos",
        Command::new(program)
            .env("RNACOS_HTTP_PORT", port.to_string())
            .env("RNACOS_GRPC_PORT", process::free_port()?.to_string())
            .env("RNACOS_HTTP_CONSOLE_PORT", process::free_port()?.to_string())
            .env("RNACOS_CONFIG_DB_DIR", folder)
            .env("RNACOS_DATA_DIR", folder)
            .env("RUST_LOG", "error")
            .current_dir(folder),
    )?;
    process.wait_listening(address)?;
    Ok(Some((process, address)))
}

struct Row {
    what: &'static str,
    per_second: Vec<f64>,
}

fn show(server: &Process, what: &str, unit: &str, times: u64, outcome: &Outcome, cpu: Duration) {
    println!(
        "  {:10} {what:28} {:>9} {unit}/s  {}  CPU {:.1} µs each, reply {} bytes",
        server.name,
        report::count(outcome.per_second() * times as f64),
        outcome.latencies,
        cpu.as_secs_f64() * 1e6 / (outcome.done * times) as f64,
        outcome.bytes_of_one,
    );
}

async fn measure(
    rows: &mut Vec<Row>,
    server: &Process,
    address: SocketAddr,
    (what, unit, times): (&'static str, &str, u64),
    options: &Options,
    make: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> Result<()> {
    let before = server.cpu()?;
    let outcome = http::load(address, options.connections, Duration::from_secs(options.seconds), make).await?;
    show(server, what, unit, times, &outcome, server.cpu()?.saturating_sub(before));
    let value = outcome.per_second() * times as f64;
    let key = (server.name, what);
    let label: &'static str = match key {
        ("r-nacos", "register") => "r-nacos register",
        ("r-nacos", _) => "r-nacos list",
        (_, other) => other,
    };
    match rows.iter_mut().find(|row| row.what == label) {
        Some(row) => row.per_second.push(value),
        None => rows.push(Row { what: label, per_second: vec![value] }),
    }
    Ok(())
}

fn median(rows: &[Row], what: &str) -> Option<f64> {
    let mut values = rows.iter().find(|row| row.what == what)?.per_second.clone();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let folder = match &options.folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    println!("== registry: {} connections, {} s a measurement", options.connections, options.seconds);
    machine::describe(folder.path())?;
    let mut rows = Vec::new();
    for round in 0..options.rounds {
        println!("round {}", round + 1);
        let data = folder.path().join(format!("round-{round}"));
        let ours = Fingerpost::start(&data)?;
        ours.wait_ready().await?;
        let nacos_folder = folder.path().join(format!("nacos-{round}"));
        std::fs::create_dir_all(&nacos_folder)?;
        let nacos = rnacos(&nacos_folder)?;
        if let Some((process, address)) = &nacos {
            measure(&mut rows, process, *address, ("register", "inst", 1), &options, nacos_register).await?;
        }
        measure(&mut rows, &ours.process, ours.http, ("PUT, durable", "inst", 1), &options, put).await?;
        measure(&mut rows, &ours.process, ours.http, ("batch of 100, durable", "inst", 100), &options, batch).await?;

        let mut connection = http::Connection::open(ours.http).await?;
        for n in 0..LISTED {
            let body = format!(
                r#"{{"addresses":["{}"],"ports":[{{"name":"http","port":8080}}],"labels":{{"app":"web","version":"v{}"}}}}"#,
                address(n),
                n % 7
            );
            let path = format!("/v1/namespaces/bench/services/listed/instances/i{n}");
            connection.call(&http::request("PUT", &path, "application/json", &body), false).await?;
        }
        if let Some((process, at)) = &nacos {
            let mut connection = http::Connection::open(*at).await?;
            for n in 0..LISTED {
                let body = format!(
                    "serviceName=listed&ip={}&port=8080&ephemeral=true&metadata=%7B%22app%22%3A%22web%22%2C%22version%22%3A%22v{}%22%7D",
                    address(n),
                    n % 7
                );
                let request =
                    http::request("POST", "/nacos/v1/ns/instance", "application/x-www-form-urlencoded", &body);
                connection.call(&request, false).await?;
            }
            let list = http::request("GET", "/nacos/v1/ns/instance/list?serviceName=listed", "", "");
            measure(&mut rows, process, *at, ("list of 140", "list", 1), &options, move |_| list.clone()).await?;
        }
        let list = http::request("GET", "/v1/namespaces/bench/services/listed/instances", "", "");
        measure(&mut rows, &ours.process, ours.http, ("list of 140", "list", 1), &options, move |_| list.clone())
            .await?;
        println!("  fingerpost's resident memory: {} MB", ours.process.resident()? >> 20);
    }
    println!("medians of {} rounds:", options.rounds);
    for row in &rows {
        println!("  {:24} {:>10}/s", row.what, report::count(median(&rows, row.what).unwrap_or_default()));
    }
    for (ours, theirs, goal) in [
        ("PUT, durable", "r-nacos register", 1.0),
        ("batch of 100, durable", "r-nacos register", 3.0),
        ("list of 140", "r-nacos list", 3.0),
    ] {
        if let (Some(a), Some(b)) = (median(&rows, ours), median(&rows, theirs)) {
            println!("  {ours} / {theirs}: {:.2} (goal: at least {goal})", a / b);
        }
    }
    Ok(())
}
