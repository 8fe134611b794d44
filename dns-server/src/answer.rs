//! From a packet to its answer: a parse, a lookup and a copy.
//!
//! Where CoreDNS and the RFCs differ, this follows the RFCs; where the RFCs leave a choice, it says which was made:
//!
//! - ANY gets one synthesized HINFO (RFC 8482 §4.2), or the alias where there is one (§4.3).
//! - Aliases within the zone are followed, at most [`MAX_CHAIN`] of them; a longer chain is taken for a loop and is an
//!   error (RFC 1034 §3.6.2): SERVFAIL without records, where CoreDNS answers that there is no data. The alias stays in
//!   the answer when its target lacks the type or does not exist, and the response code is the last name's (RFC 6604 §3),
//!   where CoreDNS drops the alias.
//! - An answer that is an error (SERVFAIL) has no records, whatever led there: half of a chain is no answer, and some
//!   clients would take it for one.
//! - A set that does not fit is answered with a random window of it: over UDP with TC (RFC 2181 §9), over TCP without,
//!   for there is nothing larger to turn to. Addresses in the additional section are left out silently.
//! - The order is random with every answer: a random beginning, then round.

use crate::encode::{QUESTION, Rcode, Reply, Section, bare};
use crate::extended::{self, Extended};
use crate::forward::Forward;
use crate::forward::engine::{Asker, Back};
use crate::forward::entry::Room;
use crate::forward::key::Key;
use crate::forward::lane::{Found as Foreign, Lane, Wish};
use crate::forward::metrics::Refusal;
use crate::forward::search;
use crate::index::Index;
use crate::message::{self, CLASS_IN, Parsed, Query, kind};
use crate::metrics::{CountedZone, Counters};
use crate::name::{MAX_NAME, Name};
use crate::node::Special;
use crate::querylog::{QueryLog, Seen};
use crate::record::Pointer;
use crate::view::{Called, View};
use crate::zones::{self, Kind, Spelling, Within};
use hashbrown::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// Most aliases that one answer follows.
pub const MAX_CHAIN: usize = 10;
/// The largest message over TCP (RFC 1035 §4.2.2).
const MAX_TCP: usize = 65_535;
/// The largest answer over UDP to a client that does not say what it takes (RFC 1035 §4.2.1).
const MAX_PLAIN_UDP: u16 = 512;

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// What to do with the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// Send the answer back.
    Send,
    /// Say nothing.
    Drop,
    /// Others have to be asked first. Only where forwarding is set up.
    Later,
}

/// Answers queries, one at a time. Each thread has one; it holds what would otherwise be allocated for each query.
#[derive(Debug)]
pub struct Answerer {
    index: Arc<Index>,
    counters: Arc<Counters>,
    log: Option<Arc<QueryLog>>,
    scratch: Scratch,
    lane: Option<Lane>,
}

/// What is used again for every query.
#[derive(Debug)]
struct Scratch {
    random: Random,
    /// The name that is looked up, in lower case.
    lower: [u8; MAX_NAME],
    /// Where in the answer the names stand whose addresses belong into the additional section.
    targets: Vec<usize>,
    seen: HashSet<u64, ahash::RandomState>,
    /// The zone of the question, for the counters.
    zone: CountedZone,
}

/// Random enough for the order of records; not for secrets.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// A number below `bound` (xorshift64*).
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((number * bound as u64) >> 32) as usize
    }
}

/// The name that is looked up: the question's, and after it each alias' target.
#[derive(Clone, Copy)]
struct Asked<'a> {
    qtype: u16,
    /// Where in the answer it stands.
    owner: usize,
    /// How much of [`Scratch::lower`] it takes.
    length: usize,
    within: Within,
    spelling: Spelling<'a>,
}

/// What becomes of a question.
enum Resolved {
    /// The reply has all that there is to say.
    Rcode(Rcode),
    /// The name, of this length, is none of ours.
    Outside(usize),
    /// Others have to be asked first.
    Later,
}

/// What the rest of a search path has.
enum Searched {
    Nothing,
    /// A name of ours.
    Here(Found),
    /// A name of others.
    There(Resolved),
}

