//! The search path of pods, walked here instead of there.
//!
//! With `ndots:5`, a pod that looks for `www.example.com` asks for `www.example.com.<ns>.svc.<zone>` first, and for four
//! names more, each twice. The first of these questions has all that it takes to answer the last: the namespace is in it,
//! so nobody needs to know who asks.
//!
//! An absolute name of ours looks the same. What is certainly one is not walked: names below a service, which may have no
//! instance just now, and those of ports. To ask for them elsewhere would tell others about the cluster, and have them
//! answer in its stead.

use crate::forward::Forward;
use crate::index::Index;
use crate::name::{self, MAX_NAME, Name};

/// Whether a lower-case name of ours exists, whatever it has, in whichever zone.
pub(crate) fn is_ours(index: &Index, wire: &[u8]) -> bool {
    let mut name = [0; MAX_NAME];
    let Some(place) = name.get_mut(..wire.len()) else { return false };
    place.copy_from_slice(wire);
    let length = match index.zones.find(wire) {
        Some(within) => index.zones.compiled(&mut name, wire.len(), within),
        None => Some(wire.len()),
    };
    let Some(wire) = length.and_then(|length| name.get(..length)) else { return false };
    index.table.read(wire, |_| ()).is_some() || index.pod_address(wire).is_some()
}

/// The other names on the path, in order; none where the name is not one of a search path. `zone_at` is where the zone
/// begins in it.
pub(crate) fn candidates(index: &Index, wire: &[u8], zone_at: usize, forward: &Forward) -> Option<Vec<Name>> {
    let domains = forward.config.search.as_ref()?;
    // Where each label begins.
    let mut labels = Vec::new();
    let mut rest = wire;
    while wire.len() - rest.len() < zone_at {
        labels.push(wire.len() - rest.len());
        rest = name::parent(rest)?;
    }
    // At least two labels, a namespace, and `svc`.
    let [.., last, namespace, svc] = *labels.as_slice() else { return None };
    if labels.len() < 4 || wire.get(svc..zone_at)? != b"\x03svc" {
        return None;
    }
    let label = |at: usize| wire.get(at..).map(name::first_label).unwrap_or_default();
    let exists = |at: usize| wire.get(at..).is_some_and(|wire| is_ours(index, wire));
    if !exists(namespace) || exists(last) || index.declares(label(namespace), label(last)) {
        return None;
    }
    let own = labels.split_last_chunk::<2>().map(|(own, _)| own).unwrap_or_default();
    if own.iter().any(|&at| label(at).starts_with(b"_")) {
        return None;
    }
    let outside = wire.get(..namespace)?;
    let with = |end: &[u8]| {
        let wire = [outside, end].concat();
        (wire.len() <= name::MAX_NAME).then(|| Name::from_wire(&wire))
    };
    // A service in another namespace, or a name below it: that is ours, too.
    if let [.., service, namespace] = *own
        && index.declares(label(namespace), label(service))
    {
        return Some(with(wire.get(svc..)?).into_iter().collect());
    }
    let ends = [wire.get(svc..)?, wire.get(zone_at..)?];
    let ends = ends.into_iter().chain(domains.iter().map(|zone| zone.0.wire())).chain([&[0u8][..]]);
    Some(ends.filter_map(with).collect())
}
