//! Writes answers.
//!
//! A [`Reply`] begins with the question, copied as the client spelt it; records at the name asked for point back to it,
//! and so keep its spelling (RFC 1035 §4.1.4; clients that mix upper and lower case as a guard against forged answers
//! rely on it). Room for the OPT record is set aside first. A record goes in whole or not at all.

use crate::extended::{self, Extended};
use crate::index::Index;
use crate::message::{CLASS_IN, Edns, HEADER, Query, kind};
use crate::name::Name;
use crate::record::{Pointer, Srv};
use crate::zones::{Spelling, Within};
use smallvec::SmallVec;
use std::net::IpAddr;

/// The TTL of `dns-version.<zone>`, from the specification's example (§2.2).
pub(crate) const VERSION_TTL: u32 = 28_800;
/// The version of the Kubernetes DNS specification that the names follow.
const VERSION: &[u8] = b"\x051.1.0";
/// The answer to ANY (RFC 8482 §4.2): CPU `RFC8482`, no operating system.
const MINIMAL_ANY: &[u8] = b"\x07RFC8482\x00";
/// Refresh, retry and expire of the SOA: for secondary servers, of which there are none; CoreDNS' values.
const SOA_TIMES: [u32; 3] = [7200, 1800, 86_400];
/// An OPT record without options.
pub(crate) const OPT: usize = 11;
/// A record's owner (as a pointer), type, class, TTL and length.
const FIXED: usize = 12;

/// A pointer to the name in the question.
pub(crate) const QUESTION: usize = HEADER;

/// Response codes (RFC 1035 §4.1.1, RFC 6891 §9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

impl Rcode {
    pub(crate) const ALL: [Rcode; 7] = [
        Rcode::NoError,
        Rcode::FormErr,
        Rcode::ServFail,
        Rcode::NxDomain,
        Rcode::NotImp,
        Rcode::Refused,
        Rcode::BadVers,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Rcode::NoError => "NOERROR",
            Rcode::FormErr => "FORMERR",
            Rcode::ServFail => "SERVFAIL",
            Rcode::NxDomain => "NXDOMAIN",
            Rcode::NotImp => "NOTIMP",
            Rcode::Refused => "REFUSED",
            Rcode::BadVers => "BADVERS",
        }
    }
}

/// The sections that records are counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

/// An answer in the making. `out` holds nothing else.
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    /// Where the question ends.
    begin: usize,
    counts: [u16; 3],
    edns: Option<Edns>,
    pub(crate) rcode: Rcode,
    pub(crate) authoritative: bool,
    pub(crate) truncated: bool,
    /// Whether this client gets names of others as well (RA).
    pub(crate) recursion: bool,
    /// Why it is as it is.
    pub(crate) reasons: SmallVec<[Extended; 1]>,
}

impl<'a> Reply<'a> {
    /// Begins an answer with header and question.
    pub(crate) fn new(out: &'a mut Vec<u8>, packet: &[u8], query: &Query<'_>, limit: usize) -> Self {
        out.clear();
        out.extend_from_slice(&packet[..HEADER]);
        // Name, type and class stand in the packet side by side.
        out.extend_from_slice(&packet[HEADER..HEADER + query.name.len() + 4]);
        let room = if query.edns.is_some() { OPT } else { 0 };
        Self {
            begin: out.len(),
            out,
            limit: limit - room,
            counts: [0; 3],
            edns: query.edns,
            rcode: Rcode::NoError,
            authoritative: false,
            truncated: false,
            recursion: false,
            reasons: SmallVec::new(),
        }
    }

    /// Ends the answer: writes OPT and header.
    pub(crate) fn finish(self, payload: u16) -> Rcode {
        let Self { out, limit, mut counts, edns, rcode, authoritative, truncated, recursion, reasons, .. } = self;
        if let Some(edns) = edns {
            // The OPT record's own room was set aside.
            let room = limit.saturating_sub(out.len());
            opt(out, payload, edns.dnssec_ok, rcode, (&reasons, room));
            counts[Section::Additional as usize] += 1;
        }
        // Of the query's flags, RD is copied (RFC 1035 §4.1.1). RA says whether recursion is offered to this client; AD and
        // CD stay 0 in an authoritative answer that is not signed (RFC 4035 §3.1.6).
        let flags = 0x80 | (u8::from(authoritative) << 2) | (u8::from(truncated) << 1);
        if let Some(header) = out.get_mut(2..HEADER) {
            header[0] = flags | (header[0] & 0x01);
            header[1] = rcode as u8 & 0x0f | if recursion { 0x80 } else { 0 };
            header[2..4].copy_from_slice(&[0, 1]);
            for (place, count) in header[4..].chunks_exact_mut(2).zip(counts) {
                place.copy_from_slice(&count.to_be_bytes());
            }
        }
        rcode
    }

