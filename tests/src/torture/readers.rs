//! Readers: lists that must never move backwards, and streams that must end where lists are.

use super::{World, count, listed};
use crate::events::Parser;
use futures_util::StreamExt;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A position, taken apart as only a test may do.
fn position(text: &str) -> Option<(String, u64)> {
    let (epoch, number) = text.rsplit_once('-')?;
    Some((epoch.to_owned(), number.parse().ok()?))
}

/// Lists one service again and again, from one replica for a while and then from another, asking that for what it has
/// seen already.
pub(super) async fn read(world: Arc<World>, service: String, mut rng: StdRng) {
    let mut seen: Option<(String, u64)> = None;
    let mut highest: BTreeMap<String, u64> = BTreeMap::new();
    while !world.stop.is_cancelled() {
        let replica = rng.random_range(0..world.urls.len());
        for _ in 0..rng.random_range(1..20) {
            let at_least = seen.as_ref().map(|(epoch, number)| format!("?minRevision={epoch}-{number}"));
            let path = format!("/v1/namespaces/torture/services/{service}/instances{}", at_least.unwrap_or_default());
            let Some(reply) = world.get(replica, &path).await else { break };
            let Some((epoch, number)) = reply.json["revision"].as_str().and_then(position) else { break };
            count(&world.counts.reads);
            if let Some((before, last)) = &seen
                && (*before != epoch || *last > number)
            {
                let what = format!("replica {replica} lists at {epoch}-{number} after {before}-{last} had been seen");
                world.violation(what).await;
            }
            seen = Some((epoch, number));
            // Sequence numbers of one instance grow with the revision of its last change.
            for item in reply.json["items"].as_array().into_iter().flatten() {
                let revision = item["revision"].as_str().and_then(position).map(|(_, number)| number);
                let id = item["id"].as_str().unwrap_or_default().to_owned();
                if let (Some(revision), Some(before)) = (revision, highest.get(&id))
                    && revision < *before
                {
                    world.violation(format!("{service}/{id} went back from {before} to {revision}")).await;
                }
                highest.insert(id, revision.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..40))).await;
        }
    }
}

/// What a stream has brought.
#[derive(Default)]
struct Model {
    items: BTreeMap<String, Value>,
    /// What has not come again since the stream began anew is gone when it is synced.
    stale: Option<Vec<String>>,
    last: Option<String>,
}

impl Model {
    fn take(&mut self, name: &str, data: &Value, id: Option<String>) {
        let object = &data["object"];
        let key = format!("{}/{}/{}", object["service"], object["source"], object["id"]);
        match name {
            "put" => {
                if let Some(stale) = &mut self.stale {
                    stale.retain(|other| *other != key);
                }
                self.items.insert(key, object["labels"].clone());
            }
            "delete" => {
                self.items.remove(&key);
            }
            "reset" => {
                self.stale = Some(self.items.keys().cloned().collect());
                self.last = None;
            }
            "synced" => {
                for gone in self.stale.take().unwrap_or_default() {
                    self.items.remove(&gone);
                }
            }
            _ => {}
        }
        if id.is_some() {
            self.last = id;
        }
    }
}

/// Follows all instances, first through one replica and then, whenever that breaks, through the next, resuming where it
/// was. When everything has come to rest, what it has must be what is listed.
pub(super) async fn follow(world: Arc<World>, first: usize) {
    let mut model = Model::default();
    let mut replica = first;
    let mut deadline: Option<Instant> = None;
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(2)).build().expect("client");
    loop {
        let mut request = client.get(format!("{}/v1/watch?kind=instance&namespace=torture", world.urls[replica]));
        match &model.last {
            Some(last) => request = request.header("last-event-id", last),
            None => model.stale = Some(model.items.keys().cloned().collect()),
        }
        if let Ok(Ok(response)) = tokio::time::timeout(Duration::from_secs(5), request.send()).await
            && response.status().is_success()
        {
            let mut body = response.bytes_stream();
            let mut parser = Parser::default();
            loop {
                // Bookmarks come more often than that; a stopped server sends none.
                let chunk =
                    tokio::time::timeout(Duration::from_secs(if deadline.is_some() { 1 } else { 20 }), body.next());
                match chunk.await {
                    Ok(Some(Ok(chunk))) => {
                        for event in parser.push(&chunk) {
                            count(&world.counts.events);
                            model.take(&event.name, &event.data, event.id);
                        }
                    }
                    Ok(_) => break,
                    Err(_) if deadline.is_none() => break,
                    Err(_) => {}
                }
                if !world.stop.is_cancelled() {
                    continue;
                }
                let until = *deadline.get_or_insert_with(|| Instant::now() + Duration::from_secs(40));
                let list = listed(&world, replica).await.unwrap_or_default();
                if model.stale.is_none() && list == model.items {
                    return;
                }
                if Instant::now() > until {
                    let missing: Vec<_> =
                        list.iter().filter(|(key, v)| model.items.get(*key) != Some(v)).take(5).collect();
                    let extra: Vec<_> = model.items.keys().filter(|key| !list.contains_key(*key)).take(5).collect();
                    let what = format!(
                        "a stream of replica {replica} ended elsewhere than its lists: {missing:?} / {extra:?}"
                    );
                    return world.violation(what).await;
                }
            }
        }
        replica = (replica + 1) % world.urls.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
