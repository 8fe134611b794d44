//! An answer that is kept: the upstream's message, and what is needed to send it again.
//!
//! It stays in wire form. To answer with it is to copy it, and to put in the client's id, flags and spelling, and TTLs
//! that have counted down.

use crate::encode::{OPT, Rcode, Reply, Section};
use crate::extended::{self, Extended};
use crate::forward::clock::Moment;
use crate::forward::key::Key;
use crate::forward::wire::{Malformed, Record, Records, plain_data, read_name, u16_at, u32_at};
use crate::message::{CLASS_IN, HEADER, Query, kind, skip_name};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The TTL of answers that are past theirs (RFC 8767 §4).
const STALE_TTL: u32 = 30;
/// How many seconds an answer that was cut is kept, where the whole of it can't be had: as long as a failure is.
const CUT_TTL: u32 = 5;
/// What an entry takes beside its octets: the cache's slot and its own fields, about.
const OVERHEAD: usize = 208;

/// For how long answers are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetimes {
    /// TTLs below are raised to this, in seconds.
    pub(crate) least: u32,
    /// TTLs above are lowered to this, in seconds.
    pub(crate) most: u32,
    /// The same for what does not exist.
    pub(crate) most_negative: u32,
}

/// Why a message is no answer to a question.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// Not the answer to this question: late, misled, or forged.
    #[error("the message answers another question")]
    Foreign,
    /// It can't be read.
    #[error("the answer can't be read")]
    Malformed,
    /// The server could not or would not answer; with the reasons that it gave.
    #[error("the server answered with {}", rcode_name(*.0))]
    Rcode(u16, Vec<Extended>),
}

impl From<Malformed> for Unfit {
    fn from(_: Malformed) -> Self {
        Unfit::Malformed
    }
}

/// A response code's name.
pub(crate) fn rcode_name(rcode: u16) -> String {
    match rcode {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        other => format!("RCODE {other}"),
    }
}

/// Addresses of one name that stand side by side: they are sent in another order each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rotation {
    start: usize,
    records: usize,
    length: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Header, question, and all records but OPT.
    message: Box<[u8]>,
    /// Where the TTL of each record stands.
    ttls: Box<[u16]>,
    rotation: Option<Rotation>,
    rcode: Rcode,
    /// The upstream vouches for it (AD).
    authentic: bool,
    /// Records are missing for want of room, and could not be had otherwise.
    cut: bool,
    /// What we answer by ourselves does not grow old.
    local: bool,
    /// Why it is as it is, where that was said.
    reasons: Box<[Extended]>,
    /// Whose answer it is.
    origin: Option<Origin>,
    stored: Moment,
    expires: Moment,
    /// Until when it may be sent past its TTL without asking again.
    stale_until: AtomicU64,
    /// Until when nobody is to ask again: somebody does, or has in vain.
    refresh_after: AtomicU64,
}

/// Whose answer it is.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Which upstream's, as it is called everywhere.
    pub(crate) upstream: Arc<str>,
    /// How long it took to give it.
    pub(crate) took: Duration,
}

/// How old an entry is, for one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    /// So many seconds.
    Fresh(u32),
    /// Past its TTL, by so many seconds.
    Stale(u32),
}

impl Age {
    /// What is left of a TTL.
    fn ttl(self, ttl: u32) -> u32 {
        match self {
            Age::Fresh(age) => ttl.saturating_sub(age),
            Age::Stale(_) => STALE_TTL,
        }
    }
}

/// What a client may get.
pub(crate) struct Room {
    /// The largest answer.
    pub(crate) limit: usize,
    /// What we take over UDP.
    pub(crate) payload: u16,
}

