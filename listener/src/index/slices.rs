//! A slice in the place of the one before it: which members changed, and which records that touches.

use super::compact::{CompactEndpoint, Slice};
use super::interner::Sym;
use super::members::Members;
use super::{Index, Map, Namespace, Record, Touched, desired};

impl Index {
    /// Puts a slice in the place of the one before it, and touches the endpoints that differ.
    pub(super) fn diff_slice(
        &mut self,
        namespace: Sym,
        name: Sym,
        before: Option<Slice>,
        after: Option<Slice>,
        touched: &mut Touched,
    ) {
        let services = [&before, &after].map(|slice| slice.as_ref().map_or(Sym::NONE, |slice| slice.service));
        let moved = services[0] != services[1];
        let mut steps: Vec<(Sym, Option<&Slice>, Option<&Slice>)> = Vec::with_capacity(2);
        if moved {
            // Additions first.
            steps.push((services[1], None, after.as_ref()));
            steps.push((services[0], before.as_ref(), None));
        } else {
            steps.push((services[0], before.as_ref(), after.as_ref()));
        }
        let changes: Vec<(Sym, Vec<Change>)> =
            steps.into_iter().map(|(service, before, after)| (service, changes(before, after))).collect();
        let Some(entry) = self.namespaces.get_mut(&namespace) else { return };
        if let Some(after) = after {
            entry.slices.insert(name, after);
        }
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for (service_name, changes) in changes {
            if service_name.is_none() || changes.is_empty() {
                continue;
            }
            let Namespace { services, slices, .. } = entry;
            let service = services.entry(service_name).or_default();
            let mut ids = Vec::new();
            for change in &changes {
                service.members.put_places(change.key, name, &change.places);
            }
            for change in &changes {
                let Some(member) = service.members.get(change.key) else { continue };
                let endpoint = member.places.first().and_then(|place| desired::endpoint(slices, *place));
                let member_name = endpoint.map_or(Sym::NONE, |endpoint| endpoint.name);
                if !change.differs {
                    continue;
                }
                let address = |key: u64, members: &Members| desired::first_address(slices, members, key);
                service.members.settle(&mut self.strings, change.key, member_name, &address, &mut ids);
            }
            let shown = service.has_instances();
            for id in ids {
                let record = Record::Instance(namespace, service_name, id);
                match shown && service.members.by_id(id).is_some() {
                    true => put.push(record),
                    false => gone.push(record),
                }
            }
            if service.members.is_empty() && !service.exists {
                services.remove(&service_name);
            }
        }
        touched.records.extend(put);
        touched.records.extend(gone);
    }
}

/// What becomes of one member's endpoints in a slice.
struct Change {
    key: u64,
    /// Where they are now.
    places: Vec<u32>,
    /// Whether what they say is different, too.
    differs: bool,
}

/// How a slice differs from the one before it, by member. Members that stayed as and where they were are left out.
fn changes(before: Option<&Slice>, after: Option<&Slice>) -> Vec<Change> {
    fn by_member(slice: Option<&Slice>) -> Map<u64, Vec<u32>> {
        let mut members: Map<u64, Vec<u32>> = Map::default();
        for (place, endpoint) in slice.into_iter().flat_map(|slice| slice.endpoints.iter()).enumerate() {
            members.entry(endpoint.key).or_default().push(place as u32);
        }
        members
    }
    let same_ports = match (before, after) {
        (Some(before), Some(after)) => before.ports == after.ports,
        _ => false,
    };
    if same_ports && before.map(|slice| &slice.endpoints) == after.map(|slice| &slice.endpoints) {
        return Vec::new();
    }
    let (mut old, new) = (by_member(before), by_member(after));
    let says = |slice: Option<&Slice>, places: &[u32]| -> Vec<CompactEndpoint> {
        let endpoints = places.iter().filter_map(|&place| slice?.endpoints.get(place as usize));
        endpoints.cloned().collect()
    };
    let mut changes = Vec::new();
    for (key, places) in new {
        let was = old.remove(&key);
        let same = same_ports && was.as_ref().is_some_and(|was| says(before, was) == says(after, &places));
        if !same || was.as_ref() != Some(&places) {
            changes.push(Change { key, places, differs: !same });
        }
    }
    changes.extend(old.into_keys().map(|key| Change { key, places: Vec::new(), differs: true }));
    // In the order of the slice, so that what is written is in an order that can be understood.
    changes.sort_by_key(|change| (change.places.first().copied().unwrap_or(u32::MAX), change.key));
    changes
}
