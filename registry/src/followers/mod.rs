//! Who follows the registry and shows what it says: DNS servers elsewhere, and whoever else reports.
//!
//! A follower reports the position that it shows, at once when that changes and else every few seconds, to any replica. Its
//! reports stay in memory: the replicas tell each other of them ([`peers::visible`](crate::peers::visible)), and nothing of it
//! goes to the store. So every replica knows all followers, and what is known of one is its latest report, wherever that came
//! in: a follower that changes its replica is not two.
//!
//! **Departure.** A follower that says it leaves is forgotten at once, whichever replica it tells: that run of it is not
//! believed to be there any more for as long as another replica may still name it, which heard it before. One that was silent for [`SILENCE`] has departed:
//! nobody waits for it any more. It is named for [`REMEMBER`], since it may go on answering with what it had.
//!
//! [`Visibility`] has writes wait for all of them.

mod metrics;
mod visible;

pub use metrics::register;
pub use visible::{PeerVisible, Visibility};

use fingerpost_catalog::Position;
use fingerpost_catalog::document::{FollowerDocument, FollowerReport};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A follower without news reports this often.
pub const REPORT_EVERY: Duration = Duration::from_secs(3);
/// A follower that was silent for this long has departed: three reports were lost.
pub const SILENCE: Duration = Duration::from_secs(10);
/// For how long those that departed are named.
pub const REMEMBER: Duration = Duration::from_secs(600);
/// Most followers that are known. Those that departed make room first.
pub const MAX_FOLLOWERS: usize = 1000;

/// Reports of all followers that a replica hears, at most, in a second: what they cost is bounded, however many they are and
/// however fast positions come.
const REPORTS_A_SECOND: u64 = 10_000;
/// The least time between two reports of one follower.
const LEAST_SPACING: Duration = Duration::from_millis(2);

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// There is no room.
    #[error("{MAX_FOLLOWERS} followers are known already, and no more are taken")]
    Full,
    /// Somebody else follows under this id.
    #[error("`{0}` is the id of another caller's follower")]
    Foreign(Arc<str>),
}

/// What is known of a follower.
#[derive(Clone, Debug)]
struct Follower {
    kind: Arc<str>,
    version: Arc<str>,
    /// The caller that reports for it.
    owner: Arc<str>,
    run: Arc<str>,
    sequence: u64,
    position: Position,
    heard: Instant,
    /// The replica that hears it; none: this one.
    through: Option<Arc<str>>,
}

/// A run of a follower that left by its word.
#[derive(Clone, Debug)]
struct Left {
    owner: Arc<str>,
    sequence: u64,
    at: Instant,
    /// Whether it was this replica that it told.
    here: bool,
}

/// What a replica tells others of followers: of those that it hears, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerHeard {
    followers: Vec<PeerFollower>,
    /// Those that left lately.
    #[serde(default)]
    left: Vec<PeerLeft>,
}

/// A follower that left, as one replica tells another of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerLeft {
    id: Arc<str>,
    owner: Arc<str>,
    run: Arc<str>,
    sequence: u64,
}

/// A follower as one replica tells another of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerFollower {
    id: Arc<str>,
    kind: Arc<str>,
    #[serde(default)]
    version: Arc<str>,
    owner: Arc<str>,
    run: Arc<str>,
    sequence: u64,
    position: Position,
    /// How long ago it was heard.
    silent_milliseconds: u64,
}

impl Left {
    /// Whether it is the last word of this run, as which its own caller gave it.
    fn ends(&self, follower: &Follower) -> bool {
        self.owner == follower.owner && self.sequence >= follower.sequence
    }
}

impl Follower {
    fn departed(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= SILENCE
    }

    /// Whether this is later news than `other`: by its own count, else by when it was heard.
    fn is_newer_than(&self, other: &Self) -> bool {
        match self.run == other.run {
            true => (self.sequence, self.heard) > (other.sequence, other.heard),
            false => self.heard >= other.heard,
        }
    }

