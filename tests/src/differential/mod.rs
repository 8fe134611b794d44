//! Two name servers that follow one cluster are asked the same; where they differ, one of them is wrong, or the
//! difference is one that we want and have written down.
//!
//! The oracle is CoreDNS. Every exception in [`exceptions`] says which rule it is that CoreDNS breaks, or which addition
//! of ours it is, and recognises its cases by what CoreDNS itself says elsewhere, so that it excuses nothing else.

pub mod exceptions;
pub mod questions;
pub mod world;

use exceptions::{Exception, Known};
use fingerpost_dns::query::{self, Line, Reply};
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use world::World;

/// So many questions are under way at a time.
const AT_ONCE: usize = 32;

/// What of an answer must be the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN` and so on.
    pub rcode: String,
    /// Whether the server speaks for the zone.
    pub authoritative: bool,
    /// The records, without regard to case or order.
    pub records: BTreeSet<Record>,
    /// With a negative answer, whose SOA came with it and for how long it may be remembered.
    pub soa: Option<(String, u32)>,
}

/// A record as it is compared: in lower case, and without what depends on time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Record {
    /// Whose it is.
    pub name: String,
    /// `A`, `SRV` and so on.
    pub record_type: String,
    /// Its data in the form of zone files.
    pub data: String,
    /// For how long it may be kept.
    pub ttl: u32,
}

impl Answer {
    /// What is compared of a reply.
    pub fn new(reply: &Reply) -> Self {
        Self {
            rcode: reply.rcode.clone(),
            authoritative: reply.authoritative,
            records: reply.answers.iter().map(Record::new).collect(),
            soa: reply.authorities.iter().find(|line| line.record_type == "SOA").map(|line| {
                let minimum = line.data.split_whitespace().last().and_then(|text| text.parse::<u32>().ok());
                (line.name.to_lowercase(), line.ttl.min(minimum.unwrap_or(u32::MAX)))
            }),
        }
    }

    /// An answer without error and without records.
    pub fn is_nodata(&self) -> bool {
        self.rcode == "NOERROR" && self.records.is_empty()
    }

    /// The name does not exist.
    pub fn is_nxdomain(&self) -> bool {
        self.rcode == "NXDOMAIN"
    }

    /// Records of a type.
    pub fn of_type(&self, record_type: &str) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.record_type == record_type)
    }
}

impl Record {
    fn new(line: &Line) -> Self {
        let mut data = line.data.to_lowercase();
        if line.record_type == "SOA" {
            // The serial depends on when which server heard of what.
            data = data
                .split_whitespace()
                .enumerate()
                .map(|(n, part)| if n == 2 { "*" } else { part })
                .collect::<Vec<_>>()
                .join(" ");
        }
        if line.record_type == "TXT" {
            // Character strings are not names.
            data.clone_from(&line.data);
        }
        Self { name: line.name.to_lowercase(), record_type: line.record_type.clone(), data, ttl: line.ttl }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.rcode, if self.authoritative { " AA" } else { "" })?;
        for (n, record) in self.records.iter().enumerate() {
            if n == 8 {
                return write!(f, "\n      … {} records", self.records.len());
            }
            write!(f, "\n      {} {} {} {}", record.name, record.ttl, record.record_type, record.data)?;
        }
        if let Some((name, seconds)) = &self.soa {
            write!(f, "\n      (SOA of {name}, {seconds} s)")?;
        }
        Ok(())
    }
}

/// A question with both answers.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name as it was asked.
    pub name: String,
    /// The type.
    pub qtype: &'static str,
    /// Our answer.
    pub ours: Answer,
    /// CoreDNS'.
    pub theirs: Answer,
    /// What else was found out about it.
    pub note: String,
}

/// Two servers that should say the same.
pub struct Pair {
    /// Ours.
    pub ours: SocketAddr,
    /// CoreDNS.
    pub theirs: SocketAddr,
}

