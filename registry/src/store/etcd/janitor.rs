//! What is done from time to time: noting how far this replica has seen, finding out whether etcd takes writes again, and
//! sweeping away what dead replicas left.

use super::Core;
use super::endpoints::REQUEST;
use super::keys::end_of;
use super::seen::Seen;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often what is seen is noted, and a store that refused writes is tried again.
const NOTE: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(60);
/// Slots of a replica that is gone are left alone for so long after they were last seen to change: it may still want to know
/// what came of its last writes.
const REST: Duration = Duration::from_secs(300);

pub(super) async fn run(core: Arc<Core>, seen: Option<Seen>) {
    let stop = core.stop.clone();
    let mut noted = None;
    let mut swept = Instant::now();
    let mut left = HashMap::new();
    let working = async {
        loop {
            tokio::time::sleep(NOTE).await;
            note(seen.as_ref(), &core, &mut noted).await;
            if core.trouble().is_some() {
                probe(&core).await;
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                sweep(&core, &mut left).await;
            }
        }
    };
    tokio::select! {
        () = working => {}
        () = stop.cancelled() => {}
    }
    note(seen.as_ref(), &core, &mut noted).await;
}

async fn note(seen: Option<&Seen>, core: &Core, before: &mut Option<(fingerpost_catalog::Epoch, u64)>) {
    let Some(seen) = seen else { return };
    let now = (core.mirror.epoch(), core.mirror.applied());
    if *before == Some(now) {
        return;
    }
    let writing = seen.clone();
    let written = tokio::task::spawn_blocking(move || writing.write(now.0, now.1)).await;
    match written {
        Ok(Ok(())) => *before = Some(now),
        Ok(Err(error)) => {
            tracing::warn!(path = %seen.path().display(), %error, "can't note how far the store was seen")
        }
        Err(error) => tracing::error!(%error, "noting how far the store was seen"),
    }
}

/// Whether writes are taken again.
async fn probe(core: &Core) {
    let key = format!("{}probe", core.mirror.keys.slots(&core.id));
    let put = core.endpoints.once(REQUEST, |mut client| async move { client.put(key, "", None).await });
    if put.await.is_ok() {
        core.works();
    }
}

/// Removes the write slots of replicas that are long gone.
async fn sweep(core: &Core, left: &mut HashMap<Vec<u8>, (i64, Instant)>) {
    let keys = &core.mirror.keys;
    let members = Arc::clone(&core.mirror.members().borrow());
    if !members.is_home("write slots") {
        left.clear();
        return;
    }
    let range = GetOptions::new().with_range(end_of(&keys.writes())).with_keys_only().with_limit(1000);
    let from = keys.writes();
    let found = core.endpoints.once(REQUEST, |mut client| async move { client.get(from, Some(range)).await });
    let Ok(found) = found.await else { return };
    let now = Instant::now();
    let mut seen = HashMap::new();
    for kv in found.kvs() {
        let Some(owner) = keys.slot_owner(kv.key()) else { continue };
        if members.live.iter().any(|member| &*member.id == owner) {
            continue;
        }
        let (at, since) = match left.get(kv.key()) {
            Some(&(at, since)) if at == kv.mod_revision() => (at, since),
            _ => (kv.mod_revision(), now),
        };
        if now - since >= REST {
            let txn = Txn::new()
                .when([
                    Compare::mod_revision(kv.key(), CompareOp::Equal, at),
                    Compare::version(keys.replica(owner), CompareOp::Equal, 0),
                ])
                .and_then([TxnOp::delete(kv.key(), None::<DeleteOptions>)]);
            let deleted = core.endpoints.once(REQUEST, |mut client| async move { client.txn(txn).await });
            if deleted.await.is_err() {
                return;
            }
        } else {
            seen.insert(kv.key().to_vec(), (at, since));
        }
    }
    *left = seen;
}

/// Removes this replica's own slots.
pub(super) async fn clear(core: &Core) {
    let from = core.mirror.keys.slots(&core.id);
    let range = DeleteOptions::new().with_range(end_of(&from));
    let deleted = core.endpoints.once(REQUEST, |mut client| async move { client.delete(from, Some(range)).await });
    if let Err(failure) = deleted.await {
        tracing::debug!(%failure, "the write slots are left for others to remove");
    }
}
