//! Which upstreams a name's questions go to.

use crate::forward::config::{Action, Policy, Target, ZoneRule};
use crate::forward::group::{Group, UpstreamFileError};
use crate::forward::local::Specials;
use crate::forward::upstream::{Shared, Upstream};
use crate::name::{self, Name};
use hashbrown::HashMap;
use std::sync::Arc;

/// All rules.
#[derive(Debug)]
pub(crate) struct Rules {
    zones: HashMap<Name, Rule, ahash::RandomState>,
    rest: Option<Arc<Group>>,
    pub(crate) specials: Specials,
}

#[derive(Debug)]
enum Rule {
    Ask(Arc<Group>),
    Refuse,
    Nothing,
}

/// What to do for a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route<'a> {
    /// Ask these.
    Ask(&'a Arc<Group>),
    /// Answer what is known of special names.
    Special,
    /// Answer that there is nothing in this zone.
    Nothing(&'a [u8]),
    /// Don't answer.
    Refuse,
}

impl Rules {
    pub(crate) fn open(
        rest: &[Target],
        zones: &[ZoneRule],
        policy: Policy,
        shared: &Arc<Shared>,
    ) -> Result<Self, UpstreamFileError> {
        let group = |number, targets: &[Target]| Group::open(number, targets, policy, shared).map(Arc::new);
        let mut rules = HashMap::default();
        for (number, ZoneRule { zone, action }) in zones.iter().enumerate() {
            let rule = match action {
                Action::Ask(targets) => Rule::Ask(group(number, targets)?),
                Action::Refuse => Rule::Refuse,
                Action::None => Rule::Nothing,
            };
            rules.insert(zone.0.clone(), rule);
        }
        let rest = if rest.is_empty() { None } else { Some(group(zones.len(), rest)?) };
        Ok(Self { zones: rules, rest, specials: Specials::new() })
    }

    /// The rule of the innermost zone that has one.
    fn rule<'a>(&'a self, wire: &'a [u8]) -> Option<(&'a [u8], &'a Rule)> {
        if self.zones.is_empty() {
            return None;
        }
        let mut rest = wire;
        loop {
            if let Some(rule) = self.zones.get(rest) {
                return Some((rest, rule));
            }
            rest = name::parent(rest)?;
        }
    }

    /// The zone of the rule that is about this name, if somebody wrote one.
    pub(crate) fn explicit<'a>(&'a self, wire: &'a [u8]) -> Option<&'a [u8]> {
        self.rule(wire).map(|(zone, _)| zone)
    }

    /// Whether a rule is about just this zone.
    pub(crate) fn is_about(&self, zone: &Name) -> bool {
        self.zones.contains_key(zone)
    }

    /// What to do for a lower-case name.
    pub(crate) fn route<'a>(&'a self, wire: &'a [u8]) -> Route<'a> {
        let rule = self.rule(wire);
        let special = self.specials.zone(wire).map_or(0, <[u8]>::len);
        match rule {
            Some((zone, rule)) if zone.len() >= special => match rule {
                Rule::Ask(group) => Route::Ask(group),
                Rule::Refuse => Route::Refuse,
                Rule::Nothing => Route::Nothing(zone),
            },
            _ if special > 0 => Route::Special,
            _ => self.rest.as_ref().map_or(Route::Refuse, Route::Ask),
        }
    }

    /// The zone of the rule that a name falls under, for people.
    pub(crate) fn zone_of(&self, wire: &[u8]) -> Option<Name> {
        self.rule(wire).map(|(zone, _)| Name::from_wire(zone))
    }

    /// All groups, each with its zone; the root's are for the rest.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&[u8], &Arc<Group>)> {
        let zones = self.zones.iter().filter_map(|(zone, rule)| match rule {
            Rule::Ask(group) => Some((zone.wire(), group)),
            _ => None,
        });
        zones.chain(self.rest.iter().map(|group| (&[0u8][..], group)))
    }

    /// All upstreams, each with its rule's zone; one that several rules ask comes with each of them.
    pub(crate) fn upstreams(&self) -> Vec<(Box<[u8]>, Arc<Upstream>)> {
        let of_group = |(zone, group): (&[u8], &Arc<Group>)| {
            let zone: Box<[u8]> = zone.into();
            group.members().iter().map(|upstream| (zone.clone(), Arc::clone(upstream))).collect::<Vec<_>>()
        };
        self.groups().flat_map(of_group).collect()
    }
}
