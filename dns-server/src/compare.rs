//! Compares what two name servers answer, ours and one that it is to replace.
//!
//! Where CoreDNS and the RFCs differ, ours follows the RFCs; what is expected to differ for that reason, or because ours
//! knows more, is in [`DIFFERENCES`], each with its reason. Whatever else differs is a fault of one of the two.

use crate::query::{Line, Reply};
use serde::Serialize;
use std::collections::BTreeSet;

/// What a question is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// A service's own name.
    Service,
    /// The name of a port of a service.
    Port,
    /// The name of an endpoint.
    Endpoint,
    /// The name of a service that is an alias.
    Alias,
    /// An address backwards.
    Pointer,
    /// A pod's name by address.
    Pod,
    /// The top of the zone.
    Apex,
    /// A name that exists only for those below it.
    Between,
    /// Anything that is the same for all clusters: `dns-version`.
    Fixed,
    /// A name that does not exist.
    Missing,
}

/// A question to both servers, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The name, absolute, with a dot at its end.
    pub name: String,
    /// The record type.
    #[serde(rename = "type")]
    pub qtype: &'static str,
    /// What it is about.
    pub about: About,
    /// Whether it is about something that was registered beside what Kubernetes declares.
    pub registered: bool,
    /// Whether an instance is held back by what Kubernetes does not know: a drain, a check, a session, a report.
    pub held: bool,
    /// Whether an annotation leaves the Service out.
    pub excluded: bool,
}

/// A difference that is meant.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// What it is called in reports.
    pub name: &'static str,
    /// What differs.
    pub what: &'static str,
    /// Why.
    pub reason: &'static str,
    #[serde(skip)]
    applies: fn(&Case<'_>) -> bool,
}

/// How two answers compare.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The same.
    Same,
    /// The same, but for how long it may be kept: ours and theirs, in seconds.
    OtherTtl(u32, u32),
    /// As different as they are meant to be.
    Meant(&'static Difference),
    /// Different: what ours lacks, and what it has too many.
    Different(Discrepancy),
}

/// What differs between two answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Discrepancy {
    /// Our response code.
    pub ours: String,
    /// Theirs.
    pub theirs: String,
    /// Records that they have and we lack.
    pub missing: Vec<String>,
    /// Records that we have and they lack.
    pub extra: Vec<String>,
    /// Where only one of the two servers speaks for the zone itself (AA): whether it is ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authoritative: Option<bool>,
}

/// A record as it is compared: the owner, the type and the data, in lower case.
type Record = (String, String, String);

struct Case<'a> {
    question: &'a Question,
    ours: &'a Reply,
    theirs: &'a Reply,
    own: BTreeSet<Record>,
    other: BTreeSet<Record>,
}