/// What was found at a name.
enum Found {
    Missing,
    NoData,
    Answered,
    /// An alias, and where in the answer its target stands.
    Alias(Name, usize),
}

impl Answerer {
    /// One that answers from this index and counts there.
    pub fn new(index: Arc<Index>, counters: Arc<Counters>) -> Self {
        Self {
            index,
            counters,
            log: None,
            scratch: Scratch {
                random: Random(rand::random::<u64>() | 1),
                lower: [0; MAX_NAME],
                targets: Vec::with_capacity(64),
                seen: HashSet::default(),
                zone: CountedZone::NONE,
            },
            lane: None,
        }
    }

    /// The same, with what it answers noted there.
    pub(crate) fn logging(self, log: Option<Arc<QueryLog>>) -> Self {
        Self { log, ..self }
    }

    /// With forwarding.
    pub(crate) fn with_lane(self, lane: Option<Lane>) -> Self {
        Self { lane, ..self }
    }

    /// One that says what the answer would be, and leaves everything as it is: nobody is asked, nothing counted.
    pub(crate) fn looking(index: Arc<Index>, forward: Option<&Arc<Forward>>) -> Self {
        let lane = forward.map(|forward| Lane::looking(Arc::clone(forward)));
        Self::new(index, Arc::default()).with_lane(lane)
    }

    /// Which names of others one that only looks was to look for.
    pub(crate) fn take_looked(&mut self) -> Vec<Key> {
        self.lane.as_mut().map(Lane::take_looked).unwrap_or_default()
    }

    /// Answers a packet of nobody in particular; see [`Answerer::answer_to`].
    pub fn answer(&mut self, packet: &[u8], transport: Transport, out: &mut Vec<u8>) -> Verdict {
        self.answer_to(packet, transport, SocketAddr::from(([0, 0, 0, 0], 0)), out)
    }

    /// Answers a packet. `out` holds the answer alone, if there is one, and is at most as long as transport and client
    /// allow.
    pub fn answer_to(&mut self, packet: &[u8], transport: Transport, client: SocketAddr, out: &mut Vec<u8>) -> Verdict {
        let logged = self.is_logged();
        let timed = self.counters.samples();
        let began = (timed || logged).then(Instant::now);
        self.scratch.zone = CountedZone::NONE;
        if let Some(lane) = &mut self.lane {
            lane.begin(logged);
        }
        let edns;
        let rcode = match message::parse(packet) {
            Parsed::Ignore => {
                self.counters.dropped();
                return Verdict::Drop;
            }
            Parsed::Malformed => {
                self.counters.malformed();
                edns = self.without_question(packet, Rcode::FormErr, out);
                Rcode::FormErr
            }
            Parsed::OtherOpcode => {
                edns = self.without_question(packet, Rcode::NotImp, out);
                Rcode::NotImp
            }
            Parsed::Query(query) => {
                self.counters.request(query.qtype);
                edns = query.edns.map(|edns| edns.dnssec_ok);
                match self.query(packet, &query, transport, client.ip(), out) {
                    Some(rcode) => rcode,
                    None => return Verdict::Later,
                }
            }
        };
        self.counters.response(self.scratch.zone, rcode);
        if let Some(took) = began.map(|began| began.elapsed()) {
            if timed {
                self.counters.took(took);
            }
            if logged {
                let came = self.lane.as_mut().and_then(Lane::take_came);
                self.note(out, Seen { client, transport, took, rcode, edns, came });
            }
        }
        Verdict::Send
    }

    /// Answers to what is no question, or can't be read; whether the client speaks EDNS, and asks for DNSSEC.
    fn without_question(&self, packet: &[u8], rcode: Rcode, out: &mut Vec<u8>) -> Option<bool> {
        let edns = message::edns_of(packet);
        bare(out, packet, rcode, edns, self.payload());
        edns.map(|edns| edns.dnssec_ok)
    }

    /// Whether the answer under way goes into the log: at random, so that no pattern of queries hides from it.
    fn is_logged(&mut self) -> bool {
        self.log.as_ref().is_some_and(|log| self.scratch.random.below(log.sample() as usize) == 0)
    }

