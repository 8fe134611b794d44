//! The registry of the same process, for parts that are written against [`Registry`]: the calls that its REST API makes,
//! without HTTP and, but for streams, without JSON between.

mod reads;
mod watch;

use fingerpost_catalog::document::{
    HealthDocument, HistoryDocument, InstanceDocument, ListDocument, NamespaceDocument, NewSession, ObjectDocument,
    Renewal, ServiceDocument, SessionDocument, SessionEndedDocument, SessionListDocument,
};
use fingerpost_catalog::{Health, InstanceKey, Position, Report, Source, validate_dns_label};
use fingerpost_client::{
    BatchReply, Error, Guard, ListRequest, Operation, Registry, ReplaceReply, Result, SessionRequest, WatchEvent,
    WatchRequest, Written,
};
use fingerpost_registry::access::{Acting, Caller, Role};
use fingerpost_registry::api::{self, Problem, reading};
use fingerpost_registry::checks::{self, History, Outcome};
use fingerpost_registry::live::LiveReplica;
use fingerpost_registry::sessions::Engine;
use fingerpost_registry::validate::{self, Invalid};
use fingerpost_registry::watch::{Hub, StreamLimits};
use fingerpost_registry::writes::{self, Verb, Writer};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Most operations of [`Registry::bulk`], as over REST.
const BULK: usize = 10_000;

/// The parts of the process that make its registry.
#[derive(Clone)]
pub(crate) struct LocalRegistry {
    pub(crate) live: Arc<LiveReplica>,
    pub(crate) writer: Writer,
    pub(crate) sessions: Arc<Engine>,
    pub(crate) checks: checks::Runner,
    pub(crate) history: Arc<History>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) stream_limits: StreamLimits,
    /// Ends streams.
    pub(crate) shutdown: CancellationToken,
}

/// A refusal, as a caller over HTTP would have it.
fn refusal(problem: impl Into<Problem>) -> Error {
    let problem: Problem = problem.into();
    let retry_after = problem.retry_after_seconds().map(|seconds| Duration::from_secs(u64::from(seconds)));
    let document = problem.document();
    Error::from_problem(document.status, document, retry_after)
}

fn guarded(guard: Guard) -> writes::Guard {
    match guard {
        Guard::None => writes::Guard::None,
        Guard::Present => writes::Guard::Present,
        Guard::Absent => writes::Guard::Absent,
        Guard::At(position) => writes::Guard::At(position),
    }
}

fn named<'a>(name: &'a Option<String>, pointer: &str) -> Result<&'a str> {
    name.as_deref().ok_or_else(|| refusal(Invalid::new(pointer, "is needed here")))
}

fn not_found(what: impl std::fmt::Display) -> Error {
    Error::NotFound { detail: format!("{what} does not exist") }
}

fn operation(operation: Operation) -> (Verb, ObjectDocument) {
    match operation {
        Operation::Put(object) => (Verb::Put, object),
        Operation::Delete(object) => (Verb::Delete, object),
    }
}

impl LocalRegistry {
    /// A part of this process may do everything; whom it serves is decided elsewhere.
    fn caller() -> Caller {
        Caller { name: "this process".into(), role: Role::Admin }
    }

    fn acting(&self, source: &Source) -> Result<Acting> {
        reading::loaded(&self.live).map_err(refusal)?;
        Self::caller().act_as(source.clone()).map_err(refusal)
    }

    fn key(&self, key: &InstanceKey) -> Result<(Acting, InstanceKey)> {
        let acting = self.acting(&key.source)?;
        let key = writes::instance_key(&acting, &key.namespace, key.service.as_deref(), &key.id).map_err(refusal)?;
        Ok((acting, key))
    }

    fn instance(&self, key: &InstanceKey) -> Result<InstanceDocument> {
        let view = self.live.read().instance(key);
        let view = view.ok_or_else(|| not_found(format_args!("instance `{}`", key.id)))?;
        Ok(InstanceDocument::from_view(&view, self.live.epoch()))
    }

    /// Applies operations together, and waits until they are shown here.
    async fn apply(
        &self,
        acting: &Acting,
        items: &[(Verb, ObjectDocument)],
    ) -> Result<Vec<writes::Written>, writes::WriteError> {
        let written = self.writer.batch(acting, items).await?;
        if let Some(last) = written.last() {
            self.writer.shown(last.position).await?;
        }
        Ok(written)
    }

    async fn each(&self, source: &Source, operations: Vec<Operation>) -> Result<BatchReply> {
        let acting = self.acting(source)?;
        if operations.len() > BULK {
            let detail = format!("{} operations, and at most {BULK} are allowed", operations.len());
            return Err(refusal(Invalid::new("/operations", detail)));
        }
        let mut results = Vec::with_capacity(operations.len());
        for one in operations {
            let deletes = matches!(one, Operation::Delete(_));
            let written = self.apply(&acting, &[operation(one)]).await;
            results.push(match written {
                Ok(written) if deletes && !written.iter().any(|written| written.changed) => {
                    Err(not_found("it, as the acting source's,"))
                }
                Ok(_) => Ok(()),
                Err(error) => Err(refusal(error)),
            });
        }
        Ok(BatchReply { revision: self.live.position(), results })
    }
}

