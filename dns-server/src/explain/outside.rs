//! Names that lie in no zone of ours. Whoever answers them, this is where that is told.

use super::{Explanation, Lookup, bare, exists};
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

/// What forwarding makes of a question, without asking anybody; and the response code that is known of it.
pub(super) fn forwarding(
    forward: &Forward,
    name: &str,
    qtype: &str,
    from: Option<IpAddr>,
) -> Option<(Explained, String)> {
    let number = qtype.parse::<RecordType>().map_or(1, u16::from);
    let explained = forward.explain(name, number, from)?;
    let rcode = match (&explained.cached, explained.allowed) {
        (_, Some(false)) => "REFUSED".to_owned(),
        (Some(cached), _) => cached.rcode.clone(),
        (None, _) => FORWARDED.to_owned(),
    };
    Some((explained, rcode))
}

impl Explanation {
    /// A name that others are asked about.
    pub(super) fn forwarded(&mut self, forward: &Forward, wire: &Name, from: Option<IpAddr>) {
        let Some((explained, rcode)) = forwarding(forward, &wire.to_string(), &self.qtype, from) else { return };
        self.step(true, "It lies in no zone of this server, which asks others about such names.");
        if let (Some(from), Some(false)) = (from, explained.allowed) {
            let text =
                format!("{from} is in none of the networks that may ask for them (`--recursion-allow`): refused.");
            self.step(false, text);
        }
        if let Some(rewritten) = &explained.rewritten {
            self.step(true, format!("By a rewrite it is looked up as `{rewritten}`."));
        }
        self.step(true, format!("As it goes, {}.", explained.rule));
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
        let known = match &explained.cached {
            Some(cached) => match cached.seconds {
                Some(seconds) => format!("The cache has its answer ({}), fresh for {seconds:.0} s.", cached.rcode),
                None if cached.stale => {
                    format!("The cache has an old answer ({}), sent only where no upstream answers.", cached.rcode)
                }
                None => format!("The cache has an answer ({}), too old to be sent.", cached.rcode),
            },
            None => "The cache does not have its answer; the next client that asks has it asked for.".to_owned(),
        };
        self.step(true, known);
        self.rcode = rcode;
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