impl Entry {
    /// Reads the answer to a question. The id is the caller's to check, since streams have their own.
    pub(crate) fn read(raw: &[u8], key: &Key, lifetimes: Lifetimes, now: Moment) -> Result<Self, Unfit> {
        // Nothing that says whose answer it is.
        let header = raw.get(..HEADER).ok_or(Unfit::Foreign)?;
        // An answer to a query of the usual kind.
        if header[2] & 0xf8 != 0x80 {
            return Err(Unfit::Foreign);
        }
        let mut rcode = u16::from(header[3] & 0x0f);
        let end = match u16_at(raw, 4) {
            Some(1) => {
                let name = read_name(raw, HEADER).ok_or(Unfit::Malformed)?;
                let end = HEADER + name.len();
                let asked = u16_at(raw, end) == Some(key.qtype()) && u16_at(raw, end + 2) == Some(CLASS_IN);
                if skip_name(raw, HEADER) != Some(end) || !asked || !name.eq_ignore_ascii_case(key.name()) {
                    return Err(Unfit::Foreign);
                }
                end + 4
            }
            // Servers that can't read a query don't repeat it.
            Some(0) if !matches!(rcode, 0 | 3) => return Err(Unfit::Rcode(rcode, Vec::new())),
            _ => return Err(Unfit::Malformed),
        };
        let cut = header[2] & 0x02 != 0;
        let mut message = Vec::with_capacity(raw.len());
        message.extend_from_slice(&header[..4]);
        message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(key.question());
        let mut counts = [0u16; 3];
        let mut ttls = Vec::new();
        let mut least = u32::MAX;
        let mut negative = None;
        let mut answered = false;
        let mut rotation: Option<Rotation> = None;
        let mut whole = true;
        let mut reasons = Vec::new();
        for record in Records::new(raw, end) {
            let record = match record {
                // Anywhere, with some servers.
                Err(_) if cut => break,
                record => record?,
            };
            if record.rtype == kind::OPT {
                rcode |= u16::from(raw.get(record.ttl).copied().unwrap_or_default()) << 4;
                if whole {
                    reasons = extended::read(raw.get(record.data..record.end).unwrap_or_default());
                }
                // What follows would not stand where pointers look for it; it is additional, and seldom there.
                whole = false;
            }
            if !whole {
                continue;
            }
            read_name(raw, record.owner).ok_or(Unfit::Malformed)?;
            // The upper half counts as 0 (RFC 2181 §8).
            let ttl = u32_at(raw, record.ttl).filter(|ttl| *ttl <= i32::MAX as u32).unwrap_or(0);
            let ttl = ttl.max(lifetimes.least).min(lifetimes.most);
            least = least.min(ttl);
            if record.section == Section::Answer {
                answered |= record.rtype == key.qtype() || key.qtype() == kind::ANY;
                rotation = with(rotation, raw, &record);
            }
            if record.section == Section::Authority && record.rtype == kind::SOA && negative.is_none() {
                // The last of its numbers (RFC 2308 §4).
                let minimum = record.end.checked_sub(4).and_then(|at| u32_at(raw, at)).ok_or(Unfit::Malformed)?;
                negative = Some(ttl.min(minimum.max(lifetimes.least)).min(lifetimes.most_negative));
            }
            counts[record.section as usize] += 1;
            message.extend_from_slice(raw.get(record.owner..record.ttl).unwrap_or_default());
            ttls.push(u16::try_from(message.len()).map_err(|_| Unfit::Malformed)?);
            message.extend_from_slice(&ttl.to_be_bytes());
            message.extend_from_slice(raw.get(record.ttl + 4..record.end).unwrap_or_default());
        }
        let rcode = match rcode {
            0 => Rcode::NoError,
            3 => Rcode::NxDomain,
            other => return Err(Unfit::Rcode(other, reasons)),
        };
        for (place, count) in message[6..HEADER].chunks_exact_mut(2).zip(counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        // A negative answer without SOA does not say for how long it holds, so it is not kept (RFC 2308 §5).
        let kept = match (rcode == Rcode::NoError && answered, negative) {
            (true, _) => least,
            (false, Some(negative)) => negative.min(least),
            _ if cut => least,
            (false, None) => 0,
        };
        let kept = if cut { kept.min(CUT_TTL) } else { kept };
        if let (false, Some(_)) = (answered, negative) {
            // Clients must not keep it longer than we do.
            for at in &ttls {
                let place = usize::from(*at)..usize::from(*at) + 4;
                let ttl = u32_at(&message, place.start).unwrap_or(0).min(kept);
                message[place].copy_from_slice(&ttl.to_be_bytes());
            }
        }
        Ok(Self {
            message: message.into(),
            ttls: ttls.into(),
            rotation: rotation.filter(|rotation| rotation.records > 1),
            rcode,
            authentic: header[3] & 0x20 != 0,
            cut,
            local: false,
            reasons: reasons.into(),
            origin: None,
            stored: now,
            expires: now.saturating_add(u64::from(kept) * 1000),
            stale_until: AtomicU64::new(0),
            refresh_after: AtomicU64::new(0),
        })
    }

    /// An answer of our own: records at the name asked for, or at the apex of a zone above it that begins at this place of
    /// the name.
    pub(crate) fn local(key: &Key, rcode: Rcode, records: &[LocalRecord], now: Moment) -> Self {
        let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(key.question());
        let mut counts = [0u16; 3];
        let mut ttls = Vec::new();
        for record in records {
            counts[record.section as usize] += 1;
            message.extend_from_slice(&(0xc000 | (HEADER + record.owner_at) as u16).to_be_bytes());
            message.extend_from_slice(&record.rtype.to_be_bytes());
            message.extend_from_slice(&CLASS_IN.to_be_bytes());
            ttls.push(message.len() as u16);
            message.extend_from_slice(&record.ttl.to_be_bytes());
            message.extend_from_slice(&(record.data.len() as u16).to_be_bytes());
            message.extend_from_slice(&record.data);
        }
        for (place, count) in message[6..HEADER].chunks_exact_mut(2).zip(counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        Self {
            message: message.into(),
            ttls: ttls.into(),
            rotation: None,
            rcode,
            authentic: false,
            cut: false,
            local: true,
            reasons: Box::default(),
            origin: None,
            stored: now,
            expires: now,
            stale_until: AtomicU64::new(0),
            refresh_after: AtomicU64::new(0),
        }
    }

    /// That there is no answer, for so long, and why.
    pub(crate) fn failure(key: &Key, now: Moment, lasts: Duration, reasons: Vec<Extended>) -> Self {
        let expires = now.saturating_add(lasts.as_millis() as u64);
        Self { local: false, expires, ..Self::local(key, Rcode::ServFail, &[], now) }.because(reasons)
    }

    /// The same for that reason.
    pub(crate) fn because(self, reasons: Vec<Extended>) -> Self {
        Self { reasons: reasons.into(), ..self }
    }

    /// The same as that upstream's answer: the reasons are its, then.
    pub(crate) fn given_by(self, origin: Origin) -> Self {
        let reasons = self.reasons.into_iter().map(|reason| reason.of(&origin.upstream)).collect();
        Self { reasons, origin: Some(origin), ..self }
    }

    /// Whose answer it is; nobody's where it is ours, or there is none.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Why it is as it is, and why it is sent at that age.
    pub(crate) fn reasons(&self, age: Age) -> impl Iterator<Item = Cow<'_, Extended>> {
        let stale = match age {
            Age::Fresh(_) => None,
            Age::Stale(seconds) => Some(Cow::Owned(Extended::stale(self.rcode != Rcode::NxDomain, seconds))),
        };
        stale.into_iter().chain(self.reasons.iter().map(Cow::Borrowed))
    }

    pub(crate) fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// The octets that it takes in memory, about.
    pub(crate) fn weight(&self) -> usize {
        let reasons: usize = self.reasons.iter().map(Extended::weight).sum();
        OVERHEAD + self.message.len() + 2 * self.ttls.len() + reasons
    }

    /// Whether records are missing.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.expires > self.stored
    }

