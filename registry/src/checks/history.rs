//! The latest changes of each instance's effective health, and what made them.

use crate::live::Observer;
use fingerpost_catalog::document::TransitionDocument;
use fingerpost_catalog::{
    Effects, Health, HealthParts, InstanceKey, InstanceView, PartState, Position, Replica, Timestamp, ViewChange,
};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::collections::VecDeque;
use std::sync::Arc;

/// Transitions that are kept of an instance.
const MOST: usize = 10;
/// Bytes that all of them may take; instances that nobody asked for lately, and that changed least recently, go first.
const BYTES: u64 = 32 << 20;
/// Instances of which any are kept, about: what a few short reasons take.
const INSTANCES: usize = 20_000;

type Transitions = Arc<VecDeque<TransitionDocument>>;

#[derive(Clone)]
struct ByBytes;

impl Weighter<InstanceKey, Transitions> for ByBytes {
    fn weight(&self, key: &InstanceKey, transitions: &Transitions) -> u64 {
        let one = |transition: &TransitionDocument| size_of::<TransitionDocument>() + transition.reason.capacity();
        // The names are mostly shared with others.
        (128 + key.id.len() + transitions.iter().map(one).sum::<usize>()) as u64
    }
}

/// Kept in memory by every replica for itself, from what it sees since it started.
pub struct History(Cache<InstanceKey, Transitions, ByBytes>);

impl Default for History {
    fn default() -> Self {
        Self(Cache::with_weighter(INSTANCES, BYTES, ByBytes))
    }
}

impl History {
    /// An instance's transitions, the latest first.
    pub fn of(&self, key: &InstanceKey) -> Vec<TransitionDocument> {
        self.0.get(key).map(|transitions| transitions.iter().cloned().collect()).unwrap_or_default()
    }

    fn note(&self, before: &InstanceView, after: &InstanceView, now: Timestamp) {
        let (at, reason) = explain(before, after);
        let mut transitions = self.0.get(&after.key).map(|known| (*known).clone()).unwrap_or_default();
        transitions.push_front(TransitionDocument {
            at: at.unwrap_or(now),
            from: before.effective,
            to: after.effective,
            reason,
        });
        transitions.truncate(MOST);
        self.0.insert(after.key.clone(), Arc::new(transitions));
    }
}

impl Observer for History {
    fn load(&self, _: &Replica) {}

    fn ready(&self, _: Position) {}

    fn apply(&self, effects: &Effects, _: bool) {
        let mut now = None;
        for change in &effects.changes {
            match change {
                ViewChange::Instance { before: Some(before), after: Some(after) }
                    if before.effective != after.effective =>
                {
                    self.note(before, after, *now.get_or_insert_with(Timestamp::now));
                }
                // One that comes back under the same name is another.
                ViewChange::Instance { before: Some(before), after: None } => {
                    self.0.remove(&before.key);
                }
                _ => {}
            }
        }
    }
}

/// A part of an instance's health by the name that users know it by.
fn parts(parts: &HealthParts) -> impl Iterator<Item = (String, &PartState)> {
    let single = [
        ("conditions", &parts.conditions),
        ("reported", &parts.reported),
        ("drain", &parts.drain),
        ("session", &parts.session),
    ];
    let single = single.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part.as_ref()?)));
    single.chain(parts.checks.iter().map(|(name, part)| (format!("check {name}"), part)))
}

/// Which part's change explains the new health, and since when it stands. For the worse, it is the part that now is the
/// worst; for the better, the one that was.
fn explain(before: &InstanceView, after: &InstanceView) -> (Option<Timestamp>, String) {
    let health_in = |parts_of: &HealthParts, name: &str| {
        parts(parts_of).find(|(other, _)| other == name).map(|(_, part)| part.health)
    };
    if after.effective > before.effective {
        let cause = parts(&after.parts)
            .find(|(name, part)| part.health == after.effective && health_in(&before.parts, name) != Some(part.health));
        return match cause {
            None => (None, String::new()),
            Some((name, part)) if part.note.is_empty() => (part.since, format!("{name}: {}", part.health)),
            Some((name, part)) => (part.since, format!("{name}: {}", part.note)),
        };
    }
    let cause = parts(&before.parts)
        .find(|(name, part)| part.health == before.effective && health_in(&after.parts, name) != Some(part.health));
    let Some((name, _)) = cause else { return (None, String::new()) };
    match parts(&after.parts).find(|(other, _)| *other == name) {
        None => (None, gone(&name)),
        Some((_, part)) if part.note.is_empty() => (part.since, format!("{name}: {}", part.health)),
        Some((_, part)) => (part.since, format!("{name}: {}", part.note)),
    }
}