    fn note(&self, answer: &[u8], seen: Seen) {
        if let Some(log) = &self.log {
            log.note(answer, seen);
        }
    }

    /// After [`Verdict::Later`]: hands the packet over to those who ask. False where there is no room: `out` then holds
    /// the answer to send.
    pub(crate) fn hand_over(
        &mut self,
        packet: &[u8],
        transport: Transport,
        client: SocketAddr,
        back: Back,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.lane.as_mut().is_some_and(|lane| lane.hand_over(packet, transport, client, back).is_ok()) {
            return true;
        }
        self.give_up(packet, transport, extended::TOO_MANY, out);
        false
    }

    /// Answers a packet that was counted already with what others were asked for since; what else is to be asked for,
    /// where that is not enough.
    pub(crate) fn again(&mut self, asker: &mut Asker, out: &mut Vec<u8>) -> Option<Key> {
        self.scratch.zone = CountedZone::NONE;
        let logged = self.is_logged();
        let lane = self.lane.as_mut()?;
        lane.begin(logged);
        let Parsed::Query(query) = message::parse(&asker.packet) else { return None };
        lane.exchange_found(std::mem::take(&mut asker.found));
        let rcode = self.query(&asker.packet, &query, asker.transport, asker.client.ip(), out);
        let lane = self.lane.as_mut()?;
        asker.found = lane.exchange_found(Vec::new());
        let came = lane.take_came();
        match rcode {
            Some(rcode) => {
                self.counters.response(self.scratch.zone, rcode);
                if logged {
                    let edns = query.edns.map(|edns| edns.dnssec_ok);
                    let (client, transport, took) = (asker.client, asker.transport, asker.begun.elapsed());
                    self.note(out, Seen { client, transport, took, rcode, edns, came });
                }
                None
            }
            None => lane.take_wanted(),
        }
    }

    /// Answers that there is no answer now, and why.
    pub(crate) fn give_up(&mut self, packet: &[u8], transport: Transport, why: Extended, out: &mut Vec<u8>) {
        let Parsed::Query(query) = message::parse(packet) else { return };
        let room = self.room(&query, transport);
        let mut reply = Reply::new(out, packet, &query, room.limit);
        reply.rcode = Rcode::ServFail;
        reply.recursion = true;
        reply.reasons.push(why);
        self.counters.response(CountedZone::NONE, reply.finish(room.payload));
    }

    /// What we take over UDP, and give at most.
    fn payload(&self) -> u16 {
        self.index.config.udp_payload.max(MAX_PLAIN_UDP)
    }

    /// What a client takes.
    fn room(&self, query: &Query<'_>, transport: Transport) -> Room {
        let most = self.payload();
        let limit = match (transport, query.edns) {
            (Transport::Tcp, _) => MAX_TCP,
            (Transport::Udp, None) => usize::from(MAX_PLAIN_UDP),
            // Less than 512 is taken for 512 (RFC 6891 §6.2.3).
            (Transport::Udp, Some(edns)) => usize::from(edns.payload.clamp(MAX_PLAIN_UDP, most)),
        };
        Room { limit, payload: most }
    }

