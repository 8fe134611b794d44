//! Names that lie in no zone of ours. Whoever answers them, this is where that is told.

use super::{Explanation, Lookup, bare, exists};
use crate::index::Index;
use crate::name::Name;

impl Explanation {
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
