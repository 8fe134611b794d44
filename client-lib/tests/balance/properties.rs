//! What holds whatever happens.

use crate::world::*;
use fingerpost_client::Endpoints;
use fingerpost_client::balance::{Balancer, Outcome, Pick};
use fingerpost_client::catalog::Health;
use proptest::prelude::*;
use std::time::Duration;

/// What the registry says of an endpoint.
#[derive(Clone, Debug)]
struct Web {
    health: Health,
    drained: bool,
    weight: Option<u16>,
    zone: Option<u8>,
    moved: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Update(Vec<Option<Web>>),
    Pick,
    PickFor(u64),
    PickExcept(usize),
    /// The oldest but so many ends so; none: it is cancelled.
    End(usize, Option<Outcome>),
    Pass(u64),
}

fn web() -> impl Strategy<Value = Web> {
    let health = prop_oneof![
        6 => Just(Health::Passing), 1 => Just(Health::Warning), 1 => Just(Health::Unknown), 2 => Just(Health::Critical)
    ];
    let weight = prop_oneof![3 => Just(None), 1 => prop::option::of(0_u16..5), 1 => prop::option::of(any::<u16>())];
    (health, prop::bool::weighted(0.1), weight, prop::option::of(0_u8..3), prop::bool::weighted(0.1))
        .prop_map(|(health, drained, weight, zone, moved)| Web { health, drained, weight, zone, moved })
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![2 => Just(Some(Outcome::Success)), 4 => Just(Some(Outcome::Failure)), 1 => Just(None)];
    prop_oneof![
        1 => prop::collection::vec(prop::option::weighted(0.8, web()), 0..12).prop_map(Step::Update),
        8 => Just(Step::Pick),
        3 => any::<u64>().prop_map(Step::PickFor),
        2 => (0_usize..6).prop_map(Step::PickExcept),
        10 => (0_usize..4, outcome).prop_map(|(at, outcome)| Step::End(at, outcome)),
        3 => (0_u64..20_000).prop_map(Step::Pass),
    ]
}

fn endpoints(webs: &[Option<Web>]) -> Endpoints {
    snapshot(webs.iter().enumerate().filter_map(|(n, web)| {
        let web = web.as_ref()?;
        Some(endpoint(n, |document| {
            document.effective_health = Some(web.health);
            document.weight = web.weight;
            document.zone = web.zone.map(|zone| format!("zone-{zone}"));
            if web.drained {
                drain(document);
            }
            if web.moved {
                document.addresses = vec![[10, 1, 1, n as u8].into()];
            }
        }))
    }))
}

/// A pick is one of the present endpoints, and one that works, but in a panic.
fn judge(balancer: &Balancer, present: &Endpoints, pick: Option<&Pick>, tried: usize) -> Result<(), TestCaseError> {
    let report = balancer.report();
    prop_assert_eq!(report.endpoints.len(), present.len());
    let Some(pick) = pick else {
        // Nobody can be asked, or all that can were tried. A share is had by no more than those.
        let shares = report.endpoints.iter().filter(|endpoint| endpoint.share > 0.0).count();
        prop_assert!(shares <= tried, "{shares} could have been picked");
        return Ok(());
    };
    let known = report.endpoints.iter().find(|endpoint| endpoint.endpoint.key() == pick.key());
    let known = known.ok_or_else(|| TestCaseError::fail("a pick of an endpoint that is not there"))?;
    prop_assert!(std::ptr::eq(&*known.endpoint, &**pick), "an earlier state of the endpoint");
    prop_assert!(!pick.is_withdrawn());
    prop_assert!(known.in_flight > 0);
    prop_assert!(report.panic || (pick.is_usable() && !known.ejected), "{:?}", known);
    prop_assert!(tried > 0 || known.share > 0.0, "{:?}", known);
    Ok(())
}

fn run(policy: usize, zone: bool, slow_start: bool, panic: f64, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let time = Time::new();
    let mut builder = time.builder(POLICIES[policy]).panic_threshold(panic);
    if zone {
        builder = builder.zone("zone-1");
    }
    if slow_start {
        builder = builder.slow_start(Duration::from_secs(20));
    }
    let balancer = builder.build();
    let mut present = endpoints(&[]);
    let mut held: Vec<Pick> = Vec::new();
    for step in steps {
        let (pick, tried) = match step {
            Step::Update(webs) => {
                present = endpoints(&webs);
                balancer.update(&present);
                let report = balancer.report();
                let sum: f64 = report.endpoints.iter().map(|endpoint| endpoint.share).sum();
                prop_assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-9, "shares of {} together", sum);
                continue;
            }
            Step::End(at, outcome) => {
                if !held.is_empty() {
                    let pick = held.remove(at.min(held.len() - 1));
                    match outcome {
                        Some(outcome) => pick.finish(outcome),
                        None => drop(pick),
                    }
                }
                continue;
            }
            Step::Pass(millis) => {
                time.pass(Duration::from_millis(millis));
                continue;
            }
            Step::Pick => (balancer.pick(), 0),
            Step::PickFor(key) => (balancer.pick_for_hash(key), 0),
            Step::PickExcept(count) => {
                let tried: Vec<_> = present.iter().take(count).map(|endpoint| endpoint.key().clone()).collect();
                let pick = balancer.pick_except(&tried);
                prop_assert!(pick.as_ref().is_none_or(|pick| !tried.contains(pick.key())));
                (pick, tried.len())
            }
        };
        judge(&balancer, &present, pick.as_ref(), tried)?;
        held.extend(pick);
    }
    drop(held);
    prop_assert!(balancer.report().endpoints.iter().all(|endpoint| endpoint.in_flight == 0));
    Ok(())
}

proptest! {
    #[test]
    fn picks_are_of_those_that_work(
        policy in 0..POLICIES.len(), zone: bool, slow_start: bool, panic in prop_oneof![Just(0.0), Just(0.5)],
        first in prop::collection::vec(prop::option::weighted(0.9, web()), 1..12),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let steps = std::iter::once(Step::Update(first)).chain(steps).collect();
        run(policy, zone, slow_start, panic, steps)?;
    }
}
