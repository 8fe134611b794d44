//! `register` and `deregister`.

use super::Context;
use super::target::{LabelArg, default_id};
use super::wait::write;
use crate::cli::{DeregisterArgs, RegisterArgs};
use anyhow::{Context as _, anyhow, bail};
use fingerpost_catalog::document::{
    DEFAULT_SESSION_GRACE, DEFAULT_SESSION_TTL, InstanceDocument, NewSession, ObjectDocument,
};
use fingerpost_catalog::{InstanceKey, Labels, validate_instance_id};
use fingerpost_client::{
    Error, Filter, Guard, HttpRegistry, KeeperOptions, ListRequest, Operation, Registry, all_instances,
};
use futures_util::TryStreamExt;

/// As many operations as the registry applies at one position.
const BATCH: usize = 100;

pub(super) async fn register(context: &Context, mut args: RegisterArgs) -> anyhow::Result<()> {
    let command = std::mem::take(&mut args.command);
    let stays = args.ttl.is_some() || !command.is_empty();
    if !stays && (args.grace.is_some() || args.session_name.is_some()) {
        bail!("only a registration that is kept has a session: say --ttl, too, or name a command to run");
    }
    let session = NewSession {
        name: args.session_name.take().unwrap_or_default(),
        ttl_seconds: args.ttl.unwrap_or(DEFAULT_SESSION_TTL),
        grace_seconds: args.grace.unwrap_or(DEFAULT_SESSION_GRACE),
    };
    let id = match args.id {
        Some(id) => id,
        None => default_id(&args.addresses, &args.ports).context("name an address, or an id")?,
    };
    valid_id(&id)?;
    let document = InstanceDocument {
        namespace: Some(args.service.namespace.clone()),
        service: Some(args.service.service.clone()),
        id: Some(id.clone()),
        addresses: args.addresses,
        ports: args.ports.into_iter().map(|port| port.0).collect(),
        labels: labels(args.labels)?,
        weight: args.weight,
        zone: args.zone,
        node: args.node,
        hostname: args.hostname,
        health: args.health,
        ..InstanceDocument::default()
    };
    if stays {
        if args.wait.wait.is_some() {
            bail!("--wait is for a registration that is made and done, not for one that is kept");
        }
        let name = if session.name.is_empty() { format!("{}/{id}", args.service) } else { session.name };
        let mut options = KeeperOptions::default();
        options.source = args.source;
        options.session = NewSession { name, ..session };
        return super::session::keep(context, options, document, command).await;
    }
    let put = async |registry: HttpRegistry| registry.put_instance(&args.source, &document, Guard::None).await;
    let (written, seen) =
        write(context, args.wait, put).await.with_context(|| format!("can't register {}/{id}", args.service))?;
    context.output.value(&written.object, || {
        // The same again is no change and has the position of the last one.
        let again = if written.created { "" } else { " again" };
        format!("registered {}/{id}{again} at {}\n", args.service, written.revision)
    })?;
    seen.tell(&context.output)
}

fn valid_id(id: &str) -> anyhow::Result<()> {
    validate_instance_id(id).map_err(|error| anyhow!("id `{id}` {error}"))
}

/// The labels; a key that is given twice is more likely a slip than a wish for the last value.
fn labels(given: Vec<LabelArg>) -> anyhow::Result<Labels> {
    for (n, label) in given.iter().enumerate() {
        if let Some(other) = given[..n].iter().find(|other| other.0 == label.0) {
            bail!("label `{}` has two values, `{}` and `{}`: name one of them", label.0, other.1, label.1);
        }
    }
    Ok(given.into_iter().map(|label| (label.0, label.1)).collect())
}

