//! The [`Registry`] trait in terms of REST calls.

use super::HttpRegistry;
use super::call::{Call, Reply};
use crate::request::{
    BatchReply, Filter, Guard, ListRequest, Operation, ReplaceReply, SessionRequest, WatchEvent, WatchRequest, Written,
};
use crate::{Error, Registry, Result};
use fingerpost_catalog::document::{
    DrainDocument, FollowerReceipt, FollowerReport, HealthDocument, HistoryDocument, InstanceDocument, ListDocument,
    NamespaceDocument, NewSession, ObjectDocument, ProblemDocument, RenewDocument, Renewal, RenewalsDocument,
    ServiceDocument, SessionDocument, SessionEndedDocument, SessionListDocument,
};
use fingerpost_catalog::{InstanceKey, Position, SessionState, Source};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A set of 10,000 is applied in a hundred commits.
const LONG: Duration = Duration::from_secs(120);

impl Registry for HttpRegistry {
    fn put_namespace<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a NamespaceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<NamespaceDocument>>> {
        Box::pin(async move {
            let path = namespace_path(named(&namespace.name, "/name")?);
            self.put(path, source, namespace, guard).await
        })
    }

    fn put_service<'a>(
        &'a self,
        source: &'a Source,
        service: &'a ServiceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<ServiceDocument>>> {
        Box::pin(async move {
            let path = service_path(named(&service.namespace, "/namespace")?, named(&service.name, "/name")?);
            self.put(path, source, service, guard).await
        })
    }

    fn put_instance<'a>(
        &'a self,
        source: &'a Source,
        instance: &'a InstanceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<InstanceDocument>>> {
        Box::pin(async move {
            let (namespace, id) = (named(&instance.namespace, "/namespace")?, named(&instance.id, "/id")?);
            let path = instance_path(namespace, instance.service.as_deref(), id);
            self.put(path, source, instance, guard).await
        })
    }

    fn delete_namespace<'a>(
        &'a self,
        source: &'a Source,
        name: &'a str,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Position>> {
        Box::pin(self.delete(namespace_path(name).to_vec(), source, guard))
    }

    fn delete_service<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a str,
        name: &'a str,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Position>> {
        Box::pin(self.delete(service_path(namespace, name).to_vec(), source, guard))
    }

    fn delete_instance<'a>(&'a self, instance: &'a InstanceKey, guard: Guard) -> BoxFuture<'a, Result<Position>> {
        Box::pin(self.delete(key_path(instance), &instance.source, guard))
    }

    fn replace_instances<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a str,
        service: &'a str,
        instances: Vec<InstanceDocument>,
    ) -> BoxFuture<'a, Result<ReplaceReply>> {
        #[derive(Serialize)]
        struct Items {
            items: Vec<InstanceDocument>,
        }
        Box::pin(async move {
            let path = service_path(namespace, service).into_iter().chain(["instances"]);
            let call = Call::new(Method::PUT, path).query("source", Some(source)).timeout(LONG);
            self.send(call.json(&Items { items: instances })?).await?.json()
        })
    }

    fn report_health<'a>(
        &'a self,
        instance: &'a InstanceKey,
        health: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<Position>> {
        Box::pin(async move {
            let path = key_path(instance).into_iter().chain(["health"]);
            let call = Call::new(Method::PUT, path).query("source", Some(&instance.source)).json(health)?;
            self.send(call).await?.position()
        })
    }

    fn drain<'a>(&'a self, instance: &'a InstanceKey, note: &'a str) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(async move {
            let path = key_path(instance).into_iter().chain(["drain"]);
            let body = DrainDocument { note: note.to_owned() };
            self.get(Call::new(Method::PUT, path).query("source", Some(&instance.source)).json(&body)?).await
        })
    }

    fn undrain<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>> {
        let path = key_path(instance).into_iter().chain(["drain"]);
        Box::pin(self.get(Call::new(Method::DELETE, path).query("source", Some(&instance.source))))
    }

    fn report_check<'a>(
        &'a self,
        instance: &'a InstanceKey,
        check: &'a str,
        health: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(async move {
            let path = key_path(instance).into_iter().chain(["checks", check]);
            self.get(Call::new(Method::PUT, path).query("source", Some(&instance.source)).json(health)?).await
        })
    }

    fn history<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<HistoryDocument>> {
        let path = key_path(instance).into_iter().chain(["history"]);
        Box::pin(self.fresh(Call::new(Method::GET, path).query("source", Some(&instance.source))))
    }

    fn batch<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>> {
        Box::pin(self.operations(source, operations, true))
    }

    fn bulk<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>> {
        Box::pin(self.operations(source, operations, false))
    }

    fn get_namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NamespaceDocument>> {
        Box::pin(self.fresh(Call::new(Method::GET, namespace_path(name))))
    }

    fn get_service<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<ServiceDocument>> {
        Box::pin(self.fresh(Call::new(Method::GET, service_path(namespace, name))))
    }

    fn get_declarations<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<ListDocument<ServiceDocument>>> {
        Box::pin(self.fresh(Call::new(Method::GET, service_path(namespace, name)).query("view", Some("sources"))))
    }

    fn get_instance<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>> {
        Box::pin(self.fresh(Call::new(Method::GET, key_path(instance)).query("source", Some(&instance.source))))
    }

    fn list_namespaces(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<NamespaceDocument>>> {
        Box::pin(async move {
            if request.filter.namespace.is_some() || request.filter.service.is_some() {
                return Err(parameter("namespace", "a list of namespaces can't be narrowed to one: get it instead"));
            }
            self.list(vec!["v1", "namespaces"], &request).await
        })
    }

    fn list_services(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<ServiceDocument>>> {
        Box::pin(async move {
            if request.filter.service.is_some() {
                return Err(parameter("service", "a list of services can't be narrowed to one: get it instead"));
            }
            let path = match &request.filter.namespace {
                Some(namespace) => vec!["v1", "namespaces", namespace, "services"],
                None => vec!["v1", "services"],
            };
            self.list(path, &request).await
        })
    }

    fn list_instances(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<InstanceDocument>>> {
        Box::pin(async move {
            let path = match (&request.filter.namespace, &request.filter.service) {
                (Some(namespace), Some(service)) => {
                    vec!["v1", "namespaces", namespace, "services", service, "instances"]
                }
                (Some(namespace), None) => vec!["v1", "namespaces", namespace, "instances"],
                (None, None) => vec!["v1", "instances"],
                (None, Some(_)) => return Err(parameter("service", "name the service's namespace, too")),
            };
            self.list(path, &request).await
        })
    }

    fn create_session<'a>(
        &'a self,
        source: &'a Source,
        session: &'a NewSession,
    ) -> BoxFuture<'a, Result<SessionDocument>> {
        Box::pin(async move {
            let call = Call::new(Method::POST, ["v1", "sessions"]).query("source", Some(source)).json(session)?;
            self.send(call).await?.json()
        })
    }

    fn renew_sessions<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Vec<Renewal>>> {
        Box::pin(async move {
            let call = Call::new(Method::POST, ["v1", "sessions", "renew"]).repeatable();
            let call = call.timeout(self.inner.options.renewal_timeout).json(&RenewDocument { ids: ids.to_vec() })?;
            let reply = self.send(call).await?;
            let renewals: RenewalsDocument = reply.json()?;
            match renewals.items.len() == ids.len() {
                true => Ok(renewals.items),
                false => Err(reply.unexpected(format!("{} renewals for {} ids", renewals.items.len(), ids.len()))),
            }
        })
    }

    fn list_sessions(&self, request: SessionRequest) -> BoxFuture<'_, Result<SessionListDocument>> {
        Box::pin(async move {
            let state = request.state.map(|state| match state {
                SessionState::Alive => "alive",
                SessionState::Suspect => "suspect",
                SessionState::Expired => "expired",
            });
            let call = Call::new(Method::GET, ["v1", "sessions"])
                .query("name", request.name)
                .query("source", request.source)
                .query("state", state)
                .query("limit", request.limit)
                .query("continue", request.continue_token);
            self.fresh(call).await
        })
    }

    fn get_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SessionDocument>> {
        Box::pin(self.fresh(Call::new(Method::GET, ["v1", "sessions", id])))
    }

    fn end_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SessionEndedDocument>> {
        Box::pin(async move {
            let call = Call::new(Method::DELETE, ["v1", "sessions", id]).timeout(LONG);
            self.send(call).await?.json()
        })
    }

    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchEvent>> {
        super::watch::watch(self.clone(), request)
    }
}

