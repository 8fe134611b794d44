//! The handle of a subscription.

use super::core::{Core, Observer, Told};
use super::start::Lifeline;
use crate::balance::Balancer;
use crate::endpoint::{Endpoint, Endpoints};
use crate::{Error, Result};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use std::collections::VecDeque;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;

/// A service's endpoints, kept up to date for as long as a handle lives. Clones share one subscription; each has its own
/// notion of what is [new](Subscription::changed).
///
/// ```no_run
/// # async fn example() -> fingerpost_client::Result<()> {
/// let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
/// let mut web = client.watch("prod/web").selector("track=canary").subscribe()?;
/// web.synced().await?;
/// loop {
///     for endpoint in web.current().usable() {
///         println!("{:?}", endpoint.socket_addr(Some("http")));
///     }
///     web.changed().await?;
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Subscription {
    core: Arc<Core>,
    told: watch::Receiver<Told>,
    /// The version of the snapshot that this handle was told of last.
    seen: u64,
    /// Keeps the task that follows the registry.
    lifeline: Arc<Lifeline>,
}

impl Subscription {
    pub(super) fn new(core: Arc<Core>, lifeline: Arc<Lifeline>) -> Self {
        let told = core.told();
        let seen = told.borrow().version;
        Self { core, told, seen, lifeline }
    }

    /// The endpoints as they are known now: always one consistent snapshot. Neither locks nor waits; empty while nothing
    /// is known yet.
    pub fn current(&self) -> Arc<Endpoints> {
        self.core.current()
    }

    /// Waits for a snapshot that this handle has not been told of; one that came since the last call is told of at once. Of
    /// several in the meantime only the last is told of.
    ///
    /// Fails while the registry refuses ([`Unauthorized`](Error::Unauthorized), …), once for each refusal; the
    /// subscription goes on trying, and may be waited for again.
    pub async fn changed(&mut self) -> Result<Arc<Endpoints>> {
        let mut news = self.told.has_changed().map_err(|_| ended())?;
        loop {
            let told = self.told.borrow_and_update();
            if let Some(error) = told.refused.as_ref().filter(|_| news) {
                return Err(error.clone());
            }
            if told.version != self.seen {
                self.seen = told.version;
                return Ok(self.core.current());
            }
            drop(told);
            self.told.changed().await.map_err(|_| ended())?;
            news = true;
        }
    }

    /// Waits until the registry itself has told all of it; what a [cache](crate::ClientBuilder::cache_dir) remembers does
    /// not count. Fails where the registry refuses. Put a timeout around it where the registry may be away.
    pub async fn synced(&self) -> Result<()> {
        let mut told = self.told.clone();
        let told = told.wait_for(|told| told.synced || told.refused.is_some()).await.map_err(|_| ended())?;
        match &told.refused {
            Some(error) if !told.synced => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Every difference between one snapshot and the next, beginning with all endpoints of the present one as
    /// [`Added`](Change::Added). Who reads slowly gets fewer, larger steps, never a wrong one; nothing piles up.
    ///
    /// ```no_run
    /// # use fingerpost_client::Change;
    /// # use futures_util::StreamExt;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let mut changes = client.watch("prod/web").subscribe()?.changes();
    /// while let Some(change) = changes.next().await {
    ///     match change {
    ///         Change::Added(endpoint) | Change::Updated { after: endpoint, .. } => println!("+ {:?}", endpoint.key()),
    ///         Change::Removed(endpoint) => println!("- {:?}", endpoint.key()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(&self) -> Changes {
        let start = Reader { core: Arc::clone(&self.core), told: self.told.clone(), shown: None };
        let steps = stream::unfold(start, |mut reader| async move { Some((reader.step().await?, reader)) });
        // The handle may go; the subscription lives for as long as somebody reads.
        let lifeline = Arc::clone(&self.lifeline);
        let steps = steps.map(move |step| {
            let _ = &lifeline;
            step
        });
        Changes { steps: steps.boxed(), ready: VecDeque::new() }
    }

    /// A balancer that knows of each snapshot before anybody is told of it. It keeps the subscription alive.
    ///
    /// ```no_run
    /// # use fingerpost_client::balance::Balancer;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let client = fingerpost_client::Client::connect("http://127.0.0.1:8053")?;
    /// let web = client.watch("prod/web").subscribe()?;
    /// let balancer = web.balance(Balancer::builder().zone("eu-west-1a").build());
    /// web.synced().await?;
    /// if let Some(pick) = balancer.pick() {
    ///     println!("asking {:?}", pick.socket_addr(Some("http")));
    ///     pick.success();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn balance(&self, balancer: Balancer) -> LiveBalancer {
        let balancer = Arc::new(balancer);
        let observer: Arc<dyn Observer> = Arc::clone(&balancer) as Arc<dyn Observer>;
        self.core.observe(&observer);
        LiveBalancer { balancer, subscription: self.clone() }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("of", &self.core.spec).finish_non_exhaustive()
    }
}

/// A [`Balancer`] over the endpoints of a [`Subscription`], which it keeps alive. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct LiveBalancer {
    balancer: Arc<Balancer>,
    subscription: Subscription,
}

impl LiveBalancer {
    /// What it follows.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }
}

impl Deref for LiveBalancer {
    type Target = Balancer;

    fn deref(&self) -> &Balancer {
        &self.balancer
    }
}

fn ended() -> Error {
    Error::Unavailable {
        detail: "the runtime on which the client follows the registry has ended".to_owned(),
        retry_after: None,
    }
}

/// A difference between two snapshots.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is new.
    Added(Arc<Endpoint>),
    /// Something about it is different.
    Updated {
        /// As it was.
        before: Arc<Endpoint>,
        /// As it is.
        after: Arc<Endpoint>,
    },
    /// It is gone.
    Removed(Arc<Endpoint>),
}

/// A stream of [`Change`]s; see [`Subscription::changes`].
pub struct Changes {
    steps: BoxStream<'static, Vec<Change>>,
    ready: VecDeque<Change>,
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Poll::Ready(Some(change));
            }
            match self.steps.poll_next_unpin(context) {
                Poll::Ready(Some(changes)) => self.ready.extend(changes),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

struct Reader {
    core: Arc<Core>,
    told: watch::Receiver<Told>,
    shown: Option<Arc<Endpoints>>,
}

impl Reader {
    /// The differences to the next snapshot; none when there will be no other.
    async fn step(&mut self) -> Option<Vec<Change>> {
        if self.shown.is_some() {
            self.told.changed().await.ok()?;
        }
        self.told.borrow_and_update();
        let now = self.core.current();
        let changes = difference(self.shown.as_deref(), &now);
        self.shown = Some(now);
        Some(changes)
    }
}

/// What must be done to the one to get the other; both are in the order of their keys.
fn difference(before: Option<&Endpoints>, after: &Endpoints) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut before = before.into_iter().flat_map(Endpoints::iter).peekable();
    for endpoint in after.iter() {
        while let Some(gone) = before.next_if(|old| old.key() < endpoint.key()) {
            changes.push(Change::Removed(Arc::clone(gone)));
        }
        match before.next_if(|old| old.key() == endpoint.key()) {
            Some(same) if Arc::ptr_eq(same, endpoint) => {}
            Some(old) => changes.push(Change::Updated { before: Arc::clone(old), after: Arc::clone(endpoint) }),
            None => changes.push(Change::Added(Arc::clone(endpoint))),
        }
    }
    changes.extend(before.map(|gone| Change::Removed(Arc::clone(gone))));
    changes
}
