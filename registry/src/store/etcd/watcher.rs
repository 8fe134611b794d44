//! The one watch that brings everything, and what is done when it breaks, falls silent or was compacted.

use super::Core;
use super::endpoints::{MAX_MESSAGE, Pause, Way};
use super::failure::Failure;
use super::load;
use super::meta::{self, Meta};
use super::mirror::{Broken, Event};
use etcd_client::{WatchOptions, WatchResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A watch must be confirmed, and a question about its progress answered, within this time.
const ANSWER: Duration = Duration::from_secs(3);
/// How often it may be asked for progress because somebody waits.
const HURRY: Duration = Duration::from_millis(20);
/// A watch that ended after so long is taken up again at once.
const STEADY: Duration = Duration::from_secs(10);
/// How long one attempt to look at the store or to load it again may take.
const LOOK: Duration = Duration::from_secs(5);
const LOAD: Duration = Duration::from_secs(120);

/// Why a watch ended.
enum End {
    Failed(Failure),
    /// The store is not what it was; everything is read again.
    Reload(&'static str),
    /// Its records are of a schema that this version can't read.
    TooNew(u32),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        if failure.is_too_large() {
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
        // Since when the store has been followed.
        let mut begun = Instant::now();
        let mut reload = false;
        loop {
            let end = if reload {
                match again(&core).await {
                    Ok(()) => {
                        reload = false;
                        continue;
                    }
                    Err(failure) => End::Failed(failure),
                }
            } else {
                begun = Instant::now();
                session(&core).await
            };
            // What reading again does not mend is not tried in a loop.
            let steady = !reload && begun.elapsed() > STEADY;
            if steady {
                pause = Pause::new();
            }
            match end {
                End::Failed(failure) => core.lost_touch(&failure.text),
                End::Reload(why) => {
                    core.lost_touch(why);
                    tracing::warn!(why, "the store in etcd is to be read again");
                    reload = true;
                    if steady {
                        continue;
                    }
                }
                End::TooNew(found) => return core.schema_is_too_new(found),
            }
            pause.wait().await;
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

/// Reads everything again. Followers that are behind are told to do the same.
async fn again(core: &Core) -> Result<(), Failure> {
    let (endpoints, mirror) = (&core.endpoints, &core.mirror);
    let mut meta = meta::complete(endpoints, &mirror.keys, core.schema, Instant::now() + LOOK).await?;
    if let Some(why) = broken_history(core, &meta) {
        begin_anew(core, &meta, why).await?;
        meta = meta::complete(endpoints, &mirror.keys, core.schema, Instant::now() + LOOK).await?;
    }
    if meta.schema.is_none() {
        let key = mirror.keys.schema();
        return Err(Failure::other(format!("`{key}` in etcd is no number; it was {} before", mirror.schema())));
    }
    let until = Instant::now() + LOAD;
    let loaded = load::everything(endpoints, &mirror.keys, &mirror.hasher, meta.revision, until, |_| ()).await?;
    mirror.reload(loaded, &meta);
    Ok(())
}

/// Makes sure that this is the store that was followed so far, not less and no other. How far it is.
async fn check(core: &Core) -> Result<u64, End> {
    let meta = meta::read(&core.endpoints, &core.mirror.keys, Instant::now() + LOOK).await?;
    if let Some(found) = meta.schema.filter(|schema| *schema > core.schema) {
        return Err(End::TooNew(found));
    }
    let Some((epoch, _)) = meta.epoch else { return Err(End::Reload("its epoch is gone")) };
    if meta.schema.is_none() || meta.secret.is_none() {
        return Err(End::Reload("what it says of itself is gone"));
    }
    if let Some(why) = broken_history(core, &meta) {
        begin_anew(core, &meta, why).await?;
        return Err(End::Reload(why));
    }
    let mirror = &core.mirror;
    let less = meta.revision < mirror.applied();
    // Somebody else has noticed the same. The numbers went backwards in between, and may be beyond ours again by now.
    if less || meta.cluster != mirror.cluster() || epoch != mirror.epoch() {
        return Err(End::Reload("another history of it has begun"));
    }
    mirror.history.know(meta.revision);
    Ok(meta.revision)
}

/// Why the store's positions are not what they were, though its epoch is, if so.
fn broken_history(core: &Core, meta: &Meta) -> Option<&'static str> {
    let (epoch, cluster) = meta.epoch?;
    if epoch == core.mirror.epoch() && meta.revision < core.mirror.applied() {
        return Some("it has less than it had");
    }
    (cluster != meta.cluster).then_some("it is in another etcd cluster")
}

async fn begin_anew(core: &Core, meta: &Meta, why: &str) -> Result<(), Failure> {
    tracing::warn!(why, revision = meta.revision, seen = core.mirror.applied(), "a new history of the store begins");
    meta::renew(&core.endpoints, &core.mirror.keys, meta, Instant::now() + LOOK).await
}

async fn session(core: &Core) -> End {
    match follow(core).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn follow(core: &Core) -> Result<std::convert::Infallible, End> {
    let goal = check(core).await?;
    let way = core.endpoints.own_way().await?;
    let result = listen(core, &way, goal).await;
    if let Err(End::Failed(_)) = &result {
        core.endpoints.failed(way.endpoint);
    }
    result
}

/// Listens to a watch; this replica is in touch once it has come as far as the store was when it was looked at.
async fn listen(core: &Core, way: &Way, goal: u64) -> Result<std::convert::Infallible, End> {
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
    // When to ask for progress, and by when the answer must be here.
    let mut asked: Option<Instant> = None;
    if mirror.applied() >= goal {
        core.in_touch();
    } else {
        request(&mut stream).await?;
        asked = Some(Instant::now());
    }
    let mut next = Instant::now() + core.progress;
    let mut hurried = Instant::now();
    // When to ask because somebody waits.
    let mut hurry: Option<Instant> = None;
    loop {
        let timer = asked.map_or(next, |asked| asked + ANSWER);
        tokio::select! {
            message = stream.message() => {
                let message = message.map_err(Failure::from)?;
                let message = message.ok_or_else(|| Failure::other("the watch ended"))?;
                refused(&message)?;
                heard(core, &message)?;
                if mirror.applied() >= goal {
                    core.in_touch();
                }
                if mirror.schema() > core.schema {
                    return Err(End::TooNew(mirror.schema()));
                }
                asked = None;
                next = Instant::now() + core.progress;
            }
            () = mirror.doubt.notified() => return Err(Failure::other("etcd is not what it was").into()),
            () = mirror.hurry.notified(), if hurry.is_none() => hurry = Some(hurried + HURRY),
            () = tokio::time::sleep_until(hurry.unwrap_or(timer)), if hurry.is_some() => {
                hurry = None;
                hurried = Instant::now();
                request(&mut stream).await?;
                asked = asked.or(Some(hurried));
            }
            () = tokio::time::sleep_until(timer) => {
                if asked.is_some() {
                    return Err(Failure::other("the watch has fallen silent").into());
                }
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
    let mirror = &core.mirror;
    let events = message.events();
    let Some(last) = events.last().and_then(Event::of) else {
        // A note of progress: everything up to there has come.
        if let Some(header) = message.header()
            && !message.created()
        {
            mirror.reached(header.revision().unsigned_abs());
            // It was asked for because nothing has come for a while, or because somebody waits.
            mirror.publish_progress();
        }
        return Ok(());
    };
    Ok(mirror.apply(events.iter().filter_map(Event::of), last.revision)?)
}