impl HttpRegistry {
    /// Changes single fields of an instance by a JSON merge patch (RFC 7396). Not part of [`Registry`], which knows no
    /// JSON.
    pub async fn patch_instance(
        &self,
        instance: &InstanceKey,
        patch: &serde_json::Value,
        guard: Guard,
    ) -> Result<Written<InstanceDocument>> {
        let call = Call::new(Method::PATCH, key_path(instance)).query("source", Some(&instance.source)).guard(guard)?;
        written(&self.send(call.body_as("application/merge-patch+json", patch)?).await?)
    }

    /// Says for a follower what it shows.
    pub(crate) async fn report_follower(
        &self,
        id: &str,
        report: &FollowerReport,
        timeout: Duration,
    ) -> Result<FollowerReceipt> {
        let call = Call::new(Method::POST, ["v1", "followers", id]).repeatable().timeout(timeout);
        self.get(call.json(report)?).await
    }

    /// An instance by its id alone, of the highest-ranked source that has one of this id.
    pub async fn find_instance(&self, namespace: &str, service: Option<&str>, id: &str) -> Result<InstanceDocument> {
        self.fresh(Call::new(Method::GET, instance_path(namespace, service, id))).await
    }

    /// Each source's instance of an id, the highest-ranked source's first; at least one.
    pub async fn find_instances(
        &self,
        namespace: &str,
        service: Option<&str>,
        id: &str,
    ) -> Result<ListDocument<InstanceDocument>> {
        self.fresh(Call::new(Method::GET, instance_path(namespace, service, id)).query("view", Some("sources"))).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.send(call).await?.json()
    }