/// The reply to a write whose object is there afterwards; where it is gone again by then, as it was written.
fn reply<T: Clone>(done: writes::Written, object: Option<(T, Option<Position>)>, given: &T) -> Written<T> {
    let (object, revision) = object.unwrap_or_else(|| (given.clone(), None));
    Written { object, created: done.created, revision: revision.unwrap_or(done.position) }
}

impl Registry for LocalRegistry {
    fn put_namespace<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a NamespaceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<NamespaceDocument>>> {
        Box::pin(async move {
            let (acting, name) = (self.acting(source)?, named(&namespace.name, "/name")?);
            let done = self.writer.put_namespace(&acting, name, namespace.clone(), guarded(guard)).await;
            let done = done.map_err(refusal)?;
            let view = self.live.read().namespace(name);
            let document = view.map(|view| NamespaceDocument::from_view(&view, done.position.epoch));
            Ok(reply(done, document.map(|document| (document.clone(), document.revision)), namespace))
        })
    }

    fn put_service<'a>(
        &'a self,
        source: &'a Source,
        service: &'a ServiceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<ServiceDocument>>> {
        Box::pin(async move {
            let acting = self.acting(source)?;
            let (namespace, name) = (named(&service.namespace, "/namespace")?, named(&service.name, "/name")?);
            let done = self.writer.put_service(&acting, namespace, name, service.clone(), guarded(guard)).await;
            let done = done.map_err(refusal)?;
            let view = self.live.read().service(namespace, name);
            let document = view.map(|view| ServiceDocument::from_view(&view, done.position.epoch));
            Ok(reply(done, document.map(|document| (document.clone(), document.revision)), service))
        })
    }

    fn put_instance<'a>(
        &'a self,
        source: &'a Source,
        instance: &'a InstanceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<InstanceDocument>>> {
        Box::pin(async move {
            let acting = self.acting(source)?;
            let (namespace, id) = (named(&instance.namespace, "/namespace")?, named(&instance.id, "/id")?);
            let key = writes::instance_key(&acting, namespace, instance.service.as_deref(), id).map_err(refusal)?;
            let done = self.writer.put_instance(&acting, key.clone(), instance.clone(), guarded(guard)).await;
            let done = done.map_err(refusal)?;
            let document = self.instance(&key).ok();
            Ok(reply(done, document.map(|document| (document.clone(), document.revision)), instance))
        })
    }

    fn delete_namespace<'a>(
        &'a self,
        source: &'a Source,
        name: &'a str,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Position>> {
        Box::pin(async move {
            let key = writes::namespace_key(&self.acting(source)?, name).map_err(refusal)?;
            Ok(self.writer.delete_declaration(key, guarded(guard)).await.map_err(refusal)?.position)
        })
    }

    fn delete_service<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a str,
        name: &'a str,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Position>> {
        Box::pin(async move {
            let key = writes::service_key(&self.acting(source)?, namespace, name).map_err(refusal)?;
            Ok(self.writer.delete_declaration(key, guarded(guard)).await.map_err(refusal)?.position)
        })
    }

    fn delete_instance<'a>(&'a self, instance: &'a InstanceKey, guard: Guard) -> BoxFuture<'a, Result<Position>> {
        Box::pin(async move {
            let (_, key) = self.key(instance)?;
            Ok(self.writer.delete_instance(key, guarded(guard)).await.map_err(refusal)?.position)
        })
    }

    fn replace_instances<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a str,
        service: &'a str,
        instances: Vec<InstanceDocument>,
    ) -> BoxFuture<'a, Result<ReplaceReply>> {
        Box::pin(async move {
            let acting = self.acting(source)?;
            for (pointer, name) in [("/namespace", namespace), ("/service", service)] {
                validate_dns_label(name).map_err(|error| refusal(Invalid::new(pointer, error)))?;
            }
            if *source == Source::api() {
                let detail = "replacing a whole set needs a source of its own, such as `api/<owner>`";
                return Err(refusal(Invalid::new("/source", detail)));
            }
            let replaced = self.writer.replace_instances(&acting, namespace, service, instances).await;
            let (replaced, revision) = replaced.map_err(refusal)?;
            self.writer.shown(revision).await.map_err(refusal)?;
            let writes::Replaced { added, updated, removed, unchanged } = replaced;
            let [added, updated, removed, unchanged] = [added, updated, removed, unchanged].map(|count| count as u64);
            Ok(ReplaceReply { revision, added, updated, removed, unchanged })
        })
    }

    fn report_health<'a>(
        &'a self,
        instance: &'a InstanceKey,
        health: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<Position>> {
        Box::pin(async move {
            let (acting, key) = self.key(instance)?;
            let report = Report { health: health.health, note: health.note.clone(), ..Report::default() };
            let done = self.writer.report_health(&acting, key, report, writes::Guard::None).await;
            Ok(done.map_err(refusal)?.position)
        })
    }

    fn drain<'a>(&'a self, instance: &'a InstanceKey, note: &'a str) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(async move {
            let (_, key) = self.key(instance)?;
            self.writer.drain(key.clone(), note, writes::Guard::None).await.map_err(refusal)?;
            self.instance(&key)
        })
    }

    fn undrain<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(async move {
            let (_, key) = self.key(instance)?;
            self.writer.undrain(key.clone(), writes::Guard::None).await.map_err(refusal)?;
            self.instance(&key)
        })
    }

    fn report_check<'a>(
        &'a self,
        instance: &'a InstanceKey,
        check: &'a str,
        health: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(async move {
            let (_, key) = self.key(instance)?;
            validate_dns_label(check).map_err(|error| refusal(Invalid::new("/check", error)))?;
            validate::note(&health.note).map_err(refusal)?;
            if health.health == Health::Unknown {
                let detail = "a report says `passing`, `warning` or `critical`; who knows nothing reports nothing";
                return Err(refusal(Invalid::new("/health", detail)));
            }
            let outcome = Outcome::new(health.health, &health.note);
            self.checks.report(&self.writer, key.clone(), check, outcome).await.map_err(refusal)?;
            self.instance(&key)
        })
    }

    fn history<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<HistoryDocument>> {
        Box::pin(async move {
            self.instance(instance)?;
            Ok(HistoryDocument { items: self.history.of(instance) })
        })
    }

    fn batch<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>> {
        Box::pin(async move {
            let acting = self.acting(source)?;
            let items: Vec<(Verb, ObjectDocument)> = operations.into_iter().map(operation).collect();
            let written = self.apply(&acting, &items).await.map_err(refusal)?;
            let revision = written.first().map_or_else(|| self.live.position(), |written| written.position);
            Ok(BatchReply { revision, results: written.iter().map(|_| Ok(())).collect() })
        })
    }

    fn bulk<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>> {
        Box::pin(self.each(source, operations))
    }

    fn get_namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NamespaceDocument>> {
        Box::pin(async move { reads::namespace(&self.live, name) })
    }

    fn get_service<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<ServiceDocument>> {
        Box::pin(async move { reads::service(&self.live, namespace, name) })
    }

    fn get_declarations<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<ListDocument<ServiceDocument>>> {
        Box::pin(async move { reads::declarations(&self.live, namespace, name) })
    }

    fn get_instance<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(async move {
            reading::loaded(&self.live).map_err(refusal)?;
            self.instance(instance)
        })
    }

    fn list_namespaces(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<NamespaceDocument>>> {
        Box::pin(reads::namespaces(&self.live, request))
    }

    fn list_services(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<ServiceDocument>>> {
        Box::pin(reads::services(&self.live, request))
    }

    fn list_instances(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<InstanceDocument>>> {
        Box::pin(reads::instances(&self.live, request))
    }

    fn create_session<'a>(
        &'a self,
        source: &'a Source,
        session: &'a NewSession,
    ) -> BoxFuture<'a, Result<SessionDocument>> {
        Box::pin(async move {
            let acting = self.acting(source)?;
            let view =
                self.sessions.create(&Self::caller(), acting.source(), session.clone()).await.map_err(refusal)?;
            Ok(self.sessions.document(&view))
        })
    }

    fn renew_sessions<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Vec<Renewal>>> {
        Box::pin(async move {
            reading::loaded(&self.live).map_err(refusal)?;
            api::renew(&self.sessions, &Self::caller(), ids).await.map_err(refusal)
        })
    }

    fn list_sessions(&self, request: SessionRequest) -> BoxFuture<'_, Result<SessionListDocument>> {
        Box::pin(async move { reads::sessions(&self.live, &self.sessions, request) })
    }

    fn get_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SessionDocument>> {
        Box::pin(async move {
            reading::loaded(&self.live).map_err(refusal)?;
            let view = self.live.read().session(id);
            let view = view.ok_or_else(|| not_found(format_args!("session `{id}`")))?;
            Ok(self.sessions.document(&view))
        })
    }

    fn end_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SessionEndedDocument>> {
        Box::pin(async move {
            reading::loaded(&self.live).map_err(refusal)?;
            let (instances, revision) = self.sessions.end(&Self::caller(), id).await.map_err(refusal)?;
            Ok(SessionEndedDocument { instances: instances as u64, revision })
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchEvent>> {
        watch::follow(self, request)
    }
}
