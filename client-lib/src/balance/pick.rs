//! A pick: an endpoint, and the request that goes there.

use super::state::Entry;
use crate::Endpoint;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// How a request ended, as far as the endpoint is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It was answered. An answer that blames the caller is one, too.
    Success,
    /// It was not answered, not in time, or with an error that is the endpoint's.
    Failure,
}

/// No time at which anything is picked.
const ENDED: u64 = u64::MAX;

/// An endpoint that was picked for one request, which counts as in flight until this is dropped.
///
/// Say how the request ended, by [`success`](Pick::success) or [`failure`](Pick::failure): the time from the pick until
/// then is the request's latency. A pick that is dropped without a word (a request that was cancelled) counts as neither;
/// only, where it waited for longer than the endpoint is known to take, that is the endpoint's latency from then on. A
/// timeout should be told as a failure.
///
/// ```
/// # use fingerpost_client::{Endpoint, Endpoints, balance::Balancer, catalog::document::InstanceDocument};
/// # use std::sync::Arc;
/// # let web = InstanceDocument {
/// #     id: Some("web-1".into()), addresses: vec!["10.0.0.1".parse()?], ..Default::default()
/// # };
/// # let balancer = Balancer::default();
/// # balancer.update(&Endpoints::new("prod", "web", vec![Arc::new(Endpoint::new(web))], None));
/// # fn ask(_: &Endpoint) -> Result<(), ()> { Ok(()) }
/// let pick = balancer.pick().ok_or("no endpoint")?;
/// println!("asking {:?}", pick.addresses());
/// match ask(&pick) {
///     Ok(_answer) => pick.success(),
///     Err(_) => pick.failure(),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the request counts as in flight for as long as its pick lives"]
pub struct Pick {
    entry: Arc<Entry>,
    /// When it was picked, where that matters; [`ENDED`] once its end was told. Not a field of its own: of two words, a
    /// pick is passed in registers.
    started: u64,
}

impl Pick {
    /// The pick of an endpoint on which the request is counted already.
    #[inline]
    pub(super) fn new(entry: Arc<Entry>, started: u64) -> Self {
        Self { entry, started }
    }

    /// The endpoint, to be kept for longer than the request.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.entry.endpoint
    }

    /// The request was answered.
    pub fn success(self) {
        self.finish(Outcome::Success);
    }

    /// The request failed, and the endpoint is to blame.
    pub fn failure(self) {
        self.finish(Outcome::Failure);
    }

    /// The request ended.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        let started = std::mem::replace(&mut self.started, ENDED);
        self.entry.state.end(outcome, started);
    }
}

impl Deref for Pick {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.entry.endpoint
    }
}

impl Drop for Pick {
    #[inline]
    fn drop(&mut self) {
        if self.started != ENDED {
            self.entry.state.abandon(self.started);
        }
        self.entry.state.release();
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pick").field(self.entry.endpoint.key()).finish()
    }
}
