//! Names that lie in no zone of ours. Whoever answers them, this is where that is told.

use super::{Explanation, Lookup, bare, exists};
use crate::forward::key::Key;
use crate::forward::{Explained, Forward};
use crate::index::Index;
use crate::name::Name;
use hickory_proto::rr::RecordType;
use std::net::IpAddr;

/// In the place of a response code: others say what the answer is, and have not been asked lately.
pub const FORWARDED: &str = "FORWARDED";

/// Whether a name is none of ours.
pub(super) fn is_outside(index: &Index, name: &Name) -> bool {
    index.zones.find(name.wire()).is_none() && index.table.read(name.wire(), |_| ()).is_none()
}

impl Explanation {
    /// A name that others are asked about.
    pub(super) fn forwarded(&mut self, forward: &Forward, wire: &Name, from: Option<IpAddr>) {
        self.step(true, "It lies in no zone of this server, which asks others about such names.");
        let qtype = self.qtype.parse::<RecordType>().map_or(1, u16::from);
        let explained = forward.explain_name(wire, qtype, from);
        if let (Some(from), Some(false)) = (from, explained.allowed) {
            let text =
                format!("{from} is in none of the networks that may ask for them (`--recursion-allow`): refused.");
            self.step(false, text);
        }
        self.step(true, format!("As it goes, {}.", explained.rule));
        self.upstreams(explained);
    }

    /// A name of others that the answer about one of ours depends on.
    pub(super) fn looked_for(&mut self, forward: &Forward, key: &Key, from: Option<IpAddr>) {
        let name = Name::from_wire(key.name());
        let explained = forward.explain_name(&name, key.qtype(), from);
        self.step(true, format!("`{name}` is looked for among the names of others: as it goes, {}.", explained.rule));
        self.upstreams(explained);
    }

    /// Whom to ask, and what the cache has.
    fn upstreams(&mut self, explained: Explained) {
        for upstream in &explained.upstreams {
            let name = &upstream.upstream;
            let text = match (upstream.looping, upstream.healthy, upstream.milliseconds) {
                (true, ..) => format!("The upstream `{name}` leads back to this server, and is left out."),
                (_, false, _) => {
                    format!(
                        "The upstream `{name}` does not answer: {} of {} questions failed.",
                        upstream.failures, upstream.requests
                    )
                }
                (_, true, Some(time)) => format!("The upstream `{name}` answers, after {time:.1} ms on average."),
                (_, true, None) => format!("The upstream `{name}` has not been asked yet."),
            };
            self.step(upstream.healthy && !upstream.looping, text);
        }
        if explained.cached.is_none() && !explained.upstreams.is_empty() {
            self.step(true, "The cache does not have its answer; the next client that asks has it asked for.");
        }
        for cached in explained.cached.iter().chain(&explained.cached_otherwise) {
            let whom = match (cached.dnssec_ok, cached.checking_disabled) {
                (false, false) => "",
                (true, false) => " for clients that ask for DNSSEC",
                (false, true) => " for clients that check signatures",
                (true, true) => " for clients that ask for DNSSEC and check signatures",
            };
            let rcode = &cached.rcode;
            self.step(
                true,
                match cached.seconds {
                    Some(seconds) => format!("The cache has its answer{whom} ({rcode}), fresh for {seconds:.0} s."),
                    None if cached.stale => {
                        format!("The cache has an old answer{whom} ({rcode}), sent only where no upstream answers.")
                    }
                    None => format!("The cache has an answer{whom} ({rcode}), too old to be sent."),
                },
            );
        }
        self.forwarding = Some(explained);
    }

    pub(super) fn outside(&mut self, index: &Index, wire: &Name, lookup: &dyn Lookup) {
        if crate::zones::is_reverse(wire.wire()) {
            self.step(true, "It lies in no reverse zone of this server, which answers it only if known.");
            return self.reverse(index, wire, lookup);
        }
        let zone = bare(&index.zones.primary);
        let zones: Vec<String> = index.zones.clusters().map(|zone| format!("`{}`", bare(zone))).collect();
        let mut text = format!("It lies in no zone of this server ({}, and reverse zones): refused.", zones.join(", "));
        let name = bare(wire);
        // What a client's search list would have made of it.
        let completions = [format!("{name}.{zone}"), format!("{name}.svc.{zone}")];
        if let Some(known) = completions.iter().find(|name| exists(index, name)) {
            text.push_str(&format!(" `{known}` exists: a search list would have completed the name."));
        }
        self.step(false, text);
    }
}
