//! One question to a group of upstreams, one after another, until one has an answer or the client's patience is at its
//! end.

use crate::extended::{self, Extended};
use crate::forward::Forward;
use crate::forward::entry::{Entry, Origin, Unfit};
use crate::forward::key::Key;
use crate::forward::rules::Route;
use crate::forward::upstream::AskError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Clients wait for 5 s (resolv.conf(5)), and should hear from us within them.
const TOTAL: Duration = Duration::from_millis(4600);
/// How long the first upstream may take, the second, and each after it.
const ATTEMPTS: [Duration; 3] = [Duration::from_millis(1200), Duration::from_millis(1500), Duration::from_millis(1900)];
/// An attempt that can't take so long is not begun.
const SHORTEST: Duration = Duration::from_millis(50);
/// Upstreams asked for one question at most.
const MOST: usize = 6;

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Upstreams have answered, but none of them well; the last of them.
    #[error("no upstream has an answer: {0}: {1}")]
    Lame(Arc<str>, Unfit),
    /// None has answered; the last of them.
    #[error("no upstream answers: {0}: {1}")]
    Silent(Arc<str>, AskError),
    /// There is none to ask.
    #[error("there is no upstream to ask")]
    Nobody,
}

impl Failure {
    /// How long the same is not asked again. What upstreams say holds longer than a network that may be back soon (RFC
    /// 2308 §7.1 allows five minutes, RFC 9520 §3.2 wants one second).
    pub(crate) fn lasts(&self) -> Duration {
        match self {
            // That is our doing.
            Failure::Silent(_, AskError::Busy) => Duration::ZERO,
            Failure::Lame(..) => Duration::from_secs(5),
            Failure::Silent(..) | Failure::Nobody => Duration::from_secs(1),
        }
    }

    /// The reason for clients: what the upstream said, else what is to be said of it.
    pub(crate) fn reasons(self) -> Vec<Extended> {
        use extended::code::{NETWORK_ERROR, NO_REACHABLE_AUTHORITY, OTHER};
        let one = |code, text: String| vec![Extended::told(code, text)];
        match self {
            Failure::Lame(upstream, Unfit::Rcode(_, reasons)) if !reasons.is_empty() => {
                reasons.into_iter().map(|reason| reason.of(&upstream)).collect()
            }
            Failure::Lame(upstream, unfit) => one(NETWORK_ERROR, format!("{upstream}: {unfit}")),
            Failure::Silent(upstream, error) => {
                let code = match error {
                    AskError::Busy => OTHER,
                    AskError::Timeout(_) | AskError::Closed => NO_REACHABLE_AUTHORITY,
                    _ => NETWORK_ERROR,
                };
                one(code, format!("{upstream}: {error}"))
            }
            Failure::Nobody => one(NO_REACHABLE_AUTHORITY, "there is no upstream to ask".to_owned()),
        }
    }
}

impl Forward {
    /// Asks for the answer to one question.
    pub(crate) async fn ask(self: &Arc<Self>, key: &Key) -> Result<Entry, Failure> {
        let Route::Ask(group) = self.rules.route(key.name()) else { return Err(Failure::Nobody) };
        let deadline = Instant::now() + TOTAL;
        let order = group.order();
        let mut useless = vec![false; order.len()];
        let mut failure = Failure::Nobody;
        let mut cut = None;
        let mut asked = 0;
        // A lost datagram is no reason to give up, so even a single upstream is asked more than once.
        for (place, upstream) in order.iter().enumerate().cycle().take(order.len().max(1) * ATTEMPTS.len()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if asked >= MOST.max(ATTEMPTS.len()) || left < SHORTEST || useless.iter().all(|useless| *useless) {
                break;
            }
            if useless.get(place).copied().unwrap_or(true) {
                continue;
            }
            let within = ATTEMPTS.get(asked).or(ATTEMPTS.last()).copied().unwrap_or(left).min(left);
            let began = Instant::now();
            let asked_now = upstream.ask(key, within).await;
            let origin = || Origin { upstream: upstream.label_to_keep(), took: began.elapsed() };
            match asked_now {
                // Another may have the whole of it.
                Ok(Ok(entry)) if entry.is_cut() => {
                    if let Some(useless) = useless.get_mut(place) {
                        *useless = true;
                    }
                    cut.get_or_insert_with(|| entry.given_by(origin()));
                }
                Ok(Ok(entry)) => return Ok(entry.given_by(origin())),
                Ok(Err(unfit)) => {
                    tracing::debug!(upstream = upstream.label(), ?key, %unfit, "an answer of no use");
                    if let Some(useless) = useless.get_mut(place) {
                        *useless = true;
                    }
                    failure = Failure::Lame(upstream.label_to_keep(), unfit);
                }
                Err(error) => {
                    // Nobody listens there: to ask at once again is of no use.
                    if !matches!(error, AskError::Timeout(_) | AskError::Closed)
                        && let Some(useless) = useless.get_mut(place)
                    {
                        *useless = true;
                    }
                    self.watch(upstream);
                    if !matches!(failure, Failure::Lame(..)) {
                        failure = Failure::Silent(upstream.label_to_keep(), error);
                    }
                }
            }
            asked += 1;
        }
        cut.ok_or_else(|| {
            tracing::debug!(?key, %failure, "a question has no answer");
            failure
        })
    }
}