    /// How old it is; none where it may not be sent without asking again.
    pub(crate) fn age(&self, now: Moment) -> Option<Age> {
        if self.local {
            return Some(Age::Fresh(0));
        }
        if now < self.expires {
            return Some(Age::Fresh((now.saturating_sub(self.stored) / 1000) as u32));
        }
        let past = ((now - self.expires) / 1000) as u32;
        (now < self.stale_until.load(Relaxed)).then_some(Age::Stale(past))
    }

    /// The age it has while it is delivered to those who waited for it.
    pub(crate) fn age_now(&self, now: Moment) -> Age {
        self.age(now).unwrap_or(Age::Fresh(0))
    }

    /// How long it is still fresh.
    pub(crate) fn remaining(&self, now: Moment) -> Option<Duration> {
        (now < self.expires).then(|| Duration::from_millis(self.expires - now))
    }

    /// Whether it may be sent, past its TTL, where nothing newer can be had.
    pub(crate) fn is_usable_stale(&self, now: Moment, limit: Duration) -> bool {
        self.rcode != Rcode::ServFail && !self.cut && now < self.expires.saturating_add(limit.as_millis() as u64)
    }

    /// Whether somebody is asking again.
    pub(crate) fn is_refreshing(&self) -> bool {
        self.refresh_after.load(Relaxed) == Moment::MAX
    }

