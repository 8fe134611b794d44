//! Benchmarks, each beside its peers in one run: what counts are the ratios, because machines are noisy.
//!
//! `cargo xtask bench NAME` builds what is measured, finds the peers and calls this program.

mod client;
mod dns;
mod etcd;
mod forward;
mod http;
mod kubernetes;
mod machine;
mod process;
mod registry;
mod report;
mod sessions;
mod visible;
mod watch;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of Fingerpost, side by side with its peers")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Registering and listing over HTTP, beside r-nacos.
    Registry(registry::Options),
    /// Ten thousand subscribers, and clients that come back all at once.
    Client(client::Options),
    /// One change to a thousand watchers.
    Watch(watch::Options),
    /// Writes over etcd beside direct puts, their way to another replica's DNS, and how soon a replica is ready.
    Etcd(etcd::Options),
    /// Writes that wait until two replicas and three DNS servers show them.
    Visible(visible::Options),
    /// What many sessions cost, and what happens when they fall silent.
    Sessions(sessions::Options),
    /// Following a cluster beside CoreDNS: how fresh, how heavy, how soon ready.
    Kubernetes(kubernetes::Options),
    /// CPU per DNS query, beside Knot and CoreDNS.
    Dns(dns::Options),
    /// CPU per forwarded query that the cache answers, beside CoreDNS.
    Forward(forward::Options),
    /// All of them, as they are by default.
    All,
}

fn main() -> anyhow::Result<()> {
    let defaults = |name: &str| Arguments::try_parse_from(["bench", name]);
    let one = |bench: Bench| -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match bench {
            Bench::Registry(options) => runtime.block_on(registry::run(options)),
            Bench::Client(options) => runtime.block_on(client::run(options)),
            Bench::Watch(options) => runtime.block_on(watch::run(options)),
            Bench::Etcd(options) => runtime.block_on(etcd::run(options)),
            Bench::Visible(options) => runtime.block_on(visible::run(options)),
            Bench::Sessions(options) => runtime.block_on(sessions::run(options)),
            Bench::Kubernetes(options) => runtime.block_on(kubernetes::run(options)),
            Bench::Dns(options) => runtime.block_on(dns::run(options)),
            Bench::Forward(options) => runtime.block_on(forward::run(options)),
            Bench::All => Ok(()),
        }
    };
    match Arguments::parse().bench {
        Bench::All => {
            for name in ["registry", "watch", "client", "dns", "forward", "etcd", "visible", "sessions", "kubernetes"] {
                one(defaults(name)?.bench)?;
            }
            Ok(())
        }
        bench => one(bench),
    }
}
