//! `get`: lists.

use super::Context;
use super::follow::follow;
use super::rows::{Listed, Tagged, tagged};
use super::target::{InstanceName, ServiceName, namespace_name};
use crate::cli::{GetArgs, KindArg};
use crate::output::Table;
use anyhow::{Context as _, anyhow, bail};
use fingerpost_catalog::document::{InstanceDocument, NamespaceDocument, ServiceDocument};
use fingerpost_client::{Filter, ListRequest, Registry, WatchRequest};
use futures_util::TryStreamExt;
use serde::Serialize;

/// Objects a page: few round trips, and none near the limit of a reply.
const PAGE: u32 = 1000;

pub(super) async fn get(context: &Context, args: GetArgs) -> anyhow::Result<()> {
    let mut filter = Filter {
        namespace: args.namespace.clone(),
        service: None,
        selector: args.selector.clone().unwrap_or_default(),
        health: args.health.clone(),
        source: args.source.clone(),
    };
    if let Some(namespace) = &args.namespace {
        namespace_name(namespace).map_err(|error| anyhow!(error))?;
    }
    if args.kind != KindArg::Instances && !args.health.is_empty() {
        bail!("only instances have a health: leave --health out, or get instances");
    }
    match (args.kind, &args.name) {
        (KindArg::Instances, name) => {
            if let Some(name) = name {
                let name = ServiceName::parse(name, args.namespace.as_deref()).map_err(|error| {
                    match name.matches('/').count() > 1 && InstanceName::parse(name, None).is_ok() {
                        true => {
                            anyhow!("`{name}` names one instance; see it with: fingerpost describe instance {name}")
                        }
                        false => anyhow!(error),
                    }
                })?;
                (filter.namespace, filter.service) = (Some(name.namespace), Some(name.service));
            }
            show::<InstanceDocument>(context, filter, args.watch).await
        }
        (KindArg::Services, None) => show::<ServiceDocument>(context, filter, args.watch).await,
        (KindArg::Namespaces, None) if args.namespace.is_some() => {
            bail!("namespaces are in no namespace: leave -n out, or write `get namespaces NAME`")
        }
        (KindArg::Namespaces, None) => show::<NamespaceDocument>(context, filter, args.watch).await,
        (_, Some(_)) if !filter.selector.is_everything() || filter.source.is_some() => {
            bail!("a name says already which object: leave --selector and --source out")
        }
        (KindArg::Services, Some(name)) => {
            let name = ServiceName::parse(name, args.namespace.as_deref()).map_err(|error| anyhow!(error))?;
            if args.watch {
                let filter = Filter { namespace: Some(name.namespace), service: Some(name.service), ..filter };
                return show::<ServiceDocument>(context, filter, true).await;
            }
            let service = context.registry.get_service(&name.namespace, &name.service).await;
            print_one(context, &service.with_context(|| format!("can't get service {name}"))?)
        }
        (KindArg::Namespaces, Some(name)) => {
            namespace_name(name).map_err(|error| anyhow!(error))?;
            if args.watch {
                let filter = Filter { namespace: Some(name.clone()), ..filter };
                return show::<NamespaceDocument>(context, filter, true).await;
            }
            let namespace = context.registry.get_namespace(name).await;
            print_one(context, &namespace.with_context(|| format!("can't get namespace {name}"))?)
        }
    }
}

async fn show<T: Listed>(context: &Context, filter: Filter, watch: bool) -> anyhow::Result<()> {
    if watch {
        let request = WatchRequest { filter, ..WatchRequest::new(Some(T::KIND)) };
        return follow::<T>(context, request).await;
    }
    let request = ListRequest { limit: Some(PAGE), ..ListRequest::from(filter) };
    let what = super::rows::kind_name(T::KIND);
    let items: Vec<T> =
        T::list(&context.registry, request).try_collect().await.with_context(|| format!("can't list {what}s"))?;
    #[derive(Serialize)]
    struct Items<'a, T> {
        items: Vec<Tagged<'a, T>>,
    }
    let list = Items { items: items.iter().map(tagged).collect() };
    let table = table(&items, context.output.wide());
    if table.is_empty() && matches!(context.output.format, crate::output::Format::Table | crate::output::Format::Wide) {
        // Not on standard output: there, no lines mean no objects.
        context.output.note(&format!("no {what}s"));
        return Ok(());
    }
    context.output.value(&list, || table.render(context.output.colour))
}

fn print_one<T: Listed>(context: &Context, object: &T) -> anyhow::Result<()> {
    let human = || table(std::slice::from_ref(object), context.output.wide()).render(context.output.colour);
    context.output.value(&tagged(object), human)
}

pub(super) fn table<T: Listed>(items: &[T], wide: bool) -> Table {
    let mut table = Table::new(T::headers(wide));
    for item in items {
        table.push(item.row(wide));
    }
    table
}