    /// How it stands when `shown` is what there is to show.
    fn document(&self, id: &str, shown: Position, now: Instant) -> FollowerDocument {
        let same_history = self.position.epoch == shown.epoch;
        FollowerDocument {
            id: id.to_owned(),
            kind: self.kind.to_string(),
            version: self.version.to_string(),
            revision: Some(self.position),
            lag: same_history.then(|| shown.number.saturating_sub(self.position.number)),
            silent_seconds: Some(now.saturating_duration_since(self.heard).as_secs_f64()),
            replica: self.through.as_deref().map(str::to_owned),
            departed: self.departed(now),
            detail: if same_history { String::new() } else { "it shows another history".to_owned() },
        }
    }
}

/// How the followers stand at a position.
#[derive(Debug, Default)]
struct Look {
    /// Those that are there and don't show it.
    lagging: Vec<FollowerDocument>,
    /// Those that departed.
    departed: Vec<FollowerDocument>,
    /// When the next one of the lagging departs, unless it is heard.
    next: Option<Instant>,
}

#[derive(Debug, Default)]
struct Table {
    followers: HashMap<Arc<str>, Follower>,
    /// By id and run, for [`SILENCE`]: whoever heard it before has it depart by then. Bounded like the followers; the
    /// oldest make room.
    left: HashMap<(Arc<str>, Arc<str>), Left>,
}

/// All followers that are known.
#[derive(Debug)]
pub struct Followers {
    table: Mutex<Table>,
    /// Counts what was heard.
    news: watch::Sender<u64>,
}

impl Default for Followers {
    fn default() -> Self {
        Self { table: Mutex::default(), news: watch::Sender::new(0) }
    }
}

impl Followers {
    /// Takes in what a follower says to this replica. Its fields have been checked.
    pub(crate) fn report(&self, id: &str, owner: &str, report: &FollowerReport) -> Result<(), ReportError> {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.forget(now);
        if let Some(known) = table.followers.get(id)
            && *known.owner != *owner
            && !known.departed(now)
        {
            return Err(ReportError::Foreign(id.into()));
        }
        let Some(position) = report.position else {
            let left = Left { owner: owner.into(), sequence: report.sequence, at: now, here: true };
            table.leave(id.into(), report.run.as_str().into(), left);
            drop(table);
            self.tell();
            return Ok(());
        };
        let follower = Follower {
            kind: report.kind.as_str().into(),
            version: report.version.as_str().into(),
            owner: owner.into(),
            run: report.run.as_str().into(),
            sequence: report.sequence,
            position,
            heard: now,
            through: None,
        };
        if !table.insert(id.into(), follower, now) {
            return Err(ReportError::Full);
        }
        drop(table);
        self.tell();
        Ok(())
    }

    /// Takes in what another replica has heard, all of it, by its answer to what it was `asked` then.
    fn merge(&self, peer: &Arc<str>, heard: PeerHeard, asked: Instant) {
        let now = Instant::now();
        let PeerHeard { followers, left } = heard;
        let mut table = self.table.lock();
        table.forget(now);
        // What it no longer names has left; unless it was heard elsewhere since, or there after this was asked: a later
        // question may have been answered sooner.
        let named: HashSet<&str> = followers.iter().map(|told| &*told.id).collect();
        let stays = |id: &str, known: &Follower| {
            known.through.as_ref() != Some(peer) || named.contains(id) || known.heard >= asked
        };
        table.followers.retain(|id, known| stays(id, known));
        for PeerLeft { id, owner, run, sequence } in left.into_iter().take(MAX_FOLLOWERS) {
            table.leave(id, run, Left { owner, sequence, at: now, here: false });
        }
        for told in followers.into_iter().take(MAX_FOLLOWERS) {
            let silent = Duration::from_millis(told.silent_milliseconds);
            // Where this machine is younger than that, it departed before.
            let Some(heard) = now.checked_sub(silent) else { continue };
            let follower = Follower {
                kind: told.kind,
                version: told.version,
                owner: told.owner,
                run: told.run,
                sequence: told.sequence,
                position: told.position,
                heard,
                through: Some(Arc::clone(peer)),
            };
            table.insert(told.id, follower, now);
        }
        drop(table);
        self.tell();
    }