    /// Answers a query; none where others have to be asked first.
    fn query(
        &mut self,
        packet: &[u8],
        query: &Query<'_>,
        transport: Transport,
        client: IpAddr,
        out: &mut Vec<u8>,
    ) -> Option<Rcode> {
        let room = self.room(query, transport);
        let mut lane = self.lane.as_mut();
        let offered = lane.as_ref().is_some_and(|lane| lane.allows(client));
        let mut reply = Reply::new(out, packet, query, room.limit);
        reply.recursion = offered;
        let wish = Wish {
            qtype: query.qtype,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: packet[3] & 0x10 != 0,
            recursion_desired: packet[2] & 0x01 != 0,
        };
        let rcode = match self.scratch.resolve(&self.index, &mut reply, query, (lane.as_deref_mut(), offered), wish) {
            Resolved::Rcode(rcode) => rcode,
            Resolved::Later => return None,
            Resolved::Outside(length) => match lane {
                None => {
                    reply.reasons.push(extended::NOT_AUTHORITATIVE);
                    Rcode::Refused
                }
                Some(lane) if !offered => {
                    lane.refused(Refusal::Network);
                    reply.reasons.push(extended::PROHIBITED);
                    Rcode::Refused
                }
                Some(lane) => match lane.find(&self.scratch.lower[..length], wish) {
                    Foreign::Later => return None,
                    Foreign::Refused(why) => {
                        // The reply may have been begun as an answer of ours.
                        reply.authoritative = false;
                        reply.reasons.extend(why);
                        Rcode::Refused
                    }
                    Foreign::Entry(entry, age) => {
                        let turn = self.scratch.random.below(1 << 16);
                        if !entry.write(out, packet, query, age, &room, turn) {
                            self.counters.truncated();
                        }
                        return Some(entry.rcode());
                    }
                },
            },
        };
        reply.rcode = rcode;
        if rcode == Rcode::ServFail {
            // Aliases may have led there.
            reply.clear();
        }
        if reply.truncated {
            self.counters.truncated();
            reply.truncated = transport == Transport::Udp;
        }
        Some(reply.finish(room.payload))
    }
}

impl Scratch {
    fn resolve(
        &mut self,
        index: &Index,
        reply: &mut Reply<'_>,
        query: &Query<'_>,
        (lane, offered): (Option<&mut Lane>, bool),
        wish: Wish,
    ) -> Resolved {
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return Resolved::Rcode(Rcode::BadVers);
        }
        let in_class = query.qclass == CLASS_IN;
        if !in_class || matches!(query.qtype, kind::AXFR | kind::IXFR) {
            reply.reasons.push(if in_class { extended::NO_TRANSFERS } else { extended::NO_CLASS });
            return Resolved::Rcode(Rcode::Refused);
        }
        let mut length = query.name.len();
        // The parser lets no name through that is longer.
        let Some(lower) = self.lower.get_mut(..length) else {
            return Resolved::Rcode(Rcode::FormErr);
        };
        lower.copy_from_slice(query.name);
        lower.make_ascii_lowercase();
        let rewritten = lane.as_ref().and_then(|lane| lane.forward().rewritten(&self.lower[..length], &index.zones));
        let rewritten = rewritten.map(|rewritten| rewritten.target);
        if let Some(target) = &rewritten {
            length = target.len();
            self.lower[..length].copy_from_slice(target);
        }
        // A name is what it is called for everybody; only asking others is for those who may.
        let mut lane = lane.filter(|_| offered);
        let lower = &self.lower[..length];

