//! The contract between the registry and all who write to it, read from it or follow it.

use crate::Result;
use crate::request::{
    BatchReply, Guard, ListRequest, Operation, ReplaceReply, SessionRequest, WatchEvent, WatchRequest, Written,
};
use fingerpost_catalog::document::{
    HealthDocument, HistoryDocument, InstanceDocument, ListDocument, NamespaceDocument, NewSession, Renewal,
    ServiceDocument, SessionDocument, SessionEndedDocument, SessionListDocument,
};
use fingerpost_catalog::{InstanceKey, Position, Source};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// A registry, in this process or elsewhere.
///
/// Every write names the source that speaks, and touches only what that source declared. When a write returns, it is
/// durable (as far as its source asks for that) and the registry that took it shows it to readers. Documents that are
/// written must carry their identity (`namespace`, `name`, `service`, `id`); fields that only replies carry are ignored.
///
/// Puts and deletes may be repeated: a put that changes nothing makes no position.
///
/// ```no_run
/// use fingerpost_client::catalog::{Source, document::{InstanceDocument, ObjectDocument}};
/// use fingerpost_client::{Error, Filter, Guard, ListRequest, Operation, Registry, Result};
///
/// /// The same for a registry in this process and for one elsewhere.
/// async fn rename(registry: &dyn Registry, source: &Source) -> Result<()> {
///     let old = Filter { namespace: Some("old".into()), source: Some(source.clone()), ..Filter::default() };
///     let page = registry.list_instances(ListRequest::from(old)).await?;
///     let moved = page.items.into_iter().map(|instance| {
///         let moved = InstanceDocument { namespace: Some("new".into()), ..instance };
///         Operation::Put(ObjectDocument::Instance(Box::new(moved)))
///     });
///     // All of them or none.
///     registry.batch(source, moved.collect()).await?;
///     match registry.delete_namespace(source, "old", Guard::None).await {
///         Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
///         Err(error) => Err(error),
///     }
/// }
/// ```
pub trait Registry: Send + Sync {
    /// Creates or replaces the source's declaration of a namespace.
    fn put_namespace<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a NamespaceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<NamespaceDocument>>>;

    /// Creates or replaces the source's declaration of a service.
    fn put_service<'a>(
        &'a self,
        source: &'a Source,
        service: &'a ServiceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<ServiceDocument>>>;

    /// Creates or replaces an instance of the source. Where the document says no `health`, the last report stays.
    fn put_instance<'a>(
        &'a self,
        source: &'a Source,
        instance: &'a InstanceDocument,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Written<InstanceDocument>>>;

    /// Removes the source's declaration of a namespace; [`NotFound`](crate::Error::NotFound) where it has none.
    fn delete_namespace<'a>(
        &'a self,
        source: &'a Source,
        name: &'a str,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Position>>;

