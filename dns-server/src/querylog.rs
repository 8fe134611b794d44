//! The query log: a line of JSON for each query, or for one of several.
//!
//! Off, it costs a branch per query. On, a worker copies what it has at hand into a bounded queue and goes on; one thread
//! makes lines of it and writes them. Where that can't keep up, or nothing can be written, entries are dropped and
//! counted: answers never wait for their log.
//!
//! A file is opened again where it was moved away or removed, and when [`QueryLog::reopen`] says so.

use crate::answer::Transport;
use crate::config::Config;
use crate::encode::Rcode;
use crate::forward::lane::{Came, Way};
use crate::message::{HEADER, question_of};
use crate::name::text;
use crate::query::type_name;
use crate::zones::{Kind, Zones};
use fingerpost_catalog::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

/// Entries that may wait: at full speed, some milliseconds' worth.
const QUEUE: usize = 8192;
/// How long lines may lie in memory, and how often it is looked whether the file is still in its place.
const EVERY: Duration = Duration::from_millis(500);
/// Lines are written in pieces of about this size.
const BUFFER: usize = 64 << 10;

/// Where the lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, to whose end they are added.
    File(PathBuf),
}

/// A query and its answer, as a worker has them.
#[derive(Debug)]
pub(crate) struct Entry {
    at: Timestamp,
    client: SocketAddr,
    transport: Transport,
    took: Duration,
    size: usize,
    /// The answer's header.
    header: [u8; HEADER],
    /// The question as the client wrote it: name, type and class. Empty where it could not be read.
    question: Box<[u8]>,
    rcode: Rcode,
    edns: bool,
    dnssec_ok: bool,
    came: Option<Came>,
}

/// What the worker knows beside the packets.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) client: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) took: Duration,
    pub(crate) rcode: Rcode,
    /// Whether the client spoke EDNS, and whether it asked for DNSSEC.
    pub(crate) edns: Option<bool>,
    /// Where the answer came from, where others have a part in it.
    pub(crate) came: Option<Came>,
}

/// A line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    client: String,
    transport: &'static str,
    name: Option<String>,
    #[serde(rename = "type")]
    qtype: Option<String>,
    rcode: &'static str,
    answers: u16,
    flags: Vec<&'static str>,
    microseconds: f64,
    size: usize,
    /// The zone that the name lies in; absent for what is not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    /// Where the answer about a name of others came from; absent for what is ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    /// The upstream that gave it, now or when it went into the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    /// How long that took it, where it was asked for this query.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_microseconds: Option<f64>,
    /// Why there is no answer, or an old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// What a line calls it.
fn way_name(way: Way) -> &'static str {
    match way {
        Way::Local => "local",
        Way::Cache => "cache",
        Way::Stale => "stale",
        Way::Upstream => "upstream",
        Way::Failed => "failed",
    }
}

/// A query log. [`Server`](crate::Server) writes it.
#[derive(Debug)]
pub struct QueryLog {
    target: LogTarget,
    sample: u32,
    queue: SyncSender<Entry>,
    /// Until the thread takes it.
    waiting: Mutex<Option<(Receiver<Entry>, Sink)>>,
    reopen: AtomicBool,
    stop: AtomicBool,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// What is written to.
#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    File(File),
}

