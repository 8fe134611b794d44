//! Writers: each owns a few instances, changes them one after another, and remembers what it was told.

use super::{Outcome, World, count};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Instances that each writer has.
const KEYS: usize = 10;

/// What a write says: a sequence number, or that the instance be gone.
type Said = Option<u64>;

/// What became of the writes of one instance.
#[derive(Default)]
struct Key {
    /// The last write that was acknowledged; at first, the instance is not there.
    acknowledged: Said,
    /// Writes of which nobody knows: since the last acknowledged one where writes are guarded (a guard that held rules out
    /// that an older one comes later), and ever where they are not.
    possible: Vec<Said>,
    /// What a guarded write demands: the ETag, `*` for an instance that is not there; none where that must be read first.
    tag: Option<String>,
}

/// What a writer knows in the end.
pub(super) struct History {
    writer: usize,
    keys: Vec<Key>,
}

fn path(writer: usize, key: usize) -> String {
    format!("/v1/namespaces/torture/services/w{writer}/instances/k{key}")
}

fn seq(instance: &Value) -> Said {
    instance["labels"]["seq"].as_str().and_then(|text| text.parse().ok())
}

pub(super) async fn write(world: Arc<World>, writer: usize, guarded: bool, mut rng: StdRng) -> History {
    let mut keys: Vec<Key> = (0..KEYS).map(|_| Key { tag: Some("*".to_owned()), ..Key::default() }).collect();
    let mut next = 0;
    while !world.stop.is_cancelled() {
        let (n, replica) = (rng.random_range(0..KEYS), rng.random_range(0..world.urls.len()));
        let key = &mut keys[n];
        let path = path(writer, n);
        let there = format!("{path}?source=api/w{writer}");
        if guarded && key.tag.is_none() {
            // What came of the last write is not known: look. A late arrival would change the tag again.
            if let Some(reply) = world.get(replica, &there).await {
                key.tag = if reply.status == 404 { Some("*".to_owned()) } else { reply.etag };
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..50))).await;
            continue;
        }
        next += 1;
        let delete = rng.random_ratio(1, 8) && key.tag.as_deref() != Some("*");
        let tag = key.tag.take().filter(|_| guarded);
        let (said, outcome) = if delete {
            (None, world.call(replica, Method::DELETE, &there, tag.as_deref(), None).await)
        } else {
            let body = json!({
                "addresses": [format!("10.{writer}.0.{n}")],
                "labels": {"seq": next.to_string()},
            });
            (Some(next), world.call(replica, Method::PUT, &there, tag.as_deref(), Some(body)).await)
        };
        match outcome {
            Outcome::Done(reply) => {
                count(&world.counts.acknowledged);
                key.acknowledged = said;
                if guarded {
                    key.possible.clear();
                }
                key.tag = if delete { Some("*".to_owned()) } else { reply.etag };
                // Nobody else writes it, and nothing unknown is under way: the same replica shows it at once.
                if guarded && let Some(shown) = world.get(replica, &there).await {
                    count(&world.counts.reads);
                    let seen = if shown.status == 404 { None } else { seq(&shown.json) };
                    if seen != said {
                        let what = format!("replica {replica} acknowledged {said:?} of {path} and shows {seen:?} then");
                        world.violation(what).await;
                    }
                }
            }
            Outcome::Refused(status) => {
                count(&world.counts.refused);
                // A guard that failed is out of date; anything else left the tag as it was.
                key.tag = if status == 412 || status == 404 { None } else { tag };
                if !guarded {
                    key.tag = Some(String::new());
                }
            }
            Outcome::Unknown => {
                count(&world.counts.unknown);
                key.possible.push(said);
                if !guarded {
                    key.tag = Some(String::new());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..10))).await;
    }
    History { writer, keys }
}

/// What etcd holds in the end must be the last acknowledged write of each instance, or one of which nobody knows.
pub(super) async fn judge(world: &World, history: &History, truth: &BTreeMap<String, Value>) {
    let writer = history.writer;
    for (n, key) in history.keys.iter().enumerate() {
        let held = truth.get(&format!("instances/torture/w{writer}/api:w{writer}/k{n}"));
        let found = held.and_then(seq);
        if held.is_some() && found.is_none() {
            world.violation(format!("instance k{n} of w{writer} has no sequence number")).await;
        } else if found != key.acknowledged && !key.possible.contains(&found) {
            world
                .violation(format!(
                    "instance k{n} of w{writer} is at {found:?} in the end; acknowledged was {:?}, possible {:?}",
                    key.acknowledged, key.possible
                ))
                .await;
        }
    }
}