        let synced = index.is_synced();
        let within = match index.zones.find(lower) {
            Some(within) => within,
            // Whether it is known can't be said yet.
            None if zones::is_reverse(lower) && !synced => return not_ready(reply),
            // An address that is known, outside of the reverse zones: it is a zone of its own.
            None if zones::is_reverse(lower) && index.table.read(lower, |_| ()).is_some() => {
                Within { apex_at: 0, kind: Kind::Reverse }
            }
            None => match lane {
                Some(lane) if rewritten.is_some() => return foreign(reply, QUESTION, lane.find(lower, wish)),
                _ => return Resolved::Outside(length),
            },
        };
        self.zone = CountedZone::of(within.kind);
        if !synced {
            return not_ready(reply);
        }
        reply.authoritative = true;
        self.targets.clear();
        let spelling = index.zones.spelling(within.kind);
        // Where another name is looked up, the zone's name does not stand in the question, and can't be pointed to.
        let place = if rewritten.is_some() { Within { apex_at: 0, kind: Kind::Reverse } } else { within };
        let compiled = match rewritten {
            Some(_) => index.zones.compiled(&mut self.lower, length, within),
            None => Some(length),
        };
        let mut asked = Asked { qtype: query.qtype, owner: QUESTION, length, within: place, spelling };
        let mut found = match compiled {
            Some(length) => self.at(index, reply, &Asked { length, ..asked }),
            None => Found::Missing,
        };
        if let (Found::Missing, Some(lane)) = (&found, &mut lane) {
            // What was looked up may have got the end of another zone.
            self.lower[..length].copy_from_slice(rewritten.as_deref().unwrap_or(query.name));
            self.lower[..length].make_ascii_lowercase();
            let name = &self.lower[..length];
            if lane.forward().speaks_for(name, query.qtype, within) {
                reply.authoritative = false;
                return match rewritten {
                    Some(_) => foreign(reply, QUESTION, lane.find(name, wish)),
                    None => Resolved::Outside(length),
                };
            }
            // What a rewrite leads to is a whole name.
            if rewritten.is_none()
                && within.is_cluster()
                && lane.forward().config.search.is_some()
                && wish.recursion_desired
            {
                match self.search(index, reply, &asked, lane, wish) {
                    Searched::Nothing => {}
                    Searched::Here(at) => found = at,
                    Searched::There(resolved) => return resolved,
                }
            }
        }
        let mut chain = 0;
        while let Found::Alias(target, owner) = found {
            chain += 1;
            if chain > MAX_CHAIN {
                reply.reasons.push(extended::ALIAS_LOOP);
                return Resolved::Rcode(Rcode::ServFail);
            }
            let Some(within) = index.zones.find(target.wire()).filter(|within| within.is_cluster()) else {
                // Someone else's name. Clients that can't go on from there by themselves ask for recursion.
                return match lane.filter(|_| wish.recursion_desired) {
                    None => Resolved::Rcode(Rcode::NoError),
                    Some(lane) => match lane.find(target.wire(), wish) {
                        Foreign::Refused(_) => Resolved::Rcode(Rcode::NoError),
                        found => foreign(reply, owner, found),
                    },
                };
            };
            let length = target.wire().len();
            self.lower[..length].copy_from_slice(target.wire());
            if within.kind != Kind::Primary {
                // The alias leads into that zone by its own words.
                asked.spelling = index.zones.spelling(within.kind);
            }
            asked = Asked { owner, length, within, ..asked };
            found = self.at(index, reply, &asked);
        }
        let rcode = match found {
            Found::Answered | Found::Alias(..) => {
                self.additional(index, reply);
                return Resolved::Rcode(Rcode::NoError);
            }
            Found::NoData => Rcode::NoError,
            Found::Missing => Rcode::NxDomain,
        };
        let told = match &rewritten {
            Some(target) if chain == 0 => reply.soa_of(index, target.get(within.apex_at..).unwrap_or_default()),
            _ => reply.soa(Section::Authority, index, asked.owner, asked.within),
        };
        if !told {
            reply.truncated = true;
        }
        Resolved::Rcode(rcode)
    }

    /// Walks the rest of a pod's search path for a name in it that does not exist: `<name>.<ns>.svc.<zone>`, where the
    /// namespace exists, the name has a dot, and its last label is no service there. The first name on the path that
    /// exists, with records of whatever type, is answered, behind an alias to it.
    fn search(
        &mut self,
        index: &Index,
        reply: &mut Reply<'_>,
        asked: &Asked<'_>,
        lane: &mut Lane,
        wish: Wish,
    ) -> Searched {
        let &Asked { qtype, length, within, .. } = asked;
        let spelling = Spelling::AsCompiled;
        let name = &self.lower[..length];
        let Some(candidates) = search::candidates(index, name, within.apex_at, lane.forward()) else {
            return Searched::Nothing;
        };
        for candidate in candidates {
            let wire = candidate.wire();
            if index.zones.find(wire).is_some() {
                if search::is_ours(index, wire) {
                    let Some(at) = reply.name(QUESTION, kind::CNAME, index.config.ttl, &candidate, spelling) else {
                        reply.truncated = true;
                        return Searched::There(Resolved::Rcode(Rcode::NoError));
                    };
                    if matches!(qtype, kind::CNAME | kind::ANY) {
                        return Searched::Here(Found::Answered);
                    }
                    return Searched::Here(Found::Alias(candidate, at));
                }
                continue;
            }
            match lane.find(wire, wish) {
                Foreign::Later => return Searched::There(Resolved::Later),
                Foreign::Refused(_) => {}
                Foreign::Entry(entry, _) if entry.rcode() == Rcode::NxDomain && entry.records() == 0 => {}
                Foreign::Entry(entry, age) => {
                    if entry.rcode() == Rcode::ServFail {
                        return Searched::There(foreign(reply, QUESTION, Foreign::Entry(entry, age)));
                    }
                    let Some(at) = reply.name(QUESTION, kind::CNAME, index.config.ttl, &candidate, spelling) else {
                        reply.truncated = true;
                        return Searched::There(Resolved::Rcode(Rcode::NoError));
                    };
                    return Searched::There(foreign(reply, at, Foreign::Entry(entry, age)));
                }
            }
        }
        Searched::Nothing
    }

    /// Answers from what stands at the name in `self.lower`.
    fn at(&mut self, index: &Index, reply: &mut Reply<'_>, asked: &Asked<'_>) -> Found {
        let Self { random, targets, lower, .. } = self;
        let Some(length) = index.zones.compiled(lower, asked.length, asked.within) else {
            return Found::Missing;
        };
        let mut apex = false;
        let found = index.table.read(&lower[..length], |view| {
            if view.special() == Special::Apex && matches!(asked.qtype, kind::SOA | kind::NS) {
                apex = true;
                return Found::Answered;
            }
            table_answer(view, reply, asked, random, targets)
        });
        if apex {
            if asked.qtype == kind::SOA {
                reply.soa(Section::Answer, index, asked.owner, asked.within);
            } else {
                targets.extend(reply.name(asked.owner, kind::NS, index.config.ttl, &index.name_server, asked.spelling));
            }
        }
        found.unwrap_or_else(|| match index.pod_address(&lower[..length]) {
            Some(address) => pod_answer(address, reply, asked, index.config.ttl),
            None => Found::Missing,
        })
    }

    /// Adds the addresses of the targets, each target's all or none, as long as there is room.
    fn additional(&mut self, index: &Index, reply: &mut Reply<'_>) {
        if self.targets.is_empty() || reply.truncated {
            return;
        }
        let Self { targets, seen, lower, .. } = self;
        seen.clear();
        for &at in targets.iter() {
            let written = reply.written().get(at..).unwrap_or_default();
            let length = name_length(written);
            let (Some(from), Some(to)) = (written.get(..length), lower.get_mut(..length)) else {
                return;
            };
            to.copy_from_slice(from);
            let length = match index.zones.has_aliases().then(|| index.zones.find(&lower[..length])).flatten() {
                Some(within) => index.zones.compiled(lower, length, within),
                None => Some(length),
            };
            let Some(compiled) = length else { continue };
            // Two targets with one hash only cost an address that nobody was promised.
            if !seen.insert(std::hash::BuildHasher::hash_one(seen.hasher(), from)) {
                continue;
            }
            let fitted = index.table.read(&lower[..compiled], |view| {
                let start = reply.position();
                let (four, six) = (view.a(), view.aaaa());
                let v4 = reply.addresses(Section::Additional, at, view.ttl(), four, 0);
                let v6 = reply.addresses(Section::Additional, at, view.ttl(), six, 0);
                let whole = v4 == four.len() && v6 == six.len();
                if !whole {
                    reply.rewind(start, Section::Additional, (v4 + v6) as u16);
                }
                whole
            });
            if fitted == Some(false) {
                return;
            }
        }
    }
}

