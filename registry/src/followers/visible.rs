//! Waiting until everybody shows a position: this replica, the others, and the followers of all of them.
//!
//! The others are asked each for itself, again and again while they are behind: a question stands open there for a moment,
//! so that the answer comes when there is something to say. What they know of followers comes along.
//!
//! **What a follower must have seen.** A position at which nothing changed for readers is told to nobody; a follower hears
//! of it with the next bookmark. So of a position all that is asked for is the last one, up to it, of which a stream tells
//! ([`Hub::told_by`]).

use super::{Followers, PeerHeard};
use crate::live::LiveReplica;
use crate::members::{Member, Members};
use crate::peers::visible::AskVisible;
use crate::watch::Hub;
use fingerpost_catalog::Position;
use fingerpost_catalog::document::{FollowerDocument, VisibilityDocument};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For how long a question may stand open at another replica; well within the time that calls between replicas have.
const OPEN: Duration = Duration::from_millis(500);
/// Where less time than this is left, nothing is asked any more: the answer would come too late.
const LEAST: Duration = Duration::from_millis(20);
/// The least time between two questions to one replica: an answer that settles nothing may come at once.
const SPACE: Duration = Duration::from_millis(20);
/// The pause after a question that was not answered.
const PAUSE: Duration = Duration::from_millis(200);
/// How often replicas tell each other of their followers, also while nobody waits: so that those of a replica that dies are
/// missed.
const SHARE_EVERY: Duration = Duration::from_secs(2);
/// Most questions to other replicas under way. Who comes later waits for its turn.
const MAX_QUESTIONS: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    visible: &'static str,
}

/// What a replica answers to the question whether it shows a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerVisible {
    /// Whether it does.
    pub(crate) reached: bool,
    /// The position that it shows.
    pub(crate) position: Position,
    /// What it hears of followers.
    #[serde(flatten)]
    pub(crate) heard: PeerHeard,
}

/// What became of a question to a replica.
enum Asked {
    /// It shows the position.
    Reached,
    /// It is no replica of this registry any more.
    Gone,
    /// It never can be asked.
    Never(&'static str),
}

/// Who waits for followers and replicas.
pub struct Visibility {
    followers: Arc<Followers>,
    live: Arc<LiveReplica>,
    hub: Arc<Hub>,
    members: watch::Receiver<Arc<Members>>,
    peers: Arc<dyn AskVisible>,
    questions: Semaphore,
    /// This replica is about to end: who waits is told how far it is.
    ending: CancellationToken,
    pub(super) waits: Family<Outcome, Counter>,
}

/// A replica that is waited for, and what it said last.
#[derive(Default)]
struct Behind {
    position: Option<Position>,
    detail: String,
}

impl Visibility {
    /// Waits for what `live` and the streams of `hub` show to be shown by the other `members`, too, and all their followers.
    /// With `ending`, nobody waits any more: those who do would hold up the end of the HTTP server.
    pub fn new(
        live: Arc<LiveReplica>,
        hub: Arc<Hub>,
        members: watch::Receiver<Arc<Members>>,
        peers: Arc<dyn AskVisible>,
        ending: CancellationToken,
    ) -> Arc<Self> {
        let questions = Semaphore::new(MAX_QUESTIONS);
        let (followers, waits) = (Arc::default(), Family::default());
        Arc::new(Self { followers, live, hub, members, peers, questions, ending, waits })
    }

    /// Those that report.
    pub fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    /// All followers, as they stand now.
    pub fn states(&self) -> Vec<FollowerDocument> {
        let shown = self.live.position();
        self.followers.all(self.needed(shown))
    }

    /// The last position, up to one, that a follower is told of.
    fn needed(&self, position: Position) -> Position {
        self.hub.told_by(position).unwrap_or(position)
    }

    /// Waits until a position is visible everywhere, for so long at most.
    pub async fn wait(&self, position: Position, within: Duration) -> VisibilityDocument {
        let outcome = self.wait_until(position, Instant::now() + within).await;
        self.waits.get_or_create(&Outcome { visible: if outcome.visible { "yes" } else { "no" } }).inc();
        outcome
    }