/// What came of a comparison.
#[derive(Default)]
pub struct Report {
    /// How many questions both were asked.
    pub asked: usize,
    /// How many answers of CoreDNS had records.
    pub positive: usize,
    /// How many differences each exception excused.
    pub excused: BTreeMap<&'static str, usize>,
    /// A difference that each exception excused, to look at.
    pub examples: BTreeMap<&'static str, Case>,
    /// What nothing excuses.
    pub differences: Vec<Case>,
    /// What differed at first, and did no more when it was asked again.
    pub late: usize,
}

impl Report {
    /// Adds what came of another comparison.
    pub fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.positive += other.positive;
        self.late += other.late;
        for (name, count) in other.excused {
            *self.excused.entry(name).or_default() += count;
        }
        for (name, case) in other.examples {
            self.examples.entry(name).or_insert(case);
        }
        self.differences.extend(other.differences);
    }

    /// Exceptions that excused nothing.
    pub fn idle(&self) -> Vec<&'static str> {
        exceptions::ALL.iter().map(|exception| exception.name).filter(|name| !self.excused.contains_key(name)).collect()
    }
}

async fn ask(server: SocketAddr, name: &str, qtype: &str) -> Answer {
    let mut tries = 0;
    loop {
        match query::query(server, name, qtype, Duration::from_secs(10)).await {
            Ok(reply) => return Answer::new(&reply),
            Err(error) => {
                tries += 1;
                assert!(tries < 3, "{name} {qtype}: {error}");
            }
        }
    }
}

impl Pair {
    async fn case(&self, name: String, qtype: &'static str) -> Case {
        let (ours, theirs) = tokio::join!(ask(self.ours, &name, qtype), ask(self.theirs, &name, qtype));
        Case { name, qtype, ours, theirs, note: String::new() }
    }

    /// Asks both for all types of these names.
    pub async fn ask_all(&self, names: &[String]) -> Vec<Case> {
        let questions = names.iter().flat_map(|name| questions::TYPES.map(|qtype| (name.clone(), qtype)));
        let cases = questions.map(|(name, qtype)| self.case(name, qtype));
        futures_util::stream::iter(cases).buffer_unordered(AT_ONCE).collect().await
    }

    /// Asks both the same and compares. `again` waits until both know everything; where they differ even so, they are
    /// asked once more, since one marker may overtake another record's way. `all` is what may be asked for evidence.
    pub async fn compare(
        &self,
        names: &[String],
        all: &BTreeSet<String>,
        known: &mut Known,
        again: impl AsyncFnOnce(),
    ) -> Report {
        let mut cases = self.ask_all(names).await;
        known.learn(&cases);
        let mut report = Report {
            asked: cases.len(),
            positive: cases.iter().filter(|case| !case.theirs.records.is_empty()).count(),
            ..Report::default()
        };
        let differing = |case: &Case, known: &Known| case.ours != case.theirs && excused(case, known).is_none();
        if cases.iter().any(|case| differing(case, known)) {
            again().await;
            for case in &mut cases {
                if differing(case, known) {
                    let asked = self.case(case.name.clone(), case.qtype).await;
                    report.late += usize::from(asked.ours == asked.theirs);
                    *case = asked;
                }
            }
            known.learn(&cases);
            for case in &cases {
                if differing(case, known) {
                    self.investigate(case, all, known).await;
                }
            }
        }
        for mut case in cases {
            if case.ours == case.theirs {
                continue;
            }
            match excused(&case, known) {
                Some(exception) => {
                    *report.excused.entry(exception.name).or_default() += 1;
                    report.examples.entry(exception.name).or_insert(case);
                }
                None => {
                    if report.differences.len() < 20 {
                        case.note = self.why_it_exists(&case, all).await;
                    }
                    report.differences.push(case);
                }
            }
        }
        report
    }