    /// Those that this replica hears itself, and those that told it that they leave.
    fn own(&self) -> PeerHeard {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.forget(now);
        let left = table.left.iter().filter(|(_, left)| left.here);
        let left = left
            .map(|((id, run), left)| PeerLeft {
                id: Arc::clone(id),
                owner: Arc::clone(&left.owner),
                run: Arc::clone(run),
                sequence: left.sequence,
            })
            .collect();
        let followers = table.followers.iter();
        let followers = followers
            .filter(|(_, known)| known.through.is_none())
            .map(|(id, known)| PeerFollower {
                id: Arc::clone(id),
                kind: Arc::clone(&known.kind),
                version: Arc::clone(&known.version),
                owner: Arc::clone(&known.owner),
                run: Arc::clone(&known.run),
                sequence: known.sequence,
                position: known.position,
                silent_milliseconds: now.saturating_duration_since(known.heard).as_millis() as u64,
            })
            .collect();
        PeerHeard { followers, left }
    }

    /// How they stand at a position; with `only_own`, those that this replica hears itself.
    fn look(&self, position: Position, only_own: bool) -> Look {
        let now = Instant::now();
        let mut look = Look::default();
        for (id, known) in &self.table.lock().followers {
            if only_own && known.through.is_some() {
                continue;
            }
            if known.departed(now) {
                if now.saturating_duration_since(known.heard) < REMEMBER {
                    look.departed.push(known.document(id, position, now));
                }
            } else if !known.position.includes(&position) {
                look.lagging.push(known.document(id, position, now));
                let departs = known.heard + SILENCE;
                look.next = Some(look.next.map_or(departs, |next| next.min(departs)));
            }
        }
        look.lagging.sort_by(|a, b| a.id.cmp(&b.id));
        look.departed.sort_by(|a, b| a.id.cmp(&b.id));
        look
    }

    /// Whether any of those that another replica hears is there and does not show a position.
    fn lag_through(&self, peer: &Arc<str>, position: Position) -> bool {
        let now = Instant::now();
        let lags = |known: &Follower| !known.departed(now) && !known.position.includes(&position);
        self.table.lock().followers.values().any(|known| known.through.as_ref() == Some(peer) && lags(known))
    }

