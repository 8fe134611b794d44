//! `source`: who declares things, and the removal of what a source left that never comes back.

use super::Context;
use super::status::counted;
use super::wait::write;
use crate::cli::SourceCommand;
use crate::output::{Cell, Style, Table};
use anyhow::Context as _;
use fingerpost_client::HttpRegistry;

pub(super) async fn source(context: &Context, command: SourceCommand) -> anyhow::Result<()> {
    match command {
        SourceCommand::List => {
            let list = context.registry.sources().await.context("can't list the sources")?;
            let mut table =
                Table::new(vec!["SOURCE", "SERVICES", "INSTANCES", "WITHOUT SESSION", "LAST SEEN", "STATE"]);
            for source in &list.items {
                let state = match source.orphaned {
                    true => Cell::styled("orphaned", Style::Bad),
                    false => Cell::new("ok"),
                };
                table.push(vec![
                    Cell::new(source.source.to_string()),
                    Cell::new(source.services.to_string()),
                    Cell::new(source.instances.to_string()),
                    Cell::new(source.sessionless.to_string()),
                    Cell::option(source.last_seen.as_ref()),
                    state,
                ]);
            }
            context.output.value(&list, || table.render(context.output.colour))
        }
        SourceCommand::Remove { source, wait } => {
            let remove = async |registry: HttpRegistry| registry.remove_source(&source).await;
            let (removed, seen) = write(context, wait, remove)
                .await
                .with_context(|| format!("can't remove what source `{source}` declares"))?;
            context.output.value(&removed, || {
                format!(
                    "removed {}, {} and {} of source `{source}`\n",
                    counted(removed.instances, "instance"),
                    counted(removed.services, "service"),
                    counted(removed.namespaces, "namespace")
                )
            })?;
            seen.tell(&context.output)
        }
    }
}