/// The differences that are meant, in the order in which they are looked for.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "zone-data",
        what: "serial and times in the zone's SOA",
        reason: "The serial tells which position of the registry the answer includes; CoreDNS has the time.",
        applies: |case| case.question.qtype == "SOA" && case.same_but(names_of_soa),
    },
    Difference {
        name: "name-servers",
        what: "NS records at the zone's apex",
        reason: "Ours is ns.dns.<zone>; CoreDNS names the Services that lead to itself.",
        applies: |case| case.question.qtype == "NS" && case.both("NOERROR"),
    },
    Difference {
        name: "empty-non-terminals",
        what: "no data where CoreDNS says that the name does not exist, for names with others below them",
        reason: "RFC 8020: NXDOMAIN says that nothing exists below the name, either.",
        applies: |case| case.question.about == About::Between && case.no_data_against_nxdomain(),
    },
    Difference {
        name: "other-types",
        what: "no data where CoreDNS says that the name does not exist, for names with records of other types",
        reason: "RFC 2308 §2: NXDOMAIN is for names without any records.",
        applies: |case| {
            use About::{Alias, Endpoint, Fixed, Port, Service};
            let exists = matches!(case.question.about, Service | Port | Endpoint | Alias | Fixed);
            exists && case.no_data_against_nxdomain()
        },
    },
    Difference {
        name: "addresses-of-ports",
        what: "addresses at the names of ports, which CoreDNS answers",
        reason: "The specification (§2.3.2, §2.4.2) has SRV records there and nothing else.",
        applies: |case| {
            let address = matches!(case.question.qtype, "A" | "AAAA");
            case.question.about == About::Port && address && case.both("NOERROR") && case.own.is_empty()
        },
    },
    Difference {
        name: "alias-stays",
        what: "the CNAME of an ExternalName, which CoreDNS leaves out where its target has no such record, and for all types \
               but A and AAAA",
        reason: "RFC 1034 §3.6.2, RFC 6604 §3: a name with a CNAME answers with it whatever is asked.",
        applies: |case| {
            let only_aliases = case.own.iter().all(|(_, qtype, _)| qtype == "CNAME");
            let left_out = only_aliases || !matches!(case.question.qtype, "A" | "AAAA" | "CNAME");
            let stays = case.question.about == About::Alias && case.has_alias() && left_out;
            stays && case.knows(case.theirs) && case.other.is_empty()
        },
    },
    Difference {
        name: "outside-names",
        what: "what follows an alias that leads out of the zone",
        reason: "Those records are someone else's, and each server asks for them in its own way and time.",
        applies: |case| case.question.about == About::Alias && case.has_alias() && case.same_at_the_name(),
    },
    Difference {
        name: "weights",
        what: "weights of SRV records",
        reason: "An endpoint with addresses of both families is one target; CoreDNS counts it twice.",
        applies: |case| case.question.qtype == "SRV" && case.both("NOERROR") && case.same_but(without_weight),
    },
    Difference {
        name: "registered",
        what: "services and instances that were registered, beside what Kubernetes declares",
        reason: "The other server does not know them.",
        applies: |case| case.question.registered && case.answered() && case.holds(&case.own, &case.other),
    },
    Difference {
        name: "held-back",
        what: "instances that are drained, fail a check or lost their session",
        reason: "The other server does not know of it.",
        applies: |case| case.question.held && case.lacks(),
    },
    Difference {
        name: "excluded",
        what: "Services with the annotation fingerpost.io/exclude",
        reason: "It asks for that.",
        applies: |case| case.question.excluded && case.lacks(),
    },
];

impl Case<'_> {
    fn both(&self, rcode: &str) -> bool {
        self.ours.rcode == rcode && self.theirs.rcode == rcode
    }

    /// Whether a server speaks of what it knows.
    fn knows(&self, reply: &Reply) -> bool {
        matches!(reply.rcode.as_str(), "NOERROR" | "NXDOMAIN")
    }

    /// Whether both servers speak of what they know, and one knows more.
    fn answered(&self) -> bool {
        self.knows(self.ours) && self.knows(self.theirs) && self.own.len() != self.other.len()
    }

    /// Whether ours lacks something that theirs has, a record or the name itself, and nothing else differs.
    fn lacks(&self) -> bool {
        let name = self.own.is_empty()
            && self.other.is_empty()
            && (self.ours.rcode.as_str(), self.theirs.rcode.as_str()) == ("NXDOMAIN", "NOERROR");
        name || self.answered() && self.holds(&self.other, &self.own)
    }

    fn no_data_against_nxdomain(&self) -> bool {
        let nothing = self.own.is_empty() && self.other.is_empty();
        nothing && self.ours.rcode == "NOERROR" && self.theirs.rcode == "NXDOMAIN"
    }

    /// Whether the answers are the same once `data` has taken from each record's data what does not matter.
    fn same_but(&self, data: fn(&str) -> String) -> bool {
        !self.own.is_empty() && reduced(&self.own, data) == reduced(&self.other, data)
    }

    /// Whether the name itself has a CNAME in our answer.
    fn has_alias(&self) -> bool {
        let name = self.question.name.to_ascii_lowercase();
        self.own.iter().any(|(owner, qtype, _)| *owner == name && qtype == "CNAME")
    }

    /// Whether the answers agree on the name itself.
    fn same_at_the_name(&self) -> bool {
        let name = self.question.name.to_ascii_lowercase();
        let at = |records: &BTreeSet<Record>| -> BTreeSet<Record> {
            records.iter().filter(|(owner, ..)| *owner == name).cloned().collect()
        };
        // What ours adds, it speaks for: that must be there, too.
        at(&self.own) == at(&self.other) && self.own.len() == at(&self.own).len()
    }

    /// Whether all of `fewer` is in `more`, weights aside.
    fn holds(&self, more: &BTreeSet<Record>, fewer: &BTreeSet<Record>) -> bool {
        let data: fn(&str) -> String = if self.question.qtype == "SRV" { without_weight } else { str::to_owned };
        reduced(fewer, data).is_subset(&reduced(more, data))
    }
}