    /// All that are known, those that departed among them, when `shown` is what there is to show; by their ids.
    pub fn all(&self, shown: Position) -> Vec<FollowerDocument> {
        let now = Instant::now();
        let known = |known: &Follower| now.saturating_duration_since(known.heard) < REMEMBER;
        let table = self.table.lock();
        let mut all: Vec<FollowerDocument> = table
            .followers
            .iter()
            .filter(|(_, follower)| known(follower))
            .map(|(id, follower)| follower.document(id, shown, now))
            .collect();
        drop(table);
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// What should lie between two reports of a follower.
    pub(crate) fn spacing(&self) -> Duration {
        let now = Instant::now();
        let there = self.table.lock().followers.values().filter(|known| !known.departed(now)).count() as u64;
        Duration::from_millis(there * 1000 / REPORTS_A_SECOND).max(LEAST_SPACING)
    }

    /// How many are there, and how many departed.
    fn counts(&self) -> (usize, usize) {
        let now = Instant::now();
        let followers = &self.table.lock().followers;
        let departed = followers.values().filter(|known| known.departed(now)).count();
        (followers.len() - departed, departed)
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Table {
    /// Forgets what is too long ago.
    fn forget(&mut self, now: Instant) {
        self.followers.retain(|_, known| now.saturating_duration_since(known.heard) < REMEMBER);
        self.left.retain(|_, left| now.saturating_duration_since(left.at) < SILENCE);
    }

    /// Takes a follower in, unless what is known of it is newer; false where there is no room for it.
    fn insert(&mut self, id: Arc<str>, follower: Follower, now: Instant) -> bool {
        let run = (Arc::clone(&id), Arc::clone(&follower.run));
        if self.left.get(&run).is_some_and(|left| left.ends(&follower)) {
            return true;
        }
        let followers = &mut self.followers;
        if let Some(known) = followers.get_mut(&id) {
            if follower.is_newer_than(known) {
                *known = follower;
            }
            return true;
        }
        if followers.len() >= MAX_FOLLOWERS {
            let departed = followers.iter().filter(|(_, known)| known.departed(now));
            let longest = departed.min_by_key(|(_, known)| known.heard).map(|(id, _)| Arc::clone(id));
            let Some(gone) = longest else { return false };
            followers.remove(&gone);
        }
        followers.insert(id, follower);
        true
    }

    /// Forgets a run of a follower that left, unless it or another run has come back meanwhile.
    fn leave(&mut self, id: Arc<str>, run: Arc<str>, left: Left) {
        if self.followers.get(&id).is_some_and(|known| known.run == run && left.ends(known)) {
            self.followers.remove(&id);
        }
        let key = (id, run);
        // What is told again is not kept for longer.
        if self.left.get(&key).is_some_and(|known| known.sequence >= left.sequence) {
            return;
        }
        if self.left.len() >= MAX_FOLLOWERS {
            let oldest = self.left.iter().min_by_key(|(_, left)| left.at).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| self.left.remove(&oldest));
        }
        self.left.insert(key, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fingerpost_catalog::Epoch;

    fn at(number: u64) -> Position {
        Position::new(Epoch(7), number)
    }

    fn report(run: &str, sequence: u64, position: Option<Position>) -> FollowerReport {
        let (kind, run) = ("dns".to_owned(), run.to_owned());
        FollowerReport { kind, version: String::new(), run, sequence, position }
    }

    fn names(documents: &[FollowerDocument]) -> Vec<&str> {
        documents.iter().map(|document| document.id.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_word_counts_and_silence_is_departure() {
        let followers = Followers::default();
        followers.report("a", "me", &report("r", 1, Some(at(5)))).unwrap();
        followers.report("b", "me", &report("r", 9, Some(at(7)))).unwrap();
        assert_eq!(names(&followers.look(at(7), false).lagging), ["a"]);
        // Held up on its way.
        followers.report("b", "me", &report("r", 8, Some(at(3)))).unwrap();
        assert_eq!(names(&followers.look(at(7), false).lagging), ["a"]);
        // Started anew, with what it had earlier.
        followers.report("b", "me", &report("s", 1, Some(at(4)))).unwrap();
        assert_eq!(names(&followers.look(at(7), false).lagging), ["a", "b"]);
        // Another history is never what is waited for, however large its numbers are.
        followers.report("b", "me", &report("s", 2, Some(Position::new(Epoch(6), 100)))).unwrap();
        let look = followers.look(at(7), false);
        assert_eq!((names(&look.lagging), look.lagging[1].lag), (vec!["a", "b"], None));

        tokio::time::advance(SILENCE / 2).await;
        followers.report("b", "me", &report("s", 3, Some(at(7)))).unwrap();
        tokio::time::advance(SILENCE / 2).await;
        let look = followers.look(at(7), false);
        assert_eq!((names(&look.lagging), names(&look.departed)), (vec![], vec!["a"]));
        tokio::time::advance(REMEMBER).await;
        assert!(followers.look(at(7), false).departed.is_empty());
        assert_eq!(followers.own(), PeerHeard::default(), "nothing is kept for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_is_forgotten_and_ids_are_their_owners() {
        let followers = Followers::default();
        followers.report("a", "me", &report("r", 1, Some(at(5)))).unwrap();
        let foreign = followers.report("a", "you", &report("q", 1, Some(at(9))));
        assert_eq!(foreign, Err(ReportError::Foreign("a".into())));
        followers.report("a", "me", &report("s", 1, Some(at(5)))).unwrap();
        // The run before this one.
        followers.report("a", "me", &report("r", 2, None)).unwrap();
        assert_eq!(followers.counts(), (1, 0));
        followers.report("a", "me", &report("s", 2, None)).unwrap();
        assert_eq!(followers.counts(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn their_number_is_bounded_and_the_departed_make_room() {
        let followers = Followers::default();
        for n in 0..MAX_FOLLOWERS {
            followers.report(&n.to_string(), "me", &report("r", 1, Some(at(1)))).unwrap();
        }
        assert_eq!(followers.report("x", "me", &report("r", 1, Some(at(1)))), Err(ReportError::Full));
        assert_eq!(followers.spacing(), Duration::from_millis(100), "many report more rarely");
        followers.report("5", "me", &report("r", 2, Some(at(2)))).unwrap();
        tokio::time::advance(SILENCE).await;
        followers.report("x", "me", &report("r", 1, Some(at(1)))).unwrap();
        assert_eq!(followers.counts(), (1, MAX_FOLLOWERS - 1));
        assert_eq!(followers.spacing(), LEAST_SPACING, "those that departed report nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_share_what_they_hear_and_a_follower_that_moves_is_one() {
        let (here, there) = (Followers::default(), Followers::default());
        let peer: Arc<str> = "there".into();
        there.report("a", "me", &report("r", 1, Some(at(5)))).unwrap();
        here.merge(&peer, there.own(), Instant::now());
        assert_eq!(names(&here.look(at(6), false).lagging), ["a"]);
        assert!(here.look(at(6), true).lagging.is_empty() && here.own() == PeerHeard::default());
        // It moves here, and what it said there is old.
        tokio::time::advance(Duration::from_secs(1)).await;
        here.report("a", "me", &report("r", 2, Some(at(6)))).unwrap();
        here.merge(&peer, there.own(), Instant::now());
        assert!(here.look(at(6), false).lagging.is_empty());
        // The replica is gone: what it heard departs in time.
        there.report("b", "me", &report("r", 1, Some(at(5)))).unwrap();
        here.merge(&peer, there.own(), Instant::now());
        tokio::time::advance(SILENCE).await;
        assert_eq!(names(&here.look(at(6), false).departed), ["a", "b"]);
        // An answer from before it came, which another one has overtaken.
        let asked = Instant::now();
        let before = there.own();
        tokio::time::advance(Duration::from_millis(10)).await;
        there.report("c", "me", &report("r", 1, Some(at(5)))).unwrap();
        here.merge(&peer, there.own(), Instant::now());
        here.merge(&peer, before, asked);
        assert_eq!(names(&here.look(at(6), false).lagging), ["c"]);
        there.report("c", "me", &report("r", 2, None)).unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        // It left there.
        there.report("b", "me", &report("r", 2, None)).unwrap();
        here.merge(&peer, there.own(), Instant::now());
        assert_eq!(names(&here.look(at(6), false).departed), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_at_another_replica_has_left() {
        let (here, there) = (Followers::default(), Followers::default());
        let [at_here, at_there]: [Arc<str>; 2] = ["here".into(), "there".into()];
        here.report("a", "me", &report("r", 4, Some(at(5)))).unwrap();
        let before = here.own();
        there.merge(&at_here, before.clone(), Instant::now());
        there.report("a", "me", &report("r", 5, None)).unwrap();
        assert_eq!(there.counts(), (0, 0));
        // Who heard it does not know yet, or said so before it did.
        there.merge(&at_here, before, Instant::now());
        assert_eq!(there.counts(), (0, 0));
        here.merge(&at_there, there.own(), Instant::now());
        assert_eq!(here.counts(), (0, 0));
        // A report that was held up on its way.
        here.report("a", "me", &report("r", 3, Some(at(9)))).unwrap();
        assert_eq!(here.counts(), (0, 0));
        // It is back at once, and its last run's end is told again.
        here.report("a", "me", &report("s", 1, Some(at(5)))).unwrap();
        here.merge(&at_there, there.own(), Instant::now());
        there.merge(&at_here, here.own(), Instant::now());
        assert_eq!((here.counts(), there.counts()), ((1, 0), (1, 0)));
        // Another caller can't end it.
        tokio::time::advance(SILENCE / 2).await;
        let foreign = PeerLeft { id: "a".into(), owner: "you".into(), run: "s".into(), sequence: 9 };
        let foreign = PeerHeard { followers: Vec::new(), left: vec![foreign] };
        here.merge(&at_there, foreign, Instant::now());
        assert_eq!(here.counts(), (1, 0));
        tokio::time::advance(SILENCE).await;
        assert!(there.own().left.is_empty(), "none is kept for ever");
        for n in 0..2 * MAX_FOLLOWERS {
            there.report(&n.to_string(), "me", &report("r", 1, None)).unwrap();
        }
        assert_eq!(there.own().left.len(), MAX_FOLLOWERS);
    }
}
