//! What the server would answer now: by the very code that serves, while nobody is asked and nothing counted.

use super::FORWARDED;
use crate::answer::{Answerer, Transport, Verdict};
use crate::forward::Forward;
use crate::forward::key::Key;
use crate::index::Index;
use crate::query::{self, Line};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// An answer, and what it takes.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// [`FORWARDED`] where others have to be asked first.
    pub(super) rcode: String,
    pub(super) lines: Vec<Line>,
    /// The names of others that were looked for, in order; the last decided, or is the one to be asked for.
    pub(super) looked: Vec<Key>,
}

impl Told {
    /// Whether others have to be asked first.
    pub(super) fn is_open(&self) -> bool {
        self.rcode == FORWARDED
    }
}

/// Answers a question of a client; without one, of anybody who may ask.
pub(super) fn tell(
    index: &Arc<Index>,
    forward: Option<&Arc<Forward>>,
    packet: &[u8],
    from: Option<IpAddr>,
) -> Option<Told> {
    let client = SocketAddr::new(from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0);
    let mut answerer = Answerer::looking(index.clone(), forward);
    let mut out = Vec::new();
    // Over TCP nothing is cut.
    let (rcode, lines) = match answerer.answer_to(packet, Transport::Tcp, client, &mut out) {
        Verdict::Send => query::read(&out)?,
        Verdict::Later => (FORWARDED.to_owned(), Vec::new()),
        Verdict::Drop => return None,
    };
    Some(Told { rcode, lines, looked: answerer.take_looked() })
}
