//! This replica's place among the others: a key under a lease, kept for as long as the process lives.
//!
//! Whoever takes a place also writes the key of the joins, in the same transaction. A commit that is for a home alone
//! to make compares both (see [`Fence`](crate::members::Fence)).
//!
//! Only replicas hold leases. One that can't renew its lease for two thirds of its time says so itself, before the others
//! take over what it was at home for.

use super::Core;
use super::decode;
use super::endpoints::{Pause, REQUEST, Way};
use super::failure::Failure;
use super::meta;
use crate::members::Member;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The lease and when it was last known to be kept.
#[derive(Clone, Copy)]
struct Place {
    lease: i64,
    renewed: Instant,
    /// The revision at which it was taken.
    since: u64,
}

/// How often it is judged whether the others still hold this replica for alive.
const JUDGED: Duration = Duration::from_millis(250);

/// Keeps the word on whether this replica is in touch true while time passes. Nothing else is waited for here: whoever
/// is not in touch must know it in time.
pub(super) async fn judge(core: Arc<Core>) {
    let stop = core.stop.clone();
    let judging = async {
        loop {
            tokio::time::sleep(JUDGED).await;
            core.mirror.set_in_touch(core.keeps_its_place());
        }
    };
    tokio::select! {
        () = judging => {}
        () = stop.cancelled() => {}
    }
}

/// Takes a place and keeps it until the store is closed; gives it back at the end.
pub(super) async fn run(core: Arc<Core>) {
    let mut place: Option<Place> = None;
    let mut pause = Pause::new();
    let third = core.lease / 3;
    let stop = core.stop.clone();
    let keeping = async {
        loop {
            let kept = match place {
                None => match register(&core).await {
                    Ok(Registered::Place(taken)) => Ok(Some(taken)),
                    Ok(Registered::TooNew(found)) => {
                        core.schema_is_too_new(found);
                        return;
                    }
                    Err(failure) => Err(failure),
                },
                Some(held) => renew(&core, held).await,
            };
            match kept {
                Ok(Some(kept)) => {
                    pause = Pause::new();
                    core.set_kept(Some(kept.renewed));
                    place = Some(kept);
                    let gone = evicted(&core, kept.since);
                    if tokio::time::timeout_at(kept.renewed + third, gone).await.is_ok() {
                        tracing::warn!("somebody has removed this replica's key; it takes another place");
                        core.set_kept(None);
                        place = None;
                        give_back(&core, kept.lease).await;
                    }
                }
                Ok(None) => {
                    tracing::warn!("this replica has lost its place in the store and takes another");
                    core.set_kept(None);
                    place = None;
                }
                Err(failure) => {
                    tracing::debug!(%failure, "the replica's lease can't be kept now");
                    pause.wait().await;
                }
            }
        }
    };
    tokio::select! {
        () = keeping => {}
        () = stop.cancelled() => {}
    }
    if let Some(place) = place {
        // Who is left need not wait for the lease to end.
        give_back(&core, place.lease).await;
    }
}

async fn give_back(core: &Core, lease: i64) {
    let given_back = core.endpoints.once(REQUEST, |mut client| async move { client.lease_revoke(lease).await });
    if let Err(failure) = given_back.await {
        tracing::debug!(%failure, "the replica's lease ends by itself");
    }
}

/// Waits until the key is gone that was written at a revision, though its lease is kept.
async fn evicted(core: &Core, since: u64) {
    let mut members = core.mirror.members();
    // The sender lives in the core.
    let _ = members.wait_for(|members| members.fence.place == 0 && core.mirror.applied() >= since).await;
}

/// What came of taking a place.
enum Registered {
    Place(Place),
    /// The schema is one that this version can't read.
    TooNew(u32),
}

async fn register(core: &Core) -> Result<Registered, Failure> {
    let member = Member {
        id: core.id.clone(),
        url: core.url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: core.schema,
    };
    // Strings and a number always serialize.
    let value = serde_json::to_vec(&member).unwrap_or_default();
    let key = core.mirror.keys.replica(&core.id);
    let seconds = i64::try_from(core.lease.as_secs().max(1)).unwrap_or(i64::MAX);
    let begun = Instant::now();
    let grant =
        core.endpoints.once(REQUEST, |mut client| async move { client.lease_grant(seconds, None).await }).await?;
    let lease = grant.id();
    let options = PutOptions::new().with_lease(lease);
    // Who raises the schema makes sure that nobody has joined meanwhile, and who joins that it has not been raised.
    let keys = &core.mirror.keys;
    let txn = Txn::new()
        .when([Compare::value(keys.schema(), CompareOp::Equal, core.mirror.schema().to_string())])
        .and_then([TxnOp::put(key, value, Some(options)), TxnOp::put(core.mirror.keys.joins(), &*core.id, None)]);
    let taken = core.endpoints.once(REQUEST, |mut client| async move { client.txn(txn).await }).await?;
    if taken.succeeded() {
        return Ok(Registered::Place(Place { lease, renewed: begun, since: decode::revision(taken.header()) }));
    }
    give_back(core, lease).await;
    let found = meta::read(&core.endpoints, keys, Instant::now() + REQUEST).await?.schema;
    let too_new = found.filter(|found| *found > core.schema).map(Registered::TooNew);
    too_new.ok_or_else(|| Failure::other("the schema of the store was changed just now"))
}

/// None where the lease is gone.
async fn renew(core: &Core, place: Place) -> Result<Option<Place>, Failure> {
    let asked = Instant::now();
    let Way { client, endpoint } = core.endpoints.way().await?;
    let ttl = match tokio::time::timeout(core.lease / 4, keep_alive(client, place.lease)).await {
        Ok(Ok(ttl)) => ttl,
        Ok(Err(failure)) => {
            if failure.text.contains("lease not found") {
                return Ok(None);
            }
            core.endpoints.failed(endpoint);
            return Err(failure);
        }
        Err(_) => {
            core.endpoints.failed(endpoint);
            return Err(Failure::timeout(core.lease / 4));
        }
    };
    Ok((ttl > 0).then_some(Place { renewed: asked, ..place }))
}

async fn keep_alive(mut client: Client, lease: i64) -> Result<i64, Failure> {
    // A stream each time: at one in some seconds it costs nothing, and there is none that could have died meanwhile.
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    keeper.keep_alive().await?;
    let answer = answers.message().await?.ok_or_else(|| Failure::other("the lease's stream ended"))?;
    Ok(answer.ttl())
}

/// After so much of the lease's time without a renewal, others may soon hold this replica for dead.
pub(super) fn patience(lease: Duration) -> Duration {
    lease * 2 / 3
}
