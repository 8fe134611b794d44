//! Name servers that do what a test says, and a server that forwards to them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use crate::common::*;
use fingerpost_dns::forward::{self, Forward};
use fingerpost_dns::{Config, Index, Listen, QueryLog, Server};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub const SECOND: Duration = Duration::from_secs(1);

/// A query as an upstream sees it.
#[derive(Clone)]
pub struct Seen {
    pub message: Message,
    pub name: String,
    pub qtype: RecordType,
    pub tcp: bool,
}

type Answers = Pin<Box<dyn Future<Output = Vec<Vec<u8>>> + Send>>;
type Script = dyn Fn(Seen) -> Answers + Send + Sync;

/// A name server; it ends with the test.
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Mutex<Arc<Script>>>,
    silent: Arc<AtomicBool>,
    /// Probes are for the script, too.
    all: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

/// The answer to a query, without records.
pub fn reply(seen: &Seen) -> Message {
    let mut message = Message::response(seen.message.metadata.id, seen.message.metadata.op_code);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_queries(seen.message.queries.clone());
    if seen.message.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
    }
    message
}

pub fn a(name: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, RData::A(A(Ipv4Addr::from(address))))
}

pub fn cname(name: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, RData::CNAME(CNAME(Name::from_ascii(target).unwrap())))
}

pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let data = SOA::new(name("ns.example."), name("admin.example."), 1, 3600, 600, 86_400, minimum);
    Record::from_rdata(name(zone), ttl, RData::SOA(data))
}

/// An answer with these records.
pub fn with(seen: &Seen, records: &[Record]) -> Vec<u8> {
    let mut message = reply(seen);
    for record in records {
        message.add_answer(record.clone());
    }
    message.to_vec().unwrap()
}

/// A negative answer.
pub fn negative(seen: &Seen, rcode: ResponseCode, soa: Option<Record>) -> Vec<u8> {
    let mut message = reply(seen);
    message.metadata.response_code = rcode;
    if let Some(soa) = soa {
        message.add_authority(soa);
    }
    message.to_vec().unwrap()
}

/// What is asked to see whether an upstream is well, or leads back to us.
pub fn is_probe(seen: &Seen) -> bool {
    seen.qtype == RecordType::HINFO || seen.name == "."
}

impl Upstream {
    /// One that answers probes by itself, and everything else as the function says: any number of messages.
    pub async fn start(script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start_async(move |seen| {
            let answers = script(&seen);
            Box::pin(async move { answers })
        })
        .await
    }

    pub async fn start_async(script: impl Fn(Seen) -> Answers + Send + Sync + 'static) -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        Self::on(udp, tcp, script)
    }

    pub fn on(udp: UdpSocket, tcp: TcpListener, script: impl Fn(Seen) -> Answers + Send + Sync + 'static) -> Self {
        let address = udp.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Arc<Script>>> = Arc::new(Mutex::new(Arc::new(script)));
        let (silent, all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let (log, play, quiet, whole) = (seen.clone(), script.clone(), silent.clone(), all.clone());
        tasks.spawn(async move {
            let udp = Arc::new(udp);
            let mut answering = JoinSet::new();
            let mut packet = vec![0; 4096];
            loop {
                // On Linux a port that nobody listens at any more is told here.
                let Ok((length, client)) = udp.recv_from(&mut packet).await else { continue };
                if quiet.load(SeqCst) {
                    continue;
                }
                let answers = take(&packet[..length], false, &log, (&play, &whole));
                let udp = udp.clone();
                answering.spawn(async move {
                    for answer in answers.await {
                        let _ = udp.send_to(&answer, client).await;
                    }
                });
            }
        });
        let (log, play, whole) = (seen.clone(), script.clone(), all.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let (log, play, whole) = (log.clone(), play.clone(), whole.clone());
                connections.spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut packet = vec![0; usize::from(length)];
                        stream.read_exact(&mut packet).await.unwrap();
                        for answer in take(&packet, true, &log, (&play, &whole)).await {
                            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
                            stream.write_all(&framed).await.unwrap();
                        }
                    }
                });
            }
        });
        Self { address, seen, script, silent, all, _tasks: tasks }
    }

    /// Does something else from now on.
    pub fn play(&self, script: impl Fn(&Seen) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        *self.script.lock() = Arc::new(move |seen| {
            let answers = script(&seen);
            Box::pin(async move { answers })
        });
    }

    /// Leaves probes to the script, too.
    pub fn play_probes(&self) {
        self.all.store(true, SeqCst);
    }

    /// Answers nothing over UDP, not even probes, or does again.
    pub fn silence(&self, silent: bool) {
        self.silent.store(silent, SeqCst);
    }

    /// What was asked, without probes.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().iter().filter(|seen| !is_probe(seen)).cloned().collect()
    }

    /// How often it was asked for a name.
    pub fn count(&self, name: &str) -> usize {
        self.seen().iter().filter(|seen| seen.name.eq_ignore_ascii_case(name)).count()
    }
}

