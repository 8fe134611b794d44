//! Lists by the indexes equal lists made by looking at everything, and pages add up to the whole.

use crate::generate::{history, source};
use crate::model::{OWN_CLUSTER, Records, put_all, views};
use fingerpost_catalog::{
    Check, CheckResult, Health, HealthSet, Instance, InstanceKey, InstanceQuery, InstanceView, Key, Labels,
    NamespaceQuery, Record, Replica, Selector, ServiceQuery, Source,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

const SELECTORS: &[&str] = &[
    "",
    "app=x",
    "app=",
    "app=none",
    "app!=x",
    "app in (1,2,none)",
    "app notin (1,x)",
    "app notin (none)",
    "zone",
    "!zone",
    "!none",
    "none",
    "none!=1",
    "gen>0",
    "gen<2",
    "none>1",
    "app=x,zone in (1,2)",
    "app,zone,!gen",
    "app in (1,x),gen!=1",
];

#[derive(Clone, Debug)]
struct Asked {
    namespace: Option<&'static str>,
    service: Option<Option<&'static str>>,
    source: Option<Source>,
    selector: Selector,
    health: HealthSet,
    limit: usize,
}

fn asked() -> impl Strategy<Value = Asked> {
    let health = prop::collection::vec(select(&Health::ALL[..]), 0..3).prop_map(HealthSet::from_iter);
    let scope = (
        prop::option::of(select(&["a", "b", "none"][..])),
        prop::option::of(prop::option::of(select(&["s", "t", "none"][..]))),
        prop::option::of(source()),
    );
    let filter = (
        select(SELECTORS).prop_map(|text| text.parse().expect("a selector")),
        prop_oneof![2 => Just(HealthSet::ALL), 1 => health],
        1..5_usize,
    );
    (scope, filter).prop_map(|((namespace, service, source), (selector, health, limit))| Asked {
        namespace,
        service,
        source,
        selector,
        health,
        limit,
    })
}

impl Asked {
    fn query<'a>(&'a self, after: Option<&'a InstanceKey>, limit: usize) -> InstanceQuery<'a> {
        InstanceQuery {
            namespace: self.namespace,
            service: self.service,
            source: self.source.as_ref(),
            selector: &self.selector,
            health: self.health,
            after,
            limit,
        }
    }

    fn wants(&self, view: &InstanceView, own: &Labels) -> bool {
        let labels = if self.source.is_some() { own } else { &view.instance.labels };
        self.namespace.is_none_or(|namespace| *view.key.namespace == *namespace)
            && self.service.is_none_or(|service| view.key.service.as_deref() == service)
            && self.source.as_ref().map_or_else(|| !view.is_absorbed(), |source| view.key.source == *source)
            && self.health.contains(view.effective)
            && self.selector.matches(labels)
    }

    fn pages(&self, replica: &Replica, limit: usize) -> Vec<InstanceView> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = replica.instances(&self.query(after.as_ref(), limit));
            assert!(page.items.len() == limit || page.next.is_none());
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                return all;
            }
        }
    }
}

