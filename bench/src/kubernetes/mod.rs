//! Following Kubernetes, beside CoreDNS: the same API server, the same objects, both at once.
//!
//! What is asked of a server costs it the same whoever asks; so each is asked in turns, and never both at the same moment.

mod propagation;
mod rolling;
mod state;

use crate::process::{self, Fingerpost};
use anyhow::{Context, Result, bail};
use fingerpost_tests::kubernetes::{Cluster, CoreDns, Corefile, User, following, objects};
use fingerpost_tests::proxy::Proxy;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Endpoints of the services whose changes are timed.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1_000, 10_000])]
    endpoints: Vec<usize>,
    /// Changes that are timed, for each size, way of asking and server.
    #[arg(long, default_value_t = 300)]
    changes: usize,
    /// Services of the large state.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of each of them.
    #[arg(long, default_value_t = 10)]
    each: usize,
    /// Endpoints of the service that is updated pod by pod.
    #[arg(long, default_value_t = 5_000)]
    rolling: usize,
    /// Which parts: propagation, state, rolling.
    #[arg(long, value_delimiter = ',', default_values_t = ["propagation", "state", "rolling"].map(str::to_owned))]
    parts: Vec<String>,
}

/// Endpoints in a slice, as the controller makes them.
const SLICE: usize = 100;

/// A name server under measurement.
#[derive(Clone, Copy)]
struct Follower {
    name: &'static str,
    dns: SocketAddr,
    pid: u32,
}

/// The address of an endpoint, in its nth life.
fn address(endpoint: usize, life: usize) -> String {
    let n = endpoint + life * 131_072;
    format!("10.{}.{}.{}", 1 + ((n >> 16) & 127), (n >> 8) & 255, n & 255)
}

/// An endpoint with a hostname, so that its name stays when its address changes.
fn endpoint(n: usize, life: usize) -> Value {
    let mut endpoint = objects::pod_endpoint(&address(n, life), "bench", &format!("pod-{n}-{life}"));
    endpoint["hostname"] = json!(format!("e{n}"));
    endpoint
}

/// The slices of a service of so many endpoints.
fn slices(service: &str, endpoints: usize) -> Vec<Value> {
    let all: Vec<usize> = (0..endpoints).collect();
    let slice = |(k, part): (usize, &[usize])| {
        let endpoints = part.iter().map(|&n| endpoint(n, 0)).collect();
        objects::slice("bench", service, &format!("{service}-{k}"), endpoints, objects::http_port())
    };
    all.chunks(SLICE).enumerate().map(slice).collect()
}

/// A question for addresses, in wire form.
fn question(name: &str) -> Vec<u8> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// A way to ask: over UDP, or over a connection that stays open.
enum Way {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Way {
    async fn to(server: SocketAddr, tcp: bool) -> Result<Self> {
        if tcp {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            return Ok(Self::Tcp(stream));
        }
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(server).await?;
        Ok(Self::Udp(socket))
    }

    /// Whether the answer to a question holds an address.
    async fn shows(&mut self, query: &[u8], address: [u8; 4], buffer: &mut Vec<u8>) -> Result<bool> {
        let asked = async {
            match self {
                Self::Udp(socket) => {
                    socket.send(query).await?;
                    buffer.resize(4096, 0);
                    let length = socket.recv(buffer).await?;
                    buffer.truncate(length);
                }
                Self::Tcp(stream) => {
                    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
                    framed.extend_from_slice(query);
                    stream.write_all(&framed).await?;
                    let length = stream.read_u16().await?;
                    buffer.resize(usize::from(length), 0);
                    stream.read_exact(buffer).await?;
                }
            }
            std::io::Result::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(5), asked).await.context("no answer in 5 s")??;
        Ok(buffer.windows(4).any(|bytes| bytes == address))
    }
}

/// Asks until the answer holds the address; how long that took.
async fn until_shown(server: SocketAddr, name: &str, address: &str, limit: Duration) -> Result<Duration> {
    let (query, octets) = (question(name), octets(address)?);
    let mut way = Way::to(server, false).await?;
    let (mut buffer, begun) = (Vec::new(), Instant::now());
    // Nobody may be there yet, or not for long.
    while !matches!(way.shows(&query, octets, &mut buffer).await, Ok(true)) {
        if begun.elapsed() > limit {
            bail!("{server} does not answer {name} with {address} in {limit:?}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(begun.elapsed())
}

fn octets(address: &str) -> Result<[u8; 4]> {
    Ok(address.parse::<std::net::Ipv4Addr>()?.octets())
}

/// Both servers, following the same cluster: what each reads comes over a proxy of its own, which counts it.
struct Both {
    ours: Fingerpost,
    theirs: CoreDns,
    to_ours: Proxy,
    to_theirs: Proxy,
}

impl Both {
    async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let (to_ours, to_theirs) = (Proxy::start(cluster.address()).await, Proxy::start(cluster.address()).await);
        let theirs =
            CoreDns::start(&cluster.kubeconfig(User::CoreDns, to_theirs.address()), &Corefile::default()).await;
        let ours = start_ours(cluster, to_ours.address(), folder)?;
        Ok(Self { ours, theirs, to_ours, to_theirs })
    }

    fn followers(&self) -> [Follower; 2] {
        [
            Follower { name: "fingerpost", dns: self.ours.dns, pid: self.ours.process.pid() },
            Follower { name: "coredns", dns: self.theirs.dns, pid: self.theirs.pid() },
        ]
    }

    fn received(&self) -> [u64; 2] {
        [self.to_ours.received(), self.to_theirs.received()]
    }
}

fn start_ours(cluster: &Cluster, api: SocketAddr, folder: &Path) -> Result<Fingerpost> {
    let flags = following(&cluster.kubeconfig(User::Fingerpost, api));
    Fingerpost::start_with(folder, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) async fn run(options: Options) -> Result<()> {
    println!("== kubernetes: beside CoreDNS, over one API server; slices of {SLICE}");
    let folder = tempfile::tempdir()?;
    crate::machine::describe(folder.path())?;
    if process::peer("COREDNS_BIN").is_none() || process::peer("KUBE_APISERVER_BIN").is_none() {
        bail!("CoreDNS or the API server is missing: run `cargo xtask bench kubernetes`, which builds them");
    }
    let wanted = |part: &str| options.parts.iter().any(|wanted| wanted == part);
    if wanted("propagation") {
        propagation::run(&options, &folder.path().join("propagation")).await?;
    }
    if wanted("state") {
        state::run(&options, &folder.path().join("state")).await?;
    }
    if wanted("rolling") {
        rolling::run(&options, &folder.path().join("rolling")).await?;
    }
    Ok(())
}