    async fn wait_until(&self, position: Position, deadline: Instant) -> VisibilityDocument {
        let within = deadline.saturating_duration_since(Instant::now());
        let shown = self.live.wait_for(position, within).await;
        // Looked at afterwards: whoever joined before the write is known by then, and who joins after it begins with it.
        let members = Arc::clone(&self.members.borrow());
        if let Err(error) = shown {
            let lagging = vec![self.own(&members, error.to_string())];
            return VisibilityDocument {
                visible: false,
                lagging,
                departed: self.followers.look(position, false).departed,
            };
        }
        let needed = self.needed(position);
        let behind = parking_lot::Mutex::new(BTreeMap::<Arc<str>, Behind>::new());
        let mut questions: FuturesUnordered<_> = members
            .live
            .iter()
            .filter(|member| member.id != members.own)
            .map(|member| {
                behind.lock().insert(Arc::clone(&member.id), Behind::default());
                self.ask(member, (position, needed), deadline, &behind)
            })
            .collect();
        let mut unreachable = Vec::new();
        // Whoever is not in touch with the store may not know of all replicas.
        if !members.in_touch {
            unreachable.push(self.own(&members, "it is out of touch with the store".to_owned()));
        }
        let mut news = self.followers.news.subscribe();
        loop {
            news.borrow_and_update();
            let look = self.followers.look(needed, false);
            let ending = self.ending.is_cancelled();
            let done = questions.is_empty() && look.lagging.is_empty();
            if done || ending || Instant::now() >= deadline {
                if ending && !done {
                    unreachable.push(self.own(&members, "it shuts down, and waits no longer".to_owned()));
                }
                let behind = std::mem::take(&mut *behind.lock());
                let replicas =
                    behind.into_iter().map(|(id, behind)| replica(&id, behind.position, behind.detail, position));
                let lagging: Vec<_> = unreachable.into_iter().chain(replicas).chain(look.lagging).collect();
                return VisibilityDocument { visible: lagging.is_empty(), lagging, departed: look.departed };
            }
            let wake = look.next.map_or(deadline, |next| next.min(deadline));
            tokio::select! {
                Some((id, asked)) = questions.next() => {
                    let known = behind.lock().remove(&id).unwrap_or_default();
                    if let Asked::Never(detail) = asked {
                        unreachable.push(replica(&id, known.position, detail.to_owned(), position));
                    }
                }
                // The sender lives as long as this.
                _ = news.changed() => {}
                () = self.ending.cancelled() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// This replica, as one that lags.
    fn own(&self, members: &Members, detail: String) -> FollowerDocument {
        let shown = self.live.position();
        replica(&members.own, Some(shown), detail, shown)
    }

    /// Asks a replica until it and the followers that it hears show a position, or until it is one no more.
    async fn ask(
        &self,
        member: &Member,
        (position, needed): (Position, Position),
        deadline: Instant,
        behind: &parking_lot::Mutex<BTreeMap<Arc<str>, Behind>>,
    ) -> (Arc<str>, Asked) {
        let asked = |asked| (Arc::clone(&member.id), asked);
        if member.url.is_none() {
            return asked(Asked::Never("it does not say where it can be reached (--advertise-url)"));
        }
        let mut members = self.members.clone();
        let mut reached = false;
        let mut next = Instant::now();
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + SPACE;
            let secret = {
                let now = members.borrow_and_update();
                if now.live.iter().all(|live| live.id != member.id) {
                    return asked(Asked::Gone);
                }
                now.secret.clone()
            };
            let answer = {
                // It is never closed.
                let _turn = self.questions.acquire().await;
                let left = deadline.saturating_duration_since(Instant::now());
                if left < LEAST && reached {
                    // The last answer stands.
                    tokio::time::sleep_until(deadline).await;
                }
                // So that the answer is here before the time is up.
                let began = Instant::now();
                (began, self.peers.visible(member, &secret, Some(position), OPEN.min(left / 2)).await)
            };
            match answer {
                (began, Ok(answer)) => {
                    self.followers.merge(&member.id, answer.heard, began);
                    reached |= answer.reached;
                    if !reached {
                        let position = Some(answer.position);
                        behind.lock().insert(Arc::clone(&member.id), Behind { position, detail: String::new() });
                        continue;
                    }
                    behind.lock().remove(&member.id);
                    if !self.followers.lag_through(&member.id, needed) {
                        return asked(Asked::Reached);
                    }
                }
                (_, Err(error)) => {
                    if !reached {
                        let detail = error.to_string();
                        behind.lock().insert(Arc::clone(&member.id), Behind { position: None, detail });
                    }
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        _ = members.changed() => {}
                    }
                }
            }
        }
    }

    /// What this replica and the followers that it hears show; answers when that is all that is asked for, and after so long in
    /// any case.
    pub(crate) async fn for_peer(&self, position: Option<Position>, within: Duration) -> PeerVisible {
        let deadline = Instant::now() + within.min(OPEN);
        let reached = match position {
            None => true,
            Some(position) => self.live.wait_for(position, within.min(OPEN)).await.is_ok(),
        };
        if let Some(position) = position.filter(|_| reached) {
            let needed = self.needed(position);
            let mut news = self.followers.news.subscribe();
            while Instant::now() < deadline {
                news.borrow_and_update();
                let look = self.followers.look(needed, true);
                if look.lagging.is_empty() {
                    break;
                }
                tokio::select! {
                    _ = news.changed() => {}
                    () = tokio::time::sleep_until(look.next.map_or(deadline, |next| next.min(deadline))) => {}
                }
            }
        }
        PeerVisible { reached, position: self.live.position(), heard: self.followers.own() }
    }

    /// Hears of the other replicas' followers now and then, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let pause = SHARE_EVERY.mul_f64(0.8 + rand::random::<f64>() * 0.4);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            let members = Arc::clone(&self.members.borrow());
            let others = members.live.iter().filter(|member| member.id != members.own && member.url.is_some());
            let shared = others.map(async |member| {
                let asked = Instant::now();
                // One that does not answer is asked again soon; what it heard departs in time.
                if let Ok(answer) = self.peers.visible(member, &members.secret, None, Duration::ZERO).await {
                    self.followers.merge(&member.id, answer.heard, asked);
                }
            });
            tokio::select! {
                _ = futures_util::future::join_all(shared) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// A replica, as one that lags behind `position`.
fn replica(id: &str, shown: Option<Position>, detail: String, position: Position) -> FollowerDocument {
    FollowerDocument {
        id: id.to_owned(),
        kind: "replica".to_owned(),
        revision: shown,
        lag: shown
            .filter(|shown| shown.epoch == position.epoch)
            .map(|shown| position.number.saturating_sub(shown.number)),
        detail,
        ..FollowerDocument::default()
    }
}
