//! The one watch that brings everything, and what is done when it breaks, falls silent or was compacted.

use super::Core;
use super::endpoints::{MAX_MESSAGE, Pause, Way};
use super::failure::Failure;
use super::mirror::{Broken, Event};
use super::{load, meta};
use etcd_client::{EventType, WatchOptions, WatchResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A watch must be confirmed, and a question about its progress answered, within this time.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it may be asked for progress because somebody waits.
const HURRY: Duration = Duration::from_millis(20);
/// How long one attempt to look at the store or to load it again may take.
const LOOK: Duration = Duration::from_secs(5);
const LOAD: Duration = Duration::from_secs(120);

/// Why a watch ended.
enum End {
    Failed(Failure),
    /// The store is not what it was; everything is read again.
    Reload(&'static str),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        // It would be as much each time.
        if failure.text.contains("message length too large") {
            return End::Reload("more has changed than etcd can tell at once");
        }
        End::Failed(failure)
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        End::Reload(broken.0)
    }
}

/// Follows etcd until the store is closed.
pub(super) async fn run(core: Arc<Core>) {
    let stop = core.stop.clone();
    let following = async {
        let mut pause = Pause::new();
        let mut reload = None;
        loop {
            let begun = Instant::now();
            let end = match reload.take() {
                Some(why) => match again(&core, why).await {
                    Ok(()) => continue,
                    Err(failure) => {
                        reload = Some(why);
                        End::Failed(failure)
                    }
                },
                None => session(&core).await,
            };
            match end {
                End::Failed(failure) => {
                    core.lost_touch(&failure.text);
                    if begun.elapsed() > Duration::from_secs(10) {
                        pause = Pause::new();
                    }
                    pause.wait().await;
                }
                End::Reload(why) => reload = Some(why),
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

/// Reads everything again. Followers that are behind are told to do the same.
async fn again(core: &Core, why: &str) -> Result<(), Failure> {
    tracing::warn!(why, "the store in etcd is read again");
    let (endpoints, mirror) = (&core.endpoints, &core.mirror);
    let meta = meta::complete(endpoints, &mirror.keys, core.schema, Instant::now() + LOOK).await?;
    let until = Instant::now() + LOAD;
    let loaded = load::everything(endpoints, &mirror.keys, &mirror.hasher, meta.revision, until, |_| ()).await?;
    mirror.reload(loaded, &meta);
    Ok(())
}

/// Makes sure that this is the store that was followed so far, not less and no other.
async fn check(core: &Core) -> Result<(), End> {
    let meta = meta::read(&core.endpoints, &core.mirror.keys, Instant::now() + LOOK).await?;
    let Some((epoch, cluster)) = meta.epoch else { return Err(End::Reload("its epoch is gone")) };
    if meta.schema.is_none() || meta.secret.is_none() {
        return Err(End::Reload("what it says of itself is gone"));
    }
    let mirror = &core.mirror;
    let less = meta.revision < mirror.applied();
    if cluster != meta.cluster || (less && epoch == mirror.epoch()) {
        let why = if less { "it has less than it had" } else { "it is in another etcd cluster" };
        tracing::warn!(why, revision = meta.revision, seen = mirror.applied(), "a new history of the store begins");
        meta::renew(&core.endpoints, &mirror.keys, &meta, Instant::now() + LOOK).await?;
        return Err(End::Reload(why));
    }
    // Somebody else has noticed the same. The numbers went backwards in between, and may be beyond ours again by now.
    if less || meta.cluster != mirror.cluster() || epoch != mirror.epoch() {
        return Err(End::Reload("another history of it has begun"));
    }
    mirror.history.know(meta.revision);
    Ok(())
}

async fn session(core: &Core) -> End {
    match follow(core).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn follow(core: &Core) -> Result<std::convert::Infallible, End> {
    check(core).await?;
    let way = core.endpoints.own_way().await?;
    let result = listen(core, &way).await;
    if let Err(End::Failed(_)) = &result {
        core.endpoints.failed(way.endpoint);
    }
    result
}

async fn listen(core: &Core, way: &Way) -> Result<std::convert::Infallible, End> {
    let mirror = &core.mirror;
    let start = i64::try_from(mirror.applied() + 1).unwrap_or(i64::MAX);
    let options = WatchOptions::new().with_prefix().with_start_revision(start).with_progress_notify();
    let mut client = way.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let opening = async {
        let mut stream = client.watch(mirror.keys.watched(), Some(options)).await?;
        let first = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, first))
    };
    let opened = tokio::time::timeout(ANSWER, opening).await.map_err(|_| Failure::timeout(ANSWER))?;
    let (mut stream, first) = opened.map_err(Failure::from)?;
    let first = first.ok_or_else(|| Failure::other("the watch ended at once"))?;
    refused(&first)?;
    if !first.created() {
        return Err(Failure::other("the watch was not confirmed").into());
    }
    core.in_touch();
    // When to ask for progress, and by when the answer must be here.
    let mut asked: Option<Instant> = None;
    let mut next = Instant::now() + core.progress;
    let mut hurried = Instant::now();
    loop {
        let timer = asked.map_or(next, |asked| asked + ANSWER);
        tokio::select! {
            message = stream.message() => {
                let message = message.map_err(Failure::from)?;
                let message = message.ok_or_else(|| Failure::other("the watch ended"))?;
                refused(&message)?;
                heard(core, &message)?;
                asked = None;
                next = Instant::now() + core.progress;
            }
            () = mirror.hurry.notified() => {
                if hurried.elapsed() >= HURRY {
                    hurried = Instant::now();
                    request(&mut stream).await?;
                    asked = asked.or(Some(hurried));
                }
            }
            () = tokio::time::sleep_until(timer) => {
                if asked.is_some() {
                    return Err(Failure::other("the watch has fallen silent").into());
                }
                // Nothing has come for a while: where readers are told of progress, they are told now.
                mirror.publish_progress();
                request(&mut stream).await?;
                asked = Some(Instant::now());
            }
        }
    }
}

async fn request(stream: &mut etcd_client::WatchStream) -> Result<(), Failure> {
    match tokio::time::timeout(ANSWER, stream.request_progress()).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(Failure::timeout(ANSWER)),
    }
}

/// A watch that was taken back tells so in a message, and then says nothing for ever.
fn refused(message: &WatchResponse) -> Result<(), End> {
    if message.compact_revision() > 0 {
        return Err(End::Reload("etcd compacted what was to be followed"));
    }
    if message.canceled() {
        return Err(Failure::other(format!("etcd took the watch back: {}", message.cancel_reason())).into());
    }
    Ok(())
}

fn heard(core: &Core, message: &WatchResponse) -> Result<(), End> {
    core.in_touch();
    let mirror = &core.mirror;
    let events = message.events();
    let Some(last) = events.last().and_then(|event| event.kv()) else {
        // A note of progress: everything up to there has come.
        if let Some(header) = message.header()
            && !message.created()
        {
            mirror.reached(header.revision().unsigned_abs());
        }
        return Ok(());
    };
    let revision = last.mod_revision().unsigned_abs();
    let events = events.iter().filter_map(|event| {
        let kv = event.kv()?;
        let value = (event.event_type() == EventType::Put).then(|| kv.value());
        let (revision, created) = (kv.mod_revision().unsigned_abs(), kv.create_revision().unsigned_abs());
        Some(Event { key: kv.key(), value, revision, created })
    });
    Ok(mirror.apply(events, revision)?)
}
