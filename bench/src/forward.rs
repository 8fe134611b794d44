//! CPU per forwarded query that the cache answers, beside CoreDNS' `forward` and `cache`, with Knot as the same upstream
//! behind both.

use crate::dns::{Measured, measure};
use crate::process::{self, Fingerpost, Process};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Names; CoreDNS' cache holds 9984.
    #[arg(long, default_value_t = 5000)]
    names: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds; each measures every server once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// The names, with TTLs that outlast the run.
fn zone_file(options: &Options) -> Result<String> {
    let mut zone = String::from(
        "$ORIGIN bench.example.\n$TTL 3600\n@ IN SOA ns hostmaster 1 7200 1800 86400 3600\n@ IN NS ns\nns IN A 127.0.0.1\n",
    );
    for name in 0..options.names {
        writeln!(zone, "w{name} IN A 192.0.2.{}", name % 250)?;
        writeln!(zone, "a{name} IN CNAME w{name}")?;
    }
    Ok(zone)
}

fn knot(folder: &Path) -> Result<(Process, SocketAddr)> {
    let programs = ["/usr/sbin/knotd", "/usr/bin/knotd"];
    let program = programs.iter().find(|path| Path::new(path).is_file()).context("knotd is missing")?;
    let port = process::free_port()?;
    let storage = folder.display();
    let config = format!(
        "server:\n    listen: 127.0.0.1@{port}\n    rundir: {storage}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
         log:\n  - target: stderr\n    any: error\ndatabase:\n    storage: {storage}/db\n\
         zone:\n  - domain: bench.example\n    file: {storage}/bench.example.zone\n"
    );
    let path = folder.join("knot.conf");
    std::fs::write(&path, config)?;
    let mut process = Process::start("knot", Command::new(program).arg("-c").arg(&path))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_listening(address)?;
    Ok((process, address))
}

fn coredns(folder: &Path, upstream: SocketAddr) -> Result<Option<(Process, SocketAddr)>> {
    let Some(program) = process::peer("COREDNS_BIN") else { return Ok(None) };
    let port = process::free_port()?;
    let path = folder.join("Corefile");
    let config = format!(".:{port} {{\n    bind 127.0.0.1\n    cache 3600\n    forward . {upstream}\n}}\n");
    std::fs::write(&path, config)?;
    let mut process = Process::start("coredns", Command::new(program).arg("-conf").arg(&path))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_listening(address)?;
    Ok(Some((process, address)))
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!("== forward: {} names in a warm cache", options.names);
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("bench.example.zone"), zone_file(&options)?)?;
    // Knot gives up its rights and must still reach its zone.
    let _ = Command::new("chmod").args(["-R", "a+rwX"]).arg(folder.path()).status();
    let (_upstream, upstream) = knot(folder.path())?;
    let ours = Fingerpost::start_with(&folder.path().join("data"), &["--forward", &upstream.to_string()])?;
    let coredns = coredns(folder.path(), upstream)?;
    let mut servers: Vec<(&Process, SocketAddr)> = vec![(&ours.process, ours.dns)];
    servers.extend(coredns.iter().map(|(process, address)| (process, *address)));
    let list = |line: &dyn Fn(usize) -> String| (0..options.names).map(|n| line((n * 7919) % options.names)).collect();
    let queries: [(&str, String); 3] = [
        ("A", list(&|n| format!("w{n}.bench.example A\n"))),
        ("CNAME and A", list(&|n| format!("a{n}.bench.example A\n"))),
        ("NXDOMAIN", list(&|n| format!("no{n}.bench.example A\n"))),
    ];
    for (what, lines) in queries {
        let file = folder.path().join("queries");
        std::fs::write(&file, lines)?;
        for (server, address) in &servers {
            // Warms the cache, and is not counted.
            measure(server, *address, &file, 1)?;
        }
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
                "  {what:12} {:10} {:6.2} µs CPU a query, {:>9} queries/s",
                server.name,
                median.micros,
                crate::report::count(median.per_second)
            );
            medians.push((server.name, median.micros));
        }
        for (peer, micros) in medians.iter().skip(1) {
            println!("  {what:12} queries per CPU-second, fingerpost / {peer}: {:.2}", micros / medians[0].1);
        }
    }
    for (server, _) in &servers {
        println!("  resident memory: {} {} MB", server.name, server.resident()? >> 20);
    }
    Ok(())
}
