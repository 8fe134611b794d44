//! Over arbitrary histories the replica holds what the records say, and its effects tell all that changed.

use crate::generate::{EPOCH, history};
use crate::model::{OWN_CLUSTER, Records, Views, put_all, views};
use crate::reading::assert_holds;
use fingerpost_catalog::{ChangeSet, Epoch, Position, Replica, ViewChange};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn build(history: &[ChangeSet]) -> (Replica, Records) {
    let (mut replica, mut records) = (Replica::new(OWN_CLUSTER), Records::new());
    for set in history {
        replica.apply(set);
        put_all(&mut records, set);
    }
    (replica, records)
}

/// The versions of all services, by which lists are cached.
fn versions(replica: &Replica) -> BTreeMap<(&'static str, Option<&'static str>), Option<u64>> {
    let groups =
        ["a", "b"].into_iter().flat_map(|namespace| [None, Some("s"), Some("t")].map(|name| (namespace, name)));
    groups.map(|group| (group, replica.service_version(group.0, group.1))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn effects_lead_from_view_to_view(history in history(40)) {
        let (mut replica, mut records, mut observer) = (Replica::new(OWN_CLUSTER), Records::new(), Views::default());
        for set in &history {
            let before = versions(&replica);
            let effects = replica.apply(set);
            put_all(&mut records, set);
            observer.follow(&effects);
            prop_assert_eq!(replica.position(), Some(set.position));
            prop_assert_eq!(effects.position, set.position);
            let expected = views(&records);
            prop_assert_eq!(&observer, &expected);
            let after = versions(&replica);
            for change in &effects.changes {
                let (namespace, service) = match change {
                    ViewChange::Namespace { .. } => continue,
                    ViewChange::Service { before, after } => {
                        let view = before.as_ref().or(after.as_ref()).unwrap();
                        (view.namespace.clone(), Some(view.name.clone()))
                    }
                    ViewChange::Instance { before, after } => {
                        let key = before.as_ref().or(after.as_ref()).unwrap().key.clone();
                        (key.namespace, key.service)
                    }
                };
                let group = (&*namespace, service.as_deref());
                let number = |versions: &BTreeMap<_, Option<u64>>| {
                    versions.iter().find(|((a, b), _)| (*a, *b) == group).and_then(|(_, version)| *version)
                };
                prop_assert!(number(&before) != number(&after), "{group:?}: {change:?}");
            }
        }
        let expected = views(&records);
        assert_holds(&replica, &records, &expected);
    }

    #[test]
    fn following_and_loading_lead_to_the_same((history, shuffle) in (history(30), any::<u64>())) {
        let (_, records) = build(&history);
        let mut loaded = Replica::new(OWN_CLUSTER);
        prop_assert_eq!(loaded.position(), None);
        // Any order will do; this one is arbitrary, but the same for the same seed.
        let mut all: Vec<_> = records.iter().collect();
        all.sort_by_key(|(key, _)| {
            key.to_string().bytes().fold(shuffle, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        });
        for (key, (record, revision)) in all {
            loaded.load(key, record, *revision);
        }
        loaded.loaded(Position::new(EPOCH, 1000));
        prop_assert_eq!(loaded.position(), Some(Position::new(EPOCH, 1000)));
        assert_holds(&loaded, &records, &views(&records));
    }

    #[test]
    fn reloading_tells_the_differences(
        from in history(25),
        extra in history(6),
        same_epoch in any::<bool>(),
        related in any::<bool>(),
    ) {
        let (mut replica, records) = build(&from);
        // Either a later state of the same history, or another one altogether.
        let mut target = if related { records.clone() } else { Records::new() };
        for set in &extra {
            put_all(&mut target, set);
        }
        let epoch = if same_epoch && !from.is_empty() { EPOCH } else { Epoch(8) };
        let position = Position::new(epoch, 500);
        let mut observer = views(&records);
        let contents = target.iter().map(|(key, (record, revision))| (key.clone(), record.clone(), *revision));
        let effects = replica.reload(position, contents);
        prop_assert_eq!(replica.position(), Some(position));
        let expected = views(&target);
        if epoch == EPOCH {
            observer.follow(&effects);
            prop_assert_eq!(&observer, &expected);
        } else {
            for change in &effects.changes {
                let differ = match change {
                    ViewChange::Namespace { before: Some(a), after: Some(b) } => {
                        (&a.labels, &a.sources) != (&b.labels, &b.sources)
                    }
                    ViewChange::Service { before: Some(a), after: Some(b) } => {
                        let mut a = a.as_ref().clone();
                        a.revision = b.revision;
                        a != **b
                    }
                    ViewChange::Instance { before: Some(a), after: Some(b) } => {
                        let mut a = a.as_ref().clone();
                        a.revision = b.revision;
                        a != **b
                    }
                    _ => true,
                };
                prop_assert!(differ, "{change:?}");
            }
            let mut observer = observer.without_revisions();
            for change in &effects.changes {
                observer.follow_without_revisions(change);
            }
            prop_assert_eq!(observer, expected.clone().without_revisions());
        }
        assert_holds(&replica, &target, &expected);

        // And back, which a first reload must not have prepared in any way.
        let contents = records.iter().map(|(key, (record, revision))| (key.clone(), record.clone(), *revision));
        let mut observer = expected;
        observer.follow(&replica.reload(Position::new(epoch, 501), contents));
        prop_assert_eq!(&observer, &views(&records));
        assert_holds(&replica, &records, &observer);
    }
}
