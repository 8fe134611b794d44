//! What came of a comparison.

use super::Asked;
use crate::output::{Cell, Style, Table};
use fingerpost_dns::compare::{DIFFERENCES, Discrepancy, Outcome, Question};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most differences that are listed one by one.
const MAX_LISTED: usize = 1000;
/// Most of them for people.
const MAX_SHOWN: usize = 30;

/// The whole of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    server: SocketAddr,
    against: SocketAddr,
    /// Services of the cluster, by who told of them.
    from: From,
    /// Names and types that there are.
    known: usize,
    asked: usize,
    same: usize,
    other_ttl: usize,
    different: usize,
    unanswered: usize,
    agree: bool,
    /// By the name of the difference.
    meant: Vec<Meant>,
    differences: Vec<Different>,
    #[serde(skip)]
    counts: BTreeMap<&'static str, usize>,
}

/// Where the names come from: how many services of the cluster each knows.
#[derive(Clone, Copy, Serialize)]
pub(super) struct From {
    pub(super) registry: usize,
    /// None where it was not asked.
    pub(super) kubernetes: Option<usize>,
}

#[derive(Serialize)]
struct Meant {
    name: &'static str,
    count: usize,
    what: &'static str,
    reason: &'static str,
}

#[derive(Serialize)]
struct Different {
    #[serde(flatten)]
    question: Question,
    #[serde(flatten)]
    discrepancy: Option<Discrepancy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Report {
    pub(super) fn new(server: SocketAddr, against: SocketAddr, from: From, known: usize) -> Self {
        Self {
            server,
            against,
            from,
            known,
            asked: 0,
            same: 0,
            other_ttl: 0,
            different: 0,
            unanswered: 0,
            agree: false,
            meant: Vec::new(),
            differences: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, question: Question, asked: Asked) {
        self.asked += 1;
        let different = match asked {
            Asked::Compared(Outcome::Same) => {
                self.same += 1;
                return;
            }
            Asked::Compared(Outcome::OtherTtl(..)) => {
                self.other_ttl += 1;
                return;
            }
            Asked::Compared(Outcome::Meant(difference)) => {
                *self.counts.entry(difference.name).or_default() += 1;
                return;
            }
            Asked::Compared(Outcome::Different(discrepancy)) => {
                self.different += 1;
                Different { question, discrepancy: Some(discrepancy), error: None }
            }
            Asked::Unanswered(error) => {
                self.unanswered += 1;
                let error = anyhow::Error::from(error);
                Different { question, discrepancy: None, error: Some(format!("{error:#}")) }
            }
        };
        if self.differences.len() < MAX_LISTED {
            self.differences.push(different);
        }
    }

    /// Puts it in order once all is in.
    pub(super) fn finish(&mut self) {
        self.agree = self.different == 0 && self.unanswered == 0;
        self.differences
            .sort_by(|a, b| (&a.question.name, a.question.qtype).cmp(&(&b.question.name, b.question.qtype)));
        let counts = &self.counts;
        let meant = DIFFERENCES.iter().filter_map(|difference| {
            let count = *counts.get(difference.name)?;
            Some(Meant { name: difference.name, count, what: difference.what, reason: difference.reason })
        });
        self.meant = meant.collect();
    }

    /// 0 where nothing differs that is not meant to, 1 where something does, 2 where that can't be said.
    pub(super) fn exit_code(&self) -> u8 {
        match (self.different, self.unanswered) {
            (0, 0) => 0,
            (0, _) => 2,
            _ => 1,
        }
    }

    pub(super) fn human(&self, colour: bool) -> String {
        let mut out = String::new();
        for different in self.differences.iter().take(MAX_SHOWN) {
            let question = format!("{} {}", different.question.name, different.question.qtype);
            out.push_str(&format!("{}\n", Cell::styled(question, Style::Bold).paint(colour)));
            if let Some(error) = &different.error {
                out.push_str(&format!("  {}\n", Cell::styled(error, Style::Bad).paint(colour)));
            }
            let Some(discrepancy) = &different.discrepancy else { continue };
            let Discrepancy { ours, theirs, missing, extra, authoritative } = discrepancy;
            if ours != theirs {
                let text = format!("  {ours} here, {theirs} there");
                out.push_str(&format!("{}\n", Cell::styled(text, Style::Bad).paint(colour)));
            }
            if let Some(ours) = authoritative {
                let whose = if *ours { "this" } else { "the other" };
                let text = format!("  only {whose} server speaks for the zone itself (AA)");
                out.push_str(&format!("{}\n", Cell::styled(text, Style::Bad).paint(colour)));
            }
            for (records, mark) in [(missing, "only there:"), (extra, "only here: ")] {
                for record in records.iter().take(5) {
                    out.push_str(&format!("  {mark} {}\n", Cell::new(record).paint(colour)));
                }
                if records.len() > 5 {
                    out.push_str(&format!("  {mark} … and {} more\n", records.len() - 5));
                }
            }
        }
        let rest = (self.different + self.unanswered).saturating_sub(MAX_SHOWN);
        if rest > 0 {
            out.push_str(&format!("… and {rest} more; `--output json` lists them\n"));
        }
        if !self.differences.is_empty() {
            out.push('\n');
        }
        if !self.meant.is_empty() {
            let mut table = Table::new(vec!["MEANT TO DIFFER", "ANSWERS", "WHAT", "WHY"]);
            for meant in &self.meant {
                table.push(vec![
                    Cell::new(meant.name),
                    Cell::new(meant.count.to_string()),
                    Cell::new(meant.what),
                    Cell::new(meant.reason),
                ]);
            }
            out.push_str(&format!("{}\n", table.render(colour)));
        }
        let meant: usize = self.meant.iter().map(|meant| meant.count).sum();
        out.push_str(&format!(
            "{} (here) and {} (there), {} of {} names and types: {} the same, {} but for the TTL, {meant} differ as they \
             should, {} differ, {} without an answer\n",
            self.server, self.against, self.asked, self.known, self.same, self.other_ttl, self.different, self.unanswered
        ));
        let verdict = match (self.exit_code(), self.from.kubernetes) {
            (0, Some(_)) => Cell::styled("Both servers agree.", Style::Good),
            (0, None) => Cell::styled("Both servers agree on what the registry knows.", Style::Good),
            (1, _) => Cell::styled("The servers differ.", Style::Bad),
            _ => Cell::styled("Whether the servers agree can't be said: some questions have no answer.", Style::Bad),
        };
        out.push_str(&format!("{}\n", verdict.paint(colour)));
        if self.from.kubernetes.is_none() {
            let text = "Only names that the registry knows were asked for. What it lacks would not show: name the cluster's \
                        API server with --kubeconfig, or run this in a pod that may read it.";
            out.push_str(&format!("{}\n", Cell::styled(text, Style::Warn).paint(colour)));
        }
        out
    }
}