/// Before the first sync what is not known may exist: SERVFAIL, never NXDOMAIN.
fn not_ready(reply: &mut Reply<'_>) -> Resolved {
    reply.reasons.push(extended::NOT_READY);
    Resolved::Rcode(Rcode::ServFail)
}

/// Takes over what others say of a name, as said of the name at `owner`.
fn foreign(reply: &mut Reply<'_>, owner: usize, found: Foreign) -> Resolved {
    match found {
        Foreign::Later => Resolved::Later,
        Foreign::Refused(why) => {
            reply.reasons.extend(why);
            Resolved::Rcode(Rcode::Refused)
        }
        Foreign::Entry(entry, age) => {
            if !entry.write_into(reply, owner, age) {
                reply.truncated = true;
            }
            Resolved::Rcode(entry.rcode())
        }
    }
}

/// The length of a valid name in wire form.
fn name_length(wire: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&length) = wire.get(at) {
        at += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    at
}

/// Answers with the address that a pod's name stands for.
fn pod_answer(address: IpAddr, reply: &mut Reply<'_>, asked: &Asked<'_>, ttl: u32) -> Found {
    let &Asked { qtype, owner, .. } = asked;
    let written = match (address, qtype) {
        (IpAddr::V4(v4), kind::A) => reply.addresses(Section::Answer, owner, ttl, &[v4.octets()], 0),
        (IpAddr::V6(v6), kind::AAAA) => reply.addresses(Section::Answer, owner, ttl, &[v6.octets()], 0),
        (_, kind::ANY) => usize::from(reply.minimal_any(owner, ttl)),
        _ => return Found::NoData,
    };
    reply.truncated |= written == 0;
    Found::Answered
}