pub(super) async fn deregister(context: &Context, args: DeregisterArgs) -> anyhow::Result<()> {
    if args.all {
        return deregister_all(context, &args).await;
    }
    let id = match &args.id {
        Some(id) => id.clone(),
        None => only_instance(context, &args).await?,
    };
    valid_id(&id)?;
    let key = InstanceKey {
        namespace: args.service.namespace.as_str().into(),
        service: Some(args.service.service.as_str().into()),
        source: args.source.clone(),
        id: id.as_str().into(),
    };
    let delete = async |registry: HttpRegistry| registry.delete_instance(&key, Guard::None).await;
    let (revision, seen) =
        write(context, args.wait, delete).await.with_context(|| format!("can't deregister {}/{id}", args.service))?;
    let reply = serde_json::json!({ "revision": revision });
    context.output.value(&reply, || format!("deregistered {}/{id} at {revision}\n", args.service))?;
    seen.tell(&context.output)
}

/// The id of the source's one instance of the service.
async fn only_instance(context: &Context, args: &DeregisterArgs) -> anyhow::Result<String> {
    let instances = own_instances(context, args).await?;
    match &instances[..] {
        [InstanceDocument { id: Some(id), .. }] => Ok(id.clone()),
        [] => bail!(
            "source {source} has no instance of {service}; who has: fingerpost get instances {service}",
            source = args.source,
            service = args.service
        ),
        many => {
            let ids: Vec<&str> = many.iter().take(5).filter_map(|instance| instance.id.as_deref()).collect();
            let more = if many.len() > ids.len() { ", …" } else { "" };
            bail!(
                "source {} has {} instances of {}: name one of {}{more}, or say --all",
                args.source,
                many.len(),
                args.service,
                ids.join(", ")
            )
        }
    }
}

async fn own_instances(context: &Context, args: &DeregisterArgs) -> anyhow::Result<Vec<InstanceDocument>> {
    let filter = Filter {
        namespace: Some(args.service.namespace.clone()),
        service: Some(args.service.service.clone()),
        source: Some(args.source.clone()),
        ..Filter::default()
    };
    match all_instances(&context.registry, ListRequest::from(filter)).try_collect().await {
        Ok(instances) => Ok(instances),
        // A service that nobody knows has no instances either.
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("can't list the instances of {}", args.service)),
    }
}

async fn deregister_all(context: &Context, args: &DeregisterArgs) -> anyhow::Result<()> {
    let mut instances = own_instances(context, args).await?;
    let count = instances.len();
    let mut revision = None;
    let mut last = None;
    while !instances.is_empty() {
        let rest = instances.split_off(instances.len().min(BATCH));
        let operations = std::mem::replace(&mut instances, rest)
            .into_iter()
            .map(|instance| {
                Operation::Delete(ObjectDocument::Instance(Box::new(InstanceDocument {
                    namespace: instance.namespace,
                    service: instance.service,
                    id: instance.id,
                    ..InstanceDocument::default()
                })))
            })
            .collect();
        let batch = async |registry: HttpRegistry| registry.batch(&args.source, operations).await;
        let (reply, seen) = write(context, args.wait, batch)
            .await
            .with_context(|| format!("can't deregister all of {}", args.service))?;
        revision = Some(reply.revision);
        last = Some(seen);
    }
    let (namespace, service) = (&args.service.namespace, &args.service.service);
    let delete =
        async |registry: HttpRegistry| registry.delete_service(&args.source, namespace, service, Guard::None).await;
    let declared = match write(context, args.wait, delete).await {
        Ok((position, seen)) => {
            revision = Some(position);
            last = Some(seen);
            true
        }
        Err(Error::NotFound { .. }) => false,
        Err(error) => return Err(error).with_context(|| format!("can't remove the declaration of {}", args.service)),
    };
    let Some(revision) = revision else {
        bail!(
            "source {source} says nothing of {service}; who does: fingerpost get instances {service}",
            source = args.source,
            service = args.service
        );
    };
    let reply = serde_json::json!({ "revision": revision, "instances": count, "declaration": declared });
    context.output.value(&reply, || {
        let declaration = if declared { " and the declaration" } else { "" };
        let instances = super::status::counted(count as u64, "instance");
        format!("deregistered {instances}{declaration} of {} at {revision}\n", args.service)
    })?;
    last.map_or(Ok(()), |seen| seen.tell(&context.output))
}