    /// Removes the source's declaration of a service, not its instances; [`NotFound`](crate::Error::NotFound) where it
    /// has none.
    fn delete_service<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a str,
        name: &'a str,
        guard: Guard,
    ) -> BoxFuture<'a, Result<Position>>;

    /// Removes an instance; [`NotFound`](crate::Error::NotFound) where it does not exist.
    fn delete_instance<'a>(&'a self, instance: &'a InstanceKey, guard: Guard) -> BoxFuture<'a, Result<Position>>;

    /// Makes the source's instances of a service be these and no others, additions before removals. Repairs every drift;
    /// interrupted, it is simply done again. Refused for the bare source `api`, which many writers share.
    ///
    /// ```no_run
    /// # use fingerpost_client::{Registry, catalog::{Source, document::InstanceDocument}};
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// # let team: Source = "api/team".parse().unwrap_or_else(|_| Source::api());
    /// let instance = |id: &str, last| InstanceDocument {
    ///     id: Some(id.into()),
    ///     addresses: vec![[10, 0, 0, last].into()],
    ///     ..Default::default()
    /// };
    /// let all = vec![instance("a", 1), instance("b", 2)];
    /// let replaced = registry.replace_instances(&team, "prod", "web", all).await?;
    /// println!("{} new, {} gone", replaced.added, replaced.removed);
    /// # Ok(())
    /// # }
    /// ```
    fn replace_instances<'a>(
        &'a self,
        source: &'a Source,
        namespace: &'a str,
        service: &'a str,
        instances: Vec<InstanceDocument>,
    ) -> BoxFuture<'a, Result<ReplaceReply>>;

    /// Reports an instance's health, and nothing else of it. Returns the instance's position.
    fn report_health<'a>(
        &'a self,
        instance: &'a InstanceKey,
        health: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<Position>>;

    /// Takes an instance out of answers, and keeps it listed, until [`undrain`](Registry::undrain); registering it again
    /// does not undo it. Returns the instance as it is then.
    fn drain<'a>(&'a self, instance: &'a InstanceKey, note: &'a str) -> BoxFuture<'a, Result<InstanceDocument>>;

    /// Ends a drain; where there is none, nothing is changed. Returns the instance as it is then.
    fn undrain<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>>;

    /// Reports to a TTL check, which has to happen more often than its `ttlSeconds`. Returns the instance as it is then.
    fn report_check<'a>(
        &'a self,
        instance: &'a InstanceKey,
        check: &'a str,
        health: &'a HealthDocument,
    ) -> BoxFuture<'a, Result<InstanceDocument>>;

    /// The latest changes of an instance's health, as far as the replica that is asked has seen them.
    fn history<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<HistoryDocument>>;

    /// Applies up to 100 operations, all or none of them, at one position.
    fn batch<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>>;

    /// Applies up to 10,000 operations in their order, each with its own outcome.
    fn bulk<'a>(&'a self, source: &'a Source, operations: Vec<Operation>) -> BoxFuture<'a, Result<BatchReply>>;

    /// A namespace as readers see it.
    fn get_namespace<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<NamespaceDocument>>;

    /// A service, merged from its declarations.
    fn get_service<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<ServiceDocument>>;

    /// A service's declarations, highest rank first.
    fn get_declarations<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<ListDocument<ServiceDocument>>>;

    /// A source's instance.
    fn get_instance<'a>(&'a self, instance: &'a InstanceKey) -> BoxFuture<'a, Result<InstanceDocument>>;

    /// A page of the namespaces. For all pages: [`all_namespaces`](crate::all_namespaces).
    fn list_namespaces(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<NamespaceDocument>>>;

    /// A page of the services, merged. For all pages: [`all_services`](crate::all_services).
    fn list_services(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<ServiceDocument>>>;

    /// A page of the instances. For all pages: [`all_instances`](crate::all_instances).
    fn list_instances(&self, request: ListRequest) -> BoxFuture<'_, Result<ListDocument<InstanceDocument>>>;

    /// Begins a session of the source, on which its instances may hang (`session` in their documents). It lives while it
    /// is renewed; a [`Keeper`](crate::Keeper) does that.
    fn create_session<'a>(
        &'a self,
        source: &'a Source,
        session: &'a NewSession,
    ) -> BoxFuture<'a, Result<SessionDocument>>;

    /// Renews sessions, 1 to 1000, and says what became of each, in the order asked. It costs the registry no write.
    fn renew_sessions<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<Vec<Renewal>>>;

    /// A page of the sessions.
    fn list_sessions(&self, request: SessionRequest) -> BoxFuture<'_, Result<SessionListDocument>>;

    /// A session.
    fn get_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SessionDocument>>;

    /// Ends a session: its instances leave at once. [`NotFound`](crate::Error::NotFound) where there is none.
    fn end_session<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SessionEndedDocument>>;

    /// Follows the objects that match; see [`WatchEvent`] for the order of things.
    ///
    /// An error that [is transient](crate::Error::is_transient) does not end the stream: who polls on, tries again,
    /// after a wait that grows. After any other error the stream ends.
    ///
    /// ```no_run
    /// # use fingerpost_client::{Registry, WatchEvent, WatchRequest, catalog::Kind};
    /// # use futures_util::StreamExt;
    /// # async fn example() -> fingerpost_client::Result<()> {
    /// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
    /// let mut events = registry.watch(WatchRequest::new(Some(Kind::Service)));
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Ok(WatchEvent::Put { object, .. }) => println!("{object:?}"),
    ///         Ok(WatchEvent::Synced(position)) => println!("that was all, at {position}"),
    ///         Ok(_) => {}
    ///         Err(error) if error.is_transient() => eprintln!("{error}; going on"),
    ///         Err(error) => return Err(error),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchEvent>>;
}
