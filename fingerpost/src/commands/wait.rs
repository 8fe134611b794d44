//! `--wait`: a command that writes ends once what it wrote is visible everywhere, or says who is late.

use super::Context;
use crate::cli::WaitArgs;
use crate::output::Output;
use fingerpost_catalog::document::{FollowerDocument, VisibilityDocument};
use fingerpost_client::{HttpRegistry, Result};

/// It was written, but is not visible everywhere in time. The command ends with 2: what it was to do is done.
#[derive(Debug)]
pub(crate) struct NotVisible;

impl std::fmt::Display for NotVisible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it was written, but not everybody shows it in time")
    }
}

impl std::error::Error for NotVisible {}

/// What became visible, to be told once the command has said what it wrote.
#[must_use]
pub(super) struct Seen(Option<VisibilityDocument>);

/// Writes, and waits where that is asked for.
pub(super) async fn write<T>(
    context: &Context,
    wait: WaitArgs,
    write: impl AsyncFnOnce(HttpRegistry) -> Result<T>,
) -> Result<(T, Seen)> {
    let registry = &context.registry;
    match wait.wait {
        None => Ok((write(registry.clone()).await?, Seen(None))),
        Some(within) => {
            let (value, seen) = registry.visibly(within.0, write).await?;
            Ok((value, Seen(Some(seen))))
        }
    }
}

impl Seen {
    /// Says who is late; an error where anybody is.
    pub(super) fn tell(self, output: &Output) -> anyhow::Result<()> {
        let Some(seen) = self.0 else { return Ok(()) };
        for follower in &seen.departed {
            output.note(&format!("nobody waits for {}: silent for {:.0} s", named(follower), silent(follower)));
        }
        for follower in &seen.lagging {
            output.note(&format!("{} does not show it yet{}", named(follower), why(follower)));
        }
        if seen.visible { Ok(()) } else { Err(NotVisible.into()) }
    }
}

fn named(follower: &FollowerDocument) -> String {
    format!("{} {}", follower.kind, follower.id)
}

fn silent(follower: &FollowerDocument) -> f64 {
    follower.silent_seconds.unwrap_or_default()
}

fn why(follower: &FollowerDocument) -> String {
    let behind =
        follower.lag.filter(|&lag| lag > 0).map(|lag| format!("{} behind", super::status::counted(lag, "position")));
    let detail = Some(follower.detail.clone()).filter(|detail| !detail.is_empty());
    match behind.into_iter().chain(detail).collect::<Vec<_>>() {
        none if none.is_empty() => String::new(),
        reasons => format!(" ({})", reasons.join("; ")),
    }
}
