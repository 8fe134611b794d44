//! Reading a whole replica, page by page.

use fingerpost_catalog::{
    InstanceQuery, InstanceView, NamespaceQuery, NamespaceView, Replica, Selector, ServiceQuery, ServiceView,
};
use std::ops::Deref;

/// All namespaces, in pages of so many. `replica` is asked anew for each page, so that nobody has to hold its lock in between.
pub(crate) fn namespaces<R: Deref<Target = Replica>>(
    replica: impl Fn() -> R,
    limit: usize,
) -> impl Iterator<Item = Vec<NamespaceView>> {
    let everything = Selector::default();
    pages(move |after| {
        let page = replica().namespaces(&NamespaceQuery { after, limit, ..NamespaceQuery::new(&everything) });
        (page.items, page.next)
    })
}

/// All services, as [`namespaces`].
pub(crate) fn services<R: Deref<Target = Replica>>(
    replica: impl Fn() -> R,
    limit: usize,
) -> impl Iterator<Item = Vec<ServiceView>> {
    let everything = Selector::default();
    pages(move |after| {
        let page = replica().services(&ServiceQuery { after, limit, ..ServiceQuery::new(&everything) });
        (page.items, page.next)
    })
}

/// All instances, as [`namespaces`].
pub(crate) fn instances<R: Deref<Target = Replica>>(
    replica: impl Fn() -> R,
    limit: usize,
) -> impl Iterator<Item = Vec<InstanceView>> {
    let everything = Selector::default();
    pages(move |after| {
        let page = replica().instances(&InstanceQuery { after, limit, ..InstanceQuery::new(&everything) });
        (page.items, page.next)
    })
}

/// The pages from the first one on, each of which says after what the next one begins.
fn pages<T, K>(read: impl Fn(Option<&K>) -> (Vec<T>, Option<K>)) -> impl Iterator<Item = Vec<T>> {
    let mut after = Some(None);
    std::iter::from_fn(move || {
        let (items, next) = read(after.take()?.as_ref());
        after = next.map(Some);
        Some(items)
    })
}