    /// A read of what is at least as fresh as this handle wants it.
    async fn fresh<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.get(call.query("minRevision", self.at_least)).await
    }

    async fn put<T: Serialize + DeserializeOwned>(
        &self,
        path: impl IntoIterator<Item = &str>,
        source: &Source,
        object: &T,
        guard: Guard,
    ) -> Result<Written<T>> {
        let call = Call::new(Method::PUT, path).query("source", Some(source)).guard(guard)?.json(object)?;
        written(&self.send(call).await?)
    }

    async fn delete(&self, path: Vec<&str>, source: &Source, guard: Guard) -> Result<Position> {
        let call = Call::new(Method::DELETE, path).query("source", Some(source)).guard(guard)?;
        self.send(call).await?.position()
    }

    async fn list<T: DeserializeOwned>(&self, path: Vec<&str>, request: &ListRequest) -> Result<ListDocument<T>> {
        let call = filtered(Call::new(Method::GET, path), &request.filter)
            .query("limit", request.limit)
            .query("continue", request.continue_token.as_ref())
            .query("minRevision", request.min_revision.or(self.at_least));
        self.get(call).await
    }

    async fn operations(&self, source: &Source, operations: Vec<Operation>, atomic: bool) -> Result<BatchReply> {
        #[derive(Serialize)]
        struct OperationDocument<'a> {
            op: &'static str,
            #[serde(flatten)]
            object: &'a ObjectDocument,
        }
        #[derive(Serialize)]
        struct BatchDocument<'a> {
            operations: Vec<OperationDocument<'a>>,
        }
        #[derive(Deserialize)]
        struct BatchReplyDocument {
            revision: Position,
            #[serde(default)]
            results: Vec<BatchResult>,
        }
        let body = BatchDocument {
            operations: operations
                .iter()
                .map(|operation| match operation {
                    Operation::Put(object) => OperationDocument { op: "put", object },
                    Operation::Delete(object) => OperationDocument { op: "delete", object },
                })
                .collect(),
        };
        let mut call = Call::new(Method::POST, ["v1", "batch"]).query("source", Some(source)).json(&body)?;
        if !atomic {
            call = call.query("atomic", Some(false)).timeout(LONG).in_steps();
        }
        let reply: BatchReplyDocument = self.send(call).await?.json()?;
        let mut results: Vec<Result<()>> = reply.results.into_iter().map(outcome).collect();
        // An atomic batch that succeeds may leave out what goes without saying.
        results.resize_with(operations.len(), || Ok(()));
        Ok(BatchReply { revision: reply.revision, results })
    }
}

/// What became of one operation of a batch.
#[derive(Deserialize)]
struct BatchResult {
    status: u16,
    #[serde(default)]
    problem: ProblemDocument,
}

fn outcome(result: BatchResult) -> Result<()> {
    match result.status {
        status @ 400.. => Err(Error::from_problem(status, result.problem, None)),
        _ => Ok(()),
    }
}

/// Narrows a list or a watch. The namespace and service are the path's, or the caller's, to say.
pub(super) fn filtered(call: Call, filter: &Filter) -> Call {
    let health: Vec<&str> = filter.health.iter().map(|health| health.as_str()).collect();
    call.query("selector", (!filter.selector.is_everything()).then_some(&filter.selector))
        .query("health", (!health.is_empty()).then(|| health.join(",")))
        .query("source", filter.source.as_ref())
}

fn written<T: DeserializeOwned>(reply: &Reply) -> Result<Written<T>> {
    Ok(Written { object: reply.json()?, created: reply.status == StatusCode::CREATED, revision: reply.position()? })
}

fn parameter(name: &str, detail: &str) -> Error {
    Error::Invalid { status: 0, detail: detail.to_owned(), pointer: None, parameter: Some(name.to_owned()) }
}

fn named<'a>(field: &'a Option<String>, pointer: &str) -> Result<&'a str> {
    field.as_deref().ok_or_else(|| Error::field(pointer, "is missing"))
}

fn namespace_path(name: &str) -> [&str; 3] {
    ["v1", "namespaces", name]
}

fn service_path<'a>(namespace: &'a str, name: &'a str) -> [&'a str; 5] {
    ["v1", "namespaces", namespace, "services", name]
}

fn instance_path<'a>(namespace: &'a str, service: Option<&'a str>, id: &'a str) -> Vec<&'a str> {
    match service {
        Some(service) => vec!["v1", "namespaces", namespace, "services", service, "instances", id],
        None => vec!["v1", "namespaces", namespace, "instances", id],
    }
}

fn key_path(key: &InstanceKey) -> Vec<&str> {
    instance_path(&key.namespace, key.service.as_deref(), &key.id)
}
