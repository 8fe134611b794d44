//! How the words of several sources become one: merged services and namespaces, and who speaks for an address.

use super::Replica;
use super::declared::PackedService;
use super::entry::{Addresses, Pairs, Shadow};
use super::group::{Declarations, Group, NamespaceSlot};
use crate::Rank;
use crate::labels::Labels;
use crate::object::Namespace;
use crate::view::{NamespaceView, ServiceView};
use smallvec::SmallVec;

/// The labels of all declarations; where several have the same key, the highest-ranked one's value.
fn merge_labels<T>(declarations: &Declarations<T>, labels: impl Fn(&T) -> Labels) -> Labels {
    let mut merged = Labels::default();
    for declaration in declarations.iter().rev() {
        merged.0.extend(labels(&declaration.value).0);
    }
    merged
}

/// The labels of a merged service.
pub(super) fn merge_service_labels(declarations: &Declarations<PackedService>) -> Labels {
    merge_labels(declarations, PackedService::labels)
}

/// The last change of any of them; 0 where there are none.
fn latest<T>(declarations: &Declarations<T>) -> u64 {
    declarations.iter().map(|declaration| declaration.revision).max().unwrap_or_default()
}

impl Replica {
    /// The merged service; none while nothing makes it exist, and for the instances of no service.
    pub(super) fn merge_service(&self, group: &Group) -> Option<ServiceView> {
        let name = group.name.clone().filter(|_| group.exists())?;
        let declarations = &group.declarations;
        let best = declarations.first().map(|declaration| declaration.value.unpack()).unwrap_or_default();
        let alone = declarations.iter().nth(1).is_none();
        Some(ServiceView {
            namespace: self.namespaces[group.namespace].name.clone(),
            name,
            service_type: best.service_type,
            cluster_ips: best.cluster_ips,
            external_name: best.external_name,
            labels: if alone { best.labels } else { merge_service_labels(declarations) },
            ports: best.ports,
            ttl: best.ttl,
            publish_not_ready: best.publish_not_ready,
            answer_unknown: best.answer_unknown,
            all_critical: best.all_critical,
            checks: best.checks,
            sources: declarations.iter().map(|declaration| declaration.source.clone()).collect(),
            revision: latest(declarations),
        })
    }

    /// The merged namespace; none while nothing makes it exist.
    pub(super) fn merge_namespace(&self, slot: &NamespaceSlot) -> Option<NamespaceView> {
        let declarations = &slot.declarations;
        let exists = !declarations.is_empty() || slot.groups().next().is_some();
        exists.then(|| NamespaceView {
            name: slot.name.clone(),
            labels: merge_labels(declarations, |namespace: &Namespace| namespace.labels.clone()),
            sources: declarations.iter().map(|declaration| declaration.source.clone()).collect(),
            revision: latest(declarations),
        })
    }

    pub(super) fn rank_of(&self, instance: u32) -> Rank {
        self.sources.get(self.entries[instance].source).rank
    }

    /// The members of the group that hold the address, in the order of their handles.
    pub(super) fn holders_in_group(&self, address: u32, group: u32) -> SmallVec<[u32; 8]> {
        let postings = self.addresses.postings();
        let holders = self.addresses.holders(address);
        let members = &self.groups[group];
        if postings.len(holders) <= members.len() {
            postings.iter(holders).filter(|&holder| self.entries[holder].group == group).collect()
        } else {
            // An address that many services share (a node's, say): the service is the shorter list.
            let holds = |member: &u32| self.entries[*member].addresses().contains(&address);
            let mut found: SmallVec<[u32; 8]> = members.order.iter().filter(holds).collect();
            found.sort_unstable();
            found
        }
    }

    /// Which of the instance's addresses a higher rank decides about, and which labels it takes over from lower ranks
    /// at addresses where it decides; none where neither is the case.
    pub(super) fn work_out_shadow(&self, instance: u32) -> Option<Box<Shadow>> {
        let entry = &self.entries[instance];
        if !self.groups[entry.group].is_mixed() {
            return None;
        }
        let rank = self.rank_of(instance);
        let (mut addresses, mut lower) = (Addresses::new(), SmallVec::<[u32; 8]>::new());
        for &address in entry.addresses() {
            let holders = self.holders_in_group(address, entry.group);
            if holders.iter().any(|&other| self.rank_of(other) < rank) {
                addresses.push(address);
            } else {
                lower.extend(holders.into_iter().filter(|&other| self.rank_of(other) > rank));
            }
        }
        // The higher-ranked of the lower ones' values win; among equals, the key decides.
        let weight = |&other: &u32| {
            let other = &self.entries[other];
            let source = self.sources.get(other.source);
            (source.rank, &source.source, other.details.id_bytes())
        };
        lower.sort_unstable_by(|a, b| weight(a).cmp(&weight(b)));
        let mut adopted = Pairs::new();
        for other in lower {
            for &pair in self.entries[other].labels() {
                let key = self.labels.key(pair);
                if entry.labels().iter().chain(&adopted).all(|&own| self.labels.key(own) != key) {
                    adopted.push(pair);
                }
            }
        }
        (!addresses.is_empty() || !adopted.is_empty()).then(|| Box::new(Shadow { addresses, adopted }))
    }
}
