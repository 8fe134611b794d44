//! `drain` and `check`: what people and scripts say of an instance's health.

use super::Context;
use super::target::InstanceName;
use super::wait::write;
use crate::cli::{CheckArgs, DrainArgs};
use anyhow::{Context as _, bail};
use fingerpost_catalog::document::HealthDocument;
use fingerpost_catalog::{InstanceKey, Source};
use fingerpost_client::{HttpRegistry, Registry};

/// The instance that is meant: of the source that was named, else of the only one that has an instance of this id.
async fn find(context: &Context, name: &InstanceName, source: Option<&Source>) -> anyhow::Result<InstanceKey> {
    let source = match source {
        Some(source) => source.clone(),
        None => {
            let found = context.registry.find_instances(&name.namespace, name.service.as_deref(), &name.id).await;
            let found = found.with_context(|| format!("can't find {name}"))?.items;
            let sources: Vec<Source> = found.into_iter().filter_map(|instance| instance.source).collect();
            match sources.as_slice() {
                [only] => only.clone(),
                several => {
                    let named: Vec<String> = several.iter().map(|source| format!("`{source}`")).collect();
                    let named = named.join(", ");
                    bail!("several sources have an instance {name}: {named}; say which one is meant with --source")
                }
            }
        }
    };
    Ok(InstanceKey {
        namespace: name.namespace.as_str().into(),
        service: name.service.as_deref().map(Into::into),
        source,
        id: name.id.as_str().into(),
    })
}

pub(super) async fn drain(context: &Context, args: DrainArgs) -> anyhow::Result<()> {
    let name = &args.instance;
    let key = find(context, name, args.source.as_ref()).await?;
    let (instance, seen, text) = if args.undo {
        let undrain = async |registry: HttpRegistry| registry.undrain(&key).await;
        let undrained = write(context, args.wait, undrain).await;
        let (instance, seen) = undrained.with_context(|| format!("can't end the drain of {name}"))?;
        let health = instance.effective_health.unwrap_or_default();
        (instance, seen, format!("{name} is drained no longer; its health is {health}\n"))
    } else {
        let note = args.note.as_deref().unwrap_or_default();
        let drain = async |registry: HttpRegistry| registry.drain(&key, note).await;
        let (instance, seen) = write(context, args.wait, drain).await.with_context(|| format!("can't drain {name}"))?;
        (instance, seen, format!("{name} is drained: listed, but not answered\n"))
    };
    context.output.value(&instance, || text)?;
    seen.tell(&context.output)
}

pub(super) async fn check(context: &Context, args: CheckArgs) -> anyhow::Result<()> {
    let name = &args.instance;
    let key = find(context, name, args.source.as_ref()).await?;
    let report = HealthDocument { health: args.health, note: args.note.unwrap_or_default() };
    let send = async |registry: HttpRegistry| registry.report_check(&key, &args.check, &report).await;
    let reported = write(context, args.wait, send).await;
    let (instance, seen) = reported.with_context(|| format!("can't report to check {} of {name}", args.check))?;
    context.output.value(&instance, || {
        let effective = instance.effective_health.unwrap_or_default();
        format!("reported {} as {}; {name} is {effective}\n", args.check, report.health)
    })?;
    seen.tell(&context.output)
}