    /// After asking again was in vain: that is not tried before `recheck`, and meanwhile it may be sent past its TTL, so
    /// long as the limit allows. One that is fresh still may be sent for no longer by that.
    pub(crate) fn not_renewed(&self, now: Moment, recheck: Moment, limit: Duration) {
        self.refresh_after.store(recheck, Relaxed);
        if now >= self.expires {
            let end = self.expires.saturating_add(limit.as_millis() as u64);
            self.stale_until.fetch_max(recheck.min(end), Relaxed);
        }
    }

    /// Has somebody else ask again, where the one who was to could not.
    pub(crate) fn give_refresh_back(&self) {
        self.refresh_after.store(0, Relaxed);
    }

    /// Whether its end is near, and nobody has begun to ask again: the caller then does. The last tenth of its time, at
    /// least a second.
    pub(crate) fn take_refresh(&self, now: Moment) -> bool {
        let left = self.expires.saturating_sub(now);
        let lifetime = self.expires - self.stored;
        left <= (lifetime / 10).max(1000)
            && !self.local
            && self.rcode != Rcode::ServFail
            && !self.cut
            && lifetime > 1000
            && self.take_turn(now)
    }

    fn take_turn(&self, now: Moment) -> bool {
        let after = self.refresh_after.load(Relaxed);
        after <= now && self.refresh_after.compare_exchange(after, Moment::MAX, Relaxed, Relaxed).is_ok()
    }

