//! The settings in a TOML file. They are called as their flags are, and lie side by side whichever part they belong to.

use super::{Settings, answers, dns, forward, names};
use anyhow::Context;
use clap::Args;
use serde::de::DeserializeOwned;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, Deserializer, Error};

/// Reads a file whose settings are those of one command.
pub(super) fn read<T>(
    path: &Path,
    settings: impl FnOnce(Spanned<DeTable<'_>>) -> Result<T, Error>,
) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("can't read the configuration file {}", path.display()))?;
    // toml's own message would quote the whole line, which may hold a password.
    DeTable::parse(&text).and_then(settings).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text.get(..span.start).unwrap_or(&text).matches('\n').count());
        anyhow::anyhow!("in the configuration file {}, line {line}: {}", path.display(), error.message())
    })
}

/// The settings of `serve`.
pub(super) fn serve(mut table: Spanned<DeTable<'_>>) -> Result<Settings, Error> {
    let answers = answers(&mut table)?;
    // What is left belongs here, or is unknown.
    Ok(Settings { answers, ..settings(table)? })
}

/// The settings of `dns`.
pub(super) fn dns(mut table: Spanned<DeTable<'_>>) -> Result<dns::Settings, Error> {
    let answers = answers(&mut table)?;
    Ok(dns::Settings { answers, ..settings(table)? })
}

/// The settings that both have. Those within them first: their flags are among those of the whole.
fn answers(table: &mut Spanned<DeTable<'_>>) -> Result<answers::Settings, Error> {
    let names = part::<names::Settings>(table)?;
    let forwarding = part::<forward::ForwardSettings>(table)?;
    Ok(answers::Settings { names, forwarding, ..part(table)? })
}

/// Takes the settings of one part out of the table.
fn part<T: Args + DeserializeOwned>(table: &mut Spanned<DeTable<'_>>) -> Result<T, Error> {
    let flags = T::augment_args(clap::Command::new("part"));
    let mut own = DeTable::new();
    for name in flags.get_arguments().filter_map(|flag| flag.get_long()) {
        if let Some((key, value)) = table.get_mut().remove_entry(name) {
            own.insert(key, value);
        }
    }
    settings(Spanned::new(table.span(), own))
}

fn settings<T: DeserializeOwned>(table: Spanned<DeTable<'_>>) -> Result<T, Error> {
    T::deserialize(Deserializer::from(table))
}
