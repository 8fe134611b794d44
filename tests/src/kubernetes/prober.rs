//! Asks a server all the while, and writes down every answer that is wrong.

use fingerpost_dns::query;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// A name and what may be answered for its A records.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The name.
    pub name: String,
    /// The sets of addresses, any of which is right; an empty one means that the name does not exist.
    pub answers: Vec<BTreeSet<String>>,
}

impl Expected {
    /// A name with these addresses, and nothing else.
    pub fn exactly(name: impl Into<String>, addresses: &[&str]) -> Self {
        Self { name: name.into(), answers: vec![addresses.iter().map(|&address| address.to_owned()).collect()] }
    }

    /// It may also have these.
    pub fn or(mut self, addresses: &[&str]) -> Self {
        self.answers.push(addresses.iter().map(|&address| address.to_owned()).collect());
        self
    }
}

/// How a name is answered: its addresses, or why there are none.
pub async fn answer(server: SocketAddr, name: &str) -> Result<BTreeSet<String>, String> {
    let reply = query::query(server, name, "A", Duration::from_secs(10)).await.map_err(|error| error.to_string())?;
    match reply.rcode.as_str() {
        "NOERROR" => Ok(reply.answers.into_iter().map(|line| line.data).collect()),
        "NXDOMAIN" => Ok(BTreeSet::new()),
        other => Err(other.to_owned()),
    }
}

struct Shared {
    server: Mutex<Option<SocketAddr>>,
    expected: Vec<Expected>,
    began: Instant,
    asked: AtomicU64,
    /// How many questions were not answered, or with SERVFAIL.
    silent: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// Asks until it is dropped.
pub struct Prober {
    shared: Arc<Shared>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Prober {
    /// Asks `server` for these names, again and again. No answer, and SERVFAIL, are not wrong, but counted.
    pub fn start(server: Option<SocketAddr>, expected: Vec<Expected>) -> Self {
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            expected,
            began: Instant::now(),
            asked: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            wrong: Mutex::new(Vec::new()),
        });
        let tasks = (0..4).map(|n| AbortOnDropHandle::new(tokio::spawn(probe(Arc::clone(&shared), n)))).collect();
        Self { shared, _tasks: tasks }
    }

    /// From now on asks another server, or none.
    pub fn ask(&self, server: Option<SocketAddr>) {
        *self.shared.server.lock().expect("no panic") = server;
    }

    /// How many questions were asked so far.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// How many were not answered, or with SERVFAIL.
    pub fn silent(&self) -> u64 {
        self.shared.silent.load(Ordering::Relaxed)
    }

    /// Waits until every name has been asked for, after this call.
    pub async fn round(&self) {
        let until = self.asked() + 2 * self.shared.expected.len() as u64 + 8;
        while self.asked() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All wrong answers so far; there must be none.
    pub fn assert_right(&self) {
        let wrong = self.shared.wrong.lock().expect("no panic");
        assert!(
            wrong.is_empty(),
            "{} wrong answers of {}, the first and the last: {:#?}",
            wrong.len(),
            self.asked(),
            wrong.iter().take(10).chain(wrong.iter().skip(10.max(wrong.len().saturating_sub(3)))).collect::<Vec<_>>()
        );
    }

    /// The same, and every question has been answered.
    pub fn assert_right_and_never_silent(&self) {
        self.assert_right();
        assert_eq!(self.silent(), 0, "of {} questions some were not answered", self.asked());
    }
}

async fn probe(shared: Arc<Shared>, first: usize) {
    let mut n = first;
    loop {
        let server = *shared.server.lock().expect("no panic");
        let Some(server) = server else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let expected = &shared.expected[n % shared.expected.len()];
        n += 1;
        let said = answer(server, &expected.name).await;
        if *shared.server.lock().expect("no panic") != Some(server) {
            // It was told to ask somebody else meanwhile: this one may have ended.
            continue;
        }
        match said {
            Ok(addresses) if expected.answers.contains(&addresses) => {}
            Ok(addresses) => {
                let seconds = shared.began.elapsed().as_secs_f64();
                let name = &expected.name;
                let wrong = format!("after {seconds:.2} s: {name} is {addresses:?}, not {:?}", expected.answers);
                shared.wrong.lock().expect("no panic").push(wrong);
            }
            Err(_) => {
                shared.silent.fetch_add(1, Ordering::Relaxed);
            }
        }
        shared.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
