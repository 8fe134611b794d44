//! The rest of a search path, which the server walks in the client's stead.

use super::Explanation;
use super::told::Told;
use crate::forward::Forward;
use crate::forward::search;
use crate::index::Index;
use crate::name::Name;
use crate::zones::Within;

impl Explanation {
    /// What becomes of a name in our zone that does not exist, where the walk goes on behind it.
    pub(super) fn path(&mut self, index: &Index, forward: &Forward, wire: &Name, within: Within, told: &Told) {
        if !within.is_cluster() || search::is_ours(index, wire.wire()) {
            return;
        }
        let Some(candidates) = search::candidates(index, wire.wire(), within.apex_at, forward) else { return };
        let names: Vec<String> = candidates.iter().map(|name| format!("`{name}`")).collect();
        self.step(true, format!("The rest of the search path is walked here (`--search-path`): {}.", names.join(", ")));
        let alias = told
            .lines
            .first()
            .filter(|line| line.record_type == "CNAME" && Name::from_text(&line.name).as_ref() == Some(wire));
        match alias {
            Some(line) => {
                let text =
                    format!("`{}` is the first that exists: the answer is an alias to it, in one query.", line.data);
                self.step(true, text);
            }
            None if told.is_open() => self.step(true, "The first of them that is not known has to be asked for."),
            None if told.rcode == "NXDOMAIN" => self.step(false, "None of them exists."),
            None => self.step(false, "Whether one of them exists can't be found out now."),
        }
    }
}