fn take(packet: &[u8], tcp: bool, log: &Mutex<Vec<Seen>>, (play, all): (&Mutex<Arc<Script>>, &AtomicBool)) -> Answers {
    let message = Message::from_vec(packet).unwrap();
    assert_eq!(message.metadata.message_type, MessageType::Query);
    let question = message.queries[0].clone();
    let seen = Seen { name: question.name().to_string(), qtype: question.query_type(), tcp, message };
    log.lock().push(seen.clone());
    if is_probe(&seen) && !all.load(SeqCst) {
        let answer = negative(&seen, ResponseCode::NXDomain, Some(soa(".", 60, 60)));
        return Box::pin(async move { vec![answer] });
    }
    let script = play.lock().clone();
    script(seen)
}

/// A server that forwards.
pub struct Forwarding {
    pub address: SocketAddr,
    pub forward: Arc<Forward>,
    pub index: Arc<Index>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Settings with these upstreams.
pub fn asking(upstreams: &[&Upstream]) -> forward::Config {
    forward::Config {
        upstreams: upstreams.iter().map(|upstream| forward::Target::Udp(upstream.address)).collect(),
        policy: forward::Policy::Sequential,
        ..forward::Config::default()
    }
}

pub fn empty_index() -> Arc<Index> {
    let index = Index::new(Config::default()).unwrap();
    index.set_synced(at(1));
    Arc::new(index)
}

impl Forwarding {
    pub fn start(config: forward::Config) -> Self {
        Self::with(config, empty_index(), "127.0.0.1:0")
    }

    pub fn with(config: forward::Config, index: Arc<Index>, listen: &str) -> Self {
        Self::logging(config, index, listen, None)
    }

    pub fn logging(config: forward::Config, index: Arc<Index>, listen: &str, query_log: Option<Arc<QueryLog>>) -> Self {
        let forward = Forward::open(config).unwrap();
        let shutdown = CancellationToken::new();
        let listen = Listen { workers: 2, query_log, ..Listen::on(&[listen.parse().unwrap()]) };
        let server = Server::bind(index.clone(), listen, shutdown.clone()).unwrap();
        let server = server.forwarding(forward.clone()).unwrap();
        let mut address = server.udp_addresses()[0];
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        Self { address, forward, index, shutdown, task: tokio::spawn(server.run()) }
    }

    /// Begins to end.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    pub async fn stop(self) {
        self.shut_down();
        tokio::time::timeout(20 * SECOND, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Asks over UDP.
    pub async fn ask(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        let mut packet = vec![0; 65_535];
        let length = tokio::time::timeout(20 * SECOND, socket.recv(&mut packet)).await.unwrap().unwrap();
        Message::from_vec(&packet[..length]).unwrap()
    }

    /// Asks for a name.
    pub async fn resolve(&self, name: &str, qtype: RecordType) -> Message {
        self.ask(&query(name, qtype)).await
    }

    /// The addresses of a name, as text.
    pub async fn addresses(&self, name: &str) -> Vec<String> {
        self.resolve(name, RecordType::A).await.answers.iter().map(|record| record.data.to_string()).collect()
    }

    /// Asks over TCP.
    pub async fn ask_tcp(&self, messages: &[Message]) -> Vec<Message> {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        for message in messages {
            let packet = message.to_vec().unwrap();
            stream.write_all(&[&(packet.len() as u16).to_be_bytes()[..], &packet].concat()).await.unwrap();
        }
        let mut replies = Vec::new();
        for _ in messages {
            let length = tokio::time::timeout(20 * SECOND, stream.read_u16()).await.unwrap().unwrap();
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await.unwrap();
            replies.push(Message::from_vec(&packet).unwrap());
        }
        replies
    }

    /// What the metrics say of a series, which is to be given with its labels.
    pub fn metric(&self, series: &str) -> f64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.forward.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }
}

/// A query with RD.
pub fn query(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
    message
}

/// The same with EDNS.
pub fn edns(mut message: Message, payload: u16, dnssec_ok: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    message
}