/// A part that says nothing any more.
fn gone(name: &str) -> String {
    match name {
        "drain" => "drain: ended".to_owned(),
        "session" => "session: renewed".to_owned(),
        "conditions" => "conditions: ready".to_owned(),
        check if check.starts_with("check ") => format!("{check}: no longer declared"),
        other => format!("{other}: {}", Health::Passing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::{Change, ChangeSet, Epoch, Key, Record};

    /// Applies records given as key and JSON, `-` for a removal, each in a commit of its own; returns the history.
    fn history(changes: &[(&str, &str)]) -> Vec<(String, Health, Health)> {
        let (mut replica, history) = (Replica::new("own"), History::default());
        for (n, (key, value)) in changes.iter().enumerate() {
            let key: Key = key.parse().unwrap();
            let record = (*value != "-").then(|| Arc::new(Record::decode(&key, value.as_bytes()).unwrap()));
            let change = Change { key, record };
            let position = Position::new(Epoch(1), n as u64 + 1);
            history.apply(&replica.apply(&ChangeSet { position, changes: vec![change] }), false);
        }
        let Ok(Key::Instance(key)) = WEB1.parse() else { panic!() };
        history.of(&key).into_iter().map(|item| (item.reason, item.from, item.to)).collect()
    }

    const WEB1: &str = "instances/prod/web/api/web-1";
    const CHECK: &str = "checks/prod/web/api/web-1/up";

    #[test]
    fn says_which_part_it_was() {
        use Health::{Critical, Passing, Unknown};
        let declared = r#"{"addresses":["10.0.0.1"],"checks":[{"name":"up","type":"tcp"}]}"#;
        let reported = r#"{"addresses":["10.0.0.1"],"report":{"health":"critical","note":"out of memory"}}"#;
        let seen = history(&[
            (WEB1, declared),
            (CHECK, r#"{"health":"passing","note":"connected","since":5}"#),
            (CHECK, r#"{"health":"critical","note":"connection refused","since":6}"#),
            ("drains/prod/web/api/web-1", r#"{"note":"upgrade"}"#),
            (CHECK, r#"{"health":"passing","note":"connected","since":7}"#),
            ("drains/prod/web/api/web-1", "-"),
            (WEB1, reported),
            (WEB1, r#"{"addresses":["10.0.0.1"]}"#),
        ]);
        let expected = [
            ("reported: passing", Critical, Passing),
            ("reported: out of memory", Passing, Critical),
            ("drain: ended", Critical, Passing),
            ("check up: connection refused", Passing, Critical),
            ("check up: connected", Unknown, Passing),
        ];
        assert_eq!(seen, expected.map(|(reason, from, to)| (reason.to_owned(), from, to)));
    }

    #[test]
    fn long_reasons_take_the_room_of_others() {
        let (mut replica, history) = (Replica::new("own"), History::default());
        let mut number = 0;
        let mut apply = |key: String, value: String| {
            number += 1;
            let key: Key = key.parse().unwrap();
            let record = Some(Arc::new(Record::decode(&key, value.as_bytes()).unwrap()));
            let position = Position::new(Epoch(1), number);
            let set = ChangeSet { position, changes: vec![Change { key, record }] };
            history.apply(&replica.apply(&set), false);
        };
        for n in 0..20_000 {
            let note = "é".repeat(1024);
            let report = |health: &str| format!(r#"{{"report":{{"health":"{health}","note":"{note}"}}}}"#);
            apply(format!("instances/prod/web/api/web-{n}"), "{}".to_owned());
            apply(format!("instances/prod/web/api/web-{n}"), report("critical"));
            apply(format!("instances/prod/web/api/web-{n}"), report("warning"));
        }
        assert!(history.0.weight() <= BYTES && history.0.weight() > BYTES / 2, "{}", history.0.weight());
        assert!((4000..12_000).contains(&history.0.len()), "two of 2 KiB each: {}", history.0.len());
    }

    #[test]
    fn the_latest_ten_of_this_life() {
        let mut changes = vec![(WEB1, r#"{"checks":[{"name":"up","type":"tcp"}]}"#)];
        for _ in 0..20 {
            changes.extend([(CHECK, r#"{"health":"passing"}"#), (CHECK, r#"{"health":"critical","note":"down"}"#)]);
        }
        assert_eq!(history(&changes).len(), 10);
        assert_eq!(history(&changes)[0].0, "check up: down");
        changes.extend([(WEB1, "-"), (WEB1, "{}")]);
        assert!(history(&changes).is_empty());
    }
}