    /// The octets that are left.
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.out.len())
    }

    /// Where the next record's owner will stand.
    pub(crate) fn position(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn written(&self) -> &[u8] {
        self.out
    }

    /// Leaves nothing but the question: an answer that is an error says nothing about the name.
    pub(crate) fn clear(&mut self) {
        self.out.truncate(self.begin);
        self.counts = [0; 3];
        self.authoritative = false;
        self.truncated = false;
    }

    /// Gives back what was written since, for a set of records that goes in whole or not at all.
    pub(crate) fn rewind(&mut self, position: usize, section: Section, records: u16) {
        self.out.truncate(position);
        self.counts[section as usize] -= records;
    }

    /// Writes one record whose owner stands at an earlier place; the data's place where it fits.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: usize,
        rtype: u16,
        ttl: u32,
        data: &[&[u8]],
    ) -> Option<usize> {
        let length: usize = data.iter().map(|part| part.len()).sum();
        // Pointers reach the first 2^14 octets only (RFC 1035 §4.1.4); records beyond have to do without.
        if self.room() < FIXED + length || owner >= 0x4000 || self.counts[section as usize] == u16::MAX {
            return None;
        }
        let [owner_high, owner_low] = (owner as u16 | 0xc000).to_be_bytes();
        let [type_high, type_low] = rtype.to_be_bytes();
        let [ttl_a, ttl_b, ttl_c, ttl_d] = ttl.to_be_bytes();
        let [length_high, length_low] = (length as u16).to_be_bytes();
        self.out.extend_from_slice(&[
            owner_high,
            owner_low,
            type_high,
            type_low,
            0,
            CLASS_IN as u8,
            ttl_a,
            ttl_b,
            ttl_c,
            ttl_d,
            length_high,
            length_low,
        ]);
        let at = self.out.len();
        for part in data {
            self.out.extend_from_slice(part);
        }
        self.counts[section as usize] += 1;
        Some(at)
    }

    /// Writes one record with its owner in full, where the name stands nowhere yet; the data's place where it fits.
    pub(crate) fn record_at(
        &mut self,
        section: Section,
        owner: &[u8],
        rtype: u16,
        ttl: u32,
        data: &[u8],
    ) -> Option<usize> {
        let length = u16::try_from(data.len()).ok()?;
        if self.room() < owner.len() + FIXED - 2 + data.len() || self.counts[section as usize] == u16::MAX {
            return None;
        }
        self.out.extend_from_slice(owner);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&length.to_be_bytes());
        let at = self.out.len();
        self.out.extend_from_slice(data);
        self.counts[section as usize] += 1;
        Some(at)
    }

    /// Writes addresses, beginning with the one at `start` and going round; how many fitted.
    pub(crate) fn addresses<const N: usize>(
        &mut self,
        section: Section,
        owner: usize,
        ttl: u32,
        addresses: &[[u8; N]],
        start: usize,
    ) -> usize {
        let rtype = if N == 4 { kind::A } else { kind::AAAA };
        let (before, after) = addresses.split_at(start.min(addresses.len()));
        let fitting = (self.room() / (FIXED + N)).min(addresses.len());
        self.out.reserve(fitting * (FIXED + N));
        after
            .iter()
            .chain(before)
            .take(fitting)
            .take_while(|address| self.record(section, owner, rtype, ttl, &[*address]).is_some())
            .count()
    }

    /// Writes an SRV record; the target's place where it fits. Targets are not compressed (RFC 2782).
    pub(crate) fn srv(
        &mut self,
        owner: usize,
        ttl: u32,
        srv: &Srv,
        share: u16,
        spelling: Spelling<'_>,
    ) -> Option<usize> {
        let (label, name) = srv.target.parts();
        let [target, end] = spelling.of(label.len(), name);
        let weight = srv.weight.unwrap_or(share).to_be_bytes();
        let port = srv.port.to_be_bytes();
        self.record(Section::Answer, owner, kind::SRV, ttl, &[&[0, 0], &weight, &port, &label, target, end])
            .map(|data| data + 6)
    }

    /// The SOA of the zone of a name that stands at `owner`: an answer at the apex, and with every negative one (RFC 2308
    /// §3), whose TTL is then the time for which the negative answer holds.
    pub(crate) fn soa(&mut self, section: Section, index: &Index, owner: usize, zone: Within) -> bool {
        let negative = index.config.negative_ttl;
        let ttl = if section == Section::Answer { index.config.ttl } else { index.config.ttl.min(negative) };
        let apex = owner + zone.apex_at;
        // The names in the SOA are the zone's own, or the primary zone's for reverse zones. In the former a pointer saves its name and keeps its spelling.
        let [high, low] = (apex as u16 | 0xc000).to_be_bytes();
        let pointer = [high, low];
        let end = if zone.is_cluster() { &pointer[..] } else { index.zones.primary.wire() };
        let mut numbers = [0; 20];
        for (place, number) in
            numbers.chunks_exact_mut(4).zip([index.serial(), SOA_TIMES[0], SOA_TIMES[1], SOA_TIMES[2], negative])
        {
            place.copy_from_slice(&number.to_be_bytes());
        }
        self.record(section, apex, kind::SOA, ttl, &[b"\x02ns\x03dns", end, b"\x0ahostmaster", end, &numbers]).is_some()
    }

    /// The SOA of a negative answer where the zone's name does not stand in the question, because another name was
    /// looked up.
    pub(crate) fn soa_of(&mut self, index: &Index, apex: &[u8]) -> bool {
        let negative = index.config.negative_ttl;
        let mut data = Vec::with_capacity(96);
        for label in [&b"\x02ns\x03dns"[..], b"\x0ahostmaster"] {
            data.extend_from_slice(label);
            data.extend_from_slice(index.zones.primary.wire());
        }
        for number in [index.serial(), SOA_TIMES[0], SOA_TIMES[1], SOA_TIMES[2], negative] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        let ttl = index.config.ttl.min(negative);
        self.record_at(Section::Authority, apex, kind::SOA, ttl, &data).is_some()
    }

    /// `dns-version.<zone>`.
    pub(crate) fn version(&mut self, owner: usize) -> bool {
        self.record(Section::Answer, owner, kind::TXT, VERSION_TTL, &[VERSION]).is_some()
    }

    /// The one record that stands for all types.
    pub(crate) fn minimal_any(&mut self, owner: usize, ttl: u32) -> bool {
        self.record(Section::Answer, owner, kind::HINFO, ttl, &[MINIMAL_ANY]).is_some()
    }

    /// A record whose data is an endpoint's or a service's name, which an address leads to.
    pub(crate) fn pointer(
        &mut self,
        owner: usize,
        ttl: u32,
        pointer: &Pointer,
        address: Option<IpAddr>,
        spelling: Spelling<'_>,
    ) -> Option<usize> {
        let label = pointer.label(address);
        let [target, end] = spelling.of(label.len(), &pointer.name);
        self.record(Section::Answer, owner, kind::PTR, ttl, &[&label, target, end])
    }

    /// A record whose data is a name.
    pub(crate) fn name(
        &mut self,
        owner: usize,
        rtype: u16,
        ttl: u32,
        target: &Name,
        spelling: Spelling<'_>,
    ) -> Option<usize> {
        self.record(Section::Answer, owner, rtype, ttl, &spelling.of(0, target))
    }
}