impl Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Sink::Stderr => io::stderr().lock().write_all(lines),
            Sink::File(file) => file.write_all(lines),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl QueryLog {
    /// A log of one query in `sample` (at least 1). A file is opened at once, so that a wrong path is told at the start.
    pub fn open(target: LogTarget, sample: u32) -> io::Result<Self> {
        let out = match &target {
            LogTarget::Stdout => Sink::Stdout,
            LogTarget::Stderr => Sink::Stderr,
            LogTarget::File(path) => Sink::File(open(path)?),
        };
        let (queue, waiting) = sync_channel(QUEUE);
        Ok(Self {
            target,
            sample: sample.max(1),
            queue,
            waiting: Mutex::new(Some((waiting, out))),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// One query in so many is logged.
    pub(crate) fn sample(&self) -> u32 {
        self.sample
    }

    /// Has the file opened again: after it was moved away by somebody who says so.
    pub fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Entries written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Entries dropped so far, because the log could not keep up or not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Ends the thread once what waits is written.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Notes an answered query; never waits.
    pub(crate) fn note(&self, answer: &[u8], seen: Seen) {
        let Some(header) = answer.first_chunk::<HEADER>() else { return };
        let question = question_of(answer).unwrap_or_default();
        let entry = Entry {
            at: Timestamp::now(),
            client: seen.client,
            transport: seen.transport,
            took: seen.took,
            size: answer.len(),
            header: *header,
            question: question.into(),
            rcode: seen.rcode,
            edns: seen.edns.is_some(),
            dnssec_ok: seen.edns == Some(true),
            came: seen.came,
        };
        if self.queue.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Writes what comes, until it is told to stop. None may run twice.
    pub(crate) fn write(&self, config: &Config) {
        let Some((queue, out)) = self.waiting.lock().take() else { return };
        let mut lines = Lines {
            log: self,
            out,
            zones: Zones::new(config),
            names: std::iter::once(&config.zone).chain(&config.aliases).map(ToString::to_string).collect(),
            buffer: Vec::with_capacity(BUFFER),
            pending: 0,
            failing: false,
        };
        let mut looked = Instant::now();
        loop {
            let next = if self.stop.load(Relaxed) {
                match queue.try_recv() {
                    Ok(entry) => Some(entry),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => return lines.flush(),
                }
            } else {
                match queue.recv_timeout(EVERY) {
                    Ok(entry) => Some(entry),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return lines.flush(),
                }
            };
            if let Some(entry) = next {
                lines.add(&entry);
            }
            if looked.elapsed() >= EVERY {
                looked = Instant::now();
                lines.flush();
                lines.look();
            } else if lines.buffer.len() >= BUFFER {
                lines.flush();
            }
        }
    }
}

/// What the thread works with.
struct Lines<'a> {
    log: &'a QueryLog,
    out: Sink,
    zones: Zones,
    names: Vec<String>,
    buffer: Vec<u8>,
    /// Entries in the buffer.
    pending: u64,
    /// Whether the last attempt to write failed: told once.
    failing: bool,
}

impl Lines<'_> {
    fn add(&mut self, entry: &Entry) {
        let name = entry.question.split_last_chunk::<4>();
        let lower = name.map(|(wire, _)| wire.to_ascii_lowercase());
        let zone = lower.and_then(|wire| self.zones.find(&wire)).map(|within| match within.kind {
            Kind::Primary => self.names.first().map_or("", String::as_str),
            Kind::Alias(which) => self.names.get(1 + which).map_or("", String::as_str),
            Kind::Reverse => "reverse",
        });
        let [_, _, high, low, ..] = entry.header;
        let flags = [
            (high & 0x04 != 0, "aa"),
            (high & 0x02 != 0, "tc"),
            (high & 0x01 != 0, "rd"),
            (low & 0x80 != 0, "ra"),
            (low & 0x20 != 0, "ad"),
            (entry.edns, "edns"),
            (entry.dnssec_ok, "do"),
        ];
        let came = entry.came.as_ref();
        let origin = came.and_then(|came| came.origin.as_ref());
        let asked = came.is_some_and(|came| came.way == Way::Upstream);
        let line = Line {
            time: entry.at.to_string(),
            client: entry.client.to_string(),
            transport: match entry.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            name: name.map(|(wire, _)| text(wire)),
            qtype: name.map(|(_, [high, low, ..])| type_name(u16::from_be_bytes([*high, *low]))),
            rcode: entry.rcode.name(),
            answers: u16::from_be_bytes([entry.header[6], entry.header[7]]),
            flags: flags.into_iter().filter_map(|(set, flag)| set.then_some(flag)).collect(),
            microseconds: entry.took.as_nanos() as f64 / 1e3,
            size: entry.size,
            zone,
            from: came.map(|came| way_name(came.way)),
            upstream: origin.map(|origin| &*origin.upstream),
            upstream_microseconds: origin.filter(|_| asked).map(|origin| origin.took.as_nanos() as f64 / 1e3),
            reason: came.and_then(|came| came.reason.as_deref()),
        };
        // Names are escaped as in zone files, and that again as JSON wants it.
        if serde_json::to_writer(&mut self.buffer, &line).is_ok() {
            self.buffer.push(b'\n');
            self.pending += 1;
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.out.write(&self.buffer);
        self.buffer.clear();
        let pending = std::mem::take(&mut self.pending);
        match written {
            Ok(()) => {
                self.failing = false;
                self.log.written.fetch_add(pending, Relaxed);
            }
            Err(error) => {
                self.log.dropped.fetch_add(pending, Relaxed);
                self.tell(&error);
            }
        }
    }

    fn tell(&mut self, error: &io::Error) {
        if !self.failing {
            tracing::warn!(%error, target = ?self.log.target, "the query log can't be written; queries are answered");
        }
        self.failing = true;
    }

    /// Opens the file again where it is no longer the one that has the name.
    fn look(&mut self) {
        let asked = self.log.reopen.swap(false, Relaxed);
        let (LogTarget::File(path), Sink::File(own)) = (&self.log.target, &self.out) else { return };
        let moved = match (std::fs::metadata(path), own.metadata()) {
            (Ok(there), Ok(own)) => (there.dev(), there.ino()) != (own.dev(), own.ino()),
            _ => true,
        };
        if !asked && !moved && !self.failing {
            return;
        }
        match open(path) {
            Ok(file) => self.out = Sink::File(file),
            Err(error) => self.tell(&error),
        }
    }
}
