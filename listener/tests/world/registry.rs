//! A registry in memory that knows the calls which the listener makes, and counts them.

use fingerpost_catalog::document::{
    HealthDocument, HistoryDocument, InstanceDocument, ListDocument, NamespaceDocument, NewSession, ObjectDocument,
    Renewal, ServiceDocument, SessionDocument, SessionEndedDocument, SessionListDocument,
};
use fingerpost_catalog::{Epoch, InstanceKey, Position, Source};
use fingerpost_client::{
    BatchReply, Error, Guard, ListRequest, Operation, Registry, ReplaceReply, Result, SessionRequest, WatchEvent,
    WatchRequest, Written,
};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, ObjectDocument>,
    puts: u64,
    deletes: u64,
    /// Instances of this id are refused.
    refuses: Option<&'static str>,
    /// Services with this label are refused.
    refused_label: Option<&'static str>,
    /// Batches fail, and whether they were applied is not known.
    fails: bool,
    /// Batches are applied, and whether they were is not known.
    loses_replies: bool,
    /// Removals that were sent long ago and come before the next batch.
    late: Vec<String>,
}

pub(crate) struct MemoryRegistry {
    inner: Mutex<Inner>,
    written: watch::Sender<u64>,
}

fn key(object: &ObjectDocument) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match object {
        ObjectDocument::Namespace(object) => format!("namespace {}", text(&object.name)),
        ObjectDocument::Service(object) => format!("service {}/{}", text(&object.namespace), text(&object.name)),
        ObjectDocument::Instance(object) => {
            format!("instance {}/{}/{}", text(&object.namespace), text(&object.service), text(&object.id))
        }
    }
}

fn absent<T>() -> BoxFuture<'static, Result<T>>
where
    T: Send + 'static,
{
    Box::pin(async { Err(Error::Unavailable { detail: "not in this registry".into(), retry_after: None }) })
}

fn position() -> Position {
    Position::new(Epoch(1), 1)
}

impl MemoryRegistry {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), written: watch::Sender::new(0) })
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.inner.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().unwrap().objects.len()
    }

    /// How many records were put and deleted.
    pub(crate) fn writes(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap();
        (inner.puts, inner.deletes)
    }

    pub(crate) fn refuse(&self, id: Option<&'static str>) {
        self.inner.lock().unwrap().refuses = id;
    }

    pub(crate) fn refuse_labelled(&self, label: Option<&'static str>) {
        self.inner.lock().unwrap().refused_label = label;
    }

    pub(crate) fn service(&self, key: &str) -> ServiceDocument {
        match &self.inner.lock().unwrap().objects[&format!("service {key}")] {
            ObjectDocument::Service(service) => service.clone(),
            _ => panic!("no service"),
        }
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.inner.lock().unwrap().fails = fails;
    }

    /// Has a removal that was sent before come only now, when it is next written.
    pub(crate) fn remove_late(&self, key: &str) {
        self.inner.lock().unwrap().late.push(key.to_owned());
    }

    pub(crate) fn lose_replies(&self, loses: bool) {
        self.inner.lock().unwrap().loses_replies = loses;
    }

    pub(crate) fn remove(&self, key: &str) {
        self.inner.lock().unwrap().objects.remove(key).unwrap();
    }

    /// Waits until the keys are as told.
    pub(crate) async fn until(&self, right: impl Fn(&[String]) -> bool) {
        let mut written = self.written.subscribe();
        while !right(&self.keys()) {
            written.changed().await.unwrap();
        }
    }

    /// Waits until a service that is there is as told.
    pub(crate) async fn until_service(&self, key: &str, right: impl Fn(&ServiceDocument) -> bool) {
        let mut written = self.written.subscribe();
        while !right(&self.service(key)) {
            written.changed().await.unwrap();
        }
    }

    fn list<T>(&self, pick: impl Fn(&ObjectDocument) -> Option<T>) -> ListDocument<T> {
        let items = self.inner.lock().unwrap().objects.values().filter_map(pick).collect();
        ListDocument { revision: position(), items, continue_token: None, panic: false }
    }
}

