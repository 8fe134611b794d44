//! Sessions: most are renewed all the time, through whichever replica, and must never end; some are left to die, and must.

use super::{Outcome, World, count};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than an election and a fail-over of clients, shorter than the longest of the faults.
const TTL: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(3);

/// A session that was left to die, and its instance.
pub(super) struct Ended {
    id: String,
    instance: String,
    at: Instant,
}

async fn create(world: &World, n: usize, rng: &mut StdRng) -> Option<String> {
    while !world.rest.is_cancelled() {
        let replica = rng.random_range(0..world.urls.len());
        let body = json!({"name": format!("keeper-{n}"), "ttlSeconds": TTL.as_secs(), "graceSeconds": GRACE.as_secs()});
        let path = format!("/v1/sessions?source=api/s{n}");
        if let Outcome::Done(reply) = world.call(replica, Method::POST, &path, None, Some(body)).await {
            return reply.json["id"].as_str().map(str::to_owned);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// Keeps a session for a while, lets it die, begins another.
pub(super) async fn keep(world: Arc<World>, n: usize, mut rng: StdRng) {
    let mut life = 0;
    while let Some(id) = create(&world, n, &mut rng).await {
        life += 1;
        // Most live on to the end, so that those that die are not so many that they are held.
        let dies = n.is_multiple_of(8).then(|| Instant::now() + Duration::from_secs(rng.random_range(5..40)));
        let instance = format!("/v1/namespaces/sessions/services/s{n}/instances/life-{life}");
        let mut registered = false;
        // The time at which the last renewal that was acknowledged had been sent: from then on, a whole TTL is granted.
        let mut granted = Instant::now();
        // When everything is to come to rest, who lives goes on living.
        while !world.rest.is_cancelled() && (world.stop.is_cancelled() || dies.is_none_or(|at| Instant::now() < at)) {
            if !registered {
                let replica = rng.random_range(0..world.urls.len());
                let body = json!({"addresses": [format!("10.200.{n}.{}", life % 250)], "session": id});
                let path = format!("{instance}?source=api/s{n}");
                // The replica may not know of the session yet, which it says.
                registered =
                    matches!(world.call(replica, Method::PUT, &path, None, Some(body)).await, Outcome::Done(_));
            }
            let replica = rng.random_range(0..world.urls.len());
            let sent = Instant::now();
            let renewal = json!({"ids": [id]});
            let reply = tokio::time::timeout(
                Duration::from_millis(1500),
                world.call(replica, Method::POST, "/v1/sessions/renew", None, Some(renewal)),
            );
            match reply.await {
                Ok(Outcome::Done(reply)) => {
                    let state = reply.json["items"][0]["state"].as_str().unwrap_or_default().to_owned();
                    let within = granted.elapsed() < TTL;
                    match state.as_str() {
                        "alive" | "suspect" => {}
                        "restored" | "unknown" if within => {
                            let what = format!(
                                "session {id} of keeper {n} was found {state} by replica {replica}, {:?} after a renewal \
                                 that was acknowledged",
                                granted.elapsed()
                            );
                            world.violation(what).await;
                        }
                        "restored" => {}
                        // It had no renewal for a TTL and a grace: nobody can blame the registry.
                        "unknown" => break,
                        other => world.violation(format!("a renewal says `{other}`")).await,
                    }
                    if state == "unknown" {
                        break;
                    }
                    count(&world.counts.renewals);
                    granted = sent;
                    tokio::time::sleep(TTL / 5).await;
                }
                // Another replica, soon.
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        if world.rest.is_cancelled() {
            break;
        }
        if dies.is_some() && registered {
            world.ended.lock().await.push(Ended { id, instance, at: Instant::now() });
        }
    }
}

/// What was left to die must be gone, with its instance; those that died last get their time.
pub(super) async fn judge(world: &World) {
    let ended = std::mem::take(&mut *world.ended.lock().await);
    for one in ended {
        // Sessions may be held for as long as many looked dead; a home that changed grants everybody another TTL.
        let deadline = (one.at + Duration::from_secs(60)).max(Instant::now() + Duration::from_secs(30));
        loop {
            let session = world.get(0, &format!("/v1/sessions/{}", one.id)).await;
            let instance = world.get(0, &one.instance).await;
            if session.is_some_and(|reply| reply.status == 404) && instance.is_some_and(|reply| reply.status == 404) {
                count(&world.counts.deaths);
                break;
            }
            if Instant::now() > deadline {
                world.violation(format!("session {} died, and its instance is still there", one.id)).await;
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