fn own(records: &Records, key: &InstanceKey) -> Instance {
    match records.get(&Key::Instance(key.clone())) {
        Some((Record::Instance(own), _)) => own.clone(),
        other => panic!("{key:?}: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn lists_equal_naive_ones(history in history(50), questions in prop::collection::vec(asked(), 24)) {
        let (mut replica, mut records) = (Replica::new(OWN_CLUSTER), Records::new());
        for set in &history {
            replica.apply(set);
            put_all(&mut records, set);
        }
        let expected = views(&records);
        for asked in questions {
            let instances: Vec<InstanceView> = expected
                .instances
                .values()
                .map(|view| (view, own(&records, &view.key)))
                .filter(|(view, own)| asked.wants(view, &own.labels))
                .map(|(view, own)| match asked.source {
                    Some(_) => InstanceView { instance: own, ..view.clone() },
                    None => view.clone(),
                })
                .collect();
            prop_assert_eq!(&replica.instances(&asked.query(None, usize::MAX)).items, &instances, "{:?}", asked);
            prop_assert_eq!(&asked.pages(&replica, asked.limit), &instances, "{:?}", asked);

            // A start that no longer exists, or that lies outside of the scope, is a place like any other.
            for key in expected.instances.keys() {
                let page = replica.instances(&asked.query(Some(key), usize::MAX)).items;
                let rest = instances.iter().filter(|view| view.key > *key);
                prop_assert!(page.iter().eq(rest), "{asked:?} after {key:?}");
            }

            let declared = |sources: &[Source]| asked.source.as_ref().is_none_or(|source| sources.contains(source));
            let services: Vec<_> = expected
                .services
                .values()
                .filter(|view| asked.namespace.is_none_or(|namespace| *view.namespace == *namespace))
                .filter(|view| declared(&view.sources) && asked.selector.matches(&view.labels))
                .cloned()
                .collect();
            let (mut listed, mut after) = (Vec::new(), None::<(Arc<str>, Arc<str>)>);
            loop {
                let page = replica.services(&ServiceQuery {
                    namespace: asked.namespace,
                    source: asked.source.as_ref(),
                    selector: &asked.selector,
                    after: after.as_ref(),
                    limit: asked.limit,
                });
                listed.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(listed, services);

            let namespaces: Vec<_> = expected
                .namespaces
                .values()
                .filter(|view| declared(&view.sources) && asked.selector.matches(&view.labels))
                .cloned()
                .collect();
            let (mut listed, mut after) = (Vec::new(), None::<Arc<str>>);
            loop {
                let page = replica.namespaces(&NamespaceQuery {
                    source: asked.source.as_ref(),
                    selector: &asked.selector,
                    after: after.as_ref(),
                    limit: 1,
                });
                listed.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(listed, namespaces);
        }
    }
}

/// Enough instances that the indexes have bitmaps and every way of finding a page is taken.
#[test]
fn large_lists_equal_naive_ones() {
    let mut replica = Replica::new(OWN_CLUSTER);
    let source: [Source; 3] = ["api", "cni/n", "kubernetes/own"].map(|text| text.parse().expect("a source"));
    let declared = Check { name: "c".to_owned(), ..Check::default() };
    let mut all = Vec::new();
    for n in 0..6000_u32 {
        // Multiplying by an odd number visits everything in no particular order.
        let n = n.wrapping_mul(2_654_435_761) % 6000;
        let key = InstanceKey {
            namespace: ["a", "b", "c"][(n / 2000) as usize].into(),
            service: (n % 7 != 0).then(|| format!("s{}", n % 50).into()),
            source: source[(n % 3) as usize].clone(),
            id: n.to_string().into(),
        };
        let labels = [("app", n % 2), ("zone", n % 3), ("gen", n % 40), ("unique", n), ("shared", n / 1500)];
        let labels = labels.into_iter().filter(|(key, _)| n % 5 != 0 || *key != "zone");
        let instance = Instance {
            labels: labels.map(|(key, value)| (key, value.to_string())).collect(),
            addresses: vec![std::net::Ipv4Addr::from(n).into()],
            checks: if n % 4 == 0 { vec![declared.clone()] } else { Vec::new() },
            ..Instance::default()
        };
        replica.load(&Key::Instance(key.clone()), &Record::Instance(instance), 1);
        if n % 4 == 0 {
            let health = if n % 400 == 0 { Health::Critical } else { Health::Warning };
            let check = Key::Check { instance: key.clone(), check: "c".into() };
            replica.load(&check, &Record::Check(CheckResult { health, ..CheckResult::default() }), 1);
        }
        all.push(key);
    }
    all.sort();
    all.dedup();
    let everything: Vec<InstanceView> = all.iter().map(|key| replica.instance(key).expect("loaded")).collect();
    let selectors = [
        "",
        "app=1",
        "app=1,zone=2",
        "app in (0,1),zone!=2",
        "unique=77",
        "unique in (5,6,7,4000)",
        "unique",
        "shared=3",
        "gen>30",
        "gen<3,app=0",
        "!zone",
        "shared in (0,3),app=0",
        "zone,app,shared=2",
        "absent",
    ];
    for selector in selectors {
        for namespace in [None, Some("b")] {
            for service in [None, Some(None), Some(Some("s8"))] {
                for from in [None, Some(source[1].clone())] {
                    for health in ["passing,warning,unknown,critical", "critical", "passing,critical"] {
                        let selector = selector.parse().expect("a selector");
                        let health = health.parse().expect("a set");
                        let asked = Asked { namespace, service, source: from.clone(), selector, health, limit: 0 };
                        let expected: Vec<_> =
                            everything.iter().filter(|view| asked.wants(view, &view.instance.labels)).collect();
                        for limit in [7, 400, usize::MAX] {
                            let after = everything.get(3210).map(|view| &view.key);
                            let page = replica.instances(&asked.query(after, limit));
                            let rest = || expected.iter().copied().filter(|view| Some(&view.key) > after);
                            assert!(page.items.iter().eq(rest().take(limit)), "{asked:?} {limit}");
                            assert_eq!(page.next.is_some(), rest().count() > limit, "{asked:?} {limit}");
                        }
                        assert!(asked.pages(&replica, 701).iter().eq(expected), "{asked:?}");
                    }
                }
            }
        }
    }
}