    /// For a name that only we say exists: what we have at and below it, and what CoreDNS says to the same question.
    async fn why_it_exists(&self, case: &Case, all: &BTreeSet<String>) -> String {
        if !case.ours.is_nodata() || !case.theirs.is_nxdomain() {
            return String::new();
        }
        let name = case.name.to_lowercase();
        let below = format!(".{name}");
        let below = all.iter().filter(|other| other.to_lowercase().ends_with(&below)).cloned();
        let mut note = String::new();
        for other in std::iter::once(name.clone()).chain(below) {
            for qtype in ["A", "AAAA", "SRV", "PTR"] {
                let found = self.case(other.clone(), qtype).await;
                if !found.ours.records.is_empty() && note.len() < 5_000 {
                    note.push_str(&format!("    {other} {qtype}: ours {}, theirs {}\n", found.ours, found.theirs));
                }
            }
        }
        if note.is_empty() { "    nothing is at or below it\n".to_owned() } else { note }
    }

    /// Asks CoreDNS for what else bears on a case: names at and below this one, and where its aliases lead.
    async fn investigate(&self, case: &Case, all: &BTreeSet<String>, known: &mut Known) {
        let name = case.name.to_lowercase();
        let below = format!(".{name}");
        let below = all.iter().filter(|other| other.to_lowercase().ends_with(&below)).cloned();
        for other in std::iter::once(name.clone()).chain(below) {
            for qtype in ["A", "AAAA", "SRV"] {
                self.learn(&other, qtype, known).await;
            }
            for target in self.learn(&other, "PTR", known).await {
                self.learn(&target, "A", known).await;
            }
            if known.exists(&name) {
                break;
            }
        }
        let mut next = Some(name);
        for _ in 0..20 {
            let Some(name) = next else { break };
            next = self.learn(&name, "CNAME", known).await.pop();
        }
    }

    /// Asks CoreDNS alone; where what it says leads.
    async fn learn(&self, name: &str, qtype: &'static str, known: &mut Known) -> Vec<String> {
        let theirs = ask(self.theirs, name, qtype).await;
        let case = Case { name: name.to_owned(), qtype, ours: theirs.clone(), theirs, note: String::new() };
        known.learn(std::slice::from_ref(&case));
        let leads = |record: &&Record| ["CNAME", "PTR"].contains(&record.record_type.as_str());
        let records = case.theirs.records.iter().filter(leads);
        records.map(|record| record.data.trim_end_matches('.').to_owned()).collect()
    }

    /// Differences as people read them, the first few of each kind, with commands to see them again.
    pub fn describe(&self, world: &World, differences: &[Case]) -> String {
        // Most differ in the same way for several types.
        let mut names: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
        for case in differences {
            names.entry(&case.name).or_default().push(case);
        }
        let shape = |answer: &Answer| {
            let types: BTreeSet<&str> = answer.records.iter().map(|record| record.record_type.as_str()).collect();
            let mut text = answer.rcode.clone();
            types.into_iter().for_each(|record_type| text.push_str(&format!(" {record_type}")));
            text
        };
        let mut kinds: BTreeMap<String, Vec<Vec<&Case>>> = BTreeMap::new();
        for cases in names.into_values() {
            let kind = |case: &&Case| format!("{} ({} / {})", case.qtype, shape(&case.ours), shape(&case.theirs));
            kinds.entry(cases.iter().map(kind).collect::<Vec<_>>().join(", ")).or_default().push(cases);
        }
        let mut text = String::new();
        for (kind, names) in kinds {
            text.push_str(&format!("{} names differ in (ours / theirs): {kind}\n", names.len()));
            for case in names.iter().take(4).filter_map(|cases| cases.first()) {
                let Case { name, qtype, ours, theirs, note } = case;
                if text.len() < 100_000 {
                    text.push_str(&world.about(name));
                }
                text.push_str(&format!("  {name} {qtype}\n    ours: {ours}\n    theirs: {theirs}\n{note}"));
                for server in [self.ours, self.theirs] {
                    text.push_str(&format!("    dig @{} -p {} '{name}.' {qtype}\n", server.ip(), server.port()));
                }
            }
        }
        text
    }
}

/// The first exception that a case is one of.
fn excused(case: &Case, known: &Known) -> Option<&'static Exception> {
    exceptions::ALL.iter().find(|exception| (exception.is)(case, known))
}
