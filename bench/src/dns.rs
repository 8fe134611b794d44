//! CPU per DNS query, beside Knot and CoreDNS, with the same names in all: what a query costs the server, whatever the
//! generator on the same cores can send.
//!
//! CoreDNS serves the names from a zone file here (plugin `file`), because its `kubernetes` plugin needs an API server.

use crate::http;
use crate::process::{self, Fingerpost, Process};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Services; every tenth is headless.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Instances a service.
    #[arg(long, default_value_t = 10)]
    instances: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds; each measures every server once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn headless(service: usize) -> bool {
    service.is_multiple_of(10)
}

fn address(service: usize, instance: usize) -> String {
    let n = service * 64 + instance;
    format!("10.{}.{}.{}", 128 + ((n >> 16) & 127), (n >> 8) & 255, n & 255)
}

fn cluster_ip(service: usize) -> String {
    format!("10.96.{}.{}", (service >> 8) & 255, service & 255)
}

fn namespace(service: usize) -> String {
    format!("ns{}", service % 100)
}

async fn fill(server: SocketAddr, options: &Options) -> Result<()> {
    let mut connection = http::Connection::open(server).await?;
    let mut operations: Vec<String> = Vec::new();
    for service in 0..options.services {
        let (ns, name) = (namespace(service), format!("svc{service}"));
        let kind = if headless(service) {
            r#""type":"Headless""#.to_owned()
        } else {
            format!(r#""type":"ClusterIP","clusterIPs":["{}"]"#, cluster_ip(service))
        };
        operations.push(format!(
            r#"{{"op":"put","kind":"service","object":{{"namespace":"{ns}","name":"{name}",{kind},"ports":[{{"name":"http","port":80}}]}}}}"#
        ));
        for instance in 0..options.instances {
            operations.push(format!(
                r#"{{"op":"put","kind":"instance","object":{{"namespace":"{ns}","service":"{name}","id":"i{instance}","addresses":["{}"]}}}}"#,
                address(service, instance)
            ));
        }
    }
    for chunk in operations.chunks(5000) {
        let body = format!(r#"{{"operations":[{}]}}"#, chunk.join(","));
        let reply =
            connection.call(&http::request("POST", "/v1/batch?atomic=false", "application/json", &body), true).await?;
        if reply.status != 200 {
            bail!("filling the registry: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
        }
    }
    Ok(())
}

/// The same records as a zone file.
fn zone_file(options: &Options) -> Result<String> {
    let mut zone = String::from(
        "$ORIGIN cluster.local.\n$TTL 5\n@ IN SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ IN NS ns.dns\nns.dns IN A 127.0.0.1\n",
    );
    for service in 0..options.services {
        let name = format!("svc{service}.{}.svc", namespace(service));
        if headless(service) {
            for instance in 0..options.instances {
                let at = address(service, instance);
                writeln!(zone, "{name} IN A {at}\ni{instance}.{name} IN A {at}")?;
                writeln!(zone, "_http._tcp.{name} IN SRV 0 {} 80 i{instance}.{name}", 100 / options.instances)?;
            }
        } else {
            writeln!(zone, "{name} IN A {}\n_http._tcp.{name} IN SRV 0 100 80 {name}", cluster_ip(service))?;
            for instance in 0..options.instances {
                writeln!(zone, "i{instance}.{name} IN A {}", address(service, instance))?;
            }
        }
    }
    Ok(zone)
}

fn queries(options: &Options) -> Vec<(&'static str, String)> {
    let list = |line: &dyn Fn(usize) -> Option<String>| {
        // A stride that is prime to the number of services spreads neighbours apart.
        (0..options.services).filter_map(|n| line((n * 7919) % options.services)).collect::<String>()
    };
    let name = |service: usize| format!("svc{service}.{}.svc.cluster.local", namespace(service));
    vec![
        ("A of a ClusterIP", list(&|s| (!headless(s)).then(|| format!("{} A\n", name(s))))),
        ("NXDOMAIN", list(&|s| Some(format!("no{} A\n", name(s))))),
        ("SRV", list(&|s| (!headless(s)).then(|| format!("_http._tcp.{} SRV\n", name(s))))),
        ("A of a headless, 10", list(&|s| headless(s).then(|| format!("{} A\n", name(s))))),
    ]
}

fn knot(folder: &Path) -> Result<Option<(Process, SocketAddr)>> {
    let Some(program) = ["/usr/sbin/knotd", "/usr/bin/knotd"].iter().find(|path| Path::new(path).is_file()) else {
        return Ok(None);
    };
    let port = process::free_port()?;
    let storage = folder.display();
    let config = format!(
        "server:\n    listen: 127.0.0.1@{port}\n    rundir: {storage}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
         log:\n  - target: stderr\n    any: error\ndatabase:\n    storage: {storage}/db\n\
         zone:\n  - domain: cluster.local\n    file: {storage}/cluster.local.zone\n"
    );
    let path = folder.join("knot.conf");
    std::fs::write(&path, config)?;
    let mut process = Process::start("knot", Command::new(program).arg("-c").arg(&path))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_listening(address)?;
    Ok(Some((process, address)))
}

fn coredns(folder: &Path) -> Result<Option<(Process, SocketAddr)>> {
    let Some(program) = process::peer("COREDNS_BIN") else { return Ok(None) };
    let port = process::free_port()?;
    let path = folder.join("Corefile");
    std::fs::write(
        &path,
        format!("cluster.local:{port} {{\n    bind 127.0.0.1\n    file {}/cluster.local.zone\n}}\n", folder.display()),
    )?;
    let mut process = Process::start("coredns", Command::new(program).arg("-conf").arg(&path))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_listening(address)?;
    Ok(Some((process, address)))
}

/// What a run of queries cost.
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    /// CPU time of the server for a query, in microseconds.
    pub(crate) micros: f64,
}

/// Asks a server what is in a file, again and again.
pub(crate) fn measure(server: &Process, address: SocketAddr, file: &Path, seconds: u64) -> Result<Measured> {
    let before = server.cpu()?;
    let output = Command::new("dnsperf")
        .args(["-s", &address.ip().to_string(), "-p", &address.port().to_string(), "-l", &seconds.to_string()])
        .args(["-c", "8", "-q", "200", "-d"])
        .arg(file)
        .output()
        .context("can't run dnsperf")?;
    let cpu = server.cpu()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |label: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<f64>().ok())
    };
    let done = number("Queries completed:").context("dnsperf printed no figures")?;
    Ok(Measured {
        per_second: number("Queries per second:").unwrap_or_default(),
        micros: cpu.as_secs_f64() * 1e6 / done.max(1.0),
    })
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!("== dns: {} services of {} instances, every tenth headless", options.services, options.instances);
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("cluster.local.zone"), zone_file(&options)?)?;
    // Knot gives up its rights and must still reach its zone.
    let _ = Command::new("chmod").args(["-R", "a+rwX"]).arg(folder.path()).status();
    let ours = Fingerpost::start(&folder.path().join("data"))?;
    ours.wait_ready().await?;
    fill(ours.http, &options).await?;
    let mut servers: Vec<(&Process, SocketAddr)> = vec![(&ours.process, ours.dns)];
    let knot = knot(folder.path())?;
    let coredns = coredns(folder.path())?;
    servers.extend(knot.iter().chain(&coredns).map(|(process, address)| (process, *address)));
    println!("  resident memory: fingerpost {} MB with the whole registry", ours.process.resident()? >> 20);
    for (what, lines) in queries(&options) {
        let file = folder.path().join("queries");
        std::fs::write(&file, lines)?;
        // In turns, so that noise hits all of them.
        let mut rounds: Vec<Vec<Measured>> = servers.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for ((server, address), rounds) in servers.iter().zip(&mut rounds) {
                rounds.push(measure(server, *address, &file, options.seconds)?);
            }
        }
        let mut medians = Vec::new();
        for ((server, _), mut rounds) in servers.iter().zip(rounds) {
            rounds.sort_by(|a, b| a.micros.total_cmp(&b.micros));
            let Some(median) = rounds.get(rounds.len() / 2) else { continue };
            println!(
                "  {what:20} {:10} {:6.2} µs CPU a query, {:>9} queries/s",
                server.name,
                median.micros,
                crate::report::count(median.per_second)
            );
            medians.push((server.name, median.micros));
        }
        for (peer, micros) in medians.iter().skip(1) {
            println!("  {what:20} fingerpost / {peer}: {:.2}", medians[0].1 / micros);
        }
    }
    Ok(())
}