fn table_answer(
    view: View<'_>,
    reply: &mut Reply<'_>,
    asked: &Asked<'_>,
    random: &mut Random,
    targets: &mut Vec<usize>,
) -> Found {
    let &Asked { qtype, owner, spelling, .. } = asked;
    let ttl = view.ttl();
    if let Some(target) = view.cname() {
        let Some(at) = reply.name(owner, kind::CNAME, ttl, target, spelling) else {
            reply.truncated = true;
            return Found::Answered;
        };
        return match qtype {
            kind::CNAME | kind::ANY => Found::Answered,
            _ => Found::Alias(target.clone(), at),
        };
    }
    let (held, written) = match qtype {
        kind::A => {
            let items = view.a();
            (items.len(), reply.addresses(Section::Answer, owner, ttl, items, random.below(items.len())))
        }
        kind::AAAA => {
            let items = view.aaaa();
            (items.len(), reply.addresses(Section::Answer, owner, ttl, items, random.below(items.len())))
        }
        kind::SRV => {
            let items = view.srv();
            // Known only now, so that a change of one instance does not touch the records of all.
            let share = (100 / items.len().max(1)).max(1) as u16;
            let (before, after) = items.split_at(random.below(items.len()));
            for srv in after.iter().chain(before) {
                let Some(at) = reply.srv(owner, ttl, srv, share, spelling) else {
                    break;
                };
                targets.push(at);
            }
            (items.len(), targets.len())
        }
        kind::PTR => match view.called() {
            Some(called) => pointer_answer(called, view.reversed(), reply, asked, random),
            None => (0, 0),
        },
        kind::TXT if view.special() == Special::Version => (1, usize::from(reply.version(owner))),
        kind::ANY if view.has_records() => (1, usize::from(reply.minimal_any(owner, ttl))),
        _ => (0, 0),
    };
    reply.truncated |= written < held;
    if held == 0 { Found::NoData } else { Found::Answered }
}

/// The name of a service whose own address it is (one, the first in order, if several claim it), else those of all
/// endpoints. A set has one TTL (RFC 2181 §5.2), here the lowest.
fn pointer_answer(
    called: Called<'_>,
    address: Option<IpAddr>,
    reply: &mut Reply<'_>,
    asked: &Asked<'_>,
    random: &mut Random,
) -> (usize, usize) {
    let &Asked { owner, spelling, .. } = asked;
    let mut write = |pointer: &Pointer, ttl| reply.pointer(owner, ttl, pointer, address, spelling).is_some();
    let pointers = match called {
        Called::One(pointer) => return (1, usize::from(write(pointer, pointer.ttl))),
        Called::Some(pointers) => pointers,
    };
    if let Some(pointer) = pointers.services.items().iter().min() {
        return (1, usize::from(write(pointer, pointer.ttl)));
    }
    let items = pointers.endpoints.items();
    let ttl = items.iter().map(|pointer| pointer.ttl).min().unwrap_or_default();
    let (before, after) = items.split_at(random.below(items.len()));
    (items.len(), after.iter().chain(before).take_while(|pointer| write(pointer, ttl)).count())
}
