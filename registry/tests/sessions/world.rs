//! Replicas over one store in memory, with peers that can be cut off from each other, on a clock that tests move.

use crate::store_double::{Handle, Shared, members};
use fingerpost_catalog::document::{InstanceDocument, NewSession, RenewalState};
use fingerpost_catalog::{Effects, Health, InstanceKey, Position, Replica, SessionState, Source, ViewChange};
use fingerpost_registry::access::Caller;
use fingerpost_registry::live::{Feed, LiveReplica, Observer};
use fingerpost_registry::members::{Member, Secret};
use fingerpost_registry::peers::{PeerError, Peers};
use fingerpost_registry::sessions::{Counts, Engine, OwnRenewal, SessionOptions, Unreached};
use fingerpost_registry::store::Store;
use fingerpost_registry::writes::{Guard, WriteError, Writer};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The way between replicas of one test.
#[derive(Default)]
pub struct Wires {
    engines: Mutex<HashMap<Arc<str>, Weak<Engine>>>,
    pub cut: AtomicBool,
}

impl Peers for Wires {
    fn renew<'a>(
        &'a self,
        home: &'a Member,
        _: &'a Secret,
        ids: Vec<Arc<str>>,
    ) -> BoxFuture<'a, Result<Vec<OwnRenewal>, PeerError>> {
        async move {
            let engine = self.engines.lock().get(&home.id).and_then(Weak::upgrade);
            match engine.filter(|_| !self.cut.load(Ordering::SeqCst)) {
                Some(engine) => Ok(engine.renew_for_peer(&ids).await),
                None => Err(PeerError::Unreachable(Arc::clone(&home.id), "cut".to_owned())),
            }
        }
        .boxed()
    }

    fn counts<'a>(&'a self, home: &'a Member, _: &'a Secret) -> BoxFuture<'a, Result<Counts, PeerError>> {
        async move {
            let engine = self.engines.lock().get(&home.id).and_then(Weak::upgrade);
            let counts = engine.filter(|_| !self.cut.load(Ordering::SeqCst)).and_then(|engine| engine.counts());
            counts.ok_or_else(|| PeerError::Unreachable(Arc::clone(&home.id), "cut".to_owned()))
        }
        .boxed()
    }
}

/// Counts, position by position, how many instances a position made critical.
#[derive(Default)]
pub struct Witness(Mutex<Vec<(u64, usize)>>);

impl Witness {
    /// Positions that made instances critical, with how many.
    pub fn made_critical(&self) -> Vec<(u64, usize)> {
        self.0.lock().clone()
    }
}

impl Observer for Witness {
    fn load(&self, _: &Replica) {}

    fn ready(&self, _: Position) {}

    fn apply(&self, effects: &Effects, _: bool) {
        let turned = |change: &&ViewChange| match change {
            ViewChange::Instance { before: Some(before), after: Some(after) } => {
                before.effective != Health::Critical && after.effective == Health::Critical
            }
            _ => false,
        };
        let count = effects.changes.iter().filter(turned).count();
        if count > 0 {
            self.0.lock().push((effects.position.number, count));
        }
    }
}

/// A replica.
pub struct Node {
    pub shared: Arc<Shared>,
    pub store: Arc<Handle>,
    pub live: Arc<LiveReplica>,
    pub engine: Arc<Engine>,
    pub writer: Writer,
    pub witness: Arc<Witness>,
    _stop: DropGuard,
}

impl Node {
    /// The only replica of a new store.
    pub async fn alone() -> Self {
        Self::start(&Shared::new(), &Arc::default(), "a", &["a"]).await
    }

    /// The replica `own` among those that live.
    pub async fn start(shared: &Arc<Shared>, wires: &Arc<Wires>, own: &str, live: &[&str]) -> Self {
        Self::start_with(shared, wires, own, live, SessionOptions::default()).await
    }

    /// The same with other options.
    pub async fn start_with(
        shared: &Arc<Shared>,
        wires: &Arc<Wires>,
        own: &str,
        live: &[&str],
        options: SessionOptions,
    ) -> Self {
        let store = Handle::new(shared, members(own, live));
        let replica = LiveReplica::new("default");
        let as_store = || Arc::clone(&store) as Arc<dyn Store>;
        let peers = Arc::clone(wires) as Arc<dyn Peers>;
        let engine = Engine::new(as_store(), Arc::clone(&replica), peers, options);
        wires.engines.lock().insert(own.into(), Arc::downgrade(&engine));
        let stop = CancellationToken::new();
        let witness = Arc::new(Witness::default());
        let observers: Vec<Arc<dyn Observer>> = vec![Arc::clone(&engine) as _, Arc::clone(&witness) as _];
        tokio::spawn(Feed::new(as_store(), Arc::clone(&replica), observers).run(stop.clone()));
        tokio::spawn(Arc::clone(&engine).run(stop.clone()));
        replica.wait_loaded().await;
        Self {
            shared: Arc::clone(shared),
            writer: Writer::new(as_store(), Arc::clone(&replica)),
            store,
            live: replica,
            engine,
            witness,
            _stop: stop.drop_guard(),
        }
    }

    pub async fn create(&self, ttl_seconds: u32, grace_seconds: u32) -> String {
        let new = NewSession { name: "test".to_owned(), ttl_seconds, grace_seconds };
        let made = self.engine.create(&Caller::anonymous(), &Source::api(), new).await;
        made.expect("create").id.to_string()
    }

    pub async fn create_many(&self, count: usize, ttl_seconds: u32, grace_seconds: u32) -> Vec<String> {
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            ids.push(self.create(ttl_seconds, grace_seconds).await);
        }
        ids
    }

    pub async fn try_renew(&self, ids: &[String]) -> Result<Vec<RenewalState>, Unreached> {
        let renewed = self.engine.renew(&Caller::anonymous(), ids).await?;
        assert_eq!(renewed.len(), ids.len());
        Ok(renewed.into_iter().map(|renewal| renewal.state).collect())
    }

    pub async fn renew(&self, id: &str) -> RenewalState {
        self.try_renew(&[id.to_owned()]).await.expect("renew")[0]
    }

    /// Renews every 5 s for so many seconds.
    pub async fn renew_for(&self, ids: &[String], seconds: u64) {
        for _ in 0..seconds / 5 {
            sleep(5).await;
            if !ids.is_empty() {
                self.try_renew(ids).await.expect("renew");
            }
        }
    }

    pub async fn put(&self, source: &str, id: &str, session: &str) -> Result<(), WriteError> {
        let source: Source = source.parse().unwrap();
        let document = InstanceDocument {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            session: Some(session.to_owned()),
            ..InstanceDocument::default()
        };
        let key = InstanceKey { namespace: "prod".into(), service: Some("web".into()), source, id: id.into() };
        let acting = Caller::anonymous().act_as(key.source.clone()).unwrap();
        self.writer.put_instance(&acting, key, document, Guard::None).await.map(|_| ())
    }

    /// The instance's health; none where there is no such instance.
    pub fn health(&self, id: &str) -> Option<Health> {
        let key =
            InstanceKey { namespace: "prod".into(), service: Some("web".into()), source: Source::api(), id: id.into() };
        self.live.read().instance(&key).map(|view| view.effective)
    }

    pub fn state(&self, id: &str) -> Option<SessionState> {
        self.live.read().session_record(id).map(|(session, _)| session.state)
    }

    /// How many of the sessions are in a state.
    pub fn count(&self, ids: &[String], state: SessionState) -> usize {
        ids.iter().filter(|id| self.state(id) == Some(state)).count()
    }
}

pub async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Sleeps a little longer than the engine does between two judgements.
pub async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}