impl Registry for MemoryRegistry {
    fn batch<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut inner = self.inner.lock().unwrap();
            assert!(operations.len() <= 100);
            for key in std::mem::take(&mut inner.late) {
                inner.objects.remove(&key);
            }
            if inner.fails {
                return Err(Error::UnknownOutcome { detail: "told to fail".into() });
            }
            for (n, operation) in operations.iter().enumerate() {
                let refused = match operation {
                    Operation::Put(ObjectDocument::Instance(instance)) => {
                        instance.id.as_deref().is_some_and(|id| inner.refuses == Some(id))
                    }
                    Operation::Put(ObjectDocument::Service(service)) => {
                        inner.refused_label.is_some_and(|label| service.labels.get(label).is_some())
                    }
                    _ => false,
                };
                if refused {
                    return Err(Error::Invalid {
                        status: 422,
                        detail: "told to refuse".into(),
                        pointer: Some(format!("/operations/{n}/object/id")),
                        parameter: None,
                    });
                }
            }
            let count = operations.len();
            for operation in operations {
                match operation {
                    Operation::Put(mut object) => {
                        match &mut object {
                            ObjectDocument::Namespace(object) => object.sources = vec![source.clone()],
                            ObjectDocument::Service(object) => object.sources = vec![source.clone()],
                            ObjectDocument::Instance(_) => {}
                        }
                        inner.puts += 1;
                        inner.objects.insert(key(&object), object);
                    }
                    Operation::Delete(object) => {
                        let removed = inner.objects.remove(&key(&object)).is_some();
                        inner.deletes += u64::from(removed);
                    }
                }
            }
            let loses_replies = inner.loses_replies;
            drop(inner);
            self.written.send_modify(|count| *count += 1);
            if loses_replies {
                return Err(Error::UnknownOutcome { detail: "told to lose replies".into() });
            }
            Ok(BatchReply { revision: position(), results: (0..count).map(|_| Ok(())).collect() })
        })
    }

    fn list_namespaces(&self, _: ListRequest) -> BoxFuture<'_, Result<ListDocument<NamespaceDocument>>> {
        let list = self.list(|object| match object {
            ObjectDocument::Namespace(object) => Some(object.clone()),
            _ => None,
        });
        Box::pin(async { Ok(list) })
    }

    fn list_services(&self, _: ListRequest) -> BoxFuture<'_, Result<ListDocument<ServiceDocument>>> {
        let list = self.list(|object| match object {
            ObjectDocument::Service(object) => Some(object.clone()),
            _ => None,
        });
        Box::pin(async { Ok(list) })
    }

    fn list_instances(&self, _: ListRequest) -> BoxFuture<'_, Result<ListDocument<InstanceDocument>>> {
        let list = self.list(|object| match object {
            ObjectDocument::Instance(object) => Some((**object).clone()),
            _ => None,
        });
        Box::pin(async { Ok(list) })
    }

    fn put_namespace<'a>(
        &'a self,
        _: &'a Source,
        _: &'a NamespaceDocument,
        _: Guard,
    ) -> BoxFuture<'a, Result<Written<NamespaceDocument>>> {
        absent()
    }

    fn put_service<'a>(
        &'a self,
        _: &'a Source,
        _: &'a ServiceDocument,
        _: Guard,
    ) -> BoxFuture<'a, Result<Written<ServiceDocument>>> {
        absent()
    }

    fn put_instance<'a>(
        &'a self,
        _: &'a Source,
        _: &'a InstanceDocument,
        _: Guard,
    ) -> BoxFuture<'a, Result<Written<InstanceDocument>>> {
        absent()
    }

    fn delete_namespace<'a>(&'a self, _: &'a Source, _: &'a str, _: Guard) -> BoxFuture<'a, Result<Position>> {
        absent()
    }

    fn delete_service<'a>(
        &'a self,
        _: &'a Source,
        _: &'a str,
        _: &'a str,
        _: Guard,
    ) -> BoxFuture<'a, Result<Position>> {
        absent()
    }

    fn delete_instance<'a>(&'a self, _: &'a InstanceKey, _: Guard) -> BoxFuture<'a, Result<Position>> {
        absent()
    }

    fn replace_instances<'a>(
        &'a self,
        _: &'a Source,
        _: &'a str,
        _: &'a str,
        _: Vec<InstanceDocument>,
    ) -> BoxFuture<'a, Result<ReplaceReply>> {
        absent()
    }

    fn report_health<'a>(&'a self, _: &'a InstanceKey, _: &'a HealthDocument) -> BoxFuture<'a, Result<Position>> {
        absent()
    }

    fn drain<'a>(&'a self, _: &'a InstanceKey, _: &'a str) -> BoxFuture<'a, Result<InstanceDocument>> {
        absent()
    }

    fn undrain<'a>(&'a self, _: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>> {
        absent()
    }

    fn report_check<'a>(
        &'a self,
        _: &'a InstanceKey,
        _: &'a str,
        _: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<InstanceDocument>> {
        absent()
    }

    fn history<'a>(&'a self, _: &'a InstanceKey) -> BoxFuture<'a, Result<HistoryDocument>> {
        absent()
    }

    fn bulk<'a>(&'a self, _: &'a Source, _: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>> {
        absent()
    }

    fn get_namespace<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<NamespaceDocument>> {
        absent()
    }

    fn get_service<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<ServiceDocument>> {
        absent()
    }

    fn get_declarations<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<ListDocument<ServiceDocument>>> {
        absent()
    }

    fn get_instance<'a>(&'a self, _: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>> {
        absent()
    }

    fn create_session<'a>(&'a self, _: &'a Source, _: &'a NewSession) -> BoxFuture<'a, Result<SessionDocument>> {
        absent()
    }

    fn renew_sessions<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, Result<Vec<Renewal>>> {
        absent()
    }

    fn list_sessions(&self, _: SessionRequest) -> BoxFuture<'_, Result<SessionListDocument>> {
        absent()
    }

    fn get_session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<SessionDocument>> {
        absent()
    }

    fn end_session<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<SessionEndedDocument>> {
        absent()
    }

    fn watch(&self, _: WatchRequest) -> BoxStream<'static, Result<WatchEvent>> {
        Box::pin(futures_util::stream::empty())
    }
}
