//! Follows one kind of object: lists it, watches it, and hands on what it says.
//!
//! kube's watcher does the stepping (list, watch, resume, list again after a 410). Here is what it leaves to its user: lists
//! come as a stream where the server can do that, so that neither side holds them whole; a watch lasts half a minute at
//! most, so that a connection that died without a word is noticed; each stream waits for itself after a fault; an
//! object that can't be read is counted and named, and costs nothing else; and a list can be asked for that no cache of the
//! server has answered.

use crate::engine::sleep_until;
use crate::objects::{Followed, Item, Received, Resources};
use crate::state::State;
use crate::trouble::{Trouble, cannot_stream_lists};
use futures_util::{StreamExt, TryStreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, ListSemantic, watcher};
use kube::{Api, Client};
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long the server may keep a watch open. kube takes a watch for dead five seconds after it should have ended.
const WATCH_SECONDS: u32 = 25;
/// The wait after a fault doubles from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// Objects that are handed on together while they come fast.
const BATCH: usize = 128;

/// The waits of one stream after faults. kube's own grow to half a minute; a name server should be back sooner, and there
/// are few of them. They begin anew only where the server has said something of use: that a list begins is no word of its.
struct Waits {
    next: Duration,
    /// Set when something of use has come.
    fresh: Arc<AtomicBool>,
}

impl Waits {
    fn new() -> Self {
        Self { next: BACKOFF.0, fresh: Arc::default() }
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = if self.fresh.swap(false, Ordering::Relaxed) { BACKOFF.0 } else { self.next };
        self.next = (wait * 2).min(BACKOFF.1);
        Some(wait.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

impl Backoff for Waits {
    // Called after whatever is no fault, a list's beginning included.
    fn reset(&mut self) {}
}

/// What a stream says.
#[derive(Debug)]
pub(crate) enum Word {
    /// A list begins.
    Begin,
    /// An object is like this.
    Put(Item),
    /// An object is gone.
    Delete { namespace: String, name: String },
    /// An object is there, but can't be read.
    Unreadable { namespace: String, name: String },
    /// The list is complete; whether no cache stood between.
    End { trusted: bool },
}

/// Words of one stream, in their order.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) resources: Resources,
    pub(crate) words: Vec<Word>,
}

/// How a kind is followed.
pub(crate) struct Following {
    pub(crate) client: Client,
    /// Only objects with these labels.
    pub(crate) labels: Option<String>,
    /// Only objects with these fields.
    pub(crate) fields: Option<&'static str>,
    pub(crate) said: mpsc::Sender<Said>,
    /// Asked when a list is to be confirmed by one that no cache has answered.
    pub(crate) confirm: mpsc::Receiver<()>,
    /// How long that list may take.
    pub(crate) confirm_within: Duration,
    pub(crate) state: Arc<State>,
}

/// How the next list is asked for. Whatever it was, the one after it is an ordinary one again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// As a stream, where the server can do that.
    Ordinary,
    /// In pages, because streamed ones were broken off.
    Paged,
    /// So that no cache answers it.
    Trusted,
}

impl Following {
    /// Runs until the other side of the channel is gone.
    pub(crate) async fn run<T: Followed>(mut self) {
        let resources = T::RESOURCES;
        let api = Api::<Received<T>>::all(self.client.clone());
        let (mut streaming, mut mode) = (true, Mode::Ordinary);
        // Lists that began, since one was complete.
        let mut unfinished = 0u32;
        // When a list is asked for again that did not come.
        let mut owed: Option<Instant> = None;
        loop {
            let waits = Waits::new();
            let fresh = Arc::clone(&waits.fresh);
            let events = watcher(api.clone(), self.config(streaming && mode == Mode::Ordinary))
                .inspect_ok(move |event| {
                    if !matches!(event, Event::Init | Event::InitApply(_)) {
                        fresh.store(true, Ordering::Relaxed);
                    }
                })
                .backoff(waits)
                .ready_chunks(BATCH);
            futures_util::pin_mut!(events);
            let mut deadline = (mode == Mode::Trusted).then(|| Instant::now() + self.confirm_within);
            let mut listed = false;
            mode = loop {
                let chunk = tokio::select! {
                    chunk = events.next() => chunk,
                    asked = self.confirm.recv() => match asked {
                        None => return,
                        // It is on its way, or will be.
                        Some(()) if deadline.is_some() || owed.is_some() => continue,
                        Some(()) => break Mode::Trusted,
                    },
                    () = sleep_until(deadline) => {
                        // Meanwhile a cache may well have news.
                        self.trouble(resources, &Trouble::unconfirmed(resources, self.confirm_within));
                        owed = Some(Instant::now() + self.confirm_within);
                        break Mode::Ordinary;
                    }
                    () = sleep_until(owed.filter(|_| deadline.is_none())) => {
                        owed = None;
                        break Mode::Trusted;
                    }
                };
                let Some(chunk) = chunk else { break mode };
                let mut words = Vec::with_capacity(chunk.len());
                let mut next = None;
                for event in chunk {
                    match event {
                        Ok(Event::Init) if listed && mode != Mode::Ordinary => {
                            next = Some(Mode::Ordinary);
                            break;
                        }
                        Ok(Event::Init) if mode == Mode::Ordinary && streaming && unfinished > 0 => {
                            // A watch has its end, and the list that begins it does not come through before that.
                            self.trouble(resources, &Trouble::broken_off(resources));
                            next = Some(Mode::Paged);
                            break;
                        }
                        Ok(event) => {
                            match event {
                                Event::Init => unfinished += 1,
                                Event::InitDone => (unfinished, listed, deadline) = (0, true, None),
                                _ => {}
                            }
                            words.extend(self.word::<T>(event, mode == Mode::Trusted));
                        }
                        Err(error) if streaming && cannot_stream_lists(&error) => {
                            info!(
                                resource = resources.plural(),
                                "the API server does not stream lists; they come in pages"
                            );
                            streaming = false;
                            next = Some(mode);
                        }
                        Err(error) => self.trouble(resources, &Trouble::of_watch(resources, &error)),
                    }
                }
                if !words.is_empty() && self.said.send(Said { resources, words }).await.is_err() {
                    return;
                }
                if let Some(next) = next {
                    break next;
                }
            };
        }
    }