    /// Answers with it; false where records are missing. `turn` is any number, and chooses the order of addresses.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        packet: &[u8],
        query: &Query<'_>,
        age: Age,
        room: &Room,
        turn: usize,
    ) -> bool {
        out.clear();
        out.extend_from_slice(&self.message);
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(place) = out.get_mut(at..at + 4)
                && let Ok(ttl) = <[u8; 4]>::try_from(&*place)
            {
                place.copy_from_slice(&age.ttl(u32::from_be_bytes(ttl)).to_be_bytes());
            }
        }
        if let Some(Rotation { start, records, length }) = self.rotation
            && let Some(set) = out.get_mut(start..start + records * length)
        {
            set.rotate_left(turn % records * length);
        }
        let opt = if query.edns.is_some() { OPT } else { 0 };
        let fits = out.len() + opt <= room.limit || self.shorten(out, room.limit.saturating_sub(opt));
        let whole = fits && !self.cut;
        if let Some(edns) = query.edns {
            let left = room.limit.saturating_sub(out.len() + OPT);
            let reasons = self.reasons(age).map(Cow::into_owned).collect::<SmallVec<[_; 1]>>();
            crate::encode::opt(out, room.payload, edns.dnssec_ok, self.rcode, (&reasons, left));
            let additional = u16_at(out, 10).unwrap_or(0) + 1;
            out[10..12].copy_from_slice(&additional.to_be_bytes());
        }
        let question = HEADER..HEADER + query.name.len() + 4;
        if let (Some(to), Some(from)) = (out.get_mut(question.clone()), packet.get(question)) {
            to.copy_from_slice(from);
        }
        out[..2].copy_from_slice(&packet[..2]);
        // An answer, RD as asked, and TC; RA, and CD as asked; AD only for those who know what it means (RFC 6840 §5.8).
        out[2] = 0x80 | (packet[2] & 0x01) | if whole { 0 } else { 0x02 };
        let knows = packet[3] & 0x20 != 0 || query.edns.is_some_and(|edns| edns.dnssec_ok);
        let authentic = if self.authentic && knows && matches!(age, Age::Fresh(_)) { 0x20 } else { 0 };
        out[3] = 0x80 | authentic | (packet[3] & 0x10) | (self.rcode as u8 & 0x0f);
        whole
    }

    /// Leaves as many records as fit; true where only additional ones had to go, which nobody was promised.
    fn shorten(&self, out: &mut Vec<u8>, limit: usize) -> bool {
        let mut end = HEADER;
        if let Some(after) = skip_name(out, HEADER) {
            end = after + 4;
        }
        let mut left = [6, 8, 10].map(|at| u16_at(out, at).unwrap_or(0));
        let mut kept = [0u16; 3];
        for at in &self.ttls {
            let at = usize::from(*at);
            let record_end = at + 6 + usize::from(u16_at(out, at + 4).unwrap_or(0));
            if record_end > limit {
                break;
            }
            end = record_end;
            let Some(section) = left.iter().position(|left| *left > 0) else { break };
            left[section] -= 1;
            kept[section] += 1;
        }
        out.truncate(end);
        for (place, count) in out[6..HEADER].chunks_exact_mut(2).zip(kept) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        left[0] == 0 && left[1] == 0
    }

    /// Writes its answer, and the SOA of a negative one, into an answer of ours, as if its name was another that stands
    /// at `owner`; false where not all of it fits.
    pub(crate) fn write_into(&self, reply: &mut Reply<'_>, owner: usize, age: Age) -> bool {
        let Some(name) = read_name(&self.message, HEADER) else { return false };
        reply.reasons.extend(self.reasons(age).map(Cow::into_owned));
        for record in Records::new(&self.message, HEADER + name.len() + 4).flatten() {
            if record.section == Section::Additional
                || record.section == Section::Authority && record.rtype != kind::SOA
            {
                continue;
            }
            let (Some(at), Some(data)) = (read_name(&self.message, record.owner), plain_data(&self.message, &record))
            else {
                return false;
            };
            let ttl = age.ttl(u32_at(&self.message, record.ttl).unwrap_or(0));
            let written = if at.eq_ignore_ascii_case(&name) {
                reply.record(record.section, owner, record.rtype, ttl, &[&data])
            } else {
                reply.record_at(record.section, &at, record.rtype, ttl, &data)
            };
            if written.is_none() {
                return false;
            }
        }
        !self.cut
    }

    /// The addresses in its answer.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let Some(end) = skip_name(&self.message, HEADER) else { return Vec::new() };
        let records = Records::new(&self.message, end + 4).flatten();
        records
            .filter(|record| record.section == Section::Answer)
            .filter_map(|record| {
                let data = self.message.get(record.data..record.end)?;
                match record.rtype {
                    kind::A => Some(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
                    kind::AAAA => Some(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
                    _ => None,
                }
            })
            .collect()
    }

    /// How many records its answer has.
    pub(crate) fn records(&self) -> usize {
        usize::from(u16_at(&self.message, 6).unwrap_or(0))
    }
}

/// A record that we answer by ourselves.
pub(crate) struct LocalRecord {
    pub(crate) section: Section,
    /// Where in the name asked for its owner begins.
    pub(crate) owner_at: usize,
    pub(crate) rtype: u16,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<u8>,
}

/// The addresses so far, and one more record.
fn with(rotation: Option<Rotation>, raw: &[u8], record: &Record) -> Option<Rotation> {
    let addresses = matches!(record.rtype, kind::A | kind::AAAA);
    let length = record.end - record.owner;
    match rotation {
        None if addresses => Some(Rotation { start: record.owner, records: 1, length }),
        // Same owner and type, in the same form, right behind.
        Some(held)
            if addresses
                && held.length == length
                && held.start + held.records * length == record.owner
                && raw.get(held.start..held.start + record.ttl - record.owner) == raw.get(record.owner..record.ttl) =>
        {
            Some(Rotation { records: held.records + 1, ..held })
        }
        other => other,
    }
}