/// Writes an OPT record: root, OPT, our payload, the upper bits of the response code, version 0, flags (RFC 6891 §6.1.3),
/// and reasons, as many as fit into so much room beside it.
pub(crate) fn opt<'a>(
    out: &mut Vec<u8>,
    payload: u16,
    dnssec_ok: bool,
    rcode: Rcode,
    (reasons, room): (impl IntoIterator<Item = &'a Extended>, usize),
) {
    let [size_high, size_low] = payload.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    out.extend_from_slice(&[0, 0, kind::OPT as u8, size_high, size_low, rcode as u8 >> 4, 0, flags, 0, 0, 0]);
    let data = out.len();
    let length = extended::write(out, reasons, room);
    if let Some(place) = out.get_mut(data - 2..data) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Answers with nothing but a header, and an OPT record to whoever sent one (RFC 6891 §7): to what can't be read, or is
/// not a query. Only the opcode and RD survive.
pub(crate) fn bare(out: &mut Vec<u8>, packet: &[u8], rcode: Rcode, edns: Option<Edns>, payload: u16) {
    out.clear();
    let Some([id_high, id_low, flags, ..]) = packet.get(..HEADER) else {
        return;
    };
    out.extend_from_slice(&[
        *id_high,
        *id_low,
        0x80 | (flags & 0x79),
        rcode as u8 & 0x0f,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        u8::from(edns.is_some()),
    ]);
    if let Some(edns) = edns {
        opt(out, payload, edns.dnssec_ok, rcode, ([], 0));
    }
}