    fn trouble(&self, resources: Resources, trouble: &Trouble) {
        if self.state.failed(resources, trouble) {
            warn!(resource = resources.plural(), reason = %trouble.reason, "{trouble}");
        }
    }

    fn config(&self, streaming: bool) -> watcher::Config {
        // Lists in pages are of the most recent state: kube's default, said here because so much depends on it.
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS).list_semantic(ListSemantic::MostRecent);
        if let Some(labels) = &self.labels {
            config = config.labels(labels);
        }
        if let Some(fields) = self.fields {
            config = config.fields(fields);
        }
        if streaming {
            config = config.streaming_lists();
        }
        config
    }

    fn word<T: Followed>(&self, event: Event<Received<T>>, trusted: bool) -> Option<Word> {
        let resources = T::RESOURCES;
        if matches!(event, Event::Init) {
            // Where lists come in pages, it says this before it has asked.
            self.state.listing(resources);
            return Some(Word::Begin);
        }
        self.state.heard(resources);
        let received = match event {
            Event::Init => return Some(Word::Begin),
            Event::InitDone => return Some(Word::End { trusted }),
            Event::Delete(received) => {
                return Some(Word::Delete {
                    namespace: received.namespace().to_owned(),
                    name: received.name().to_owned(),
                });
            }
            Event::Apply(received) | Event::InitApply(received) => received,
        };
        let (namespace, name) = (received.namespace().to_owned(), received.name().to_owned());
        match received.object {
            Ok(object) if !name.is_empty() => Some(Word::Put(object.into_item())),
            Ok(_) => None,
            Err(error) => {
                self.state.malformed(resources);
                warn!(resource = resources.plural(), %namespace, %name, %error, "an object can't be read and is passed over");
                Some(Word::Unreadable { namespace, name })
            }
        }
    }
}
