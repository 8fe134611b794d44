//! What the registry holds of this source, page by page, each record as the digest of what it says.

use crate::index::{CLUSTER, CLUSTER_NAMESPACE, digest};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ObjectDocument, ServiceDocument};
use fingerpost_catalog::{Position, Source};
use fingerpost_client::{Error, Filter, ListRequest, Operation, Registry};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use std::sync::Arc;

/// Objects on a page: the most that a registry gives.
const PAGE: u32 = 1000;

/// A record that the registry has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    /// None where what the source said can't be told from what others said of the same object.
    pub(crate) digest: Option<u64>,
    /// Of which cluster the source's records are, where this record says that.
    pub(crate) cluster: Option<String>,
}

/// Which record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Identity {
    Namespace(String),
    Service(String, String),
    Instance(String, Option<String>, String),
}

/// Which list is read, and from where on.
#[derive(Clone)]
enum Cursor {
    Namespaces(Option<String>),
    Services(Option<String>),
    Instances(Option<String>),
}

/// All that the source has, in pages, as of `since` or later. After an error there is nothing more.
pub(crate) fn read(
    registry: Arc<dyn Registry>,
    source: Source,
    since: Option<Position>,
) -> BoxStream<'static, Result<Vec<Found>, Error>> {
    let begin = Some(Cursor::Namespaces(None));
    stream::try_unfold((registry, source, begin), move |(registry, source, cursor)| async move {
        let Some(cursor) = cursor else { return Ok(None) };
        let (page, next) = read_page(&*registry, &source, cursor, since).await?;
        Ok(Some((page, (registry, source, next))))
    })
    .boxed()
}

/// A position at or after all that was written before this call, by whomever: a replica of the registry may be behind, and
/// what it shows of itself is no answer. So something is written, the removal of what no cluster can have.
pub(crate) async fn catch_up(registry: &dyn Registry, source: &Source) -> Result<Position, Error> {
    let nothing = InstanceDocument {
        namespace: Some("kube-system".to_owned()),
        // Neither a pod's name nor an address.
        id: Some("_nothing".to_owned()),
        ..InstanceDocument::default()
    };
    let nothing = Operation::Delete(ObjectDocument::Instance(Box::new(nothing)));
    Ok(registry.batch(source, vec![nothing]).await?.revision)
}

async fn read_page(
    registry: &dyn Registry,
    source: &Source,
    cursor: Cursor,
    since: Option<Position>,
) -> Result<(Vec<Found>, Option<Cursor>), Error> {
    let request = |continue_token: Option<String>| ListRequest {
        limit: Some(PAGE),
        // Where a list goes on, it is from what the first page was.
        min_revision: since.filter(|_| continue_token.is_none()),
        continue_token,
        ..ListRequest::from(Filter { source: Some(source.clone()), ..Filter::default() })
    };
    Ok(match cursor {
        Cursor::Namespaces(token) => {
            let list = registry.list_namespaces(request(token)).await?;
            let found = list.items.into_iter().filter_map(|item| namespace(source, item)).collect();
            let next = list.continue_token.map_or(Cursor::Services(None), |token| Cursor::Namespaces(Some(token)));
            (found, Some(next))
        }
        Cursor::Services(token) => {
            let list = registry.list_services(request(token)).await?;
            let mut found = Vec::with_capacity(list.items.len());
            for item in list.items {
                found.extend(service(registry, source, item).await?);
            }
            let next = list.continue_token.map_or(Cursor::Instances(None), |token| Cursor::Services(Some(token)));
            (found, Some(next))
        }
        Cursor::Instances(token) => {
            let list = registry.list_instances(request(token)).await?;
            let found = list.items.into_iter().filter_map(instance).collect();
            (found, list.continue_token.map(|token| Cursor::Instances(Some(token))))
        }
    })
}

fn namespace(source: &Source, item: NamespaceDocument) -> Option<Found> {
    if !item.sources.contains(source) {
        return None;
    }
    let name = item.name.clone()?;
    let cluster = item.labels.get(CLUSTER).filter(|_| name == CLUSTER_NAMESPACE).map(str::to_owned);
    let alone = item.sources.len() == 1;
    let digest = alone.then(|| digest(&ObjectDocument::Namespace(item)));
    Some(Found { identity: Identity::Namespace(name), digest, cluster })
}

/// Lists show merged services. Where others declare this one, too, its own declaration is asked for.
async fn service(registry: &dyn Registry, source: &Source, item: ServiceDocument) -> Result<Option<Found>, Error> {
    if !item.sources.contains(source) {
        return Ok(None);
    }
    let (Some(namespace), Some(name)) = (item.namespace.clone(), item.name.clone()) else { return Ok(None) };
    let own = match item.sources.len() {
        1 => Some(item),
        _ => match registry.get_declarations(&namespace, &name).await {
            Ok(declarations) => declarations.items.into_iter().find(|item| item.source.as_ref() == Some(source)),
            // Gone meanwhile.
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        },
    };
    let digest = own.map(|own| digest(&ObjectDocument::Service(own)));
    Ok(Some(Found { identity: Identity::Service(namespace, name), digest, cluster: None }))
}

fn instance(item: InstanceDocument) -> Option<Found> {
    let identity = Identity::Instance(item.namespace.clone()?, item.service.clone(), item.id.clone()?);
    Some(Found { identity, digest: Some(digest(&ObjectDocument::Instance(Box::new(item)))), cluster: None })
}