fn reduced(records: &BTreeSet<Record>, data: fn(&str) -> String) -> BTreeSet<Record> {
    records.iter().map(|(owner, qtype, text)| (owner.clone(), qtype.clone(), data(text))).collect()
}

/// The data of an SRV record without its second field.
fn without_weight(data: &str) -> String {
    data.split(' ').enumerate().filter(|(n, _)| *n != 1).map(|(_, field)| field).collect::<Vec<_>>().join(" ")
}

/// The two names of an SOA record.
fn names_of_soa(data: &str) -> String {
    data.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn records(lines: &[Line]) -> BTreeSet<Record> {
    let record =
        |line: &Line| (line.name.to_ascii_lowercase(), line.record_type.clone(), line.data.to_ascii_lowercase());
    lines.iter().map(record).collect()
}

/// Compares two answers to one question.
pub fn compare(question: &Question, ours: &Reply, theirs: &Reply) -> Outcome {
    let case = Case { question, ours, theirs, own: records(&ours.answers), other: records(&theirs.answers) };
    let same = ours.rcode == theirs.rcode && case.own == case.other;
    // Of a refusal or a failure the bit says nothing.
    let speaks = same && matches!(ours.rcode.as_str(), "NOERROR" | "NXDOMAIN");
    let authoritative = (speaks && ours.authoritative != theirs.authoritative).then_some(ours.authoritative);
    if same && authoritative.is_none() {
        let ttl = |reply: &Reply| reply.answers.iter().map(|line| line.ttl).min().unwrap_or_default();
        return match (ttl(ours), ttl(theirs)) {
            (own, other) if own == other => Outcome::Same,
            (own, other) => Outcome::OtherTtl(own, other),
        };
    }
    if let Some(difference) = DIFFERENCES.iter().find(|difference| !same && (difference.applies)(&case)) {
        return Outcome::Meant(difference);
    }
    let texts = |of: &BTreeSet<Record>, but: &BTreeSet<Record>| -> Vec<String> {
        of.difference(but).map(|(owner, qtype, data)| format!("{owner} {qtype} {data}")).collect()
    };
    Outcome::Different(Discrepancy {
        ours: ours.rcode.clone(),
        theirs: theirs.rcode.clone(),
        missing: texts(&case.other, &case.own),
        extra: texts(&case.own, &case.other),
        authoritative,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(rcode: &str, answers: &[(&str, &str, &str)]) -> Reply {
        let line = |(name, qtype, data): &(&str, &str, &str)| Line {
            name: (*name).to_owned(),
            ttl: 5,
            record_type: (*qtype).to_owned(),
            data: (*data).to_owned(),
        };
        Reply {
            server: ([127, 0, 0, 1], 53).into(),
            rcode: rcode.to_owned(),
            authoritative: true,
            truncated: false,
            tcp: false,
            size: 0,
            milliseconds: 0.0,
            answers: answers.iter().map(line).collect(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    fn question(about: About, qtype: &'static str) -> Question {
        Question { name: "n.".to_owned(), qtype, about, registered: false, held: false, excluded: false }
    }

    fn name(outcome: Outcome) -> String {
        match outcome {
            Outcome::Same => "same".to_owned(),
            Outcome::OtherTtl(..) => "ttl".to_owned(),
            Outcome::Meant(difference) => difference.name.to_owned(),
            Outcome::Different(discrepancy) => format!("-{:?} +{:?}", discrepancy.missing, discrepancy.extra),
        }
    }

    #[test]
    fn answers_compare_as_sets_without_case() {
        let a = reply("NOERROR", &[("n.", "A", "10.0.0.1"), ("N.", "A", "10.0.0.2")]);
        let mut b = reply("NOERROR", &[("n.", "A", "10.0.0.2"), ("n.", "A", "10.0.0.1")]);
        let question = question(About::Service, "A");
        assert_eq!(name(compare(&question, &a, &b)), "same");
        b.answers[0].ttl = 3;
        assert_eq!(name(compare(&question, &a, &b)), "ttl");
        b.answers.pop();
        assert_eq!(name(compare(&question, &a, &b)), "-[] +[\"n. A 10.0.0.1\"]");
        let none = reply("NXDOMAIN", &[]);
        assert_eq!(name(compare(&question, &none, &reply("SERVFAIL", &[]))), "-[] +[]");
        let relayed = Reply { authoritative: false, ..none.clone() };
        let Outcome::Different(different) = compare(&question, &none, &relayed) else { panic!("AA differs") };
        assert_eq!(different.authoritative, Some(true));
        let refused = reply("REFUSED", &[]);
        let other = Reply { authoritative: false, ..refused.clone() };
        assert_eq!(name(compare(&question, &refused, &other)), "same");
        assert!(name(compare(&question, &none, &b)).starts_with("-[\"n. A"));
    }

    #[test]
    fn differences_apply_where_they_are_meant_and_nowhere_else() {
        let (none, empty) = (reply("NXDOMAIN", &[]), reply("NOERROR", &[]));
        let a = reply("NOERROR", &[("n.", "A", "10.0.0.1")]);
        let alias = reply("NOERROR", &[("n.", "CNAME", "out.")]);
        let followed = reply("NOERROR", &[("n.", "CNAME", "out."), ("out.", "A", "192.0.2.1")]);
        let one = reply("NOERROR", &[("n.", "SRV", "0 100 80 t.")]);
        let half = reply("NOERROR", &[("n.", "SRV", "0 50 80 t.")]);
        let two = reply("NOERROR", &[("n.", "SRV", "0 50 80 t."), ("n.", "SRV", "0 50 80 u.")]);
        let soa = |serial| reply("NOERROR", &[("n.", "SOA", &format!("ns.n. h.n. {serial} 1 2 3 4"))]);
        let case = |about, qtype, ours: &Reply, theirs: &Reply| name(compare(&question(about, qtype), ours, theirs));
        assert_eq!(case(About::Between, "A", &empty, &none), "empty-non-terminals");
        assert_eq!(case(About::Service, "A", &empty, &none), "other-types");
        assert_eq!(case(About::Missing, "A", &empty, &none), "-[] +[]");
        assert_eq!(case(About::Service, "A", &none, &empty), "-[] +[]");
        assert_eq!(case(About::Port, "A", &empty, &a), "addresses-of-ports");
        assert!(case(About::Service, "A", &empty, &a).starts_with('-'));
        assert_eq!(case(About::Alias, "SRV", &alias, &empty), "alias-stays");
        let chased = reply("NOERROR", &[("n.", "CNAME", "in."), ("in.", "SRV", "0 100 80 in.")]);
        assert_eq!(case(About::Alias, "SRV", &chased, &empty), "alias-stays");
        assert!(case(About::Alias, "SRV", &chased, &reply("SERVFAIL", &[])).starts_with('-'));
        assert_eq!(case(About::Fixed, "A", &empty, &none), "other-types");
        assert_eq!(case(About::Alias, "A", &alias, &followed), "outside-names");
        assert!(case(About::Alias, "A", &followed, &empty).starts_with('-'));
        assert!(case(About::Alias, "A", &alias, &a).starts_with('-'));
        assert!(case(About::Alias, "A", &followed, &alias).starts_with('-'));
        assert_eq!(case(About::Port, "SRV", &one, &half), "weights");
        assert!(case(About::Port, "SRV", &one, &two).starts_with('-'));
        assert_eq!(case(About::Apex, "SOA", &soa(1), &soa(2)), "zone-data");
        assert_eq!(case(About::Apex, "NS", &a, &empty), "name-servers");
        let registered = Question { registered: true, ..question(About::Service, "SRV") };
        assert_eq!(name(compare(&registered, &two, &one)), "registered");
        assert!(name(compare(&registered, &one, &two)).starts_with('-'));
        assert_eq!(name(compare(&registered, &two, &none)), "registered");
        assert!(name(compare(&registered, &two, &reply("SERVFAIL", &[]))).starts_with('-'));
        assert_eq!(name(compare(&registered, &none, &empty)), "-[] +[]");
        let held = Question { held: true, ..question(About::Service, "SRV") };
        assert_eq!(name(compare(&held, &one, &two)), "held-back");
        assert_eq!(name(compare(&held, &none, &two)), "held-back");
        assert_eq!(name(compare(&held, &none, &empty)), "held-back");
        assert!(name(compare(&held, &two, &one)).starts_with('-'));
        let excluded = Question { excluded: true, ..question(About::Service, "SRV") };
        assert_eq!(name(compare(&excluded, &none, &two)), "excluded");
        assert!(name(compare(&excluded, &two, &one)).starts_with('-'));
    }
}
