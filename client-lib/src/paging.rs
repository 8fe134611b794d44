//! Lists that are longer than a page.

use crate::request::ListRequest;
use crate::{Registry, Result};
use fingerpost_catalog::document::{InstanceDocument, ListDocument, NamespaceDocument, ServiceDocument};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

/// All namespaces that match, page after page. Each page is read at its own position; where the registry's history
/// breaks in between, the stream ends with [`Gone`](crate::Error::Gone).
pub fn all_namespaces<R: Registry + ?Sized>(
    registry: &R,
    request: ListRequest,
) -> BoxStream<'_, Result<NamespaceDocument>> {
    pages(request, |request| registry.list_namespaces(request))
}

/// All services that match, as [`all_namespaces`].
pub fn all_services<R: Registry + ?Sized>(
    registry: &R,
    request: ListRequest,
) -> BoxStream<'_, Result<ServiceDocument>> {
    pages(request, |request| registry.list_services(request))
}

/// All instances that match, as [`all_namespaces`].
///
/// ```no_run
/// use fingerpost_client::{Filter, all_instances};
/// use futures_util::TryStreamExt;
///
/// # async fn example() -> fingerpost_client::Result<()> {
/// # let registry = fingerpost_client::HttpRegistry::connect("http://127.0.0.1:8053")?;
/// let web = Filter { namespace: Some("prod".into()), service: Some("web".into()), ..Filter::default() };
/// let mut instances = all_instances(&registry, web.into());
/// while let Some(instance) = instances.try_next().await? {
///     println!("{:?}", instance.addresses);
/// }
/// # Ok(())
/// # }
/// ```
pub fn all_instances<R: Registry + ?Sized>(
    registry: &R,
    request: ListRequest,
) -> BoxStream<'_, Result<InstanceDocument>> {
    pages(request, |request| registry.list_instances(request))
}

fn pages<'a, T: Send + 'a>(
    request: ListRequest,
    list: impl Fn(ListRequest) -> BoxFuture<'a, Result<ListDocument<T>>> + Send + Sync + 'a,
) -> BoxStream<'a, Result<T>> {
    stream::try_unfold((Some(request), list), |(request, list)| async move {
        let Some(request) = request else { return Ok(None) };
        let page = list(request.clone()).await?;
        // The next page has a token of its own; waiting for the position again would be a wait for nothing.
        let next =
            page.continue_token.map(|token| ListRequest { continue_token: Some(token), min_revision: None, ..request });
        Ok(Some((stream::iter(page.items.into_iter().map(Ok)), (next, list))))
    })
    .try_flatten()
    .boxed()
}
